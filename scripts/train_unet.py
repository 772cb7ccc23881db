"""Train a U-Net: ./train_unet.sh --unet_config_path configs/unet/stage1.yaml data.train_data_dir=CLIPS [section.name=value ...]"""

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from latentsync.training import META
from scripts.command import add_fresh, run_command, yaml_file
from scripts.status import configure_logging, write_description

if TYPE_CHECKING:
    from latentsync.training.unet.train import UNetTraining

DEVICES = ("cpu", META)


def parse(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="train_unet.sh", description=__doc__)
    add = parser.add_argument
    add("--unet_config_path", type=yaml_file, required=True, help="configuration of the training, see configs/unet")
    add("--out", type=Path, help="also save the trained U-Net to this .safetensors file; the run folder always has it")
    add(
        "--dry_run",
        action="store_true",
        help="build all parts, run one step without the optimizer, print sizes, memory and losses, exit",
    )
    add("--device", choices=DEVICES, help="cpu; with --dry_run also meta: shapes only, without weights and clips")
    add_fresh(parser)
    add("overrides", nargs="*", metavar="section.name=value", help="override configuration entries")
    args = parser.parse_intermixed_args(argv)
    if args.device == META and not args.dry_run:
        parser.error("--device meta requires --dry_run: tensors on it have no values to train")
    return args


def store(training: "UNetTraining", out: Path) -> None:
    """Save the trained U-Net to `out`, and its metadata to a JSON file beside it."""
    weights = training.trainer.averaged_state()
    if training.trainer.processes.is_main:
        training.file.save(out, weights, training.trainer.step)
        write_description(out, training.file.metadata(training.trainer.step))
        print(f"{out}: step {training.trainer.step}")


def run(args: argparse.Namespace) -> None:
    from latentsync.config import UNetRun, load
    from latentsync.training.engine.distributed import Processes
    from latentsync.training.unet.dry_run import dry_run, dry_run_on_meta
    from latentsync.training.unet.train import train_unet

    processes = None if args.device == META else Processes(cpu=args.device == "cpu")
    configure_logging(processes is None or processes.is_main)
    config = load(args.unet_config_path, UNetRun, args.overrides)
    if processes is None:
        print(dry_run_on_meta(config))
        return
    if args.dry_run:
        text = dry_run(config, processes)
        print(text if processes.is_main else f"process {processes.rank}: as process 0")
        return
    if args.out and args.out.suffix != ".safetensors":
        raise ValueError(f"cannot write {args.out}: the name must end in .safetensors.")
    training = train_unet(config, processes, fresh=args.fresh)
    if args.out:
        store(training, args.out)


def main(argv: list[str] | None = None) -> int:
    args = parse(argv)
    return run_command("train_unet", lambda: run(args), if_stopped="the same command resumes from the last checkpoint")


if __name__ == "__main__":
    sys.exit(main())
