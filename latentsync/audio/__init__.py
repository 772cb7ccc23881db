"""Waveform to features: the SyncNet mel spectrogram, Whisper hidden states and the windows around a frame."""
