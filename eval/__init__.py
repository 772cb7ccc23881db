"""Commands that evaluate finished videos and checkpoints."""
