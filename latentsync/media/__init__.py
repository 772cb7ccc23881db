"""Video and audio in and out, streaming: probe, frames with their times, sound, one encode."""
