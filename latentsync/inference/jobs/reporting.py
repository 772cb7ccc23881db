"""The report about a job, from its plan alone (preflight) or from what was done."""

from collections.abc import Iterator, Sequence
from importlib.metadata import version

import numpy as np
from numpy.typing import NDArray

import latentsync
from latentsync.inference.faces.plan import ACTIONS, EDIT, NOT_EDITED, FacePlan
from latentsync.inference.jobs.job import LipsyncJob
from latentsync.inference.jobs.report import REST, SYNCED, TO_EDIT, FrameReport, JobReport, StageTimes
from latentsync.inference.jobs.segments import segment_of_output_frames
from latentsync.inference.models import LipsyncModels
from latentsync.inference.settings import InferenceSettings
from latentsync.inference.timing import StageTimer, Stopwatch

Fact = tuple[int, str | None, bool]  # output frame, why it was not changed after all, whether it took a second try
SOFT_ABOVE, SMALL_BELOW = 1.5, 0.25  # widths of a face against the model's resolution that deserve a warning
LIBRARIES = ("torch", "diffusers", "av", "opencv-python", "numpy")


def segment_of_frames(job: LipsyncJob, plan: FacePlan) -> NDArray[np.int64]:
    """The edited segment of every output frame, `NOT_EDITED` for frames that are not edited."""
    timeline = job.timeline
    segment_of_frame = segment_of_output_frames(plan.segment, timeline.order, timeline.jumps)
    segment_of_frame[timeline.frames_with_sound :] = NOT_EDITED
    return segment_of_frame


def make_report(
    job: LipsyncJob,
    plan: FacePlan,
    models: LipsyncModels,
    settings: InferenceSettings,
    stopwatch: Stopwatch,
    facts: Sequence[Fact] = (),
    planned: bool = False,
) -> JobReport:
    """What was done, or would be (`planned`): the plan of every frame, but for the frames that `facts` are about."""
    faults = {frame: fault for frame, fault, _ in facts if fault}
    segment_of_frame = segment_of_frames(job, plan)
    return JobReport(
        output=str(job.output),
        video=str(job.video),
        audio=str(job.audio),
        width=job.info.width,
        height=job.info.height,
        fps=round(float(job.source.rate), 3),
        duration_sec=job.timeline.time_sec(len(segment_of_frame)),
        sound_sec=float(job.sound_sec),
        source_frames=len(job.source),
        length=length_sentence(job),
        per_frame=tuple(
            frame_report(job, plan, segment_of_frame, index, faults.get(index), planned)
            for index in range(len(segment_of_frame))
        ),
        settings=settings,
        options=job.options,
        resolution=models.resolution,
        num_frames=models.num_frames,
        retried_frames=sum(retried for _, _, retried in facts),
        device=str(models.device),
        dtype=str(models.dtype).removeprefix("torch."),
        encoder=job.encoder,
        versions={"latentsync": latentsync.__version__, **{name: version(name) for name in LIBRARIES}},
        timings_sec={stage: round(seconds, 3) for stage, seconds in stopwatch.seconds.items()},
        warnings=(*job.warnings, *warnings_of(plan, models.resolution)),
        timeline=tuple(stage_times(timer) for timer in stopwatch.stage_timers.values()),
        planned=planned,
    )


def stage_times(timer: StageTimer) -> StageTimes:
    """A row of the report's timeline."""
    return StageTimes(timer.name, *(round(sec, 3) for sec in (timer.busy_sec, timer.input_sec, timer.output_sec)))


def frame_report(
    job: LipsyncJob, plan: FacePlan, segment_of_frame: NDArray[np.int64], index: int, fault: str | None, planned: bool
) -> FrameReport:
    """What becomes of output frame `index`."""
    source = int(job.timeline.order[index])
    seen, yaw = bool(np.isfinite(plan.box[source]).all()), float(plan.yaw[source])
    passed = bool(fault) or segment_of_frame[index] == NOT_EDITED
    return FrameReport(
        time_sec=round(job.timeline.time_sec(index), 6),
        source=source,
        action=fault or action_of(job, plan, index, planned),
        take=int(segment_of_frame[index]),
        box=tuple(round(float(edge), 1) for edge in plan.box[source]) if seen else None,  # type: ignore[arg-type]
        yaw_deg=round(yaw, 1) if seen and np.isfinite(yaw) else None,
        weight=0.0 if passed else round(float(plan.weight[source]), 3),
    )


def action_of(job: LipsyncJob, plan: FacePlan, index: int, planned: bool) -> str:
    """What became of output frame `index`, or is planned for it, in words."""
    if index >= job.timeline.frames_with_sound:
        return REST
    action = str(plan.action[job.timeline.order[index]])
    return (TO_EDIT if planned else SYNCED) if action == ACTIONS[EDIT] else action


def length_sentence(job: LipsyncJob) -> str:
    """How a job's video and sound are brought to one length."""
    video_sec, sound_sec, count = float(job.source.times[-1]), float(job.sound_sec), len(job.timeline)
    facts = f"the video lasts {video_sec:.2f} s, the sound {sound_sec:.2f} s"
    if count < len(job.source):
        return f"{facts}: the rest of the video is cut."
    if job.timeline.frames_with_sound < count:
        return f"{facts}: the rest of the video is kept as it is."
    if count == len(job.source):
        is_cut = sound_sec - video_sec >= video_sec / count
        return f"{facts}: the sound is cut." if is_cut else f"{facts}: the same length."
    how = {"bounce": "is played back and forth", "loop": "is repeated", "hold": "holds its last frame"}
    return f"{facts}: the video {how[job.options.length]}."


def warnings_of(plan: FacePlan, resolution: int) -> Iterator[str]:
    """What a user should know about the faces before or after spending time on them."""
    edited = plan.segment != NOT_EDITED
    if not edited.any():
        yield "No frame shows a face that can be edited: the pictures stay as they are."
        return
    width = float(np.median(plan.box[edited, 2] - plan.box[edited, 0]))
    if width > SOFT_ABOVE * resolution:
        yield f"Faces are {width:.0f} px wide, but the model draws {resolution} px: the mouth will be softer than its surroundings."
    if width < SMALL_BELOW * resolution:
        yield f"Faces are only {width:.0f} px wide: there is little to see, and detection is less sure."
