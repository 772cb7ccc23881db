"""Configuration files in the public releases' layout: translated to this project's, with one log line per key of theirs."""

import logging
from pathlib import Path
from typing import Any

import cv2
import pytest
import yaml

from latentsync.config import UNetObjective, UNetRun, load
from latentsync.config.public_layout import SYNCNET_LAYOUT, UNET_LAYOUT, flattened
from latentsync.config.syncnet_run import SyncNetRun
from latentsync.face.masks import mask_image
from latentsync.losses.perceptual import LpipsLoss
from latentsync.losses.sync import SyncLoss
from latentsync.losses.trepa import TrepaLoss
from scripts import inference, train_syncnet, train_unet

CONFIGS = Path(__file__).resolve().parents[2] / "configs"


def syncnet_file() -> dict[str, Any]:
    public = load(CONFIGS / "syncnet/syncnet_16_pixel_attn.yaml", SyncNetRun)
    return {
        "model": public.model,
        "ckpt": {"resume_ckpt_path": "", "inference_ckpt_path": "weights/own_syncnet.pt", "save_ckpt_steps": 40},
        "data": {
            "train_output_dir": "out/syncnet",
            "num_val_samples": 100,
            "batch_size": 64,
            "num_workers": 3,
            "latent_space": False,
            "num_frames": 16,
            "resolution": 256,
            "train_fileslist": "",
            "train_data_dir": "clips",
            "val_fileslist": "",
            "val_data_dir": "others",
            "audio_mel_cache_dir": "cache/mel",
            "lower_half": True,
            "audio_sample_rate": 16000,
            "video_fps": 25,
        },
        "optimizer": {"lr": 2e-5, "max_grad_norm": 0.5},
        "run": {"max_train_steps": 70, "validation_steps": 35, "mixed_precision_training": True, "seed": 42},
    }


def unet_file() -> dict[str, Any]:
    """A U-Net's file in the layout of release 1.6, with other values."""
    return {
        "data": {
            "syncnet_config_path": "elsewhere/syncnet.yaml",
            "train_output_dir": "out/unet",
            "train_fileslist": "list.txt",
            "train_data_dir": "",
            "audio_embeds_cache_dir": "cache/embeds",
            "audio_mel_cache_dir": "cache/mel",
            "val_video_path": "talk.mp4",
            "val_audio_path": "talk.wav",
            "batch_size": 3,
            "num_workers": 5,
            "num_frames": 16,
            "resolution": 512,
            "mask_image_path": "latentsync/utils/mask.png",
            "audio_sample_rate": 16000,
            "video_fps": 25,
            "audio_feat_length": [2, 2],
        },
        "ckpt": {"resume_ckpt_path": "start.pt", "save_ckpt_steps": 123},
        "run": {
            "pixel_space_supervise": True,
            "use_syncnet": True,
            "sync_loss_weight": 0.07,
            "perceptual_loss_weight": 0.2,
            "recon_loss_weight": 1,
            "guidance_scale": 2.0,
            "trepa_loss_weight": 9,
            "inference_steps": 25,
            "trainable_modules": ["motion_modules.", "attn2."],
            "seed": 7,
            "use_mixed_noise": True,
            "mixed_noise_alpha": 2,
            "mixed_precision_training": True,
            "enable_gradient_checkpointing": True,
            "max_train_steps": 77,
            "max_train_epochs": -1,
        },
        "optimizer": {
            "lr": 1e-5,
            "scale_lr": False,
            "max_grad_norm": 0.9,
            "lr_scheduler": "constant",
            "lr_warmup_steps": 4,
        },
        "model": {
            **load(CONFIGS / "unet/stage2.yaml", UNetRun).model,
            "act_fn": "silu",
            "center_input_sample": False,
            "downsample_padding": 1,
            "mid_block_scale_factor": 1,
            "resnet_time_scale_shift": "default",
            "motion_module_type": "Vanilla",
        },
    }


def first_release_file() -> dict[str, Any]:
    """A U-Net's file in the layout of release 1.0: the mask's kind instead of its path, and keys that later releases dropped."""
    content = unet_file()
    for name in ("mask_image_path", "audio_feat_length", "audio_embeds_cache_dir"):
        del content["data"][name]
    content["data"] |= {"mask": "fix_mask", "audio_cache_dir": "cache/whisper", "resolution": 256}
    content["run"]["enable_xformers_memory_efficient_attention"] = True
    content["model"] |= {
        "use_motion_module": False,
        "custom_audio_layer": False,
        "audio_condition_method": "cross_attn",
        "unet_use_cross_frame_attention": False,
        "unet_use_temporal_attention": False,
    }
    return content


def write(path: Path, content: dict[str, Any]) -> Path:
    path.write_text(yaml.safe_dump(content), encoding="utf-8")
    return path


