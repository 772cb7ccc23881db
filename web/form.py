"""The form of the page: the files and the settings that a job is made from."""

import json
from pathlib import Path
from typing import Any

import gradio as gr
from gradio.data_classes import FileData

from latentsync.inference.settings import AUTO, DEFAULT_SEED, MOST_STRENGTH, JobOptions, needs_distilled
from web import texts, views
from web.app import WebApp
from web.errors import WebError
from web.jobs import SPEAKERS_FILE, WebJob
from web.orders import Wish, make_order, number, whole
from web.settings import DEFAULT_PRESET, EXAMPLES, MAX_GUIDANCE, MAX_PEOPLE, MAX_STEPS, PRESETS
from web.spans import rows_of, spans_of
from web.uploads import Uploads

CUSTOM_SCRIPT = f"() => {json.dumps(texts.CUSTOM_PRESET)}"
SHOW_SPANS = "(...values) => document.querySelector('speaking-times')?.show(...values)"
QUIET: dict[str, Any] = {"show_progress": "hidden", "concurrency_limit": None, "api_visibility": "private"}
SHOWN: dict[str, Any] = {"show_progress": "minimal", "concurrency_limit": 4, "api_visibility": "private"}
SETTINGS = ("preset", "steps", "guidance_scale", "seed", "silence", "strength", "texture")
OPTIONS = ("occlusion", "face", "ranges", "length", "rest", "on_missing_face", "speakers")


def form_of(job: WebJob) -> list[Any]:
    """The fields of the form from which a job of the page was made: its uploads, and the arguments of `wish_of`."""
    order, files = job.order, (*map(str, job.uploads), None, None)
    rows = rows_of(job)
    if order.audio.name == SPEAKERS_FILE and not spans_of(rows):
        files = files[0], None  # of an earlier job the audio of people is not filled in again
    *settings, texture = (order.settings.get(name) for name in SETTINGS)
    occlusion, *options, speakers = (getattr(order.options, name) for name in OPTIONS)
    lips = *settings, texture or "", occlusion
    speakers = AUTO if spans_of(rows) else speakers
    return [*files[:2], rows, "", *lips, order.options.start_sec or 0.0, *options, speakers, order.model]


def wish_of(
    kind: str,
    preset: str,
    steps: float | None,
    guidance_scale: float | None,
    seed: float | None,
    silence: str,
    strength: float | None,
    texture: str,
    occlusion: str,
    start_sec: float | None,
    face: str,
    ranges: str,
    length: str,
    rest: str,
    on_missing_face: str,
    speakers: str,
    model: str,
) -> Wish:
    """A request as the fields of the page state it; WebError where a field for a number has none."""
    settings = {
        "preset": preset,
        "steps": whole("steps", steps),
        "guidance_scale": number("guidance scale", guidance_scale),
        "seed": DEFAULT_SEED if seed is None else whole("seed", seed),
        "silence": silence,
        "strength": number("strength", strength),
        "texture": texture or None,
    }
    chosen = occlusion, face, ranges, length, rest, on_missing_face, speakers
    options: dict[str, Any] = dict(zip(OPTIONS, chosen, strict=True))
    if speakers:
        del options["face"]
    elif kind == "preview":
        options["start_sec"] = None if ranges.strip() else number("second of the preview", start_sec)
    return Wish(kind, model, settings, options)


def plain_file(value: str | Path | None) -> FileData | None:
    """A file as it is, for Gradio's field of a video: Gradio converts one that browsers may not play, if ffmpeg is installed, and
    the page would then send the converted one."""
    return None if value is None else FileData(path=str(value), orig_name=Path(value).name)


