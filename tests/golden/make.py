"""`python -m tests.golden.make DIR`: record this project's own answers to a few small cases, as a guard against change.

The files have the format of the reference's cases and are run by the same runners; only the answers are our own.
"""

import argparse
import json
import re
import sys
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch

from latentsync.audio.spectrum import mel_filters
from latentsync.audio.sync_mel import FMAX_HZ, FMIN_HZ, N_FFT, NUM_MELS, sync_mel, sync_mel_window
from latentsync.diffusion.denoisers import conditioned, guided
from latentsync.diffusion.noise import add_noise, init_latents, mix_noise, one_step_x0
from latentsync.diffusion.schedule import NoiseSchedule
from latentsync.diffusion.solvers import ddim_steps
from latentsync.face import align, feather, masks
from latentsync.losses.sync import sync_loss, sync_similarity
from latentsync.losses.trepa import trepa_features, trepa_loss, video_input
from latentsync.timebase import SAMPLE_RATE_HZ, sync_mel_length
from tests.golden import (
    cases_audio,
    cases_diffusion,
    cases_end_to_end,
    cases_face,
    cases_syncnet,
    cases_trepa,
    cases_unet,
)
from tests.golden.harness import GoldenCase, fill_by_rule

SEED = 20
ATTENTION, PLAIN = ["CrossAttnDownBlock3D", "CrossAttnUpBlock3D"], ["DownBlock3D", "UpBlock3D"]
UNET = {
    "block_out_channels": [32, 48],
    "attention_head_dim": 4,
    "norm_num_groups": 8,
    "cross_attention_dim": 24,
    "layers_per_block": 1,
    "down_block_types": [ATTENTION[0], PLAIN[0]],
    "up_block_types": [PLAIN[1], ATTENTION[1]],
    "motion_module_resolutions": [1, 2],
    "motion_module_kwargs": {"num_attention_heads": 4, "temporal_position_encoding_max_len": 6},
}
SYNCNET = {
    "audio_encoder": {
        "in_channels": 1,
        "block_out_channels": [32, 64],
        "downsample_factors": [[2, 1], [2, 3]],
        "attn_blocks": [0, 1],
        "dropout": 0.0,
    },
    "visual_encoder": {
        "in_channels": 6,
        "block_out_channels": [32, 32, 64],
        "downsample_factors": [[1, 2], 2, 1],
        "attn_blocks": [1, 0, 0],
        "dropout": 0.0,
    },
}
VIDEOMAE = {"img_size": 56, "embed_dim": 32, "depth": 2, "num_heads": 4, "mlp_hidden": 48, "all_frames": 8} | {
    "patch_size": 14,
    "tubelet_size": 2,
    "num_classes": 10,
}


@dataclass(frozen=True)
class Draft(GoldenCase):
    """A case while it is made: facts and arrays lie in memory until `save`."""

    facts: dict[str, Any] = field(default_factory=dict)
    arrays: dict[str, Any] = field(default_factory=dict)

    def save(self) -> None:
        arrays: dict[str, Any] = {
            name: np.asarray(value.detach() if isinstance(value, torch.Tensor) else value)
            for name, value in self.arrays.items()
        }
        table = {name: {"shape": list(value.shape), "dtype": str(value.dtype)} for name, value in arrays.items()}
        text = json.dumps({"case": self.name, **self.facts, "arrays": table}, indent=1)
        self.path.write_text(re.sub(r"\[[^\[\]{}]*\]", lambda found: re.sub(r"\s+", " ", found[0]), text) + "\n")
        if arrays:
            np.savez_compressed(self.path.with_suffix(".npz"), **arrays)


Maker = Callable[[Draft], None]
MAKERS: dict[str, tuple[str, Maker]] = {}


def recorded(name: str, what: str) -> Callable[[Maker], Maker]:
    """Register the function that completes the draft of case `name`."""

    def register(maker: Maker) -> Maker:
        MAKERS[name] = (what, maker)
        return maker

    return register


def rule_inputs(**shapes: list[int]) -> dict[str, dict[str, Any]]:
    return {name: {"rule_name": name, "shape": shape} for name, shape in shapes.items()}


def key_table(module: torch.nn.Module) -> dict[str, list[int]]:
    return {key: list(value.shape) for key, value in module.state_dict().items()}


