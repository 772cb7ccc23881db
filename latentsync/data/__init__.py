"""From clip files to training batches."""
