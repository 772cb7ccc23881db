"""Everything that a run's models lack is named at once, before anything is read; and each release brings what belongs to it."""

import shutil
from collections.abc import Callable
from itertools import combinations
from pathlib import Path

import numpy as np
import pytest
import torch

from latentsync.face.detection.detector import DEFAULT_DETECTOR
from latentsync.inference import models as models_module
from latentsync.inference.model_files import DEMO_UNET, find_model_files
from latentsync.inference.models import LipsyncModels
from latentsync.inference.pipeline import LipsyncPipeline
from latentsync.inference.settings import InferenceSettings
from latentsync.inference.timing import Stopwatch
from latentsync.inference.windows.live import LiveStream
from latentsync.inference.windows.sampler import WindowSampler
from latentsync.weights import CheckpointError, describe, read_header, save_checkpoint
from latentsync.weights.table import FETCH_INFERENCE
from scripts import download_checkpoints
from scripts.inference import DEMO_AUDIO, DEMO_VIDEO, check_commercial, main
from tests.support.official import FIRST_UNET, PARTS, UNET, note_release, save_companions, save_unet, use_folder
from tests.support.tiny import StubDetector, tiny_models
from tests.weights.test_weights import tensors_of
from web.errors import WebError
from web.models import ModelChoice, Models

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The official layout, nothing missing."""
    folder = tmp_path_factory.mktemp("official")
    save_unet(folder / "latentsync_unet.pt", "1.6")
    note_release(folder, "1.6")
    save_companions(folder)
    return folder


@pytest.fixture
def unet(whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The official U-Net of a copy of it, which stands for checkpoints/; reading a network would fail."""
    shutil.copytree(whole, tmp_path / "checkpoints")
    monkeypatch.setattr(models_module, "load_unet", lambda *_: pytest.fail("the U-Net is read"))
    return use_folder(monkeypatch, tmp_path / "checkpoints")


def told(unet_path: Path, detector: str = "face_alignment", config: Path | None = None) -> str:
    """The message of loading a pipeline."""
    with pytest.raises(CheckpointError) as caught:
        LipsyncPipeline.from_pretrained(unet_path, config, detector, CPU)
    return str(caught.value)


def test_nothing_is_said_of_what_is_whole(unet: Path) -> None:
    files = find_model_files(unet, detector="face_alignment").check()
    assert [file.path.name for file in files.all] == [
        "latentsync_unet.pt",
        "vae",
        "tiny.pt",
        *map(_name, PARTS["face detector"]),
    ]
    assert (files.facts["resolution"], files.facts["release"], files.way_out) == (512, "1.6", "")


def _name(path: str) -> str:
    return Path(path).name


@pytest.mark.parametrize("missing", [c for n in range(1, 5) for c in combinations(PARTS, n)], ids="+".join)
def test_all_missing_parts_are_told_in_one_message(unet: Path, missing: tuple[str, ...]) -> None:
    lost = [path for part in missing for path in PARTS[part]]
    for path in lost:
        (unet.parent / path).unlink()
    text = told(unet)
    assert "\n" not in text and text.count(FETCH_INFERENCE) == 1
    for part, paths in PARTS.items():
        shown = any(str(unet.parent / path) in text or str((unet.parent / path).parent) + " " in text for path in paths)
        assert shown == (part in missing), (part, text)
    if "U-Net" not in missing:  # 5 GB that are there are not fetched again
        command = text.split("`")[-2]
        assert command.split(" --only ")[1].split() == lost


