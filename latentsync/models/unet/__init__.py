"""The audio-conditioned 3D U-Net: its configuration, blocks, motion modules and checkpoints."""
