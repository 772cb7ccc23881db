"""Training and distilling the U-Net: data, step, losses on pixels, validation."""
