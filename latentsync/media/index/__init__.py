"""What is read from the packets of a video file without decoding: the frame index with exact times, and HDR metadata."""
