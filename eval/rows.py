"""Output of a command: a JSON line per video, scored or not, and a summary as the last line."""

import json
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TextIO

from latentsync.files import atomic_write
from latentsync.metrics.statistics import reason_of, summarise


@dataclass(frozen=True)
class ScoreRow:
    """Scores of one video, or the reason why it has none."""

    video: str
    scores: Mapping[str, Any] = field(default_factory=dict)
    reason: str = ""
    detail: str = ""

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        if self.reason:
            return {"video": self.video, "scored": False, "reason": self.reason, "detail": self.detail}
        return {"video": self.video, "scored": True, **self.scores}


def make_row(video: str, score: Callable[[], Mapping[str, Any]]) -> ScoreRow:
    """The row of one video; a ValueError or OSError of `score` becomes its reason."""
    try:
        return ScoreRow(video, score())
    except (ValueError, OSError) as error:
        return ScoreRow(video, reason=reason_of(error), detail=str(error))


def failures(rows: Sequence[ScoreRow]) -> dict[str, int]:
    """Reason -> number of videos without a score, the most frequent first."""
    return dict(Counter(row.reason for row in rows if row.reason).most_common())


def summary(rows: Sequence[ScoreRow]) -> dict[str, Any]:
    """Counts, reasons, and mean, spread and interval of each number in the rows."""
    scored = [row.scores for row in rows if not row.reason]
    names = dict.fromkeys(name for scores in scored for name, value in scores.items() if is_number(value))
    columns = {name: [scores[name] for scores in scored if is_number(scores.get(name))] for name in names}
    return {
        "videos": len(rows),
        "scored": len(scored),
        "failures": failures(rows),
        "scores": {name: summarise(column).to_dict() for name, column in columns.items()},
    }


def is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def write_rows(rows: Iterable[ScoreRow], out: Path | None, facts: Mapping[str, Any]) -> int:
    """Write the rows one by one and the summary with `facts`; exit status 0, or 2 if no video could be scored."""
    done: list[ScoreRow] = []
    with opened(out) as file:
        for row in rows:
            done.append(row)
            print(json.dumps(row.to_dict()), file=file, flush=True)
        total = {**summary(done), **facts}
        print(json.dumps({"summary": total}), file=file, flush=True)
    report(total)
    return 0 if total["scored"] else 2


def report(total: Mapping[str, Any]) -> None:
    """Print the summary as text on stderr, so that the JSON lines can be piped."""
    print(f"{total['scored']} of {total['videos']} videos scored.", file=sys.stderr)
    for reason, count in total["failures"].items():
        print(f"  without a score: {count}, {reason}", file=sys.stderr)
    for name, values in total["scores"].items():
        interval = f"[{values['low']:.4g}, {values['high']:.4g}]"
        print(f"  {name:24} {values['mean']:.4g} {interval}, spread {values['spread']:.3g}", file=sys.stderr)
    for name, why in total.get("skipped", {}).items():
        print(f"  {name} was left out: {why}", file=sys.stderr)


def check_out(out: Path | None) -> None:
    """ValueError if `out` exists; its folder is made if it is missing."""
    if out is None:
        return
    if out.exists():
        raise ValueError(f"{out} already exists and is not overwritten: give another name.")
    out.parent.mkdir(parents=True, exist_ok=True)


@contextmanager
def opened(out: Path | None) -> Iterator[TextIO]:
    """stdout, or a file that gets its name when it is complete."""
    if out is None:
        yield sys.stdout
        return
    with atomic_write(out) as partial, partial.open("w", encoding="utf-8") as file:
        yield file
