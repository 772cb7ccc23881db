"""The page: the form, the bar of actions, the results, and their event handlers."""

import json
import secrets
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import gradio as gr

from web import texts, views
from web.access import network_of
from web.app import WebApp
from web.batch import drafts_of
from web.errors import WebError
from web.files import ID_BYTES
from web.form import QUIET, Form, form_of, wish_of
from web.jobs import Submission, WebJob
from web.models import official_files
from web.sentences import audio_words, duration
from web.settings import MAX_PEOPLE
from web.spans import pictures_of, rows_of, spans_of
from web.uploads import people_of

POLL_SEC, COPY_POLL_SEC = 0.7, 1.0
KEY_BYTES, KEY_LENGTH = 16, 40  # of an order's key: random bytes, and characters at most
SENDING = f"""() => ["", "", {json.dumps(views.bar_html(texts.SENDING, None, ""))},
    ...Array(4).fill({{__type__: "update", interactive: false}})]"""  # at once, before the server answers


def owner_of(request: gr.Request, token: str) -> str:
    """The owner whose jobs a request may access: the user if there is a login, else the browser, or a page before it loaded."""
    if request.username:
        return f"user {request.username}"
    return f"page {token}" if token else f"session {request.session_hash}"


def address_of(request: gr.Request) -> str:
    """The network of a browser; empty for a user who logged in, whom the password identifies."""
    return "" if request.username or request.client is None else network_of(request.client.host)


