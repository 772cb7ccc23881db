"""Stage 6: the face of every frame is aligned by its landmarks: upright and of one size."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from latentsync.face.align import Smoother, align_matrix, warp_face
from latentsync.face.detection.detector import Face, FaceDetector
from latentsync.processing.clip import Clip, Dropped, Kept, Reason, Scores, StageOutcome
from latentsync.processing.stages.contract import Stage
from latentsync.processing.stages.followed_face import FaceMeter, FaceSettings, check_detector, detector_of
from latentsync.processing.stages.span import FrameArray, clip_sound, write_frames

FACE_LOST = "face_lost"  # in some frames
CRF = 13  # of the aligned faces, as published; they are encoded once


@dataclass
class AlignedSettings(FaceSettings):
    """The size of the aligned faces."""

    needs_new_run: ClassVar[tuple[str, ...]] = ("detector", "resolution")
    resolution: int = 256  # px of the aligned faces

    def check(self) -> None:
        super().check()
        if self.resolution < 64 or self.resolution % 2:
            raise ValueError(f"resolution is {self.resolution}: aligned faces need an even size of at least 64.")


@dataclass(frozen=True)
class AlignedRule:
    """Every frame must show the face, except where the detector misses it briefly (see `followed_face`)."""

    def decide(self, scores: Scores) -> Reason | None:
        return FACE_LOST if scores.get("faceless_frames", 0) > 0 else None

    def explain(self, reason: Reason, scores: Scores) -> str:
        count = int(scores["faceless_frames"])
        return f"{count} {'frame shows' if count == 1 else 'frames show'} no face, the first at {scores['faceless_sec']:.2f} s."


class FaceLostError(Exception):
    """A frame shows no face, so that the clip cannot be aligned throughout."""


class AffineTransformedStage(Stage[AlignedSettings]):
    """Write the aligned face of every frame with the clip's sound, which is unchanged to the sample.

    The smoother is reset for each clip. Scores: `bridged_frames` in which the detector missed the face briefly,
    `faceless_frames` that show none, and `faceless_sec`, the time of the first of them.
    """

    name = "affine_transformed"
    keeps = "the face, aligned and smoothed, a new smoother for each clip"
    reasons = (FACE_LOST,)
    settings_type = AlignedSettings
    writes = "always"
    needs_gpu = True

    def __init__(self, settings: AlignedSettings, detector: FaceDetector | None = None) -> None:
        """`detector` replaces the one that the settings name, so that two stages can share it."""
        super().__init__(settings)
        self.detector = detector or detector_of(settings)

    @classmethod
    def make_rule(cls, settings: AlignedSettings) -> AlignedRule:
        return AlignedRule()

    @classmethod
    def check_installed(cls, settings: AlignedSettings) -> None:
        check_detector(settings)

    def __call__(self, clip: Clip, folder: Path | None) -> list[StageOutcome]:
        assert folder is not None, "aligned faces are written"
        meter, aligner = FaceMeter(), Aligner(self.settings.resolution)

        def faces() -> Iterator[FrameArray]:
            for seen in meter.follow(clip, self.detector):
                if seen.face is None:
                    raise FaceLostError
                yield aligner.align(seen.frame, seen.face)

        try:
            self.write(clip, folder, faces())
        except FaceLostError:
            return [self.lost(clip, meter)]
        scored = clip.scored(bridged_frames=meter.bridged, faceless_frames=0, faceless_sec=-1.0)
        return [Kept(scored.moved(folder / clip.file_name))]

    def write(self, clip: Clip, folder: Path, faces: Iterator[FrameArray]) -> None:
        write_frames(folder / clip.file_name, faces, [clip_sound(clip)], CRF)

    def lost(self, clip: Clip, meter: FaceMeter) -> StageOutcome:
        """The outcome of a clip in which the face was lost; measuring ended there, so one such frame was counted."""
        known = {name: meter.scores[name] for name in ("bridged_frames", "faceless_frames", "faceless_sec")}
        scored = clip.scored(**{**known, **{name: clip.scores[name] for name in known if name in clip.scores}})
        return Dropped(scored, FACE_LOST, self.rule.explain(FACE_LOST, scored.scores))


class Aligner:
    """Aligns the faces of one clip, smoothed over time."""

    def __init__(self, resolution: int) -> None:
        self.resolution = resolution
        self.smoother = Smoother()

    def align(self, frame: FrameArray, face: Face) -> FrameArray:
        """The aligned face, uint8 [r, r, 3], of the clip's next frame."""
        return warp_face(frame, align_matrix(face.points, self.resolution, self.smoother), self.resolution)
