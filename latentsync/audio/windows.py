"""Windows of audio feature rows around video frames.

s feature rows (50 a second), d hidden states per row, w width of a hidden state, f video frames.
"""

from collections.abc import Sequence
from fractions import Fraction

import torch
from einops import rearrange
from torch import Tensor

from latentsync.timebase import MODEL_FPS, SAMPLE_RATE_HZ, frames_in, whisper_centre_row

CONTEXT = (2, 2)  # video frames of audio before and after a frame, as the checkpoints were trained


def frames_of_audio(num_samples: int, fps: float | Fraction = MODEL_FPS) -> int:
    """Number of video frames that `num_samples` of 16 kHz audio last, to the nearest frame."""
    return frames_in(Fraction(num_samples, SAMPLE_RATE_HZ), fps)


def window_rows(
    frames: Sequence[int], num_rows: int, fps: float = MODEL_FPS, context: tuple[int, int] = CONTEXT
) -> Tensor:
    """Feature rows heard around each frame: indices [f, 2 * (left + right + 1)] clamped to [0, num_rows - 1].

    With `context` (2, 2) a frame hears rows centre - 4 ... centre + 5, which is not symmetric; the first or the last
    row is repeated where the window reaches over an end.
    """
    left, right = context
    centres = torch.tensor([whisper_centre_row(frame, fps) for frame in frames], dtype=torch.long)
    offsets = torch.arange(-2 * left, 2 * (right + 1))
    return (centres[:, None] + offsets).clamp(0, num_rows - 1)


def audio_windows(
    features: Tensor, frames: Sequence[int], fps: float = MODEL_FPS, context: tuple[int, int] = CONTEXT
) -> Tensor:
    """Audio around each frame, as the U-Net's cross-attention reads it.

    Args:
        features: [s, d, w] rows at 50 Hz from time 0, at least one.
        frames: indices of video frames at `fps` (a range or a list); any index is defined, ends are clamped.
        fps: frames a second of the video.
        context: frames of audio before and after.

    Returns:
        [f, rows * d, w], rows = 2 * (left + right + 1) = 10 by default; all hidden states of a row stand together.

    Raises:
        ValueError: there is no feature row.
    """
    if len(features) == 0:
        raise ValueError("audio windows need at least one feature row; the audio is shorter than 20 ms")
    rows = window_rows(frames, len(features), fps, context).to(features.device)
    return rearrange(features[rows], "f r d w -> f (r d) w")


def training_windows(features: Tensor, start_frame: int, num_frames: int) -> Tensor:
    """Audio windows [f, 10 * d, w] of a training clip: `num_frames` frames at 25 fps from `start_frame`."""
    return audio_windows(features, range(start_frame, start_frame + num_frames))
