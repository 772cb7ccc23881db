"""From frames to frames with new lips: windows of aligned faces are encoded, sampled, decoded and pasted back."""
