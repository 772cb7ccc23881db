"""What a user can choose: how windows are sampled, and what becomes of a video."""

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from fractions import Fraction
from types import MappingProxyType
from typing import Any, Literal, TypeVar, get_args, get_origin, get_type_hints

from latentsync.device import Precision
from latentsync.diffusion.solvers import find_solver
from latentsync.inference.jobs.timeline import Length, Rest
from latentsync.inference.memory import MemoryChoice
from latentsync.media.pixels.interlace import Interlaced
from latentsync.media.video.encode import Codec
from latentsync.media.video.write import DEFAULT_CRF

# Trades of time for quality, one table for the command line, Python and the web app; chosen by `python -m benchmarks.presets`.
PresetName = Literal["custom", "quality", "balanced", "fast", "turbo"]
CUSTOM = "custom"  # no preset: what a checkpoint recommends, or what was chosen one by one

# name -> entries of `InferenceSettings`; what a checkpoint was trained for (reference, init, colour) is none of theirs
WHOLE_WAY = (0.0, 1.0)
PRESETS: Mapping[str, Mapping[str, Any]] = MappingProxyType(
    {
        "quality": {
            "solver": "ddim",
            "steps": 20,
            "guidance_scale": 1.5,
            "guidance_interval": WHOLE_WAY,
            "deepcache_interval": 1,
        },
        "balanced": {
            "solver": "ddim",
            "steps": 10,
            "guidance_scale": 1.5,
            "guidance_interval": WHOLE_WAY,
            "deepcache_interval": 1,
        },
        "fast": {
            "solver": "unipc",
            "steps": 4,
            "guidance_scale": 1.5,
            "guidance_interval": (0.0, 0.5),  # the mouth's shape is decided while the noise is strong
            "deepcache_interval": 1,
        },
        "turbo": {
            "solver": "lcm",
            "steps": 2,
            "guidance_scale": 1.0,
            "guidance_interval": WHOLE_WAY,
            "deepcache_interval": 1,
            "vae": "auto",
        },
    }
)
PRESETS_IN_HALF = ("fast", "turbo")  # take half precision where the processor is fast at it


def precision_of(preset: str | None) -> Precision:
    """In which precision networks are loaded that are going to work by a preset; `auto` without one."""
    return "half" if preset in PRESETS_IN_HALF else "auto"


def needs_distilled(preset: str) -> bool:
    """Whether a preset is for distilled weights only; False for `custom`."""
    return preset in PRESETS and find_solver(PRESETS[preset]["solver"]).needs_distilled


def expanded(entries: Mapping[str, Any]) -> dict[str, Any]:
    """Entries of settings with those of their `preset`, if they name one, which all others override."""
    given = {name: value for name, value in entries.items() if value is not None}
    return {**PRESETS.get(given.get("preset", CUSTOM), {}), **given}


Reference = Literal["current", "elsewhere", "closed"]
Init = Literal["noise", "reference"]
Colour = Literal["decoded", "matched", "ring"]
Vae = Literal["full", "tiny", "auto"]
LastWindow = Literal["shift", "shorten"]
OnMissingFace = Literal["passthrough", "error"]
Chosen = TypeVar("Chosen", "InferenceSettings", "JobOptions")
MIN_FPS, MAX_FPS, MAX_CRF = 1, 240, 63
RANDOM_SEED = -1  # asks for another seed every time
DEFAULT_SEED = 1247
DEEPCACHE_INTERVAL = 3  # what --enable_deepcache means, as in the public script


