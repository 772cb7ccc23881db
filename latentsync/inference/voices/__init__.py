"""Who speaks in a video: the lips of its people against its sound, over time."""
