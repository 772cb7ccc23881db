"""What is run in which order: steps, the groups of steps that share a worker, and what the stages' settings amount to."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from latentsync.processing.config import StageSettings
from latentsync.processing.stages.contract import Measure, Rule, Step
from latentsync.processing.stages.fused import FUSED, SingleStep
from latentsync.processing.stages.order import STAGES, STEPS, StageClasses


@dataclass(frozen=True)
class StepPlan:
    """A step before it is made: networks are loaded where it runs."""

    stages: tuple[str, ...]
    make: Callable[[], Step]  # can be pickled
    needs_gpu: bool = False
    cuts: bool = False  # makes several clips of one, which then go to whichever worker is free

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
    """Raises ValueError, one sentence with the way out, for wrong settings and for missing libraries or weights."""
    settings.check()
    for stage in STAGES:
        stage.check_installed(settings)


def make_rules(settings: StageSettings) -> dict[str, Rule]:
    """Each stage's rule by the stage's name; needs no weights."""
    return {stage.name: stage.make_rule(settings) for stage in STAGES}


def measures_of(settings: StageSettings) -> list[Measure]:
    """What a report shows as histograms, with the thresholds in force, in the order of the stages."""
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
    """The stage whose kept clips are a step's input; None for the first step, whose input are the sources."""
    place = [each.name for each in plan].index(step.name)
    return plan[place - 1].stages[-1] if place else None