@dataclass(frozen=True)
class InferenceSettings:
    """How windows are sampled. The defaults are the public checkpoints'; others may recommend their own.

    `reference`: the network is shown the very frames that it repaints (`current`), or another moment of the same face
    (`elsewhere`), as in training, from which it cannot copy the old lips, or the moment at which the mouth is most closed
    (`closed`). `init`: sampling starts from pure noise, or
    from the reference noised to the first step. `colour`: faces keep the colours that the auto-encoder decodes
    (`decoded`), are freed of its colour error, which one more encode and decode of the original face tells (`matched`), or
    get the colours that the original has on a ring around what is generated (`ring`).

    `last_window`: a segment seldom is a whole number of windows long; the frames left over are sampled together with those before
    them, and where a segment is shorter than a window its last frame is repeated (`shift`), or in a shorter window of their own
    (`shorten`), as the public releases do it.

    `vae`: faces are decoded by the auto-encoder itself (`full`), by a small network that imitates it (`tiny`), or by that one
    where its file is there (`auto`).

    `solver` walks from noise to latents in `steps`, see `latentsync.diffusion.solvers`; `lcm` is for distilled weights. Guidance
    is applied while sampling is between the two shares of `guidance_interval` of its way, from noise (0) to latents (1); outside
    a step costs half. Of every `deepcache_interval` steps the first runs the whole U-Net, the others only its last layer, on
    deep features kept from that step (DeepCache); 1 runs the whole U-Net in every step.

    `preset` names the entry of `latentsync.inference.settings` that these settings are, if they are one.
    """

    steps: int = 20
    guidance_scale: float = 1.5
    guidance_interval: tuple[float, float] = (0.0, 1.0)
    deepcache_interval: int = 1
    solver: str = "ddim"
    preset: PresetName = "custom"
    reference: Reference = "current"
    init: Init = "noise"
    colour: Colour = "decoded"
    vae: Vae = "full"
    seed: int = DEFAULT_SEED
    overlap: int = 0  # frames of a window that the next one samples again, to fade from one to the other
    last_window: LastWindow = "shift"

    def __post_init__(self) -> None:
        check_choices(self)
        find_solver(self.solver)
        if not 1 <= self.steps < 1000:
            raise ValueError(f"steps is {self.steps}: choose 1 to 999, usually 10 to 50.")
        if not 0 <= self.guidance_scale <= 100:
            raise ValueError(f"guidance_scale is {self.guidance_scale}: choose 1 (none) to about 3.")
        self._check_deepcache()
        if not -1 <= self.seed < 2**63:
            raise ValueError(f"seed is {self.seed}: choose a number from 0 on, or -1 for another result every time.")
        if self.overlap < 0:
            raise ValueError(f"overlap is {self.overlap}: choose 0 (none) or some frames, fewer than a window has.")
        object.__setattr__(self, "guidance_interval", checked_interval(self.guidance_interval))
        own = PRESETS.get(self.preset, {})
        if any(getattr(self, name) != value for name, value in own.items()):
            object.__setattr__(self, "preset", CUSTOM)

    def _check_deepcache(self) -> None:
        interval = self.deepcache_interval
        if not 1 <= interval < 1000 or interval != int(interval):
            raise ValueError(
                f"deepcache_interval is {interval}: choose 1 (the whole U-Net in every step) or a small whole number such as"
                f" {DEEPCACHE_INTERVAL}."
            )
        if interval > 1 and self.needs_distilled_weights:
            raise ValueError(
                f"deepcache_interval is {interval}, but the solver {self.solver} (preset turbo) takes few, long steps with new"
                " noise between them, so features cannot be kept: leave out --enable_deepcache and --deepcache_interval."
            )

    def changed(self, entries: Mapping[str, Any]) -> "InferenceSettings":
        """These settings with those entries that are not None; a `preset` comes first, then the others; ValueError for an
        unknown name."""
        return changed(self, expanded(entries))

    @property
    def needs_distilled_weights(self) -> bool:
        return find_solver(self.solver).needs_distilled

    def seeded(self) -> "InferenceSettings":
        """These settings with a drawn seed in place of `RANDOM_SEED`."""
        return replace(self, seed=random.SystemRandom().randrange(2**31)) if self.seed == RANDOM_SEED else self


