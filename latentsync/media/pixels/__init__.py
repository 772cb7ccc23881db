"""One stored picture: its pixel format, colours, fields and orientation, and conversions to RGB and back."""
