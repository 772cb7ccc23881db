"""The report of a job: every frame of the output, totals, settings, versions, times. Written as JSON beside the output."""

import json
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from importlib.metadata import PackageNotFoundError, version
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

import latentsync
from latentsync.inference.faces.plan import ACTIONS, EDIT, NOT_EDITED, FacePlan, runs
from latentsync.inference.jobs.job import LipsyncJob
from latentsync.inference.jobs.ranges import sound_sentence
from latentsync.inference.jobs.segments import segment_of_frames
from latentsync.inference.jobs.speakers import Speaker
from latentsync.inference.settings import InferenceSettings, JobOptions
from latentsync.inference.timing import StageTimer, Stopwatch
from latentsync.media.container import MediaError
from latentsync.media.mark import Mark
from latentsync.media.video.mux import atomic_output

if TYPE_CHECKING:
    from latentsync.inference.models import LipsyncModels  # imports PyTorch, which reading a report does not need

# Actions of edited frames; every other action is the reason why a frame was passed through.
SYNCED, TO_EDIT, BRIDGED = "synced", "would be edited", "bridged"  # TO_EDIT: in a preflight
REST, SILENT = "after the sound", "no speech"
MAX_LISTED = 6  # stretches listed in the summary
REPORT_KEYS = {"summary", "output", "per_frame", "settings"}  # by which a report is recognised
ON_ITS_SIDE_FROM_DEG, UPSIDE_DOWN_FROM_DEG = 60, 135  # tilt of all edited faces together
SOFT_ABOVE, SMALL_BELOW = 1.5, 0.25  # face width / model resolution beyond which there is a warning
# A mouth whose opening, over the distance of the eyes, varies less than that in at least so many frames hardly moves.
STILL_BELOW, STILL_FROM_FRAMES = 0.04, 25
LIBRARIES = ("torch", "av", "opencv-python", "opencv-python-headless", "numpy")  # one of the two of OpenCV is installed

# Output frame, why it was not edited despite the plan, whether it was sampled a second time, number of the job's person.
Fact = tuple[int, str | None, bool, int]
Spans = tuple[tuple[float, float], ...]  # from ... to ..., seconds of the output


@dataclass(frozen=True)
class FrameReport:
    """One frame of the output."""

    time_sec: float
    source: int  # frame number in the source
    action: str  # SYNCED, TO_EDIT, BRIDGED, or the reason why the frame was passed through
    take: int  # number of the edited segment; -1 if the plan does not edit the frame
    box: tuple[float, float, float, float] | None  # x0, y0, x1, y1 of the face, px of the picture as shown
    yaw_deg: float | None  # turn to the image's right: 0 is frontal
    pitch_deg: float | None  # of a head that looks down: 0 is level, or not measured
    weight: float  # of the new lips, 0 ... 1

    @property
    def edited(self) -> bool:
        return self.action in (SYNCED, TO_EDIT, BRIDGED)


@dataclass(frozen=True)
class PassedThrough:
    """A stretch of the output that was passed through unedited, for one reason."""

    start_sec: float
    stop_sec: float
    frames: int
    reason: str

    def __str__(self) -> str:
        return f"{clock(self.start_sec)}-{clock(self.stop_sec)} {self.reason}"


@dataclass(frozen=True)
class SpeakerReport:
    """One person of a file of speakers."""

    name: str
    face: tuple[str, ...]
    settings: InferenceSettings
    end_sec: float  # of the output
    per_frame: tuple[FrameReport, ...]
    occluded_sec: Spans = ()  # where something is in front of their face

    @property
    def edited_frames(self) -> int:
        return sum(frame.edited for frame in self.per_frame)

    @property
    def edited_sec(self) -> list[tuple[float, float]]:
        """The stretches of the output in which the person's lips are changed."""
        ends = [*(frame.time_sec for frame in self.per_frame[1:]), self.end_sec]
        runs = groupby(zip(self.per_frame, ends, strict=True), key=lambda each: each[0].edited)
        stretches = [list(run) for is_edited, run in runs if is_edited]
        return [(stretch[0][0].time_sec, stretch[-1][1]) for stretch in stretches]

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        passed = [asdict(stretch) for stretch in passed_stretches(self.per_frame, self.end_sec)]
        fields = asdict(self)
        per_frame = fields.pop("per_frame")
        times = {"edited_frames": self.edited_frames, "edited_sec": self.edited_sec, "passed_through": passed}
        return {**fields, **times, "per_frame": per_frame}


