"""Audio-visual sync: SyncNet scores, offsets and accuracy."""
