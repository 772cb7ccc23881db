"""Training StableSyncNet: data, preflight, step, validation."""
