"""Stand-ins for tests, benchmarks and commands: small random networks, a stub face detector, drawn clips, and lip scores.

With them a whole job runs in seconds, without weights. The true lip opening of drawn clips is known, so results can be scored.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import chain, islice
from pathlib import Path

import cv2
import numpy as np
import torch
from whisper.model import AudioEncoder

from latentsync.avatar.clip import HELD_OUT_FIRST_SEED, AvatarClip, make_clip, random_clip, read_openings, read_truth
from latentsync.diffusion.solvers import OnStep
from latentsync.face.align import FloatArray, FrameArray, Smoother, align_matrix, warp_face
from latentsync.face.detection.detector import Box, Face, make_detector
from latentsync.inference.models import LipsyncModels
from latentsync.inference.pipeline import LipsyncPipeline
from latentsync.inference.settings import InferenceSettings, JobOptions
from latentsync.inference.windows.sampler import WindowSampler
from latentsync.media.sound.write import write_wav
from latentsync.media.video.read import read_frames
from latentsync.media.video.write import VideoFormat, VideoWriter
from latentsync.metrics.lips.aperture import correlation
from latentsync.metrics.lips.mesh_height import read_lips
from latentsync.metrics.pictures.visible import visible_scores
from latentsync.models.unet.config import UNetConfig
from latentsync.models.unet.network import UNet3DConditionModel
from latentsync.models.vae import build_vae
from latentsync.places import DEMO_VIDEO
from latentsync.timebase import MODEL_FPS, SAMPLE_RATE_HZ
from latentsync.weights import DEFAULT_ALIGNMENT, Alignment

AUDIO_FROM = 7  # clip i is lip-synced to the audio of clip i + AUDIO_FROM

RESOLUTION, NUM_FRAMES, WIDTH = 64, 16, 16
FULL_HD = (1920, 1080)  # w, h
DARK = 40  # the stub detector finds no face in frames whose first pixel is darker than this
VAE = {"block_out_channels": [8, 8, 8, 8], "layers_per_block": 1, "norm_num_groups": 2}
UNET = UNetConfig(
    block_out_channels=[8],
    down_block_types=["CrossAttnDownBlock3D"],
    up_block_types=["CrossAttnUpBlock3D"],
    layers_per_block=1,
    norm_num_groups=2,
    attention_head_dim=2,
    cross_attention_dim=WIDTH,
    use_motion_module=False,
)


def stand_in_models(resolution: int = RESOLUTION, num_frames: int = NUM_FRAMES) -> LipsyncModels:
    """The real network classes with a few thousand random weights each, on the CPU in float32."""
    torch.manual_seed(0)
    unet = UNet3DConditionModel(UNET)
    for parameter in unet.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    vae, encoder = build_vae(VAE), AudioEncoder(80, 50, WIDTH, 2, 1)
    for network in (unet, vae, encoder):
        network.eval().requires_grad_(False)
    return LipsyncModels(unet, vae, encoder, resolution, num_frames, torch.device("cpu"), torch.float32)


class StubDetector:
    """Detects `face` (default: `middle_face` of the frame) in every frame that is not dark."""

    alignment: Alignment = DEFAULT_ALIGNMENT

    def __init__(self, face: Face | None = None):
        self.face = face

    def faces(self, frame: FrameArray) -> list[Face]:
        if frame[0, 0].max() < DARK:
            return []
        return [self.face or middle_face(frame)]

    def points(self, frame: FrameArray) -> Face | None:
        return next(iter(self.faces(frame)), None)

    def rewind(self, frames: Sequence[FrameArray], known: Sequence[list[Box]]) -> list[list[Face]]:
        """Nothing: faces are found as soon as they can be seen."""
        return []

    def reset(self) -> None:
        """Nothing to reset: the stub has no state."""


def middle_face(frame: FrameArray) -> Face:
    """A face in the middle of a frame; its width is a quarter of the frame's height."""
    h, w = frame.shape[:2]
    x, y, side = w / 2, h / 2, h / 4
    points = np.array([[-0.3, -0.2], [0.3, -0.2], [0.0, 0.2]], np.float32) * side + np.array([x, y], np.float32)
    return Face(points.astype(np.float32), (x - side / 2, y - side / 2, x + side / 2, y + side / 2), 1.0)


