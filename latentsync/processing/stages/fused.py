"""Steps: a single stage, and groups of stages that share one decode."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from latentsync.processing.clip import Clip, Kept, StageOutcome
from latentsync.processing.stages.affine_transformed import AffineTransformedStage, Aligner
from latentsync.processing.stages.contract import Folders, Stage, Step, StepOutcomes
from latentsync.processing.stages.followed_face import FaceMeter
from latentsync.processing.stages.high_resolution import HighResolutionStage
from latentsync.processing.stages.readable import ReadableStage
from latentsync.processing.stages.resampled import ResampledStage
from latentsync.processing.stages.segmented import SegmentedStage
from latentsync.processing.stages.shot import ShotStage
from latentsync.processing.stages.span import FrameArray


class SingleStep:
    """One stage as a step."""

    def __init__(self, stage: Stage) -> None:
        self.stages = (stage,)
        self.name = stage.name
        self.needs_gpu = stage.needs_gpu

    def __call__(self, clip: Clip, folders: Folders) -> StepOutcomes:
        stage = self.stages[0]
        return [(stage.name, outcome) for outcome in stage(clip, folders.get(stage.name))]


class SourceStep:
    """Stages 1 to 4: the source is checked and cuts are detected in one decode of small pictures.

    Where a stage has a folder, its files are written from the file of the stage before, as each stage alone writes them.
    """

    name = ReadableStage.name
    needs_gpu = False

    def __init__(self, settings: Any) -> None:
        """`settings` are those of all four stages in one object."""
        self.readable, self.resampled = ReadableStage(settings), ResampledStage(settings)
        self.shot, self.segmented = ShotStage(settings), SegmentedStage(settings)
        self.stages: Sequence[Stage] = (self.readable, self.resampled, self.shot, self.segmented)

    def __call__(self, clip: Clip, folders: Folders) -> StepOutcomes:
        finder = self.shot.finder()
        checked = self.readable.check(clip, finder.add)
        outcomes: StepOutcomes = [(self.readable.name, checked)]
        for source in _kept([checked]):
            cuts = [cut - source.path_frames[0] for cut in finder.finish()]  # in the clip
            resampled = self.resampled(source, folders.get(self.resampled.name))
            outcomes += [(self.resampled.name, each) for each in resampled]
            for whole in _kept(resampled):
                in_file = [cut + whole.path_frames[0] for cut in cuts]
                scenes = self.shot.scenes(whole, in_file, folders.get(self.shot.name))
                outcomes += [(self.shot.name, each) for each in scenes]
                outcomes += [(self.segmented.name, each) for each in self._segments(scenes, folders)]
        return outcomes

    def _segments(self, scenes: Sequence[StageOutcome], folders: Folders) -> Iterator[StageOutcome]:
        for scene in _kept(scenes):
            yield from self.segmented(scene, folders.get(self.segmented.name))


class RejectedError(Exception):
    """The clip was dropped while its aligned faces were being written."""


class FaceStep:
    """Stages 5 and 6: faces are aligned while they are measured, in one decode and one detection.

    If the clip is dropped, the partly written file is removed.
    """

    name = HighResolutionStage.name
    needs_gpu = True

    def __init__(self, settings: Any) -> None:
        """`settings` are those of both stages in one object."""
        self.measured = HighResolutionStage(settings)
        self.aligned = AffineTransformedStage(settings, self.measured.detector)
        self.stages: Sequence[Stage] = (self.measured, self.aligned)

    def __call__(self, clip: Clip, folders: Folders) -> StepOutcomes:
        folder = folders[self.aligned.name]
        assert folder is not None, "aligned faces are written"
        meter = FaceMeter()
        try:
            self.aligned.write(clip, folder, self._faces(clip, meter))
        except RejectedError:
            outcome = self.measured.outcome(clip, meter)
            if not isinstance(outcome, Kept):
                return [(self.measured.name, outcome)]
            return [(self.measured.name, outcome), (self.aligned.name, self.aligned.lost(outcome.clip, meter))]
        scored = clip.scored(**meter.scores)
        written = Kept(scored.moved(folder / clip.file_name))
        return [(self.measured.name, Kept(scored)), (self.aligned.name, written)]

    def _faces(self, clip: Clip, meter: FaceMeter) -> Iterator[FrameArray]:
        """Aligned faces up to the first frame without one; the frames after it are only measured, and nothing is kept."""
        aligner = Aligner(self.aligned.settings.resolution)
        for seen in meter.follow(clip, self.measured.detector):
            if seen.face is not None and meter.first_faceless is None:
                yield aligner.align(seen.frame, seen.face)
        scores = meter.scores
        if self.measured.rule.decide(scores) or self.aligned.rule.decide(scores):
            raise RejectedError


def _kept(outcomes: Sequence[StageOutcome]) -> list[Clip]:
    return [outcome.clip for outcome in outcomes if isinstance(outcome, Kept)]


FUSED: Mapping[tuple[type[Stage], ...], Callable[[Any], Step]] = {
    (ReadableStage, ResampledStage, ShotStage, SegmentedStage): SourceStep,
    (HighResolutionStage, AffineTransformedStage): FaceStep,
}
