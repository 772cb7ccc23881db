"""Settings of a run: how windows are sampled (`InferenceSettings`, presets) and how a video is processed (`JobOptions`)."""

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from fractions import Fraction
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal, TypeVar, get_args, get_origin, get_type_hints

from latentsync.diffusion.solvers import find_solver
from latentsync.inference.memory import MemoryChoice
from latentsync.media.pixels.interlace import Interlaced
from latentsync.media.video.encode import Codec
from latentsync.media.video.write import DEFAULT_CRF
from latentsync.precision import Precision
from latentsync.weights.adapters import adapters_of

PresetName = Literal["custom", "quality", "balanced", "fast", "turbo"]
Reference = Literal["current", "elsewhere", "closed"]
Init = Literal["noise", "reference"]
Colour = Literal["decoded", "matched"]
Texture = Literal["off", "match"]
Silence = Literal["model", "close", "keep"]
Vae = Literal["full", "tiny", "auto"]
LastWindow = Literal["shift", "shorten"]
Length = Literal["bounce", "loop", "cut", "hold"]  # where the audio is longer than the video
Rest = Literal["cut", "keep"]  # of a video that is longer than the audio
OnMissingFace = Literal["passthrough", "error"]

AUTO, OFF = "auto", "off"  # of the options `occlusion` and `speakers`
MIN_FPS, MAX_FPS, MAX_CRF = 1, 240, 63
MOST_STRENGTH = 2.0
RANDOM_SEED = -1  # draws a seed for every run
DEFAULT_SEED = 1247
DEEPCACHE_INTERVAL = 3  # of --enable_deepcache, as in the public script
CUSTOM = "custom"  # no preset: the checkpoint's recommendation, or settings chosen one by one
PRESETS_IN_HALF = ("fast", "turbo")  # half precision where the device is fast at it

# Presets trade quality for speed: one table for the command line, Python and the web app (`python -m benchmarks.presets`).
# Name -> fields of `InferenceSettings`. Fields that depend on a checkpoint's training (reference, init, colour), and texture,
# are not included.
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
Chosen = TypeVar("Chosen", "InferenceSettings", "JobOptions")


def precision_of(preset: str | None) -> Precision:
    """The precision in which to load networks for a preset; `auto` without one."""
    return "half" if preset in PRESETS_IN_HALF else "auto"


def needs_distilled(entries: Mapping[str, Any]) -> bool:
    """Whether entries ask for distilled weights: by their preset, also where another entry overrides its solver, or by a solver."""
    preset, solver = PRESETS.get(entries.get("preset") or CUSTOM, {}), entries.get("solver")
    return any(find_solver(name).needs_distilled for name in (preset.get("solver"), solver) if name)


def expanded(entries: Mapping[str, Any]) -> dict[str, Any]:
    """The entries that are not None, completed by those of their `preset`, if they name one; given entries override it."""
    given = {name: value for name, value in entries.items() if value is not None}
    return {**PRESETS.get(given.get("preset", CUSTOM), {}), **given}


