"""The verdict of a stage about a measured clip."""

from latentsync.processing.clip import Clip, Dropped, Kept, Outcome
from latentsync.processing.stages.contract import Rule


def judge(clip: Clip, rule: Rule) -> Outcome:
    """What a rule makes of a clip's scores."""
    reason = rule.decide(clip.scores)
    return Kept(clip) if reason is None else Dropped(clip, reason, rule.explain(reason, clip.scores))
