"""Audio features: SyncNet mel spectrogram, MFCC, Whisper hidden states and their windows around video frames, speech activity."""