@dataclass(frozen=True)
class StageTimes:
    """Seconds of one pipeline stage; the busiest stage is the bottleneck."""

    name: str  # `lane` in the JSON
    busy_sec: float
    input_wait_sec: float  # waiting for input
    output_wait_sec: float  # waiting for room in the next stage's queue


@dataclass(frozen=True)
class JobReport:
    """The result of a job, or of its plan (`planned`); `to_dict` is the JSON file beside the output."""

    output: str
    video: str
    audio: str
    width: int  # px
    height: int  # px
    fps: float  # of the output, on average
    duration_sec: float
    sound_sec: float  # of the audio file
    source_frames: int
    length: str  # one sentence: how video and audio were made equally long
    per_frame: tuple[FrameReport, ...]
    settings: InferenceSettings  # with the actual seed
    options: JobOptions
    resolution: int  # px, of the aligned face
    num_frames: int  # of a window
    retried_frames: int  # sampled again in float32
    device: str
    dtype: str
    encoder: str
    versions: dict[str, str]
    timings_sec: dict[str, float]  # by operation; after a resume only of the last process
    warnings: tuple[str, ...] = ()
    timeline: tuple[StageTimes, ...] = ()  # empty if no stages overlapped; after a resume only of the last process
    planned: bool = False  # by a preflight: nothing was edited
    encoded: tuple[tuple[int, int], ...] = ()  # frames from ... up to ...; the others are copied from the video
    occluded_sec: Spans = ()  # where something is in front of a face, if it was searched or given
    new_sound_sec: Spans = ()  # where the new audio plays; elsewhere the video's own sound
    # of a file of speakers, by name; then `per_frame` shows in each frame the first person who is edited in it
    speakers: tuple[SpeakerReport, ...] = ()
    mark: Mark | None = None  # what the output's metadata say about its origin
    signed: bool = False  # with a C2PA manifest

    @property
    def bottleneck(self) -> str:
        """Name of the busiest pipeline stage, which the others wait for; empty if no stages overlapped."""
        return max(self.timeline, key=lambda stage: stage.busy_sec).name if self.timeline else ""

    @property
    def frames(self) -> int:
        return len(self.per_frame)

    @property
    def synced_frames(self) -> int:
        """Number of frames that were changed, or would be (preflight)."""
        return sum(frame.edited for frame in self.per_frame)

    @property
    def passed_through(self) -> tuple[PassedThrough, ...]:
        """The stretches that were not edited, in order."""
        return tuple(passed_stretches(self.per_frame, self.duration_sec))

    @property
    def actions(self) -> dict[str, int]:
        """Frames by action, the most frequent first."""
        return dict(Counter(frame.action for frame in self.per_frame).most_common())

    def summary(self) -> str:
        """One sentence for people."""
        line = f"{self.synced_frames} of {self.frames} frames {TO_EDIT if self.planned else SYNCED}"
        if self.speakers:
            line += f" ({', '.join(f'{speaker.name} {speaker.edited_frames}' for speaker in self.speakers)})"
        passed = self.passed_through
        if passed:
            shown = ", ".join(map(str, passed[:MAX_LISTED]))
            more = f", and {len(passed) - MAX_LISTED} more" if len(passed) > MAX_LISTED else ""
            line += f", {self.frames - self.synced_frames} passed through ({shown}{more})"
        return f"{line}."

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        totals = {
            "frames": self.frames,
            "frames_to_edit" if self.planned else "synced_frames": self.synced_frames,
            "actions": self.actions,
            "pace": self.bottleneck,
        }
        passed = [asdict(stretch) for stretch in self.passed_through]
        fields = asdict(replace(self, options=replace(self.options, fps=None)))
        fields["options"]["fps"] = None if self.options.fps is None else float(self.options.fps)
        fields["timeline"] = [{"lane": stage.pop("name"), **stage} for stage in fields["timeline"]]
        fields["speakers"] = [speaker.to_dict() for speaker in self.speakers]
        per_frame = fields.pop("per_frame")
        return {"summary": self.summary(), **totals, "passed_through": passed, **fields, "per_frame": per_frame}


