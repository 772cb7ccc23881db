"""Which frame of the source is shown at each frame of the output, and which output frames are sampled together.

All indices count frames at 25 fps. The output lasts as long as the audio. A longer source is cut; a shorter one
bounces: it is played back and forth, and the frames at which it turns are not doubled.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import TypeVar

Frame = TypeVar("Frame")
Read = Callable[[int, int], Iterator[Frame]]  # (start, stop) -> frames start ... stop - 1 of the source


@dataclass(frozen=True)
class Timeline:
    """A source of `source_count` frames shown in `output_count` frames; both are at least 1."""

    source_count: int
    output_count: int

    def __post_init__(self) -> None:
        assert self.source_count >= 1 and self.output_count >= 1, "source and output have at least one frame"

    def source(self, frame: int) -> int:
        """The source frame that is shown at output frame `frame`."""
        if self.source_count == 1:
            return 0
        position = frame % (2 * self.source_count - 2)
        return min(position, 2 * self.source_count - 2 - position)

    def legs(self) -> Iterator[range]:
        """The source frames in the order of the output, cut into runs that go forwards or backwards."""
        last, start, left = self.source_count - 1, 0, self.output_count
        step = 1
        while left > 0:
            leg = range(start, last + 1) if step > 0 else range(start, -1, -1)
            yield leg[:left]
            left -= len(leg)
            step = -step
            start = min(1, last) if step > 0 else max(0, last - 1)


def frames_in_order(read: Read[Frame], timeline: Timeline, held: int) -> Iterator[Frame]:
    """Yield a frame for every output frame, with at most `held` source frames in memory.

    A source of up to `held` frames is read once. Of a longer one that bounces, forward legs are streamed and backward
    legs read in pieces of `held` frames, the last piece first; `read` must be able to begin anywhere.
    """
    if timeline.source_count <= held:
        frames = list(read(0, min(timeline.source_count, timeline.output_count)))
        yield from (frames[timeline.source(frame)] for frame in range(timeline.output_count))
        return
    for leg in timeline.legs():
        if leg.step > 0:
            yield from read(leg.start, leg.stop)
        else:
            yield from _backwards(read, leg, held)


def _backwards(read: Read[Frame], leg: range, held: int) -> Iterator[Frame]:
    for top in range(leg.start, leg.stop, -held):
        frames = list(read(max(leg.stop, top - held) + 1, top + 1))
        while frames:
            yield frames.pop()


@dataclass(frozen=True)
class Span:
    """Output frames start ... stop - 1: all of them with a face, or all without."""

    start: int
    stop: int
    has_face: bool

    def __len__(self) -> int:
        return self.stop - self.start

    def windows(self, num_frames: int) -> Iterator[range]:
        """The span in windows of `num_frames` frames; the last one may be shorter."""
        for start in range(self.start, self.stop, num_frames):
            yield range(start, min(start + num_frames, self.stop))


def spans(has_face: Sequence[bool]) -> list[Span]:
    """Cut the output, given for each of its frames whether a face is seen, where faces come and go."""
    found, start = [], 0
    for value, run in groupby(has_face, bool):
        stop = start + sum(1 for _ in run)
        found.append(Span(start, stop, value))
        start = stop
    return found
