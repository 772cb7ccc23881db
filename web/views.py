"""HTML of the page: progress, messages, player, report and table of models. All text is escaped."""

import json
from base64 import b64encode
from collections.abc import Iterable, Mapping
from html import escape
from pathlib import Path
from typing import Any
from urllib.parse import quote

import cv2

from latentsync.face.align import FrameArray
from latentsync.inference.jobs.report import clock
from latentsync.inference.timing import CHECK_STAGES, STAGES
from latentsync.weights import FETCH_INFERENCE
from latentsync.weights.hub import FileState
from web import texts
from web.copies import Copy
from web.jobs import WebJob
from web.sentences import audio_words, duration, size, without_folders
from web.settings import Limits

SHORT_SEC = 0.05  # shorter stages are not listed
PICTURE_PX = 56  # height of a person's picture


def error_html(sentence: str) -> str:
    """An error that screen readers announce at once."""
    return f'<p class="ls-error" role="alert">{escape(without_folders(sentence))}</p>' if sentence else ""


def message_html(sentence: str, notes: Iterable[str] = ()) -> str:
    """A message with notes below it."""
    items = "".join(f"<li>{escape(note)}</li>" for note in notes)
    more = f"<ul>{items}</ul>" if items else ""
    return f'<div class="ls-message" role="status">{escape(sentence)}{more}</div>'


def facts_html(sentence: str) -> str:
    return f'<p class="ls-facts">{escape(sentence)}</p>'


def upload_note_html(limits: Limits) -> str:
    """A hidden note that the page's script shows for files that are too large (assets/uploads.js)."""
    text = escape(texts.BIG_UPLOAD.format(limit=size(limits.file_bytes)), quote=True)
    facts = f'data-limit="{limits.file_bytes}" data-text="{text}" data-wait="{escape(texts.WAIT_FOR_FILE, quote=True)}"'
    return f'<p id="upload-note" class="ls-error" role="alert" hidden {facts}></p>'


def progress_html(job: WebJob, waiting: str) -> str:
    """Progress of a job: stage, bar, frames and time left."""
    with job.lock:
        kind, state, stage = texts.KINDS[job.order.kind], job.state, job.stage
        done, total, left_sec, share, elapsed_sec = job.done, job.total, job.left_sec, job.share, job.elapsed_sec
    if job.cancelling.is_set():
        return bar_html(f"{kind}: {texts.CANCELLING}", None, "")
    if state == "waiting":
        return bar_html(f"{kind}: {waiting}", None, "")
    count = texts.FRAMES_DONE.format(done=done, total=total) if total else ""
    if left_sec is not None:
        count += ", " + texts.LEFT.format(time=duration(max(1, round(left_sec))))
    if elapsed_sec is not None:
        count += (", " if count else "") + texts.ELAPSED.format(time=duration(round(elapsed_sec)))
    return bar_html(f"{kind}: {stage_text(job.order.kind, stage)}", share, count)


def stage_text(kind: str, stage: str) -> str:
    """A stage in words, numbered if the job has several."""
    numbered = CHECK_STAGES if kind == "preflight" else STAGES
    if stage not in numbered:
        return stage
    return texts.STEP.format(number=numbered.index(stage) + 1, count=len(numbered), stage=texts.STAGES[stage])


def bar_html(title: str, share: float | None, count: str) -> str:
    value = "" if share is None else f' value="{share:.4f}"'
    percent = "" if share is None else f"{share:.0%}"
    bar = f'<progress max="1"{value} aria-label="{escape(title, quote=True)}"></progress>'
    below = escape(count) or "&nbsp;"
    head = f'<div class="ls-progress" data-percent="{percent}"><p>{escape(title)}</p>'
    return f'{head}{bar}<p class="ls-count">{below}</p></div>'


