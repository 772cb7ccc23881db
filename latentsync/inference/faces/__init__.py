"""Pass 1: face tracks of a video, grouping into people, selection of one person, and the plan of the frames to edit."""
