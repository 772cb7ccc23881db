"""A corpus of videos with known defects: `python -m tests.support.corpus --out DIR` writes the full one (takes minutes).

The videos show talking drawn heads. DIR/truth.json lists the defect of each file and the expected outcome of the data processing
for every span of it. Spans are in frames at 25 fps.
"""

import argparse
import json
import os
import sys
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass, replace
from fractions import Fraction
from functools import cache, partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import cv2
from rich.progress import track

from latentsync.avatar.clip import FRAME_SIZE
from latentsync.face.detection.detector import DEFAULT_DETECTOR
from latentsync.processing.config import StageSettings
from latentsync.timebase import samples_of_frames
from tests.support.films import (
    FIRST_SEED,
    Film,
    after,
    beside,
    blurred,
    covered,
    drawn,
    dubbed,
    empty,
    flip_bits,
    late,
    noisy,
    silent,
    store,
    store_variable,
    talk,
    truncate,
)


@dataclass(frozen=True)
class Expected:
    """The expected outcome of one span: dropped by `stage` for `reason`, or kept to the end if both are empty."""

    start_frame: int
    stop_frame: int
    stage: str = ""
    reason: str = ""
    offset_frames: int | None = None  # expected result of `av_synced`; > 0: the audio is early


@dataclass(frozen=True)
class Planted:
    """One file: its path in the input folder, its defect, and the expected outcomes."""

    relative: str
    defect: str
    expected: list[Expected]
    make: Callable[[Path], None]


STAND_INS = StageSettings(detector=DEFAULT_DETECTOR, sync_model="demo", quality_metric="sharpness", device="cpu")
SMALL_SETTINGS = replace(STAND_INS, min_segment_sec=2.0, max_segment_sec=4.0, min_face_px=90)


class Corpus:
    """Files with known defects and their expected outcomes."""

    def __init__(self) -> None:
        self.files: list[Planted] = []

    def add(self, relative: str, defect: str, expected: list[Expected], make: Callable[[Path], None]) -> None:
        assert relative not in {each.relative for each in self.files}
        self.files.append(Planted(relative, defect, expected, make))

    def keep(self, relative: str, defect: str, film: Film, offset_frames: int = 0, **how: Any) -> None:
        """Add a file that must be kept as one clip."""
        expected = [Expected(0, film.count, offset_frames=offset_frames)]
        self.add(relative, defect, expected, lambda path: store(film, path, **how))

    def drop(self, relative: str, defect: str, film: Film, stage: str, reason: str) -> None:
        """Add a file that must be dropped as a whole."""
        self.add(relative, defect, [Expected(0, film.count, stage, reason)], lambda path: store(film, path))

    def cut(self, relative: str, defect: str, film: Film, expected: list[Expected]) -> None:
        """Add a file that must be cut into several clips."""
        self.add(relative, defect, expected, lambda path: store(film, path))

    def unreadable(self, relative: str, defect: str, film: Film, damage: Callable[[Path], None]) -> None:
        """Add a file that is damaged by a function after writing."""

        def make(path: Path) -> None:
            store(film, path)
            damage(path)

        self.add(relative, defect, [Expected(0, 0, "readable", "unreadable")], make)

    def other_sound(
        self, relative: str, defect: str, film: Film, sound: Film, stage: str, reason: str, offset: int | None = None
    ) -> None:
        """Add a file with the video of one film and the audio of another."""
        expected = [Expected(0, film.count, stage, reason, offset)]
        self.add(relative, defect, expected, lambda path: store(dubbed(film, sound), path))

    def build(self, folder: Path, numbers: Sequence[int] | None = None) -> None:
        """Write the files, or those with the given `numbers`, under `folder`; existing ones are kept."""
        for number in range(len(self.files)) if numbers is None else numbers:
            path = folder / self.files[number].relative
            path.parent.mkdir(parents=True, exist_ok=True)
            if not path.exists():
                self.files[number].make(path)

    @property
    def truth(self) -> dict[str, dict[str, Any]]:
        return {f.relative: {"defect": f.defect, "expected": [asdict(e) for e in f.expected]} for f in self.files}

    def expected(self, relative: str) -> list[Expected]:
        return next(file.expected for file in self.files if file.relative == relative)


