"""The eight stages of the data processing, in order, and the steps that run several of them in one decode.

A stage turns one clip into kept clips or a reason. It writes a kept clip into its folder as `clip.file_name`, all or
nothing. Where files are optional and the folder is None, nothing is written and the clip goes on as a span of the file
that it is in: the spans are the same, and no picture is encoded before the aligned face is. The input of a stage is only
read; the same clip gives the same bytes.

A step is what a runner schedules: one stage, or several that share one decode. It tells the outcome at every stage in it,
so that manifests do not depend on what was fused.
"""

from latentsync.processing.stages.contract import Folders, Rule, Stage, Step, Writes
from latentsync.processing.stages.table import STAGES, STEPS, StageInfo, check, make_rules, make_stages, make_step

__all__ = [
    "STAGES",
    "STEPS",
    "Folders",
    "Rule",
    "Stage",
    "StageInfo",
    "Step",
    "Writes",
    "check",
    "make_rules",
    "make_stages",
    "make_step",
]