def drawn_frames(width: int, height: int, count: int) -> Iterator[FrameArray]:
    """`count` frames, uint8 [h, w, 3]: a bright spot moves over a smooth grey background; they compress well."""
    still = np.repeat(np.linspace(60, 180, width, dtype=np.float32)[None, :, None], height, axis=0).repeat(3, axis=2)
    for index in range(count):
        frame = still.astype(np.uint8)
        place = int(width * (0.2 + 0.6 * (index % 100) / 100)), height // 4
        yield np.asarray(cv2.circle(frame, place, height // 20, (240, 220, 180), cv2.FILLED))


def moving_head(count: int) -> Iterator[FrameArray]:
    """`count` frames of 1080p: the demo's talking head fills the frame's height and moves from side to side, background blurred."""
    w, h = FULL_HD
    frames = [shown.frame for shown in read_frames(DEMO_VIDEO)]
    frames += frames[-2:0:-1]
    room = cv2.GaussianBlur(cv2.resize(frames[0], FULL_HD), (0, 0), 40)
    for index in range(count):
        picture = room.copy()
        head = cv2.resize(frames[index % len(frames)], (h, h), interpolation=cv2.INTER_CUBIC)
        left = round((w - h) / 2 * (1 + 0.5 * np.sin(index / 20)))
        picture[:, left : left + h] = head
        yield np.asarray(picture, np.uint8)


def write_pair(folder: Path, seconds: float, width: int, height: int) -> tuple[Path, Path]:
    """Write a drawn video at 25 fps and a tone of the same length; returns both paths."""
    video, audio = folder / "v.mp4", folder / "a.wav"
    with VideoWriter(video, VideoFormat.constant(width, height, MODEL_FPS, crf=25)) as writer:
        for frame in drawn_frames(width, height, round(seconds * MODEL_FPS)):
            writer.write(frame)
    times = np.arange(round(seconds * SAMPLE_RATE_HZ), dtype=np.float32) / SAMPLE_RATE_HZ
    write_wav(audio, (0.3 * np.sin(2 * np.pi * 180 * times)).astype(np.float32))
    return video, audio


def held_out_clips(count: int, folder: Path) -> list[Path]:
    """Draw videos of `count` heads that are not used in training, each with a truth file; existing clips are kept."""
    folder.mkdir(parents=True, exist_ok=True)
    return [make_clip(seed, folder) for seed in range(HELD_OUT_FIRST_SEED, HELD_OUT_FIRST_SEED + count)]


def speaking(person: AvatarClip, other: AvatarClip) -> AvatarClip:
    """The true result of lip-syncing `person` to the audio of `other`: the same head with the lips of the other clip."""
    return replace(person, mouth=other.mouth, speech=other.speech)


def write_speaking(video: Path, audio: Path, most_frames: int, output: Path) -> int:
    """Write the true result of lip-syncing a drawn `video` to the audio of another drawn clip; returns the number of frames.

    It is encoded as the drawn clips themselves are, and ends with the shorter of the two.
    """
    person, other = (random_clip(read_truth(path)["seed"]) for path in (video, audio))
    count = min(most_frames, len(person), len(other))
    frames = islice(speaking(person, other).frames(), count)
    first = next(frames)
    with VideoWriter(output, VideoFormat.constant(first.shape[1], first.shape[0], MODEL_FPS)) as writer:
        for frame in chain([first], frames):
            writer.write(frame)
    return count


@dataclass(frozen=True)
class Synced:
    """A drawn `video` that was lip-synced to the audio of another drawn clip."""

    video: Path
    audio: Path
    output: Path
    shown: list[int]  # the source frame that each output frame shows
    matrices: list[FloatArray]  # alignment of each source frame at `resolution`
    resolution: int

    @cached_property
    def faces(self) -> FrameArray:
        """Aligned faces of the output, uint8 [t, r, r, 3]."""
        return faces_at(self.output, [self.matrices[i] for i in self.shown], self.resolution)

    @cached_property
    def source_faces(self) -> FrameArray:
        """Aligned faces of the input, uint8 [n, r, r, 3]."""
        return faces_at(self.video, self.matrices, self.resolution)


def lip_sync(
    pipeline: LipsyncPipeline,
    settings: InferenceSettings,
    video: Path,
    audio: Path,
    folder: Path,
    options: JobOptions | None = None,
) -> Synced:
    """Lip-sync a drawn `video` to the audio of another drawn clip; the output is written into `folder`."""
    output = folder / f"{video.stem}_{audio.stem}.mp4"
    report = pipeline(video, audio, output, settings, options)
    resolution = pipeline.models.resolution
    shown = [frame.source for frame in report.per_frame]
    return Synced(video, audio, output, shown, face_matrices(video, resolution), resolution)


@dataclass(frozen=True)
class LipScore:
    """Correlations of lip openings for one video that was lip-synced to another clip's audio."""

    video: str
    audio: str
    new: float  # output with the truth of the new audio
    old: float  # output with the truth of the video's own audio
    copied: float  # input with the truth of the new audio
    read: float  # input with its own truth: the upper limit of the measurement for this face


def score_lips(synced: Synced) -> LipScore:
    """Correlate the lip openings of a lip-synced drawn video with the truths of both sentences."""
    lips_in, lips_out = read_lips(synced.source_faces), read_lips(synced.faces)
    old, new = read_openings(synced.video), read_openings(synced.audio)
    count = min(len(lips_out), len(new))
    shown = synced.shown[:count]
    return LipScore(
        synced.video.stem,
        synced.audio.stem,
        new=correlation(lips_out[:count], new[:count]),
        old=correlation(lips_out[:count], old[shown]),
        copied=correlation(lips_in[shown], new[:count]),
        read=correlation(lips_in, old),
    )


class AutoencoderSampler(WindowSampler):
    """Encodes and decodes whole faces and samples nothing: what remains is the error of the auto-encoder and of pasting."""

    def denoise(
        self, masked: torch.Tensor, masks: torch.Tensor, audio: torch.Tensor, reference: torch.Tensor, on_step: OnStep
    ) -> torch.Tensor:
        """The latents b c f h w of the reference, which for the setting `reference` `current` are those of the faces themselves."""
        return reference


class AutoencoderPipeline(LipsyncPipeline):
    """Whole jobs whose faces are only encoded, decoded, matched in colour and pasted."""

    sampler_type = AutoencoderSampler


@dataclass(frozen=True)
class PictureScore:
    """What the eye finds in one lip-synced drawn video beside the true one; see `latentsync.metrics.pictures.visible`."""

    video: str
    audio: str
    output: dict[str, float]
    autoencoder: dict[str, float]  # of the true video, merely encoded, decoded and pasted: the floor of these models


def score_pictures(synced: Synced, autoencoder: AutoencoderPipeline, settings: InferenceSettings) -> PictureScore:
    """Compare a lip-synced drawn video, and the true one after the auto-encoder alone, with the true one.

    All three are encoded as often, and aligned with the same matrices. The true video and the result of the auto-encoder are
    written beside the output.
    """
    truth, floor = (synced.output.with_stem(f"{synced.output.stem}_{kind}") for kind in ("truth", "autoencoder"))
    count = write_speaking(synced.video, synced.audio, len(synced.shown), truth)
    options = JobOptions(limit_sec=count / MODEL_FPS)
    autoencoder(truth, synced.audio, floor, settings.changed({"reference": "current"}), options)
    true_faces, floor_faces = (faces_at(path, synced.matrices[:count], synced.resolution) for path in (truth, floor))
    return PictureScore(
        synced.video.stem,
        synced.audio.stem,
        output=visible_scores(synced.faces[:count], true_faces, is_truth=True),
        autoencoder=visible_scores(floor_faces, true_faces, is_truth=True),
    )


def face_matrices(video: Path, resolution: int) -> list[FloatArray]:
    """Alignment matrix of every frame of a source video; used for the result too, as its mouth might disturb the detector."""
    detector, smoother = make_detector(), Smoother()
    found = [detector.points(shown.frame) for shown in read_frames(video)]
    known = next(face for face in found if face is not None)
    matrices = []
    for face in found:
        known = face or known
        matrices.append(align_matrix(known.points, resolution, smoother))
    return matrices


def faces_at(output: Path, matrices: Sequence[FloatArray], resolution: int) -> np.ndarray:
    """Aligned faces, uint8 [t, r, r, 3], of a video, with one alignment matrix per frame."""
    pairs = zip(read_frames(output), matrices, strict=True)
    return np.stack([warp_face(shown.frame, matrix, resolution) for shown, matrix in pairs])
