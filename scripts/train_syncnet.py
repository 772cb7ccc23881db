"""Train a SyncNet: ./train_syncnet.sh --config_path configs/syncnet/syncnet_16_pixel_attn.yaml data.train_data_dir=CLIPS

The same command resumes a stopped run. docs/training_data_and_syncnet.md describes the loss curves to expect.
"""

import argparse
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from rich.progress import track

from latentsync.training import META
from latentsync.weights import read_checkpoint, save_checkpoint
from scripts.command import add_fresh, run_command, yaml_file
from scripts.status import configure_logging, write_description


def parse(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="train_syncnet.sh", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--config_path", type=yaml_file, required=True, help="configuration of the training, see configs/syncnet")
    add("--out", type=Path, help="also save the best SyncNet to this .safetensors file; the run folder always has it")
    add(
        "--dry_run",
        action="store_true",
        help="build all parts, run one step without the optimizer, print sizes, memory and losses, exit",
    )
    add("--device", choices=("cpu", META), help="cpu; with --dry_run also meta: shapes only, without clips")
    add_fresh(parser)
    add("overrides", nargs="*", metavar="section.name=value", help="override configuration entries")
    args = parser.parse_intermixed_args(argv)
    if args.device == META and not args.dry_run:
        parser.error("--device meta requires --dry_run: tensors on it have no values to train")
    return args


def counted(paths: Sequence[Path]) -> Iterator[Path]:
    return iter(track(paths, "Index clips"))


def run(args: argparse.Namespace) -> None:
    from latentsync.config import load
    from latentsync.config.syncnet_run import SyncNetRun
    from latentsync.training.engine.distributed import Processes
    from latentsync.training.syncnet.dry_run import dry_run, dry_run_on_meta
    from latentsync.training.syncnet.train import SyncNetTraining

    processes = None if args.device == META else Processes(cpu=args.device == "cpu")
    configure_logging(processes is None or processes.is_main)
    config = load(args.config_path, SyncNetRun, args.overrides)
    if processes is None:
        print(dry_run_on_meta(config))
        return
    if args.out and args.out.suffix != ".safetensors":
        raise ValueError(f"cannot write {args.out}: the name must end in .safetensors.")
    training = SyncNetTraining(config, processes, counted, args.fresh)
    if args.dry_run:
        print(dry_run(training))
        return
    result = training.train()
    if result and args.out:
        best = read_checkpoint(result)
        save_checkpoint(args.out, best.tensors, best.metadata)
        write_description(args.out, best.metadata)


def main(argv: list[str] | None = None) -> int:
    args = parse(argv)
    return run_command(
        "train_syncnet", lambda: run(args), if_stopped="the same command resumes from the last checkpoint"
    )


if __name__ == "__main__":
    sys.exit(main())