def make_report(
    job: LipsyncJob,
    plans: Sequence[FacePlan],
    models: "LipsyncModels",
    settings: InferenceSettings,
    stopwatch: Stopwatch,
    facts: Sequence[Fact] = (),
    planned: bool = False,
) -> JobReport:
    """The report of a job from the plans of its people; `facts` override those of single frames. `planned`: nothing was edited
    yet.
    """
    people = []
    for number, (speaker, plan) in enumerate(zip(job.people, plans, strict=True)):
        reasons = {frame: reason for frame, reason, _, person in facts if reason and person == number}
        people.append(speaker_report(job, speaker, plan, settings, reasons, planned))
    per_frame = tuple(map(first_edited, *(person.per_frame for person in people)))
    return JobReport(
        output=str(job.output),
        video=str(job.video),
        audio=str(job.audio),
        width=job.info.width,
        height=job.info.height,
        fps=round(float(job.source.rate), 3),
        duration_sec=job.timeline.time_sec(len(job.timeline)),
        sound_sec=float(job.sound_sec),
        source_frames=len(job.source),
        length=length_sentence(job),
        per_frame=per_frame,
        settings=settings,
        options=job.options,
        resolution=models.resolution,
        num_frames=models.num_frames,
        retried_frames=sum(retried for _, _, retried, _ in facts),
        device=str(models.device),
        dtype=str(models.dtype).removeprefix("torch."),
        encoder=job.encoder,
        versions={"latentsync": latentsync.__version__, **installed_versions(LIBRARIES)},
        timings_sec={operation: round(seconds, 3) for operation, seconds in stopwatch.seconds.items()},
        warnings=(*job.warnings, *people_warnings(job, plans, models.resolution)),
        timeline=tuple(stage_times(timer) for timer in stopwatch.stage_timers.values()),
        planned=planned,
        encoded=tuple((part.start, part.stop) for part in job.encoded),
        occluded_sec=occluded_spans(job, plans),
        new_sound_sec=tuple((float(each.start_sec), float(each.stop_sec)) for each in job.ranges)
        or ((0.0, min(float(job.sound_sec), job.timeline.time_sec(len(job.timeline)))),),
        speakers=tuple(person for person in people if person.name),
    )


def speaker_report(
    job: LipsyncJob,
    speaker: Speaker,
    plan: FacePlan,
    settings: InferenceSettings,
    reasons: Mapping[int, str],
    planned: bool,
) -> SpeakerReport:
    """The report of one person; `settings` are the job's, `reasons`: why frames were not edited despite the plan."""
    own = speaker.settings(settings)
    weights = speaker.lip_weights(job.timeline, own.silence)
    segment_of_frame = segment_of_frames(plan.segment, job.timeline, weights)
    frames = (OutputFrame(index, int(segment_of_frame[index]), float(weights[index])) for index in range(len(weights)))
    per_frame = tuple(frame_report(job, plan, frame, reasons.get(frame.index), planned) for frame in frames)
    end_sec, occluded = job.timeline.time_sec(len(weights)), occluded_spans(job, [plan])
    return SpeakerReport(speaker.name, speaker.faces, own, end_sec, per_frame, occluded)


def first_edited(*people: FrameReport) -> FrameReport:
    """Of the reports of one frame that of the first person who is edited in it, else the first one."""
    return next((frame for frame in people if frame.edited), people[0])


