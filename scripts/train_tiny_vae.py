"""Distil an auto-encoder's decoder into a small one: `python -m scripts.train_tiny_vae --config_path CONFIG --vae VAE --out FILE`.

It trains on the latents that `scripts.precompute` caches for the U-Net's training; missing ones are computed.
"""

import argparse
import sys
from pathlib import Path

from latentsync.inference.model_files import TINY_VAE
from scripts.command import add_fresh, run_command, yaml_file
from scripts.status import configure_logging, write_description

SCORED = 64  # number of faces for the PSNR


def parse(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config_path", type=yaml_file, required=True, help="see configs/demo/tiny_vae.yaml")
    parser.add_argument("--vae", type=Path, required=True, help="the auto-encoder to distil (.safetensors)")
    parser.add_argument(
        "--out",
        type=Path,
        required=True,
        help=f"file for the decoder ({TINY_VAE} in the U-Net's folder)",
    )
    add_fresh(parser)
    parser.add_argument("overrides", nargs="*", help="override configuration entries, such as train.max_steps=10")
    return parser.parse_args(argv)


def run(args: argparse.Namespace) -> None:
    import torch

    from latentsync.config import ModelRun, load
    from latentsync.data.clips import find_clips, index_clips
    from latentsync.data.features import latents_feature
    from latentsync.device import pick_device
    from latentsync.face.masks import load_mask
    from latentsync.models.frozen import Frozen
    from latentsync.models.vae import KIND, build_tiny_vae, load_vae
    from latentsync.training.demo.tiny_vae import LatentItems, TinyVaeObjective, imitation_psnr
    from latentsync.training.engine.distributed import Processes
    from latentsync.training.engine.loop import Trainer
    from latentsync.training.engine.preparation import shared_index
    from latentsync.training.engine.run_folder import RunFolder
    from latentsync.weights import describe, save_checkpoint

    config = load(args.config_path, ModelRun, args.overrides)
    data, device = config.data, pick_device()
    teacher = Frozen(load_vae(args.vae).to(device))
    mask = load_mask(data.resolution)
    cached = latents_feature(data.cache_dir, args.vae, mask, data.latents_precision, device)
    torch.manual_seed(config.train.seed)
    student = build_tiny_vae(config.model).to(memory_format=torch.channels_last)
    objective = TinyVaeObjective(student, teacher, data.resolution)
    folder, processes = RunFolder(data.train_output_dir, config, {"--vae": args.vae}, args.fresh), Processes()
    folder.check(processes)
    index = shared_index(data, processes, 1)
    folder.check(processes, index)
    clips = index.clips
    items = LatentItems(cached, clips, config.train.seed)
    workers = data.num_workers
    trainer = Trainer(objective, items, data.batch_size, config.train, folder, num_workers=workers, processes=processes)
    trainer.train()
    objective.load_state_dict(trainer.averaged_state())
    unseen = index_clips(find_clips(data.val_data_dir), 1, data.cache_dir).clips if data.val_data_dir else clips
    scored = LatentItems(cached, unseen, config.train.seed + 1)
    latents = torch.stack([scored[position] for position in range(SCORED)]).to(device)
    psnr_db = round(imitation_psnr(student.eval(), teacher.net, latents), 2)
    print(f"PSNR against the auto-encoder's decoder: {psnr_db} dB")
    scores = {"imitation_psnr_db": psnr_db}
    metadata = describe(
        KIND,
        config.model,
        trainer.step,
        resolution=data.resolution,
        seed=config.train.seed,
        scores=scores,
        origin=folder.origin(),
    )
    save_checkpoint(args.out, (student.half() if config.half_weights else student).state_dict(), metadata)
    write_description(args.out, metadata)


def main(argv: list[str] | None = None) -> int:
    args = parse(argv)
    configure_logging()
    return run_command(
        "train_tiny_vae", lambda: run(args), if_stopped="the same command resumes from the last checkpoint"
    )


if __name__ == "__main__":
    sys.exit(main())
