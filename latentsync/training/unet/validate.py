"""Validating a U-Net: fixed clips are sampled from fixed noise, as at inference, with their own audio and with silence.

The measures, means over the clips:

- `sync`: SyncNet similarity of the sampled lips and the clip's audio, 0 ... 1; `sync_truth`: the same for the true lips;
- `psnr_db` in the generated region and `lpips` of the lower half, against the clip;
- leakage of lip movement from the input, sampled with silence: `silent_sync`, similarity to the clip's audio, which is not an
  input; `silent_motion`, movement of the lips as a fraction of the true movement;
- `motion` and `motion_truth`: movement of the generated region, sampled and true;
- by judges that do not teach (see `judges`): `aperture` on clips whose true openings are known, `confidence` of SyncNet v2;
- `NAME_nearness` of a measure with a `NAME_truth`: 1 - |measure - truth| / |truth|;
- `loss_recon` and so on: the losses of training for the clip, with the same random numbers in every validation. Where they rise
  while those of the training clips fall, the network learns the training clips by heart.

The reference is another part of the clip, as in training. `score` is the sum of the available measures weighted by
`validation.weights`; higher is better. Measures by a SyncNet that teaches in the same run do not count in it.

Legend: f frames, r face resolution in px, s audio tokens, d width of an audio token.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderKL
from einops import rearrange
from numpy.typing import NDArray
from torch import Tensor

from latentsync.audio.sync_mel import sync_mel, sync_mel_window
from latentsync.audio.whisper_features import AudioEncoder, WhisperFeatures
from latentsync.audio.windows import training_windows
from latentsync.data.clips import TrainingClip
from latentsync.data.frames import FrameMemory
from latentsync.data.unet_clips import ClipBatch
from latentsync.face.masks import latent_mask, load_mask
from latentsync.face.pixels import frames_to_pixels, keep_surroundings, pixels_to_frames
from latentsync.inference.settings import DEFAULT_SEED, InferenceSettings
from latentsync.inference.windows.latents import LatentSampler
from latentsync.losses.contract import FRAMES_AT_ONCE
from latentsync.losses.perceptual import PerceptualLoss
from latentsync.losses.sync import SyncLoss
from latentsync.media.video.write import VideoFormat, VideoWriter
from latentsync.models.attention import AudioKV
from latentsync.models.frozen import Frozen
from latentsync.models.syncnet_v2 import SyncNetV2
from latentsync.models.unet.network import DeepCache, UNet3DConditionModel
from latentsync.models.vae import decode, encode
from latentsync.timebase import MODEL_FPS, samples_of_frames
from latentsync.training.engine.distributed import Processes
from latentsync.training.engine.loop import Losses
from latentsync.training.unet.judges import Sides, expert_measures, mean_measures, opening_measures

PEAK = 2.0  # range of pixel values, [-1, 1]
LOSS = "loss_"  # before the names of losses
LOSS_DRAWS = 4  # noises and timesteps for the losses of each clip


@dataclass(frozen=True)
class ValidationClip:
    """A window of a clip with its reference and audio."""

    name: str
    faces: np.ndarray  # uint8 [f, r, r, 3]
    reference: np.ndarray  # uint8 [f, r, r, 3], another part of the clip
    audio: Tensor  # [f, s, d]
    silence: Tensor  # [f, s, d]: features of silence
    mel: Tensor  # [1, 1, 80, n]
    waveform: NDArray[np.float32] = field(default_factory=lambda: np.zeros(0, np.float32))  # of these frames, at 16 kHz
    aperture: NDArray[np.float32] | None = None  # [f], true opening of the mouth, if it is known


def validation_clips(
    clips: list[TrainingClip], memory: FrameMemory, encoder: AudioEncoder, num_frames: int
) -> list[ValidationClip]:
    """The first window of every clip; its reference is the last window. Clips must have at least 3 * num_frames frames."""
    features_of = WhisperFeatures(encoder).features
    prepared = []
    for index, clip in enumerate(clips):
        waveform, mouth = torch.from_numpy(clip.waveform()), clip.mouth()
        spoken, silent = (features_of(each).cpu().float() for each in (waveform, torch.zeros_like(waveform)))
        prepared.append(
            ValidationClip(
                f"{index:02d}_{clip.path.stem}",
                memory.frames(clip, 0, num_frames).numpy(),
                memory.frames(clip, clip.frames - num_frames, clip.frames).numpy(),
                training_windows(spoken, 0, num_frames),
                training_windows(silent, 0, num_frames),
                sync_mel_window(sync_mel(waveform), 0, num_frames)[None, None],
                waveform[: samples_of_frames(num_frames)].numpy(),
                None if mouth is None else mouth[:num_frames, 0],
            )
        )
    return prepared


@dataclass(frozen=True)
class MetricNetworks:
    """The networks for measures; a measure whose network is None is left out."""

    sync: SyncLoss | None = None
    lpips: Frozen[PerceptualLoss] | None = None
    expert: SyncNetV2 | None = None


@dataclass(frozen=True)
class Sampling:
    """Samples clips with the U-Net being trained, with the sampling loop of inference and noise of a fixed seed."""

    unet: UNet3DConditionModel
    vae: Frozen[AutoencoderKL]
    resolution: int
    num_frames: int
    device: torch.device
    precision: torch.dtype  # of the U-Net's autocast
    settings: InferenceSettings = field(
        default_factory=InferenceSettings
    )  # solver, steps, guidance, DeepCache and start
    seed: int = DEFAULT_SEED

    @cached_property
    def latents(self) -> LatentSampler:
        settings = replace(self.settings, seed=self.seed)
        return LatentSampler(settings, self.num_frames, self.resolution, self.device)

    @cached_property
    def mask(self) -> Tensor:
        """[r, r], 1 = visible."""
        return load_mask(self.resolution).to(self.device)

    def batch(self, clip: ValidationClip) -> ClipBatch:
        """The clip as a batch of one item, on the device."""
        truth, reference = (frames_to_pixels(faces).to(self.device) for faces in (clip.faces, clip.reference))
        return ClipBatch(
            audio=clip.audio[None].to(self.device),
            latents=self._encode(truth),
            masked_latents=self._encode(truth * self.mask),
            reference_latents=self._encode(reference),
            pixels=rearrange(truth, "f c h w -> 1 c f h w"),
            mel=clip.mel.to(self.device),
        )

    def __call__(self, clip: ValidationClip, batch: ClipBatch) -> tuple[Tensor, Tensor]:
        """Sampled faces [f, 3, r, r] in [-1, 1], float32 on the CPU: (with the clip's audio, with silence)."""
        masked, reference, truth = batch.masked_latents, batch.reference_latents, batch.pixels
        assert masked is not None and reference is not None and truth is not None
        masked, reference = (each.repeat(2, 1, 1, 1, 1) for each in (masked, reference))
        with self.autocast():
            audio = self.unet.project_kv(torch.stack([clip.audio, clip.silence]).to(self.device))
        latents = self.latents(self._predict, audio, latent_mask(self.mask)[None, None, None], masked, reference)
        shown = rearrange(truth, "1 c f h w -> f c h w")
        spoken, silent = (keep_surroundings(self._decode(each), shown, self.mask).cpu() for each in latents)
        return spoken, silent

    def _predict(self, sample: Tensor, timestep: int, audio: AudioKV, cache: DeepCache | None) -> Tensor:
        with self.autocast():
            return self.unet(sample, timestep, audio, cache).float()

    def autocast(self) -> torch.autocast:
        """The context in which the U-Net computes."""
        return torch.autocast(self.device.type, self.precision, enabled=self.precision != torch.float32)

    def _encode(self, pixels: Tensor) -> Tensor:
        vae = self.vae.net
        latents = torch.cat([encode(vae, part.to(vae.dtype)).float() for part in pixels.split(FRAMES_AT_ONCE)])
        return rearrange(latents, "f c h w -> 1 c f h w")

    def _decode(self, latents: Tensor) -> Tensor:
        """Latents c f h w -> pixels [f, 3, r, r] in [-1, 1]."""
        vae, frames = self.vae.net, rearrange(latents, "c f h w -> f c h w")
        parts = [decode(vae, part.to(vae.dtype)).float() for part in frames.split(FRAMES_AT_ONCE)]
        return torch.cat(parts).clamp(-1, 1)


class UNetValidation:
    """Samples the fixed clips, measures them, and writes videos of the samples beside the true clips."""

    def __init__(
        self,
        sample: Sampling,
        clips: list[ValidationClip],
        losses: Callable[[ClipBatch, Tensor], Losses],
        networks: MetricNetworks,
        weights: Mapping[str, float],
        processes: Processes,
    ):
        """`losses` is the objective of the training; `weights` are those of the measures in the score; `processes` share the clips.

        ValueError if there are no clips.
        """
        if not clips:
            raise ValueError("There are no usable validation clips: set data.val_data_dir or data.val_fileslist.")
        self.sample, self.clips, self.networks, self.weights = sample, clips, networks, dict(weights)
        self.losses, self.processes = losses, processes
        self.generated = load_mask(sample.resolution) < 0.5

    def __call__(self, folder: Path) -> dict[str, float]:
        """Means of the measures over the clips, and `score`; writes videos into `folder`. All processes call it."""
        if self.processes.is_sharded:  # all processes are needed to sample each clip
            rows = [self._row(clip, folder if self.processes.is_main else None) for clip in self.clips]
        else:
            rows = self.processes.share(self.clips, lambda own: (self._row(clip, folder) for clip in own))
        means = mean_measures(rows)
        return {**means, "score": score(means, self.weights)}

    @torch.no_grad()
    def _row(self, clip: ValidationClip, folder: Path | None) -> dict[str, float]:
        """The measures of one clip; writes its video into `folder` unless it is None."""
        batch = self.sample.batch(clip)
        spoken, silent = self.sample(clip, batch)
        if folder is not None:
            write_comparison(folder / f"{clip.name}.mp4", clip.faces, [spoken, silent])
        return self._measure(clip, spoken, silent) | self._judge(clip, spoken, silent) | self._losses(batch)

    def _judge(self, clip: ValidationClip, spoken: Tensor, silent: Tensor) -> dict[str, float]:
        """The measures of one clip by judges that do not teach."""
        spoken_faces, silent_faces = (pixels_to_frames(each.clamp(-1, 1)).numpy() for each in (spoken, silent))
        sides = Sides(spoken_faces, silent_faces, clip.faces)
        row: dict[str, float] = {}
        if clip.aperture is not None:
            row |= opening_measures(sides, clip.aperture)
        if self.networks.expert is not None:
            row |= expert_measures(self.networks.expert, sides, clip.waveform)
        return row

    def _losses(self, batch: ClipBatch) -> dict[str, float]:
        """Means of the losses over several draws, which are the same for every clip and in every validation."""
        with self.sample.autocast():
            draws = [self.losses(batch, torch.tensor([draw])) for draw in range(LOSS_DRAWS)]
        return {f"{LOSS}{name}": float(np.mean([float(losses[name]) for losses in draws])) for name in draws[0]}

    def _measure(self, clip: ValidationClip, spoken: Tensor, silent: Tensor) -> dict[str, float]:
        """The measures of one clip; `spoken` and `silent` are sampled pixels [f, 3, r, r] on the CPU."""
        truth = frames_to_pixels(clip.faces)
        error = ((spoken - truth) ** 2)[..., self.generated].mean()
        row = {
            "psnr_db": float(10 * torch.log10(PEAK**2 / error.clamp(min=1e-10))),
            "motion": motion(spoken, self.generated),
            "motion_truth": motion(truth, self.generated),
        }
        row["silent_motion"] = motion(silent, self.generated) / max(row["motion_truth"], 1e-6)
        if self.networks.sync is not None and not self.networks.sync.sees_latents:
            names = {"sync": spoken, "silent_sync": silent, "sync_truth": truth}
            row |= {name: self._similarity(pixels, clip.mel) for name, pixels in names.items()}
        if self.networks.lpips is not None:
            pair = (each.to(self.sample.device) for each in (spoken, truth))
            row["lpips"] = float(self.networks.lpips.net(*pair).mean())
        return row

    def _similarity(self, pixels: Tensor, mel: Tensor) -> float:
        assert self.networks.sync is not None
        clip = rearrange(pixels, "f c h w -> 1 c f h w").to(self.sample.device)
        return float(self.networks.sync.similarity(clip, None, mel.to(self.sample.device)))


def motion(pixels: Tensor, where: Tensor) -> float:
    """Mean absolute difference of consecutive frames of `pixels` [f, 3, r, r] in the region `where`, bool [r, r]."""
    return float(pixels.diff(dim=0).abs()[..., where].mean()) if len(pixels) > 1 else 0.0


def score(means: Mapping[str, float], weights: Mapping[str, float]) -> float:
    """Weighted sum of the available measures; the checkpoint with the highest is the best."""
    return sum(weight * means[name] for name, weight in weights.items() if name in means)


def write_comparison(path: Path, faces: np.ndarray, samples: list[Tensor]) -> None:
    """Write a video with the true faces and `samples` (with audio, with silence) side by side."""
    path.parent.mkdir(parents=True, exist_ok=True)
    shown = [faces, *(pixels_to_frames(pixels.clamp(-1, 1)).numpy() for pixels in samples)]
    joined = np.concatenate(shown, axis=2)
    with VideoWriter(path, VideoFormat.constant(joined.shape[2], joined.shape[1], MODEL_FPS)) as writer:
        for frame in joined:
            writer.write(frame)