def player_html(job: WebJob) -> str:
    """The original beside the result (assets/synced_player.js)."""
    shown = {
        "label": texts.PLAYER_LABEL,
        "original": texts.PLAYER_ORIGINAL,
        "result": texts.PLAYER_RESULT,
        "play": texts.PLAYER_PLAY,
        "pause": texts.PLAYER_PAUSE,
        "seek": texts.PLAYER_SEEK,
        "soundResult": texts.PLAYER_SOUND_RESULT,
        "soundOriginal": texts.PLAYER_SOUND_ORIGINAL,
        "loop": texts.PLAYER_LOOP,
        "compare": texts.PLAYER_COMPARE,
        "sides": texts.PLAYER_SIDES,
        "wipe": texts.PLAYER_WIPE,
        "divider": texts.PLAYER_DIVIDER,
        "zoom": texts.PLAYER_ZOOM,
        "back": texts.PLAYER_BACK,
        "on": texts.PLAYER_ON,
        "full": texts.PLAYER_FULL,
        "unplayable": texts.PLAYER_UNPLAYABLE,
    }
    attributes = {
        "original": address(job.order.video),
        "result": address(job.output),
        "length": job.order.options.length,
        "fps": f"{job.report['fps']:g}",
        "start": f"{job.order.options.start_sec or 0:g}",
        "mouths": json.dumps(job.report.get("mouths", [])),
        "texts": json.dumps(shown),
    }
    listed = " ".join(f'{name}="{escape(value, quote=True)}"' for name, value in attributes.items())
    return f"<synced-player {listed}></synced-player>"


def copies_html(copies: Mapping[Path, Copy]) -> str:
    """What the page's script (assets/copies.js) shows instead of videos that the browser cannot play."""
    if not copies:
        return ""
    shown = {
        address(path): {
            "picture": "" if copy.picture is None else address(copy.picture),
            "copy": "" if copy.video is None else address(copy.video),
            "text": copy_text(copy),
        }
        for path, copy in copies.items()
    }
    facts = escape(json.dumps(shown), quote=True)
    return f'<p id="copy-note" class="ls-facts" role="status" hidden data-copies="{facts}"></p>'


def copy_text(copy: Copy) -> str:
    if copy.problem:
        return f"{texts.COPY_NEEDED} {without_folders(copy.problem)}"
    state = texts.COPY_SHOWN if copy.video is not None else texts.COPY_COMING.format(share=copy.share)
    return f"{texts.COPY_NEEDED} {state}"


def sheet_html(job: WebJob) -> str:
    """The sheet of a check, which opens in full size."""
    link, alt = escape(address(job.sheet), quote=True), escape(texts.SHEET_ALT, quote=True)
    picture = f'<a href="{link}" target="_blank" rel="noopener"><img src="{link}" alt="{alt}"></a>'
    return f'<p class="ls-facts">{escape(texts.SHEET)}</p>{picture}'


def list_html(jobs: Iterable[WebJob]) -> str:
    """Table of jobs that were made together, with links to their results."""
    head = "".join(f'<th scope="col">{escape(name)}</th>' for name in texts.LIST_HEAD)
    body = "".join(list_row(job) for job in jobs)
    return table_html(texts.BATCH_SECTION, f"<thead><tr>{head}</tr></thead><tbody>{body}</tbody>")


def timeline_html() -> str:
    """The table of who speaks when, and the same as bars (assets/speaking_times.js), which the page's fields fill in."""
    names = ("INFO", "EMPTY", "PERSON", "SPAN", "HEAD", "FIELD", "ADD", "REMOVE", "CLEAR")
    words = {name.lower(): getattr(texts, f"TIMELINE_{name}") for name in names} | {"label": texts.TIMELINE}
    return f'<speaking-times hidden texts="{escape(json.dumps(words), quote=True)}"></speaking-times>'


def speaking_facts(length_sec: float, pictures: Mapping[int, FrameArray]) -> str:
    """What that table shows beside its rows: the video's length, and `pictures` of people by number."""
    faces = {number: picture_url(picture) for number, picture in pictures.items()}
    return json.dumps({"length_sec": round(length_sec, 3), "pictures": faces})


def picture_url(picture: FrameArray) -> str:
    """A small picture as a URL that contains it."""
    height, width = picture.shape[:2]
    size = max(1, round(width * PICTURE_PX / height)), PICTURE_PX
    small = cv2.resize(picture[..., ::-1], size, interpolation=cv2.INTER_AREA)
    return f"data:image/jpeg;base64,{b64encode(cv2.imencode('.jpg', small)[1].tobytes()).decode()}"


def table_html(label: str, rows: str, below: str = "") -> str:
    """A table that can be scrolled sideways, by keys too."""
    facts = f'role="group" tabindex="0" aria-label="{escape(label, quote=True)}"'
    return f'<div class="ls-table" {facts}><table>{rows}</table>{below}</div>'


