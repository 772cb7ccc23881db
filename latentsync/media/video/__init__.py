"""Video tracks: which frames there are, reading, encoding, and joining finished parts without a second encode."""
