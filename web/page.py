"""The page: its components and event handlers."""

import json
import secrets
import time
from pathlib import Path
from typing import Any

import gradio as gr

from latentsync.inference.settings import DEFAULT_SEED, needs_distilled
from web import texts, views
from web.access import network_of
from web.app import WebApp
from web.errors import WebError
from web.jobs import Submission, WebJob
from web.models import official_files
from web.orders import Wish, make_order, number, whole
from web.sentences import duration
from web.settings import DEFAULT_PRESET, EXAMPLES, MAX_GUIDANCE, MAX_STEPS, PRESETS
from web.uploads import Uploads

POLL_SEC = 0.7
KEY_BYTES, KEY_LENGTH = 16, 40  # of an order's key: random bytes, and characters at most
CUSTOM_SCRIPT = f"() => {json.dumps(texts.CUSTOM_PRESET)}"
QUIET: dict[str, Any] = {"show_progress": "hidden", "concurrency_limit": None, "api_visibility": "private"}
SENDING = f"""() => ["", "", {json.dumps(views.bar_html(texts.SENDING, None, ""))},
    ...Array(3).fill({{__type__: "update", interactive: false}})]"""  # at once, before the server answers
SHOWN: dict[str, Any] = {"show_progress": "minimal", "concurrency_limit": 4, "api_visibility": "private"}


def owner_of(request: gr.Request, token: str) -> str:
    """The owner whose jobs a request may access: the user if there is a login, else the browser, or a page before it loaded."""
    if request.username:
        return f"user {request.username}"
    return f"page {token}" if token else f"session {request.session_hash}"


def address_of(request: gr.Request) -> str:
    """The network of a browser; empty for a user who logged in, whom the password identifies."""
    return "" if request.username or request.client is None else network_of(request.client.host)


def form_of(job: WebJob) -> list[Any]:
    """The fields of the form from which a job of the page was made: its uploads, and the arguments of `wish_of`."""
    order, files = job.order, (*map(str, job.uploads), None, None)
    settings = (order.settings.get(name) for name in ("preset", "steps", "guidance_scale", "seed"))
    options = order.options
    choices = options.face, options.length, options.rest, options.on_missing_face
    return [*files[:2], *settings, *choices, order.model]


def wish_of(
    kind: str,
    preset: str,
    steps: float | None,
    guidance_scale: float | None,
    seed: float | None,
    face: str,
    length: str,
    rest: str,
    on_missing_face: str,
    model: str,
) -> Wish:
    """A request as the fields of the page state it; WebError where a field for a number has none."""
    settings = {
        "preset": preset,
        "steps": whole("steps", steps),
        "guidance_scale": number("guidance scale", guidance_scale),
        "seed": DEFAULT_SEED if seed is None else whole("seed", seed),
    }
    options = {"face": face, "length": length, "rest": rest, "on_missing_face": on_missing_face}
    return Wish(kind, model, settings, options)