def list_row(job: WebJob) -> str:
    state = texts.STATES[job.state] + (f": {without_folders(job.error)}" if job.error else "")
    cells = "".join(f"<td>{escape(cell)}</td>" for cell in (job.names[0], job.names[1], state))
    link = escape(address(job.output), quote=True)
    name = escape(job.output.name)
    result = f'<a href="{link}" download="{name}">{name}</a>' if job.state == "done" else ""
    return f"<tr>{cells}<td>{result}</td></tr>"


def links_html() -> str:
    """Below the actions: links between the parts of a narrow page, and the wish to be notified (assets/job_news.js)."""
    links = f'<a href="#message">{escape(texts.TO_RESULT)}</a><a href="#video">{escape(texts.TO_FORM)}</a>'
    words = {"on": texts.NOTIFYING, "denied": texts.NOTIFY_DENIED, "ended": texts.ENDED, "title": texts.TITLE}
    facts = f'data-texts="{escape(json.dumps(words), quote=True)}"'
    button = f'<button type="button" id="notify" hidden {facts}>{escape(texts.NOTIFY)}</button>'
    return f'<div class="ls-links"><span class="ls-jumps">{links}</span>{button}</div>'


def times_html(seconds: Mapping[str, float | None]) -> str:
    """How long each preset takes for the user's clip, as far as it was measured on this machine."""
    known = [
        texts.TIME.format(preset=texts.PRESETS[name], time=duration(rounded_sec(sec)))
        for name, sec in seconds.items()
        if sec is not None
    ]
    return facts_html(texts.TIMES.format(times=", ".join(known)) if known else texts.TIMES_UNKNOWN)


def rounded_sec(seconds: float) -> int:
    """An estimate to about two digits, at least a second."""
    unit = 1 if seconds < 20 else 5 if seconds < 120 else 60
    return max(1, unit * round(seconds / unit))


def address(path: Path) -> str:
    """URL of a file in the app's folder, relative to the page."""
    return f"gradio_api/file={quote(path.as_posix())}"


def report_html(report: dict[str, Any]) -> str:
    """The report as a table."""
    passed = [f"{clock(run['start_sec'])}-{clock(run['stop_sec'])} {run['reason']}" for run in report["passed_through"]]
    spent = report["timings_sec"]
    settings = report["settings"] | {"face": report["options"]["face"]}
    rows = {
        "frames": report["summary"],
        "passed": audio_words("; ".join(passed)) or texts.NOTHING_PASSED,
        "length": audio_words(report["length"]),
        "settings": texts.SETTINGS_LINE.format(**settings),
        "timings": ", ".join(
            f"{texts.TIMINGS.get(stage, stage)} {seconds:.1f}"
            for stage, seconds in spent.items()
            if seconds >= SHORT_SEC
        ),
        "model": f"{report['device']}, {report['dtype']}, {report['resolution']} px",
    }
    cells = [(texts.REPORT_ROWS[name], value) for name, value in rows.items() if value]
    body = "".join(f'<tr><th scope="row">{escape(name)}</th><td>{escape(value)}</td></tr>' for name, value in cells)
    return table_html(texts.REPORT_SECTION, body)


def models_html(states: Iterable[FileState]) -> str:
    """Table of the official weights, and the command that downloads missing ones."""
    states = list(states)
    head = "".join(f'<th scope="col">{escape(name)}</th>' for name in texts.MODEL_TABLE_HEAD)
    body = "".join(model_row(state) for state in states)
    is_complete = all(state.state == "there" for state in states)
    command = f"<p>{escape(texts.MODEL_COMMAND)}</p><pre><code>{escape(FETCH_INFERENCE)}</code></pre>"
    below = f"<p>{escape(texts.MODEL_ALL_THERE)}</p>" if is_complete else command
    return table_html(texts.MODEL_SECTION, f"<thead><tr>{head}</tr></thead><tbody>{body}</tbody>", below)


def model_row(state: FileState) -> str:
    file = state.file
    shown_size = "?" if file.size_mb is None else size(file.size_mb * 1e6)
    cells = (file.path, file.role, shown_size, texts.MODEL_STATES[state.state], file.licence)
    return "<tr>" + "".join(f"<td>{escape(cell)}</td>" for cell in cells) + "</tr>"
