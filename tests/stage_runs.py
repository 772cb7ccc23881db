"""A folder of videos through the stages without a runner: what tests of the stages compare with the corpus's truth."""

import argparse
import json
import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from latentsync.processing.clip import Clip, Dropped, Kept, Outcome, source_clip
from latentsync.processing.settings import StageSettings
from latentsync.processing.stages import STAGES, STEPS, Step, make_step
from tests.corpus import STAND_INS


@dataclass(frozen=True)
class Ending:
    """Where a clip's way ended: at which stage, and with which outcome."""

    stage: str
    outcome: Outcome

    @property
    def clip(self) -> Clip:
        return self.outcome.clip

    @property
    def reason(self) -> str:
        return self.outcome.reason.value if isinstance(self.outcome, Dropped) else ""


def process(input_dir: Path, output_dir: Path, settings: StageSettings, keep_stages: bool = False) -> list[Ending]:
    """All videos of a folder through all stages, fused or, with `keep_stages`, each by itself with files of its own."""
    names = [(info.name,) for info in STAGES] if keep_stages else STEPS
    steps = [make_step(each, settings) for each in names]
    folders = {info.name: output_dir / info.name if info.writes == "always" or keep_stages else None for info in STAGES}
    endings: list[Ending] = []
    for path in sorted(path for path in input_dir.rglob("*") if path.is_file()):
        relative = path.relative_to(input_dir).as_posix()
        endings += follow(source_clip(path, str(path), relative), steps, folders)
    return endings


def follow(clip: Clip, steps: Sequence[Step], folders: dict[str, Path | None]) -> list[Ending]:
    """One clip through the steps that are left."""
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


def compare(truth: Mapping[str, Any], endings: Sequence[Ending]) -> list[str]:
    """One line for each file whose clips did not end as planted, and one line of precision and recall for each stage."""
    lines, caught, planted, found = [], Counter[str](), Counter[str](), Counter[str]()
    for relative, entry in truth.items():
        wanted = {(e["start_frame"], e["stop_frame"], e["stage"], e["reason"]) for e in entry["expected"]}
        got = {span_of(each) for each in endings if each.clip.relative == relative}
        planted.update(span[2] or "kept" for span in wanted)
        found.update(span[2] or "kept" for span in got)
        caught.update(span[2] or "kept" for span in wanted & got)
        offsets = {e["start_frame"]: e["offset_frames"] for e in entry["expected"] if e["offset_frames"] is not None}
        scores = {each.clip.start_frame: each.clip.scores for each in endings if each.clip.relative == relative}
        off = {at: scores.get(at, {}).get("offset_frames") for at, offset in offsets.items()}
        wrong = {at: got for at, got in off.items() if got is None or abs(got - offsets[at]) > 1}
        if wanted != got or wrong:
            lines.append(f"{relative} ({entry['defect']}): {sorted(got)} instead of {sorted(wanted)}; offsets {wrong}")
    for stage in planted | found:
        lines.append(f"{stage}: precision {caught[stage]}/{found[stage]}, recall {caught[stage]}/{planted[stage]}")
    return lines


def main(argv: list[str] | None = None) -> int:
    """Process a corpus that `tests.corpus` made, and compare: `python -m tests.stage_runs --corpus DIR`."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--corpus", type=Path, required=True, help="with videos/ and truth.json")
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args(argv)
    truth = json.loads((args.corpus / "truth.json").read_text(encoding="utf-8"))
    there = {name: entry for name, entry in truth.items() if (args.corpus / "videos" / name).exists()}
    print(*compare(there, process(args.corpus / "videos", args.out, STAND_INS)), sep="\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
