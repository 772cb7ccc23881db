"""What the lips of a result do: opening, landmarks, leakage of the old lips, steadiness."""
