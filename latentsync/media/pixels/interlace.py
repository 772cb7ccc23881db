"""Detection and deinterlacing of interlaced pictures (two fields in the even and odd lines), one output picture for each.

Decoders flag single pictures as interlaced, and only flagged ones are deinterlaced. If none is flagged but the file states a
field order, the pictures are deinterlaced if some of them show combing.
"""

from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from itertools import chain, groupby, islice
from typing import Literal

import av
import numpy as np
from av.filter import Graph
from av.video.frame import VideoFrame

from latentsync.media.pixels.filters import ANY_CLOCK, fields_flagged, is_top_field_first

Interlaced = Literal["deinterlace", "keep"]  # how interlaced pictures are handled
FieldOrder = Literal["", "tff", "bff"]  # top or bottom field first
Fields = Literal[
    "", "flagged", "tff", "bff"
]  # progressive; by flags of the pictures; by the field order that the file states
Numbered = Iterator[tuple[int, VideoFrame]]

FLAGGED: Fields = "flagged"
# by libav's values (AVFieldOrder); the field that is displayed first counts, not the one that is coded first
STATED_ORDERS: dict[int, FieldOrder] = {2: "tff", 3: "bff", 4: "bff", 5: "tff"}
MIN_SIDE_PX = 8  # smaller pictures cannot be filtered
BLOCK_PX = 16
COMB_LEVELS = 4.0  # mean difference in a block of lines from both neighbours
COMB_RATIO = 1.5  # least ratio of that difference to the difference from the next lines of the same field
COMB_SHARE = 0.005  # fraction of all blocks, from which a picture shows combing


def fields_of(samples: Sequence[VideoFrame], stated_order: int) -> tuple[Fields, FieldOrder]:
    """Whether and how a video is interlaced, from some of its pictures and the order that its file states (AVFieldOrder)."""
    for picture in samples:
        if picture.interlaced_frame:
            return FLAGGED, field_order(picture)
    stated = STATED_ORDERS.get(stated_order, "")
    return (stated, stated) if stated and any(map(has_combs, samples)) else ("", "")


def has_combs(picture: VideoFrame) -> bool:
    """Whether a picture shows combing: blocks whose lines differ from both neighbours, but not from their field's next lines."""
    luma = picture.to_ndarray(format="gray").astype(np.int16)
    rows, columns = ((side - 4) // BLOCK_PX * BLOCK_PX for side in luma.shape)
    if rows <= 0 or columns <= 0:
        return False

    def difference(step: int) -> np.ndarray:
        """Mean difference of lines from those `step` above and below, by blocks."""
        above, below = luma[2 - step :][:rows, :columns], luma[2 + step :][:rows, :columns]
        levels = np.abs(2 * luma[2:][:rows, :columns] - above - below)
        return levels.reshape(rows // BLOCK_PX, BLOCK_PX, columns // BLOCK_PX, BLOCK_PX).mean((1, 3)) / 2

    near, far = difference(1), difference(2)
    return bool(np.mean((near > COMB_LEVELS) & (near > COMB_RATIO * far)) > COMB_SHARE)


def field_order(picture: VideoFrame) -> FieldOrder:
    """The field order of an interlaced picture; "" for a progressive one."""
    if not picture.interlaced_frame:
        return ""
    return "tff" if is_top_field_first(picture) else "bff"


def with_fields(picture: VideoFrame, order: FieldOrder) -> VideoFrame:
    """The picture flagged as interlaced in that order; unchanged without an order."""
    return fields_flagged(picture, order) if order else picture


def deinterlaced(pictures: Numbered, fields: Fields) -> Numbered:
    """Deinterlace those of consecutive numbered pictures that are interlaced; as many pictures as before.

    A result depends on its picture and both neighbours only. Nothing is read ahead before the first interlaced picture.
    """
    is_stated = fields not in ("", FLAGGED)
    before: list[tuple[int, VideoFrame]] = []
    for number, picture in pictures:
        if is_stated or picture.interlaced_frame:
            rest = chain(before, [(number, picture)], pictures)
            yield from islice(_filtered_runs(rest, fields), len(before), None)
            return
        yield number, picture
        before = [(number, picture)]


def _filtered_runs(pictures: Iterable[tuple[int, VideoFrame]], fields: Fields) -> Numbered:
    """Filter all pictures; the filter is reset when their size or format changes."""
    for (width, height, _), run in groupby(pictures, key=_kind):
        steps = _filtered if min(width, height) >= MIN_SIDE_PX else _unfiltered
        yield from steps(run, fields)


def _kind(numbered: tuple[int, VideoFrame]) -> tuple[int, int, str]:
    _, picture = numbered
    return picture.width, picture.height, picture.format.name


def _unfiltered(run: Iterator[tuple[int, VideoFrame]], fields: Fields) -> Numbered:
    return run


def _filtered(run: Iterator[tuple[int, VideoFrame]], fields: Fields) -> Numbered:
    """Filter pictures of one size and format; the filter returns each after it has received the next one."""
    graph, numbers = None, deque[int]()
    for number, picture in run:
        graph = graph or _graph(picture, fields)
        numbers.append(number)
        graph.push(picture)
        yield from ((numbers.popleft(), done) for done in _ready(graph))
    assert graph is not None, "a run has a picture"
    graph.push(None)
    yield from ((numbers.popleft(), done) for done in _ready(graph))
    assert not numbers, "as many pictures come out as go in"


def _ready(graph: Graph) -> Iterator[VideoFrame]:
    """The pictures that the filter can return now."""
    while True:
        try:
            picture = graph.pull()
        except (av.error.BlockingIOError, av.error.EOFError):
            return
        assert isinstance(picture, VideoFrame), "a video filter returns pictures"
        yield picture


def _graph(picture: VideoFrame, fields: Fields) -> Graph:
    """A bwdif filter graph for pictures of this size and format; one output picture for each input picture."""
    graph = Graph()
    graph.threads = 1
    which = "interlaced" if fields in ("", FLAGGED) else "all"
    nodes = [
        graph.add_buffer(
            width=picture.width, height=picture.height, format=picture.format, time_base=picture.time_base or ANY_CLOCK
        )
    ]
    if which == "all":
        nodes.append(graph.add("setfield", fields))
    nodes.append(graph.add("bwdif", f"mode=send_frame:parity=auto:deint={which}"))
    nodes.append(graph.add("buffersink"))
    graph.link_nodes(*nodes).configure()
    return graph
