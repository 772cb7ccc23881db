"""Short films of talking drawn heads, functions that modify them, and writing them to video files of any rate."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from fractions import Fraction
from functools import lru_cache
from itertools import islice
from pathlib import Path

import cv2
import numpy as np
from scipy.signal import resample_poly

from latentsync.avatar.clip import FRAME_SIZE, AvatarClip, spoken_clip
from latentsync.avatar.sound.sentences import random_sentence
from latentsync.media.sound.copy import AudioSource
from latentsync.media.sound.write import write_wav
from latentsync.media.video.write import VideoFormat, VideoWriter
from latentsync.timebase import MODEL_FPS, SAMPLE_RATE_HZ, samples_of_frames

FIRST_SEED = 5_000_000
SENTENCE_SEC = 1.8  # at least
FACE_SHARE = 2.2  # width of a face's box over the distance of the eyes
LEFT_EYE = 36  # first of the twelve landmarks of the eyes, the left eye's in the picture

Frames = Callable[[], Iterator[np.ndarray]]


@dataclass(frozen=True)
class Film:
    """Frames at 25 fps, drawn again by every call of `draw`, and audio, float32 [n] at 16 kHz."""

    count: int
    draw: Frames
    sound: np.ndarray


# --- films -------------------------------------------------------------------------------------------------------------


@lru_cache(maxsize=8)
def avatar(seed: int, count: int) -> AvatarClip:
    """A drawn head that speaks for at least `count` frames; it depends only on the arguments."""
    rng = np.random.default_rng(seed)
    sentences = int(count / MODEL_FPS / SENTENCE_SEC) + 1
    text = " ".join(random_sentence(rng, held_out=False) for _ in range(sentences))
    clip = spoken_clip(seed, text, rng)
    assert len(clip) >= count, "the sentences are long enough"
    return clip


def talk(seed: int, count: int, side_px: int = FRAME_SIZE, face_px: float | None = None) -> Film:
    """A head that speaks for `count` frames, centred in square frames; `face_px` is the width of the face."""
    clip = avatar(seed, count)
    scale = side_px / FRAME_SIZE if face_px is None else face_px / natural_face_px(clip)

    def draw() -> Iterator[np.ndarray]:
        for _, frame in zip(range(count), clip.frames(), strict=False):
            yield placed(frame, scale, side_px)

    return Film(count, draw, clip.waveform[: samples_of_frames(count)].astype(np.float32))


def natural_face_px(clip: AvatarClip) -> float:
    """Smallest width of a clip's face in its original frames, in px."""
    points = (clip.landmarks(frame)[LEFT_EYE : LEFT_EYE + 12] for frame in range(len(clip)))
    apart = (np.linalg.norm(eyes[6:].mean(0) - eyes[:6].mean(0)) for eyes in points)
    return FACE_SHARE * float(min(apart))


def placed(frame: np.ndarray, scale: float, side_px: int) -> np.ndarray:
    """A frame scaled around its centre, in a square of `side_px`; border pixels are replicated outwards."""
    middle = (FRAME_SIZE - 1) / 2
    matrix = np.array([[scale, 0, (side_px - 1) / 2 - scale * middle], [0, scale, (side_px - 1) / 2 - scale * middle]])
    if scale == 1 and side_px == FRAME_SIZE:
        return frame
    how = cv2.INTER_CUBIC if scale > 1 else cv2.INTER_AREA
    scaled = cv2.resize(frame, None, fx=scale, fy=scale, interpolation=how) if scale < 1 else frame
    if scale < 1:
        matrix = np.array([[1, 0, (side_px - scaled.shape[1]) / 2], [0, 1, (side_px - scaled.shape[0]) / 2]])
    return cv2.warpAffine(scaled, matrix, (side_px, side_px), flags=how, borderMode=cv2.BORDER_REPLICATE)


