"""Image quality: compared with the true frames, compared as sets, and without a reference."""
