"""Reported numbers: features of a video, and a formula without parameters."""
