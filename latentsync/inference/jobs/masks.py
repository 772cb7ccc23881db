"""What is in front of the faces of a job: masks that are given as a file, or what is found in the video itself."""

from collections.abc import Callable, Iterator
from functools import partial
from itertools import repeat
from pathlib import Path

from latentsync.face.align import FrameArray
from latentsync.inference.faces.occluders import Occluders, detect_occluders, given_occluders
from latentsync.inference.faces.plan import ACTIONS, EDIT, FacePlan
from latentsync.inference.jobs.source import Source, open_source
from latentsync.inference.windows.references import usual_in_shots
from latentsync.media.probe import probe


def open_masks(path: Path, source: Source) -> Source:
    """The masks of a video's frames; a picture is the mask of all frames.

    Raises ValueError if they are not as large as the video, or not as many; MediaError if they cannot be read.
    """
    info = probe(path)
    width, height = source.info.square_size
    if info.square_size != (width, height):
        raise ValueError(
            f"the masks {path} are {info.square_size[0]} x {info.square_size[1]}, but the video is {width} x {height}: give"
            " masks as large as the video."
        )
    if info.is_still:
        return open_source(path, info)
    masks = open_source(path, info, source.fps)
    if len(masks) != len(source):
        raise ValueError(
            f"the masks {path} have {len(masks)} frames, but the video has {len(source)}: give one mask for each frame, or a"
            " picture."
        )
    return masks


def read_masks(masks: Source, start: int, stop: int) -> Iterator[FrameArray]:
    """The given masks of the source frames start ... stop - 1, uint8 h w 3."""
    if masks.info.is_still:
        return repeat(next(masks.read(0, 1)), stop - start)
    return masks.read(start, stop, exact=False)


def occluders_of(source: Source, masks: Source | None, plan: FacePlan, on_frame: Callable[[int], None]) -> Occluders:
    """What is in front of the face of a plan, by the given masks, or found in the `source`.

    `on_frame` gets the number of frames that are done.
    """
    if masks is not None:
        return given_occluders(partial(read_masks, masks), plan, on_frame)
    known = plan.action == ACTIONS[EDIT]
    return detect_occluders(partial(source.read, exact=False), plan, usual_in_shots(plan, known), known, on_frame)
