"""Inference: from a video and an audio track to the video with new lips. Start reading at `pipeline.py`."""
