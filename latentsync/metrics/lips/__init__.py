"""Lips of a result: opening, landmarks, leakage of the old lips, jitter and seams."""
