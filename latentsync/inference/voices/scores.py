"""How well the lips of each person fit the sound of the video, over time.

Legend: n frames at 25 fps, p people, f frames of a window of the network, r px of an aligned face.
"""

from collections.abc import Callable, Iterator, Sequence
from fractions import Fraction

import numpy as np
import torch
from numpy.typing import NDArray

from latentsync.face.align import FrameArray, warp_face
from latentsync.inference.faces.plan import FacePlan
from latentsync.inference.voices.decision import Scores
from latentsync.inference.voices.network import VoiceNetwork
from latentsync.metrics.sync.stable import LipWindows
from latentsync.timebase import MODEL_FPS, frames_in


def frames_at_model_rate(times: Sequence[Fraction]) -> NDArray[np.int64]:
    """The source frame that is shown in the middle of each frame at 25 fps, int [n]; `times` of the source as in `Source`."""
    shown = np.array([float(time) for time in times])
    middles = (np.arange(max(1, frames_in(float(shown[-1])))) + 0.5) / MODEL_FPS
    return np.clip(np.searchsorted(shown[:-1], middles, side="right") - 1, 0, len(shown) - 2)


def voice_scores(
    network: VoiceNetwork,
    frames: Iterator[FrameArray],
    plans: Sequence[FacePlan],
    order: NDArray[np.int64],
    waveform: NDArray[np.float32],
    resolution: int,
    on_frame: Callable[[int], None] = lambda done: None,
) -> Scores:
    """Similarity of lips and sound [p, n] in [0, 1] around each frame at 25 fps; NaN where a face is not seen.

    `frames`: all frames of the source, read once. `plans`: where each person's face is, for faces of `resolution` px. `order` [n]:
    the source frame of each frame at 25 fps, see `frames_at_model_rate`. `waveform`: float32 at 16 kHz, from the first frame on.
    """
    windows = [LipWindows(network.net, network.resolution, network.num_frames) for _ in plans]
    repeats = np.bincount(order, minlength=len(plans[0]) if plans else 0)
    for index, frame in enumerate(frames):
        for plan, own in zip(plans, windows, strict=True):
            if repeats[index]:
                matrix = plan.matrices[index]
                face = warp_face(frame, matrix, resolution) if np.isfinite(matrix).all() else None
                for _ in range(int(repeats[index])):
                    own.add(face)
        on_frame(index + 1)
    sound = network.sound(np.pad(waveform, (0, MODEL_FPS)))
    similar = [_similarity(own.embeddings(), sound) for own in windows]
    return np.stack([around_frames(each, len(order), network.num_frames) for each in similar])


def _similarity(lips: torch.Tensor, sound: torch.Tensor) -> Scores:
    """Similarities [windows] of embeddings [windows, D]; NaN without a face."""
    count = min(len(lips), len(sound))
    return np.asarray((lips[:count] * sound[:count]).sum(-1).numpy(), np.float32)


def around_frames(similar: Scores, count: int, window: int) -> Scores:
    """The similarity of the window around each frame, [n]; where it is unknown, that of the nearest one that contains the frame.

    `similar` [windows] belongs to windows of `window` frames, the first of which starts at frame 0.
    """
    known = np.flatnonzero(~np.isnan(similar))
    if not len(known):
        return np.full(count, np.nan, np.float32)
    wanted = np.arange(count) - window // 2
    after = np.clip(np.searchsorted(known, wanted), 0, len(known) - 1)
    before = np.maximum(after - 1, 0)
    nearest = np.where(np.abs(known[before] - wanted) < np.abs(known[after] - wanted), known[before], known[after])
    contains = (nearest <= np.arange(count)) & (np.arange(count) < nearest + window)
    return np.where(contains, similar[nearest], np.float32(np.nan)).astype(np.float32)
