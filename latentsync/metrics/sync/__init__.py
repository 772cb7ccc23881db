"""Whether lips fit the audio: SyncNet scores, offsets and accuracy."""
