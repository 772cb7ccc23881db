"""Conversions of stored pictures by libswscale: the same settings everywhere, prepared once for pictures of one kind."""

import threading
from typing import Any

from av.video.frame import VideoFrame
from av.video.reformatter import VideoReformatter

from latentsync.media.container import converter_threads

# libswscale flags: bilinear chroma 2, full chroma interpolation 2**13 and input 2**14, accurate rounding 2**18.
# The faster path without them brightens flat colours by more than one level.
SWSCALE_FLAGS = 2 | 1 << 13 | 1 << 14 | 1 << 18
ENLARGING_FLAGS = SWSCALE_FLAGS ^ 2 ^ 4  # bicubic, which keeps a picture sharp where it is stretched
KEPT = 4  # conversions that stay prepared in a thread, each with threads of its own


class _Prepared(threading.local):
    """What a thread has prepared: by the kinds of pictures, the latest used last."""

    def __init__(self) -> None:
        self.reformatters: dict[tuple, VideoReformatter] = {}


_prepared = _Prepared()


def converted(
    frame: VideoFrame, format: str, size: tuple[int, int] | None = None, exact: bool = True, **colours: Any
) -> VideoFrame:
    """A picture in another pixel format, scaled to w x h of `size`; `colours` as `VideoReformatter.reformat` takes them.

    Without `exact` libswscale's faster way is taken, see `SWSCALE_FLAGS`.
    """
    width, height = size or (frame.width, frame.height)
    is_enlarged = (width, height) != (frame.width, frame.height) and width >= frame.width and height >= frame.height
    flags = (ENLARGING_FLAGS if is_enlarged else SWSCALE_FLAGS) if exact else None
    kind = (frame.width, frame.height, frame.format.name, width, height, format, exact, *colours.values())
    prepared = _prepared.reformatters
    prepared[kind] = reformatter = prepared.pop(kind, None) or VideoReformatter()
    if len(prepared) > KEPT:
        del prepared[next(iter(prepared))]
    return reformatter.reformat(
        frame, width, height, format, interpolation=flags, threads=converter_threads(), **colours
    )