def empty(seed: int, count: int, side_px: int = FRAME_SIZE) -> Film:
    """A background with a moving ball and no face, with a voice."""
    rng = np.random.default_rng(seed)
    small = rng.uniform(40, 200, (6, 6, 3)).astype(np.float32)
    scene = cv2.resize(small, (side_px, side_px), interpolation=cv2.INTER_CUBIC).clip(0, 255).astype(np.uint8)

    def draw() -> Iterator[np.ndarray]:
        for index in range(count):
            frame = scene.copy()
            cv2.circle(
                frame, (int(side_px * (0.2 + 0.6 * index / count)), side_px // 2), side_px // 12, (220, 220, 60), -1
            )
            yield frame

    return Film(count, draw, avatar(seed, count).waveform[: samples_of_frames(count)].astype(np.float32))


def beside(film: Film, other: Film) -> Film:
    """Two films side by side, with the audio of the first."""

    def draw() -> Iterator[np.ndarray]:
        for left, right in zip(film.draw(), other.draw(), strict=True):
            yield np.concatenate([left, right], axis=1)

    return Film(film.count, draw, film.sound)


def first(film: Film, count: int) -> Film:
    """The first frames of a film."""
    return Film(count, lambda: islice(film.draw(), count), film.sound[: samples_of_frames(count)])


def after(films: list[Film]) -> Film:
    """Films joined with hard cuts."""

    def draw() -> Iterator[np.ndarray]:
        for film in films:
            yield from film.draw()

    return Film(sum(film.count for film in films), draw, np.concatenate([film.sound for film in films]))


def drawn(film: Film) -> Film:
    """A film whose frames are drawn once and kept in memory."""
    frames = list(film.draw())
    return replace(film, draw=lambda: iter(frames))


def changed(film: Film, change: Callable[[np.ndarray, int], np.ndarray]) -> Film:
    """A film with `change` applied to every frame and its number."""

    def draw() -> Iterator[np.ndarray]:
        for index, frame in enumerate(film.draw()):
            yield change(frame, index)

    return replace(film, draw=draw)


def blurred(film: Film, deviation_px: float) -> Film:
    return changed(film, lambda frame, _: cv2.GaussianBlur(frame, (0, 0), deviation_px))


def noisy(film: Film, levels: float) -> Film:
    def add(frame: np.ndarray, index: int) -> np.ndarray:
        noise = np.random.default_rng(index).normal(0, levels, frame.shape)
        return np.clip(frame + noise + 0.5, 0, 255).astype(np.uint8)

    return changed(film, add)


def covered(film: Film, start: int, stop: int) -> Film:
    """A film in which a board slides over the face from frame `start` on and has left by frame `stop`."""

    def cover(frame: np.ndarray, index: int) -> np.ndarray:
        share = min(1.0, max(0.0, index - start) / 10, max(0.0, stop - index) / 10)
        board = frame.copy()
        board[:, : int(share * frame.shape[1])] = (128, 120, 112)
        return board

    return changed(film, cover)


def late(film: Film, frames: int) -> Film:
    """A film with its audio delayed by `frames` (< 0: advanced), padded with silence."""
    shift = samples_of_frames(abs(frames))
    silence = np.zeros(shift, np.float32)
    sound = np.concatenate([silence, film.sound[:-shift]] if frames > 0 else [film.sound[shift:], silence])
    return replace(film, sound=sound if frames else film.sound)


def dubbed(film: Film, other: Film) -> Film:
    return replace(film, sound=other.sound)


def silent(film: Film) -> Film:
    return replace(film, sound=np.zeros_like(film.sound))


# --- files -------------------------------------------------------------------------------------------------------------


def store(
    film: Film, path: Path, fps: float = MODEL_FPS, rate_hz: int = SAMPLE_RATE_HZ, has_sound: bool = True
) -> None:
    """Write a film at another frame rate, by nearest frames, and another sample rate."""
    count = round(film.count * Fraction(fps) / MODEL_FPS)
    sources = [min(film.count - 1, int(index * MODEL_FPS / fps + 0.5)) for index in range(count)]
    _write(film, path, VideoFormat.constant(*_size(film), Fraction(fps), crf=16), sources, None, rate_hz, has_sound)


def store_variable(film: Film, path: Path, seed: int, rate_hz: int = SAMPLE_RATE_HZ) -> None:
    """Write a film at a variable frame rate: a third of the frames is left out, the timestamps of others change by up to 8 ms."""
    rng = np.random.default_rng(seed)
    kept = [0, *(index for index in range(1, film.count) if rng.random() > 1 / 3)]
    jitter = rng.integers(-8, 9, len(kept))
    stamps = [max(0, 40 * index + int(j) * (index > 0)) for index, j in zip(kept, jitter, strict=True)]
    form = replace(VideoFormat.constant(*_size(film), 25, crf=16), time_base=Fraction(1, 1000))
    _write(film, path, form, kept, stamps, rate_hz, True)


def _size(film: Film) -> tuple[int, int]:
    height, width = next(film.draw()).shape[:2]
    return width, height


def _write(
    film: Film, path: Path, form: VideoFormat, sources: list[int], stamps: list[int] | None, rate_hz: int, sound: bool
) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    wav = path.with_name(f"{path.name}.wav")
    ratio = Fraction(rate_hz, SAMPLE_RATE_HZ)
    samples = film.sound if ratio == 1 else resample_poly(film.sound, ratio.numerator, ratio.denominator)
    write_wav(wav, samples, rate_hz)
    ends = [] if stamps is None else [*stamps[1:], round(1000 * film.count / MODEL_FPS)]
    try:
        with VideoWriter(path, form, AudioSource(wav) if sound else None) as writer:
            frames, index, frame = film.draw(), -1, None
            for place, source in enumerate(sources):
                while index < source:
                    index, frame = index + 1, next(frames)
                if stamps is None:
                    writer.write(frame)
                else:
                    writer.write(frame, stamps[place], ends[place] - stamps[place])
    finally:
        wav.unlink()


def truncate(path: Path, share: float) -> None:
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * share)])


def flip_bits(path: Path, seed: int, share: float = 0.004) -> None:
    """Flip one bit in each of some random bytes in the second half of a file."""
    content = bytearray(path.read_bytes())
    rng = np.random.default_rng(seed)
    for place in rng.integers(len(content) // 2, len(content), int(share * len(content))):
        content[place] ^= 1 << int(rng.integers(8))
    path.write_bytes(bytes(content))
