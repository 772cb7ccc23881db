"""What every training shares: loop, batches, state, checkpoints, log, distributed processes."""
