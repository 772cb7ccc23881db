"""The recipes of CONTRIBUTING.md: a toy stage, metric, solver and loss, each in one new file or function and one entry of a list.

Each is added to a copy of the source files, and the project's own commands then know it.
"""

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from torch import nn

from latentsync.places import DEMO_AUDIO, DEMO_VIDEO
from latentsync.weights import save_state
from tests.support.clip_files import write_clip
from tests.support.tiny_training import make_data

pytestmark = pytest.mark.slow
ROOT = Path(__file__).resolve().parent.parent
PARTS = ("latentsync", "scripts", "eval")

STAGE = '''
"""A toy stage: drops clips that are longer than a limit."""

from dataclasses import dataclass
from pathlib import Path

from latentsync.processing.clip import Clip, StageOutcome
from latentsync.processing.stages.contract import DURATION, Measure, Settings, Stage

TOO_LONG = "too_long"


@dataclass
class ShortSettings(Settings):
    """The length of a clip."""

    max_short_frames: int = 30

    def check(self) -> None:
        if self.max_short_frames < 1:
            raise ValueError("stages.max_short_frames must be 1 or more.")


@dataclass(frozen=True)
class ShortRule:
    most: int

    def decide(self, scores):
        return TOO_LONG if scores["toy_frames"] > self.most else None

    def explain(self, reason, scores):
        return f"it has {scores['toy_frames']} frames, more than {self.most}"


class ShortStage(Stage[ShortSettings]):
    name = "short"
    keeps = "short clips"
    reasons = (TOO_LONG,)
    settings_type = ShortSettings

    @classmethod
    def make_rule(cls, settings):
        return ShortRule(settings.max_short_frames)

    @classmethod
    def measures(cls, settings):
        return [Measure("toy_frames", cls.name, "frames", "", at_most=settings.max_short_frames)]

    def __call__(self, clip: Clip, folder: Path | None = None) -> list[StageOutcome]:
        return [self.judge(clip.scored(toy_frames=clip.frame_count))]
'''
USE_STAGE = """
import sys
from pathlib import Path
from latentsync.config import load
from latentsync.processing.clip import source_clip
from latentsync.processing.config import ProcessingConfig
from latentsync.processing.plan import make_step, make_rules, measures_of, plan_of, stage_names
from latentsync.processing.stages.order import STAGES

video, root = Path(sys.argv[1]), Path(sys.argv[2])
settings = load(root / "configs/processing/demo.yaml", ProcessingConfig, ["stages.max_short_frames=20"]).stages
plan = plan_of(settings)
assert stage_names(plan)[-1] == "short" and "short" in make_rules(settings)
assert any(measure.name == "toy_frames" and measure.at_most == 20 for measure in measures_of(settings))
first, toy = make_step((STAGES[0],), settings), make_step((STAGES[-1],), settings)
[(_, kept)] = first(source_clip(video, str(video), video.name), {"readable": None})
[(name, outcome)] = toy(kept.clip, {"short": None})
print(name, outcome.reason, outcome.detail)
"""
METRIC = '''

def lip_range(sample: Sample) -> Scores:
    """Largest lip opening minus the smallest, in percent of the face's height."""
    opening = openings(sample.face)
    return {"lip_range": 100 * float(np.nanmax(opening) - np.nanmin(opening))}


METRICS += (
    Metric("lip_range", lip_range, columns=(Column("lip_range", "range of the opening, %"),), in_quality=True),
)
'''
SOLVER = '''

def jump_sample(denoise, latents, timesteps, schedule, on_step=None):
    """One jump from the noisiest step to the clean latents."""
    return one_step_x0(latents, denoise(latents, timesteps[0]).to(latents.dtype), timesteps[0], schedule)


SOLVERS.append(Solver("jump", jump_sample))
'''
LOSS = '''
"""A toy loss: the mean difference of the clips after a linear map of their colours, a network with a file of its own."""

from dataclasses import dataclass

import torch
from torch import nn

from latentsync.losses.contract import Comparison, LossSettings, PixelLoss, RunFacts, frames_of
from latentsync.models.frozen import Frozen
from latentsync.weights import read_checkpoint


@dataclass
class ColourSettings(LossSettings):
    colour_map: str = "checkpoints/colour_map.pt"


@dataclass(frozen=True)
class ColourLoss(PixelLoss):
    name = "colour"
    settings_type = ColourSettings

    net: Frozen[nn.Conv2d]

    @classmethod
    def load(cls, run: RunFacts, device, dtype):
        loss = cls.empty(run)
        loss.net.net.load_state_dict(read_checkpoint(run.settings.colour_map).tensors, assign=True)
        loss.net.net.to(device, dtype)
        return loss

    @classmethod
    def empty(cls, run: RunFacts):
        with torch.device("meta"):
            return cls(Frozen(nn.Conv2d(3, 2, 1)))

    @property
    def networks(self):
        return {"colour map": self.net.net}

    def __call__(self, clips: Comparison):
        estimated, true = (self.net.net(frames_of(pixels)) for pixels in clips.pair())
        return (estimated - true).abs().mean()
'''


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    """The source files in a folder of their own, next to links to what the project ships."""
    for part in PARTS:
        shutil.copytree(ROOT / part, tmp_path / part, ignore=shutil.ignore_patterns("__pycache__"))
    for shipped in ("checkpoints", "configs", "assets"):
        shutil.copytree(ROOT / shipped, tmp_path / shipped)
    return tmp_path


