"""Training: one loop for every model, a step function per model."""
