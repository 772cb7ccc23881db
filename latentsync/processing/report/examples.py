"""Small pictures of dropped clips for the report: the middle frame of a few clips for each stage and reason."""

import contextlib
import io
from collections import Counter

from PIL import Image

from latentsync.data.storage import Folder
from latentsync.media.video.read import frames_between
from latentsync.processing.clip import Clip, Dropped
from latentsync.processing.run_folder import EXAMPLES
from latentsync.timebase import MODEL_FPS

HEIGHT_PX = 120
EXAMPLES_EACH = 6  # for a stage and reason, from one worker process
_saved: Counter[tuple[str, str, str]] = Counter()  # by output folder, stage and reason


def save_example(output: Folder, stage: str, outcome: Dropped) -> None:
    """Store the middle frame of a dropped clip, unless there are enough for its reason; unreadable frames are skipped."""
    reason = outcome.reason
    if _saved[output.address, stage, reason] >= EXAMPLES_EACH:
        return
    with contextlib.suppress(Exception):  # a missing picture must not fail the clip
        picture = middle_jpeg(outcome.clip)
        output.write(f"{EXAMPLES}/{stage}/{reason}/{outcome.clip.clip_id}.jpg", picture)
        _saved[output.address, stage, reason] += 1


def middle_jpeg(clip: Clip) -> bytes:
    """The middle frame of a clip as a small JPEG. Raises MediaError if it cannot be read."""
    first, last = clip.path_frames
    middle = (first + max(first + 1, last)) // 2
    frame = next(iter(frames_between(clip.path, MODEL_FPS, middle, middle + 1))).frame
    image = Image.fromarray(frame)
    image.thumbnail((4 * HEIGHT_PX, HEIGHT_PX))
    buffer = io.BytesIO()
    image.save(buffer, format="JPEG", quality=80)
    return buffer.getvalue()
