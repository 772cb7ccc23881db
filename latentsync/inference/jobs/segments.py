"""Output segments: the output is written in files of about 10 s, split where this does not change the sampled windows."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from latentsync.inference.faces.plan import NOT_EDITED
from latentsync.inference.jobs.timeline import Timeline

OUTPUT_SEGMENT_SEC = 10.0  # at least; only the last one may be shorter


@dataclass(frozen=True)
class OutputSegment:
    """Output frames start ... stop - 1. Sampling begins at `warm_start`; frames before `start` are not written."""

    start: int
    stop: int
    warm_start: int

    def __len__(self) -> int:
        return self.stop - self.start


def segment_of_frames(
    source_segment: NDArray[np.integer], timeline: Timeline, lip_weights: NDArray[np.floating]
) -> NDArray[np.int64]:
    """The number of the edited segment of every output frame, int [n]; `NOT_EDITED` for frames that are not edited.

    A new segment begins where the source's segment changes or its frames jump. Frames without audio are not edited, and those
    whose `lip_weights` [n] are 0, see `LipsyncJob.lip_weights`.
    """
    shown = np.where(lip_weights > 0, source_segment[timeline.order], NOT_EDITED)
    is_first = timeline.jumps | np.concatenate([[True], np.diff(shown) != 0])
    segment_of_frame = np.where(shown == NOT_EDITED, NOT_EDITED, np.cumsum(is_first))
    segment_of_frame[~timeline.has_sound] = NOT_EDITED
    return segment_of_frame


def plan_encoded_segments(
    segment_of_frame: NDArray[np.int64], encoded: Sequence[range], frames: int, fresh: int, overlap: int
) -> list[OutputSegment]:
    """The output segments of the frames that are encoded (`encoded`, in order), as by `plan_output_segments`.

    An edited segment lies in one of `encoded`.
    """
    return [
        OutputSegment(*(part.start + frame for frame in (segment.start, segment.stop, segment.warm_start)))
        for part in encoded
        for segment in plan_output_segments(segment_of_frame[part.start : part.stop], frames, fresh, overlap)
    ]


def plan_output_segments(
    segment_of_frame: NDArray[np.int64], frames: int, fresh: int, overlap: int
) -> list[OutputSegment]:
    """Cut the output into segments of at least `frames` frames; the last one may be shorter.

    Inside an edited segment, an output segment begins where a window begins: a multiple of `fresh` frames after the
    edited segment's first frame (`fresh`: the frames of a window that the previous window does not contain). It does not begin so
    close to the edited segment's end that the last window would need frames of the previous output segment. Where windows
    overlap by `overlap` frames, sampling begins one window earlier.
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
