"""Steps: stages that share one decode, and single stages in the same form."""

from collections.abc import Iterator, Sequence

from latentsync.processing.clip import Clip, Kept, StageOutcome
from latentsync.processing.stages.affine_transformed import AffineTransformedStage, Aligner
from latentsync.processing.stages.contract import Folders, Stage
from latentsync.processing.stages.high_resolution import FaceMeter, HighResolutionStage
from latentsync.processing.stages.readable import ReadableStage
from latentsync.processing.stages.resampled import ResampledStage
from latentsync.processing.stages.segmented import SegmentedStage
from latentsync.processing.stages.shot import ShotStage
from latentsync.processing.stages.span import FrameArray

StepOutcomes = list[tuple[str, StageOutcome]]


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
    """Stages 1 to 4: cuts are looked for while the source is checked, in one decode of small pictures.

    Where a stage has a folder, its files are written from the file before, as the stages by themselves do.
    """

    name = "readable"
    needs_gpu = False

    def __init__(
        self, readable: ReadableStage, resampled: ResampledStage, shot: ShotStage, segmented: SegmentedStage
    ) -> None:
        self.readable, self.resampled, self.shot, self.segmented = readable, resampled, shot, segmented
        self.stages: Sequence[Stage] = (readable, resampled, shot, segmented)

    def __call__(self, clip: Clip, folders: Folders) -> StepOutcomes:
        finder = self.shot.finder()
        checked = self.readable.look(clip, finder.add)
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

    What is written of a clip that turns out to be dropped is thrown away.
    """

    name = "high_resolution"
    needs_gpu = True

    def __init__(self, measured: HighResolutionStage, aligned: AffineTransformedStage) -> None:
        self.measured, self.aligned = measured, aligned
        self.stages: Sequence[Stage] = (measured, aligned)

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
        """Aligned faces up to the first frame without one; then the rest is only measured, and nothing is kept."""
        aligner = Aligner(self.aligned.resolution)
        for seen in meter.follow(clip, self.measured.detector):
            if seen.face is not None and meter.first_faceless is None:
                yield aligner.align(seen.frame, seen.face)
        scores = meter.scores
        if self.measured.rule.decide(scores) or self.aligned.rule.decide(scores):
            raise RejectedError


def _kept(outcomes: Sequence[StageOutcome]) -> list[Clip]:
    return [outcome.clip for outcome in outcomes if isinstance(outcome, Kept)]
