"""Full-size checkpoints as others write them, there and back: `python -m tests.golden.full_size GOLDEN_DIR [--folder DIR]`.

For the U-Net of every shipped configuration, that of release 1.0, and the StableSyncNets: a `.pt` file with `state_dict` and
`global_step`, rule weights under the golden key tables, is loaded strictly, saved as safetensors, loaded again and compared bit by
bit. Takes 11 GB of disk and of memory for a moment, so it is a command of its own and no part of the tests.
"""

import argparse
import json
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from latentsync.models.syncnet import SyncNetConfig, load_syncnet
from latentsync.models.unet.checkpoint import load_unet, rename_v10_keys
from latentsync.models.unet.config import UNetConfig
from latentsync.models.unet.motion import FramePositions
from latentsync.weights import describe, save_checkpoint
from tests.golden.harness import rule_array

Tensors = Mapping[str, Tensor]
Load = Callable[[Path], nn.Module]  # a checkpoint -> the network, strictly
SEED = 0


def rule_tensors(table: Mapping[str, list[int]]) -> dict[str, Tensor]:
    """A state dict by the weight rule; position tables as they are built."""
    return {key: rule_tensor(key, tuple(shape)) for key, shape in table.items()}


def rule_tensor(key: str, shape: tuple[int, ...]) -> Tensor:
    if key.endswith(".pe"):
        return FramePositions(width=shape[2], max_frames=shape[1]).pe
    return torch.as_tensor(rule_array(key, shape, SEED))


def there_and_back(
    load: Load, kind: str, model: dict[str, Any], facts: dict[str, Any], held: Tensors, folder: Path
) -> bool:
    """Whether the public file and then this project's own give back every tensor of `held` bit by bit."""
    public, own = folder / "public.pt", folder / "own.safetensors"
    torch.save({"global_step": 1, "state_dict": held}, public)
    first = load(public).state_dict()
    public.unlink()
    save_checkpoint(own, first, describe(kind, model, 1, **facts))
    second = load(own).state_dict()
    own.unlink()
    wanted = rename_v10_keys(held) if kind == "unet" else held
    return all(
        state.keys() == wanted.keys() and all(torch.equal(state[key], wanted[key]) for key in wanted)
        for state in (first, second)
    )


def unet_tables(
    facts: Mapping[str, Any], v10: Mapping[str, Any]
) -> Iterator[tuple[str, dict[str, Any], dict[str, list[int]]]]:
    """Name, model section and key table of every U-Net."""
    sections, tables = facts["config_model_sections"], facts["state_dict"]
    efficient = {**tables["stage1"], **tables["stage2_efficient_extra"]}
    everywhere = {**efficient, **tables["stage2_extra_over_efficient"]}
    yield "release 1.0", sections["stage1"], v10["state_dict"]
    yield "stage1", sections["stage1"], tables["stage1"]
    decoder_only = {"use_motion_module": True, "motion_module_decoder_only": True}
    yield "stage2_efficient", {**sections["stage1"], **decoder_only}, efficient
    yield "stage2", {**sections["stage1"], "use_motion_module": True}, everywhere


def checks(golden: Path, folder: Path) -> Iterator[tuple[str, bool]]:
    def facts(case: str) -> dict[str, Any]:
        return json.loads((golden / f"{case}.json").read_text(encoding="utf-8"))

    for name, section, table in unet_tables(facts("unet_full_tables"), facts("unet_v10_keys")):
        config = UNetConfig.from_dict(section)
        size = {"resolution": 256, "num_frames": 16}

        def load(path: Path, config: UNetConfig = config, size: dict[str, Any] = size) -> nn.Module:
            return load_unet(path, config, size)[0]

        yield f"U-Net {name}", there_and_back(load, "unet", config.to_dict(), size, rule_tensors(table), folder)
    tables = facts("stable_syncnet_tables")
    for name, table in tables["state_dict"].items():
        net = SyncNetConfig.from_dict(tables["configs"][name])

        def load_net(path: Path, net: SyncNetConfig = net) -> nn.Module:
            return load_syncnet(path, net)[0]

        yield (
            f"StableSyncNet {name}",
            there_and_back(load_net, "syncnet", net.to_dict(), {}, rule_tensors(table), folder),
        )


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("golden", type=Path, help="folder with unet_full_tables.json and its neighbours")
    parser.add_argument("--folder", type=Path, help="where the files lie for a moment (default: the system's)")
    args = parser.parse_args(arguments)
    failed = 0
    with tempfile.TemporaryDirectory(dir=args.folder) as folder:
        for name, ok in checks(args.golden, Path(folder)):
            print(f"{name:40} {'bit-exact' if ok else 'FAIL'}", flush=True)
            failed += not ok
    return int(failed > 0)


if __name__ == "__main__":
    sys.exit(main())
