"""Precompute the features that training reads: `python -m scripts.precompute --unet_config_path configs/unet/stage1.yaml`.

For a U-Net: the auto-encoder's latents, the speech encoder's features and, with the sync loss, mel spectrograms; training then
needs neither network in memory. For a SyncNet (`--config_path`): mel spectrograms and, in latent space, latents. Features are
cached in data.cache_dir by the content hashes of clip and network, and computed only if missing: the command resumes. Several
processes or machines share the work: each takes the clips in an order of its own, and leaves out those that another has done
meanwhile. A training computes features that are still missing before its first step. For clips in shards the features are written
beside them, into shards of their own; a training does not compute these.
"""

import argparse
import random
import sys
from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING, TypeVar

from rich.console import Console
from rich.progress import track

from latentsync.data.clips import ClipIndex, TrainingClip, describe_index, find_clips, index_clips, separated
from latentsync.data.storage import Folder
from latentsync.media.container import MediaError
from scripts.command import run_command, yaml_file
from scripts.status import configure_logging

if TYPE_CHECKING:
    from latentsync.config import UNetRun
    from latentsync.config.syncnet_run import SyncNetRun
    from latentsync.data.features import CachedFeature

T = TypeVar("T")


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    run = parser.add_mutually_exclusive_group(required=True)
    run.add_argument("--unet_config_path", type=yaml_file, help="configuration of a U-Net's training")
    run.add_argument("--config_path", type=yaml_file, help="configuration of a SyncNet's training")
    parser.add_argument("--device", help="device of the networks (default: a GPU if there is one)")
    parser.add_argument(
        "overrides", nargs="*", help="override configuration entries, such as data.cache_dir=data/cache"
    )
    return parser.parse_args(argv)


def chosen(args: argparse.Namespace) -> "tuple[UNetRun | SyncNetRun, list[CachedFeature]]":
    """The run and the cached features that its training needs."""
    from latentsync.config import UNetRun, load
    from latentsync.config.syncnet_run import SyncNetRun
    from latentsync.device import pick_device
    from latentsync.training.syncnet import data as syncnet_data
    from latentsync.training.unet import data as unet_data

    device = pick_device(args.device)
    if args.config_path:
        syncnet = load(args.config_path, SyncNetRun, args.overrides)
        return syncnet, syncnet_data.cached_features(syncnet, device)
    unet = load(args.unet_config_path, UNetRun, args.overrides)
    return unet, unet_data.cached_features(unet, device)


def clips_of(run: "UNetRun | SyncNetRun", console: Console) -> list[TrainingClip]:
    """The training and validation clips that are files; those left out are printed."""
    data, clips = run.data, []
    for name, (folder, fileslist) in places(run).items():
        if (folder or fileslist or name == "training") and not is_set(folder, fileslist):
            paths = in_own_order(find_clips(folder, fileslist))
            index = index_clips(
                paths, 1, data.cache_dir, data.reader, progress=lambda p: iter(track(p, "Index clips", console=console))
            )
            console.print(f"{name}: {describe_index(index)}", soft_wrap=True)
            clips += index.clips
    return clips


def places(run: "UNetRun | SyncNetRun") -> dict[str, tuple[str, str]]:
    """The folder and the list of the training and of the validation clips."""
    data = run.data
    return {
        "training": (data.train_data_dir, data.train_fileslist),
        "validation": (data.val_data_dir, data.val_fileslist),
    }


def is_set(folder: str, fileslist: str) -> bool:
    """Whether clips are in shards."""
    from latentsync.data.shards.catalog import has_shards

    return bool(folder) and not fileslist and has_shards(folder)


def fill_sets(run: "UNetRun | SyncNetRun", features: "list[CachedFeature]", console: Console) -> bool:
    """Add the features to the sets of shards that the run reads; whether a clip could not be read."""
    from latentsync.data.shards.cache import ShardCache
    from latentsync.data.shards.catalog import read_catalog
    from latentsync.data.shards.clips import shard_clips
    from latentsync.data.shards.write import write_feature

    unread = []
    for address in dict.fromkeys(folder for folder, fileslist in places(run).values() if is_set(folder, fileslist)):
        catalog = read_catalog(address)
        cache = ShardCache(address, catalog.parts, run.data.cache_dir, run.data.shard_cache_bytes)
        clips = separated(shard_clips(catalog, cache), 1).clips
        for feature in features:
            shown = partial(track, description=f"{feature.kind} in {address}", console=console)
            unread += write_feature(feature, clips, Folder(address), shown)
    for name, reason in unread:
        console.print(f"left out {name}: {reason}", soft_wrap=True)
    return bool(unread)


def in_own_order(values: Sequence[T]) -> list[T]:
    """The values in an order of this process, so that several do not do the same work at the same time."""
    return random.SystemRandom().sample(values, len(values))


def fill(feature: "CachedFeature", clips: Sequence[TrainingClip], console: Console) -> ClipIndex:
    """Compute one feature of the clips that lack it; returns the clips that still do because they cannot be read."""
    missing = in_own_order(feature.missing(clips))
    console.print(f"{feature.kind}: {len(clips) - len(missing)} of {len(clips)} clips are in {feature.folder}")
    for clip in track(missing, feature.kind, console=console):
        try:
            list(feature.fill([clip]))
        except MediaError as error:
            console.print(f"left out {clip.path}: {error}", soft_wrap=True)
    return ClipIndex(feature.missing(clips))


def precompute(args: argparse.Namespace) -> int:
    """Fill the caches; returns the exit status, 1 if a clip could not be read."""
    configure_logging()
    console = Console(highlight=False, markup=False)
    run, features = chosen(args)
    clips = clips_of(run, console)
    failed = [fill(feature, clips, console).clips for feature in features] if clips else []
    return int(fill_sets(run, features, console) or any(failed))


def main(argv: Sequence[str] | None = None) -> int:
    args = parse(argv)
    return run_command("precompute", lambda: precompute(args), if_stopped="the same command resumes")


if __name__ == "__main__":
    sys.exit(main())
