"""What a user can choose about a run, and what a run reports."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields, replace
from typing import Any, Literal, get_args, get_type_hints

from latentsync.timebase import MODEL_FPS

Reference = Literal["current", "elsewhere"]
Init = Literal["noise", "reference"]
Colour = Literal["decoded", "matched"]
RANDOM_SEED = -1  # asks for another seed every time
DEFAULT_SEED = 1247


@dataclass(frozen=True)
class InferenceSettings:
    """How windows are sampled. The defaults are the public checkpoints'; others may recommend their own.

    `reference`: the network is shown the very frames that it repaints (`current`), or another moment of the same face
    (`elsewhere`), as in training, from which it cannot copy the old lips. `init`: sampling starts from pure noise, or
    from the reference noised to the first step. `colour`: faces keep the colours that the auto-encoder decodes
    (`decoded`), or are freed of its colour error, which one more encode and decode of the original face tells (`matched`).
    """

    steps: int = 20
    guidance_scale: float = 1.5
    reference: Reference = "current"
    init: Init = "noise"
    colour: Colour = "decoded"
    seed: int = DEFAULT_SEED

    def __post_init__(self) -> None:
        for name, kind in get_type_hints(type(self)).items():
            value = getattr(self, name)
            if get_args(kind) and value not in get_args(kind):
                raise ValueError(f"{name} is {value!r}: choose {' or '.join(get_args(kind))}.")
        if not 1 <= self.steps < 1000:
            raise ValueError(f"steps is {self.steps}: choose 1 to 999, usually 10 to 50.")
        if not 0 <= self.guidance_scale <= 100:
            raise ValueError(f"guidance_scale is {self.guidance_scale}: choose 1 (none) to about 3.")
        if not -1 <= self.seed < 2**63:
            raise ValueError(f"seed is {self.seed}: choose a number from 0 on, or -1 for another result every time.")

    def changed(self, entries: Mapping[str, Any]) -> "InferenceSettings":
        """These settings with those entries that are not None; ValueError for an unknown name."""
        known = {field.name for field in fields(self)}
        for name in entries:
            if name not in known:
                raise ValueError(f"{name!r} is no inference setting: there are {', '.join(sorted(known))}.")
        return replace(self, **{name: value for name, value in entries.items() if value is not None})


@dataclass(frozen=True)
class PassedThrough:
    """Output frames start ... stop - 1, shown as they were."""

    start_frame: int
    stop_frame: int
    reason: str

    def __str__(self) -> str:
        return f"{clock(self.start_frame)}-{clock(self.stop_frame)} {self.reason}"


def clock(frame: int) -> str:
    """The time at which an output frame is shown, as minutes and seconds: 00:12.32."""
    minutes, seconds = divmod(frame / MODEL_FPS, 60)
    return f"{int(minutes):02d}:{seconds:05.2f}"


@dataclass(frozen=True)
class Report:
    """What a run did."""

    output: str
    width: int  # px
    height: int  # px
    frames: int  # of the output, at 25 fps
    synced_frames: int
    passed_through: tuple[PassedThrough, ...]
    source_frames: int  # looked at
    face_share: float  # share of the source frames in which the face was found
    settings: InferenceSettings  # with the seed that was used
    resolution: int  # px, of the face
    num_frames: int  # of a window
    device: str
    dtype: str
    timings_sec: dict[str, float]  # by stage

    def summary(self) -> str:
        """One line for people."""
        line = f"{self.synced_frames} of {self.frames} frames synced"
        if self.passed_through:
            where = ", ".join(map(str, self.passed_through))
            line += f", {self.frames - self.synced_frames} passed through ({where})"
        return f"{line}."

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return asdict(self)
