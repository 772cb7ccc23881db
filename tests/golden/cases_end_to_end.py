"""The whole way from files to file with one small checkpoint in the official layout: what the engine makes of it must not drift.

Audio windows, aligned faces, new faces and pasted frames of 40 frames are recorded; and for every length of the last window the
engine's faces are compared with the plainest computation of the frames left over, sampled alone, as the public releases do it.
"""

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from einops import rearrange
from whisper.model import AudioEncoder, ModelDimensions

from latentsync.audio.whisper_features import WhisperFeatures
from latentsync.diffusion.denoisers import conditioned, guided
from latentsync.diffusion.noise import shared_noise
from latentsync.diffusion.schedule import NoiseSchedule
from latentsync.diffusion.solvers import ddim_sample
from latentsync.face.align import Smoother, align_matrix, warp_face
from latentsync.face.detection.detector import Face
from latentsync.face.masks import load_mask
from latentsync.face.pixels import prepare_faces
from latentsync.inference.models import LipsyncModels
from latentsync.inference.pipeline import LipsyncPipeline
from latentsync.inference.settings import InferenceSettings, JobOptions
from latentsync.inference.timing import Stopwatch
from latentsync.inference.windows.sampler import WindowSampler
from latentsync.inference.windows.stream import FrameIn, LipsyncStream
from latentsync.media.pixels.picture import RgbPicture
from latentsync.media.sound.read import read_audio
from latentsync.media.sound.write import write_wav
from latentsync.media.video.read import read_frames
from latentsync.media.video.write import VideoFormat, VideoWriter
from latentsync.models.unet.network import UNet3DConditionModel, UNetConfig
from latentsync.models.vae import build_vae, decode, encode
from latentsync.timebase import SAMPLE_RATE_HZ, samples_of_frames
from latentsync.weights import DEFAULT_ALIGNMENT, Alignment
from tests.golden.cases_audio import chirp
from tests.golden.cases_face import draw_frame
from tests.golden.harness import Check, GoldenCase, compare, fill_by_rule, golden

SHIFT_PX = 3  # that the drawn picture moves from frame to frame


class RecordedFace:
    """A detector that knows the landmarks of every frame of the case beforehand."""

    alignment: Alignment = DEFAULT_ALIGNMENT

    def __init__(self, landmarks: np.ndarray):
        self.landmarks, self.next = landmarks, 0

    def faces(self, frame: np.ndarray) -> list[Face]:
        points = self.landmarks[self.next]
        self.next += 1
        (x0, y0), (x1, y1) = points.min(axis=0) - 20, points.max(axis=0) + 40
        return [Face(points, (float(x0), float(y0), float(x1), float(y1)), 1.0)]

    def points(self, frame: np.ndarray) -> Face | None:
        return self.faces(frame)[0]

    def reset(self) -> None:
        """Another stream begins with the first frame."""
        self.next = 0


def inputs_of(case: GoldenCase) -> tuple[list[np.ndarray], np.ndarray, np.ndarray]:
    """The frames, the alignment points of each [n, 3, 2], and the sound at 16 kHz."""
    count, base = case.facts["frame_count"], np.array(case.facts["landmarks"])
    picture = draw_frame(case)
    frames = [np.roll(picture, SHIFT_PX * index, axis=1) for index in range(count)]
    walk = np.cumsum(case.normal("landmark_walk", (count, 3, 2)).astype(np.float64), axis=0)
    sound = 0.4 * chirp(case.facts["signal"], samples_of_frames(count)).astype(np.float32)
    return frames, (base + walk).astype(np.float32), sound


def write_checkpoint(case: GoldenCase, folder: Path) -> Path:
    """A U-Net with the public names and its companions in the public layout, all with weights by the rule."""
    unet = UNet3DConditionModel(UNetConfig.from_dict(case.facts["unet"]))
    vae, dims = build_vae(case.facts["vae"]), ModelDimensions(**case.facts["whisper"])
    encoder = AudioEncoder(dims.n_mels, dims.n_audio_ctx, dims.n_audio_state, dims.n_audio_head, dims.n_audio_layer)
    for network in (unet, vae, encoder):
        fill_by_rule(network, case.seed)
    states = {f"encoder.{name}": value for name, value in encoder.state_dict().items()}
    (folder / "whisper").mkdir()
    torch.save({"state_dict": unet.state_dict(), "global_step": 0}, folder / "latentsync_unet.pt")
    torch.save({"dims": asdict(dims), "model_state_dict": states}, folder / "whisper/tiny.pt")
    vae.save_pretrained(folder / "vae")
    return folder / "latentsync_unet.pt"