class Form:
    """The components of the form. `build` makes them where it is called, `connect` their events."""

    def __init__(self, app: WebApp):
        self.app, self.uploads = app, Uploads(app.inspector, app.store)

    def build(self) -> None:
        self._files()
        self._quality()
        self._whose_lips()
        self._lips()
        self._parts()
        self._advanced()
        with gr.Accordion(texts.MODEL_SECTION, open=False):
            titles = [(choice.title, name) for name, choice in self.app.models.choices.items()]
            self.model = gr.Dropdown(titles, value=self.app.models.default, label=texts.MODEL, elem_id="model")
            self.model_table = gr.HTML()

    @property
    def wish(self) -> list[Any]:
        """The components whose values are the arguments of `wish_of`."""
        quality = [self.base, self.steps, self.guidance, self.seed]
        lips = [self.silence, self.strength, self.texture, self.occlusion]
        parts = [self.start, self.face, self.ranges, self.length, self.rest, self.missing, self.speakers]
        return [*quality, *lips, *parts, self.model]

    @property
    def inputs(self) -> list[Any]:
        return [self.video, self.audio, self.spans, self.given, *self.wish]

    @property
    def sounds_given(self) -> list[Any]:
        """The events by which a user gives or takes away the audio of a person."""
        return [event for sound in self.sounds for event in (sound.upload, sound.clear, sound.delete)]

    @property
    def changed_by_user(self) -> list[Any]:
        """The events by which a user changes the form; the page itself changes some components a while after a new video."""
        chosen = [self.spans, self.number, self.preset, *(part for part in self.wish if part is not self.base)]
        inputs = [part.input for part in chosen]
        files = [event for part in (self.video, self.audio) for event in (part.upload, part.clear, part.stop_recording)]
        examples = [button.click for button, _ in self.examples]
        return [*files, *examples, self.frame.select, *inputs, *self.sounds_given]

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
        self.video.postprocess = plain_file
        self.video_facts = gr.HTML()
        self.copies = gr.HTML(elem_id="copies")  # of videos on the page that browsers may not play
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

    def offered(self) -> list[str]:
        """The presets that the installed models support, the fastest first."""
        return [name for name in PRESETS if not needs_distilled({"preset": name}) or self.app.models.has_distilled]

    def _quality(self) -> None:
        shown = [(texts.PRESETS[name], name) for name in self.offered()] + [(texts.CUSTOM_TITLE, texts.CUSTOM_PRESET)]
        self.preset = gr.Radio(
            shown, value=DEFAULT_PRESET, label=texts.PRESET, info=texts.PRESET_INFO, elem_id="preset"
        )
        self.times = gr.HTML(elem_id="times")
        self.base = gr.Textbox(DEFAULT_PRESET, visible="hidden")  # the preset that Custom starts from

    def _whose_lips(self) -> None:
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
            self.number = gr.Radio([], label=texts.FACE_NUMBER, visible=False, elem_id="face-number")
            self.face_note = gr.HTML(elem_id="face-note")
            self._who_speaks()
            self._people()

    def _who_speaks(self) -> None:
        self.speakers = gr.Dropdown(
            list(texts.SPEAKERS_CHOICES),
            value="",
            label=texts.SPEAKERS,
            info=texts.SPEAKERS_INFO,
            elem_id="speakers",
        )
        self.spans = gr.Textbox("[]", visible="hidden", elem_id="spans")  # JSON rows, see `web.spans`
        self.speaking = gr.Textbox("", visible="hidden", elem_id="speaking")  # `views.speaking_facts`, or no table
        gr.HTML(views.timeline_html(), elem_id="timeline")

    def _people(self) -> None:
        """The faces of the shown picture, each with a field for its audio; hidden unless there are several."""
        self.places = gr.Textbox("[]", visible="hidden")  # JSON: of the faces, x,y@seconds
        self.given = gr.Textbox("", visible="hidden")  # JSON: their audio, see `Uploads.on_sounds`
        self.rows, self.pictures, self.sounds = [], [], []
        with gr.Accordion(texts.PEOPLE_SECTION, open=True, visible=False) as self.people:
            gr.HTML(views.facts_html(texts.PEOPLE_INFO))
            for number in range(1, MAX_PEOPLE + 1):
                with gr.Row(visible=False) as row:
                    picture = gr.Image(
                        show_label=False,
                        alt_text=texts.PERSON_PICTURE.format(number=number),
                        interactive=False,
                        format="jpeg",
                        buttons=[],
                        height=120,
                        min_width=100,
                        scale=1,
                        elem_id=f"person-{number}",
                    )
                    sound = gr.File(
                        label=texts.PERSON_AUDIO.format(number=number), height=120, scale=3, elem_id=f"sound-{number}"
                    )
                self.rows.append(row)
                self.pictures.append(picture)
                self.sounds.append(sound)

    def _lips(self) -> None:
        with gr.Accordion(texts.LIPS_SECTION, open=False):
            self.silence = gr.Dropdown(
                list(texts.SILENCE_CHOICES), value="model", label=texts.SILENCE, elem_id="silence"
            )
            self.strength = gr.Slider(
                0, MOST_STRENGTH, 1, step=0.05, label=texts.STRENGTH, info=texts.STRENGTH_INFO, elem_id="strength"
            )
            self.occlusion = gr.Dropdown(
                list(texts.OCCLUSION_CHOICES), value=JobOptions().occlusion, label=texts.OCCLUSION, elem_id="occlusion"
            )
            self.texture = gr.Dropdown(list(texts.TEXTURE_CHOICES), value="", label=texts.TEXTURE, elem_id="texture")

    def _parts(self) -> None:
        with gr.Accordion(texts.PART_SECTION, open=False):
            self.start = gr.Slider(0, 1, 0, step=0.04, label=texts.START, info=texts.START_INFO, elem_id="start")
            self.ranges = gr.Textbox(
                "", label=texts.RANGES, info=texts.RANGES_INFO, placeholder="12.5-31.0", elem_id="ranges"
            )

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

    # --- events

    def connect(self) -> None:
        uploads, seen = self.uploads, [self.frame, self.number, self.face_note]
        shown = [self.video_facts, self.frame_sec, self.start, *seen]
        self.video.change(uploads.on_video, [self.video, self.face, self.given], shown, **SHOWN)
        examples = [button.click for button, _ in self.examples]
        new_video = [self.video.upload, self.video.clear, self.video.stop_recording, *examples]
        fresh = [self.face, self.ranges, self.start, self.spans, self.given]  # they are about the old video
        gr.on(new_video, None, None, fresh, js="() => ['largest', '', 0, '[]', '']", **QUIET)
        gr.on(
            [self.spans.change, self.speaking.change], None, [self.spans, self.speaking], None, js=SHOW_SPANS, **QUIET
        )
        self.audio.change(uploads.on_audio, self.audio, self.audio_facts, **SHOWN)
        for button, example in self.examples:
            button.click(lambda chosen=example: uploads.on_example(chosen), None, [self.video, self.audio], **SHOWN)
        sliders = [self.steps, self.guidance]
        chosen = [*sliders, self.base]
        self.preset.input(None, [self.preset, *chosen], chosen, js=preset_script(), **QUIET)
        gr.on([part.input for part in sliders], None, None, self.preset, js=CUSTOM_SCRIPT, **QUIET)
        place = [self.video, self.frame_sec]
        gr.on(
            [self.frame_sec.change, self.face.input],
            uploads.on_frame,
            [*place, self.face],
            seen,
            trigger_mode="always_last",
            **SHOWN,
        )
        people = [self.people, self.places, *self.rows, *self.pictures, *self.sounds]
        gr.on(
            [self.video.change, self.frame_sec.change],
            uploads.on_people,
            [*place, self.given],
            people,
            trigger_mode="always_last",
            **QUIET,
        )
        sounds = [self.video, self.places, *self.sounds]
        gr.on(self.sounds_given, uploads.on_sounds, sounds, self.given, trigger_mode="always_last", **QUIET)
        self.frame.select(uploads.on_click, place, [self.face, *seen], **SHOWN)
        self.number.input(uploads.on_number, [*place, self.number], [self.face, *seen], **SHOWN)

    # --- values

    def filled(self, form: Any) -> list[Any]:
        """Values for `inputs` and the quality: `form`, in the order of the fields, or no change if it is not valid.

        A file that is no longer on the server is left out.
        """
        try:
            video, audio, rows, given, *wish = form
            if not isinstance(rows, str) or not isinstance(given, str):
                raise TypeError("an older form had neither")
            make_order(wish_of("run", *wish), Path(), Path(), self.app.models)
            files = [self._still_there(path) for path in (video, audio)]
        except (TypeError, ValueError, AttributeError):  # of another version of the app
            return [gr.skip()] * (len(self.inputs) + 1)
        preset, steps, guidance = wish[:3]
        is_preset = PRESETS.get(preset, {}).items() >= {"steps": steps, "guidance_scale": guidance}.items()
        return [*files, rows, given, *wish, preset if is_preset else texts.CUSTOM_PRESET]

    def _still_there(self, path: str | None) -> str | None:
        try:
            return None if path is None else str(self.app.store.uploaded(path))
        except WebError:
            return None

    def times_html(self, owner: str, video: str | None, audio: str | None, model: str) -> str:
        """How long each preset takes for two uploads, if they were checked."""
        check = self.app.store.checked(owner, video, audio) if video and audio else None
        if check is None:
            return ""
        found = {name: self.app.engine.speeds.estimate(model, check.report, PRESETS[name]) for name in self.offered()}
        return views.times_html(found)


def preset_script() -> str:
    """JavaScript that sets the sliders to a preset in the browser, so that a click right afterwards sends the new values; Custom
    keeps the values and the preset that it starts from."""
    values = json.dumps({name: [preset["steps"], preset["guidance_scale"], name] for name, preset in PRESETS.items()})
    return f"(name, ...before) => ({values})[name] || before"
