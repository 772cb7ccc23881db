"""From a frame to the points of its faces: detectors, and following faces from frame to frame."""
