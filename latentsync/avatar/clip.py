"""One avatar clip: identity, sentence, head motion, and the exact ground truth of every frame."""

import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from scipy.ndimage import gaussian_filter1d

from latentsync.avatar.head import CENTRE_X, Expression, Head
from latentsync.avatar.identity import Identity, random_identity
from latentsync.avatar.mouth import MouthTrack, mouth_track
from latentsync.avatar.sentences import random_sentence
from latentsync.avatar.speech import Speech, Voice, random_voice, speak
from latentsync.media.sound.copy import AudioSource
from latentsync.media.sound.write import write_wav
from latentsync.media.video.write import VideoFormat, VideoWriter
from latentsync.timebase import MODEL_FPS, SAMPLE_RATE_HZ, frames_in, samples_of_frames

FRAME_SIZE = 320
NOISE_MARGIN = 64  # the camera noise of a frame is a random crop of a larger noise image
HELD_OUT_FIRST_SEED = 1_000_000  # first seed of the held-out identities and sentences, which are not used in training
PIVOT = np.array([CENTRE_X, 200.0], np.float32)  # canvas point around which the head rotates


@dataclass(frozen=True)
class HeadMotion:
    """Pose of the head per frame: arrays [t]; shift in frame pixels, roll in radians, yaw -1 ... 1."""

    shift_x: np.ndarray
    shift_y: np.ndarray
    roll: np.ndarray
    scale: np.ndarray
    yaw: np.ndarray
    blink: np.ndarray
    brow_raise: np.ndarray
    gaze_x: np.ndarray


