"""The aligned face of a picture, and a picture with a new face: no more of it becomes RGB than that takes."""

import torch

from latentsync.face.align import FloatArray, FrameArray, crop_size, invert_matrix, sampled_region, warp_face
from latentsync.face.paste import Patch
from latentsync.media.picture import Picture


def face_of(picture: Picture, matrix: FloatArray, resolution: int) -> FrameArray:
    """The aligned face, uint8 r r 3, along a matrix [2, 3] of `align_matrix`, rescaled to the picture's pixels."""
    part = sampled_region(invert_matrix(matrix), crop_size(resolution), picture.height_width)
    return warp_face(picture.rgb_part(part), matrix, resolution)


def with_face(
    picture: Picture, face: torch.Tensor, original: torch.Tensor, matrix: FloatArray, opacity: float
) -> Picture:
    """The picture with `face` [3, r, r] pasted where `original` was, see `paste_face`; all other pixels stay as they are stored."""
    patch = Patch.of(picture.height_width, face, matrix, original)
    if patch is None or opacity == 0:
        return picture
    return picture.edited(patch.region, lambda frame: patch.blend_into(frame, opacity))
