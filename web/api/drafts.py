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
from web.settings import ApiSettings

FIELDS = ("video", "audio")


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
    if unknown := uploads.keys() - set(FIELDS):
        reason = f"known are {' and '.join(FIELDS)}"
        raise WebError(texts.WRONG_FIELD.format(name=min(unknown), value="a file", reason=reason))
    if len(uploads) < len(body.uploads):
        raise WebError(texts.ONE_FILE_EACH)
    values = {**body.values, **{field: source.name for field, source in uploads.items()}}
    request = checked_request(JobRequest, form_values(values) if body.is_form else values)
    pair = [uploads.get(field) or server_file(getattr(request, field), settings) for field in FIELDS]
    return [draft_of(request, pair, settings)], fingerprint_of("job", request, pair)


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
    pairs = [
        [uploads.get(getattr(job, field)) or server_file(getattr(job, field), settings) for field in FIELDS]
        for job in request.jobs
    ]
    drafts = [draft_of(job, pair, settings) for job, pair in zip(request.jobs, pairs, strict=True)]
    return drafts, fingerprint_of("list", request, [source for pair in pairs for source in pair])


def server_file(text: str, settings: ApiSettings) -> Source:
    path = allowed_file(text, settings.input_folders)
    return Source(path, path.name, str(path))


def draft_of(request: Any, pair: list[Source], settings: ApiSettings) -> Draft:
    """The draft of a `JobRequest` with its video and audio; WebError for an adapter that the server may not read."""
    url = checked_url(request.webhook_url, settings) if request.webhook_url else ""
    video, audio = pair
    wish = wish_of(request)
    if adapters := adapters_of(wish.settings.get("adapter", "")):
        placed = adapter_text((allowed_file(str(path), settings.input_folders), scale) for path, scale in adapters)
        wish = replace(wish, settings={**wish.settings, "adapter": placed})
    return Draft(wish, video.path, audio.path, (video.name, audio.name), url)


def fingerprint_of(kind: str, request: Any, sources: list[Source]) -> str:
    """Hash of a request for jobs."""
    facts = [kind, request.model_dump(mode="json"), [source.content for source in sources]]
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()