def occluded_spans(job: LipsyncJob, plans: Sequence[FacePlan]) -> Spans:
    """Seconds of the output in which something is in front of a face of the plans."""
    occluded = np.any([plan.has_occluder for plan in plans], axis=0)[job.timeline.order]
    spans = [span for span in runs(occluded) if occluded[span.start]]
    return tuple(
        (round(job.timeline.time_sec(span.start), 3), round(job.timeline.time_sec(span.stop), 3)) for span in spans
    )


def installed_versions(packages: Iterable[str]) -> dict[str, str]:
    """Versions of those packages that are installed."""
    found = {}
    for name in packages:
        with suppress(PackageNotFoundError):
            found[name] = version(name)
    return found


def stage_times(timer: StageTimer) -> StageTimes:
    """A row of the report's timeline."""
    return StageTimes(timer.name, *(round(sec, 3) for sec in (timer.busy_sec, timer.input_sec, timer.output_sec)))


@dataclass(frozen=True)
class OutputFrame:
    """A frame of the output, the number of its edited segment, and the opacity of its lips by the sound."""

    index: int
    segment: int
    lip_weight: float


def frame_report(job: LipsyncJob, plan: FacePlan, frame: OutputFrame, reason: str | None, planned: bool) -> FrameReport:
    """The report of a frame of the output; `reason`: why it was not edited despite the plan."""
    source = int(job.timeline.order[frame.index])
    seen, angles = bool(np.isfinite(plan.box[source]).all()), (float(plan.yaw[source]), float(plan.pitch[source]))
    yaw, pitch = (round(angle, 1) if seen and np.isfinite(angle) else None for angle in angles)
    passed = bool(reason) or frame.segment == NOT_EDITED
    return FrameReport(
        time_sec=round(job.timeline.time_sec(frame.index), 6),
        source=source,
        action=reason or action_of(job, plan, frame, planned),
        take=frame.segment,
        box=tuple(round(float(edge), 1) for edge in plan.box[source]) if seen else None,  # type: ignore[arg-type]
        yaw_deg=yaw,
        pitch_deg=pitch,
        weight=0.0 if passed else round(float(plan.weight[source]) * frame.lip_weight, 3),
    )


def action_of(job: LipsyncJob, plan: FacePlan, frame: OutputFrame, planned: bool) -> str:
    """The action of a frame of the output, done or planned."""
    if frame.index >= job.timeline.frames_with_sound:
        return REST
    source = job.timeline.order[frame.index]
    if not frame.lip_weight and plan.edited[source]:
        return SILENT
    action = str(plan.action[source])
    return (TO_EDIT if planned else SYNCED) if action == ACTIONS[EDIT] else action


def length_sentence(job: LipsyncJob) -> str:
    """One sentence: how a job's video and audio are made equally long."""
    video_sec, sound_sec, count = float(job.source.times[-1]), float(job.sound_sec), len(job.timeline)
    facts = f"the video lasts {video_sec:.2f} s, the sound {sound_sec:.2f} s"
    if job.ranges:
        return f"{facts}: {sound_sentence(job.ranges, job.audio.name)}."
    if count < len(job.source):
        return f"{facts}: the end of the video is cut."
    if job.timeline.frames_with_sound < count:
        return f"{facts}: the end of the video is kept unedited."
    if count == len(job.source):
        is_cut = sound_sec - video_sec >= video_sec / count
        return f"{facts}: the sound is cut." if is_cut else f"{facts}: the same length."
    how = {"bounce": "is played back and forth", "loop": "is repeated", "hold": "holds its last frame"}
    return f"{facts}: the video {how[job.options.length]}."


def people_warnings(job: LipsyncJob, plans: Sequence[FacePlan], resolution: int) -> Iterator[str]:
    """The warnings about the faces of all people; with their names, if they have any."""
    for speaker, plan in zip(job.people, plans, strict=True):
        for warning in warnings_of(plan, resolution):
            yield f"{speaker.name}: {warning}" if speaker.name else warning


