"""Models saved in diffusers' layout are the same when they are loaded again."""

import json
from pathlib import Path

import pytest
import torch
from diffusers import AutoencoderKL

from latentsync.files import network_hash
from latentsync.inference.model_files import DEMO_UNET, distilled_companion, find_model_files, settings_for
from latentsync.inference.models import LipsyncModels
from latentsync.inference.pipeline import LipsyncPipeline
from latentsync.inference.pretrained import model_card
from latentsync.models.vae import decode
from latentsync.weights.delta import BASE_ENTRY
from scripts.inference import main
from tests.support.tiny import StubDetector

CPU = torch.device("cpu")


def saved(unet: Path, folder: Path) -> LipsyncModels:
    """The models of a U-Net, after they were saved in a folder."""
    models = LipsyncModels.load(unet, device=CPU)
    LipsyncPipeline(models, StubDetector()).save_pretrained(folder)
    return models


@pytest.mark.parametrize("unet", [DEMO_UNET, distilled_companion(DEMO_UNET)], ids=["whole", "a delta"])
def test_saved_models_are_the_same_when_they_are_loaded_again(unet: Path, tmp_path: Path) -> None:
    models = saved(unet, tmp_path / "models")
    again = LipsyncModels.load(tmp_path / "models", device=CPU)
    for name in ("unet", "vae", "audio_encoder", "tiny_vae"):
        assert network_hash(getattr(models, name)) == network_hash(getattr(again, name)), name
    assert {name: value for name, value in models.facts.items() if name != BASE_ENTRY} == again.facts
    for name in ("resolution", "num_frames", "defaults", "distilled", "alignment"):
        assert getattr(models, name) == getattr(again, name)
    files = find_model_files(tmp_path / "models").check()
    assert all(tmp_path in file.path.parents for file in files.all)
    assert settings_for(files, {"vae": "tiny"}).vae == "tiny"


def test_the_folder_is_laid_out_as_diffusers_expects(tmp_path: Path) -> None:
    models = saved(DEMO_UNET, tmp_path)
    index = json.loads((tmp_path / "model_index.json").read_text())
    networks = {name: entry for name, entry in index.items() if isinstance(entry, list)}
    assert index["_class_name"] == "LipsyncPipeline" and networks["vae"] == ["diffusers", "AutoencoderKL"]
    for name in networks:
        assert {path.name for path in (tmp_path / name).iterdir()} == {
            "config.json",
            "diffusion_pytorch_model.safetensors",
        }
    library = AutoencoderKL.from_pretrained(tmp_path / "vae")
    latents = torch.randn(1, 4, 4, 4)
    with torch.no_grad():
        assert torch.allclose(decode(library, latents), decode(models.vae, latents), atol=1e-5)  # another memory layout


def test_the_card_says_what_the_file_knows_and_no_licence_that_it_does_not(tmp_path: Path) -> None:
    models = saved(DEMO_UNET, tmp_path)
    card = (tmp_path / "README.md").read_text()
    assert card.startswith("---\nlibrary_name: latentsync\n") and "license: other" in card
    assert f"{models.resolution} px" in card and network_hash(models.unet) in card
    assert "state it before you publish them" in card
    official = model_card({**models.facts, "release": "1.6"}, {})
    assert "license: openrail++-m" in official and "Licence of the U-Net: OpenRAIL++-M." in official


def test_a_folder_that_holds_something_is_left_as_it_is(tmp_path: Path) -> None:
    models = LipsyncModels.load(DEMO_UNET, device=CPU)
    (tmp_path / "mine.txt").write_text("mine")
    with pytest.raises(ValueError, match="is not an empty folder, and nothing is overwritten"):
        LipsyncPipeline(models, StubDetector()).save_pretrained(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]


@pytest.mark.slow
def test_the_command_takes_a_folder(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    saved(DEMO_UNET, tmp_path / "models")
    arguments = ["--inference_ckpt_path", str(tmp_path / "models"), "--detector", "mesh", "--preflight"]
    arguments += ["--video_out_path", str(tmp_path / "o.mp4")]
    assert main(arguments) == 0, capsys.readouterr().err
