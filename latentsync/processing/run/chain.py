"""Running several steps on one clip, each recorded before the next begins.

A step writes into a staging folder. Its files are published, then its rows recorded, and only then is its input file
removed, if a stage wrote it and `keep_stages` is off. If the process is killed at any moment, the next worker finds either
all rows or none, and repeated work gives the same bytes under the same names.
"""

import errno
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from latentsync.data.storage import remove_tree
from latentsync.processing.clip import Clip, Dropped, Kept, StageOutcome, source_clip
from latentsync.processing.manifests.manifest import Manifests, StepRecord
from latentsync.processing.manifests.row import ManifestRow, parent_of, row_of
from latentsync.processing.plan import Plan, StepPlan, stage_names
from latentsync.processing.report.examples import save_example
from latentsync.processing.run.progress import Tally, Tracker
from latentsync.processing.run.run_lock import StaleRun, check_current
from latentsync.processing.run_folder import RunFolder

if TYPE_CHECKING:
    from latentsync.processing.stages.contract import Step

DISK_FULL = {errno.ENOSPC, errno.EDQUOT}
FETCHED = "fetched"  # in the staging folder: copies of remote files
_made: "dict[tuple[str, str], Step]" = {}  # by run and step: a process loads its networks once


@dataclass(frozen=True)
class Item:
    """A clip and its next step, with its row in the manifest of the stage before.

    A source that was not read yet has a row with only `source` and its size.
    """

    step: str
    row: ManifestRow

    @property
    def key(self) -> str:
        """The parent in the rows of the next stage."""
        return self.row.clip or self.row.source

    def to_dict(self) -> dict[str, Any]:
        return {"step": self.step, "row": asdict(self.row)}

    @staticmethod
    def from_dict(content: dict[str, Any]) -> "Item":
        return Item(content["step"], ManifestRow(**content["row"]))


class Chain:
    """Consecutive steps of a plan, called with one clip; yields the clips for the steps after them."""

    def __init__(self, steps: Plan, plan: Plan, run_folder: RunFolder, tracker: Tracker):
        self._steps = {step.name: step for step in steps}
        names = [step.name for step in plan]
        self._after = dict(zip(names, [*names[1:], ""], strict=True))
        self._run_folder = run_folder
        self._tracker = tracker
        self._manifests = Manifests(run_folder.manifests, stage_names(plan))

    def __call__(self, item: Item) -> Iterator[Item]:
        staging = self._run_folder.new_staging()
        try:
            yield from self._follow(item, staging)
        finally:
            remove_tree(staging)

    def _follow(self, item: Item, staging: Path) -> Iterator[Item]:
        step = self._steps.get(item.step)
        if step is None:
            yield item
            return
        record = self._manifests.recorded(step.name, item.key) or self._do(step, item, staging)
        for row in record.get(step.stages[-1], ()):
            if row.verdict == "kept" and self._after[step.name]:
                yield from self._follow(Item(self._after[step.name], row), staging)

    def _do(self, plan: StepPlan, item: Item, staging: Path) -> StepRecord:
        begun = time.time()
        record = self._attempt(plan, item, staging)
        record = _timed(record, time.time() - begun)
        if any(row.verdict == "failed" for rows in record.values() for row in rows):
            # Another worker, wrongly taken for dead, may have finished the clip and removed its input file.
            record = self._manifests.recorded(plan.name, item.key) or record
        check_current(self._run_folder)
        self._manifests.record(plan.name, item.key, record)
        self._discard(item.row.file, record)
        self._tracker.end(plan.name, item.key, {stage: _tally(rows) for stage, rows in record.items()})
        return record

    def _attempt(self, plan: StepPlan, item: Item, staging: Path) -> StepRecord:
        lost = self._tracker.begin(plan.name, item.key)
        if lost >= self._run_folder.max_lost_workers:
            detail = f"{lost} worker processes died on this clip; see their logs or the system's."
            return _failed(plan, item, "WorkerDied", detail)
        step = self._make(plan)
        failure = ""
        for attempt in range(self._run_folder.attempts):
            scratch = staging / f"{plan.name}-{attempt}"
            try:
                return self._run(step, plan, item, staging, scratch)
            except StaleRun:
                raise
            except Exception as error:  # of a codec or a network: the clip is recorded as failed, and the run continues
                if isinstance(error, OSError) and error.errno in DISK_FULL:
                    raise
                failure, kind = str(error).replace(f"{scratch}/", "").replace(f"{staging}/", ""), type(error).__name__
                remove_tree(scratch)
        return _failed(plan, item, kind, " ".join(failure.split()))

    def _make(self, plan: StepPlan) -> "Step":
        key = (self._run_folder.run_id, plan.name)
        if key not in _made:
            _made[key] = plan.make()
        return _made[key]

    def _run(self, step: "Step", plan: StepPlan, item: Item, staging: Path, scratch: Path) -> StepRecord:
        clip = self._clip(item, staging)
        outcomes = step(clip, self._folders(step, plan, scratch))
        files = (
            {}
            if self._keeps_nothing(plan)
            else _files_to_publish(outcomes, plan, scratch, self._run_folder.keep_stages)
        )
        record = _step_record(plan, item, clip, outcomes, {**files, clip.path: item.row.file})
        for stage, outcome in outcomes:
            if isinstance(outcome, Dropped):
                save_example(self._run_folder.output, stage, outcome)
        check_current(self._run_folder)
        for path, file in files.items():
            self._run_folder.output.publish(path, file, staging / FETCHED)
        return record

    def _clip(self, item: Item, staging: Path) -> Clip:
        row = item.row
        source = self._run_folder.source_address(row.source)
        home = self._run_folder.output if row.file else self._run_folder.input
        path = home.fetch(row.file or row.source, staging / FETCHED)
        if row.clip:
            return row.clip_in(path, source)
        return source_clip(path, source, row.source).scored(**row.scores)

    def _folders(self, step: "Step", plan: StepPlan, scratch: Path) -> dict[str, Path | None]:
        """The folder of each stage. None for optional files, unless they are kept or spare other workers a download."""
        folders: dict[str, Path | None] = {}
        for stage in step.stages:
            far = not self._run_folder.input.is_local and plan.cuts and stage.name == plan.stages[-1]
            wanted = stage.writes == "always" or (stage.writes == "optional" and (self._run_folder.keep_stages or far))
            folders[stage.name] = scratch / stage.name if wanted else None
        for folder in folders.values():
            if folder:
                folder.mkdir(parents=True, exist_ok=True)
        return folders

    def _keeps_nothing(self, plan: StepPlan) -> bool:
        return self._run_folder.dry_run and not self._after[plan.name]

    def _discard(self, file: str, record: StepRecord) -> None:
        """Remove the input file of a step if a stage wrote it and the run does not need it any more."""
        rows = [row for rows in record.values() for row in rows]
        needed = any(row.file == file or row.verdict == "failed" for row in rows)
        if file and not needed and not self._run_folder.keep_stages:
            self._run_folder.output.remove(file)


