"""Stage 3: a clip is cut into its scenes by PySceneDetect's adaptive detector, exactly at the first frame of each scene."""

from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from latentsync.media.video.strict_read import SmallPicture, small_pictures
from latentsync.processing.clip import Clip, Kept, StageOutcome
from latentsync.processing.stages.contract import Settings, Stage
from latentsync.processing.stages.readable import SMALL_SIDE_PX
from latentsync.processing.stages.span import write_clip
from latentsync.timebase import MODEL_FPS

WINDOW = 2  # pictures before and after one, with whose changes its own is compared
SAME_LEVELS = 0.5  # mean difference of two pictures up to which the second counts as a repetition of the first


class CutFinder:
    """Finds cuts in a stream of small pictures; holds two of them.

    A picture that repeats the one before, as where a slower video is shown at 25 fps, is left out: between repetitions
    every movement would look like a cut. The first and last pictures are repeated so that cuts near the ends are found.
    """

    def __init__(self, threshold: float, min_change: float) -> None:
        from scenedetect.detectors import AdaptiveDetector  # imports its other detectors and a progress bar

        self.detector = AdaptiveDetector(threshold, min_scene_len=1, window_width=WINDOW, min_content_val=min_change)
        self.ticks: list[int] = []  # of the pictures passed to the detector
        self.before: NDArray[np.uint8] | None = None
        self.cuts: list[int] = []  # ticks

    def add(self, picture: SmallPicture) -> None:
        """Pass the next picture."""
        image = np.asarray(cv2.cvtColor(picture.pixels, cv2.COLOR_RGB2BGR), np.uint8)
        if self.before is None:
            for _ in range(WINDOW):
                self._give(picture.tick, image)
        elif float(cv2.absdiff(image, self.before).mean()) <= SAME_LEVELS:
            return
        self._give(picture.tick, image)
        self.before = image

    def finish(self) -> list[int]:
        """The ticks at which a new scene begins; call it once, after the last picture."""
        for _ in range(WINDOW if self.before is not None else 0):
            self._give(self.ticks[-1], self.before)
        return sorted(set(self.cuts))

    def _give(self, tick: int, image: NDArray[np.uint8] | None) -> None:
        assert image is not None, "there was a picture"
        from scenedetect import FrameTimecode

        place = FrameTimecode(len(self.ticks), fps=float(MODEL_FPS))
        self.ticks.append(tick)
        self.cuts += [self.ticks[cut.frame_num] for cut in self.detector.process_frame(place, image)]


@dataclass
class ShotSettings(Settings):
    """The thresholds of a cut."""

    scene_threshold: float = 2.0  # change at a cut, as a multiple of the mean change around it
    min_scene_change: float = 15.0  # least mean change of hue, saturation and value (0-255) at a cut


class ShotStage(Stage[ShotSettings]):
    """Cut a clip into scenes; a video without a cut is one scene. Score: `scenes` in the clip that was cut."""

    name = "shot"
    keeps = "a clip for each scene"
    settings_type = ShotSettings
    writes = "optional"
    cuts = True

    def __call__(self, clip: Clip, folder: Path | None = None) -> list[StageOutcome]:
        finder = self.finder()
        for picture in small_pictures(clip.path, MODEL_FPS, SMALL_SIDE_PX):
            finder.add(picture)
        return self.scenes(clip, finder.finish(), folder)

    def finder(self) -> CutFinder:
        return CutFinder(self.settings.scene_threshold, self.settings.min_scene_change)

    def scenes(self, clip: Clip, cuts: list[int], folder: Path | None) -> list[StageOutcome]:
        """The scenes of a clip whose file has cuts at these ticks."""
        first, last = clip.path_frames
        inner = [cut - first for cut in cuts if first < cut < last]
        borders = [0, *inner, clip.frame_count]
        scored = clip.scored(scenes=len(borders) - 1)
        found = [scored.cut(a, b) for a, b in zip(borders, borders[1:], strict=False)]
        return [Kept(scene if folder is None else write_clip(scene, folder)) for scene in found]