@dataclass(frozen=True)
class InferenceSettings:
    """How windows are sampled. The defaults are for the public checkpoints; others may recommend their own.

    `steps`, `solver`: how noise becomes latents, see `latentsync.diffusion.solvers`; `lcm` needs distilled weights.

    `guidance_scale`, `guidance_interval`: strength of classifier-free guidance, and the interval of sampling progress, from noise
    (0) to latents (1), in which it is applied. Outside of it a step costs half.

    `deepcache_interval`: of every N steps the first runs the whole U-Net, the others only its last layer, on the deep
    features of the first (DeepCache). 1 runs the whole U-Net in every step.

    `preset`: the name in `PRESETS` that these settings equal, else `custom`.

    `reference`: the frames that the network gets beside the masked ones. `current`: the frames being repainted; `elsewhere`:
    another moment of the same face, as in training, so that the old lips cannot be copied; `closed`: the moment at which the
    mouth is most closed.

    `init`: sampling starts from pure noise, or from the reference with noise of the first step.

    `colour`: faces keep the colours that the auto-encoder decodes (`decoded`); or are corrected by the auto-encoder's own colour
    error, measured by encoding and decoding the original face, and by the original's colours along the border of the generated
    region (`matched`).

    `texture`: the repainted part is as sharp as the networks make it (`off`); or keeps the frame's own fine detail where it shows
    the same as before (`match`), see `latentsync.face.texture`.

    `silence`: in pauses of the audio of more than about a second, lips are what the model makes of them (`model`); or the mouth
    rests (`close`); or lips stay those of the video, frame by frame (`keep`); both with a fade before and after, see
    `latentsync.audio.speech_activity`.

    `strength`: how far lips open, see `latentsync.inference.windows.audio`: 1 as the model opens them, 0 closed, up to 2; or
    keyframes such as `0:1 12.5:0.6`, seconds of the audio and strength.

    `adapter`: files of adapters that the U-Net's weights are changed by (see `latentsync.models.unet.adapter`), each with a factor
    from 0 to 2 or without (1), separated by semicolons: `anna.safetensors:0.8; german.safetensors`.

    `vae`: decode faces with the auto-encoder (`full`), with a small network that imitates it (`tiny`), or with the small one if
    its file is present (`auto`).

    `seed`: the same seed gives the same frames; -1 draws one.

    `overlap`: frames at the end of a window that the next window samples again; the two results are cross-faded.

    `last_window`: the frames left over where a segment's length is no multiple of the window are sampled together with the
    frames before them, and a segment shorter than a window repeats its last frame (`shift`); or they form a shorter window of
    their own (`shorten`), as in the public releases.
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
    texture: Texture = "off"
    silence: Silence = "model"
    strength: float | str = 1.0
    adapter: str = ""
    vae: Vae = "full"
    seed: int = DEFAULT_SEED
    overlap: int = 0
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
            raise ValueError(f"seed is {self.seed}: choose 0 or more, or -1 for another result every time.")
        if self.overlap < 0:
            raise ValueError(f"overlap is {self.overlap}: choose 0 (none) or a few frames, fewer than a window has.")
        keyframes(self.strength)
        adapters_of(self.adapter)
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
                f"deepcache_interval is {interval}, but the solver {self.solver} (preset turbo) makes few, long steps with new"
                " noise between them, so features cannot be reused: leave out --enable_deepcache and --deepcache_interval."
            )

    def changed(self, entries: Mapping[str, Any]) -> "InferenceSettings":
        """A copy with the `entries` that are not None; a `preset` is applied first. Raises ValueError for an unknown name."""
        return changed(self, expanded(entries))

    @property
    def needs_distilled_weights(self) -> bool:
        return find_solver(self.solver).needs_distilled

    def seeded(self) -> "InferenceSettings":
        """A copy in which a seed of `RANDOM_SEED` is replaced by a random one."""
        return replace(self, seed=random.SystemRandom().randrange(2**31)) if self.seed == RANDOM_SEED else self


@dataclass(frozen=True)
class JobOptions:
    """How a video is processed, independent of the networks: tracks, frame rate, length, choice of face, encoding.

    `fps`: frames per second of the output; None keeps the source's own frames and timestamps.

    `length`, `rest`: what happens where the audio is longer or shorter than the video, see `latentsync.inference.jobs.timeline`.

    `start_sec`, `limit_sec`: of a preview; only this part of the output is made, from `start_sec` on, `limit_sec` long. None: from
    the beginning, to the end.

    `ranges`: the parts of the video that are edited, such as "12.5-31.0 40-45", see `latentsync.inference.jobs.ranges`; the rest
    stays as it is. Empty: all of it is edited.

    `face`: which person, see `latentsync.inference.faces.select`. `min_face_px`, `max_yaw_deg`: limits below and above which a
    face is passed through, None for the defaults of `FacePolicy`. `on_missing_face`: frames without a face are passed through,
    or an error.

    `occlusion`: what is in front of the lower face stays in front. `auto`: it is searched for, see `latentsync.face.occlusion`;
    `off`: it is not; or the path of masks, a picture or a video with as many frames of the same size, white where something is in
    front.

    `speakers`: `auto`: it is found who speaks when, by the lips and the video's own sound, and everybody gets that part of the
    audio in which they speak; or the path of an RTTM file that says so, and whose face is whose is found. Empty: one person
    speaks, or the file of speakers that takes the place of the audio says who.

    `interlaced`: interlaced frames are deinterlaced (`deinterlace`), or kept with their flags (`keep`).

    `codec`, `crf`: of the output video. `memory`: how much is computed at once, see `latentsync.inference.memory`.

    `mark`: the metadata of the output say that lips are generated, see `latentsync.media.mark`.

    `video_track`, `audio_track`: which of several tracks of the video and the audio file, from 1; None is the file's default.
    """

    fps: Fraction | None = None
    length: Length = "bounce"
    rest: Rest = "cut"
    start_sec: float | None = None
    limit_sec: float | None = None
    ranges: str = ""
    face: str = "largest"
    on_missing_face: OnMissingFace = "passthrough"
    min_face_px: float | None = None
    max_yaw_deg: float | None = None
    occlusion: str = OFF
    speakers: str = ""
    interlaced: Interlaced = "deinterlace"
    codec: Codec = "auto"
    crf: int = DEFAULT_CRF  # PSNR 46 dB outside the face on real, already encoded footage
    memory: MemoryChoice = "auto"
    mark: bool = True
    video_track: int | None = None
    audio_track: int | None = None

    def __post_init__(self) -> None:
        check_choices(self)
        for name in ("video_track", "audio_track"):
            track = getattr(self, name)
            if track is not None and track < 1:
                raise ValueError(
                    f"{name} is {track}: choose 1 (the first) or above, or leave it out for the default track."
                )
        if self.fps is not None and not MIN_FPS <= self.fps <= MAX_FPS:
            raise ValueError(f"fps is {self.fps}: choose {MIN_FPS} to {MAX_FPS}, or leave it out for the video's own.")
        if self.limit_sec is not None and not self.limit_sec > 0:
            raise ValueError(
                f"limit_sec is {self.limit_sec}: choose a number of seconds above 0, or leave it out for the whole length."
            )
        if self.start_sec is not None and not 0 <= self.start_sec < float("inf"):
            raise ValueError(
                f"start_sec is {self.start_sec}: choose a second of the output, 0 or more, or leave it out for its beginning."
            )
        for name in ("min_face_px", "max_yaw_deg"):
            limit = getattr(self, name)
            if limit is not None and not 0 <= limit < float("inf"):
                raise ValueError(f"{name} is {limit}: choose 0 or more, or leave it out for the default.")
        if not self.occlusion:
            raise ValueError("occlusion is empty: choose auto, off, or the path of a picture or video of masks.")
        if self.speakers not in ("", AUTO) and not self.speakers.lower().endswith(".rttm"):
            raise ValueError(f"speakers is {self.speakers!r}: choose auto, or the path of an .rttm file.")
        if not 0 <= self.crf <= MAX_CRF:
            raise ValueError(f"crf is {self.crf}: choose 0 (best) to {MAX_CRF}, usually 12 to 23.")

    @property
    def masks(self) -> Path | None:
        """The file of masks that `occlusion` names, None if it names none."""
        return None if self.occlusion in (AUTO, OFF) else Path(self.occlusion)

    def changed(self, entries: Mapping[str, Any]) -> "JobOptions":
        """A copy with the `entries` that are not None. Raises ValueError for an unknown name."""
        return changed(self, entries)


def changed(settings: Chosen, entries: Mapping[str, Any]) -> Chosen:
    """A copy of a dataclass with the `entries` that are not None. Raises ValueError for an unknown name."""
    known = {field.name for field in fields(settings)}
    for name in entries:
        if name not in known:
            raise ValueError(f"{name!r} is not an inference setting. Known are {', '.join(sorted(known))}.")
    return replace(settings, **{name: value for name, value in entries.items() if value is not None})


def check_choices(settings: Any) -> None:
    """Raise ValueError if a field of a dataclass has a value that its `Literal` type does not list."""
    for name, kind in get_type_hints(type(settings)).items():
        value = getattr(settings, name)
        if get_origin(kind) is Literal and value not in get_args(kind):
            raise ValueError(f"{name} is {value!r}: choose {' or '.join(get_args(kind))}.")


def checked_interval(interval: Sequence[float]) -> tuple[float, float]:
    """Two rising fractions as a tuple; raises ValueError for anything else."""
    try:
        start, stop = (float(fraction) for fraction in interval)
    except (TypeError, ValueError):
        start, stop = 1.0, 0.0
    if not 0 <= start <= stop <= 1:
        raise ValueError(
            f"guidance_interval is {interval!r}: choose two rising fractions of the sampling from noise to picture, such as 0 0.5."
        )
    return start, stop


def keyframes(strength: float | str) -> list[tuple[float, float]]:
    """The keyframes of the setting `strength`: seconds of the audio, and the strength, which changes evenly in between.

    Raises ValueError for anything else.
    """
    parts = [part.split(":") for part in str(strength).split()]
    try:
        frames = [
            (float(time), float(value)) for time, value in (part if len(part) > 1 else ["0", *part] for part in parts)
        ]
    except ValueError:
        frames = []
    rising = all(first[0] < second[0] for first, second in zip(frames, frames[1:], strict=False))
    if not frames or not rising or any(time < 0 or not 0 <= value <= MOST_STRENGTH for time, value in frames):
        raise ValueError(
            f"strength is {strength!r}: choose 0 (closed lips) to {MOST_STRENGTH:g}, 1 is the model's own, or rising keyframes"
            " of seconds and strength such as '0:1 12.5:0.6'."
        )
    return frames
