"""Data processing: raw videos to training clips, stage by stage, on one machine or a cluster."""
