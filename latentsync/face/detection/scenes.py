"""Scene cuts of a stream of frames, from small copies: found at once, flashes taken back a few frames later.

A frame begins a new shot where both the colours and the layout of the picture change suddenly. Fades change the light
but not the layout; pans and fast motion change the layout over many frames; a flash is over soon and the picture before
it comes back. Slow dissolves are not found.
"""

from dataclasses import dataclass

import cv2
import numpy as np

from latentsync.face.align import FloatArray, FrameArray

COPY = (32, 18)  # w, h of the small copy
LEVELS = 4  # of each colour in the histogram
FLAT = 3.0  # deviation in grey levels below which a picture has no layout
SUDDEN = 0.35  # change from which a cut is possible
AGAINST_RECENT = 2.5  # times the recent changes
RECENT = 0.5  # share of the last frame's change that counts on in the next
FLASH_FRAMES = 5  # after which a picture that comes back is no flash any more
BACK_AGAIN = 0.15  # change below which two pictures show one scene


@dataclass(frozen=True)
class Glance:
    """One frame as the cuts see it."""

    colours: FloatArray  # [LEVELS ** 3], shares
    layout: FloatArray  # [h * w] brightness, mean 0, length 1; all 0 for a flat picture


def glance(frame: FrameArray) -> Glance:
    """A frame uint8 h w 3 as the cuts see it."""
    step = max(1, min(frame.shape[0] // (4 * COPY[1]), frame.shape[1] // (4 * COPY[0])))
    small = cv2.resize(frame[::step, ::step], COPY, interpolation=cv2.INTER_AREA)
    bins = (small.astype(int) * LEVELS // 256) @ [LEVELS * LEVELS, LEVELS, 1]
    colours = np.bincount(bins.ravel(), minlength=LEVELS**3) / bins.size
    grey = small.astype(np.float32).mean(axis=2).ravel()
    grey -= grey.mean()
    layout = grey / np.linalg.norm(grey) if grey.std() >= FLAT else np.zeros_like(grey)
    return Glance(colours.astype(np.float32), layout.astype(np.float32))


def change(before: Glance, after: Glance) -> float:
    """How much two pictures differ in colours and layout together, 0 ... 1."""
    colours = float(np.abs(before.colours - after.colours).sum()) / 2
    both_flat = not before.layout.any() and not after.layout.any()
    layout = float(np.clip(1 - before.layout @ after.layout, 0, 1))
    return colours if both_flat else float(np.sqrt(colours * layout))


class SceneCuts:
    """The cuts of one stream: call `update` with every frame, read `cuts` at the end."""

    def __init__(self) -> None:
        self.cuts: list[int] = []  # indices of the frames that begin a shot, but for the first
        self.count = 0
        self.recent = 0.0
        self.last: Glance | None = None
        self.before_cut: Glance | None = None  # the picture before the first of the last sudden changes
        self.flash_start = -FLASH_FRAMES - 1

    def update(self, frame: FrameArray) -> bool:
        """Whether the picture has changed suddenly, so that faces are to be found anew: at a cut or a flash's edge."""
        now, index = glance(frame), self.count
        self.count += 1
        self.last, before = now, self.last
        if before is None:
            return False
        changed = change(before, now)
        sudden = changed >= SUDDEN and changed >= AGAINST_RECENT * self.recent
        self.recent = max(changed if not sudden else 0.0, RECENT * self.recent)
        if not sudden:
            return False
        if self._came_back(now, index):
            self.cuts = [cut for cut in self.cuts if cut < self.flash_start]
            return True
        if index - self.flash_start > FLASH_FRAMES:
            self.before_cut, self.flash_start = before, index
        self.cuts.append(index)
        return True

    def _came_back(self, now: Glance, index: int) -> bool:
        recent = index - self.flash_start <= FLASH_FRAMES
        return recent and self.before_cut is not None and change(self.before_cut, now) < BACK_AGAIN
