"""The app without its page: what the page and the API share."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from latentsync.inference.jobs.job import check_options_of_speakers
from latentsync.media.video.encode import choose_encoder
from web import texts
from web.copies import Copies
from web.engine import Engine
from web.errors import ErrorCode, WebError
from web.jobs import SPEAKERS_FILE, NewJob, Speakers, Submission, WebJob, output_suffix
from web.models import Models
from web.orders import Inspector, Wish, checked_speakers, make_order
from web.sentences import amount
from web.settings import AppSettings
from web.spans import MIX, Span, content_of
from web.storage import check_room
from web.store import JobStore

SAID_BY_SPEAKERS = ("face", "start_sec", "speakers")  # options that a file of speakers takes the place of


@dataclass(frozen=True)
class Draft:
    """A request for a job, whose values and whose files' content are unchecked."""

    wish: Wish
    video: Path
    audio: Path
    names: tuple[str, str]
    webhook_url: str = ""
    speakers: Speakers | None = None  # in place of the audio


class WebApp:
    """Models, jobs and worker of one app."""

    def __init__(self, models: Models, settings: AppSettings):
        self.models, self.settings = models, settings
        self.store = JobStore(settings.folder, settings.limits)
        self.inspector = Inspector(settings.limits)
        self.engine = Engine(models, self.store, settings.unload_sec)
        self.copies = Copies(partial(check_room, self.store.folder, settings.limits))

    def start(self) -> "WebApp":
        self.store.sweep()
        self.engine.start()
        self.copies.start()
        return self

    def stop(self) -> None:
        self.copies.stop()
        self.engine.stop()

    def submit(
        self,
        submission: Submission,
        wish: Wish,
        video: str | None,
        audio: str | None,
        names: tuple[str, str] | None = None,
    ) -> WebJob:
        """Check a request for two uploads and put the job into the queue; WebError or ValueError if it is invalid."""
        if not video or not audio:
            raise WebError(texts.NEED_BOTH)
        names = names or (Path(video).name, Path(audio).name)
        draft = Draft(wish, self.store.uploaded(video), self.store.uploaded(audio), names)
        return self.submit_all(submission, [draft])[0][0]

    def submit_people(
        self, submission: Submission, wish: Wish, video: str | None, audio: str | None, people: Mapping[str, str]
    ) -> WebJob:
        """As `submit`, for people who each have audio of their own: the upload for each place of a face, x,y@seconds.

        `audio` is what the result sounds like; None: the sum of theirs.
        """
        if not video:
            raise WebError(texts.NEED_BOTH)
        names = [texts.PERSON.format(number=number) for number in range(1, len(people) + 1)]
        sounds = {name: self.store.uploaded(path) for name, path in zip(names, people.values(), strict=True)}
        content: dict[str, Any] = {
            "people": {name: {"face": place, "audio": name} for name, place in zip(names, people, strict=True)}
        }
        if audio:
            content["mix"], sounds["mix"] = "mix", self.store.uploaded(audio)
        given = Path(audio).name if audio else amount(len(people), texts.PEOPLE_AUDIO)
        return self._submit_speakers(submission, wish, video, given, Speakers(content, sounds))

    def submit_spans(
        self, submission: Submission, wish: Wish, video: str | None, audio: str | None, spans: Sequence[Span]
    ) -> WebJob:
        """As `submit`, for people who each get the part of the audio in which they speak."""
        if not video or not audio:
            raise WebError(texts.NEED_BOTH)
        speakers = Speakers(content_of(spans), {MIX: self.store.uploaded(audio)})
        return self._submit_speakers(submission, wish, video, Path(audio).name, speakers)

    def _submit_speakers(
        self, submission: Submission, wish: Wish, video: str, given: str, speakers: Speakers
    ) -> WebJob:
        """`given`: the owner's name of the audio."""
        path = self.store.uploaded(video)
        options = {name: value for name, value in wish.options.items() if name not in SAID_BY_SPEAKERS}
        wish, names = replace(wish, options=options), (path.name, given)
        return self.submit_all(submission, [Draft(wish, path, Path(SPEAKERS_FILE), names, "", speakers)])[0][0]

    def submit_all(self, submission: Submission, drafts: Sequence[Draft]) -> tuple[list[WebJob], bool]:
        """Check requests and put all jobs into the queue, or none; WebError or ValueError if one is invalid.

        The second value is False if the submission was made before, with the same key; then these are the jobs of that time.
        """
        if known := self.store.repeated(submission):
            return known, False
        jobs, are_new = self.store.add(submission, self._checked_all(drafts))
        if are_new:
            for job in jobs:
                self.engine.submit(job)
        return jobs, are_new

    def _checked_all(self, drafts: Sequence[Draft]) -> list[NewJob]:
        checked = []
        for number, draft in enumerate(drafts, 1):
            try:
                checked.append(self.checked(draft))
            except (ValueError, OSError) as error:
                if len(drafts) == 1:
                    raise
                code = getattr(error, "code", ErrorCode.INVALID_REQUEST)
                raise WebError(texts.WRONG_ENTRY.format(number=number, reason=error), code) from error
        return checked

    def checked(self, draft: Draft) -> NewJob:
        """A request whose values and files are valid; WebError or ValueError for any other."""
        order = make_order(draft.wish, draft.video, draft.audio, self.models)
        options = order.options
        info = self.inspector.video(draft.video, draft.names[0], options.video_track)
        if draft.speakers is None:
            self.inspector.sound(draft.audio, draft.names[1], options.audio_track)
        else:
            check_options_of_speakers(options)
            for name, path in draft.speakers.sounds.items():
                self.inspector.sound(path, name)
            checked_speakers(draft.speakers)
        if options.codec != "auto":
            encoder = choose_encoder(options.codec, info.width, info.height, output_suffix(options))
            encoder.settings(options.crf)
        return NewJob(order, draft.names, draft.webhook_url, draft.speakers)

    def cancel(self, job_id: str, owner: str) -> WebJob:
        job = self.store.get(job_id, owner)
        self.engine.cancel(job)
        return job

    def resume(self, job_id: str, owner: str) -> WebJob:
        """Let an interrupted job go on from where it was; WebError if it did not stop half-way."""
        job = self.store.get(job_id, owner)
        self.store.resume(job)
        self.engine.submit(job)
        return job

    def delete(self, job_id: str, owner: str) -> None:
        """Delete the files and uploads of an ended job; a running one is cancelled, and its files expire later."""
        job = self.store.get(job_id, owner)
        if job.is_over:
            self.store.delete(job)
        else:
            self.engine.cancel(job)

    def results(self, job: WebJob) -> list[Path]:
        """The files of a finished job; WebError if there are none."""
        if not job.is_over:
            raise WebError(texts.UNFINISHED_JOB.format(state=texts.STATES[job.state]), ErrorCode.WRONG_STATE)
        if not job.results:
            error = job.error or texts.CANCELLED
            raise WebError(texts.NO_FILES.format(state=texts.STATES[job.state], error=error), ErrorCode.WRONG_STATE)
        return job.results

    def waiting_text(self, job: WebJob) -> str:
        return texts.WAITING.format(place=amount(self.engine.place(job), texts.JOBS_BEFORE))
