"""Loss formulas without trainable parameters: from tensors to one number per sample."""
