"""From a video and another sound to the video with new lips: timeline, face track, windows, pipeline."""
