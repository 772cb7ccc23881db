"""A plain transcode: stored pictures encoded anew as they are, without a conversion of colours or size."""

from pathlib import Path

from latentsync.media.container import PathLike
from latentsync.media.video.index import frame_index
from latentsync.media.video.read import stored_pictures
from latentsync.media.video.write import VideoFormat, VideoWriter


def transcode(path: PathLike, output: Path, format: VideoFormat) -> int:
    """Decode a video's pictures and encode them with the codec and quality of `format`; returns their number.

    Nothing else is done: it is the least that any program that changes a video's pictures has to do. The pictures must be
    stored upright, in the form that the encoder takes (`yuv420p` of the format's size, for all but ffv1).

    Raises MediaError as `read_frames` and `VideoWriter` do.
    """
    index = frame_index(path)
    with VideoWriter(output, format) as writer:
        for _, picture in stored_pictures(path, index, 0, index.frame_count, "keep"):
            writer.write_stored(picture)
    return index.frame_count
