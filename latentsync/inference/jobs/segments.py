"""The output in parts that are written one by one: where parts may begin without changing what is sampled."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from latentsync.inference.windows.stream import PASSED

PART_SEC = 10.0  # of the shortest part but the last


@dataclass(frozen=True)
class Part:
    """Output frames start ... stop - 1; sampling begins at `warm_start`, whose frames before `start` are not written."""

    start: int
    stop: int
    warm_start: int

    def __len__(self) -> int:
        return self.stop - self.start


def segment_of_output_frames(
    segment: NDArray[np.integer], order: NDArray[np.int64], jumps: NDArray[np.bool_]
) -> NDArray[np.int64]:
    """The segment of every output frame: a new number wherever the source's segment changes or its frames jump; `PASSED` stays."""
    shown = segment[order]
    new = jumps | np.concatenate([[True], np.diff(shown) != 0])
    return np.where(shown == PASSED, PASSED, np.cumsum(new))


def plan_parts(segment_of_frame: NDArray[np.int64], frames: int, fresh: int, overlap: int) -> list[Part]:
    """Cut the output into parts of at least `frames` frames, the last one as long as it is.

    Inside a segment a part begins where a window begins that no other one is ahead of: a multiple of `fresh` frames after the
    segment's first, and never so near to the segment's end that its last window would need frames of the part before. Where windows
    overlap (`overlap` frames), sampling begins one window earlier.
    """
    parts, start = [], 0
    while start < len(segment_of_frame):
        stop = start + frames
        if stop >= len(segment_of_frame):
            stop = len(segment_of_frame)
        elif segment_of_frame[stop] != PASSED:
            first, end = segment_start(segment_of_frame, stop), segment_stop(segment_of_frame, stop)
            stop = first + -(-(stop - first) // fresh) * fresh
            stop = stop if stop in (first, end) or stop + fresh <= end else end
        warms = overlap and segment_of_frame[start] != PASSED
        parts.append(Part(start, stop, max(segment_start(segment_of_frame, start), start - fresh) if warms else start))
        start = stop
    return parts


def segment_start(segment_of_frame: NDArray[np.int64], frame: int) -> int:
    """The first frame of the run of equal segments around `frame`."""
    before = np.flatnonzero(segment_of_frame[:frame] != segment_of_frame[frame])
    return int(before[-1]) + 1 if len(before) else 0


def segment_stop(segment_of_frame: NDArray[np.int64], frame: int) -> int:
    """The end of the run of equal segments around `frame`."""
    after = np.flatnonzero(segment_of_frame[frame:] != segment_of_frame[frame])
    return frame + int(after[0]) if len(after) else len(segment_of_frame)
