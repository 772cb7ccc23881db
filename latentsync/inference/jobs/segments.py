"""The output in segments that are written one by one: where segments may begin without changing what is sampled."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from latentsync.inference.windows.stream import PASSED

OUTPUT_SEGMENT_SEC = 10.0  # of the shortest part but the last


@dataclass(frozen=True)
class OutputSegment:
    """Output frames start ... stop - 1; sampling begins at `warm_start`, whose frames before `start` are not written."""

    start: int
    stop: int
    warm_start: int

    def __len__(self) -> int:
        return self.stop - self.start


def output_takes(take: NDArray[np.integer], order: NDArray[np.int64], jumps: NDArray[np.bool_]) -> NDArray[np.int64]:
    """The take of every output frame: a new number wherever the source's take changes or its frames jump; `PASSED` stays."""
    shown = take[order]
    new = jumps | np.concatenate([[True], np.diff(shown) != 0])
    return np.where(shown == PASSED, PASSED, np.cumsum(new))


def plan_output_segments(takes: NDArray[np.int64], frames: int, fresh: int, overlap: int) -> list[OutputSegment]:
    """Cut the output into segments of at least `frames` frames, the last one as long as it is.

    Inside a take a part begins where a window begins that no other one is ahead of: a multiple of `fresh` frames after the
    take's first, and never so near to the take's end that its last window would need frames of the part before. Where windows
    overlap (`overlap` frames), sampling begins one window earlier.
    """
    segments, start = [], 0
    while start < len(takes):
        stop = start + frames
        if stop >= len(takes):
            stop = len(takes)
        elif takes[stop] != PASSED:
            first, end = take_start(takes, stop), take_stop(takes, stop)
            stop = first + -(-(stop - first) // fresh) * fresh
            stop = stop if stop in (first, end) or stop + fresh <= end else end
        warms = overlap and takes[start] != PASSED
        segments.append(OutputSegment(start, stop, max(take_start(takes, start), start - fresh) if warms else start))
        start = stop
    return segments


def take_start(takes: NDArray[np.int64], frame: int) -> int:
    """The first frame of the run of equal takes around `frame`."""
    before = np.flatnonzero(takes[:frame] != takes[frame])
    return int(before[-1]) + 1 if len(before) else 0


def take_stop(takes: NDArray[np.int64], frame: int) -> int:
    """The end of the run of equal takes around `frame`."""
    after = np.flatnonzero(takes[frame:] != takes[frame])
    return frame + int(after[0]) if len(after) else len(takes)
