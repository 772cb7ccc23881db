"""From the body of a request to drafts of jobs: where the files are, and which settings they get."""

import hashlib
import json
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

from latentsync.weights.adapters import adapter_text, adapters_of
from web import texts
from web.api.bodies import Body, allowed_file, object_of
from web.api.schema import JobRequest, ListRequest, checked_request, form_values, wish_of
from web.api.webhooks import checked_url
from web.app import Draft
from web.errors import WebError
from web.jobs import SPEAKERS_FILE, Speakers
from web.orders import sounds_of
from web.settings import ApiSettings

FIELDS = ("video", "audio")
SOUND = "sound "  # before the name of a sound of speakers


class Source(NamedTuple):
    """A file of a job."""

    path: Path
    name: str  # the client's
    content: str  # hash of an upload's content, or the path of a file of the server


def job_drafts(body: Body, settings: ApiSettings) -> tuple[list[Draft], str]:
    """The draft of one job, whose uploads are the form's fields video and audio, and the hash of its request.

    WebError for a wrong value, or a file that the server may not read.
    """
    uploads = {upload.field: Source(upload.path, upload.name, upload.sha256) for upload in body.uploads}
    if len(uploads) < len(body.uploads):
        raise WebError(texts.ONE_FILE_EACH)
    pair = {field: source for field, source in uploads.items() if field in FIELDS}
    values = {**body.values, **{field: source.name for field, source in pair.items()}}
    values = form_values(values) if body.is_form else values
    speakers = values.get("speakers")
    known = (*FIELDS, *(sounds_of(speakers) if isinstance(speakers, dict) else []))
    if unknown := uploads.keys() - set(known):
        reason = f"known are {' and '.join(known)}"
        raise WebError(texts.WRONG_FIELD.format(name=min(unknown), value="a file", reason=reason))
    request = checked_request(JobRequest, values)
    return one_draft("job", request, uploads, settings)


def one_draft(kind: str, request: Any, uploads: dict[str, Source], settings: ApiSettings) -> tuple[list[Draft], str]:
    """The draft of a `JobRequest` whose files are uploads, by their fields, or the server's; and its hash."""
    sources = sources_of(request, uploads, settings)
    return [draft_of(request, sources, settings)], fingerprint_of(kind, request, list(sources.values()))


def sources_of(request: Any, uploads: dict[str, Source], settings: ApiSettings) -> dict[str, Source]:
    """The files of a `JobRequest`: `video`, and `audio` or the sounds of its speakers, by their names there."""

    def source(name: str) -> Source:
        return uploads.get(name) or server_file(name, settings)

    video = uploads.get("video") or source(request.video)
    if not isinstance(request.speakers, dict):
        if not request.audio:
            raise WebError(texts.WRONG_FIELD.format(name="audio", value="missing", reason="give it"))
        return {"video": video, "audio": uploads.get("audio") or source(request.audio)}
    if request.audio and "audio" not in sounds_of(request.speakers):
        raise WebError(texts.AUDIO_AND_SPEAKERS)
    return {"video": video, **{f"{SOUND}{name}": source(name) for name in sounds_of(request.speakers)}}


def list_drafts(body: Body, settings: ApiSettings) -> tuple[list[Draft], str]:
    """The drafts of a list, whose jobs give the names of the form's uploads, and the hash of its request.

    WebError for a wrong value, or a file that the server may not read.
    """
    uploads = {upload.name: Source(upload.path, upload.name, upload.sha256) for upload in body.uploads}
    if len(uploads) < len(body.uploads):
        name = Counter(upload.name for upload in body.uploads).most_common(1)[0][0]
        raise WebError(texts.SAME_FILE_NAME.format(name=name))
    values = dict(body.values)
    if body.is_form and "jobs" in values:
        values["jobs"] = object_of(f'{{"jobs": {values["jobs"]}}}').get("jobs")
    request = checked_request(ListRequest, values)
    files = [sources_of(job, uploads_named(job, uploads), settings) for job in request.jobs]
    drafts = [draft_of(job, sources, settings) for job, sources in zip(request.jobs, files, strict=True)]
    return drafts, fingerprint_of("list", request, [source for sources in files for source in sources.values()])


def uploads_named(job: Any, uploads: dict[str, Source]) -> dict[str, Source]:
    """The uploads of a list, by their names, and those of a job of it also by the fields that name them."""
    own = {field: uploads[getattr(job, field)] for field in FIELDS if getattr(job, field) in uploads}
    return {**uploads, **own}


def server_file(text: str, settings: ApiSettings) -> Source:
    path = allowed_file(text, settings.input_folders)
    return Source(path, path.name, str(path))


def draft_of(request: Any, sources: dict[str, Source], settings: ApiSettings) -> Draft:
    """The draft of a `JobRequest` with its files; WebError for an adapter that the server may not read."""
    url = checked_url(request.webhook_url, settings) if request.webhook_url else ""
    video, audio = sources["video"], sources.get("audio")
    wish = wish_of(request)
    if adapters := adapters_of(wish.settings.get("adapter", "")):
        placed = adapter_text((allowed_file(str(path), settings.input_folders), scale) for path, scale in adapters)
        wish = replace(wish, settings={**wish.settings, "adapter": placed})
    if audio is not None:
        return Draft(wish, video.path, audio.path, (video.name, audio.name), url)
    sounds = {name.removeprefix(SOUND): source.path for name, source in sources.items() if name.startswith(SOUND)}
    file = Path(SPEAKERS_FILE)  # which the job's folder will have
    return Draft(wish, video.path, file, (video.name, file.name), url, Speakers(request.speakers, sounds))


def fingerprint_of(kind: str, request: Any, sources: list[Source]) -> str:
    """Hash of a request for jobs."""
    facts = [kind, request.model_dump(mode="json"), [source.content for source in sources]]
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()
