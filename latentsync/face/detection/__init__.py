"""Face detectors and face tracking from frame to frame, scene cuts, head pose and mouth opening."""