def test_a_unet_file_is_translated(tmp_path: Path) -> None:
    run = load(write(tmp_path / "theirs.yaml", unet_file()), UNetRun)
    assert (run.data.resolution, run.data.num_frames, run.data.batch_size, run.data.num_workers) == (512, 16, 3, 5)
    assert (run.data.train_fileslist, run.data.train_output_dir, run.init_from) == ("list.txt", "out/unet", "start.pt")
    assert run.train.loss_weights == {"recon": 1.0, "sync": 0.07, "lpips": 0.2, "trepa": 9.0}
    assert (run.train.learning_rate, run.train.max_grad_norm, run.train.seed) == (1e-5, 0.9, 7)
    assert (run.train.max_steps, run.train.checkpoint_steps, run.train.precision) == (77, 123, "fp16")
    assert (run.train.schedule, run.train.warmup_steps, run.train.ema_decay) == ("constant", 4, 0.0)
    assert run.trainable_modules == ["motion_modules.", "attn2."] and run.gradient_checkpointing
    assert (
        run.objective == UNetObjective(mixed_noise_alpha=2.0)
        and run.frozen_networks.syncnet_config == "elsewhere/syncnet.yaml"
    )
    assert run.inference == {"guidance_scale": 2.0, "steps": 25}
    assert run.pixel_losses == [SyncLoss, LpipsLoss, TrepaLoss]


