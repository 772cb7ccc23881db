"""Training of the demo's auto-encoder, small decoder and speech encoder."""