@dataclass(frozen=True)
class AvatarClip:
    """A clip, determined by its seed; `frames()` draws it, `waveform` is its audio, `truth()` its ground truth."""

    seed: int
    sentence: str
    voice: Voice
    identity: Identity
    speech: Speech
    mouth: MouthTrack
    motion: HeadMotion

    def __len__(self) -> int:
        return len(self.mouth)

    @property
    def waveform(self) -> np.ndarray:
        """Mono float32 at 16 kHz, exactly as long as the frames."""
        samples = samples_of_frames(len(self))
        return np.pad(self.speech.waveform, (0, max(0, samples - len(self.speech.waveform))))[:samples]

    @cached_property
    def head(self) -> Head:
        """The renderer of the clip's identity."""
        return Head(self.identity)

    def expression(self, frame: int) -> Expression:
        """The facial expression in a frame."""
        mouth, motion = self.mouth, self.motion
        return Expression(
            aperture=float(mouth.aperture[frame]),
            width=float(mouth.width[frame]),
            teeth=float(mouth.teeth[frame]),
            tongue=float(mouth.tongue[frame]),
            tuck=float(mouth.tuck[frame]),
            blink=float(motion.blink[frame]),
            brow_raise=float(motion.brow_raise[frame]),
            gaze=(float(motion.gaze_x[frame]), 0.0),
        )

    def frames(self) -> Iterator[np.ndarray]:
        """Draw the clip: uint8 [FRAME_SIZE, FRAME_SIZE, 3] RGB at 25 fps."""
        rng = np.random.default_rng(self.identity.texture_seed + 1)
        background = _background(self.identity, rng)
        side = FRAME_SIZE + NOISE_MARGIN
        noise = self.identity.noise_sigma * rng.standard_normal((side, side, 3), dtype=np.float32)
        for frame in range(len(self)):
            yield self._compose(frame, background, noise, rng)

    def _compose(self, frame: int, background: np.ndarray, noise: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        map_x, map_y = self._canvas_positions(frame)
        head = cv2.remap(self.head.draw(self.expression(frame)), map_x, map_y, cv2.INTER_LINEAR)
        alpha = cv2.remap(self.head.alpha, map_x, map_y, cv2.INTER_LINEAR, borderValue=0)[..., None]
        picture = background + alpha * (head.astype(np.float32) - background)
        row, column = rng.integers(0, NOISE_MARGIN, 2)
        return np.clip(picture + noise[row:, column:][:FRAME_SIZE, :FRAME_SIZE] + 0.5, 0, 255).astype(np.uint8)

    def _canvas_positions(self, frame: int) -> tuple[np.ndarray, np.ndarray]:
        """Canvas position of every pixel of the frame: x and y, each float32 [FRAME_SIZE, FRAME_SIZE]."""
        y, x = _pixel_grid()
        motion = self.motion
        scale, roll = float(motion.scale[frame]), float(motion.roll[frame])
        dx = x - (FRAME_SIZE / 2 + float(motion.shift_x[frame]))
        dy = y - (FRAME_SIZE * 0.52 + float(motion.shift_y[frame]))
        cos, sin = np.float32(np.cos(roll) / scale), np.float32(np.sin(roll) / scale)
        canvas_x, canvas_y = cos * dx + sin * dy + PIVOT[0], cos * dy - sin * dx + PIVOT[1]
        yaw = float(motion.yaw[frame])
        return canvas_x - yaw * _depth(canvas_x, canvas_y), canvas_y

    def place(self, frame: int, point: tuple[float, float]) -> tuple[float, float]:
        """Position of a canvas point in a frame, in pixels (inverse of `_canvas_positions`)."""
        motion = self.motion
        scale, roll = float(motion.scale[frame]), float(motion.roll[frame])
        x, y = np.array(point[0]), np.array(point[1])
        turned = x
        for _ in range(4):  # fixed point of x = turned - yaw * depth(turned)
            turned = x + float(motion.yaw[frame]) * _depth(turned, y)
        dx, dy = (turned - PIVOT[0]) * scale, (y - PIVOT[1]) * scale
        cos, sin = np.cos(roll), np.sin(roll)
        px = cos * dx - sin * dy + FRAME_SIZE / 2 + float(motion.shift_x[frame])
        py = sin * dx + cos * dy + FRAME_SIZE * 0.52 + float(motion.shift_y[frame])
        return float(px), float(py)

    def truth(self) -> dict[str, Any]:
        """The ground truth of the clip as JSON values; apertures and landmarks [x, y] in frame pixels."""
        points = [self.head.landmarks(self.expression(frame)) for frame in range(len(self))]
        placed = [{name: self.place(i, p) for name, p in named.items()} for i, named in enumerate(points)]
        openings = [self.head.opening(self.expression(i)) * float(self.motion.scale[i]) for i in range(len(self))]
        return {
            "seed": self.seed,
            "sentence": self.sentence,
            "voice": asdict(self.voice),
            "identity": self.identity.to_dict(),
            "fps": MODEL_FPS,
            "sample_rate_hz": SAMPLE_RATE_HZ,
            "frames": len(self),
            "phonemes": [[p.symbol, round(p.start_sec, 4), round(p.end_sec, 4)] for p in self.speech.phonemes],
            "aperture_px": [round(v, 3) for v in openings],
            "aperture": [round(float(v), 5) for v in self.mouth.aperture],
            "width": [round(float(v), 5) for v in self.mouth.width],
            "landmarks": {n: [[round(c, 2) for c in p[n]] for p in placed] for n in placed[0]},
        }


def random_clip(seed: int) -> AvatarClip:
    """The clip of a seed. Seeds from `HELD_OUT_FIRST_SEED` on have held-out sentences and identities."""
    rng = np.random.default_rng(seed)
    return spoken_clip(seed, random_sentence(rng, held_out=seed >= HELD_OUT_FIRST_SEED), rng)


def spoken_clip(seed: int, text: str, rng: np.random.Generator) -> AvatarClip:
    """A clip in which `text`, one or more sentences, is spoken; voice, identity and motion are sampled from `rng`."""
    voice = random_voice(rng)
    identity = random_identity(rng)
    speech = speak(text, voice)
    frames = frames_in(speech.duration_sec)
    return AvatarClip(seed, text, voice, identity, speech, mouth_track(speech.phonemes, frames), _motion(frames, rng))


def make_clip(seed: int, folder: Path) -> Path:
    """Write the clip of a seed as .mp4 (H.264, 25 fps, 16 kHz audio) and its truth as .json; returns the video's path.

    The truth is written last, so a clip of which both files exist is complete; it is not made again.
    """
    video, truth, sound = (folder / f"avatar_{seed:07d}{suffix}" for suffix in (".mp4", ".json", ".wav"))
    if truth.exists() and video.exists():
        return video
    clip = random_clip(seed)
    write_wav(sound, clip.waveform)
    with VideoWriter(video, VideoFormat.constant(FRAME_SIZE, FRAME_SIZE, MODEL_FPS), AudioSource(sound)) as writer:
        for frame in clip.frames():
            writer.write(frame)
    sound.unlink()
    write_truth(clip, truth)
    return video


def write_truth(clip: AvatarClip, path: Path) -> None:
    """Write `clip.truth()` as JSON."""
    path.write_text(json.dumps(clip.truth()))


def read_truth(video: Path) -> dict[str, Any]:
    """The truth of a drawn clip, from the .json beside it."""
    truth: dict[str, Any] = json.loads(video.with_suffix(".json").read_text(encoding="utf-8"))
    return truth


def read_openings(video: Path) -> np.ndarray:
    """The true lip opening in px, float [t], of a drawn clip."""
    return np.array(read_truth(video)["aperture_px"])


def _motion(frames: int, rng: np.random.Generator) -> HeadMotion:
    return HeadMotion(
        shift_x=rng.uniform(-10, 10) + _wander(frames, 4.0, rng),
        shift_y=rng.uniform(-6, 6) + _wander(frames, 3.0, rng),
        roll=rng.uniform(-0.04, 0.04) + _wander(frames, 0.03, rng),
        scale=rng.uniform(0.74, 0.86) * (1 + _wander(frames, 0.012, rng)),
        yaw=rng.uniform(-0.3, 0.3) + _wander(frames, 0.3, rng),
        blink=_blinks(frames, rng),
        brow_raise=np.clip(_wander(frames, 0.5, rng), 0, 1),
        gaze_x=np.clip(rng.uniform(-0.4, 0.4) + _wander(frames, 0.3, rng), -1, 1),
    )


def _wander(frames: int, spread: float, rng: np.random.Generator, sigma_sec: float = 0.45) -> np.ndarray:
    """Slow random movement with the given standard deviation, [frames]."""
    sigma = sigma_sec * MODEL_FPS
    walk: np.ndarray = gaussian_filter1d(rng.standard_normal(frames + int(8 * sigma)), sigma)
    return spread * np.sqrt(2 * np.sqrt(np.pi) * sigma) * walk[int(4 * sigma) :][:frames]


def _blinks(frames: int, rng: np.random.Generator) -> np.ndarray:
    blink: np.ndarray = np.zeros(frames)
    at = rng.uniform(0.3, 3.0)
    while at * MODEL_FPS < frames:
        blink = np.maximum(blink, np.exp(-(((np.arange(frames) - at * MODEL_FPS) / 1.5) ** 2)))
        at += rng.uniform(1.8, 5.0)
    return blink


_GRID: dict[int, tuple[np.ndarray, np.ndarray]] = {}


def _pixel_grid() -> tuple[np.ndarray, np.ndarray]:
    if FRAME_SIZE not in _GRID:
        y, x = np.mgrid[0:FRAME_SIZE, 0:FRAME_SIZE].astype(np.float32)
        _GRID[FRAME_SIZE] = (y, x)
    return _GRID[FRAME_SIZE]


def _depth(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Horizontal displacement of a canvas point in pixels at yaw 1: largest at the nose, about 0 at the outline."""
    return 14 * np.exp(-(((x - CENTRE_X) / 80) ** 2) - ((y - 220) / 110) ** 2)


def _background(identity: Identity, rng: np.random.Generator) -> np.ndarray:
    """A blurred room and the shoulders: float32 [FRAME_SIZE, FRAME_SIZE, 3]."""
    top, bottom = (np.asarray(c, np.float32) for c in identity.background)
    ramp = np.linspace(0, 1, FRAME_SIZE, dtype=np.float32)[:, None, None]
    picture = np.broadcast_to(top + ramp * (bottom - top), (FRAME_SIZE, FRAME_SIZE, 3)).copy()
    for _ in range(int(rng.integers(2, 7))):
        colour = tuple(float(v) for v in rng.uniform(30, 225, 3))
        x, y, w, h = (int(v) for v in rng.integers(0, FRAME_SIZE, 4))
        cv2.rectangle(picture, (x, y), (x + w // 2, y + h // 2), colour, cv2.FILLED)
    blurred = np.asarray(cv2.GaussianBlur(picture, (0, 0), float(rng.uniform(6, 14))), np.float32)
    cv2.ellipse(blurred, (FRAME_SIZE // 2, FRAME_SIZE + 30), (140, 72), 0, 0, 360, identity.clothes, cv2.FILLED)
    return blurred