@pytest.mark.parametrize("content", [unet_file(), first_release_file()], ids=["1.6", "1.0"])
def test_every_public_key_is_logged_once(
    tmp_path: Path, content: dict[str, Any], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    path = write(tmp_path / "theirs.yaml", content)
    load(path, UNetRun)
    lines = caplog.messages
    for key in flattened(content):
        about = [line for line in lines if line.startswith((f"{path}: {key} ", f"{path}: {key}:"))]
        assert len(about) == (1 if key in UNET_LAYOUT.keys or key == "data.batch_size" else 0), key  # noqa: SIM118
    assert all("\n" not in line and line.endswith(".") for line in lines)


def test_switches_disable_losses_and_mixed_noise(tmp_path: Path) -> None:
    content = unet_file()
    content["run"] |= {"pixel_space_supervise": False, "use_mixed_noise": False, "mixed_precision_training": False}
    run = load(write(tmp_path / "a.yaml", content), UNetRun)
    assert run.pixel_losses == [] and run.weight("recon") == 1.0
    assert run.objective.mixed_noise_alpha == 0.0 and run.train.precision == "fp32"
    content["run"] |= {"pixel_space_supervise": True, "use_syncnet": False}
    assert load(write(tmp_path / "b.yaml", content), UNetRun).pixel_losses == [LpipsLoss, TrepaLoss]
    content["model"]["use_motion_module"] = False  # then the public training trains all parameters
    assert load(write(tmp_path / "c.yaml", content), UNetRun).trainable_modules == []


def test_a_syncnet_file_is_translated_and_its_checkpoint_is_used_by_the_unet(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    path = write(tmp_path / "syncnet.yaml", syncnet_file())
    run = load(path, SyncNetRun)
    lines = caplog.messages
    assert (run.data.batch_size, run.data.lower_half, run.data.val_data_dir) == (64, True, "others")
    assert (run.train.max_steps, run.train.validation_steps, run.train.checkpoint_steps) == (70, 35, 40)
    assert (run.train.learning_rate, run.train.max_grad_norm, run.train.precision) == (2e-5, 0.5, "fp16")
    assert (run.train.schedule, run.train.seed, run.init_from) == ("constant", 42, "")
    for key in flattened(syncnet_file()):
        logged = any(line.startswith((f"{path}: {key} ", f"{path}: {key}:")) for line in lines)
        assert logged == (key in SYNCNET_LAYOUT.keys or key == "data.batch_size"), key  # noqa: SIM118
    content = unet_file()
    content["data"]["syncnet_config_path"] = str(path)
    unet = load(write(tmp_path / "unet.yaml", content), UNetRun)
    assert (unet.frozen_networks.syncnet, unet.frozen_networks.syncnet_config) == ("weights/own_syncnet.pt", str(path))


def changed(section: str, name: str, value: Any) -> dict[str, Any]:
    content = unet_file()
    content.setdefault(section, {})[name] = value
    return content


REFUSED = {
    "another mask": (
        changed("data", "mask_image_path", "latentsync/utils/mask2.png"),
        "mask2.png, which is not the mask",
    ),
    "a custom mask": (changed("data", "mask_image_path", "my/mask.png"), "my/mask.png"),
    "another kind of mask": (changed("data", "mask", "half"), "'half', but only 'fix_mask'"),
    "another rate": (changed("data", "video_fps", 30), "data.video_fps is 30, but only 25"),
    "another audio window": (changed("data", "audio_feat_length", [1, 3]), "audio_feat_length"),
    "epochs": (changed("run", "max_train_epochs", 5), "run.max_train_steps"),
    "a scaled rate": (changed("optimizer", "scale_lr", True), "optimizer.scale_lr is True"),
    "an unknown schedule": (changed("optimizer", "lr_scheduler", "polynomial"), "'polynomial': choose constant"),
    "another network": (
        changed("model", "audio_condition_method", "group_norm"),
        "'group_norm', but only 'cross_attn'",
    ),
    "an unsupported activation": (changed("model", "act_fn", "gelu"), "act_fn is 'gelu'"),
    "a wrong name": (
        changed("run", "sync_loss_wieght", 1),
        "'run.sync_loss_wieght'. Did you mean 'run.sync_loss_weight'",
    ),
    "a wrong name of data": (changed("data", "mask_image_pth", ""), "Did you mean 'data.mask_image_path'"),
    "a section of this project": (changed("train", "max_steps", 5), "'train.max_steps' to this project's"),
    "an entry of this project": (changed("data", "cache_dir", "c"), "'data.cache_dir' to this project's"),
    "a base": ({**unet_file(), "base": ["other.yaml"]}, "does not exist"),
}


@pytest.mark.parametrize("kind", REFUSED)
def test_unsupported_values_raise(tmp_path: Path, kind: str) -> None:
    content, words = REFUSED[kind]
    with pytest.raises(ValueError) as caught:
        load(write(tmp_path / "theirs.yaml", content), UNetRun)
    assert words in str(caught.value) and "\n" not in str(caught.value)


def test_a_copy_of_the_mask_is_accepted_and_a_changed_one_raises(tmp_path: Path) -> None:
    image = mask_image()
    cv2.imwrite(str(tmp_path / "copy.png"), image)
    content = changed("data", "mask_image_path", str(tmp_path / "copy.png"))
    assert load(write(tmp_path / "a.yaml", content), UNetRun).data.resolution == 512
    image[100:120, 100:120] = 0
    cv2.imwrite(str(tmp_path / "copy.png"), image)
    with pytest.raises(ValueError, match=r"copy\.png, which is not the mask"):
        load(tmp_path / "a.yaml", UNetRun)


def test_an_own_file_may_have_a_public_file_as_base(tmp_path: Path) -> None:
    write(tmp_path / "theirs.yaml", unet_file())
    run = load(
        write(tmp_path / "ours.yaml", {"base": "theirs.yaml", "train": {"max_steps": 5}}), UNetRun, ["train.seed=9"]
    )
    assert (run.train.max_steps, run.train.seed, run.data.resolution, run.inference["steps"]) == (5, 9, 512, 25)


@pytest.mark.parametrize(("name", "schema"), [("unet/stage2.yaml", UNetRun), ("syncnet/base.yaml", SyncNetRun)])
def test_own_files_log_nothing(name: str, schema: type, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    try:
        load(CONFIGS / name, schema)
    except ValueError as error:
        assert "model.audio_encoder is missing" in str(error)  # a base file is incomplete on its own
    assert not caplog.messages


@pytest.mark.slow
def test_the_commands_print_the_lines(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    unet, syncnet = write(tmp_path / "unet.yaml", first_release_file()), write(tmp_path / "s.yaml", syncnet_file())
    off = ["train.loss_weights.sync=0", "train.loss_weights.lpips=0", "train.loss_weights.trepa=0"]
    meta = ["--dry_run", "--device", "meta"]
    assert train_unet.main(["--unet_config_path", str(unet), *meta, *off]) == 0
    assert "optimizer.lr is read as train.learning_rate." in capsys.readouterr().out
    assert train_syncnet.main(["--config_path", str(syncnet), *meta]) == 0
    assert "run.validation_steps is read as train.validation_steps." in capsys.readouterr().out
    assert (
        train_unet.main(["--unet_config_path", str(unet), *meta, "run.seed=3"]) == 2
    )  # overrides are in this project's layout
    assert "the command line: unknown key 'run'" in capsys.readouterr().err
    assert inference.main(["--demo", "--unet_config_path", str(unet)]) == 2
    assert "demo" in capsys.readouterr().err  # another network than the demo's


def test_sections_of_earlier_versions_are_renamed(tmp_path: Path) -> None:
    base = CONFIGS / "unet/stage1.yaml"
    path = write(tmp_path / "old.yaml", {"base": str(base), "experts": {"vae": "my_vae"}})
    run = load(path, UNetRun, ["experts.whisper=my_whisper.pt"])
    assert (run.frozen_networks.vae, run.frozen_networks.whisper) == ("my_vae", "my_whisper.pt")
