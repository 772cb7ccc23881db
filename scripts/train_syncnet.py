"""Train a StableSyncNet on aligned clips: `python -m scripts.train_syncnet --config_path configs/demo/syncnet.yaml --out FILE`."""

import argparse
from pathlib import Path

import torch

from latentsync.config import ModelRun, load
from latentsync.data.aligned import aligned_clips
from latentsync.data.sync_clips import load_sync_clip
from latentsync.metrics.sync import best_threshold
from latentsync.models.syncnet import StableSyncNet, SyncNetConfig, check_geometry
from latentsync.timebase import SYNC_MEL_HZ, sync_mel_length
from latentsync.training.loop import Trainer
from latentsync.training.syncnet_step import SyncNetStep, SyncNetWithHeads
from latentsync.training.syncnet_validation import validation_pairs
from latentsync.weights import describe, save_checkpoint
from scripts.status import print_row, stored, write_description

CALIBRATION_CLIPS = 64  # training clips on which the threshold between right and wrong is chosen


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--config_path", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True, help="where the trained SyncNet goes (.safetensors)")
    parser.add_argument("overrides", nargs="*", help="configuration entries such as train.max_steps=10")
    args = parser.parse_args()
    run = load(args.config_path, ModelRun, args.overrides)
    data = run.data
    config = SyncNetConfig.from_dict(run.model)
    check_geometry(config, (data.resolution // 2, data.resolution), (80, sync_mel_length(data.num_frames)))
    torch.manual_seed(run.train.seed)
    net = StableSyncNet(config)
    clips = [load_sync_clip(clip, data.resolution) for clip in aligned_clips(data.train_dir)]
    model = SyncNetWithHeads(net, data.num_frames)
    trainer = Trainer(model, SyncNetStep(model, clips, data.batch_size, data.num_frames, run.train.seed), run.train)
    trainer.train(print_row)
    model.load_state_dict(trainer.ema.average)
    threshold = best_threshold(*validation_pairs(net.eval(), clips[:CALIBRATION_CLIPS], data.num_frames))
    metadata = describe(
        "syncnet",
        run.model,
        trainer.step,
        resolution=data.resolution,
        num_frames=data.num_frames,
        audio={"mel_rate_hz": SYNC_MEL_HZ},
        seed=run.train.seed,
        threshold=threshold,
        clips=len(clips),
    )
    save_checkpoint(args.out, stored(net.state_dict(), run.half_weights), metadata)
    write_description(args.out, metadata)


if __name__ == "__main__":
    main()
