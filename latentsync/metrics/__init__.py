"""Reported numbers: features of what is scored, and a pure formula."""