@recorded("unet_small", "Forward passes of a two-level 3D U-Net, with and without motion modules.")
def unet_small(draft: Draft) -> None:
    inputs: dict[str, Any] = rule_inputs(sample=[2, 13, 4, 8, 8], encoder_hidden_states=[2, 4, 5, 24])
    odd: dict[str, Any] = {"rule_name": "sample_odd", "shape": [1, 13, 3, 6, 10], "timesteps": [500]}
    odd["encoder_hidden_states"] = {"rule_name": "encoder_hidden_states_odd", "shape": [1, 3, 5, 24]}
    inputs |= {"timesteps": [700, 12], "sample_odd": odd | {"used_by": "out_motion_all_odd_size"}}
    variants: dict[str, dict[str, Any]] = {"motion_all": {}, "no_motion": {"use_motion_module": False}}
    draft.facts.update(base_config=UNET, variant_overrides=variants, inputs=inputs, tolerance={"max_abs": 2e-4})
    draft.facts.update(n_keys={}, state_dict={})
    draft.arrays["out_motion_all_scalar_timestep_12"] = None
    sample, audio = (cases_unet.rule_input(draft, inputs[name]) for name in ("sample", "encoder_hidden_states"))
    for variant, overrides in variants.items():
        unet = cases_unet.rule_unet({**UNET, **overrides}, draft.seed)
        draft.facts["n_keys"][variant] = len(unet.state_dict())
        draft.facts["state_dict"] |= key_table(unet)
        draft.arrays[f"out_{variant}"] = unet(sample, torch.tensor(inputs["timesteps"]), unet.project_kv(audio))
        if variant == "motion_all":
            draft.arrays.update(got for got in cases_unet.motion_all_outputs(draft, unet) if " " not in got[0])


@recorded("stable_syncnet_tables", "Key table of the small sync network.")
def stable_syncnet_tables(draft: Draft) -> None:
    table = key_table(cases_syncnet.empty_net(cases_syncnet.config_of(SYNCNET)))
    draft.facts.update(configs={"small": SYNCNET}, state_dict={"small": table})


@recorded("stable_syncnet", "Forward pass of a small sync network with attention blocks.")
def stable_syncnet(draft: Draft) -> None:
    shapes = {"image": [2, 6, 16, 24], "mel": [2, 1, 20, 13]}
    rules: dict[str, dict[str, Any]] = {
        kind: {"rule_name": f"{kind}_small", "shape": shape} for kind, shape in shapes.items()
    }
    net = cases_syncnet.empty_net(cases_syncnet.config_of(SYNCNET))
    draft.facts.update(small_config=SYNCNET, small_state_dict=key_table(net), inputs={"small": rules})
    draft.facts.update(tolerance={"max_abs_embeddings": 2e-5, "max_abs_raw": 1e-3})
    net = net.to_empty(device="cpu")
    fill_by_rule(net, draft.seed)
    image, mel = (draft.tensor(rule["rule_name"], rule["shape"]) for rule in rules.values())
    vision, audio = net(image, mel)
    draft.arrays.update(small_vision=vision, small_audio=audio)
    draft.arrays.update(small_visual_raw=net.visual_encoder(image), small_audio_raw=net.audio_encoder(mel))


@recorded("sync_loss", "Binary cross-entropy on the cosine similarity, and its gradients.")
def sync_loss_case(draft: Draft) -> None:
    shape = [5, 12]
    draft.facts.update(tolerance={"max_abs": 1e-5})
    vision, audio = (draft.tensor(name, shape).abs() for name in ("loss_vision", "loss_audio"))
    labels = (torch.arange(shape[0])[:, None] % 2 == 0).float()
    with torch.enable_grad():
        leaves = [vision.clone().requires_grad_(), audio.clone().requires_grad_()]
        mean = sync_loss(leaves[0], leaves[1], labels).mean()
        gradients = torch.autograd.grad(mean, leaves)
    draft.arrays.update(vision=vision.clone(), audio=audio.clone(), loss_mean=mean)
    draft.arrays.update(similarity=sync_similarity(vision, audio), loss=sync_loss(vision, audio, labels))
    draft.arrays.update(loss_single=sync_loss(vision[:1], audio[:1], labels[:1]))
    draft.arrays.update(grad_vision=gradients[0], grad_audio=gradients[1])
    vision[-1], audio[-1] = torch.eye(shape[1])[0], 2 * torch.eye(shape[1])[1]
    draft.arrays.update(loss_orthogonal_all_ones=sync_loss(vision, audio))


