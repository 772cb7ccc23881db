"""Windows of audio feature rows around video frames.

s feature rows (50 a second), d hidden states per row, w width of a hidden state, f video frames.
"""

from collections.abc import Sequence

import torch
from einops import rearrange
from torch import Tensor

from latentsync.timebase import MODEL_FPS, whisper_centre_row

CONTEXT = (2, 2)  # video frames of audio before and after a frame, as the checkpoints were trained


def window_rows(
    frames: Sequence[int], num_rows: int, fps: float = MODEL_FPS, context: tuple[int, int] = CONTEXT
) -> Tensor:
    """Indices of the feature rows around each frame: [f, 2 * (left + right + 1)], clamped to [0, num_rows - 1].

    With `context` (2, 2) the window of a frame is rows centre - 4 ... centre + 5, which is not symmetric; the first or the
    last row is repeated where a window extends beyond the audio.
    """
    left, right = context
    centres = torch.tensor([whisper_centre_row(frame, fps) for frame in frames], dtype=torch.long)
    offsets = torch.arange(-2 * left, 2 * (right + 1))
    return (centres[:, None] + offsets).clamp(0, num_rows - 1)


def audio_windows(
    features: Tensor, frames: Sequence[int], fps: float = MODEL_FPS, context: tuple[int, int] = CONTEXT
) -> Tensor:
    """Audio features around each frame, the input of the U-Net's cross-attention.

    Args:
        features: [s, d, w] feature rows at 50 Hz from time 0, at least one.
        frames: indices of video frames at `fps`; indices beyond the ends of the audio are allowed (rows are clamped).
        fps: frame rate of the video.
        context: frames of audio before and after.

    Returns:
        [f, rows * d, w], rows = 2 * (left + right + 1) = 10 by default; the hidden states of a row are adjacent.

    Raises:
        ValueError: `features` has no row.
    """
    if len(features) == 0:
        raise ValueError("audio windows need at least one feature row; the audio is shorter than 20 ms")
    rows = window_rows(frames, len(features), fps, context).to(features.device)
    return rearrange(features[rows], "f r d w -> f (r d) w")


def training_windows(features: Tensor, start_frame: int, num_frames: int) -> Tensor:
    """Audio windows [f, 10 * d, w] of a training clip: `num_frames` frames at 25 fps from `start_frame`."""
    return audio_windows(features, range(start_frame, start_frame + num_frames))
