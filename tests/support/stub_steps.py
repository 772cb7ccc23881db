"""Processing steps without video, for tests of the runner: a source is a text file, each word of which is one second."""

import os
import signal
import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from latentsync.processing.clip import Clip, Dropped, Kept, StageOutcome
from latentsync.processing.plan import Plan, StepPlan
from latentsync.processing.stages.contract import Writes

FRAMES = 25  # per word


@dataclass(frozen=True)
class StubStage:
    name: str
    writes: Writes


class CutStep:
    """Stage `whole` drops empty sources, stage `words` cuts a source into words and drops those that begin with a dash."""

    name = "whole"
    stages: Sequence[StubStage] = (StubStage("whole", "never"), StubStage("words", "optional"))
    needs_gpu = False

    def __init__(self, pause_sec: float):
        self.pause_sec = pause_sec

    def __call__(self, clip: Clip, folders: dict[str, Path | None]) -> list[tuple[str, StageOutcome]]:
        words = clip.path.read_text().split()
        if not words:
            return [("whole", Dropped(clip, "unreadable", "it has no word"))]
        whole = Clip(**{**clip.__dict__, "end_sec": float(len(words))}).scored(words=len(words))
        outcomes: list[tuple[str, StageOutcome]] = [("whole", Kept(whole))]
        for number, word in enumerate(words):
            time.sleep(self.pause_sec)
            part = whole.cut(number * FRAMES, (number + 1) * FRAMES).scored(letters=len(word))
            if word.startswith("-"):
                outcomes.append(("words", Dropped(part, "too_short", f"{word} begins with a dash")))
            else:
                outcomes.append(("words", Kept(self._written(part, word, folders["words"]))))
        return outcomes

    def _written(self, part: Clip, word: str, folder: Path | None) -> Clip:
        if folder is None:
            return part
        path = folder / part.file_name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(word)
        return part.moved(path)


class WordStep:
    """Writes a word in capitals. The word `raise` raises a RuntimeError, `die` kills the process."""

    needs_gpu = False

    def __init__(self, name: str, pause_sec: float, min_letters: int = 0):
        self.name = name
        self.stages = (StubStage(name, "always"),)
        self.pause_sec = pause_sec
        self.min_letters = min_letters

    def __call__(self, clip: Clip, folders: dict[str, Path | None]) -> list[tuple[str, StageOutcome]]:
        time.sleep(self.pause_sec)
        words = clip.path.read_text().split()
        word = words[round(clip.path_start_sec)]
        if word == "raise":
            raise RuntimeError(f"the stage cannot read {clip.path}")
        if word == "die":
            os.kill(os.getpid(), signal.SIGKILL)
        if len(word) < self.min_letters:
            return [(self.name, Dropped(clip, "low_quality", f"{len(word)} letters"))]
        folder = folders[self.name]
        assert folder is not None
        path = folder / clip.file_name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"{word.upper()} {os.environ.get('CUDA_VISIBLE_DEVICES') if self.needs_gpu else ''}".strip())
        return [(self.name, Kept(clip.moved(path).scored(**{f"{self.name}_letters": len(word)})))]


class GpuStep(WordStep):
    needs_gpu = True


def stub_plan(pause_sec: float = 0.0, gpu: bool = False) -> Plan:
    """The steps (whole, words), upper, and long, which drops words of fewer than three letters."""
    upper = GpuStep if gpu else WordStep
    return (
        StepPlan(("whole", "words"), partial(CutStep, pause_sec), cuts=True),
        StepPlan(("upper",), partial(upper, "upper", pause_sec), needs_gpu=gpu),
        StepPlan(("long",), partial(WordStep, "long", pause_sec, 3)),
    )
