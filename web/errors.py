"""Errors that are shown to users."""


class WebError(ValueError):
    """An error that the user can fix; its message is one sentence with the remedy."""


class CancelledError(Exception):
    """Raised inside a job that its owner cancelled."""
