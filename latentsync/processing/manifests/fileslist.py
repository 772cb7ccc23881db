"""Training lists from manifests: kept clips are filtered and split so that no identity is in two lists."""

import hashlib
import operator
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath

import pandas as pd

from latentsync.processing.stages.contract import DURATION

COMPARISONS: Mapping[str, Callable[[pd.Series, float], pd.Series]] = {
    ">=": operator.ge,
    "<=": operator.le,
    "==": operator.eq,
    "!=": operator.ne,
    ">": operator.gt,
    "<": operator.lt,
}
FILTER = re.compile(r"\s*(\w+)\s*(>=|<=|==|!=|>|<)\s*(-?[\d.]+(?:e-?\d+)?)\s*", re.IGNORECASE)
COLUMN = "column:"
IDENTITY_RULES = ("source", "folder", "top_folder", f"{COLUMN}NAME")


@dataclass(frozen=True)
class Split:
    """One list: paths relative to the output folder, with their totals."""

    name: str
    files: list[str]
    identities: int
    hours: float


def kept_clips(final: pd.DataFrame, filters: Sequence[str] = ()) -> pd.DataFrame:
    """The clips of the last stage's manifest that are kept and meet all filters, such as `sync_confidence>=4`.

    `duration_sec` is the clip's length. Raises ValueError for a malformed filter or an unknown column.
    """
    clips = final[final["verdict"] == "kept"].copy()
    clips[DURATION] = clips["end_sec"] - clips["start_sec"]
    for text in filters:
        match = FILTER.fullmatch(text)
        if match is None:
            raise ValueError(
                f"The filter {text!r} is malformed: write column, comparison and number, as in sync_confidence>=4."
            )
        name, comparison, number = match.groups()
        if name not in clips or not pd.api.types.is_numeric_dtype(clips[name]):
            numeric = [str(each) for each in clips.columns if pd.api.types.is_numeric_dtype(clips[each])]
            raise ValueError(f"The filter {text!r} names no column of numbers; there are {', '.join(numeric)}.")
        clips = clips[COMPARISONS[comparison](clips[name], float(number)).fillna(False).astype(bool)]
    return clips


def with_identity(clips: pd.DataFrame, rule: str = "source", table: pd.DataFrame | None = None) -> pd.DataFrame:
    """The clips with a column `identity`: the person in the clip.

    Args:
        rule: `source`: every raw video is another person; `folder`: all videos of a folder are one person; `top_folder`: all
            videos below a folder of the input folder are; `column:NAME`: a column of `table`, or of the manifest.
        table: has a column `source` (paths relative to the input folder) and the column that `rule` names.

    Raises ValueError for an unknown rule or column, or for a source that the table lacks.
    """
    if rule == "source":
        return clips.assign(identity=clips["source"])
    if rule in ("folder", "top_folder"):
        return clips.assign(identity=[_folder(source, rule) for source in clips["source"]])
    if not rule.startswith(COLUMN):
        raise ValueError(f"The identity rule {rule!r} does not exist; there are {', '.join(IDENTITY_RULES)}.")
    name = rule.removeprefix(COLUMN)
    where = clips if table is None else table
    if name not in where or "source" not in where:
        raise ValueError(
            f"There is no column {name!r} beside `source`; there are {', '.join(map(str, where.columns))}."
        )
    known = dict(zip(where["source"], where[name], strict=True))
    missing = [source for source in clips["source"] if pd.isna(known.get(source))]
    if missing:
        raise ValueError(
            f"The column {name!r} has no value for {missing[0]!r} and {len(set(missing)) - 1} more sources."
        )
    return clips.assign(identity=[str(known[source]) for source in clips["source"]])


def split(clips: pd.DataFrame, shares: Mapping[str, float], seed: int = 0) -> list[Split]:
    """Split the clips into lists; all clips of an identity go to the same list.

    Args:
        clips: as `with_identity` returns them.
        shares: relative hours of each list by its name, in any unit; the largest list gets the remainder.
        seed: another number gives another split.

    The order of identities depends on their names and the seed only, so the lists change little when the data set
    grows. Raises ValueError for wrong shares, or if there are fewer identities than lists.
    """
    if not shares or any(share <= 0 for share in shares.values()):
        raise ValueError(
            f"The shares {dict(shares)} are invalid: give each list a number above 0, as in train=0.9 val=0.1."
        )
    hours = ((clips["end_sec"] - clips["start_sec"]) / 3600).groupby(clips["identity"]).sum()
    if len(hours) < len(shares):
        raise ValueError(f"{len(hours)} identities cannot fill {len(shares)} lists unless one is in two of them.")
    waiting = sorted(hours.index, key=lambda identity: _draw(str(identity), seed))
    smallest_first = sorted(shares, key=lambda name: (shares[name], name))
    taken: dict[str, list[str]] = {}
    for place, name in enumerate(smallest_first):
        wanted = hours.sum() * shares[name] / sum(shares.values())
        lists_left = len(smallest_first) - place - 1
        taken[name] = [waiting.pop(0)]
        while len(waiting) > lists_left and (not lists_left or _is_nearer(hours, taken[name], waiting[0], wanted)):
            taken[name].append(waiting.pop(0))
    return [_split(name, clips[clips["identity"].isin(taken[name])]) for name in shares]


def _is_nearer(hours: pd.Series, taken: Sequence[str], another: str, wanted: float) -> bool:
    """Whether adding another identity brings a list closer to the wanted hours."""
    return bool(hours[taken].sum() + hours[another] / 2 <= wanted)


def _split(name: str, clips: pd.DataFrame) -> Split:
    hours = float((clips["end_sec"] - clips["start_sec"]).sum() / 3600)
    return Split(name, sorted(clips["file"]), clips["identity"].nunique(), hours)


def _draw(identity: str, seed: int) -> str:
    return hashlib.sha256(f"{seed} {identity}".encode()).hexdigest()


def _folder(source: str, rule: str) -> str:
    parents = PurePosixPath(source).parts[:-1]
    return "/".join(parents[:1] if rule == "top_folder" else parents)
