"""Faces: alignment to the square of the network, masks, pasting a face back into its frame, appearance descriptors, detection."""