@dataclass(frozen=True)
class JobOptions:
    """What becomes of a video, whatever the networks: its tracks, its clock, its length, whose face, how it is stored.

    `fps`: frames a second of the result, None for the source's own frames and times. `length` is what happens where the
    sound is longer than the video, `rest` where it is shorter (see `latentsync.inference.jobs.timeline`). `face`,
    the limits of size and yaw, None for the usual ones, are those of `latentsync.inference.faces.select` and `FacePolicy`.
    `interlaced` pictures become progressive ones (`deinterlace`), or stay as they are, flagged so (`keep`).
    `video_track` and `audio_track` choose among several tracks of the video and of the audio file, the first is 1; None is the
    one that the file marks as the default.
    """

    fps: Fraction | None = None
    length: Length = "bounce"
    rest: Rest = "cut"
    limit_sec: float | None = None  # only so much of the beginning: a preview
    face: str = "largest"
    on_missing_face: OnMissingFace = "passthrough"
    min_face_px: float | None = None
    max_yaw_deg: float | None = None
    interlaced: Interlaced = "deinterlace"
    codec: Codec = "auto"
    crf: int = DEFAULT_CRF  # 46 dB outside the face on real footage that had been encoded before
    memory: MemoryChoice = "auto"
    video_track: int | None = None
    audio_track: int | None = None

    def __post_init__(self) -> None:
        check_choices(self)
        for name in ("video_track", "audio_track"):
            track = getattr(self, name)
            if track is not None and track < 1:
                raise ValueError(
                    f"{name} is {track}: choose 1 (the first) or above, or leave it out for the default one."
                )
        if self.fps is not None and not MIN_FPS <= self.fps <= MAX_FPS:
            raise ValueError(f"fps is {self.fps}: choose {MIN_FPS} to {MAX_FPS}, or leave it out for the source's own.")
        if self.limit_sec is not None and not self.limit_sec > 0:
            raise ValueError(
                f"limit_sec is {self.limit_sec}: choose a number of seconds above 0, or leave it out for all."
            )
        for name in ("min_face_px", "max_yaw_deg"):
            limit = getattr(self, name)
            if limit is not None and not 0 <= limit < float("inf"):
                raise ValueError(f"{name} is {limit}: choose 0 or a number above, or leave it out for the usual one.")
        if not 0 <= self.crf <= MAX_CRF:
            raise ValueError(f"crf is {self.crf}: choose 0 (best) to {MAX_CRF}, usually 12 to 23.")

    def changed(self, entries: Mapping[str, Any]) -> "JobOptions":
        """These options with those entries that are not None; ValueError for an unknown name."""
        return changed(self, entries)


def changed(settings: Chosen, entries: Mapping[str, Any]) -> Chosen:
    """A dataclass with those entries that are not None; ValueError for an unknown name."""
    known = {field.name for field in fields(settings)}
    for name in entries:
        if name not in known:
            raise ValueError(f"{name!r} is no inference setting: there are {', '.join(sorted(known))}.")
    return replace(settings, **{name: value for name, value in entries.items() if value is not None})


def check_choices(settings: Any) -> None:
    """Raise ValueError where a field of a dataclass has none of its `Literal` values."""
    for name, kind in get_type_hints(type(settings)).items():
        value = getattr(settings, name)
        if get_origin(kind) is Literal and value not in get_args(kind):
            raise ValueError(f"{name} is {value!r}: choose {' or '.join(get_args(kind))}.")


def checked_interval(interval: Sequence[float]) -> tuple[float, float]:
    """Two rising shares as a tuple; ValueError where they are none."""
    try:
        start, stop = (float(share) for share in interval)
    except (TypeError, ValueError):
        start, stop = 1.0, 0.0
    if not 0 <= start <= stop <= 1:
        raise ValueError(
            f"guidance_interval is {interval!r}: choose two rising shares of the way from noise to picture, such as 0 0.5."
        )
    return start, stop