def _files_to_publish(
    outcomes: Sequence[tuple[str, StageOutcome]], plan: StepPlan, scratch: Path, keep_stages: bool
) -> dict[Path, str]:
    """New files of kept clips, each with its name in the output folder."""
    return {
        outcome.clip.path: outcome.clip.path.relative_to(scratch).as_posix()
        for stage, outcome in outcomes
        if isinstance(outcome, Kept) and outcome.clip.path.is_relative_to(scratch)
        if keep_stages or stage == plan.stages[-1]
    }


def _step_record(
    plan: StepPlan, item: Item, clip: Clip, outcomes: Sequence[tuple[str, StageOutcome]], files: dict[Path, str]
) -> StepRecord:
    """The rows of a step by stage, each with its parent from the stage before."""
    record: dict[str, list[ManifestRow]] = {}
    given, keys = [clip], {clip.clip_id: item.key}
    for stage in plan.stages:
        ours = [outcome for name, outcome in outcomes if name == stage]
        record[stage] = [
            row_of(outcome, keys[parent_of(outcome.clip, given).clip_id], files.get(outcome.clip.path, ""))
            for outcome in ours
        ]
        given = [outcome.clip for outcome in ours if isinstance(outcome, Kept)]
        keys = {each.clip_id: each.clip_id for each in given}
        if not given:
            break
    return record


def _failed(plan: StepPlan, item: Item, reason: str, detail: str) -> StepRecord:
    row = replace(item.row, clip=item.key, parent=item.key, verdict="failed", reason=reason, detail=detail, file="")
    return {plan.stages[0]: [row]}


def _timed(record: StepRecord, work_sec: float) -> StepRecord:
    now = time.time()
    stamped = {stage: [replace(row, work_sec=0.0, finished_at=now) for row in rows] for stage, rows in record.items()}
    first = next(iter(stamped))
    stamped[first][0] = replace(stamped[first][0], work_sec=work_sec)
    return stamped


def _tally(rows: Sequence[ManifestRow]) -> Tally:
    count = {verdict: sum(row.verdict == verdict for row in rows) for verdict in ("kept", "dropped", "failed")}
    parents = len({row.parent for row in rows})
    return Tally(**count, clips_in=parents, video_sec=sum(row.end_sec - row.start_sec for row in rows))
