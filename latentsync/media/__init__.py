"""Reading and writing video, still images and audio as streams: probing, frames with their times, audio, encoding."""
