"""Training distances: formulas from tensors to one number a sample."""
