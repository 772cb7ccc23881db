"""Bodies of requests that make jobs: JSON with paths of the server's files, or a form with uploads.

Uploads of a form are in the app's folder until the jobs have their own copies; an app that is killed meanwhile deletes them later.
"""

import json
import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gradio.route_utils import GradioMultiPartParser, GradioUploadFile
from python_multipart.multipart import parse_options_header
from starlette.formparsers import MultiPartException
from starlette.requests import Request

from latentsync.system import replace_file
from web import texts
from web.errors import ErrorCode, WebError
from web.files import plain_stem, plain_suffix, remove_own
from web.sentences import size
from web.settings import BODY_BYTES

MAX_FILES = 200  # of one request
SHOWN_NAME = 200  # characters of a file's name
FORM, JSON = "multipart/form-data", "application/json"


@dataclass(frozen=True)
class Upload:
    """A file of a form."""

    field: str
    name: str  # the client's, without folders
    path: Path  # the only file of its folder
    sha256: str


@dataclass(frozen=True)
class Body:
    """The parsed body of a request."""

    values: dict[str, Any]  # fields that are no files
    uploads: tuple[Upload, ...] = ()
    is_form: bool = False

    def remove_uploads(self) -> None:
        """Delete the uploads, of which jobs have copies."""
        for upload in self.uploads:
            remove_own(upload.path.parent)


class FormParser(GradioMultiPartParser):
    """Reads a form and writes its files; a field that is no file is limited."""

    def on_part_data(self, data: bytes, start: int, end: int) -> None:
        super().on_part_data(data, start, end)
        if self._current_part.file is None and len(self._current_part.data) > BODY_BYTES:
            raise MultiPartException(texts.FIELD_TOO_LARGE.format(limit=size(BODY_BYTES)))


def media_type(request: Request) -> str:
    """`FORM` or `JSON`; WebError for any other body."""
    kind = parse_options_header(request.headers.get("content-type", ""))[0].decode("latin-1")
    if kind not in (FORM, JSON):
        raise WebError(texts.WRONG_MEDIA_TYPE, ErrorCode.UNSUPPORTED_MEDIA_TYPE)
    return kind


def body_length(request: Request) -> int:
    """Bytes of the body as stated; WebError if they are not stated."""
    stated = request.headers.get("content-length", "")
    if not (stated.isascii() and stated.isdecimal()):
        raise WebError(texts.LENGTH_UNKNOWN, ErrorCode.LENGTH_REQUIRED)
    return int(stated)


async def json_body(request: Request) -> Body:
    """The object in a JSON body; WebError if it is none, or too long."""
    if body_length(request) > BODY_BYTES:
        raise WebError(texts.FIELD_TOO_LARGE.format(limit=size(BODY_BYTES)), ErrorCode.TOO_LARGE)
    return Body(object_of(await request.body()))


async def form_body(request: Request, folder: Path, file_bytes: int) -> Body:
    """The fields of a form, and its files, stored in `folder`; WebError if it cannot be read, or a file exceeds `file_bytes`."""
    parser = FormParser(
        request.headers,
        request.stream(),
        max_files=MAX_FILES,
        max_fields=MAX_FILES,
        upload_dir=folder,
        max_file_size=file_bytes,
    )
    try:
        form = await parser.parse()
    except MultiPartException as error:
        if "maximum allowed size of" in error.message and "Headers" not in error.message:
            raise WebError(texts.FILE_TOO_LARGE.format(limit=size(file_bytes)), ErrorCode.TOO_LARGE) from error
        raise WebError(texts.BAD_BODY.format(kind="a form", reason=error.message.rstrip("."))) from error
    fields = [(name, value) for name, value in form.multi_items() if isinstance(value, str) and value]
    files = [(name, value) for name, value in form.multi_items() if isinstance(value, GradioUploadFile)]
    return Body(dict(fields), tuple(stored(name, file, folder) for name, file in files), is_form=True)


def stored(field: str, file: GradioUploadFile, folder: Path) -> Upload:
    """A received file, moved to a folder of its own; the sweep of uploads knows such a folder by its name."""
    own = folder / secrets.token_hex(32)
    own.mkdir(mode=0o700)
    name = Path(str(file.filename).replace("\\", "/")).name[:SHOWN_NAME] or "file"
    path = own / f"{plain_stem(name)}{plain_suffix(Path(name))}"
    file.file.close()
    replace_file(file.file.name, path)
    return Upload(field, name, path, file.sha.hexdigest())


def object_of(content: bytes | str) -> dict[str, Any]:
    """A JSON object; WebError for anything else."""
    try:
        value = json.loads(content)
    except (ValueError, RecursionError) as error:
        reason = str(error) if isinstance(error, json.JSONDecodeError) else "it cannot be parsed"
        raise WebError(texts.BAD_BODY.format(kind="JSON", reason=reason)) from error
    if not isinstance(value, dict):
        raise WebError(texts.BAD_BODY.format(kind="a JSON object", reason=f"it is a {type(value).__name__}"))
    return value


def allowed_file(text: str, folders: Sequence[Path]) -> Path:
    """The real path of a file in one of the folders, or below; the same WebError for a missing file and one elsewhere."""
    if not folders:
        raise WebError(texts.NO_INPUT_FOLDER.format(name=Path(text).name))
    for folder in folders:
        try:
            real = (folder / text).resolve()
            if real.is_relative_to(folder.resolve()) and real.is_file():
                return real
        except (OSError, ValueError, RuntimeError):  # a name that no file can have, or a circle of links
            continue
    raise WebError(texts.OUTSIDE_INPUT_FOLDERS.format(name=Path(text).name))
