"""One avatar clip: identity, sentence, head motion, and the exact ground truth of every frame."""

import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass, fields, replace
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar

import cv2
import numpy as np
from scipy.ndimage import gaussian_filter1d

from latentsync.avatar import OCCLUDERS, OccluderKind
from latentsync.avatar.head import Expression
from latentsync.avatar.identity import Identity, random_identity
from latentsync.avatar.mouth import MouthTrack, mouth_track
from latentsync.avatar.occluders import Occluder
from latentsync.avatar.occluders import patches as occluder_patches
from latentsync.avatar.raster import to_srgb
from latentsync.avatar.render import Pose, Renderer
from latentsync.avatar.room import margin_px, paint_room
from latentsync.avatar.sound.sentences import random_sentence
from latentsync.avatar.sound.speech import Phoneme, Speech, Voice, random_voice, speak
from latentsync.files import atomic_write
from latentsync.media.sound.copy import AudioSource
from latentsync.media.sound.write import write_wav
from latentsync.media.video.write import VideoFormat, VideoWriter
from latentsync.timebase import MODEL_FPS, SAMPLE_RATE_HZ, frames_in, samples_of_frames

FRAME_SIZE = 256  # px, height and width
NOISE_MARGIN = 64  # the camera noise of a frame is a random crop of a larger noise image
HELD_OUT_FIRST_SEED = 1_000_000  # first seed of the held-out identities and sentences, which are not used in training
PX_PER_CM = 7.4  # of a head of scale 1 in a frame of FRAME_SIZE
MAX_YAW = 0.44  # radians
LANDMARKS = ("jaw", "brows", "nose", "eyes", "lips", "inner_lips")  # parts of the 68 points, in their usual order
INNER_LIPS = (62, 66)  # the middle of the inner upper and lower lip
Track = TypeVar("Track", MouthTrack, "HeadMotion")


@dataclass(frozen=True)
class HeadMotion:
    """Movement of the head per frame: arrays [t]; shift in cm, angles in radians (see `render.Pose`), scale around 1."""

    shift_x: np.ndarray
    shift_y: np.ndarray
    roll: np.ndarray
    pitch: np.ndarray
    yaw: np.ndarray
    scale: np.ndarray
    blink: np.ndarray
    brow_raise: np.ndarray
    gaze_x: np.ndarray
    gaze_y: np.ndarray


