"""The lips of a result against the true ones and against the source's: likeness, steadiness, seams."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from latentsync.metrics.lips.face_series import FaceSeries
from latentsync.metrics.lips.landmarks import landmark_aperture, landmark_distance
from latentsync.metrics.lips.leakage import paired_correlation
from latentsync.metrics.lips.motion import WINDOW_FRAMES, jitter, seam_jump
from latentsync.metrics.pictures.compare import LENGTH_SLACK
from latentsync.metrics.statistics import DIFFERENT_LENGTHS, UnscorableError


def lip_scores(
    result: FaceSeries,
    truth: FaceSeries | None = None,
    source: FaceSeries | None = None,
    true_apertures: NDArray[np.floating] | None = None,
    window: int = WINDOW_FRAMES,
) -> dict[str, Any]:
    """Scores of the lips of one result.

    Args:
        result: its face.
        truth: of the video that shows the true lips, where there is one.
        source: of the input, at the moments that the result shows.
        true_apertures: [t], openings that are known otherwise, such as an avatar's; any unit.
        window: frames that were made together, for the seams.

    Returns:
        `jitter` (opening, shares of the face's height a frame squared), `seam_jump`, `face_share`, and as far as known
        `aperture_correlation` (with the truth), `source_correlation`, `landmark_distance`, `jitter_truth`.

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
    """Lip openings [t]: between landmarks where they are known, else read from the pixels."""
    return series.apertures if series.landmarks is None else landmark_aperture(series.landmarks)


def at_frames(series: FaceSeries, frames: Sequence[int] | NDArray[np.int64]) -> FaceSeries:
    """The series as a result shows it: entry i is of frame `frames[i]`; changes between frames are not kept."""
    picked = np.asarray(frames, int)
    landmarks = None if series.landmarks is None else series.landmarks[picked]
    unknown = np.full(max(0, len(picked) - 1), np.nan, np.float32)
    return FaceSeries(series.matrices[picked], series.apertures[picked], unknown, landmarks)


def bounced(source_count: int, count: int) -> NDArray[np.int64]:
    """Source frame shown at each of `count` output frames, where a short source is played back and forth."""
    cycle = np.concatenate([np.arange(source_count), np.arange(source_count - 2, 0, -1)])
    return np.resize(cycle, count)


def check_lengths(result: int, truth: int) -> None:
    """UnscorableError if frames of a result and of its truth differ by more than players and encoders round."""
    if abs(result - truth) > LENGTH_SLACK:
        detail = f"The result has {result} frames at 25 fps, its truth {truth}: give the whole result."
        raise UnscorableError(DIFFERENT_LENGTHS, detail)
