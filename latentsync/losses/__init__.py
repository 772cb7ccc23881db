"""Losses: formulas without trainable parameters, and how a training uses them on decoded pixels (`table.py`)."""
