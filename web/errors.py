"""Errors that a visitor of the page is told, as one sentence with the way out."""


class WebError(ValueError):
    """Something that a visitor can mend."""


class CancelledError(Exception):
    """Raised inside a run when its owner cancelled it."""
