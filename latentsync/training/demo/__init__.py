"""Training the demo's own auto-encoder, small decoder and speech encoder."""
