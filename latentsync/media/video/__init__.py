"""Video tracks: the index of frames, reading, encoding, and joining finished parts without a second encode."""