def small_corpus() -> Corpus:
    """A corpus for tests: one file per kind of defect, at most 5 s long, for `SMALL_SETTINGS`."""
    corpus, count = Corpus(), 50
    person, other = drawn(talk(FIRST_SEED, count)), drawn(talk(FIRST_SEED + 1, count))
    corpus.keep("clean.mp4", "none", person)
    corpus.unreadable("cut off.mp4", "truncated", person, lambda path: truncate(path, 0.7))
    corpus.unreadable("bits.mp4", "bits flipped", person, lambda path: flip_bits(path, 3))
    corpus.add("notes.mp4", "no video", [Expected(0, 0, "readable", "unreadable")], write_text)
    corpus.add(
        "mute.mp4", "no audio", [Expected(0, 0, "readable", "no_audio")], lambda p: store(person, p, has_sound=False)
    )
    corpus.drop("quiet.mp4", "silent", silent(person), "readable", "silent")
    corpus.keep("größe 大/a/same.mp4", "30 fps, 48 kHz", person, fps=30, rate_hz=48_000)
    corpus.add(
        "größe 大/b/same.mp4",
        "VFR, 8 kHz",
        [Expected(0, count, offset_frames=0)],
        lambda path: store_variable(other, path, 5, 8_000),
    )
    corpus.keep("15 fps.mp4", "15 fps, 44.1 kHz, sound 4 frames late", late(person, 4), -4, fps=15, rate_hz=44_100)
    scenes = after([person, empty(FIRST_SEED, 20), other])
    parts = [
        Expected(0, 50, offset_frames=0),
        Expected(50, 70, "segmented", "too_short"),
        Expected(70, 120, offset_frames=0),
    ]
    corpus.cut("scenes.mp4", "scenes of 50, 20 and 50 frames", scenes, parts)
    second = talk(FIRST_SEED + 2, count)  # whose face is found in pictures of this size too
    corpus.drop("two.mp4", "two faces", beside(person, second), "high_resolution", "several_faces")
    corpus.drop("ball.mp4", "no face", empty(FIRST_SEED, count), "high_resolution", "no_face")
    corpus.drop("far.mp4", "face of 70 px", talk(FIRST_SEED, count, FRAME_SIZE, 70), "high_resolution", "small_face")
    corpus.drop("board.mp4", "face hidden for a while", covered(person, 16, 41), "affine_transformed", "face_lost")
    corpus.other_sound("early 9.mp4", "sound 9 frames early", person, late(person, -9), "av_synced", "large_offset", 9)
    pictures, sound = talk(FIRST_SEED, 100), talk(FIRST_SEED + 1, 100)  # 2 s are too short to detect another voice
    corpus.other_sound("dubbed.mp4", "another voice", pictures, sound, "av_synced", "low_sync_confidence")
    corpus.drop("soft.mp4", "blur", blurred(person, 4), "high_visual_quality", "low_quality")
    return corpus


@cache
def full_corpus() -> Corpus:
    """A corpus with several files per kind of defect, for `STAND_INS` and the published thresholds."""
    corpus = Corpus()
    seeds = iter(range(FIRST_SEED + 10, FIRST_SEED + 1000))

    def person(count: int = 150, face_px: float = 300, side_px: int = 640) -> Film:
        return talk(next(seeds), count, side_px, face_px)

    add_formats(corpus, person)
    add_damage(corpus, person)
    add_lengths(corpus, person)
    add_faces(corpus, person)
    add_sync(corpus, person)
    add_quality(corpus, person)
    return corpus


Person = Callable[..., Film]


def add_formats(corpus: Corpus, person: Person) -> None:
    """Files whose rates, containers or names must not change the outcome."""
    rates = [15, 24, Fraction(24000, 1001), 25, Fraction(30000, 1001), 30, 50, 60]
    for index, fps in enumerate(rates):
        rate_hz = (8_000, 44_100, 48_000, 16_000)[index % 4]
        film = person(150 if fps != rates[2] else 151)
        corpus.keep(
            f"rates/{float(fps):.2f} fps {rate_hz} Hz.mp4", f"{fps} fps, {rate_hz} Hz", film, fps=fps, rate_hz=rate_hz
        )
    for seed in range(3):
        film = person()
        corpus.add(
            f"rates/variable {seed}.mp4", "VFR", kept(film), partial(store_variable, film, seed=seed, rate_hz=44_100)
        )
    for name in (
        "a/same.mp4",
        "b/same.mp4",
        "deep/er/and/deep er/same.mp4",
        "naïve “quotes” 大きい.mp4",
        "-dash %03d #1.mp4",
    ):
        corpus.keep(f"names/{name}", "none", person())
    for name in ("container.mkv", "container.mov", "CAPITALS.MP4"):
        corpus.keep(f"names/{name}", name, person())


def add_damage(corpus: Corpus, person: Person) -> None:
    """Files that are damaged or have no usable video or audio."""
    for percent in (30, 60, 95):
        corpus.unreadable(f"damage/cut {percent}.mp4", "truncated", person(), partial(truncate, share=percent / 100))
    for seed in range(4):
        corpus.unreadable(f"damage/bits {seed}.mp4", "bits flipped", person(), partial(flip_bits, seed=seed))
    corpus.add("damage/notes.mp4", "text", [Expected(0, 0, "readable", "unreadable")], write_text)
    corpus.add("damage/empty.mp4", "empty file", [Expected(0, 0, "readable", "unreadable")], lambda path: path.touch())
    film = person()
    corpus.add(
        "damage/mute.mp4", "no audio", [Expected(0, 0, "readable", "no_audio")], partial(store, film, has_sound=False)
    )
    corpus.drop("damage/quiet.mp4", "silent", silent(person()), "readable", "silent")
    film = person(200)
    short = replace(film, sound=film.sound[: samples_of_frames(150)])
    corpus.cut("damage/sound ends early.mp4", "the last 2 s lack sound", short, [Expected(0, 150, offset_frames=0)])


