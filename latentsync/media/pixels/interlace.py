"""Interlaced pictures: two moments in the even and odd lines of one picture, made into one picture each, or kept as they are.

Decoded pictures are flagged as interlaced one by one, and only those that are flagged are changed. Where no picture is flagged
although the file as a whole states an order of its fields, the pictures themselves decide whether that is true.
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

Interlaced = Literal["deinterlace", "keep"]  # what becomes of interlaced pictures
FieldOrder = Literal["", "tff", "bff"]  # top or bottom field first
Fields = Literal["", "flagged", "tff", "bff"]  # progressive; pictures say it; the file alone says it
Numbered = Iterator[tuple[int, VideoFrame]]

FLAGGED: Fields = "flagged"
# libav's numbers (AVFieldOrder); the field that is shown first counts, not the one that is stored first
STATED_ORDERS: dict[int, FieldOrder] = {2: "tff", 3: "bff", 4: "bff", 5: "tff"}
MIN_SIDE_PX = 8  # smaller pictures are left alone by the filter too
BLOCK_PX = 16
COMB_LEVELS = 4.0  # by which lines differ from both neighbours, on the average of a block
COMB_RATIO = 1.5  # how much more than from the next lines of their own field
COMB_SHARE = 0.005  # of all blocks


def fields_of(samples: Sequence[VideoFrame], stated_order: int) -> tuple[Fields, FieldOrder]:
    """Whether a video is interlaced, and how, by some of its pictures and the order that its file states (AVFieldOrder)."""
    for picture in samples:
        if picture.interlaced_frame:
            return FLAGGED, field_order(picture)
    stated = STATED_ORDERS.get(stated_order, "")
    return (stated, stated) if stated and any(map(has_combs, samples)) else ("", "")


def has_combs(picture: VideoFrame) -> bool:
    """Whether lines stand out from both their neighbours, but not from the next lines of their field, in some places."""
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
    """The order of the fields of an interlaced picture."""
    if not picture.interlaced_frame:
        return ""
    return "tff" if is_top_field_first(picture) else "bff"


def with_fields(picture: VideoFrame, order: FieldOrder) -> VideoFrame:
    """The picture flagged as interlaced in that order; without an order the picture itself."""
    return fields_flagged(picture, order) if order else picture


def deinterlaced(pictures: Numbered, fields: Fields) -> Numbered:
    """Consecutive numbered pictures, of which those that are interlaced become progressive; as many as there are.

    A picture depends on itself and on its two neighbours alone. Nothing is read ahead before the first interlaced picture.
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
    """All pictures through the filter; where their size or format changes, it begins anew."""
    for (width, height, _), run in groupby(pictures, key=_kind):
        steps = _filtered if min(width, height) >= MIN_SIDE_PX else _unfiltered
        yield from steps(run, fields)


def _kind(numbered: tuple[int, VideoFrame]) -> tuple[int, int, str]:
    _, picture = numbered
    return picture.width, picture.height, picture.format.name


def _unfiltered(run: Iterator[tuple[int, VideoFrame]], fields: Fields) -> Numbered:
    return run


def _filtered(run: Iterator[tuple[int, VideoFrame]], fields: Fields) -> Numbered:
    """Pictures of one kind through the filter, which gives each after the next one has come."""
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
    """The pictures that the filter has finished."""
    while True:
        try:
            picture = graph.pull()
        except (av.error.BlockingIOError, av.error.EOFError):
            return
        assert isinstance(picture, VideoFrame), "a filter of pictures gives pictures"
        yield picture


def _graph(picture: VideoFrame, fields: Fields) -> Graph:
    """bwdif for pictures like this one; one picture out for each that goes in."""
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