class Page:
    """The page of one app. `build` makes the Gradio blocks; the `on_` methods are its event handlers."""

    def __init__(self, app: WebApp):
        self.app, self.uploads = app, Uploads(app.inspector, app.store)

    def build(self) -> gr.Blocks:
        with gr.Blocks(title=texts.TITLE, analytics_enabled=False) as blocks:
            self.token = gr.BrowserState("", storage_key="latentsync", secret=self.app.store.browser_secret)
            self.form = gr.BrowserState({}, storage_key="latentsync-form", secret=self.app.store.browser_secret)
            self.current = gr.State("")  # id of the shown job
            self.order_key = gr.Textbox(visible="hidden")  # of the next job, so that a click counts once
            self.timer = gr.Timer(POLL_SEC, active=False)
            gr.Markdown(f"# {texts.TITLE}\n{texts.SUBTITLE}")
            self.note = gr.Markdown()
            with gr.Row():
                with gr.Column(min_width=320):
                    self._files()
                    self._choices()
                with gr.Column(min_width=320):
                    self._buttons()
                    self._results()
            self._connect(blocks)
        return blocks

    # --- components

    def _files(self) -> None:
        gr.HTML(views.upload_note_html(self.app.settings.limits))
        self.video = gr.Video(
            label=texts.VIDEO,
            sources=["upload", "webcam"],
            webcam_options=gr.WebcamOptions(mirror=False),
            buttons=[],
            elem_id="video",
        )
        self.video_facts = gr.HTML()
        self.audio = gr.Audio(
            label=texts.AUDIO, sources=["upload", "microphone"], type="filepath", buttons=[], elem_id="audio"
        )
        self.audio_facts = gr.HTML()
        with gr.Row():
            self.examples = [
                (gr.Button(texts.EXAMPLE_BUTTON.format(title=example.title), size="sm"), example)
                for example in EXAMPLES
                if example.video.is_file() and example.audio.is_file()
            ]

    def _choices(self) -> None:
        offered = [name for name in PRESETS if not needs_distilled({"preset": name}) or self.app.models.has_distilled]
        shown = [(texts.PRESETS[name], name) for name in offered] + [(texts.CUSTOM_TITLE, texts.CUSTOM_PRESET)]
        self.preset = gr.Radio(
            shown, value=DEFAULT_PRESET, label=texts.PRESET, info=texts.PRESET_INFO, elem_id="preset"
        )
        self.base = gr.Textbox(DEFAULT_PRESET, visible="hidden")  # the preset that Custom starts from
        with gr.Accordion(texts.FACE_SECTION, open=False):
            self.face = gr.Dropdown(
                list(texts.FACE_CHOICES),
                value="largest",
                allow_custom_value=True,
                label=texts.FACE,
                info=texts.FACE_INFO,
                elem_id="face",
            )
            self.frame_sec = gr.Slider(
                0, 1, 0, step=0.04, label=texts.FRAME_SEC, info=texts.FRAME_SEC_INFO, elem_id="frame-sec"
            )
            gr.HTML(views.facts_html(texts.FRAME))
            self.frame = gr.Image(
                label=texts.FRAME,
                show_label=False,
                alt_text=texts.FRAME_ALT,
                interactive=False,
                format="jpeg",
                buttons=[],
                elem_id="frame",
            )
        self._advanced()
        with gr.Accordion(texts.MODEL_SECTION, open=False):
            titles = [(choice.title, name) for name, choice in self.app.models.choices.items()]
            self.model = gr.Dropdown(titles, value=self.app.models.default, label=texts.MODEL, elem_id="model")
            self.model_table = gr.HTML()

    def _advanced(self) -> None:
        preset = PRESETS[DEFAULT_PRESET]
        with gr.Accordion(texts.ADVANCED_SECTION, open=False):
            self.steps = gr.Slider(
                1, MAX_STEPS, preset["steps"], step=1, label=texts.STEPS, info=texts.STEPS_INFO, elem_id="steps"
            )
            self.guidance = gr.Slider(
                1, MAX_GUIDANCE, preset["guidance_scale"], step=0.1, label=texts.GUIDANCE, info=texts.GUIDANCE_INFO
            )
            self.seed = gr.Number(DEFAULT_SEED, precision=0, minimum=-1, label=texts.SEED, info=texts.SEED_INFO)
            self.length = gr.Dropdown(list(texts.LENGTH_CHOICES), value="bounce", label=texts.LENGTH)
            self.rest = gr.Dropdown(list(texts.REST_CHOICES), value="cut", label=texts.REST)
            self.missing = gr.Dropdown(list(texts.MISSING_CHOICES), value="passthrough", label=texts.MISSING)

    def _buttons(self) -> None:
        with gr.Row():
            self.check = gr.Button(texts.CHECK, min_width=90, size="md", elem_id="check")
            self.preview = gr.Button(texts.PREVIEW, min_width=160, size="md", elem_id="preview")
            self.run = gr.Button(texts.RUN, variant="primary", min_width=90, size="md", elem_id="run")
            self.cancel = gr.Button(
                texts.CANCEL, variant="stop", min_width=90, size="md", interactive=False, elem_id="cancel"
            )
            self.resume = gr.Button(
                texts.RESUME, variant="primary", visible=False, min_width=90, size="md", elem_id="resume"
            )
        self.problem = gr.HTML(elem_id="problem")  # why a request was refused, until it is changed
        self.message = gr.HTML(views.message_html(texts.NO_RESULT), elem_id="message")
        self.progress = gr.HTML(elem_id="progress")

    def _results(self) -> None:
        self.player = gr.HTML(elem_id="player")
        self.sheet_title = gr.HTML(views.facts_html(texts.SHEET), visible=False)
        self.sheet = gr.Image(
            label=texts.SHEET,
            show_label=False,
            buttons=["fullscreen"],
            alt_text=texts.SHEET_ALT,
            interactive=False,
            visible=False,
            type="filepath",
            format="jpeg",
            elem_id="sheet",
        )
        with gr.Row():
            self.get_video = gr.DownloadButton(texts.DOWNLOAD_VIDEO, visible=False, elem_id="get-video", min_width=120)
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
        buttons = [self.check, self.preview, self.run, self.cancel, self.resume]
        results = [
            self.player,
            self.sheet_title,
            self.sheet,
            self.get_video,
            self.get_report,
            self.report_section,
            self.report,
        ]
        past = [self.history_section, self.history]
        shown = [self.current, self.order_key, self.timer, self.problem, self.message, self.progress]
        self.view = [*shown, *buttons, *results, *past]
        wish: list[Any] = [
            self.base,
            self.steps,
            self.guidance,
            self.seed,
            self.face,
            self.length,
            self.rest,
            self.missing,
            self.model,
        ]
        self.inputs = [self.video, self.audio, *wish]
        restored = [*self.inputs, self.preset]
        everything = [self.token, self.model_table, *self.view, *restored]
        blocks.load(self.on_load, [self.token, self.form], everything, **QUIET)
        gr.on([blocks.load, self.model.change], self.on_model, self.model, self.note, **QUIET)
        self.video.change(self.uploads.on_video, self.video, [self.video_facts, self.frame_sec, self.frame], **SHOWN)
        examples = [button.click for button, _ in self.examples]
        new_video = [self.video.upload, self.video.clear, self.video.stop_recording, *examples]
        gr.on(new_video, None, None, self.face, js="() => 'largest'", **QUIET)  # a place is one of the old video
        self.audio.change(self.uploads.on_audio, self.audio, self.audio_facts, **SHOWN)
        for button, example in self.examples:
            button.click(
                lambda chosen=example: self.uploads.on_example(chosen), None, [self.video, self.audio], **SHOWN
            )
        sliders = [self.steps, self.guidance]
        chosen = [*sliders, self.base]
        self.preset.input(None, [self.preset, *chosen], chosen, js=preset_script(), **QUIET)
        gr.on([part.input for part in sliders], None, None, self.preset, js=CUSTOM_SCRIPT, **QUIET)
        self.frame_sec.change(
            self.uploads.on_frame_sec, [self.video, self.frame_sec], self.frame, trigger_mode="always_last", **SHOWN
        )
        self.frame.select(self.uploads.on_click, [self.video, self.frame_sec], [self.face, self.frame], **SHOWN)
        changed = [part.change for part in self.inputs]
        gr.on(changed, None, None, self.problem, js="() => ''", **QUIET)
        gr.on(changed, self.on_form, [self.order_key, *self.inputs], self.form, trigger_mode="always_last", **QUIET)
        starters = [self.check, self.preview, self.run]
        for button, kind in zip(starters, ("preflight", "preview", "run"), strict=True):
            button.click(None, None, [self.problem, self.message, self.progress, *starters], js=SENDING, **QUIET)
            sent = [self.token, self.order_key, *self.inputs]
            button.click(self.submitter(kind), sent, self.view, trigger_mode="once", **QUIET)
        self.timer.tick(self.on_tick, [self.token, self.current], self.view, **QUIET)
        self.cancel.click(self.on_cancel, [self.token, self.current], self.view, **QUIET)
        self.resume.click(self.on_resume, [self.token, self.current], self.view, trigger_mode="once", **QUIET)
        self.history.input(self.on_choose, [self.token, self.history], [*self.view, *restored], **QUIET)
        self.delete.click(self.on_delete, [self.token, self.current], self.view, **QUIET)

    # --- handlers of the whole page

    def on_load(self, token: str, form: Any, request: gr.Request) -> list[Any]:
        """Recognise the browser by its token, show its newest job, and fill in what was filled in before."""
        token = token if isinstance(token, str) and len(token) >= 32 else secrets.token_urlsafe(24)
        jobs = self.app.store.of(owner_of(request, token))
        shown = self.showing(jobs[0], owner_of(request, token)) if jobs else {}
        shown = {self.order_key: secrets.token_urlsafe(KEY_BYTES), **shown}
        return [token, views.models_html(official_files()), *self.updates(shown), *self.filled(form)]

    def on_form(self, order_key: str, *values: Any) -> Any:
        """What the browser keeps of the form; nothing before the page has loaded, so that no default replaces it."""
        return list(values) if order_key else gr.skip()

    def on_model(self, name: str) -> str:
        choice = self.app.models.choices.get(name)
        return (
            texts.DEMO_NOTE if choice is None or choice.name == "demo" else texts.MODEL_NOTE.format(title=choice.title)
        )

    # --- handlers of jobs

    def submitter(self, kind: str) -> Any:
        """The click handler that submits a job of this kind."""

        def submit(
            request: gr.Request, token: str, order_key: str, video: str | None, audio: str | None, *wish: Any
        ) -> list[Any]:
            owner = owner_of(request, token)
            submission = Submission(owner, address_of(request), key=str(order_key)[:KEY_LENGTH])
            try:
                job = self.app.submit(submission, wish_of(kind, *wish), video, audio)
            except (ValueError, OSError) as error:
                freed = {button: gr.update(interactive=True) for button in (self.check, self.preview, self.run)}
                return self.updates({self.problem: views.error_html(str(error)), self.progress: "", **freed})
            return self.updates(self.showing(job, owner))

        return submit

    def on_tick(self, token: str, current: str, request: gr.Request) -> list[Any]:
        owner = owner_of(request, token)
        try:
            job = self.app.store.get(current, owner)
        except WebError:
            return self.updates({self.timer: gr.update(active=False)})
        return self.updates(self.showing(job, owner) if job.is_over else self.working(job))

    def on_cancel(self, token: str, current: str, request: gr.Request) -> list[Any]:
        return self._about(token, current, request, self.app.cancel)

    def on_resume(self, token: str, current: str, request: gr.Request) -> list[Any]:
        return self._about(token, current, request, self.app.resume)

    def on_choose(self, token: str, chosen: str, request: gr.Request) -> list[Any]:
        """Show a job, and fill in the form as it was for that job."""
        shown = self._about(token, chosen, request, self.app.store.get)
        try:
            return [*shown, *self.filled(form_of(self.app.store.get(chosen, owner_of(request, token))))]
        except WebError:
            return [*shown, *self.filled(None)]

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
        }
        return self.updates(shown | self.no_results() | self.past(owner, ""))

    # --- updates

    def filled(self, form: Any) -> list[Any]:
        """Values for the fields of the form and the quality: `form`, in the order of the fields, or no change if it is not valid.

        A file that is no longer on the server is left out.
        """
        try:
            video, audio, *wish = form
            make_order(wish_of("run", *wish), Path(), Path(), self.app.models)
            files = [self._still_there(path) for path in (video, audio)]
        except (TypeError, ValueError):  # of another version of the app
            return [gr.skip()] * (len(self.inputs) + 1)
        preset, steps, guidance = wish[:3]
        is_preset = PRESETS.get(preset, {}).items() >= {"steps": steps, "guidance_scale": guidance}.items()
        return [*files, *wish, preset if is_preset else texts.CUSTOM_PRESET]

    def _still_there(self, path: str | None) -> str | None:
        try:
            return None if path is None else str(self.app.store.uploaded(path))
        except WebError:
            return None

    def updates(self, shown: dict[Any, Any]) -> list[Any]:
        """A value for each component of the view; those not in `shown` stay as they are."""
        return [shown.get(part, gr.skip()) for part in self.view]

    def working(self, job: WebJob) -> dict[Any, Any]:
        """Progress of a job that has not ended."""
        waiting = self.app.waiting_text(job) if job.state == "waiting" else ""
        return {self.progress: views.progress_html(job, waiting)}

    def showing(self, job: WebJob, owner: str) -> dict[Any, Any]:
        """The whole view of a job."""
        busy = {button: gr.update(interactive=job.is_over) for button in (self.check, self.preview, self.run)}
        shown = {
            self.current: job.id,
            self.order_key: secrets.token_urlsafe(KEY_BYTES),
            self.problem: "",
            self.timer: gr.update(active=not job.is_over),
            self.cancel: gr.update(interactive=not job.is_over),
            self.resume: gr.update(visible=job.state == "interrupted"),
            **busy,
            **self.past(owner, job.id),
        }
        if not job.is_over:
            return shown | {self.message: ""} | self.working(job) | self.no_results()
        return shown | {self.progress: "", self.message: outcome_html(job)} | self.results(job)

    def no_results(self) -> dict[Any, Any]:
        hidden = (self.sheet_title, self.sheet, self.get_video, self.get_report, self.report_section)
        return {self.player: "", self.report: "", **{part: gr.update(visible=False) for part in hidden}}

    def results(self, job: WebJob) -> dict[Any, Any]:
        """Player, files and report of an ended job."""
        if job.state != "done":
            return self.no_results()
        is_video = job.order.kind != "preflight"
        return {
            self.player: views.player_html(job) if is_video else "",
            self.sheet_title: gr.update(visible=not is_video),
            self.sheet: gr.update(visible=not is_video, value=None if is_video else str(job.sheet)),
            self.get_video: gr.update(visible=is_video, value=str(job.output) if is_video else None),
            self.get_report: gr.update(visible=True, value=str(job.report_path)),
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


def outcome_html(job: WebJob) -> str:
    """The end of a job as one message."""
    if job.state == "failed":
        return views.error_html(job.error)
    if job.state == "interrupted":
        return views.message_html(job.error)
    if job.state == "cancelled":
        return views.message_html(texts.CANCELLED)
    sentence = texts.CHECKED if job.order.kind == "preflight" else texts.FINISHED
    return views.message_html(sentence.format(summary=job.report["summary"]), job.report["warnings"])


def preset_script() -> str:
    """JavaScript that sets the sliders to a preset in the browser, so that a click right afterwards sends the new values; Custom
    keeps the values and the preset that it starts from."""
    values = json.dumps({name: [preset["steps"], preset["guidance_scale"], name] for name, preset in PRESETS.items()})
    return f"(name, ...before) => ({values})[name] || before"


def title_of(job: WebJob) -> str:
    """A job as one line of the history."""
    began = time.strftime("%H:%M:%S", time.localtime(job.created))
    return f"{began} {texts.KINDS[job.order.kind]}, {job.names[0]} + {job.names[1]}: {texts.STATES[job.state]}"
