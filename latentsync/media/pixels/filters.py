"""Single filters of libavfilter applied to single pictures, whose other properties and tags are kept."""

from fractions import Fraction

import av
from av.filter import Graph
from av.video.frame import VideoFrame

ANY_CLOCK = Fraction(1, 25)  # filters need a time base, but it has no effect here


def cropped(picture: VideoFrame, rows: slice, columns: slice) -> VideoFrame:
    """A part of a picture with all its tags, sharing its memory; the part must begin at a chroma sample."""
    size = f"{columns.stop - columns.start}:{rows.stop - rows.start}"
    return _filtered(picture, "crop", f"{size}:{columns.start}:{rows.start}:exact=1")


def chroma_at_left(picture: VideoFrame) -> VideoFrame:
    """The picture tagged so that its chroma, when it is subsampled, is placed at the left as in MPEG; shares its memory.

    Without the tag libswscale centres the chroma, but players of H.264 assume the left: colours would shift by half a pixel.
    """
    return _filtered(picture, "setparams", "chroma_location=left")


def transposed(picture: VideoFrame, is_first_row_last: bool = False, is_first_column_last: bool = False) -> VideoFrame:
    """A picture with rows and columns swapped, then mirrored vertically or horizontally."""
    names = {(False, False): "cclock_flip", (False, True): "clock", (True, False): "cclock", (True, True): "clock_flip"}
    return _filtered(picture, "transpose", f"dir={names[is_first_row_last, is_first_column_last]}")


def fields_flagged(picture: VideoFrame, order: str) -> VideoFrame:
    """The same samples, flagged as interlaced with the top (`tff`) or bottom (`bff`) field first."""
    return _filtered(picture, "setfield", order)


def is_top_field_first(picture: VideoFrame) -> bool:
    """Whether an interlaced picture is flagged top field first; PyAV has no attribute for it, but a filter can select it."""
    try:
        _filtered(picture, "select", r"eq(interlace_type\,TOPFIRST)")
    except av.error.BlockingIOError:
        return False
    return True


def _filtered(picture: VideoFrame, name: str, arguments: str) -> VideoFrame:
    graph = Graph()
    graph.threads = 1  # it would start as many as there are cores
    source = graph.add_buffer(
        width=picture.width, height=picture.height, format=picture.format, time_base=picture.time_base or ANY_CLOCK
    )
    applied, sink = graph.add(name, arguments), graph.add("buffersink")
    source.link_to(applied)
    applied.link_to(sink)
    graph.configure()
    graph.push(picture)
    result = graph.pull()
    assert isinstance(result, VideoFrame), "a video filter returns a picture"
    return result
