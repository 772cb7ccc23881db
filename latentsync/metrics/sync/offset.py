"""Offset and confidence of lip sync as the expert SyncNet v2 judges it (Chung & Zisserman 2016, Out of Time).

Tensor legend: n windows (window i starts at video frame i), d features, k shifts -max_shift ... max_shift.

Where the published evaluation has a flaw, the better rule is the default and `published=True` gives the published
numbers: it compares windows at the ends with zeros as if these were sound, leaves out the last window, and averages
tracks, one wrong of which moves the result, with mean offsets rounded towards zero.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from statistics import mean, median

import numpy as np
import torch
import torch.nn.functional as F
from einops import rearrange
from numpy.typing import NDArray
from torch import Tensor

from latentsync.audio.mfcc import EXPERT, mfcc
from latentsync.models.syncnet_v2 import EMBEDDING, WINDOW_CEPSTRA, WINDOW_FRAMES, SyncNetV2
from latentsync.timebase import samples_of_frames

MAX_SHIFT = 15
CEPSTRA_PER_FRAME = samples_of_frames(1) // EXPERT.hop  # 4
SMOOTHING = 9  # windows over which the framewise confidence is median filtered


@dataclass(frozen=True)
class SyncOffset:
    """The shift at which lips and sound fit best.

    `offset_frames` > 0: the sound is early by that many video frames. `confidence`: how much smaller the distance at that
    shift is than at a middling one; about 0 for unrelated sound, from 3 on the public data preparation keeps a clip.
    """

    offset_frames: int
    confidence: float
    min_distance: float
    mean_distances: Tensor  # [k]


def shift_distances(lips: Tensor, sound: Tensor, max_shift: int = MAX_SHIFT, published: bool = False) -> Tensor:
    """Euclidean distances [n, k] between lips [n, d] and sound [n, d]: entry [i, k] is of windows i and i + k - max_shift.

    Where there is no such window of sound, the entry is NaN; as published, a sound of zeros takes its place.

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
    """Offset and confidence from the distances [n, k] of `shift_distances`; NaN entries do not take part."""
    means = distances.nanmean(dim=0)  # [k]; NaN where the clip is shorter than the shift
    best = int(means.nan_to_num(nan=torch.inf).argmin())
    smallest = float(means[best])
    return SyncOffset(
        offset_frames=len(means) // 2 - best,
        confidence=float(means.nanmedian()) - smallest,
        min_distance=smallest,
        mean_distances=means,
    )


def framewise_confidence(distances: Tensor) -> Tensor:
    """Confidence of each window [n] from distances [n, k]: median over shifts of the means, minus the window's distance.

    The distance is the one at the clip's best shift; the series is median filtered with zeros beyond its ends. NaN near
    windows that have no sound at that shift.
    """
    means = distances.nanmean(dim=0)
    best = int(means.nan_to_num(nan=torch.inf).argmin())
    series = means.nanmedian() - distances[:, best]
    return F.pad(series, (SMOOTHING // 2, SMOOTHING // 2)).unfold(0, SMOOTHING, 1).median(dim=1).values


def combine_tracks(tracks: Sequence[SyncOffset], published: bool = False) -> tuple[int, float]:
    """(offset in frames, confidence) of a video from those of its face tracks: medians, the offset to the nearest frame.

    As published they are means, the offset rounded towards zero.

    Raises:
        ValueError: there is no track.
    """
    if not tracks:
        raise ValueError("A video without a face track has no sync offset: check that a face is visible long enough.")
    middle = mean if published else median
    offset = middle([track.offset_frames for track in tracks])
    return int(offset) if published else round(offset), float(middle([track.confidence for track in tracks]))


def count_windows(num_frames: int, num_samples: int, published: bool = False) -> int:
    """Number of windows that `num_frames` images at 25 fps and `num_samples` of sound at 16 kHz both fill; may be 0.

    As published, one fewer than the images and the whole frames of sound would allow.
    """
    if published:
        return max(0, min(num_frames, num_samples // samples_of_frames(1)) - WINDOW_FRAMES)
    rows = 1 + max(0, -(-(num_samples - EXPERT.window) // EXPERT.hop)) if num_samples else 0
    of_sound = (rows - WINDOW_CEPSTRA) // CEPSTRA_PER_FRAME + 1
    return max(0, min(num_frames - WINDOW_FRAMES + 1, of_sound))


def embed_face_track(
    net: SyncNetV2,
    faces: NDArray[np.uint8],
    samples: NDArray[np.generic],
    published: bool = False,
    batch_size: int = 20,
) -> tuple[Tensor, Tensor]:
    """Embeddings (lips, sound), [n, 1024] each, of one face track and its sound; the batch size changes only rounding.

    Args:
        net: the expert in evaluation mode.
        faces: crops of consecutive frames at 25 fps, uint8 RGB [t, 224, 224, 3].
        samples: mono at 16 kHz from the first frame on, on the scale of 16-bit integers.
        published: count the windows as the published evaluation does.

    Raises:
        ValueError: pictures or sound are shorter than one window (0.2 s).
    """
    if count_windows(len(faces), len(samples), published) == 0:
        raise ValueError(
            f"Sync confidence needs 0.2 s of pictures and sound at least; got {len(faces)} frames and {len(samples)} samples."
        )
    return embed_track(net, faces, len(faces), samples, published, batch_size)


@torch.no_grad()
def embed_track(
    net: SyncNetV2,
    faces: Iterable[NDArray[np.uint8]],
    num_faces: int,
    samples: NDArray[np.generic],
    published: bool = False,
    batch_size: int = 20,
) -> tuple[Tensor, Tensor]:
    """`embed_face_track` of crops that come one by one, `num_faces` in all; [0, 1024] each for less than one window."""
    count = count_windows(num_faces, len(samples), published)
    if count == 0:
        return torch.zeros(0, EMBEDDING), torch.zeros(0, EMBEDDING)
    parameter = next(net.parameters())
    cepstra = torch.from_numpy(mfcc(samples).T).to(parameter)  # [13, rows]
    windows = rearrange(cepstra.unfold(1, WINDOW_CEPSTRA, CEPSTRA_PER_FRAME)[:, :count], "c n t -> n 1 c t")
    stretches = _stretches(islice(faces, count + WINDOW_FRAMES - 1), batch_size)
    lips = [_embed_lips(net, stretch, parameter) for stretch in stretches]
    sound = [net.embed_audio(windows[i : i + batch_size]) for i in range(0, count, batch_size)]
    return torch.cat(lips).float(), torch.cat(sound).float()


def _stretches(faces: Iterable[NDArray[np.uint8]], batch_size: int) -> Iterator[NDArray[np.uint8]]:
    """Faces in stretches [f, h, w, 3] of up to `batch_size` windows each; neighbours share the frames of a window but one."""
    held: list[NDArray[np.uint8]] = []
    for face in faces:
        held.append(face)
        if len(held) == batch_size + WINDOW_FRAMES - 1:
            yield np.stack(held)
            held = held[batch_size:]
    if len(held) >= WINDOW_FRAMES:
        yield np.stack(held)


def _embed_lips(net: SyncNetV2, faces: NDArray[np.uint8], like: Tensor) -> Tensor:
    """RGB faces [f, h, w, 3] -> embeddings [f - 4, 1024]; the expert sees blue-green-red."""
    frames = rearrange(torch.from_numpy(faces).to(like).flip(-1), "f h w c -> c f h w")
    return net.embed_lip_track(frames)
