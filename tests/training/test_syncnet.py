"""Training a SyncNet: exact resume, preflight and warnings, the trained file, and the shipped configurations."""

import json
import logging
import os
import signal
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from rich.console import Console
from torch import Tensor, nn
from torch.nn import functional as F

from latentsync.config import load
from latentsync.config.syncnet_run import PlateauConfig, SyncNetRun
from latentsync.data.clips import ClipIndex, TrainingClip, find_clips, index_clips
from latentsync.data.features import CachedFeature
from latentsync.data.sync_clips import SyncBatch, SyncClip
from latentsync.metrics.sync.accuracy import ClipEmbeddings
from latentsync.models.syncnet import StableSyncNet, load_syncnet
from latentsync.models.vae import build_vae
from latentsync.processing.clip import Clip
from latentsync.training.engine.charts import CurvePanel, HistogramPanel, save_charts
from latentsync.training.engine.distributed import Processes
from latentsync.training.syncnet import validate
from latentsync.training.syncnet.preflight import data_warnings, overfit, source_of
from latentsync.training.syncnet.step import SyncNetWithHeads, net_weights
from latentsync.training.syncnet.train import OUTPUT, SyncNetTraining
from latentsync.training.syncnet.validate import SyncScores, moved_sound, score_embedded
from latentsync.training.syncnet.watch import PlateauWatch, offset_warning
from latentsync.weights import describe, read_state, save_checkpoint
from scripts import precompute
from scripts.train_syncnet import main
from tests.support.clip_files import write_clip
from tests.support.training_program import run_together

ROOT = Path(__file__).resolve().parents[2]
CONFIGS = ROOT / "configs/syncnet"
SHIPPED = {  # keys and parameters of the golden tables; the visual encoder's input; the data section's view
    "syncnet_16_pixel_attn": (266, 401_306_080, [48, 128, 256], (False, 16, True)),
    "syncnet_16_pixel": (178, 371_766_496, [48, 128, 256], (False, 16, True)),
    "syncnet_16_latent": (144, 65_544_416, [64, 32, 32], (True, 16, False)),
    "syncnet_25_pixel": (162, 103_742_144, [75, 128, 256], (False, 25, True)),
}

TINY = """
model:
  audio_encoder:
    in_channels: 1
    block_out_channels: [32, 32, 32, 32, 64, 128]
    downsample_factors: [[2, 1], 2, 2, 2, [2, 1], [2, 1]]
    dropout: 0.1
  visual_encoder:
    in_channels: 12
    block_out_channels: [32, 32, 32, 64, 128]
    downsample_factors: [[1, 2], 2, 2, 2, 2]
    dropout: 0.1
data: {resolution: 32, num_frames: 4, batch_size: 8, mel_noise: 0.1, jitter_px: 1}
preflight: {skip: true, pairs: 8}
validation: {clips: 2, offset_clips: 2}
train: {max_steps: 4, learning_rate: 1.0e-3, warmup_steps: 1, checkpoint_steps: 2, validation_steps: 2, log_steps: 1}
"""


