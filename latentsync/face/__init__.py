"""Faces: points, alignment to the network's square, masks, and pasting a face back into its frame."""
