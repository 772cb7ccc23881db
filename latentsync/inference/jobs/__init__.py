"""One video file to another: timeline, segments, the folder that lets a job resume, and the report."""
