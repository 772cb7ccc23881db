"""Run a folder of videos through the stages without the Ray runner, and compare the outcomes with the corpus's truth."""

import argparse
import json
import math
import os
import sys
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from functools import cache, partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import cv2
import torch
from rich.progress import track

from latentsync.files import atomic_write
from latentsync.processing.clip import Clip, Dropped, Kept, Score, StageOutcome, source_clip
from latentsync.processing.config import StageSettings
from latentsync.processing.plan import make_step
from latentsync.processing.stages.contract import Step
from latentsync.processing.stages.order import STAGES, STEPS
from tests.support.corpus import STAND_INS


@dataclass(frozen=True)
class Ending:
    """The last stage of a clip, and its outcome there."""

    stage: str
    outcome: StageOutcome

    @property
    def clip(self) -> Clip:
        return self.outcome.clip

    @property
    def reason(self) -> str:
        return self.outcome.reason if isinstance(self.outcome, Dropped) else ""


def process(input_dir: Path, output_dir: Path, settings: StageSettings) -> list[Ending]:
    """Run all videos of a folder through all stages."""
    steps = [make_step(stages, settings) for stages in STEPS]
    return [ending for path in files_in(input_dir) for ending in process_one(path, input_dir, output_dir, steps)]


def process_one(path: Path, input_dir: Path, output_dir: Path, steps: Sequence[Step]) -> list[Ending]:
    """Run one video of a folder through all stages."""
    folders = {stage.name: output_dir / stage.name if stage.writes == "always" else None for stage in STAGES}
    return follow(source_clip(path, str(path), path.relative_to(input_dir).as_posix()), steps, folders)


def files_in(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file())


@cache
def stand_in_steps() -> list[Step]:
    """The steps for the full corpus, with their networks loaded once per process."""
    cv2.setNumThreads(1)
    torch.set_num_threads(1)
    return [make_step(stages, STAND_INS) for stages in STEPS]


def follow(clip: Clip, steps: Sequence[Step], folders: dict[str, Path | None]) -> list[Ending]:
    """Run one clip through the remaining steps."""
    step, rest = steps[0], steps[1:]
    endings: list[Ending] = []
    for stage, outcome in step(clip, folders):
        is_last = stage == step.stages[-1].name
        if isinstance(outcome, Kept) and is_last and rest:
            endings += follow(outcome.clip, rest, folders)
        elif isinstance(outcome, Dropped) or is_last:
            endings.append(Ending(stage, outcome))
    return endings


Span = tuple[int, int, str, str]  # first frame, last + 1, stage and reason of a drop; empty for a kept clip


def span_of(ending: Ending) -> Span:
    first = ending.clip.start_frame
    return first, first + ending.clip.frame_count, ending.stage if ending.reason else "", ending.reason


@dataclass(frozen=True)
class Found:
    """The stored outcome of one span."""

    span: Span
    scores: Mapping[str, Score]


def run_one(relative: str, videos: Path, out: Path) -> list[Found]:
    """Outcomes of one video of the full corpus with the stand-ins, from the file of an earlier run if there is one."""
    stored = out / "found" / f"{relative}.json"
    if not stored.exists():
        endings = process_one(videos / relative, videos, out, stand_in_steps())
        found = [Found(span_of(each), each.clip.scores) for each in endings]
        stored.parent.mkdir(parents=True, exist_ok=True)
        with atomic_write(stored) as partial_file:
            partial_file.write_text(json.dumps([asdict(each) for each in found]), encoding="utf-8")
    return [Found(tuple(each["span"]), each["scores"]) for each in json.loads(stored.read_text(encoding="utf-8"))]


def compare(truth: Mapping[str, Any], found: Mapping[str, Sequence[Found]]) -> list[str]:
    """One line for each file with unexpected outcomes, and one line of precision and recall for each stage.

    Clips whose true offset is at the limit (see `at_limit`) are not counted, but their measured offsets are checked.
    """
    lines, right, planted, reported = [], Counter[str](), Counter[str](), Counter[str]()
    for relative, entry in truth.items():
        settled = [each for each in entry["expected"] if not at_limit(each["offset_frames"])]
        wanted = {(e["start_frame"], e["stop_frame"], e["stage"], e["reason"]) for e in settled}
        starts = {each["start_frame"] for each in entry["expected"]} - {each["start_frame"] for each in settled}
        got = {each.span for each in found[relative] if each.span[0] not in starts}
        planted.update(span[2] or "kept" for span in wanted)
        reported.update(span[2] or "kept" for span in got)
        right.update(span[2] or "kept" for span in wanted & got)
        wrong = [*wrong_offsets(entry["expected"], found[relative])]
        if wanted != got or wrong:
            lines.append(f"{relative} ({entry['defect']}): {sorted(got)} instead of {sorted(wanted)}; {wrong}")
    for name in planted | reported:
        precision, recall = f"{right[name]} of {reported[name]}", f"{right[name]} of {planted[name]}"
        lines.append(f"{name}: precision {precision}, recall {recall}")
    return lines


def at_limit(offset_frames: int | None) -> bool:
    """Whether an offset is so close to the threshold that a measurement error of one frame decides; both outcomes are accepted."""
    return offset_frames is not None and 0 <= abs(offset_frames) - STAND_INS.max_offset_frames <= 1


def wrong_offsets(expected: Sequence[Mapping[str, Any]], found: Sequence[Found]) -> Iterator[str]:
    """Messages about measured offsets that are off by more than one frame, and kept clips whose remaining offset is larger."""
    planted = {each["start_frame"]: each["offset_frames"] for each in expected}
    for each in found:
        offset, scores = planted.get(each.span[0]), each.scores
        if offset is not None and abs(scores.get("offset_frames", math.inf) - offset) > 1:
            yield f"offset at {each.span[0]} is {scores.get('offset_frames')}, expected {offset}"
        if not each.span[2] and abs(scores["offset_left_frames"]) > 1:
            yield f"remaining offset at {each.span[0]} is {scores['offset_left_frames']}"


def main(argv: list[str] | None = None) -> int:
    """Process a corpus made by `tests.support.corpus` and check it: `python -m tests.support.stage_runs --corpus DIR --out DIR`.

    After an interruption the same command resumes. Delete OUT after a change of the stages.
    """
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--corpus", type=Path, required=True, help="folder with videos/ and truth.json")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1)
    args = parser.parse_args(argv)
    videos = args.corpus / "videos"
    truth = json.loads((args.corpus / "truth.json").read_text(encoding="utf-8"))
    names = [name for name in truth if (videos / name).exists()]
    work = partial(run_one, videos=videos, out=args.out)
    with ProcessPoolExecutor(args.workers, get_context("spawn")) as pool:
        found = dict(zip(names, track(pool.map(work, names), "Stages", total=len(names)), strict=True))
    print(f"{len(names)} of {len(truth)} files", *compare({name: truth[name] for name in names}, found), sep="\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
