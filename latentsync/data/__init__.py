"""Clip files, cached features and training batches."""
