"""The output in segments that are written one by one: where segments may begin without changing what is sampled."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from latentsync.inference.faces.plan import NOT_EDITED

OUTPUT_SEGMENT_SEC = 10.0  # of the shortest part but the last


@dataclass(frozen=True)
class OutputSegment:
    """Output frames start ... stop - 1; sampling begins at `warm_start`, whose frames before `start` are not written."""

    start: int
    stop: int
    warm_start: int

    def __len__(self) -> int:
        return self.stop - self.start


def segment_of_output_frames(
    source_segment: NDArray[np.integer], order: NDArray[np.int64], jumps: NDArray[np.bool_]
) -> NDArray[np.int64]:
    """The edited segment of every output frame: a new number where the source's changes or its frames jump; `NOT_EDITED` stays."""
    shown = source_segment[order]
    new = jumps | np.concatenate([[True], np.diff(shown) != 0])
    return np.where(shown == NOT_EDITED, NOT_EDITED, np.cumsum(new))


def plan_output_segments(
    segment_of_frame: NDArray[np.int64], frames: int, fresh: int, overlap: int
) -> list[OutputSegment]:
    """Cut the output into segments of at least `frames` frames, the last one as long as it is.

    Inside an edited segment an output segment begins where a window begins that no other one is ahead of: a multiple of `fresh`
    frames after the first edited one, and never so near to the end that the last window would need frames of the output segment
    before. Where windows overlap (`overlap` frames), sampling begins one window earlier.
    """
    segments, start = [], 0
    while start < len(segment_of_frame):
        stop = start + frames
        if stop >= len(segment_of_frame):
            stop = len(segment_of_frame)
        elif segment_of_frame[stop] != NOT_EDITED:
            first, end = segment_start(segment_of_frame, stop), segment_stop(segment_of_frame, stop)
            stop = first + -(-(stop - first) // fresh) * fresh
            stop = stop if stop in (first, end) or stop + fresh <= end else end
        warms = overlap and segment_of_frame[start] != NOT_EDITED
        segments.append(
            OutputSegment(start, stop, max(segment_start(segment_of_frame, start), start - fresh) if warms else start)
        )
        start = stop
    return segments


def segment_start(segment_of_frame: NDArray[np.int64], frame: int) -> int:
    """The first frame of the run of equal numbers around `frame`."""
    before = np.flatnonzero(segment_of_frame[:frame] != segment_of_frame[frame])
    return int(before[-1]) + 1 if len(before) else 0


def segment_stop(segment_of_frame: NDArray[np.int64], frame: int) -> int:
    """The end of the run of equal numbers around `frame`."""
    after = np.flatnonzero(segment_of_frame[frame:] != segment_of_frame[frame])
    return frame + int(after[0]) if len(after) else len(segment_of_frame)
