"""Train a small image auto-encoder on aligned clips: `python -m scripts.train_vae --config_path CONFIG --out FILE`."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from scripts.command import add_fresh, run_command, yaml_file
from scripts.status import configure_logging, write_description


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--config_path", type=yaml_file, required=True, help="see configs/demo/vae.yaml")
    parser.add_argument("--out", type=Path, required=True, help="file for the trained auto-encoder (.safetensors)")
    parser.add_argument(
        "--validation_dir", type=Path, help="aligned clips to measure the PSNR on (default: the training clips)"
    )
    add_fresh(parser)
    parser.add_argument("overrides", nargs="*", help="override configuration entries, such as train.max_steps=10")
    return parser.parse_args(argv)


def train(args: argparse.Namespace) -> None:
    import torch

    from latentsync.config import ModelRun, load
    from latentsync.data.clips import find_clips, index_clips
    from latentsync.data.frames import FrameMemory
    from latentsync.models.vae import build_vae, fold_latent_statistics, load_vae
    from latentsync.training.demo.vae import Critic, FaceItems, VaeObjective, latent_statistics, reconstruction_psnr
    from latentsync.training.engine.distributed import Processes
    from latentsync.training.engine.loop import Trainer, batch_generator
    from latentsync.training.engine.preparation import shared_index
    from latentsync.training.engine.run_folder import RunFolder
    from latentsync.weights import describe, save_checkpoint

    run = load(args.config_path, ModelRun, args.overrides)
    files = {"decoder_of": run.decoder_of} if run.decoder_of else {}
    folder, processes = RunFolder(run.data.train_output_dir, run, files, args.fresh), Processes()
    folder.check(processes)
    index = shared_index(run.data, processes, 1)
    folder.check(processes, index)
    clips = index.clips
    memory = FrameMemory(run.data.resolution, run.data.memory_bytes)
    torch.manual_seed(run.train.seed)
    vae = load_vae(run.decoder_of) if run.decoder_of else build_vae(run.model).to(memory_format=torch.channels_last)
    vae.decoder.requires_grad_(True)
    critic = Critic() if run.train.loss_weights.get("adversarial") else None
    objective, data = VaeObjective(vae, run.data.resolution, critic), run.data
    items = FaceItems(memory, clips, run.train.seed)
    trainer = Trainer(
        objective, items, data.batch_size, run.train, folder, num_workers=data.num_workers, processes=processes
    )
    trainer.train()
    objective.load_state_dict(trainer.averaged_state())
    vae.cpu().eval()
    generator = batch_generator(run.train.seed, run.train.max_steps)
    if not run.decoder_of:
        fold_latent_statistics(vae, *latent_statistics(vae, memory, clips, generator))
    scored = index_clips(find_clips(args.validation_dir), 1, run.data.cache_dir).clips if args.validation_dir else clips
    psnr_db = reconstruction_psnr(vae, memory, scored, generator)
    print(f"reconstruction: PSNR {psnr_db:.1f} dB")
    metadata = describe(
        "vae",
        run.model,
        trainer.step,
        resolution=run.data.resolution,
        seed=run.train.seed,
        clips=len(clips),
        scores={"reconstruction_psnr_db": round(psnr_db, 2)},
        origin=folder.origin(),
    )
    save_checkpoint(args.out, (vae.half() if run.half_weights else vae).state_dict(), metadata)
    write_description(args.out, metadata)


def main(argv: Sequence[str] | None = None) -> int:
    args = parse(argv)
    configure_logging()
    return run_command("train_vae", lambda: train(args), if_stopped="the same command resumes from the last checkpoint")


if __name__ == "__main__":
    sys.exit(main())
