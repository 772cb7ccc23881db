"""Train a U-Net: ./train_unet.sh --unet_config_path configs/unet/stage1.yaml data.train_data_dir=CLIPS [section.name=value ...]"""

import argparse
import sys
from pathlib import Path

from latentsync.config import UNetRun, load
from latentsync.training.engine.distributed import Processes
from latentsync.training.unet.dry_run import META, dry_run, dry_run_on_meta
from latentsync.training.unet.train import UNetTraining, train_unet
from scripts.command import run_command
from scripts.status import configure_logging, write_description

DEVICES = ("cpu", META)


def parse(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="train_unet.sh", description=__doc__)
    add = parser.add_argument
    add("--unet_config_path", type=Path, required=True, help="what to train, see configs/unet")
    add("--out", type=Path, help="also put the trained U-Net here (.safetensors); the run's folder has it in any case")
    add(
        "--dry_run",
        action="store_true",
        help="build everything, show sizes, memory and the first batch, do one step, stop",
    )
    add("--device", choices=DEVICES, help="cpu, or with --dry_run meta: sizes alone, without weights, clips or memory")
    add("overrides", nargs="*", metavar="section.name=value", help="entries that replace the configuration's")
    args = parser.parse_intermixed_args(argv)
    if args.device == META and not args.dry_run:
        parser.error("--device meta goes with --dry_run: there is nothing to train on it")
    return args


def store(training: UNetTraining, out: Path) -> None:
    """Save the trained U-Net and its description at `out`."""
    weights = training.trainer.averaged_state()
    if training.trainer.processes.is_main:
        training.file.save(out, weights, training.trainer.step)
        write_description(out, training.file.metadata(training.trainer.step))
        print(f"{out}: step {training.trainer.step}")


def run(args: argparse.Namespace) -> None:
    processes = None if args.device == META else Processes(cpu=args.device == "cpu")
    configure_logging(processes is None or processes.is_main)
    config = load(args.unet_config_path, UNetRun, args.overrides)
    if processes is None:
        print(dry_run_on_meta(config))
        return
    if args.dry_run:
        text = dry_run(config, processes)
        print(text if processes.is_main else f"process {processes.rank}: the same")
        return
    if args.out and args.out.suffix != ".safetensors":
        raise ValueError(f"cannot write {args.out}: give it a name that ends in .safetensors.")
    training = train_unet(config, processes)
    if args.out:
        store(training, args.out)


def main(argv: list[str] | None = None) -> int:
    args = parse(argv)
    return run_command("train_unet", lambda: run(args), if_stopped="the same command goes on from the last checkpoint")


if __name__ == "__main__":
    sys.exit(main())
