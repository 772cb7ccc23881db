"""Pass 1: which faces a video shows, who they are, whose is edited, and where it is in each frame."""