@pytest.fixture(scope="module")
def clips(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("sync")
    for number in range(6):
        write_clip(root / f"{'train' if number < 4 else 'val'}/{number}.mp4", number, frames=24)
    (root / "tiny.yaml").write_text(TINY)
    return root


def tiny_run(clips: Path, output: Path, *overrides: str) -> SyncNetRun:
    places = [
        f"data.{name}={clips / folder}" for name, folder in (("train_data_dir", "train"), ("val_data_dir", "val"))
    ]
    places += [f"data.cache_dir={clips / 'cache'}", f"data.train_output_dir={output}"]
    return load(clips / "tiny.yaml", SyncNetRun, [*places, *overrides])


def train(run: SyncNetRun, stop_step: int | None = None) -> SyncNetTraining:
    training = SyncNetTraining(run, Processes(cpu=True))
    training.train(stop_step=stop_step)
    return training


def rows(path: Path) -> list[dict[str, Any]]:
    dropped = ("seconds_per_step",)
    return [{k: v for k, v in json.loads(line).items() if k not in dropped} for line in path.read_text().splitlines()]


def same(first: Any, second: Any) -> bool:
    if isinstance(first, dict):
        return first.keys() == second.keys() and all(same(first[key], second[key]) for key in first)
    if isinstance(first, list | tuple):
        return len(first) == len(second) and all(map(same, first, second))
    return torch.equal(first, second) if isinstance(first, torch.Tensor) else first == second


@pytest.fixture(scope="module")
def whole_run(clips: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, SyncNetTraining, list[str]]:
    """Four uninterrupted steps: the folder, the training, the logged messages."""
    folder, messages = tmp_path_factory.mktemp("whole"), MessageList()
    logger = logging.getLogger("latentsync.training.syncnet")
    logger.addHandler(messages)
    logger.setLevel(logging.INFO)
    try:
        return folder, train(tiny_run(clips, folder, "half_weights=true")), messages.lines
    finally:
        logger.removeHandler(messages)
        logger.setLevel(logging.NOTSET)


class MessageList(logging.Handler):
    """Collects logged messages."""

    def __init__(self) -> None:
        super().__init__()
        self.lines: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.lines.append(record.getMessage())


@pytest.mark.parametrize("shift", [-3, 0, 2])
def test_moved_sound_leaves_no_silent_edge(shift: int) -> None:
    """Every frame has the audio of the frame `shift` before it, and none is padded with silence."""
    frames = torch.arange(1, 11)
    waveform = np.repeat(np.arange(1, 11, dtype=np.float32), 640)  # the number of its frame
    pictures, sound = moved_sound(frames, waveform, shift)
    heard = sound.reshape(-1, 640)
    assert len(pictures) == len(heard) == 10 - abs(shift) and (sound > 0).all()
    assert (heard == (pictures.numpy() - shift)[:, None]).all()


def test_the_offset_of_moved_sound_is_found_from_both_sides() -> None:
    """With embeddings that are the frame's own number, the error is 0 for every shift."""
    count, frames = 30, 2
    codes = F.normalize(torch.randn(64, 16, generator=torch.Generator().manual_seed(0)), dim=1)

    class Numbered(nn.Module):
        """Embeds a window by the number of its first frame, which pictures and audio carry as their level."""

        def __init__(self) -> None:
            super().__init__()
            self.scale = nn.Parameter(torch.ones(1))

        def embed_lips(self, image: Tensor) -> Tensor:
            return codes[image[:, 0, 0, 0].round().long()]

        def embed_audio(self, mel: Tensor) -> Tensor:
            return codes[mel[:, 0, 0, 0].round().long()]

    pictures = torch.arange(count, dtype=torch.float32)[:, None, None, None].expand(count, 1, 2, 2)
    waveform = np.repeat(np.arange(count, dtype=np.float32), 640)

    def numbered_mel(sound: Tensor) -> Tensor:
        columns = (torch.arange(len(sound) // 200) * 200 + 170).clamp(max=len(sound) - 1)
        return sound[columns].expand(80, -1)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(validate, "sync_mel", numbered_mel)
        clip = SyncClip(pictures, numbered_mel(torch.from_numpy(waveform)))
        assert validate.offset_errors(Numbered(), clip, waveform, range(-6, 7), frames) == [0] * 13  # type: ignore[arg-type]


def test_a_resumed_run_equals_an_uninterrupted_one(
    clips: Path, whole_run: tuple[Path, SyncNetTraining, list[str]], tmp_path: Path
) -> None:
    train(tiny_run(clips, tmp_path), stop_step=2)
    train(tiny_run(clips, tmp_path))
    whole = whole_run[0]
    states = [read_state(folder / "checkpoints/step-00000004/state.pt") for folder in (whole, tmp_path)]
    assert same(*states)
    assert rows(whole / "log.jsonl") == rows(tmp_path / "log.jsonl") and len(rows(whole / "log.jsonl")) == 4
    assert rows(whole / "validation.jsonl") == rows(tmp_path / "validation.jsonl")


def train_alone(run: SyncNetRun, kill_at: int | None) -> None:
    """The program of each process; with `kill_at`, the first one kills itself after reporting that step."""

    def report(row: dict[str, Any]) -> None:
        if row["step"] == kill_at:
            os.kill(os.getpid(), signal.SIGKILL)

    SyncNetTraining(run, Processes(cpu=True)).train(report)


@pytest.mark.slow
def test_two_processes_train_as_one_does_and_resume_after_a_kill(clips: Path, tmp_path: Path) -> None:
    plain = ["model.audio_encoder.dropout=0", "model.visual_encoder.dropout=0", "validation.clips=2"]

    def run(name: str) -> SyncNetRun:
        return tiny_run(clips, tmp_path / name, *plain)

    train(run("one"))
    assert run_together(train_alone, 2, run("two"), None) == [0, 0]
    assert run_together(train_alone, 2, run("killed"), 3)[0] == -signal.SIGKILL
    assert run_together(train_alone, 2, run("killed"), None) == [0, 0]
    for one, two in zip(*(rows(tmp_path / name / "log.jsonl") for name in ("one", "two")), strict=True):
        assert two["sync"] == pytest.approx(one["sync"], rel=1e-4) and two["accuracy"] == one["accuracy"]
    whole, killed = (read_state(tmp_path / name / "checkpoints/step-00000004/state.pt") for name in ("two", "killed"))
    assert whole["next_position"] == 8 and same(whole, killed)


def test_the_trained_file_contains_its_scores(whole_run: tuple[Path, SyncNetTraining, list[str]]) -> None:
    folder, training, messages = whole_run
    net, metadata = load_syncnet(folder / OUTPUT)
    assert metadata["kind"] == "syncnet" and 0 <= metadata["scores"]["accuracy"] <= 1 and "threshold" in metadata
    assert metadata["min_shift"] == 5 and metadata["lower_half"] and metadata["clips"] == 4
    assert training.scores is not None and len(training.scores.right) == len(training.scores.wrong)
    assert net.config == training.run.net
    assert {"loss_chart.png", "config.yaml", "clips.jsonl", "log.jsonl"} <= {path.name for path in folder.iterdir()}
    assert load(folder / "config.yaml", SyncNetRun) == training.run, "the resolved configuration can be loaded again"
    assert len((folder / "clips.jsonl").read_text().splitlines()) == 4
    assert any("are few" in text for text in messages) and messages[-1].startswith(str(folder / OUTPUT))
    best = json.loads((folder / "checkpoints/best.json").read_text())
    assert metadata["step"] == best["step"] and metadata["scores"]["accuracy"] == best["score"]


def test_other_clips_are_another_run(clips: Path, tmp_path: Path) -> None:
    train(tiny_run(clips, tmp_path), stop_step=1)
    (tmp_path / "list.txt").write_text("\n".join(str(clips / f"train/{n}.mp4") for n in range(3)))
    fewer = tiny_run(clips, tmp_path, f"data.train_fileslist={tmp_path / 'list.txt'}")
    with pytest.raises(ValueError, match=r"belongs to another run: the clips are others \(1 are gone, 0 are new\)"):
        train(fewer)


def test_validation_clips_are_held_out_where_none_are_given(clips: Path, tmp_path: Path) -> None:
    training = SyncNetTraining(tiny_run(clips, tmp_path, "data.val_data_dir=''"), Processes(cpu=True))
    held_out = {clip.path for clip in training.data.validation}
    assert len(held_out) == 2 and not held_out & {clip.path for clip in training.items.clips}


def test_silent_clips_fail_the_preflight_and_stop_the_run(clips: Path, tmp_path: Path, capsys) -> None:
    silent = tmp_path / "clips"
    for number in range(3):
        write_clip(silent / f"{number}.mp4", number, frames=24, loudness=0.0)
    overrides = [f"data.train_data_dir={silent}", f"data.cache_dir={tmp_path / 'c'}", "preflight.skip=false"]
    run = [f"data.train_output_dir={tmp_path / 'out'}", "preflight.max_steps=3", "data.mel_noise=0", *overrides]
    arguments = [
        "--config_path",
        str(clips / "tiny.yaml"),
        "--device",
        "cpu",
        *run,
        f"data.val_data_dir={clips / 'val'}",
    ]
    assert main(arguments) == 2
    assert "All mel windows are identical" in (error := capsys.readouterr().err) and "preflight.skip=true" in error
    assert not (tmp_path / "out/checkpoints").exists()


def test_a_network_overfits_a_few_pairs(clips: Path, tmp_path: Path) -> None:
    run = tiny_run(
        clips, tmp_path, "preflight.max_steps=150", "preflight.learning_rate=1e-3", "preflight.target_loss=0.3"
    )
    training = SyncNetTraining(run, Processes(cpu=True))
    before = {name: value.clone() for name, value in training.objective.state_dict().items()}
    outcome = overfit(training.objective, training.items, run.preflight)
    assert outcome.passed and outcome.loss <= 0.3, outcome.sentence()
    assert same(before, training.objective.state_dict()), "the network itself is not changed"
    run.preflight.max_sec = 0.0
    hurried = overfit(training.objective, training.items, run.preflight)
    assert hurried.passed is None and "too few" in hurried.sentence()


def test_right_and_wrong_pairs_are_balanced_in_the_loss() -> None:
    class PerfectSyncNet(torch.nn.Module):
        config = SimpleNamespace(visual_encoder=SimpleNamespace(block_out_channels=[4]))

        def forward(self, image: torch.Tensor, mel: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
            return torch.eye(4), torch.eye(4)

    batch = SyncBatch(torch.zeros(4, 1), torch.zeros(4, 1))
    losses = SyncNetWithHeads(PerfectSyncNet(), 4)(batch, torch.arange(1))  # type: ignore[arg-type]
    assert float(losses["sync"]) == 0 and float(losses["accuracy"]) == 1, "all audio matches its own lips and no others"


def test_clips_are_judged_by_the_threshold_that_suits_others() -> None:
    windows = torch.eye(32).split(8)  # of four clips

    def score(
        *similarities: tuple[float, float],
    ) -> SyncScores:  # of the windows of each clip with their own audio and others
        embedded = [
            ClipEmbeddings(lips, right * lips + wrong * (1 - lips))
            for lips, (right, wrong) in zip(windows, similarities, strict=False)
        ]
        return score_embedded(embedded, min_shift=2)

    alike = score(*[(0.8, 0.5)] * 4)
    assert alike.accuracy == 1 and 0.5 <= alike.threshold < 0.8
    assert len(alike.right) == len(alike.wrong) == 4 * 8
    unlike = score(*[(0.9, 0.7), (0.6, 0.4)] * 2)
    assert unlike.accuracy == 0.5, "either half takes all pairs of the other for right, or all for wrong"
    assert score((0.8, 0.5), (0.8, 0.5)).accuracy == 1


def test_mouth_heads_add_a_loss_and_are_not_saved(clips: Path, tmp_path: Path) -> None:
    run = tiny_run(clips, tmp_path)
    net = StableSyncNet(run.net)
    objective = SyncNetWithHeads(net, 4, mouth_heads=True)
    batch = SyncBatch(torch.randn(4, 12, 16, 32), torch.randn(4, 1, 80, 13), torch.rand(4, 4, 2))
    losses = objective(batch, torch.arange(1))
    assert set(losses) == {"sync", "mouth", "accuracy"} and float(losses["mouth"].detach()) > 0
    assert net_weights(objective.state_dict()).keys() == net.state_dict().keys()


def test_clips_without_mouth_tracks_train_without_them(
    clips: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    training = SyncNetTraining(tiny_run(clips, tmp_path, "data.known_mouths=true"), Processes(cpu=True))
    assert training.objective.lips_head is None and "these clips have no mouth tracks" in caplog.text


def test_training_and_precompute_fill_the_same_latents_cache(clips: Path, tmp_path: Path, capsys) -> None:
    vae = {"block_out_channels": [8, 8, 8, 8], "layers_per_block": 1, "norm_num_groups": 4}
    torch.manual_seed(0)
    save_checkpoint(tmp_path / "vae.safetensors", build_vae(vae).state_dict(), describe("vae", vae, 1))
    visual = "model.visual_encoder={in_channels: 16, block_out_channels: [32, 64, 128], downsample_factors: [2, 2, 2]}"
    overrides = [visual, "data.latent_space=true", "data.lower_half=false", "data.resolution=64", "data.jitter_px=0"]
    places = [f"vae={tmp_path / 'vae.safetensors'}", f"data.cache_dir={tmp_path / 'cache'}", "train.max_steps=2"]
    places += [f"data.train_data_dir={clips / 'train'}", f"data.val_data_dir={clips / 'val'}"]
    arguments = ["--config_path", str(clips / "tiny.yaml"), "--device", "cpu", *overrides, *places]
    out = f"data.train_output_dir={tmp_path / 'out'}"
    assert main([*arguments, out]) == 0
    assert "6 of 6 clips have no latents" in capsys.readouterr().out
    assert precompute.main(arguments) == 0
    assert "latents: 6 of 6 clips" in capsys.readouterr().out
    assert load_syncnet(tmp_path / "out" / OUTPUT)[1]["latent_space"] is True


def test_precompute_takes_clips_in_its_own_order_and_leaves_out_those_that_another_has_done(
    clips: Path, tmp_path: Path
) -> None:
    found = index_clips(find_clips(clips / "train"), 1, clips / "cache").clips
    computed: list[str] = []

    def compute(clip: TrainingClip) -> dict[str, torch.Tensor]:
        computed.append(clip.key)
        if len(computed) == 1:  # meanwhile another process has done all but the last
            for other in found[:-1]:
                feature.store.put(other.key, {"x": torch.ones(1)})
        return {"x": torch.ones(1)}

    feature = CachedFeature(tmp_path, "x", {}, lambda: compute)
    assert not precompute.fill(feature, found, Console(quiet=True)).clips
    assert set(computed) <= {computed[0], found[-1].key} and not feature.missing(found)
    orders = {tuple(precompute.in_own_order(range(20))) for _ in range(3)}
    assert len(orders) == 3 and {tuple(sorted(order)) for order in orders} == {tuple(range(20))}


@pytest.mark.parametrize("name", SHIPPED)
def test_shipped_configurations_are_the_golden_networks(name: str) -> None:
    keys, parameters, image, view = SHIPPED[name]
    run = load(CONFIGS / f"{name}.yaml", SyncNetRun)
    with torch.device("meta"):
        state = StableSyncNet(run.net).state_dict()
    assert len(state) == keys and sum(value.numel() for value in state.values()) == parameters
    assert [run.data.image_channels, *run.data.image_size] == image and run.data.resolution == 256
    assert (run.data.latent_space, run.data.num_frames, run.data.lower_half) == view


def test_the_demo_configuration_is_the_shipped_demo_network() -> None:
    _, metadata = load_syncnet(ROOT / "checkpoints/demo/syncnet.safetensors")
    run = load(CONFIGS / "demo.yaml", SyncNetRun)
    assert run.model == metadata["model"] and run.data.resolution == metadata["resolution"]


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["data.resolution=64"], r"D x 1 x 1 .*\n(.*\n)*visual_encoder +block 4, factor 2x2 +128 x 2 x 2"),
        (["data.num_frames=5"], "in_channels is 12, but 5 frames of pixels have 15 channels"),
        (["data.lower_half=false"], "D x 1 x 1"),
        (["data.batch_size=6"], "multiple of 4"),
        (["preflight.pairs=12"], "multiple of 8"),
        (["data.min_shft=3"], "unknown key 'data.min_shft'.*Did you mean 'data.min_shift'"),
        (["model.audio_encodr.dropout=0"], "Did you mean 'audio_encoder'"),
        (["model.audio_encoder.droput=0"], "Did you mean 'dropout'"),
        (["train.loss_weights.lips=1"], "unknown key 'train.loss_weights.lips'"),
    ],
)
def test_contradictions_in_a_configuration_are_errors_at_loading(
    clips: Path, tmp_path: Path, overrides: list[str], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        tiny_run(clips, tmp_path, *overrides)


def test_a_dry_run_needs_no_clips(clips: Path, capsys) -> None:
    assert main(["--config_path", str(CONFIGS / "syncnet_16_latent.yaml"), "--dry_run", "--device", "meta"]) == 0
    shown = capsys.readouterr().out
    assert "65.544 M" in shown and "256x64x32x32" in shown and "GiB" in shown


def test_a_plateau_is_reported_once_per_configured_number_of_steps() -> None:
    watch = PlateauWatch(PlateauConfig(steps=100, margin=0.02))
    advice = [watch.observe({"step": step, "sync": 0.69}) for step in range(10, 310, 10)]
    assert [10 * (i + 1) for i, text in enumerate(advice) if text] == [100, 200, 300] and "0.693" in (advice[9] or "")
    assert not any(watch.observe({"step": step, "sync": 0.5}) for step in range(310, 600, 10))


def test_shifted_clips_are_reported_only_by_an_accurate_network() -> None:
    assert offset_warning([0, 0, 1, -1], 0.9) is None and offset_warning([5, 5, 5, 5], 0.6) is None
    assert "75% of 4" in (offset_warning([4, 4, 0, 4], 0.9) or "")


def test_too_few_clips_and_leaks_into_validation_give_warnings() -> None:
    def clip(name: str, key: str) -> TrainingClip:
        return TrainingClip(Path(name), key, 125, 256, "av")

    cut = [clip(f"d/talk_shot_{n:03d}_000.mp4", str(n)) for n in range(3)]
    assert {source_of(part) for part in cut} == {Path("d/talk")}
    whole = Clip("0123456789abcdef", "talk.mp4", "d/talk.mp4", Path("talk.mp4"), "0123456789abcdef", end_sec=20.0)
    parts = [whole, whole.cut(0, 125), whole.cut(125, 300)]
    assert {source_of(clip(part.file_name, "k")) for part in parts} == {Path("d/talk")}, "the pipeline's own names"
    few, leak = data_warnings(ClipIndex(cut), [cut[0]])
    assert "3 clips from about 1 videos" in few and "1 validation clips are also training clips" in leak
    assert "come from 1 videos" in data_warnings(ClipIndex(cut), [clip("d/talk_shot_009_000.mp4", "9")])[1]


def test_a_chart_that_cannot_be_drawn_is_logged_and_not_raised(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    good = [CurvePanel("loss", {"a": [(1, 2.0), (2, 1.0)]}, 0.7, "chance"), HistogramPanel("h", {"x": [0.1, 0.2]})]
    assert save_charts(tmp_path / "chart.png", good) and (tmp_path / "chart.png").read_bytes()[1:4] == b"PNG"
    (tmp_path / "file").write_text("")
    with caplog.at_level(logging.WARNING):
        assert not save_charts(tmp_path / "file/chart.png", good)
    assert "was not drawn" in caplog.text
    assert save_charts(tmp_path / "none.png", []) and not (tmp_path / "none.png").exists()
