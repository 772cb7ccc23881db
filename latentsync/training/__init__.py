"""Training: one loop for every model, a step function per model."""

META = "meta"  # PyTorch's device of tensors that have shapes and no values: for a dry run
