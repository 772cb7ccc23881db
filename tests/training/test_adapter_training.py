"""Training an adapter: what is stored, exact resume, and settings that contradict each other."""

from pathlib import Path

import pytest
import torch

from latentsync.config import UNetRun, load
from latentsync.inference.models import configured_unet
from latentsync.models.unet.adapter import Adapter, adapter_names, base_fingerprint, with_adapters
from latentsync.models.unet.config import UNetConfig
from latentsync.models.unet.network import UNet3DConditionModel
from latentsync.training.engine.distributed import Processes
from latentsync.training.unet.dry_run import dry_run_on_meta
from latentsync.training.unet.train import UNetTraining, train_unet
from latentsync.weights import CheckpointError, describe, read_checkpoint, read_state, save_checkpoint
from tests.support.tiny_training import NUM_FRAMES, RESOLUTION, STAGE2, UNET, make_data
from tests.training.test_training import assert_same, final_state

CONFIGS = Path(__file__).parents[2] / "configs/unet"
ADAPTER = (STAGE2[0], "adapter.rank=2", "adapter.alpha=1", "train.schedule=constant", "train.learning_rate=0.01")


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A configuration with clips, and a U-Net with motion modules for adapters."""
    path = make_data(tmp_path_factory.mktemp("adapter") / "data")
    torch.manual_seed(4)
    model = {**UNET, "use_motion_module": True}
    unet = UNet3DConditionModel(UNetConfig.from_dict(model))
    for parameter in unet.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    facts = describe("unet", model, 1, resolution=RESOLUTION, num_frames=NUM_FRAMES)
    save_checkpoint(path.parent / "base.safetensors", unet.state_dict(), facts)
    return path


def run_of(data: Path, folder: Path, *overrides: str) -> UNetRun:
    places = f"init_from={data.parent / 'base.safetensors'}", f"data.train_output_dir={folder}"
    return load(data, UNetRun, [*ADAPTER, *places, *overrides])


def trained(data: Path, folder: Path, *overrides: str) -> UNetTraining:
    return train_unet(run_of(data, folder, *overrides), Processes(cpu=True))


def test_only_the_adapter_is_trained_and_stored(data: Path, tmp_path: Path) -> None:
    training = trained(data, tmp_path / "run", "train.max_steps=3", "train.ema_decay=0")
    base, _ = configured_unet(data.parent / "base.safetensors", None)
    place = tmp_path / "run/checkpoints/step-00000003"
    stored = read_checkpoint(place / "weights.safetensors")
    own = training.step.unet.state_dict()
    names = adapter_names(own)
    assert set(stored.tensors) == {f"unet.{name}" for name in names} == set(read_state(place / "state.pt")["module"])
    assert all(torch.equal(own[name], value) for name, value in base.state_dict().items())
    layers = {name.rsplit(".lora_", 1)[0] for name in names}
    assert {layer.endswith((".to_q", ".to_k", ".to_v", ".to_out.0")) for layer in layers} == {True}
    assert {("attn2." in layer) != ("motion_modules." in layer) for layer in layers} == {True}
    assert stored.metadata["model"] == {"rank": 2, "alpha": 1.0, "targets": ["attn2.", "motion_modules."]}
    assert stored.metadata["base"]["fingerprint"] == base_fingerprint(base)
    assert all(float(stored.tensors[f"unet.{name}"].abs().max()) > 0 for name in names)

    merged = with_adapters(base, [Adapter(place / "weights.safetensors")], base_fingerprint(base))
    sample, audio = torch.randn(1, 13, NUM_FRAMES, 8, 8), torch.randn(1, NUM_FRAMES, 5, 32)
    with torch.no_grad():
        results = [net.eval()(sample, 400, net.project_kv(audio)) for net in (merged, training.step.unet, base)]
    torch.testing.assert_close(results[0], results[1], rtol=1e-4, atol=1e-5)
    assert not torch.allclose(results[0], results[2], rtol=1e-4, atol=1e-5)


def test_a_resumed_training_of_an_adapter_equals_an_uninterrupted_one(data: Path, tmp_path: Path) -> None:
    trained(data, tmp_path / "whole")
    trained(data, tmp_path / "parts", "train.max_steps=2")
    trained(data, tmp_path / "parts")
    whole, parts = (final_state(tmp_path / name) for name in ("whole", "parts"))
    assert whole["step"] == 4 and whole["ema"]
    assert_same(
        {name: value for name, value in whole.items() if name != "train"},
        {name: value for name, value in parts.items() if name != "train"},
    )
    with pytest.raises(ValueError, match="belongs to another run: adapter.rank was 2 and is 3"):
        trained(data, tmp_path / "parts", "adapter.rank=3")


@pytest.mark.parametrize(
    ("override", "words"),
    {
        "init_from=": "adapter.rank is set, so set init_from",
        "trainable_modules=[attn2.]": "adapter.rank and trainable_modules are both set",
        "store_changes=true": "adapter.rank and store_changes are both set",
        "adapter.alpha=-1": "adapter.alpha is -1",
    }.items(),
)
def test_settings_that_contradict_an_adapter(data: Path, tmp_path: Path, override: str, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        run_of(data, tmp_path, override)


def test_an_adapter_needs_the_whole_network_that_it_is_for(data: Path, tmp_path: Path) -> None:
    for override in ("model.use_motion_module=false", "data.resolution=32"):
        with pytest.raises(CheckpointError, match=r"base.safetensors was trained with another configuration"):
            trained(data, tmp_path / "run", override)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["adapter", "adapter_512"])
def test_the_shipped_adapters_fit_a_card_of_24_gb(name: str) -> None:
    """By shapes: the whole run in 22 GiB, and a file of at most 50 MB."""
    text = dry_run_on_meta(load(CONFIGS / f"{name}.yaml", UNetRun))
    total = float(text.split("memory, one process: about ")[1].split(" GiB")[0])
    trained_millions = float(next(line for line in text.splitlines() if line.startswith("U-Net ")).split()[1])
    assert total <= 22 and 4 * trained_millions <= 50