@dataclass(frozen=True)
class AvatarClip:
    """A clip, determined by its seed; `frames()` draws it, `waveform` is its audio, `truth()` its ground truth."""

    seed: int
    sentence: str
    voice: Voice | None  # None: of a person in a conversation
    identity: Identity
    speech: Speech
    mouth: MouthTrack
    motion: HeadMotion
    size: int = FRAME_SIZE  # px, height and width of the frames
    occluder: OccluderKind | None = None  # what covers the mouth for a while

    def __len__(self) -> int:
        return len(self.mouth)

    @property
    def waveform(self) -> np.ndarray:
        """Mono float32 at 16 kHz, exactly as long as the frames."""
        samples = samples_of_frames(len(self))
        return np.pad(self.speech.waveform, (0, max(0, samples - len(self.speech.waveform))))[:samples]

    @cached_property
    def renderer(self) -> Renderer:
        """Draws the clip's identity."""
        return Renderer(self.identity, None if self.occluder is None else occluder_patches())

    @cached_property
    def _occluder(self) -> Occluder | None:
        if self.occluder is None:
            return None
        rng = np.random.default_rng([self.seed, OCCLUDERS.index(self.occluder)])
        return Occluder(self.occluder, self.renderer.head, len(self), rng)

    def part(self, start: int, stop: int) -> "AvatarClip":
        """The frames `start` ... `stop` - 1 as a clip of its own."""
        first, last = start / MODEL_FPS, stop / MODEL_FPS
        heard = [
            Phoneme(p.symbol, max(p.start_sec, first) - first, min(p.end_sec, last) - first)
            for p in self.speech.phonemes
            if p.end_sec > first and p.start_sec < last
        ]
        samples = slice(samples_of_frames(start), samples_of_frames(stop))
        return replace(
            self,
            speech=Speech(self.waveform[samples], heard),
            mouth=_cut(self.mouth, start, stop),
            motion=_cut(self.motion, start, stop),
        )

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
            gaze=(float(motion.gaze_x[frame]), float(motion.gaze_y[frame])),
        )

    def pose(self, frame: int) -> Pose:
        """The position of the head in a frame."""
        motion = self.motion
        return Pose(
            yaw=float(motion.yaw[frame]),
            pitch=float(motion.pitch[frame]),
            roll=float(motion.roll[frame]),
            shift=(float(motion.shift_x[frame]), float(motion.shift_y[frame])),
            px_per_cm=PX_PER_CM * float(motion.scale[frame]) * self.size / FRAME_SIZE,
            size=(self.size, self.size),
        )

    def frames(self) -> Iterator[np.ndarray]:
        """Draw the clip: uint8 [size, size, 3] RGB at 25 fps."""
        return (frame for frame, _ in self.frames_and_masks())

    def frames_and_masks(self) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Draw the clip; with each frame the share of every pixel that the occluder covers, float32 [size, size] in [0, 1].

        Where the mask is 0, the frame equals that of the clip without an occluder.
        """
        rng = np.random.default_rng(self.identity.texture_seed + 1)
        room = paint_room((self.size, self.size), rng)
        side = self.size + NOISE_MARGIN
        noise = self.identity.noise_sigma * rng.standard_normal((side, side, 3), dtype=np.float32)
        for frame in range(len(self)):
            pose = self.pose(frame)
            held = None if self._occluder is None else self._occluder.held(frame, pose)
            person, alpha, mask = self.renderer.draw(self.expression(frame), pose, held)
            light = person + (1 - alpha[..., None]) * self._behind(frame, room)
            picture = to_srgb(self.identity.exposure * light)
            row, column = rng.integers(0, NOISE_MARGIN, 2)
            picture = picture + noise[row:, column:][: self.size, : self.size]
            yield np.clip(picture + 0.5, 0, 255).astype(np.uint8), mask

    def _behind(self, frame: int, room: np.ndarray) -> np.ndarray:
        """The part of the room behind the person; it moves less than the head."""
        margin = margin_px((self.size, self.size))
        along = margin * (1 - 0.06 * np.array([self.motion.shift_x[frame], -self.motion.shift_y[frame]]))
        left, top = np.clip(along, 0, 2 * margin - 1)
        shift = np.array([[1, 0, -left], [0, 1, -top]], np.float32)
        return cv2.warpAffine(room, shift, (self.size, self.size), flags=cv2.INTER_LINEAR)

    def landmarks(self, frame: int, pose: Pose | None = None) -> np.ndarray:
        """The 68 usual landmarks in a frame, [68, 2] in px, with the parts of `LANDMARKS` in order; of a head at `pose`."""
        return np.concatenate([self._part(frame, name, pose) for name in LANDMARKS])

    def _part(self, frame: int, name: str, pose: Pose | None = None) -> np.ndarray:
        surface, pose = self.renderer.head.pose(self.expression(frame)), pose or self.pose(frame)
        cells = self._cells[name]
        return pose.project(pose.place(surface[cells[:, 0], cells[:, 1]]))[:, :2]

    @cached_property
    def _cells(self) -> dict[str, np.ndarray]:
        return self.renderer.head.landmark_cells()

    def opening_px(self, frame: int) -> float:
        """Distance of the inner lips at the middle of the mouth, in px."""
        inner = self._part(frame, "inner_lips")
        return float(np.linalg.norm(inner[2] - inner[6]))

    def truth(self) -> dict[str, Any]:
        """The ground truth of the clip as JSON values; apertures and landmarks [x, y] in frame pixels."""
        points = [self.landmarks(frame) for frame in range(len(self))]
        openings = [float(np.linalg.norm(p[INNER_LIPS[0]] - p[INNER_LIPS[1]])) for p in points]
        motion = self.motion
        occluded = {} if self.occluder is None else {"occluder": self.occluder}
        return {
            **occluded,
            "seed": self.seed,
            "sentence": self.sentence,
            "voice": self.voice and asdict(self.voice),
            "identity": self.identity.to_dict(),
            "fps": MODEL_FPS,
            "sample_rate_hz": SAMPLE_RATE_HZ,
            "frames": len(self),
            "phonemes": [[p.symbol, round(p.start_sec, 4), round(p.end_sec, 4)] for p in self.speech.phonemes],
            "aperture_px": [round(v, 3) for v in openings],
            "aperture": [round(float(v), 5) for v in self.mouth.aperture],
            "width": [round(float(v), 5) for v in self.mouth.width],
            "landmarks": [[[round(float(c), 2) for c in point] for point in frame] for frame in points],
            "pose": {n: [round(float(v), 5) for v in getattr(motion, n)] for n in ("yaw", "pitch", "roll", "scale")},
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
    return AvatarClip(
        seed, text, voice, identity, speech, mouth_track(speech.phonemes, frames), random_motion(frames, rng)
    )


def random_part(clip: AvatarClip, frames: int) -> AvatarClip:
    """A part of `frames` frames, at a place that the clip's seed decides; the clip itself if it is not longer."""
    spare = len(clip) - frames
    if spare <= 0:
        return clip
    start = int(np.random.default_rng([clip.seed, frames]).integers(0, spare + 1))
    return clip.part(start, start + frames)


