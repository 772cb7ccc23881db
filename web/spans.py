"""Who speaks when, as the page's table says it: one row for each span, with the person's number, its start and its end.

The page keeps the rows as JSON, `[[1, 0.4, 2.9], [2, 3.4, 5.9]]`. A person's number is that of the sheet of a check, as for the
choice of the face. A job that is made with them has a file of speakers of the same form as one that was found (`content_of`).
"""

import json
import math
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

from latentsync.face.align import FrameArray
from latentsync.inference.jobs.found_speakers import found_path
from latentsync.media.video.read import read_frames
from web import texts
from web.errors import WebError
from web.faces import face_of
from web.jobs import SPEAKERS_FILE, WebJob

MIX = "mix"  # the name of the one sound of the content
NAME = "person {number}"  # as in a file that was found
Span = tuple[int, float, float]  # number of the person, seconds from ... to ...


def spans_of(rows: str) -> list[Span]:
    """The spans of the rows, in the order of time; empty rows are left out. WebError for the first row that is wrong."""
    try:
        given = json.loads(rows or "[]")
        listed = [tuple(row) for row in given if any(value not in (None, "") for value in row)]
    except (TypeError, ValueError):
        raise WebError(texts.NO_ROWS) from None
    return sorted((_span(number, row) for number, row in enumerate(listed, 1)), key=lambda span: (span[1], span[0]))


def _span(number: int, row: Sequence[Any]) -> Span:
    try:
        person, start_sec, stop_sec = (float(value) for value in row)
    except (TypeError, ValueError):
        raise WebError(texts.WRONG_ROW.format(number=number)) from None
    if not all(map(math.isfinite, (person, start_sec, stop_sec))):
        raise WebError(texts.WRONG_ROW.format(number=number))
    if person < 1 or not person.is_integer():
        raise WebError(texts.WRONG_PERSON.format(number=number, person=f"{person:g}"))
    if not 0 <= start_sec < stop_sec:
        raise WebError(texts.WRONG_SPAN.format(number=number, start=start_sec, stop=stop_sec))
    return int(person), start_sec, stop_sec


def content_of(spans: Sequence[Span]) -> dict[str, Any]:
    """The content of a file of speakers: everybody gets the part of the sound `MIX` in which they speak."""
    named = [(NAME.format(number=number), start_sec, stop_sec) for number, start_sec, stop_sec in spans]
    return {
        "mix": MIX,
        "people": {NAME.format(number=number): {"face": number} for number in sorted({span[0] for span in spans})},
        "segments": [{"speaker": name, "start": start, "end": stop} for name, start, stop in named],
    }


def rows_of(job: WebJob) -> str:
    """The rows that a job found, or was made with; those of no span for any other job, and for a preview, which finds a part."""
    is_given = job.order.audio.name == SPEAKERS_FILE
    if job.order.kind == "preview" and not is_given:
        return "[]"
    try:
        content = json.loads((job.order.audio if is_given else found_path(job.output)).read_text(encoding="utf-8"))
        faces = {name: person["face"] for name, person in content["people"].items()}
        rows = [[faces[row["speaker"]], row["start"], row["end"]] for row in content["segments"]]
        spans = spans_of(json.dumps([[face, round(start, 3), round(stop, 3)] for face, start, stop in rows]))
        is_table = set(content_of(spans)["people"]) == set(content["people"])
    except (
        OSError,
        ValueError,
        KeyError,
        TypeError,
        AttributeError,
    ):  # no such file, or with faces that the rows cannot say
        return "[]"
    return json.dumps(spans) if is_table else "[]"


def pictures_of(job: WebJob, video: Path) -> dict[int, FrameArray]:
    """The face of each person of a finished job's rows, uint8 [h, w, 3] RGB, from a frame of the video in which they speak."""
    return _pictures(job.report_path, video)


@lru_cache(8)
def _pictures(report: Path, video: Path) -> dict[int, FrameArray]:
    try:
        people = json.loads(report.read_text(encoding="utf-8"))["speakers"]
    except (OSError, ValueError, KeyError):
        return {}
    found = {}
    for person in people:
        seen = [frame for frame in person["per_frame"] if frame["box"] is not None]
        spoken = [frame for frame in seen if frame["take"] >= 0] or seen
        if spoken and person["name"].startswith(NAME.format(number="")):
            at = spoken[len(spoken) // 2]
            frame = next(iter(read_frames(video, at["source"], at["source"] + 1))).frame
            found[int(person["name"].split()[-1])] = face_of(frame, at["box"])
    return found
