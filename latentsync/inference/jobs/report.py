"""What a run did: every frame of the output, totals, settings, versions, times."""

import json
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import groupby
from pathlib import Path
from typing import Any

from latentsync.inference.settings import InferenceSettings, JobOptions
from latentsync.media.video.mux import atomic_output

# Actions that edit a frame, or would (of a preflight); every other one says why the frame was passed through.
SYNCED, TO_EDIT, BRIDGED = "synced", "would be edited", "bridged"
UNCHANGED = "unchanged"  # the new face equals the old one, or lies outside of the picture
REST = "after the sound"


@dataclass(frozen=True)
class FrameReport:
    """One frame of the output."""

    time_sec: float
    source: int  # its number in the source
    action: str  # SYNCED, TO_EDIT, BRIDGED, or why the frame was passed through
    take: int  # number of the edited segment, whose frames were edited together; -1 without
    box: tuple[float, float, float, float] | None  # x0, y0, x1, y1 of the face, px of the picture as shown
    yaw_deg: float | None  # 0 = frontal
    weight: float  # of the new lips, 0 ... 1

    @property
    def edited(self) -> bool:
        return self.action in (SYNCED, TO_EDIT, BRIDGED)


@dataclass(frozen=True)
class PassedThrough:
    """A stretch of the output that was shown as it was."""

    start_sec: float
    stop_sec: float
    frames: int
    reason: str

    def __str__(self) -> str:
        return f"{clock(self.start_sec)}-{clock(self.stop_sec)} {self.reason}"


@dataclass(frozen=True)
class StageTimes:
    """What one of the stages that overlap did with its time; the busiest one is the bottleneck."""

    name: str  # in JSON `lane`
    busy_sec: float
    input_wait_sec: float  # for something to do
    output_wait_sec: float  # for room for what was done


@dataclass(frozen=True)
class JobReport:
    """What a run did, or would do (`planned`); `to_dict` gives what the JSON beside the output holds."""

    output: str
    video: str
    audio: str
    width: int  # px
    height: int  # px
    fps: float  # of the output, on the average
    duration_sec: float
    sound_sec: float  # of the given audio
    source_frames: int
    length: str  # how video and sound were brought to one length, a sentence
    per_frame: tuple[FrameReport, ...]
    settings: InferenceSettings  # with the seed that was used
    options: JobOptions
    resolution: int  # px, of the face
    num_frames: int  # of a window
    retried_frames: int  # that took a second try in float32
    device: str
    dtype: str
    encoder: str
    versions: dict[str, str]
    timings_sec: dict[str, float]  # by stage; of the last process where a job was taken up again
    warnings: tuple[str, ...] = ()
    timeline: tuple[StageTimes, ...] = ()  # of the stages that overlapped; of the last process likewise
    planned: bool = False  # a preflight's: nothing was edited

    @property
    def bottleneck(self) -> str:
        """The stage that the others wait for; nothing where stages took turns."""
        return max(self.timeline, key=lambda stage: stage.busy_sec).name if self.timeline else ""

    @property
    def frames(self) -> int:
        return len(self.per_frame)

    @property
    def synced_frames(self) -> int:
        """Frames whose pictures were changed; of a preflight those that would be."""
        return sum(frame.edited for frame in self.per_frame)

    @property
    def passed_through(self) -> tuple[PassedThrough, ...]:
        """The stretches that were not edited."""
        return tuple(passed_stretches(self.per_frame, self.duration_sec))

    @property
    def actions(self) -> dict[str, int]:
        """Frames by action, the most frequent first."""
        return dict(Counter(frame.action for frame in self.per_frame).most_common())

    def summary(self) -> str:
        """One line for people."""
        line = f"{self.synced_frames} of {self.frames} frames {TO_EDIT if self.planned else SYNCED}"
        passed = self.passed_through
        if passed:
            shown = ", ".join(map(str, passed[:MAX_SHOWN]))
            more = f", and {len(passed) - MAX_SHOWN} more" if len(passed) > MAX_SHOWN else ""
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
        per_frame = fields.pop("per_frame")
        return {"summary": self.summary(), **totals, "passed_through": passed, **fields, "per_frame": per_frame}


MAX_SHOWN = 6  # stretches named in the summary
REPORT_KEYS = {"summary", "output", "per_frame", "settings"}


def save_report(report: JobReport, path: Path) -> None:
    """Write the report as JSON: beside its name first, then renamed."""
    with atomic_output(path) as partial:
        partial.write_text(json.dumps(report.to_dict(), ensure_ascii=False) + "\n", encoding="utf-8")


def is_report(path: Path, output: Path) -> bool:
    """Whether a file is a report of this program about an output of the same name."""
    try:
        stored = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    is_ours = isinstance(stored, dict) and stored.keys() >= REPORT_KEYS
    return is_ours and Path(str(stored["output"])).name == output.name


def passed_stretches(frames: Sequence[FrameReport], end_sec: float) -> Iterator[PassedThrough]:
    """Runs of frames that were passed through for one reason."""
    numbered = enumerate(frames)
    for reason, run in groupby(numbered, key=lambda entry: "" if entry[1].edited else entry[1].action):
        indices = [index for index, _ in run]
        if reason:
            after = indices[-1] + 1
            stop_sec = frames[after].time_sec if after < len(frames) else end_sec
            yield PassedThrough(frames[indices[0]].time_sec, stop_sec, len(indices), reason)


def clock(time_sec: float) -> str:
    """Minutes and seconds: 00:12.32."""
    minutes, seconds = divmod(round(time_sec, 2), 60)
    return f"{int(minutes):02d}:{seconds:05.2f}"