class Page:
    """The page of one app. `build` makes the Gradio blocks; the `on_` methods are its event handlers."""

    def __init__(self, app: WebApp):
        self.app, self.form = app, Form(app)

    def build(self) -> gr.Blocks:
        with gr.Blocks(title=texts.TITLE, analytics_enabled=False) as blocks:
            secret = self.app.store.browser_secret
            self.token = gr.BrowserState("", storage_key="latentsync", secret=secret)
            self.kept = gr.BrowserState({}, storage_key="latentsync-form", secret=secret)  # what was filled in
            self.current = gr.State("")  # id of the shown job
            self.order_key = gr.Textbox(visible="hidden")  # of the next job, so that a click counts once
            self.timer = gr.Timer(POLL_SEC, active=False)
            self.copy_timer = gr.Timer(COPY_POLL_SEC, active=False)  # runs while a copy is being made
            gr.Markdown(f"# {texts.TITLE}\n{texts.SUBTITLE}")
            self.note = gr.Markdown()
            with gr.Row():
                with gr.Column(min_width=320):
                    self.form.build()
                    self._batch()
                with gr.Column(min_width=320):
                    self._actions()
                    self._results()
            self._connect(blocks)
        return blocks

    # --- components

    def _batch(self) -> None:
        with gr.Accordion(texts.BATCH_SECTION, open=False):
            gr.HTML(views.facts_html(texts.BATCH_INFO))
            self.videos = gr.File(label=texts.BATCH_VIDEOS, file_count="multiple", height=120, elem_id="videos")
            self.audios = gr.File(label=texts.BATCH_AUDIOS, file_count="multiple", height=120, elem_id="audios")
            self.list = gr.File(label=texts.BATCH_LIST, file_types=[".csv", ".jsonl"], height=120, elem_id="list")
            self.run_all = gr.Button(texts.RUN_ALL, elem_id="run-all")

    def _actions(self) -> None:
        """The bar that stays in sight: what can be done now, and what goes on."""
        with gr.Column(elem_id="actions", min_width=0):
            with gr.Row():
                self.check = gr.Button(texts.CHECK, min_width=90, size="md", elem_id="check")
                self.preview = gr.Button(texts.PREVIEW, min_width=190, size="md", elem_id="preview")
                self.run = gr.Button(texts.RUN, variant="primary", min_width=90, size="md", elem_id="run")
                self.cancel = gr.Button(
                    texts.CANCEL, variant="stop", min_width=90, size="md", interactive=False, elem_id="cancel"
                )
                self.resume = gr.Button(
                    texts.RESUME, variant="primary", visible=False, min_width=90, size="md", elem_id="resume"
                )
            self.problem = gr.HTML(elem_id="problem")  # why a request was refused, until it is changed
            self.progress = gr.HTML(elem_id="progress")
            gr.HTML(views.links_html(), elem_id="links")
        self.message = gr.HTML(views.message_html(texts.NO_RESULT), elem_id="message")

    def _results(self) -> None:
        self.queue = gr.HTML(elem_id="queue")
        self.player = gr.HTML(elem_id="player")
        self.sheet = gr.HTML(elem_id="sheet")
        with gr.Row():
            self.get_video = gr.DownloadButton(texts.DOWNLOAD_VIDEO, visible=False, elem_id="get-video", min_width=120)
            self.get_sheet = gr.DownloadButton(texts.DOWNLOAD_SHEET, visible=False, elem_id="get-sheet", min_width=120)
            self.get_report = gr.DownloadButton(
                texts.DOWNLOAD_REPORT, visible=False, elem_id="get-report", min_width=120
            )
        with gr.Accordion(texts.REPORT_SECTION, open=False, visible=False) as self.report_section:
            self.report = gr.HTML(elem_id="report")
        with gr.Accordion(texts.HISTORY_SECTION, open=False, visible=False) as self.history_section:
            kept = duration(self.app.settings.limits.keep_sec)
            self.history = gr.Radio(
                [], label=texts.HISTORY, info=texts.HISTORY_INFO.format(hours=kept), elem_id="history"
            )
            self.delete = gr.Button(texts.DELETE, size="sm", elem_id="delete")

    # --- events

    def _connect(self, blocks: gr.Blocks) -> None:
        form, wish = self.form, self.form.wish
        starters = [self.check, self.preview, self.run, self.run_all]
        results = [self.player, self.sheet, self.get_video, self.get_sheet, self.get_report]
        past = [self.report_section, self.report, self.history_section, self.history]
        shown = [self.current, self.order_key, self.timer, self.problem, self.message, self.progress, self.queue]
        self.view = [*shown, *starters, self.cancel, self.resume, *results, *past]
        restored = [*form.inputs, form.preset]
        everything = [self.token, form.model_table, *self.view, *restored]
        form.connect()
        blocks.load(self.on_load, [self.token, self.kept], everything, **QUIET)
        gr.on([blocks.load, form.model.change], self.on_model, form.model, self.note, **QUIET)
        files: list[Any] = [form.video, form.audio, form.model]
        timed = [part.change for part in (*files, self.message)]
        gr.on(timed, self.on_times, [self.token, *files], form.times, trigger_mode="always_last", **QUIET)
        seen = [form.video.change, self.message.change, self.copy_timer.tick]
        shown_files, copies = [self.token, self.current, form.video], [form.copies, self.copy_timer]
        gr.on(seen, self.on_copies, shown_files, copies, trigger_mode="always_last", **QUIET)
        changed = [part.change for part in form.inputs]
        gr.on(form.changed_by_user, None, None, self.problem, js="() => ''", **QUIET)
        gr.on(changed, self.on_form, [self.order_key, *form.inputs], self.kept, trigger_mode="always_last", **QUIET)
        order, people = [self.token, self.order_key], [form.places, *form.sounds]
        sent: list[tuple[gr.Button, Any, list[Any]]] = [
            (self.check, self.submitter("preflight"), [*order, *people, *form.inputs]),
            (self.preview, self.submitter("preview"), [*order, *people, *form.inputs]),
            (self.run, self.submitter("run"), [*order, *people, *form.inputs]),
            (self.run_all, self.on_run_all, [*order, self.videos, self.audios, self.list, *wish]),
        ]
        for button, submit, values in sent:
            button.click(None, None, [self.problem, self.message, self.progress, *starters], js=SENDING, **QUIET)
            button.click(submit, values, self.view, trigger_mode="once", **QUIET)
        about = [self.token, self.current]
        self.timer.tick(self.on_tick, [*about, form.video, form.spans], [*self.view, form.spans], **QUIET)
        speaking = [form.video.change, form.speakers.change, self.message.change]
        said = [self.token, form.video, form.speakers]
        gr.on(speaking, self.on_speaking, said, form.speaking, trigger_mode="always_last", **QUIET)
        self.cancel.click(self.on_cancel, about, self.view, **QUIET)
        self.resume.click(self.on_resume, about, self.view, trigger_mode="once", **QUIET)
        self.history.input(self.on_choose, [self.token, self.history], [*self.view, *restored], **QUIET)
        self.delete.click(self.on_delete, about, self.view, **QUIET)

    # --- handlers of the whole page

    def on_load(self, token: str, form: Any, request: gr.Request) -> list[Any]:
        """Recognise the browser by its token, show its newest job, and fill in what was filled in before."""
        token = token if isinstance(token, str) and len(token) >= 32 else secrets.token_urlsafe(24)
        jobs = self.app.store.of(owner_of(request, token))
        shown = self.showing(self.app.store.going_on(jobs[0]), owner_of(request, token)) if jobs else {}
        shown = {self.order_key: secrets.token_urlsafe(KEY_BYTES), **shown}
        return [token, views.models_html(official_files()), *self.updates(shown), *self.form.filled(form)]

    def on_form(self, order_key: str, *values: Any) -> Any:
        """What the browser keeps of the form; nothing before the page has loaded, so that no default replaces it."""
        return list(values) if order_key else gr.skip()

    def on_model(self, name: str) -> str:
        choice = self.app.models.choices.get(name)
        return (
            texts.DEMO_NOTE if choice is None or choice.name == "demo" else texts.MODEL_NOTE.format(title=choice.title)
        )

    def on_times(self, token: str, video: str | None, audio: str | None, model: str, request: gr.Request) -> str:
        return self.form.times_html(owner_of(request, token), video, audio, model)

    def on_copies(self, token: str, current: str, video: str | None, request: gr.Request) -> list[Any]:
        """The copies of the videos on the page that browsers may not play, until all of them are made."""
        shown = {}
        for path, same in self._videos(owner_of(request, token), current, video):
            with suppress(ValueError, OSError):  # other parts of the page tell what is wrong with a file
                shown[path] = self.app.copies.of(path, same)
        found = {path: copy for path, copy in shown.items() if copy is not None}
        return [views.copies_html(found), gr.update(active=any(copy.is_coming for copy in found.values()))]

    def _videos(self, owner: str, current: str, video: str | None) -> Iterator[tuple[Path, tuple[Path, ...]]]:
        """The videos on the page, and files with the same content."""
        with suppress(WebError):
            if video:
                yield self.app.store.uploaded(video), ()
        with suppress(WebError):
            job = self.app.store.get(current, owner)
            if job.state == "done" and job.order.kind != "preflight":
                yield job.order.video, job.uploads[:1]
                yield job.output, ()

    # --- handlers of jobs

    def submitter(self, kind: str) -> Any:
        """The click handler that submits a job of this kind."""

        def submit(request: gr.Request, token: str, order_key: str, places: str, *values: Any) -> list[Any]:
            owner = owner_of(request, token)
            submission = Submission(owner, address_of(request), key=str(order_key)[:KEY_LENGTH])
            sounds, (video, audio, rows, _, *wish) = values[:MAX_PEOPLE], values[MAX_PEOPLE:]
            try:
                people, asked = people_of(places, sounds), wish_of(kind, *wish)
                spans = spans_of(rows) if asked.options["speakers"] else []
                if people:
                    job = self.app.submit_people(submission, asked, video, audio, people)
                elif spans:
                    job = self.app.submit_spans(submission, asked, video, audio, spans)
                else:
                    job = self.app.submit(submission, asked, video, audio)
            except (ValueError, OSError) as error:
                return self.refused(error)
            return self.updates(self.showing(job, owner))

        return submit

    def on_run_all(
        self,
        request: gr.Request,
        token: str,
        order_key: str,
        videos: list[str] | None,
        audios: list[str] | None,
        listed: str | None,
        *wish: Any,
    ) -> list[Any]:
        """Submit a job for each of several videos."""
        owner, stored = owner_of(request, token), self.app.store.uploaded
        list_id, key = secrets.token_urlsafe(ID_BYTES), str(order_key)[:KEY_LENGTH]
        submission = Submission(owner, address_of(request), list_id, key)
        try:
            pictures, sounds = ([stored(path) for path in paths or ()] for paths in (videos, audios))
            drafts = drafts_of(wish_of("run", *wish), pictures, sounds, None if listed is None else stored(listed))
            jobs, _ = self.app.submit_all(submission, drafts)
        except (ValueError, OSError) as error:
            return self.refused(error)
        return self.updates(self.showing(jobs[0], owner))

    def on_tick(self, token: str, current: str, video: str | None, rows: str, request: gr.Request) -> list[Any]:
        """How the shown job goes on; at its end also who speaks when, if it found that for the video of the form."""
        owner = owner_of(request, token)
        try:
            job = self.app.store.get(current, owner)
        except WebError:
            return [*self.updates({self.timer: gr.update(active=False)}), gr.skip()]
        if not job.is_over:
            return [*self.updates(self.working(job)), gr.skip()]
        is_news = job.order.options.speakers and video and job.uploads[:1] == (Path(video),) and rows in ("", "[]")
        shown = self.updates(self.showing(self.app.store.going_on(job), owner))
        return [*shown, rows_of(job) if is_news and job.state == "done" else gr.skip()]

    def on_speaking(self, token: str, video: str | None, speakers: str, request: gr.Request) -> str:
        """What the table of who speaks when shows beside its rows, of the newest job of this video that found or was told them."""
        if not video or not speakers:
            return ""
        try:
            path = self.app.store.uploaded(video)
            length_sec = self.app.inspector.video(path, path.name).duration_sec
            jobs = (job for job in self.app.store.of(owner_of(request, token)) if job.state == "done")
            known = next((job for job in jobs if job.uploads[:1] == (path,) and spans_of(rows_of(job))), None)
            return views.speaking_facts(length_sec, {} if known is None else pictures_of(known, known.order.video))
        except (ValueError, OSError):  # the field of the video tells it
            return ""

    def on_cancel(self, token: str, current: str, request: gr.Request) -> list[Any]:
        return self._about(token, current, request, self.app.cancel)

    def on_resume(self, token: str, current: str, request: gr.Request) -> list[Any]:
        return self._about(token, current, request, self.app.resume)

    def on_choose(self, token: str, chosen: str, request: gr.Request) -> list[Any]:
        """Show a job, and fill in the form as it was for that job."""
        shown = self._about(token, chosen, request, self.app.store.get)
        try:
            return [*shown, *self.form.filled(form_of(self.app.store.get(chosen, owner_of(request, token))))]
        except WebError:
            return [*shown, *self.form.filled(None)]

    def _about(self, token: str, job_id: str, request: gr.Request, do: Any) -> list[Any]:
        """Call `do` with a job, then show it."""
        owner = owner_of(request, token)
        try:
            job = do(job_id, owner)
        except WebError as error:
            return self.updates({self.problem: views.error_html(str(error))})
        return self.updates(self.showing(job, owner))

    def on_delete(self, token: str, current: str, request: gr.Request) -> list[Any]:
        owner = owner_of(request, token)
        try:
            self.app.delete(current, owner)
        except WebError as error:
            return self.updates({self.problem: views.error_html(str(error))})
        shown = {
            self.problem: "",
            self.resume: gr.update(visible=False),
            self.current: "",
            self.message: views.message_html(texts.DELETED),
            self.progress: "",
            self.queue: "",
        }
        return self.updates(shown | self.no_results() | self.past(owner, ""))

    # --- updates

    def updates(self, shown: dict[Any, Any]) -> list[Any]:
        """A value for each component of the view; those not in `shown` stay as they are."""
        return [shown.get(part, gr.skip()) for part in self.view]

    def refused(self, error: Exception) -> list[Any]:
        """The view after a request that was refused."""
        freed = {button: gr.update(interactive=True) for button in (self.check, self.preview, self.run, self.run_all)}
        return self.updates({self.problem: views.error_html(str(error)), self.progress: "", **freed})

    def working(self, job: WebJob) -> dict[Any, Any]:
        """Progress of a job that has not ended."""
        waiting = self.app.waiting_text(job) if job.state == "waiting" else ""
        return {self.progress: views.progress_html(job, waiting)}

    def showing(self, job: WebJob, owner: str) -> dict[Any, Any]:
        """The whole view of a job."""
        starters = (self.check, self.preview, self.run, self.run_all)
        shown = {
            self.current: job.id,
            self.order_key: secrets.token_urlsafe(KEY_BYTES),
            self.problem: "",
            self.timer: gr.update(active=not job.is_over),
            self.cancel: gr.update(interactive=not job.is_over),
            self.resume: gr.update(visible=job.state == "interrupted"),
            self.queue: self.listed_html(job, owner),
            **{button: gr.update(interactive=job.is_over) for button in starters},
            **self.past(owner, job.id),
        }
        if not job.is_over:
            return shown | {self.message: ""} | self.working(job) | self.no_results()
        return shown | {self.progress: "", self.message: outcome_html(job)} | self.results(job)

    def listed_html(self, job: WebJob, owner: str) -> str:
        """The jobs of the same list with their results; nothing for a job of no list."""
        list_id = job.submission.list_id
        return views.list_html(self.app.store.listed(list_id, owner)) if list_id else ""

    def no_results(self) -> dict[Any, Any]:
        hidden = (self.get_video, self.get_sheet, self.get_report, self.report_section)
        return {self.player: "", self.sheet: "", self.report: "", **{part: gr.update(visible=False) for part in hidden}}

    def results(self, job: WebJob) -> dict[Any, Any]:
        """Player, files and report of an ended job."""
        if job.state != "done":
            return self.no_results()
        is_video = job.order.kind != "preflight"
        return {
            self.player: views.player_html(job) if is_video else "",
            self.sheet: "" if is_video else views.sheet_html(job),
            self.get_video: download(job.output, is_video),
            self.get_sheet: download(job.sheet, not is_video),
            self.get_report: download(job.report_path, True),
            self.report_section: gr.update(visible=True),
            self.report: views.report_html(job.report),
        }

    def past(self, owner: str, chosen: str) -> dict[Any, Any]:
        jobs = self.app.store.of(owner)
        choices = [(title_of(job), job.id) for job in jobs]
        known = chosen if any(job.id == chosen for job in jobs) else None
        return {
            self.history_section: gr.update(visible=bool(jobs)),
            self.history: gr.update(choices=choices, value=known),
        }


def download(path: Path, is_there: bool) -> Any:
    """The update of a download button."""
    return gr.update(visible=is_there, value=str(path) if is_there else None)


def outcome_html(job: WebJob) -> str:
    """The end of a job as one message."""
    if job.state == "failed":
        return views.error_html(job.error)
    if job.state == "interrupted":
        return views.message_html(job.error)
    if job.state == "cancelled":
        return views.message_html(texts.CANCELLED)
    sentence = texts.CHECKED if job.order.kind == "preflight" else texts.FINISHED
    notes = map(audio_words, job.report["warnings"])
    return views.message_html(audio_words(sentence.format(summary=job.report["summary"])), notes)


def title_of(job: WebJob) -> str:
    """A job as one line of the history."""
    began = time.strftime("%H:%M:%S", time.localtime(job.created))
    return f"{began} {texts.KINDS[job.order.kind]}, {job.names[0]} + {job.names[1]}: {texts.STATES[job.state]}"
