"""Training and distilling the U-Net: data, step, pixel-space losses, validation."""
