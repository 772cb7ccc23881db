"""The commands of the recipes in docs/training.md and docs/training_data_and_syncnet.md, run as written, but with tiny networks.

The losses `lpips` and `trepa` need public weights and are left out.
"""

import json
import re
import shlex
from pathlib import Path

import pytest

from latentsync.config import UNetRun, load
from latentsync.models.syncnet import StableSyncNet, SyncNetConfig
from latentsync.models.unet.config import UNetConfig
from latentsync.models.unet.network import UNet3DConditionModel
from latentsync.weights import save_state
from latentsync.weights.table import PUBLIC_FILES
from scripts import precompute, train_syncnet, train_unet
from tests.support.tiny_training import NUM_FRAMES, RESOLUTION, SYNCNET, UNET, make_clip, make_networks

ROOT = Path(__file__).resolve().parents[2]
PAGES = [ROOT / "docs/training.md", ROOT / "docs/training_data_and_syncnet.md"]
PROGRAMS = {
    "scripts.precompute": precompute.main,
    "./train_unet.sh": train_unet.main,
    "./train_syncnet.sh": train_syncnet.main,
}
DATA = ["data.cache_dir=cache", f"data.resolution={RESOLUTION}", f"data.num_frames={NUM_FRAMES}", "data.num_workers=0"]
STEPS = ["train.max_steps=2", "train.checkpoint_steps=2", "train.log_steps=1", "train.precision=fp32"]
NETWORKS = [f"frozen_networks.{name}" for name in ("vae=vae.safetensors", "whisper=whisper.pt")]
SMALL_UNET = [
    *("model.block_out_channels=[16,32,32,32]", "model.layers_per_block=1", "model.norm_num_groups=8"),
    *("model.attention_head_dim=2", "model.cross_attention_dim=32", "model.motion_module_kwargs.num_attention_heads=2"),
    *("frozen_networks.syncnet=syncnet.safetensors", "frozen_networks.syncnet_config=", *NETWORKS),
    *("train.loss_weights.lpips=0", "train.loss_weights.trepa=0", "data.batch_size=2"),
    *("validation.clips=1", "inference={steps: 1}"),
]
SMALL_SYNCNET = [f"model.{part}.{name}={value}" for part, each in SYNCNET.items() for name, value in each.items()]
SMALL_SYNCNET += [f"model.{part}.attn_blocks={[0] * len(each['block_out_channels'])}" for part, each in SYNCNET.items()]
SMALL_SYNCNET += ["data.batch_size=4", "data.min_shift=1", "preflight.skip=true", "validation.clips=2"]
LATENTS = ["vae=vae.safetensors", "model.visual_encoder.in_channels=16"]  # 8 x 8 cells of whole faces
LATENTS += [f"model.visual_encoder.{name}" for name in ("block_out_channels=[32,64,128]", "downsample_factors=[2,2,2]")]
LATENTS += ["model.visual_encoder.attn_blocks=[0,0,0]"]


def commands(page: Path) -> list[list[str]]:
    """The words of the commands in a page's blocks of bash, with names of the page's variables filled in."""
    blocks = re.findall(r"^```bash\n(.*?)^```", page.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)
    lines = "\n".join(blocks).replace("\\\n", " ").splitlines()
    clips = next((line.partition("=")[2].strip('"') for line in lines if line.startswith("CLIPS=")), "")
    filled = [line.replace("$CLIPS", clips).replace("MEASURED", "0.9") for line in lines]
    return [shlex.split(line, comments=True) for line in filled if "..." not in line and line.strip()]


def recipes() -> list[list[str]]:
    """All commands that train or precompute: the program, then its arguments."""
    found = []
    for words in (words for page in PAGES for words in commands(page)):
        program = words[words.index("-m") + 1] if "-m" in words else words[0]
        if program in PROGRAMS:
            found.append([program, *words[words.index(program) + 1 :]])
    return found


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A working folder with the names that the commands use."""
    folder = tmp_path_factory.mktemp("recipes")
    for number, name in enumerate(("CLIPS/0", "CLIPS/1", "OTHER_CLIPS/2", "OTHER_CLIPS/3")):
        (folder / name).parent.mkdir(exist_ok=True)
        make_clip(folder / f"{name}.mp4", number)
    make_networks(folder)
    (folder / "checkpoints").mkdir()
    wide = {**UNET, "block_out_channels": [16, 32, 32, 32], "use_motion_module": True}
    wide["motion_module_kwargs"] = {"num_attention_heads": 2}  # as SMALL_UNET: an adapter needs the whole network
    wide |= {
        key: load(ROOT / "configs/unet/stage2.yaml", UNetRun).model[key]
        for key in ("down_block_types", "up_block_types")
    }
    unet, syncnet = UNet3DConditionModel(UNetConfig.from_dict(wide)), StableSyncNet(SyncNetConfig.from_dict(SYNCNET))
    save_state(folder / "checkpoints/latentsync_unet.pt", {"state_dict": unet.state_dict()})
    save_state(folder / "checkpoints/stable_syncnet.pt", {"state_dict": syncnet.state_dict()})
    (folder / "configs").symlink_to(ROOT / "configs")
    return folder


@pytest.mark.slow
def test_the_commands_of_the_recipes_run(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In the order of the pages, because a command may need what an earlier one has written."""
    monkeypatch.chdir(place)
    ran = []
    for program, *arguments in recipes():
        is_syncnet = any("syncnet" in word for word in arguments[:2])
        small = [*DATA, *STEPS, *(SMALL_SYNCNET if is_syncnet else SMALL_UNET)]
        out = f"data.train_output_dir=runs/{len(ran)}"
        small += LATENTS if "latent" in arguments[1] else []
        device = ["--device", "cpu"]
        assert PROGRAMS[program]([*arguments, *small, out, *device]) == 0, arguments
        if program != "scripts.precompute":
            rows = [json.loads(line) for line in Path(f"runs/{len(ran)}/log.jsonl").read_text().splitlines()]
            assert [row["step"] for row in rows] == [1, 2]
        ran.append(arguments[1])
    assert {Path(name).stem for name in ran} >= {
        "stage1",
        "stage2",
        "stage2_efficient",
        "stage2_512",
        "adapter",
        "adapter_512",
        "syncnet_16_pixel_attn",
    }


def test_a_recipe_fetches_the_release_of_its_resolution() -> None:
    resolutions = {file.release: file.resolution for file in PUBLIC_FILES if file.resolution}
    release, checked = "", 0
    for words in commands(PAGES[0]):
        if "scripts.download_checkpoints" in words:
            release = words[words.index("--release") + 1]
        if "init_from=checkpoints/latentsync_unet.pt" in words:
            run = load(ROOT / words[words.index("--unet_config_path") + 1], UNetRun, ["init_from=x"])
            assert run.data.resolution == resolutions[release]
            checked += 1
    assert checked == 4
