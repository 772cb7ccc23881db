"""What is run in which order: steps, the groups of steps that share a worker, and where things lie."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

from latentsync.processing.config import StageSettings
from latentsync.processing.stages.table import STAGES, STEPS, make_step

if TYPE_CHECKING:  # a worker loads the stages' libraries when it makes its first step
    from latentsync.processing.stages.contract import Step


@dataclass(frozen=True)
class StepPlan:
    """A step before it is made: networks are loaded where it runs."""

    stages: tuple[str, ...]
    make: Callable[[], "Step"]  # can be pickled
    needs_gpu: bool = False
    cuts: bool = False  # makes several clips of one, which then go to whichever worker is free

    @property
    def name(self) -> str:
        return self.stages[0]


Plan = tuple[StepPlan, ...]


def stage_names(plan: Plan) -> tuple[str, ...]:
    return tuple(name for step in plan for name in step.stages)


def groups_of(plan: Plan, has_gpu: bool) -> list[Plan]:
    """Steps that run one after another in one task: a new group begins after a cutting step and at a change to or from
    GPUs, if there are any."""
    groups: list[list[StepPlan]] = []
    for step in plan:
        last = groups[-1][-1] if groups else None
        if last is None or last.cuts or (has_gpu and last.needs_gpu != step.needs_gpu):
            groups.append([])
        groups[-1].append(step)
    return [tuple(group) for group in groups]


def last_stage_before(plan: Plan, step: StepPlan) -> str | None:
    """The stage whose kept clips a step takes; None for the first step, which takes the sources."""
    place = [each.name for each in plan].index(step.name)
    return plan[place - 1].stages[-1] if place else None


def find_step(plan: Sequence[StepPlan], name: str) -> StepPlan:
    return next(step for step in plan if step.name == name)


# The plan of the shipped stages.
CUTTING = {"shot", "segmented"}  # stages that make several clips of one


def plan_of(settings: StageSettings) -> Plan:
    """The shipped stages, in steps that share a decode."""
    networks = {info.name for info in STAGES if info.needs_gpu}
    return tuple(
        StepPlan(
            stages=names,
            make=partial(make_step, names, settings),
            needs_gpu=bool(networks & set(names)),
            cuts=bool(CUTTING & set(names)),
        )
        for names in STEPS
    )