def run_in(folder: Path, *arguments: str) -> str:
    done = subprocess.run([sys.executable, *arguments], cwd=folder, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_a_stage(copy: Path) -> None:
    folder = copy / "latentsync/processing/stages"
    (folder / "short.py").write_text(STAGE.lstrip())
    order = folder / "order.py"
    text = order.read_text().replace(
        "    (HighVisualQualityStage,),\n", "    (HighVisualQualityStage,),\n    (ShortStage,),\n"
    )
    order.write_text(f"from latentsync.processing.stages.short import ShortStage\n{text}")
    clip = write_clip(copy / "videos/long.mp4", 1)
    told = run_in(copy, "-c", USE_STAGE, str(clip), str(copy))
    assert told.strip() == "short too_long it has 40 frames, more than 20"


def test_a_metric(copy: Path) -> None:
    path = copy / "eval/metrics.py"
    path.write_text(path.read_text() + METRIC)
    out = copy / "rows.jsonl"
    arguments = ["--videos", str(DEMO_VIDEO), "--metrics", "lip_range", "--out", str(out)]
    run_in(copy, "-m", "eval.eval_quality", *arguments)
    row = json.loads(out.read_text().splitlines()[0])
    assert row["scored"] and row["lip_range"] > 0


def test_a_solver(copy: Path) -> None:
    path = copy / "latentsync/diffusion/solvers.py"
    path.write_text(path.read_text() + SOLVER)
    files = ["--video_path", str(DEMO_VIDEO), "--audio_path", str(DEMO_AUDIO), "--video_out_path", "out.mp4"]
    settings = ["--demo", "--solver", "jump", "--inference_steps", "1", "--limit_sec", "0.4"]
    run_in(copy, "-m", "scripts.inference", *files, *settings)
    assert json.loads((copy / "out.report.json").read_text())["settings"]["solver"] == "jump"


def test_a_loss(copy: Path) -> None:
    (copy / "latentsync/losses/colour.py").write_text(LOSS.lstrip())
    table = copy / "latentsync/losses/table.py"
    text = table.read_text().replace("    TrepaLoss,\n", "    TrepaLoss,\n    ColourLoss,\n")
    table.write_text(f"from latentsync.losses.colour import ColourLoss\n{text}")
    config = make_data(copy / "data")
    save_state(copy / "data/map.pt", {"state_dict": nn.Conv2d(3, 2, 1).state_dict()})
    used = ["frozen_networks.colour_map=data/map.pt", "train.loss_weights.colour=2"]
    command = ["-m", "scripts.train_unet", "--unet_config_path", str(config), "train.max_steps=1", "--device"]
    rows = []
    for folder, settings in (("without", ["frozen_networks.colour_map=missing.pt"]), ("with", used)):
        run_in(copy, *command, "cpu", f"data.train_output_dir={copy / folder}", *settings)
        rows.append(json.loads((copy / folder / "log.jsonl").read_text().splitlines()[0]))
    assert "colour" not in rows[0] and rows[1]["colour"] > 0 and rows[1]["recon"] == rows[0]["recon"]
    assert rows[1]["grad_norm"] != rows[0]["grad_norm"]
    shown = run_in(copy, *command, "meta", "--dry_run", *used)
    assert re.search(r"colour map +0.000 +0.000", shown) and re.search(r"colour .*weight 2", shown)