def warnings_of(plan: FacePlan, resolution: int) -> Iterator[str]:
    """Warnings about the faces' sizes and about a video that is not upright, one sentence each."""
    edited = plan.segment != NOT_EDITED
    if not edited.any():
        yield "No frame shows a face that can be edited: the pictures stay as they are."
        return
    width = float(np.median(plan.box[edited, 2] - plan.box[edited, 0]))
    if width > SOFT_ABOVE * resolution:
        yield f"Faces are {width:.0f} px wide, but the model generates {resolution} px: the mouth will be softer than in the video."
    if width < SMALL_BELOW * resolution:
        yield f"Faces are only {width:.0f} px wide: they have little detail, and detection is less reliable."
    if hardly_moves(plan.opening[edited]):
        yield (
            "The mouth hardly moves in the video, so the new lips may open too little: try --strength 1.3, or a video in which"
            " the person speaks."
        )
    across = (plan.points[edited, 1] - plan.points[edited, 0]).sum(axis=0)
    roll_deg = float(np.degrees(np.arctan2(across[1], across[0])))
    if abs(roll_deg) > UPSIDE_DOWN_FROM_DEG:
        yield "The video is upside down: the faces are edited as they stand in it."
    elif abs(roll_deg) > ON_ITS_SIDE_FROM_DEG:
        side = "right" if roll_deg > 0 else "left"
        yield f"The video lies on its side (heads point to the {side}): the faces are edited as they lie in it."


def hardly_moves(opening: NDArray[np.floating]) -> bool:
    """Whether a mouth hardly moves; its `opening` [n] over the distance of the eyes is NaN where unknown."""
    known = opening[np.isfinite(opening)]
    if len(known) < STILL_FROM_FRAMES:
        return False
    low, high = np.quantile(known, (0.05, 0.95))
    return bool(high - low < STILL_BELOW)


def check_report(path: Path, job: LipsyncJob, force: bool = False) -> Path:
    """Return `path` if the report may be written there, and create its folder.

    Raises MediaError if it is a file of the job, or exists and is not a report about this output (unless `force`).
    """
    files = job.video, job.audio, job.output, *job.spoken_files, *filter(None, [job.options.masks])
    if path.resolve() in {each.resolve() for each in files}:
        raise MediaError(f"cannot write the report {path}: it is a file of the same run. Give another name.")
    if path.exists() and not force and not is_report(path, job.output):
        raise MediaError(
            f"{path} exists and is not a report about {job.output.name}: give another --report, or --force to replace it."
        )
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise MediaError(f"cannot write the report {path}: {error.strerror}. Choose another folder.") from error
    return path


def save_report(report: JobReport, path: Path) -> None:
    """Write the report as JSON, atomically."""
    with atomic_output(path) as partial:
        partial.write_text(json.dumps(report.to_dict(), ensure_ascii=False) + "\n", encoding="utf-8")


def is_report(path: Path, output: Path) -> bool:
    """Whether a file is a report that this program wrote about an output of that name."""
    try:
        stored = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    is_ours = isinstance(stored, dict) and stored.keys() >= REPORT_KEYS
    return is_ours and Path(str(stored["output"])).name == output.name


def passed_stretches(frames: Sequence[FrameReport], end_sec: float) -> Iterator[PassedThrough]:
    """Consecutive frames that were passed through for the same reason."""
    numbered = enumerate(frames)
    for reason, run in groupby(numbered, key=lambda entry: "" if entry[1].edited else entry[1].action):
        indices = [index for index, _ in run]
        if reason:
            after = indices[-1] + 1
            stop_sec = frames[after].time_sec if after < len(frames) else end_sec
            yield PassedThrough(frames[indices[0]].time_sec, stop_sec, len(indices), reason)


def clock(time_sec: float) -> str:
    """Minutes and seconds, such as 00:12.32."""
    minutes, seconds = divmod(round(time_sec, 2), 60)
    return f"{int(minutes):02d}:{seconds:05.2f}"
