"""Ways to fill the last window of a segment: `python -m benchmarks.last_window [--clips 6] [--out FILE.json]`.

The length of a segment is rarely a multiple of the window. Held-out drawn people are lip-synced with the demo models: a full
window, then `left over` frames, which are sampled alone (`shorten`), padded with their last frame (`repeat`), or together with the
frames before them (`shift`); and, as `N alone`, segments shorter than a window. Only the last frames are compared. `distance`: mean
difference from the truth in the generated region, in levels of 255, with the video's own audio. `seam`: change of that region
at the window border relative to the truth, minus 1. `new sound`: correlation of the lip opening with the truth of another
clip's audio. `ms`: time to encode, sample and decode the window.
"""

import argparse
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import torch

from benchmarks.table import report
from latentsync.audio.whisper_features import FeatureTrack, WhisperFeatures
from latentsync.avatar.clip import read_openings
from latentsync.data.aligned import aligned_faces
from latentsync.face.detection.detector import make_detector
from latentsync.face.pixels import pixels_to_frames
from latentsync.inference.model_files import DEMO_UNET
from latentsync.inference.models import LipsyncModels
from latentsync.inference.settings import PRESETS, InferenceSettings
from latentsync.inference.timing import Stopwatch
from latentsync.inference.windows.sampler import Window, WindowSampler
from latentsync.inference.windows.stream import WindowPlan, windows_of
from latentsync.media.sound.read import read_audio
from latentsync.metrics.lips.aperture import correlation
from latentsync.metrics.lips.mesh_height import read_lips
from latentsync.testing import AUDIO_FROM, held_out_clips
from scripts.command import run_command

STARTS = (0, 20)  # frames of a clip at which segments begin
LEFT_OVER = (1, 4, 8, 12)
Way = Literal["shift", "shorten", "repeat"]


def last_plan(before: int, count: int, num_frames: int, way: Way) -> WindowPlan:
    """The window of the last `count` of `before + count` frames."""
    if way == "shift":
        return windows_of(before + count, num_frames, 1)[-1]
    window = list(range(before, before + count))
    return WindowPlan(window + window[-1:] * (num_frames - count if way == "repeat" else 0), range(count))


@dataclass(frozen=True)
class Clip:
    """A talking person: aligned `faces` [t, r, r, 3], true lip `opening` [t], and the features of the audio."""

    faces: np.ndarray
    opening: np.ndarray
    sound: FeatureTrack

    @classmethod
    def of(cls, path: Path, models: LipsyncModels) -> "Clip":
        faces = np.stack(list(aligned_faces(path, make_detector(), models.resolution)))
        return cls(faces, read_openings(path), WhisperFeatures(models.audio_encoder).track(read_audio(path)))


@dataclass
class Results:
    """Measurements of one way for one number of frames."""

    distances: list[float] = field(default_factory=list)
    changes: list[float] = field(default_factory=list)
    true_changes: list[float] = field(default_factory=list)
    openings: list[float] = field(default_factory=list)
    true_openings: list[float] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)

    def row(self, name: str, way: str) -> dict[str, Any]:
        seam = float(np.sum(self.changes) / np.sum(self.true_changes)) - 1 if self.changes else None
        fit = correlation(np.array(self.openings), np.array(self.true_openings))
        return {
            "left over": name,
            "way": way,
            "distance": round(float(np.mean(self.distances)), 2),
            "seam": None if seam is None else round(seam, 3),
            "new sound": round(fit, 3),
            "ms": round(1e3 * float(np.median(self.seconds))),
        }


class Bench:
    """Samples the segments of some clips in every way."""

    def __init__(self, models: LipsyncModels, settings: InferenceSettings, clips: Sequence[Clip]):
        self.sampler = WindowSampler(models, settings, Stopwatch())
        self.clips, self.frames = clips, models.num_frames
        self.generated = self.sampler.mask.numpy() < 0.5
        self.results: dict[tuple[str, str], Results] = defaultdict(Results)

    def run(self) -> list[dict[str, Any]]:
        for number, clip in enumerate(self.clips):
            reference = self.sampler.encode_window(clip.faces[-self.frames :])
            other = self.clips[(number + AUDIO_FROM) % len(self.clips)]
            for start in STARTS:
                for sound in (clip, other):
                    self._segments(clip, sound, start, reference)
        return [found.row(*key) for key, found in self.results.items()]

    def _segments(self, clip: Clip, sound: Clip, start: int, reference: torch.Tensor) -> None:
        whole, _ = self._sampled(clip, sound, start, windows_of(self.frames, self.frames, 1)[0], reference)
        for count in LEFT_OVER:
            for way in get_args(Way):
                plan = last_plan(self.frames, count, self.frames, way)
                faces, taken = self._sampled(clip, sound, start, plan, reference)
                self._note(f"{count}", way, clip, sound, start + self.frames, faces, taken, whole[-1])
                if way != "shift":  # there are no earlier frames to include
                    plan = last_plan(0, count, self.frames, way)
                    faces, taken = self._sampled(clip, sound, start, plan, reference)
                    self._note(f"{count} alone", way, clip, sound, start, faces, taken)

    def _sampled(
        self, clip: Clip, sound: Clip, start: int, plan: WindowPlan, reference: torch.Tensor
    ) -> tuple[np.ndarray, float]:
        """The kept faces of a window, and the seconds of sampling it."""
        at = [start + frame for frame in plan.frames]
        begun = time.perf_counter()
        (new,) = self.sampler.sample([Window(clip.faces[at], sound.sound.windows(at), reference)])
        return pixels_to_frames(new.whole()).numpy()[plan.kept.start : plan.kept.stop], time.perf_counter() - begun

    def _note(
        self,
        name: str,
        way: str,
        clip: Clip,
        sound: Clip,
        first: int,
        faces: np.ndarray,
        taken: float,
        before: np.ndarray | None = None,
    ) -> None:
        """Compare the last frames, from `first` of the clip on; `before` is the face that was sampled before them."""
        found = self.results[name, way]
        found.seconds.append(taken)
        if sound is not clip:
            found.openings.extend(read_lips(faces))
            found.true_openings.extend(sound.opening[first : first + len(faces)])
            return
        truth = clip.faces[first : first + len(faces)].astype(np.float32)
        found.distances.extend(np.abs(faces - truth)[:, self.generated].mean(axis=(1, 2)))
        if before is not None:
            true_before = clip.faces[first - 1].astype(np.float32)
            found.changes.append(float(np.abs(faces[0].astype(np.float32) - before)[self.generated].mean()))
            found.true_changes.append(float(np.abs(truth[0] - true_before)[self.generated].mean()))


def clips_of(folder: Path, count: int, models: LipsyncModels) -> Iterator[Clip]:
    for video in held_out_clips(count, folder):
        yield Clip.of(video, models)


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--clips", type=int, default=6)
    parser.add_argument("--preset", choices=PRESETS, default="fast")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--out", type=Path, help="JSON file to write")
    return parser.parse_args(argv)


def bench(args: argparse.Namespace) -> None:
    torch.set_num_threads(args.threads)
    models = LipsyncModels.load(DEMO_UNET)
    with tempfile.TemporaryDirectory() as temporary:
        clips = list(clips_of(Path(temporary), args.clips, models))
        rows = Bench(models, models.defaults.changed({"preset": args.preset}), clips).run()
    report("last_window", rows, args.out, clips=args.clips, preset=args.preset, threads=args.threads)


def main(argv: Sequence[str] | None = None) -> int:
    args = parse(argv)
    return run_command("last_window", lambda: bench(args))


if __name__ == "__main__":
    sys.exit(main())
