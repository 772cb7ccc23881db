"""Sync offset and confidence from SyncNet embeddings (Chung & Zisserman 2016, Out of Time).

Sign, in the whole project: an offset is a number of frames at 25 fps, and > 0 means that the audio is EARLY. This is the
sign of SyncNet v2's published "AV offset", and of every `offset_frames` in a JSON row, a manifest or a log. To repair a
clip, delay its audio by the offset. Only `offset_of_shift` converts a shift between windows to an offset.

Tensor legend: n windows (window i starts at video frame i), d features, k shifts -max_shift ... max_shift.

The published evaluation compares windows at the ends with zeros, omits the last window, and takes the mean over tracks,
rounded towards zero, so that one wrong track moves the result. `published=True` reproduces this; the default does not.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from statistics import mean, median
from typing import TypeVar

import numpy as np
import torch
import torch.nn.functional as F
from einops import rearrange
from numpy.typing import NDArray
from torch import Tensor

from latentsync.audio.mfcc import EXPERT, mfcc
from latentsync.metrics.sync.accuracy import similarity
from latentsync.models.syncnet_v2 import EMBEDDING, WINDOW_CEPSTRA, WINDOW_FRAMES, SyncNetV2
from latentsync.timebase import samples_of_frames

Sample = TypeVar("Sample", bound=np.generic)
MAX_SHIFT = 15
CEPSTRA_PER_FRAME = samples_of_frames(1) // EXPERT.hop  # 4


@dataclass(frozen=True)
class SyncOffset:
    """The offset with the smallest mean distance between lips and audio.

    `offset_frames` > 0: the audio is early. `confidence` is the median distance over all shifts minus the smallest one:
    about 0 for unrelated audio; the public data preparation keeps clips of 3 and more.
    """

    offset_frames: int
    confidence: float
    min_distance: float
    mean_distances: Tensor  # [k]


def offset_of_shift(shift: int) -> int:
    """Offset in frames if window i of the lips fits window i + `shift` of the audio; > 0: the audio is early."""
    return -shift


def delayed(waveform: NDArray[Sample], frames: int) -> NDArray[Sample]:
    """Audio [n] that starts `frames` video frames later (below 0: earlier), padded with zeros to the same length."""
    shift = min(samples_of_frames(abs(frames)), len(waveform))
    silence = np.zeros(shift, waveform.dtype)
    return np.concatenate([silence, waveform[: len(waveform) - shift]] if frames > 0 else [waveform[shift:], silence])


def offset_in_words(offset_frames: float) -> str:
    """The offset as text: "3 frames early", "1 frame late", "in sync"."""
    if offset_frames == 0:
        return "in sync"
    count = abs(offset_frames)
    return f"{count:g} frame{'' if count == 1 else 's'} {'early' if offset_frames > 0 else 'late'}"


def shift_distances(lips: Tensor, sound: Tensor, max_shift: int = MAX_SHIFT, published: bool = False) -> Tensor:
    """Euclidean distances [n, k] between windows of lips [n, d] and of audio [n, d].

    Entry [i, k] compares window i of the lips with window i + k - max_shift of the audio. It is NaN where the audio has no
    such window; `published` compares with zeros there.

    Raises:
        ValueError: there are no windows, or lips and sound differ in shape.
    """
    if lips.ndim != 2 or lips.shape != sound.shape or len(lips) == 0:
        raise ValueError(
            f"lips and sound need embeddings of the same shape [n, d], n > 0; got {list(lips.shape)} and {list(sound.shape)}"
        )
    count, shifts = len(lips), 2 * max_shift + 1
    padded = F.pad(sound, (0, 0, max_shift, max_shift), value=0.0 if published else torch.nan)
    # pairwise_distance adds 1e-6 to every difference, as the published evaluation does
    return torch.stack([F.pairwise_distance(lips, padded[k : k + count], eps=1e-6) for k in range(shifts)], dim=1)


def find_sync_offset(distances: Tensor) -> SyncOffset:
    """Offset and confidence from the distances [n, k] of `shift_distances`; NaN entries are ignored."""
    means = distances.nanmean(dim=0)  # [k]; NaN where the clip is shorter than the shift
    best = int(means.nan_to_num(nan=torch.inf).argmin())
    smallest = float(means[best])
    return SyncOffset(
        offset_frames=offset_of_shift(best - len(means) // 2),
        confidence=float(means.nanmedian()) - smallest,
        min_distance=smallest,
        mean_distances=means,
    )


def most_similar_offset(lips: Tensor, sound: Tensor, max_offset: int = 10) -> int:
    """Offset in frames, > 0: the audio is early, with the largest mean similarity of unit-length lips and audio [n, D]."""
    shifts = range(-max_offset, max_offset + 1)
    means = torch.stack([_mean_similarity(lips, sound, shift) for shift in shifts])
    return offset_of_shift(shifts[int(means.argmax())])


def _mean_similarity(lips: Tensor, sound: Tensor, shift: int) -> Tensor:
    """Mean similarity of windows i of the lips and i + shift of the audio; 0 where there are none."""
    count = len(lips)
    first, last = max(0, -shift), min(count, count - shift)
    pairs = similarity(lips[first:last], sound[first + shift : last + shift])
    return pairs.mean() if len(pairs) else torch.tensor(0.0)


def combine_tracks(tracks: Sequence[SyncOffset], published: bool = False) -> tuple[int, float]:
    """(offset in frames, confidence) of a video: the medians over its face tracks, the offset to the nearest frame.

    If `published`, the means, with the offset rounded towards zero.

    Raises:
        ValueError: there is no track.
    """
    if not tracks:
        raise ValueError(
            "A video without a face track has no sync offset: check that a face is visible for at least a second."
        )
    middle = mean if published else median
    offset = middle([track.offset_frames for track in tracks])
    return int(offset) if published else round(offset), float(middle([track.confidence for track in tracks]))


def count_windows(num_frames: int, num_samples: int, published: bool = False) -> int:
    """Number of windows that both `num_frames` images at 25 fps and `num_samples` of audio at 16 kHz fill; may be 0.

    `published` counts one window fewer than the images and the whole frames of audio allow.
    """
    if published:
        return max(0, min(num_frames, num_samples // samples_of_frames(1)) - WINDOW_FRAMES)
    rows = 1 + max(0, -(-(num_samples - EXPERT.window) // EXPERT.hop)) if num_samples else 0
    of_sound = (rows - WINDOW_CEPSTRA) // CEPSTRA_PER_FRAME + 1
    return max(0, min(num_frames - WINDOW_FRAMES + 1, of_sound))


@torch.no_grad()
def embed_track(
    net: SyncNetV2,
    faces: Iterable[NDArray[np.uint8]],
    num_faces: int,
    samples: NDArray[np.generic],
    published: bool = False,
    batch_size: int = 20,
) -> tuple[Tensor, Tensor]:
    """Embeddings (lips, audio), [n, 1024] each, of one face track and its audio; n is 0 for less than one window (0.2 s).

    Args:
        net: SyncNet v2 in evaluation mode.
        faces: crops of consecutive frames at 25 fps, uint8 RGB [224, 224, 3].
        num_faces: how many crops there are.
        samples: mono at 16 kHz from the first frame on, on the scale of 16-bit integers.
        published: count the windows as the published evaluation does.
        batch_size: windows per forward pass; it changes the values by rounding alone.
    """
    count = count_windows(num_faces, len(samples), published)
    if count == 0:
        return torch.zeros(0, EMBEDDING), torch.zeros(0, EMBEDDING)
    parameter = next(net.parameters())
    cepstra = torch.from_numpy(mfcc(samples).T).to(parameter)  # [13, rows]
    windows = rearrange(cepstra.unfold(1, WINDOW_CEPSTRA, CEPSTRA_PER_FRAME)[:, :count], "c n t -> n 1 c t")
    batches = _batches_of_faces(islice(faces, count + WINDOW_FRAMES - 1), batch_size)
    lips = [_embed_lips(net, batch, parameter) for batch in batches]
    sound = [net.embed_audio(windows[i : i + batch_size]) for i in range(0, count, batch_size)]
    return torch.cat(lips).float(), torch.cat(sound).float()


def _batches_of_faces(faces: Iterable[NDArray[np.uint8]], batch_size: int) -> Iterator[NDArray[np.uint8]]:
    """Groups of faces [f, h, w, 3] with up to `batch_size` windows each; consecutive groups share all but one frame of a window."""
    held: list[NDArray[np.uint8]] = []
    for face in faces:
        held.append(face)
        if len(held) == batch_size + WINDOW_FRAMES - 1:
            yield np.stack(held)
            held = held[batch_size:]
    if len(held) >= WINDOW_FRAMES:
        yield np.stack(held)


def _embed_lips(net: SyncNetV2, faces: NDArray[np.uint8], like: Tensor) -> Tensor:
    """RGB faces [f, h, w, 3] -> embeddings [f - 4, 1024]; the channels of SyncNet v2 are blue, green, red."""
    frames = rearrange(torch.from_numpy(faces).to(like).flip(-1), "f h w c -> c f h w")
    return net.embed_lip_track(frames)