def make_clip(seed: int, folder: Path, occluder: OccluderKind | None = None, frames: int | None = None) -> Path:
    """Write the clip of a seed as .mp4 (H.264, 25 fps, 16 kHz audio) and its truth as .json; returns the video's path.

    With `frames`, only a part of so many frames of the sentence is drawn. With an occluder, its masks are written as .npz (see
    `read_masks`). The truth is written last, so a clip of which the files exist is complete; it is not made again.

    Raises:
        ValueError: the folder contains this clip with another occluder, or a longer one.
    """
    video, truth, masks = (folder / f"avatar_{seed:07d}{end}" for end in (".mp4", ".json", ".npz"))
    if truth.exists() and video.exists():
        found = json.loads(truth.read_text(encoding="utf-8"))
        if found.get("occluder") != occluder or (frames and found["frames"] > frames):
            raise ValueError(
                f"{video} exists with another occluder or length, and clips are not overwritten: give another folder."
            )
        return video
    clip = replace(random_clip(seed), occluder=occluder)
    clip = random_part(clip, frames) if frames else clip
    covered = write_clip(clip, video)
    if covered:
        with atomic_write(masks) as partial, partial.open("wb") as file:
            np.savez_compressed(file, mask=np.stack(covered))
    write_truth(clip, truth)
    return video


def write_clip(clip: AvatarClip, video: Path) -> list[np.ndarray]:
    """Write a clip as H.264 with 25 fps and 16 kHz audio; returns the occluder's masks, float16 [h, w] each, if it has one."""
    sound, covered = video.with_suffix(".wav"), []
    write_wav(sound, clip.waveform)
    with VideoWriter(video, VideoFormat.constant(FRAME_SIZE, FRAME_SIZE, MODEL_FPS), AudioSource(sound)) as writer:
        for frame, mask in clip.frames_and_masks():
            writer.write(frame)
            if clip.occluder is not None:
                covered.append(mask.astype(np.float16))  # quarters of a pixel, which 16 bits hold exactly
    sound.unlink()
    return covered


def read_masks(video: Path) -> np.ndarray:
    """Share of every pixel that the occluder of a clip covers, float16 [t, h, w] in [0, 1], from the .npz beside the video."""
    with np.load(video.with_suffix(".npz")) as stored:
        return np.asarray(stored["mask"])


def write_truth(clip: AvatarClip, path: Path) -> None:
    """Write `clip.truth()` as JSON."""
    path.write_text(json.dumps(clip.truth()), encoding="utf-8")


def read_truth(video: Path) -> dict[str, Any]:
    """The truth of a drawn clip, from the .json beside it."""
    truth: dict[str, Any] = json.loads(video.with_suffix(".json").read_text(encoding="utf-8"))
    return truth


def read_openings(video: Path) -> np.ndarray:
    """The true lip opening in px, float [t], of a drawn clip."""
    return np.array(read_truth(video)["aperture_px"])


def _cut(track: Track, start: int, stop: int) -> Track:
    return replace(track, **{each.name: getattr(track, each.name)[start:stop] for each in fields(track)})


def random_motion(frames: int, rng: np.random.Generator) -> HeadMotion:
    """The movement of a head for `frames` frames."""
    lively = rng.uniform(0.4, 1.2)
    yaw = rng.uniform(-0.14, 0.14) + _wander(frames, 0.12 * lively, rng)
    return HeadMotion(
        shift_x=rng.uniform(-1.2, 1.2) + _wander(frames, 0.45, rng),
        shift_y=rng.uniform(-0.8, 0.8) + _wander(frames, 0.3, rng),
        roll=rng.uniform(-0.06, 0.06) + _wander(frames, 0.035 * lively, rng),
        pitch=rng.uniform(-0.08, 0.10) + _wander(frames, 0.05 * lively, rng) + _nods(frames, rng),
        yaw=MAX_YAW * np.tanh(yaw / MAX_YAW),
        scale=rng.uniform(0.88, 1.08) * (1 + _wander(frames, 0.012, rng)),
        blink=_blinks(frames, rng),
        brow_raise=np.clip(_wander(frames, 0.5, rng), 0, 1),
        gaze_x=np.clip(-1.6 * yaw + rng.uniform(-0.25, 0.25) + _wander(frames, 0.15, rng), -1, 1),
        gaze_y=np.clip(rng.uniform(-0.2, 0.2) + _wander(frames, 0.12, rng), -1, 1),
    )


def _nods(frames: int, rng: np.random.Generator) -> np.ndarray:
    """Short nods of the head, in radians."""
    t, pitch = np.arange(frames) / MODEL_FPS, np.zeros(frames)
    at = rng.uniform(0.5, 3.0)
    while at < frames / MODEL_FPS:
        pitch += rng.uniform(0.03, 0.10) * np.exp(-(((t - at) / rng.uniform(0.12, 0.25)) ** 2))
        at += rng.uniform(1.0, 4.0)
    return pitch


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