DAMAGE: dict[str, Callable[[Path], object]] = {
    "empty": lambda path: path.write_bytes(b""),
    "a web page": lambda path: path.write_text("<!DOCTYPE html><html>"),
    "a Git LFS pointer": lambda path: path.write_text(
        "version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 5\n"
    ),
    "cut": lambda path: path.write_bytes(path.read_bytes()[: path.stat().st_size // 2]),
}


@pytest.mark.parametrize("kind", DAMAGE)
def test_all_damaged_parts_are_told_in_one_message(unet: Path, kind: str) -> None:
    damaged = [path for paths in PARTS.values() for path in paths if not path.endswith(".json")]
    for path in damaged:
        DAMAGE[kind](unet.parent / path)
    text = told(unet)
    assert text.startswith("5 parts of these models") and text.count(FETCH_INFERENCE) == 1
    assert all(str(unet.parent / path) in text for path in damaged)


def test_a_damaged_table_of_the_auto_encoder(unet: Path) -> None:
    (unet.parent / "vae/config.json").write_text("{")
    assert "config.json is not JSON" in told(unet)


def test_ones_own_unet_needs_the_same_companions(unet: Path, tmp_path: Path) -> None:
    own = tmp_path / "mine" / "net.pt"
    save_unet(own, "1.5")
    (unet.parent / "whisper/tiny.pt").unlink()
    text = told(own)  # of unknown origin: also its configuration is missing
    assert "(1) U-Net: " in text and "stores no resolution" in text and "stage2_512.yaml" in text
    assert "(2) speech encoder: " in text and text.endswith("--only whisper/tiny.pt`.")
    config = tmp_path / "config.yaml"
    config.write_text("data: {resolution: 64}\nmodel: {cross_attention_dim: 384}\n")
    assert "tiny.pt does not exist" in told(own, config=config).replace("U-Net", "")
    assert "check the path" in told(tmp_path / "nowhere.pt", "cascade")


def test_a_wider_unet_asks_for_the_wider_encoder(unet: Path, tmp_path: Path) -> None:
    own = tmp_path / "mine" / "wide.safetensors"
    wide = {**UNET.to_dict(), "cross_attention_dim": 768}
    save_checkpoint_of(own, wide)
    assert told(own, "cascade").endswith("--only whisper/small.pt`.")
    (own.parent / "whisper").mkdir()
    shutil.copy(unet.parent / "whisper/tiny.pt", own.parent / "whisper/small.pt")
    assert "384 wide, but the U-Net needs 768" in told(own, "cascade")
    save_checkpoint_of(own, {**UNET.to_dict(), "cross_attention_dim": 24})
    (unet.parent / "whisper/tiny.pt").unlink()
    assert "put whisper.pt beside the U-Net" in told(own, "cascade")


def save_checkpoint_of(path: Path, model: dict) -> None:
    config = type(UNET).from_dict(model)
    path.parent.mkdir(exist_ok=True)
    save_checkpoint(path, tensors_of(config), describe("unet", model, 1, resolution=64, num_frames=16))


def test_a_header_says_what_the_file_holds_without_its_numbers(tmp_path: Path) -> None:
    for config, path in ((UNET, tmp_path / "a.pt"), (UNET, tmp_path / "b.safetensors")):
        weights = tensors_of(config)
        if path.suffix == ".pt":
            torch.save({"state_dict": weights, "global_step": 4}, path)
        else:
            save_checkpoint(path, weights, {"step": 4})
        header = read_header(path)
        assert header.step == 4 and header.tensors.keys() == weights.keys()
        assert all(
            t.is_meta and t.shape == weights[k].shape and t.dtype == weights[k].dtype for k, t in header.tensors.items()
        )


def test_the_command_line_tells_it_before_the_work(
    unet: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("scripts.inference.PUBLIC_UNET", unet)
    monkeypatch.setattr("scripts.inference.load_pipeline", lambda *_: pytest.fail("the models are loaded"))
    shutil.rmtree(unet.parent / "vae")
    (unet.parent / "auxiliary/s3fd-619a316812.pth").unlink()
    pair = ["--video_path", str(DEMO_VIDEO), "--audio_path", str(DEMO_AUDIO)]
    assert main(pair) == 2
    error = capsys.readouterr().err
    assert "2 parts of these models" in error and "--demo" in error and error.count("\n") == 1
    save_companions(unet.parent)
    for flags, words in ((["--preset", "turbo"], "distilled"), (["--vae", "tiny"], "tiny_vae.safetensors")):
        assert main([*pair, *flags]) == 2
        assert words in capsys.readouterr().err
    with pytest.raises(SystemExit):
        main([*pair, "--unet_config_path", "nowhere.yaml"])
    assert "nowhere.yaml does not exist" in capsys.readouterr().err


def test_the_browser_tells_it_too(unet: Path) -> None:
    choices = {"official": ModelChoice("official", unet, "face_alignment")}
    assert Models(choices).check("official").unet == unet
    with pytest.raises(
        WebError, match="Official weights: the solver lcm .preset turbo. needs weights that were distilled"
    ):
        Models(choices).check("official", {"preset": "turbo", "steps": 5})
    (unet.parent / "whisper/tiny.pt").unlink()
    unet.unlink()
    with pytest.raises(WebError, match=r"Official weights: 2 parts.*inference`"):
        Models(choices).check("official")


def test_the_command_fetches_single_files(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    args = ["inference", "--folder", str(tmp_path), "--check", "--only", "whisper/small.pt"]
    assert download_checkpoints.main(args) == 1
    shown = capsys.readouterr().out
    assert "whisper/small.pt" in shown and "latentsync_unet.pt" not in shown
    assert download_checkpoints.main([*args, "whisper/smal.pt"]) == 2
    assert "no public checkpoint whisper/smal.pt" in capsys.readouterr().err


# --- what belongs to a release

RELEASES = {"1.0": (256, "whole_nose", False), "1.5": (256, "nose_tip", True), "1.6": (512, "nose_tip", True)}


@pytest.mark.parametrize("origin", ["fetched", "put there by hand"])
@pytest.mark.parametrize("release", RELEASES)
def test_a_release_loads_with_what_belongs_to_it(
    whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, release: str, origin: str
) -> None:
    resolution, alignment, moves = RELEASES[release]
    folder = tmp_path / "checkpoints"
    shutil.copytree(whole, folder)
    (folder / "sources.json").unlink()
    unet = use_folder(monkeypatch, folder)
    save_unet(unet, release)
    config = None
    if origin == "fetched":
        note_release(folder, release)
    elif release != "1.0":  # which knows itself by its names
        config = tmp_path / "config.yaml"
        config.write_text(f"data: {{resolution: {resolution}}}\nmodel: {UNET.to_dict()}\n")
    pipeline = LipsyncPipeline.from_pretrained(unet, config, DEFAULT_DETECTOR, CPU)
    models = pipeline.models
    assert (models.resolution, models.num_frames, models.alignment) == (resolution, 16, alignment)
    assert models.unet.config.use_motion_module == moves and pipeline.detector.alignment == alignment


def test_the_alignment_of_a_configuration_counts_where_nothing_tells(
    whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """For a further training of release 1.0 that was stored under later names."""
    shutil.copytree(whole, tmp_path / "checkpoints")
    (tmp_path / "checkpoints/sources.json").unlink()
    unet, config = use_folder(monkeypatch, tmp_path / "checkpoints"), tmp_path / "config.yaml"
    config.write_text(f"data: {{resolution: 64, alignment: whole_nose}}\nmodel: {UNET.to_dict()}\n")
    assert LipsyncModels.load(unet, config, CPU).alignment == "whole_nose"
    save_unet(unet, "1.0")  # its names tell, whatever is said
    config.write_text(f"data: {{resolution: 256, alignment: nose_tip}}\nmodel: {FIRST_UNET.to_dict()}\n")
    with pytest.raises(ValueError, match="alignment whole_nose, not nose_tip"):
        LipsyncModels.load(unet, config, CPU)
    config.write_text("data: {alignment: chin}\n")
    with pytest.raises(ValueError, match="data.alignment is 'chin': choose nose_tip or whole_nose"):
        LipsyncModels.load(unet, config, CPU)


def test_models_say_their_own_alignment(tmp_path: Path) -> None:
    assert LipsyncModels.load(DEMO_UNET, device=CPU).alignment == "nose_tip"  # from before it was stored


class WholeNose(StubDetector):
    alignment = "whole_nose"


def test_a_detector_of_another_alignment_is_refused() -> None:
    models = tiny_models()
    with pytest.raises(ValueError, match="whole_nose.*nose_tip.*alignment=models.alignment"):
        LipsyncPipeline(models, WholeNose())
    pipeline = LipsyncPipeline(models, StubDetector())
    live = pipeline.stream(np.zeros(16_000, np.float32))
    with pytest.raises(ValueError, match="whole_nose"):
        LiveStream(WindowSampler(models, InferenceSettings(), Stopwatch()), WholeNose(), live.stream.audio, 25)


def test_networks_that_are_not_for_commercial_use_are_refused_if_asked(unet: Path) -> None:
    assert check_commercial(find_model_files(unet)) == check_commercial(find_model_files(DEMO_UNET)) == []
    with pytest.raises(
        ValueError,
        match="refuses the face detector .*s3fd.*WIDER FACE.* and the face landmarks .*2DFAN4.*--detector cascade",
    ):
        check_commercial(find_model_files(unet, detector="face_alignment"))
    own = unet.with_name("own.pt")
    unet.rename(own)
    assert check_commercial(find_model_files(own)) == [f"--commercial_safe does not know the licence of {own}."]


def test_the_command_refuses_before_it_loads(unet: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pair = ["--video_path", str(DEMO_VIDEO), "--audio_path", str(DEMO_AUDIO), "--inference_ckpt_path", str(unet)]
    assert main([*pair, "--detector", "face_alignment", "--commercial_safe"]) == 2
    assert "--commercial_safe refuses the face detector" in capsys.readouterr().err
