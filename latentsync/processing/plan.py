"""The plan of a run: its steps in order, the groups of steps that share a worker, and the rules and measures of all stages."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from latentsync.processing.config import StageSettings
from latentsync.processing.stages.contract import Measure, Rule, Step
from latentsync.processing.stages.fused import FUSED, SingleStep
from latentsync.processing.stages.order import STAGES, STEPS, StageClasses


@dataclass(frozen=True)
class StepPlan:
    """A step that is not created yet; `make` is called in the worker that runs it, and loads its networks."""

    stages: tuple[str, ...]
    make: Callable[[], Step]  # can be pickled
    needs_gpu: bool = False
    cuts: bool = False  # returns several clips for one, which are then distributed to free workers

    @property
    def name(self) -> str:
        return self.stages[0]


Plan = tuple[StepPlan, ...]


def plan_of(settings: StageSettings) -> Plan:
    """The steps of `stages/order.py` with these settings."""
    return tuple(
        StepPlan(
            stages=tuple(stage.name for stage in stages),
            make=partial(make_step, stages, settings),
            needs_gpu=any(stage.needs_gpu for stage in stages),
            cuts=any(stage.cuts for stage in stages),
        )
        for stages in STEPS
    )


def make_step(stages: StageClasses, settings: StageSettings) -> Step:
    """The step of one entry of `STEPS`, or of any single stage; only its own networks are loaded.

    Raises ValueError as `check_installed` does, for these stages alone.
    """
    settings.check()
    if stages in FUSED:
        return FUSED[stages](settings)
    assert len(stages) == 1, f"no step in stages/fused.py shares the decode of {stages}"
    return SingleStep(stages[0](settings))


def check_installed(settings: StageSettings) -> None:
    """Raises ValueError for wrong settings and missing libraries or weights; its message is one sentence with a remedy."""
    settings.check()
    for stage in STAGES:
        stage.check_installed(settings)


def make_rules(settings: StageSettings) -> dict[str, Rule]:
    """Each stage's rule by the stage's name; needs no weights."""
    return {stage.name: stage.make_rule(settings) for stage in STAGES}


def measures_of(settings: StageSettings) -> list[Measure]:
    """The scores that a report shows as histograms, with their current thresholds, in the order of the stages."""
    return [measure for stage in STAGES for measure in stage.measures(settings)]


def stage_names(plan: Plan) -> tuple[str, ...]:
    return tuple(name for step in plan for name in step.stages)


def groups_of(plan: Plan, has_gpu: bool) -> list[Plan]:
    """Steps that run one after another in one task: a new group begins after a cutting step and, if there are GPUs, at a
    change to or from them."""
    groups: list[list[StepPlan]] = []
    for step in plan:
        last = groups[-1][-1] if groups else None
        if last is None or last.cuts or (has_gpu and last.needs_gpu != step.needs_gpu):
            groups.append([])
        groups[-1].append(step)
    return [tuple(group) for group in groups]


def last_stage_before(plan: Plan, step: StepPlan) -> str | None:
    """The stage whose kept clips are the input of a step; None for the first step, whose input is the sources."""
    place = [each.name for each in plan].index(step.name)
    return plan[place - 1].stages[-1] if place else None