@contextmanager
def loaded(case: GoldenCase) -> Iterator[tuple[Path, LipsyncModels]]:
    """A folder with the case's checkpoint, and the networks loaded from there."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        path, config = write_checkpoint(case, folder), folder / "config.yaml"
        size = {"resolution": case.facts["resolution"], "num_frames": case.facts["num_frames"]}
        config.write_text(as_yaml({"model": case.facts["unet"], "data": size}))
        yield folder, LipsyncModels.load(path, config)


def as_yaml(sections: dict[str, Any]) -> str:
    return "\n".join(
        f"{name}: {entries!r}".replace("True", "true").replace("False", "false") for name, entries in sections.items()
    )


def settings_of(case: GoldenCase) -> InferenceSettings:
    return InferenceSettings(**case.facts["settings"])


def engine_faces(case: GoldenCase, models: LipsyncModels, count: int) -> torch.Tensor:
    """New faces [count, 3, r, r] of the first frames, as the engine samples them."""
    frames, landmarks, sound = inputs_of(case)
    features, smoother = WhisperFeatures(models.audio_encoder).track(sound), Smoother()
    stream = LipsyncStream(WindowSampler(models, settings_of(case), Stopwatch()), features, lambda frames: None)
    done = []
    for index in range(count):
        matrix = align_matrix(landmarks[index], models.resolution, smoother)
        done += stream.repaint(FrameIn(RgbPicture(frames[index]), index / 25, index, 0, matrix))
    return torch.cat([each.new.whole() for each in [*done, *stream.rest()] if each.new is not None])


@torch.no_grad()
def plain_window(case: GoldenCase, models: LipsyncModels, window: range) -> torch.Tensor:
    """New faces [f, 3, r, r] of the frames `window` alone, in the plainest way."""
    frames, landmarks, sound = inputs_of(case)
    settings, schedule, mask, smoother = settings_of(case), NoiseSchedule(), load_mask(models.resolution), Smoother()
    matrices = [align_matrix(points, models.resolution, smoother) for points in landmarks[: window.stop]]
    inputs = prepare_faces(np.stack([warp_face(frames[i], matrices[i], models.resolution) for i in window]), mask)
    masked, whole = (
        rearrange(encode(models.vae, pixels), "f c h w -> 1 c f h w")
        for pixels in (inputs.masked_pixels, inputs.pixels)
    )
    masks = rearrange(inputs.latent_masks, "f c h w -> 1 c f h w")
    audio = WhisperFeatures(models.audio_encoder).track(sound).windows(window)[None]
    denoise = guided(
        conditioned(models.unet, masks, masked, whole), models.unet.project_kv(audio), settings.guidance_scale
    )
    noise = shared_noise(tuple(masked.shape), torch.Generator().manual_seed(settings.seed))
    latents = ddim_sample(denoise, noise, schedule.ddim_timesteps(settings.steps), schedule)
    decoded = decode(models.vae, rearrange(latents, "1 c f h w -> f c h w"))
    return decoded * (1 - mask) + inputs.pixels * mask


def written_frames(case: GoldenCase, folder: Path, models: LipsyncModels) -> list[np.ndarray]:
    """The frames of the result of a whole job from lossless file to lossless file."""
    frames, landmarks, sound = inputs_of(case)
    height, width = frames[0].shape[:2]
    with VideoWriter(folder / "v.mkv", VideoFormat.constant(width, height, 25, codec="ffv1")) as writer:
        for frame in frames:
            writer.write(frame)
    write_wav(folder / "a.wav", sound)
    pipeline = LipsyncPipeline(models, RecordedFace(landmarks))
    pipeline(folder / "v.mkv", folder / "a.wav", folder / "o.mkv", settings_of(case), JobOptions(codec="ffv1"))
    return [shown.frame for shown in read_frames(folder / "o.mkv")]


def answers(case: GoldenCase, folder: Path, models: LipsyncModels) -> dict[str, np.ndarray]:
    """What is recorded: of the frames `shown`."""
    shown, count = case.facts["shown"], case.facts["frame_count"]
    sound = read_audio(wav(folder, inputs_of(case)[2]))
    features = WhisperFeatures(models.audio_encoder).track(sound)
    faces = engine_faces(case, models, count)[shown]
    written = written_frames(case, folder, models)
    assert len(written) == count
    return {
        "audio_windows": features.windows(shown).numpy(),
        "new_faces": faces[:, :, ::2, ::2].numpy(),
        "written": np.stack([written[index] for index in shown]),
    }


def wav(folder: Path, sound: np.ndarray) -> Path:
    write_wav(folder / "sound.wav", sound, SAMPLE_RATE_HZ)
    return folder / "sound.wav"


@golden("end_to_end")
def end_to_end(case: GoldenCase) -> Iterator[Check]:
    tolerance = case.facts["tolerance"]
    with loaded(case) as (folder, models):
        got = answers(case, folder, models)
        yield compare("audio windows", got["audio_windows"], case.arrays["audio_windows"], tolerance["audio_max_abs"])
        yield compare("new faces", got["new_faces"], case.arrays["new_faces"], tolerance["face_max_abs"])
        yield compare("written", got["written"], case.arrays["written"], tolerance["written_max_levels"])
        for left_over in range(1, models.num_frames + 1):
            window = range(models.num_frames, models.num_frames + left_over)
            engine, plain = engine_faces(case, models, window.stop)[window.start :], plain_window(case, models, window)
            yield compare(f"{left_over} frames left over", engine, plain.numpy(), tolerance["face_max_abs"])
