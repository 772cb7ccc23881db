"""The plan of the shipped stages."""

from functools import partial

from latentsync.processing.plan import Plan, StepPlan
from latentsync.processing.settings import StageSettings
from latentsync.processing.stages.table import STAGES, STEPS, make_step

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
