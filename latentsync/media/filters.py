"""Single pictures through single filters of libavfilter: what `reformat` cannot do, and keeps everything else of a picture."""

from fractions import Fraction

from av.filter import Graph
from av.video.frame import VideoFrame

ANY_CLOCK = Fraction(1, 25)  # a filter wants a time, of which nothing depends here


def cropped(picture: VideoFrame, rows: slice, columns: slice) -> VideoFrame:
    """A part of a picture, with all its tags, without a copy; the part must begin at a chroma sample."""
    size = f"{columns.stop - columns.start}:{rows.stop - rows.start}"
    return _filtered(picture, "crop", f"{size}:{columns.start}:{rows.start}:exact=1")


def chroma_at_left(picture: VideoFrame) -> VideoFrame:
    """A picture with the tag that the chroma samples made of it lie at the left of their pixels, as in MPEG; no copy.

    Without it libswscale puts them in the middle, where no player of H.264 takes them to be: colours would move by half a pixel.
    """
    return _filtered(picture, "setparams", "chroma_location=left")


def _filtered(picture: VideoFrame, name: str, arguments: str) -> VideoFrame:
    graph = Graph()
    graph.threads = 1  # it would start as many as there are cores
    given = graph.add_buffer(
        width=picture.width, height=picture.height, format=picture.format, time_base=picture.time_base or ANY_CLOCK
    )
    applied, taken = graph.add(name, arguments), graph.add("buffersink")
    given.link_to(applied)
    applied.link_to(taken)
    graph.configure()
    graph.push(picture)
    result = graph.pull()
    assert isinstance(result, VideoFrame), "a filter of pictures gives a picture"
    return result
