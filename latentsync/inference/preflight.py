"""Preflight: reports what a job would edit, with a contact sheet of the detected faces. Nothing is sampled."""

import unicodedata
from collections.abc import Mapping, Sequence, Set
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from latentsync.face.align import FrameArray
from latentsync.inference.faces.people import find_people
from latentsync.inference.faces.plan import ACTIONS, OUTSIDE, FacePlan
from latentsync.inference.faces.tracks import FaceTracks
from latentsync.inference.jobs.job import LipsyncJob
from latentsync.inference.jobs.report import JobReport, clock, make_report
from latentsync.inference.pipeline import LipsyncPipeline, Progress, ignore
from latentsync.inference.settings import InferenceSettings
from latentsync.inference.timing import SHEET, Stopwatch
from latentsync.media.container import MediaError
from latentsync.media.probe import MADE_HERE

MARK, MARK_END = MADE_HERE.encode(), 200  # comment in every sheet; it ends within the first 200 bytes
SHOWN = 20  # pictures on the sheet
COLUMNS = 4
WIDTH = 400  # px of one picture
CAPTION = 24  # px below it
BAR = 26  # px of the line that shows when a person speaks
NAME, NAME_LETTERS, LETTER = 150, 15, 9  # px of a name on that line, its letters, and px of one
EDITED, OTHER, DARK, LIGHT = (60, 200, 90), (235, 150, 60), (24, 26, 30), (235, 235, 235)  # RGB
REST = (54, 57, 64)  # of a bar where the person is silent


def preflight(
    pipeline: LipsyncPipeline,
    job: LipsyncJob,
    settings: InferenceSettings | None = None,
    sheet: Path | None = None,
    progress: Progress = ignore,
    force: bool = False,
) -> JobReport:
    """Find the faces of a job and plan it, without sampling; writes the contact sheet to `sheet` if given.

    Raises MediaError if a file cannot be read, the sheet cannot be written, or `sheet` is a file of another program (unless
    `force`).
    """
    if sheet is not None and sheet.exists() and not force and MARK not in sheet.read_bytes()[:MARK_END]:
        raise MediaError(
            f"{sheet} exists and was not written by this program: give another output, or --force to replace it."
        )
    stopwatch = Stopwatch()
    face_tracks = pipeline.track_faces(job, progress, stopwatch)
    job = pipeline.with_found_speakers(job, face_tracks, progress, stopwatch)
    lenient = replace(job, options=replace(job.options, on_missing_face="passthrough"))
    plans = pipeline.plans(lenient, face_tracks, progress, stopwatch)
    progress(SHEET, 0, 0)
    report = make_report(job, plans, pipeline.models, settings or pipeline.models.defaults, stopwatch, planned=True)
    if sheet is not None:
        save_picture(contact_sheet(job, plans, report, face_tracks, progress), sheet)
    return report


def sheet_path(output: Path | str) -> Path:
    """The path of an output's contact sheet."""
    return Path(output).with_suffix(".preflight.jpg")


def contact_sheet(
    job: LipsyncJob, plans: Sequence[FacePlan], report: JobReport, face_tracks: FaceTracks, progress: Progress = ignore
) -> FrameArray:
    """Pictures of the video, uint8 h w 3, with every face framed (green if it will be edited), its person's number, and the name
    in a file of speakers; below them, when each of these speaks. What is in front of the chosen faces, if it was searched or given,
    is tinted.
    """
    numbers = {track: str(person.number) for person in find_people(face_tracks) for track in person.tracks}
    labels = numbers | names_at_faces(job, plans, numbers)
    edited = [{frame.source for frame in each.per_frame if frame.edited} for each in report.speakers]
    tiles, frames = [], shown_frames_of_all(plans)
    for frame in frames:
        picture = next(iter(job.source.read(frame, frame + 1)))
        for plan in plans:
            if plan.occluders is not None:
                picture = plan.occluders.marked(picture, frame, plan.points[frame])
        rows = np.flatnonzero(face_tracks.frame == frame)
        faces = [(face_tracks.box[row], int(face_tracks.track[row])) for row in rows]
        is_edited = [frame in own for own in edited] or [bool(plans[0].edited[frame])]
        chosen = {int(plan.track[frame]) for plan, is_one in zip(plans, is_edited, strict=True) if is_one}
        state = speakers_state(job, is_edited) if report.speakers else plans[0].action[frame]
        tiles.append(tile(picture, faces, chosen, labels, f"{clock(float(job.source.times[frame]))}  {state}"))
        progress(SHEET, len(tiles), len(frames))
    shown = on_sheet(tiles)
    bars = speaking_bars(job, shown.shape[1])
    return shown if bars is None else np.concatenate([shown, bars])


