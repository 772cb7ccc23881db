"""Online detection of scene cuts from small copies of the frames; cuts at flashes are removed a few frames later.

A frame begins a new shot where both the colours and the layout of the picture change suddenly. Fades change the brightness
but not the layout; pans and fast motion change the layout over many frames; after a flash the previous picture returns. Slow
dissolves are not detected.
"""

from dataclasses import dataclass

import cv2
import numpy as np

from latentsync.face.align import FloatArray, FrameArray

COPY = (32, 18)  # w, h of the small copy
LEVELS = 4  # of each colour in the histogram
FLAT = 3.0  # standard deviation in grey levels below which a picture has no layout
SUDDEN = 0.35  # smallest change at a cut
AGAINST_RECENT = 2.5  # smallest ratio of the change at a cut to the recent changes
RECENT = 0.5  # decay of the recent change from frame to frame
FLASH_FRAMES = 5  # longest flash
SAME_SCENE = 0.15  # change below which two pictures show the same scene


@dataclass(frozen=True)
class FrameSummary:
    """Colours and layout of one frame."""

    colours: FloatArray  # [LEVELS ** 3], shares
    layout: FloatArray  # [h * w] brightness, mean 0, length 1; all 0 for a flat picture


def summarise(frame: FrameArray) -> FrameSummary:
    """Colours and layout of a frame uint8 h w 3, from a small copy."""
    step = max(1, min(frame.shape[0] // (4 * COPY[1]), frame.shape[1] // (4 * COPY[0])))
    small = cv2.resize(frame[::step, ::step], COPY, interpolation=cv2.INTER_AREA)
    bins = (small.astype(int) * LEVELS // 256) @ [LEVELS * LEVELS, LEVELS, 1]
    colours = np.bincount(bins.ravel(), minlength=LEVELS**3) / bins.size
    grey = small.astype(np.float32).mean(axis=2).ravel()
    grey -= grey.mean()
    layout = grey / np.linalg.norm(grey) if grey.std() >= FLAT else np.zeros_like(grey)
    return FrameSummary(colours.astype(np.float32), layout.astype(np.float32))


def change(before: FrameSummary, after: FrameSummary) -> float:
    """Change between two frames in [0, 1]: geometric mean of the changes of colours and layout."""
    colours = float(np.abs(before.colours - after.colours).sum()) / 2
    both_flat = not before.layout.any() and not after.layout.any()
    layout = float(np.clip(1 - before.layout @ after.layout, 0, 1))
    return colours if both_flat else float(np.sqrt(colours * layout))


class SceneCuts:
    """The cuts of one stream: call `update` with every frame, then read `cuts`."""

    def __init__(self) -> None:
        self.cuts: list[int] = []  # indices of the frames that begin a shot, without frame 0
        self.count = 0
        self.recent = 0.0
        self.last: FrameSummary | None = None
        self.before_cut: FrameSummary | None = None  # the frame before the first of the recent sudden changes
        self.flash_start = -FLASH_FRAMES - 1

    def update(self, frame: FrameArray) -> bool:
        """Whether the picture changed suddenly, at a cut or at the start or end of a flash, so that face tracks must end."""
        now, index = summarise(frame), self.count
        self.count += 1
        self.last, before = now, self.last
        if before is None:
            return False
        changed = change(before, now)
        sudden = changed >= SUDDEN and changed >= AGAINST_RECENT * self.recent
        self.recent = max(changed if not sudden else 0.0, RECENT * self.recent)
        if not sudden:
            return False
        if self._ends_flash(now, index):
            self.cuts = [cut for cut in self.cuts if cut < self.flash_start]
            return True
        if index - self.flash_start > FLASH_FRAMES:
            self.before_cut, self.flash_start = before, index
        self.cuts.append(index)
        return True

    def skip_to(self, index: int) -> None:
        """The next frame is number `index`; it is not compared with those before it."""
        self.count, self.recent, self.last, self.before_cut = index, 0.0, None, None
        self.flash_start = index - FLASH_FRAMES - 1

    def _ends_flash(self, now: FrameSummary, index: int) -> bool:
        """Whether the picture is again that before the last sudden change, a few frames ago."""
        recent = index - self.flash_start <= FLASH_FRAMES
        return recent and self.before_cut is not None and change(self.before_cut, now) < SAME_SCENE