@recorded("mel", "Mel spectrogram of a noisy chirp, overlapping windows and crops.")
def mel_case(draft: Draft) -> None:
    signal = {"n_samples": 20_800, "f0": 90.0, "f1": 5000.0, "dur": 1.3, "amp": 0.4, "sample_rate": SAMPLE_RATE_HZ}
    noise = draft.normal("mel_noise", [20_800])
    mel = sync_mel((0.4 * cases_audio.chirp(signal, len(noise))).astype(np.float32) + np.float32(0.01) * noise)
    length, columns = 52, mel.shape[1]
    firsts = list(range(0, columns - length - 3, 3))
    selected = [0, 1, len(firsts) - 1]
    windows = torch.stack([mel[None, :, firsts[i] : firsts[i] + length] for i in selected])
    overlap = {"count": len(firsts), "selected": selected, "shape_each": [1, *mel.shape[:1], length]}
    crops = {str(frames): mel_crops(mel, frames, starts=[0, 1, 7, 20]) for frames in (16, 5)}
    draft.facts.update(signal=signal, overlap=overlap, crops=crops, tolerance={"max_abs": 2e-4})
    filters = mel_filters(NUM_MELS, N_FFT, SAMPLE_RATE_HZ, FMIN_HZ, FMAX_HZ)
    draft.arrays.update(mel=mel, overlap_selected=windows, mel_basis=filters)
    draft.arrays.update(silence_mel=sync_mel(np.zeros(8000, np.float32)))


def mel_crops(mel: torch.Tensor, num_frames: int, starts: list[int]) -> dict[str, Any]:
    """Where crops begin, by the exact rule of 16 columns per 5 frames, and the shapes they have."""
    crops = {
        str(start): {
            "first_mel_column": 16 * start // 5,
            "returned_shape": [1, *sync_mel_window(mel, start, num_frames).shape],
        }
        for start in starts
    }
    return {"window_length": sync_mel_length(num_frames), "starts": crops}


def rounded_square() -> np.ndarray:
    """Another mask than the network's own: a blob in the lower half, uint8 256 x 256."""
    image = np.full((masks.MASK_SIZE, masks.MASK_SIZE), 255, dtype=np.uint8)
    return cv2.ellipse(image, (120, 170), (90, 61), 10, 0, 360, 0, -1)


@recorded("masks", "The network's own mask and another one, at two resolutions.")
def masks_case(draft: Draft) -> None:
    files = {"masks/mask.png": masks.mask_image(), "masks/blob.png": rounded_square()}
    draft.facts.update(files=list(files), masks={}, tolerance={"max_level_difference_at_512": 1})
    for name, image in files.items():
        path = draft.path.parent / name
        path.parent.mkdir(exist_ok=True)
        cv2.imwrite(str(path), image)
        loaded = {resolution: masks.load_mask(resolution, path) for resolution in (256, 512)}
        means = {str(resolution): {"mean": float(mask.double().mean())} for resolution, mask in loaded.items()}
        draft.facts["masks"][path.stem] = {"after_load_at_resolution": means}
        for mask in loaded.values():
            latents = masks.latent_mask(mask)
            draft.arrays[f"{path.stem}_latent_{len(latents)}"] = latents


@recorded("alignment", "Matrices, smoothing, crop and paste back of a small face in a small frame.")
def alignment(draft: Draft) -> None:
    resolution, picked = 64, 3
    size = {"face_size_wh": {str(resolution): list(align.crop_size(resolution))}}
    draft.facts.update(frame={"height": 120, "width": 160}, picked_frame_index=picked, facts=size)
    draft.facts.update(
        tolerance={
            "matrix_max_abs": {"rotation_scale": 1e-5, "translation": 2e-3},
            "image_max_abs": 2,
            "image_mean_abs": 0.05,
            "soft_mask_max_abs": 2e-4,
        }
    )
    frame = cases_face.draw_frame(draft)
    base = np.array([[66, 45], [98, 48], [83, 66]])
    walk = np.cumsum(draft.normal("landmark_walk", [5, 3, 2]).astype(np.float64), axis=0)
    landmarks = np.round(base + walk).astype(np.float32)
    smooth, plain, bias = cases_face.matrices(landmarks, resolution)
    draft.arrays.update(landmarks=landmarks, frame_probe=frame[::90, ::160])
    draft.arrays.update({f"matrix_smooth_{resolution}": smooth, f"matrix_plain_{resolution}": plain})
    draft.arrays[f"bias_{resolution}"] = bias
    draft.facts["results"] = dict(pasted_back(draft, frame, smooth[picked], resolution))
    swapped, edge = landmarks[0][[1, 0, 2]], landmarks[0] + np.array([75, 50], np.float32)
    edge_matrix = align.align_matrix(edge, 256, align.Smoother())
    draft.arrays.update(landmarks_swapped=swapped, landmarks_edge=edge, matrix_edge_256=edge_matrix)
    draft.arrays.update(matrix_plain_256_swapped_brows=align.align_matrix(swapped, 256))
    draft.arrays.update(face_edge_256=align.warp_face(frame, edge_matrix, 256))