def speaking_bars(job: LipsyncJob, width: int) -> FrameArray | None:
    """For each person with segments a line with their name, and a bar where they speak, uint8 h w 3; None if nobody has any."""
    end_sec = float(job.timeline.time_sec(len(job.timeline)))
    lines = []
    for speaker in job.people:
        if speaker.spans is None:
            continue
        line = np.full((BAR, width, 3), DARK, np.uint8)
        write(line, plain(speaker.name)[:NAME_LETTERS], (6, BAR - 8), LIGHT)
        left = min(NAME, width // 2)
        line[3:-3, left:-6] = REST
        for start, stop in speaker.spans:
            first, last = (left + round((width - 6 - left) * min(1.0, sec / end_sec)) for sec in (start, stop))
            line[3:-3, first : max(first + 1, last)] = EDITED
        lines.append(line)
    if not lines:
        return None
    scale = np.full((BAR, width, 3), DARK, np.uint8)
    until = clock(end_sec)
    write(scale, clock(0.0), (min(NAME, width // 2), BAR - 8), LIGHT)
    write(scale, until, (width - 6 - LETTER * len(until), BAR - 8), LIGHT)
    return np.concatenate([*lines, scale])


def names_at_faces(job: LipsyncJob, plans: Sequence[FacePlan], numbers: Mapping[int, str]) -> dict[int, str]:
    """Number and name of the people of a file of speakers, by track; the font of the sheet has plain letters only."""
    names = [plain(speaker.name) for speaker in job.people]
    return {
        track: f"{numbers.get(track, '?')} {name}".strip()
        for name, plan in zip(names, plans, strict=True)
        for track in np.unique(plan.track[plan.track >= 0]).tolist()
    }


def plain(name: str) -> str:
    """A name in the letters of the sheet's font."""
    return unicodedata.normalize("NFKD", name).encode("ascii", "ignore").decode()


def speakers_state(job: LipsyncJob, is_edited: Sequence[bool]) -> str:
    """Who of the people is edited in a frame."""
    who = [speaker.name for speaker, is_one in zip(job.people, is_edited, strict=True) if is_one]
    return ", ".join(who) or "nobody is edited"


def shown_frames_of_all(plans: Sequence[FacePlan]) -> list[int]:
    """At most `SHOWN` frames of those that are chosen for each plan, evenly spaced."""
    frames = sorted({frame for plan in plans for frame in shown_frames(plan)})
    return [frames[index] for index in np.linspace(0, len(frames) - 1, min(SHOWN, len(frames))).round().astype(int)]


def shown_frames(plan: FacePlan) -> list[int]:
    """At most `SHOWN` frames: the middles of the longest stretches that are passed through, and others evenly spaced.

    If only ranges are edited, they are inside of these.
    """
    inside = np.flatnonzero(plan.action != ACTIONS[OUTSIDE])
    stretches = [stretch for stretch in plan.passed if stretch[2] != ACTIONS[OUTSIDE]]
    passed = sorted(stretches, key=lambda stretch: stretch[0] - stretch[1])[: SHOWN // 2]
    middles = {(start + stop) // 2 for start, stop, _ in passed}
    even = np.linspace(0, len(inside) - 1, min(SHOWN - len(middles), len(inside))).round().astype(int)
    return sorted(middles | set(inside[even].tolist()))


def tile(
    picture: FrameArray,
    faces: Sequence[tuple[NDArray[np.float32], int]],
    edited: Set[int],
    labels: Mapping[int, str],
    caption: str,
) -> FrameArray:
    """One picture with framed `faces` (box and track), green for those `edited`, and a caption; `labels` by track."""
    scale = WIDTH / picture.shape[1]
    size = WIDTH, max(1, round(picture.shape[0] * scale))
    small = np.asarray(cv2.resize(picture, size, interpolation=cv2.INTER_AREA), np.uint8)
    for box, track in faces:
        colour = EDITED if track in edited else OTHER
        x0, y0, x1, y1 = (round(float(side) * scale) for side in box)
        cv2.rectangle(small, (x0, y0), (x1, y1), colour, 2)
        write(small, labels.get(track, "?"), (x0 + 4, y0 + 18), colour)
    strip = np.full((CAPTION, WIDTH, 3), DARK, np.uint8)
    write(strip, caption, (6, 17), EDITED if edited else OTHER)
    return np.concatenate([small, strip])


def write(picture: FrameArray, text: str, place: tuple[int, int], colour: tuple[int, int, int]) -> None:
    cv2.putText(picture, text, place, cv2.FONT_HERSHEY_SIMPLEX, 0.5, colour, 1, cv2.LINE_AA)


def on_sheet(tiles: Sequence[FrameArray]) -> FrameArray:
    """Tiles of equal size, arranged in rows."""
    blank = np.full_like(tiles[0], DARK)
    padded = [*tiles, *(blank for _ in range(-len(tiles) % min(COLUMNS, len(tiles))))]
    columns = min(COLUMNS, len(tiles))
    rows = [np.concatenate(padded[start : start + columns], axis=1) for start in range(0, len(padded), columns)]
    return np.concatenate(rows)


def marked(jpeg: bytes) -> bytes:
    """A JPEG file with the comment `MARK` after its first segment (ITU-T T.81, B.2.4.5)."""
    first = 4 + int.from_bytes(jpeg[4:6], "big")
    return jpeg[:first] + b"\xff\xfe" + (len(MARK) + 2).to_bytes(2, "big") + MARK + jpeg[first:]


def save_picture(picture: FrameArray, path: Path) -> None:
    """Write RGB uint8 h w 3 as JPEG. Raises ValueError if the file cannot be written."""
    done, coded = cv2.imencode(".jpg", cv2.cvtColor(picture, cv2.COLOR_RGB2BGR))
    assert done, "OpenCV always has a JPEG encoder"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(marked(coded.tobytes()))
    except OSError as error:
        raise ValueError(f"cannot write the sheet {path}: {error.strerror}. Choose another folder.") from error