def add_lengths(corpus: Corpus, person: Person) -> None:
    """Scenes of 2 to 40 s, in a file each and several in one file."""
    for count in (50, 100, 124):
        corpus.drop(f"lengths/{count}.mp4", f"{count} frames", person(count), "segmented", "too_short")
    borders = {125: [], 250: [], 251: [126], 350: [175], 625: [208, 417], 1000: [250, 500, 750]}
    for count, inner in borders.items():
        corpus.cut(f"lengths/{count}.mp4", f"{count} frames", person(count), parts(0, [*inner, count]))
    for number, lengths in enumerate([(150, 130), (140, 30, 160), (127, 300, 60, 126)]):
        films, expected, start = [], [], 0
        for index, count in enumerate(lengths):
            films.append(person(count) if count >= 100 or index % 2 else empty(number, count, 640))
            stop = start + count
            halves = [start + count // 2, stop] if count > 250 else [stop]
            expected += parts(start, halves) if count >= 125 else [Expected(start, stop, "segmented", "too_short")]
            start = stop
        corpus.cut(f"scenes/{number}.mp4", f"scenes of {lengths} frames", after(films), expected)


def add_faces(corpus: Corpus, person: Person) -> None:
    """Faces of 100 to 400 px, two faces, no face, and a temporarily hidden face."""
    for face_px in (100, 150, 200, 235):
        corpus.drop(
            f"faces/{face_px} px.mp4", f"face of {face_px} px", person(face_px=face_px), "high_resolution", "small_face"
        )
    for face_px, side_px in ((280, 640), (330, 640), (400, 800)):
        corpus.keep(f"faces/{face_px} px.mp4", f"face of {face_px} px", person(150, face_px, side_px))
    for number in range(3):
        film = beside(person(130), person(130))
        corpus.drop(f"faces/two {number}.mp4", "two faces", film, "high_resolution", "several_faces")
        corpus.drop(f"faces/none {number}.mp4", "no face", empty(number, 130, 640), "high_resolution", "no_face")
        film = covered(person(130), 40, 80)
        corpus.drop(f"faces/hidden {number}.mp4", "hidden for a while", film, "affine_transformed", "face_lost")


def add_sync(corpus: Corpus, person: Person) -> None:
    """Audio shifted by -12 ... 12 frames, and the audio of another person."""
    for frames in (-12, -10, -8, -6, -5, -4, -3, -2, -1, 1, 2, 3, 4, 5, 6, 8, 10, 12):
        film = person()
        stage, reason = ("av_synced", "large_offset") if abs(frames) > 6 else ("", "")
        corpus.other_sound(
            f"sync/late {frames:+d}.mp4",
            f"sound {frames} frames late",
            film,
            late(film, frames),
            stage,
            reason,
            -frames,
        )
    for number in range(4):
        corpus.other_sound(
            f"sync/dubbed {number}.mp4", "another voice", person(), person(), "av_synced", "low_sync_confidence"
        )


def add_quality(corpus: Corpus, person: Person) -> None:
    """Noise and blur: slight, to be kept, and strong, to be dropped."""
    low = ("high_visual_quality", "low_quality")
    corpus.keep("quality/blur 1.mp4", "slight blur", blurred(person(), 1))
    corpus.keep("quality/noise 6.mp4", "slight noise", noisy(person(), 6))
    corpus.drop("quality/blur 7.mp4", "blur", blurred(person(), 7), *low)
    corpus.drop("quality/blur 9.mp4", "blur", blurred(person(), 9), *low)
    corpus.drop("quality/noise 40.mp4", "noise", noisy(person(), 40), *low)
    corpus.drop("quality/noise 55.mp4", "noise", noisy(person(), 55), *low)


def kept(film: Film) -> list[Expected]:
    return [Expected(0, film.count, offset_frames=0)]


def parts(start: int, stops: list[int]) -> list[Expected]:
    """Kept clips between consecutive frames of [start, *stops]."""
    return [Expected(a, b, offset_frames=0) for a, b in zip([start, *stops], stops, strict=False)]


def write_text(path: Path) -> None:
    path.write_text("This is not a video.\n", encoding="utf-8")


def build_one(number: int, folder: Path) -> int:
    """Write file `number` of the full corpus; called in a process pool."""
    cv2.setNumThreads(1)
    full_corpus().build(folder, [number])
    return number


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1)
    args = parser.parse_args(argv)
    corpus = full_corpus()
    (args.out / "videos").mkdir(parents=True, exist_ok=True)
    (args.out / "truth.json").write_text(json.dumps(corpus.truth, indent=1, ensure_ascii=False), encoding="utf-8")
    with ProcessPoolExecutor(args.workers, get_context("spawn")) as pool:
        work = partial(build_one, folder=args.out / "videos")
        for number in track(pool.map(work, range(len(corpus.files))), "Corpus", total=len(corpus.files)):
            assert number is not None
    return 0


if __name__ == "__main__":
    sys.exit(main())
