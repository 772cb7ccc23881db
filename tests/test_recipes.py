"""The recipes of CONTRIBUTING.md: a toy stage, metric and solver, each in one new file or one function and one entry of a list.

Each is added to a copy of the source files, and the project's own commands then know it.
"""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from latentsync.testing import DEMO_AUDIO, DEMO_VIDEO
from tests.support.clip_files import write_clip

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

@torch.no_grad()
def jump_sample(denoise, latents, timesteps, schedule, on_step=None):
    """One jump from the noisiest step to the clean latents."""
    return one_step_x0(latents, denoise(latents, timesteps[0]).to(latents.dtype), timesteps[0], schedule)


SOLVERS.append(Solver("jump", jump_sample))
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
    arguments = ["--videos", str(DEMO_VIDEO), "--metrics", "lip_range", "--detector", "cascade", "--out", str(out)]
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
