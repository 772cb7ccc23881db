"""Output segments: the output is written in files of about 10 s, split where this does not change the sampled windows."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from latentsync.inference.faces.plan import NOT_EDITED
from latentsync.inference.jobs.timeline import Timeline

OUTPUT_SEGMENT_SEC = 10.0  # at least; only the last one may be shorter
TRIES = 4  # to find a cut that fits all people


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
    whose `lip_weights` [n] are 0, see `Speaker.lip_weights`.
    """
    shown = np.where(lip_weights > 0, source_segment[timeline.order], NOT_EDITED)
    is_first = timeline.jumps | np.concatenate([[True], np.diff(shown) != 0])
    segment_of_frame = np.where(shown == NOT_EDITED, NOT_EDITED, np.cumsum(is_first))
    segment_of_frame[~timeline.has_sound] = NOT_EDITED
    return segment_of_frame


def plan_encoded_segments(
    people: Sequence[NDArray[np.int64]], encoded: Sequence[range], frames: int, fresh: int, overlap: int
) -> list[OutputSegment]:
    """The output segments of the frames that are encoded (`encoded`, in order), as by `plan_output_segments`.

    An edited segment lies in one of `encoded`.
    """
    return [
        OutputSegment(*(part.start + frame for frame in (segment.start, segment.stop, segment.warm_start)))
        for part in encoded
        for segment in plan_output_segments([each[part.start : part.stop] for each in people], frames, fresh, overlap)
    ]


def plan_output_segments(
    people: Sequence[NDArray[np.int64]], frames: int, fresh: int, overlap: int
) -> list[OutputSegment]:
    """Cut the output into segments of at least `frames` frames; the last one may be shorter. `people`: each one's
    `segment_of_frames`.

    Inside an edited segment, an output segment begins where a window begins: a multiple of `fresh` frames after the
    edited segment's first frame (`fresh`: the frames of a window that the previous window does not contain). It does not begin so
    close to the edited segment's end that the last window would need frames of the previous output segment. Where windows
    overlap by `overlap` frames, sampling begins one window earlier.

    Where several people are edited at once, whose windows begin at different frames, a cut that fits one of them is taken after
    `TRIES`; the windows of the others begin anew there.
    """
    segments, start, count = [], 0, len(people[0])
    while start < count:
        stop = start + frames
        for _ in range(TRIES):
            before = stop
            for segment_of_frame in people:
                stop = window_start(segment_of_frame, stop, fresh)
            if stop == before:
                break
        warm_starts = [
            max(segment_start(each, start), start - fresh) for each in people if overlap and each[start] != NOT_EDITED
        ]
        stop = min(stop, count)
        segments.append(OutputSegment(start, stop, min(warm_starts, default=start)))
        start = stop
    return segments


def window_start(segment_of_frame: NDArray[np.int64], frame: int, fresh: int) -> int:
    """The first frame from `frame` on at which an output segment may begin, see `plan_output_segments`."""
    if frame >= len(segment_of_frame) or segment_of_frame[frame] == NOT_EDITED:
        return frame
    first, end = segment_start(segment_of_frame, frame), segment_stop(segment_of_frame, frame)
    frame = first + -(-(frame - first) // fresh) * fresh
    return frame if frame in (first, end) or frame + fresh <= end else end


def segment_start(segment_of_frame: NDArray[np.int64], frame: int) -> int:
    """The first frame of the run of equal numbers around `frame`."""
    before = np.flatnonzero(segment_of_frame[:frame] != segment_of_frame[frame])
    return int(before[-1]) + 1 if len(before) else 0


def segment_stop(segment_of_frame: NDArray[np.int64], frame: int) -> int:
    """The end of the run of equal numbers around `frame`."""
    after = np.flatnonzero(segment_of_frame[frame:] != segment_of_frame[frame])
    return frame + int(after[0]) if len(after) else len(segment_of_frame)