def pasted_back(draft: Draft, frame: np.ndarray, matrix: np.ndarray, resolution: int) -> Iterator[tuple[str, Any]]:
    """Crop, blend weights and result of one frame into the draft's arrays; yields the facts about them."""
    steps: dict[str, np.ndarray] = {}
    face = align.warp_face(frame, matrix, resolution)
    output = cases_face.paste_in_full(frame, face, matrix, steps)
    region = feather.pasted_region(matrix, align.crop_size(resolution), (frame.shape[0], frame.shape[1]))
    assert region is not None
    (y0, y1), (x0, x1) = ((part.start, part.stop) for part in region)
    got = {
        "face": face,
        "soft_mask_row": steps["soft"][(y0 + y1) // 2, x0:x1],
        "soft_mask_col": steps["soft"][y0:y1, (x0 + x1) // 2],
        "restored_region": output[y0:y1, x0:x1],
    }
    draft.arrays.update({cases_face.golden_key(name, resolution): value for name, value in got.items()})
    yield (
        f"restore_{resolution}",
        {"box_y0y1x0x1": [y0, y1, x0, x1], "w_edge": feather.edge_width(steps["eroded"].sum())},
    )


@recorded("denoise", "Sampling loop with a small U-Net, with and without guidance.")
def denoise(draft: Draft) -> None:
    clip = [1, 4, 4, 8, 8]
    inputs = rule_inputs(noise=[1, 4, 1, 8, 8], masked_latents=clip, ref_latents=clip, audio_embeds=[4, 5, 24])
    schedule = NoiseSchedule()
    combos: list[dict[str, Any]] = [
        {"steps": 4, "guidance": g, "key": f"steps4_g{g}".replace(".", "p")} for g in (1.0, 2.0)
    ]
    timesteps = schedule.ddim_timesteps(4)
    draft.facts.update(unet_config=UNET, scheduler_config=asdict(schedule), inputs=inputs, combos=combos)
    draft.facts.update(timesteps={"4": timesteps}, tolerance={"relative_to_absmax": 1e-4})
    given = cases_diffusion.rule_inputs(draft)
    mask = (draft.tensor("mask_field", (1, 1, 1, 8, 8)) > 0).float()
    unet = cases_unet.rule_unet(UNET, draft.seed)
    denoiser = conditioned(unet, mask, given["masked_latents"], given["ref_latents"])
    for combo in combos:
        start = init_latents(given["noise"].expand(-1, -1, clip[2], -1, -1), schedule, timesteps[0])
        steered = guided(
            denoiser, unet.project_kv(given["audio_embeds"].unflatten(0, (-1, clip[2]))), combo["guidance"]
        )
        path = list(ddim_steps(steered, start, timesteps, schedule))
        draft.arrays.update({f"{combo['key']}_after_first_step": path[0], f"{combo['key']}_final": path[-1]})


@recorded("diffusion_math", "One-step estimate of the clean latents, mixed noise, forward noising.")
def diffusion_math(draft: Draft) -> None:
    names = ("pred_noise", "x_t", "gt_latents", "noise_shared_raw", "noise_ind_raw")
    inputs, steps, schedule = rule_inputs(**{name: [2, 4, 2, 5, 6] for name in names}), [33, 971], NoiseSchedule()
    draft.facts.update(inputs=inputs, timesteps=steps, tolerance={"relative": 1e-5})
    given, at = cases_diffusion.rule_inputs(draft), torch.tensor(steps)
    mixed = {a: mix_noise(given["noise_shared_raw"], given["noise_ind_raw"], a) for a in (1.0, 0.5)}
    draft.arrays.update(mixed_noise_alpha1=mixed[1.0], mixed_noise_alpha0p5=mixed[0.5])
    draft.arrays.update(one_step=one_step_x0(given["x_t"], given["pred_noise"], at, schedule))
    draft.arrays.update(noisy=add_noise(given["gt_latents"], mixed[1.0], at, schedule))
    draft.arrays.update(alphas_cumprod=schedule.alphas_cumprod)


@recorded("trepa", "Temporal features, loss and gradient with a small video transformer.")
def trepa(draft: Draft) -> None:
    inputs = rule_inputs(video=[1, 3, 8, 56, 56], video8=[1, 3, 4, 56, 56])
    inputs |= rule_inputs(videos_fake=[1, 3, 8, 112, 112], videos_real=[1, 3, 8, 112, 112])
    net = cases_trepa.rule_videomae(VIDEOMAE, draft.seed)
    draft.facts.update(config=VIDEOMAE, state_dict=key_table(net), inputs=inputs)
    draft.facts.update(tolerance={"features_max_abs": 1e-4, "loss_relative": 5e-3, "gradient_relative": 2e-2})
    video, short, fake, real = (draft.tensor(name, entry["shape"]) for name, entry in inputs.items())
    fake, real = fake.tanh(), real.tanh()
    draft.arrays.update(features=net.features(video), logits=net(video), features_8_frames=net.features(short))
    draft.arrays.update(feat_fake=trepa_features(net, fake), feat_real=trepa_features(net, real))
    draft.arrays.update(resized_row=video_input(fake, net.config.img_size)[0, :, 0, 0])
    smooth_fake, smooth_real = cases_trepa.smooth(fake).requires_grad_(), cases_trepa.smooth(real)
    with torch.enable_grad():
        loss = trepa_loss(net, smooth_fake, smooth_real)
        gradient = torch.autograd.grad(loss, smooth_fake)[0]
    draft.arrays.update(loss=trepa_loss(net, fake, real)[None], loss_smooth=loss[None])
    draft.arrays.update(grad_smooth_fake_norm=gradient.norm()[None])
    draft.arrays.update(grad_smooth_fake_probe=gradient[0, :, 5, 100:108, 100])


@recorded(
    "end_to_end", "From files to file: a checkpoint in the official layout, 40 frames, the last window sampled alone."
)
def end_to_end(draft: Draft) -> None:
    motion = {"num_attention_heads": 4, "temporal_position_encoding_max_len": 24}
    draft.facts.update(
        frame={"height": 120, "width": 160},
        frame_count=40,
        shown=[0, 15, 16, 39],
        landmarks=[[66, 45], [98, 48], [83, 66]],
        signal={"f0": 120.0, "f1": 4000.0, "dur": 1.6},
        resolution=64,
        num_frames=16,
        unet={**UNET, "use_motion_module": True, "motion_module_kwargs": motion},
        vae={"block_out_channels": [8, 8, 16, 16], "layers_per_block": 1, "norm_num_groups": 4},
        whisper={
            **{"n_mels": 80, "n_audio_ctx": 1500, "n_audio_state": 24, "n_audio_head": 2, "n_audio_layer": 2},
            **{"n_vocab": 8, "n_text_ctx": 4, "n_text_state": 24, "n_text_head": 2, "n_text_layer": 1},
        },
        settings={"steps": 4, "guidance_scale": 1.5, "last_window": "shorten"},
        tolerance={"audio_max_abs": 5e-4, "face_max_abs": 1e-3, "written_max_levels": 1},
    )
    with cases_end_to_end.loaded(draft) as (folder, models):
        draft.arrays.update(cases_end_to_end.answers(draft, folder, models))


def make(folder: Path) -> None:
    """Write every case of `MAKERS` into `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, (what, maker) in MAKERS.items():
        draft = Draft(folder / f"{name}.json", facts={"what": what, "seed": SEED})
        with torch.no_grad():
            maker(draft)
        draft.save()


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.golden.make", description=__doc__)
    parser.add_argument("folder", type=Path)
    make(parser.parse_args().folder)
    return 0


if __name__ == "__main__":
    sys.exit(main())
