"""Stage 1: files that cannot be decoded completely, that lack video or audio, or that are silent are dropped.

Other files are cut to the span that has both video and audio.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from latentsync.media.container import MediaError
from latentsync.media.probe import probe
from latentsync.media.sound.read import Samples, mono_pieces
from latentsync.media.video.strict_read import SmallPicture, has_streams, small_pictures
from latentsync.processing.clip import Clip, Dropped, Reason, Scores, StageOutcome
from latentsync.processing.stages.contract import TOO_SHORT, Measure, Settings, Stage
from latentsync.timebase import MODEL_FPS, SAMPLE_RATE_HZ, frames_in

BLOCK_SAMPLES = SAMPLE_RATE_HZ // 10  # over which loudness is measured
FULL_SCALE = 32768
SILENCE_DB = -120.0  # the value for digital silence
EDGE_SEC = 0.1  # by which starts or ends of video and audio may differ: encoders pad audio
SMALL_SIDE_PX = 256  # of the pictures in which cuts are detected

# Reasons
UNREADABLE = "unreadable"  # not a media file, truncated, or with a frame or sample that cannot be decoded
NO_VIDEO = "no_video"
NO_AUDIO = "no_audio"
SILENT = "silent"

OnPicture = Callable[[SmallPicture], None]


@dataclass
class ReadableSettings(Settings):
    """The least loudness of a file."""

    min_loudness_db: float = -60.0  # of the loudest tenth of a second, relative to full scale


@dataclass(frozen=True)
class ReadableRule:
    """The loudest part must reach a minimum loudness."""

    min_loudness_db: float

    def decide(self, scores: Scores) -> Reason | None:
        return SILENT if scores.get("loudness_db", 0.0) < self.min_loudness_db else None

    def explain(self, reason: Reason, scores: Scores) -> str:
        return (
            f"The loudest tenth of a second has {scores['loudness_db']:.0f} dB; {self.min_loudness_db:g} dB are needed."
        )


class ReadableStage(Stage[ReadableSettings]):
    """Decode a whole file and measure its length and loudness.

    Scores: `width_px`, `height_px`, `fps`, `variable_rate` (0 or 1), `audio_rate_hz` of the source; `loudness_db` of the
    loudest tenth of a second, relative to full scale.
    """

    name = "readable"
    keeps = "files that decode to the last frame and have sound"
    reasons = (UNREADABLE, NO_VIDEO, NO_AUDIO, TOO_SHORT, SILENT)
    settings_type = ReadableSettings

    @classmethod
    def make_rule(cls, settings: ReadableSettings) -> ReadableRule:
        return ReadableRule(settings.min_loudness_db)

    @classmethod
    def measures(cls, settings: ReadableSettings) -> list[Measure]:
        return [Measure("loudness_db", cls.name, "Loudness of the sources", "dB", at_least=settings.min_loudness_db)]

    def __call__(self, clip: Clip, folder: Path | None = None) -> list[StageOutcome]:
        return [self.check(clip)]

    def check(self, clip: Clip, on_picture: OnPicture = lambda picture: None) -> StageOutcome:
        """The outcome; `on_picture` is called once with every small picture of the 25 Hz clock."""
        try:
            has_pictures, has_sound = has_streams(clip.path)
            if not has_pictures:
                return Dropped(clip, NO_VIDEO, "The file has no pictures.")
            if not has_sound:
                return Dropped(clip, NO_AUDIO, "The file has no sound.")
            for picture in small_pictures(clip.path, MODEL_FPS, SMALL_SIDE_PX):
                on_picture(picture)
            measured = measure(clip)
        except MediaError as error:
            return Dropped(clip, UNREADABLE, str(error).replace(str(clip.path), clip.relative))
        if measured.frame_count < 1:
            return Dropped(clip, TOO_SHORT, "Pictures and sound do not overlap in time.")
        return self.judge(measured)


def measure(clip: Clip) -> Clip:
    """The clip with the scores of stage 1, and as long as its file has both pictures and sound; MediaError as `probe`."""
    info, meter = probe(clip.path), LoudnessMeter()
    for piece in mono_pieces(clip.path, strict=True):
        meter.add(piece)
    first, last = common_frames(info.start_sec, info.start_sec + info.duration_sec, meter.duration_sec)
    return replace(
        clip,
        start_sec=first / MODEL_FPS,
        end_sec=last / MODEL_FPS,
        path_start_sec=first / MODEL_FPS,
    ).scored(
        width_px=info.width,
        height_px=info.height,
        fps=round(float(info.fps), 3),
        variable_rate=int(info.variable_rate),
        audio_rate_hz=info.audio_rate_hz,
        loudness_db=meter.loudness_db,
    )


def common_frames(start_sec: float, end_sec: float, sound_sec: float) -> tuple[int, int]:
    """First and last + 1 frame of the 25 Hz clock of pictures from `start_sec` to `end_sec` with `sound_sec` of sound.

    Up to `EDGE_SEC` may be missing at either end.
    """
    first = math.ceil(start_sec * MODEL_FPS - 1e-6) if start_sec > EDGE_SEC else 0
    cut_short = sound_sec < end_sec - EDGE_SEC
    last = math.floor(sound_sec * MODEL_FPS + 1e-6) if cut_short else frames_in(end_sec)
    return first, max(first, last)


class LoudnessMeter:
    """Measures the length of a stream of samples, and the loudness of its loudest tenth of a second."""

    def __init__(self) -> None:
        self.rest = np.zeros(0, np.float64)  # samples that do not yet fill a block
        self.loudest = 0.0  # mean square of a block
        self.count = 0  # samples

    def add(self, piece: Samples) -> None:
        """Add the next int16 samples."""
        self.count += len(piece)
        samples = np.concatenate([self.rest, piece.astype(np.float64) / FULL_SCALE])
        whole = len(samples) // BLOCK_SAMPLES * BLOCK_SAMPLES
        self.rest = samples[whole:]
        if whole:
            self.loudest = max(self.loudest, float(np.square(samples[:whole]).reshape(-1, BLOCK_SAMPLES).mean(1).max()))

    @property
    def duration_sec(self) -> float:
        return self.count / SAMPLE_RATE_HZ

    @property
    def loudness_db(self) -> float:
        """Of the loudest tenth of a second, relative to full scale."""
        return round(10 * math.log10(self.loudest), 2) if self.loudest > 1e-12 else SILENCE_DB
