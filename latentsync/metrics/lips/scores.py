"""Scores of the lips of a result: similarity to the true lips and to those of the source, jitter, seams."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from latentsync.metrics.lips.face_series import FaceSeries
from latentsync.metrics.lips.leakage import paired_correlation
from latentsync.metrics.lips.motion import WINDOW_FRAMES, jitter, seam_jump
from latentsync.metrics.pictures.compare import LENGTH_SLACK
from latentsync.metrics.statistics import DIFFERENT_LENGTHS, UnscorableError

# Landmarks are 68 points in Multi-PIE order, [t, 68, 2] in frame pixels, NaN without a face.
OUTER_EYES = (36, 45)
MOUTH = slice(48, 68)
INNER_LIPS = ((61, 67), (62, 66), (63, 65))  # upper, lower


def lip_scores(
    result: FaceSeries,
    truth: FaceSeries | None = None,
    source: FaceSeries | None = None,
    true_apertures: NDArray[np.floating] | None = None,
    window: int = WINDOW_FRAMES,
) -> dict[str, Any]:
    """Scores of the lips of one result.

    Args:
        result: the measured face of the result.
        truth: that of a video with the true lips, if there is one.
        source: that of the input, at the frames that the result shows.
        true_apertures: [t], the true openings in any unit, if they are known exactly, as for an avatar.
        window: frames that were generated at once, for the seams.

    Returns:
        `jitter` (of the opening, in fractions of the face height per frame squared), `face_share`, and where they can be
        computed `seam_jump`, `aperture_correlation` (with the truth), `source_correlation`, `landmark_distance`, `jitter_truth`.

    Raises:
        UnscorableError: result and truth differ in length.
    """
    scores: dict[str, Any] = {"face_share": result.face_share, "jitter": jitter(result.apertures)}
    seam = seam_jump(result.changes, window)
    if seam is not None:
        scores["seam_jump"] = seam
    if true_apertures is None and truth is not None:
        true_apertures = openings(truth)
    if true_apertures is not None:
        check_lengths(len(result), len(true_apertures))
        scores["aperture_correlation"] = paired_correlation(openings(result), true_apertures)
    if source is not None:
        scores["source_correlation"] = paired_correlation(openings(result), openings(source))
    if truth is not None:
        scores["jitter_truth"] = jitter(truth.apertures)
        if result.landmarks is not None and truth.landmarks is not None:
            count = min(len(result), len(truth))
            scores["landmark_distance"] = landmark_distance(result.landmarks[:count], truth.landmarks[:count])
    return scores


def openings(series: FaceSeries) -> NDArray[np.floating]:
    """Lip openings [t], from landmarks if there are any, else from the pixels."""
    return series.apertures if series.landmarks is None else landmark_aperture(series.landmarks)


def at_frames(series: FaceSeries, frames: Sequence[int] | NDArray[np.int64]) -> FaceSeries:
    """The series reordered: entry i is that of frame `frames[i]`; the changes between frames become NaN."""
    picked = np.asarray(frames, int)
    landmarks = None if series.landmarks is None else series.landmarks[picked]
    unknown = np.full(max(0, len(picked) - 1), np.nan, np.float32)
    return FaceSeries(series.matrices[picked], series.apertures[picked], unknown, landmarks)


def bounced(source_count: int, count: int) -> NDArray[np.int64]:
    """Source frame index at each of `count` output frames if a short source is played back and forth."""
    cycle = np.concatenate([np.arange(source_count), np.arange(source_count - 2, 0, -1)])
    return np.resize(cycle, count)


def check_lengths(result: int, truth: int) -> None:
    """UnscorableError if result and truth differ by more than `LENGTH_SLACK` frames."""
    if abs(result - truth) > LENGTH_SLACK:
        detail = f"The result has {result} frames at 25 fps, its truth {truth}: give the complete result."
        raise UnscorableError(DIFFERENT_LENGTHS, detail)


def inter_ocular(landmarks: NDArray[np.floating]) -> NDArray[np.float64]:
    """Distance [t] in pixels between the outer corners of the eyes, the unit of the other distances."""
    left, right = (landmarks[:, index].astype(np.float64) for index in OUTER_EYES)
    return np.linalg.norm(right - left, axis=-1)


def landmark_distance(result: NDArray[np.floating], truth: NDArray[np.floating], part: slice = MOUTH) -> float:
    """Mean distance between the mouth landmarks and the true ones, in inter-ocular distances; 0 = equal.

    This is the error of 300-W (Sagonas et al. 2013). Frames in which one of the two has no face are ignored.

    Raises:
        ValueError: the videos differ in length, or no frame has both faces.
    """
    if len(result) != len(truth):
        raise ValueError(
            f"Landmarks of {len(result)} and {len(truth)} frames cannot be compared: the numbers must be equal."
        )
    errors = np.linalg.norm((result[:, part] - truth[:, part]).astype(np.float64), axis=-1).mean(axis=1)
    normalised = errors / inter_ocular(truth)
    known = np.isfinite(normalised)
    if not known.any():
        raise ValueError("No frame shows a face in both videos, so their landmarks cannot be compared.")
    return float(normalised[known].mean())


def landmark_aperture(landmarks: NDArray[np.floating]) -> NDArray[np.float64]:
    """Lip opening [t] in inter-ocular distances: the mean distance of three pairs of inner-lip points."""
    gaps = [np.linalg.norm((landmarks[:, a] - landmarks[:, b]).astype(np.float64), axis=-1) for a, b in INNER_LIPS]
    return np.asarray(np.mean(gaps, axis=0) / inter_ocular(landmarks))
