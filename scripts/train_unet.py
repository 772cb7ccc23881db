"""Train a U-Net on pre-computed latents: `python -m scripts.train_unet --unet_config_path CONFIG --out FILE`."""

import argparse
from pathlib import Path

import torch

from latentsync.audio.windows import CONTEXT
from latentsync.config import UNetRun, load
from latentsync.data.latents import load_latents
from latentsync.face.masks import latent_mask, load_mask
from latentsync.models.unet import UNet3DConditionModel, initialise_for_training
from latentsync.models.unet_config import UNetConfig
from latentsync.training.loop import Trainer
from latentsync.training.unet_step import UNetObjective, UNetStep
from latentsync.weights import describe, load_partly, read_checkpoint, save_checkpoint
from scripts.status import print_row, stored, write_description


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--unet_config_path", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True, help="where the trained U-Net goes (.safetensors)")
    parser.add_argument("overrides", nargs="*", help="configuration entries such as train.max_steps=10")
    args = parser.parse_args()
    run = load(args.unet_config_path, UNetRun, args.overrides)
    clips = load_latents(run.data.cache_dir, 3 * run.data.num_frames)
    torch.manual_seed(run.train.seed)
    unet = UNet3DConditionModel(UNetConfig.from_dict(run.model))
    initialise_for_training(unet)
    if run.init_from:
        left_out = load_partly(unet, read_checkpoint(run.init_from).tensors)
        print(f"started from {run.init_from}; {len(left_out)} tensors begin afresh")
    mask = latent_mask(load_mask(run.data.resolution))
    objective = UNetObjective(**run.objective)
    step = UNetStep(unet, clips, mask, objective, run.data.batch_size, run.data.num_frames, run.train.seed)
    trainer = Trainer(unet, step, run.train)
    trainer.train(print_row)
    metadata = describe(
        "unet",
        run.model,
        trainer.step,
        resolution=run.data.resolution,
        num_frames=run.data.num_frames,
        mask=mask,
        audio={"width": unet.config.cross_attention_dim, "context": list(CONTEXT)},
        objective=run.objective,
        inference=run.inference,
        seed=run.train.seed,
        clips=len(clips),
    )
    save_checkpoint(args.out, stored(trainer.ema.average, run.half_weights), metadata)
    write_description(args.out, metadata)


if __name__ == "__main__":
    main()
