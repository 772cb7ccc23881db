"""Disk space of the app: how much its users may store, and what is left of uploads that ended early.

An upload is a POST request of Gradio's route; `StoredUploads` stands around it, because Gradio limits single files only. Routes of
the job API that take files count them in the same place.
"""

import json
import shutil
from collections import defaultdict
from collections.abc import Awaitable, Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from latentsync.system import remove_file
from web import texts
from web.access import AsgiApp, Message, answer, network_of, route_path
from web.errors import ErrorCode, WebError
from web.files import tree
from web.sentences import size
from web.settings import BODY_BYTES, Limits
from web.store import JobStore

ROUTE = "/gradio_api/upload"
UNUSED = "/gradio_api/process_recording"  # Gradio's route that stores recordings of its own pages
FREE_BYTES = 500_000_000  # that uploads leave on the disk, for results


class StoredUploads:
    """Refuses uploads for which there is no room, and removes what aborted ones leave."""

    def __init__(self, store: JobStore):
        self.store, self.folder, self.limits = store, store.folder, store.limits
        self._coming: dict[object, tuple[str, int]] = {}  # an upload that goes on -> its client and size in bytes
        self._stored: defaultdict[str, set[Path]] = defaultdict(set)  # client -> its files of this run of the app

    def around(self, app: AsgiApp) -> AsgiApp:
        """The application `app` whose uploads are limited."""

        async def limited(scope: Message, receive: Any, send: Callable[[Message], Awaitable[None]]) -> None:
            if scope["type"] != "http" or scope["method"] != "POST":
                await app(scope, receive, send)
                return
            path = route_path(scope).rstrip("/")
            stated = dict(scope["headers"]).get(b"content-length", b"").decode("latin-1")
            if not stated.isdecimal():
                await answer(scope, send, 411, texts.LENGTH_UNKNOWN)
            elif path == ROUTE:
                await self._store(app, scope, receive, send, int(stated))
            elif path == UNUSED or int(stated) > BODY_BYTES:
                await answer(scope, send, 413, texts.LONG_REQUEST)
            else:
                await app(scope, receive, send)

        return limited

    def used_bytes(self, client: str) -> int:
        """Bytes that a client (a network address, or an owner of jobs) has stored, with the uploads that go on."""
        coming = sum(number for where, number in self._coming.values() if where == client)
        stored = {path.parent for path in self._stored[client]}  # a folder for each upload, with its copy for the page
        return coming + disk_bytes(stored | self.store.uploads_of(client))

    @contextmanager
    def receiving(self, client: str, length: int) -> Iterator[set[Path]]:
        """A context in which a client uploads at most `length` bytes, and which yields the set of stored files to be filled.

        WebError if there is no room for them. What is left of an upload that failed is removed.
        """
        self._check_room(client, length)
        upload, paths = object(), set[Path]()
        self._coming[upload] = client, length
        try:
            yield paths
        finally:
            del self._coming[upload]
            self._stored[client] = {path for path in self._stored[client] | paths if path.exists()}
            self.remove_aborted()

    def _check_room(self, client: str, length: int) -> None:
        coming = sum(number for _, number in self._coming.values())
        check_room(self.folder, self.limits, coming + length)
        if self.used_bytes(client) + length > self.limits.stored_bytes_each:
            raise WebError(texts.QUOTA_USED.format(limit=size(self.limits.stored_bytes_each)), ErrorCode.QUOTA_EXCEEDED)

    def remove_aborted(self) -> None:
        """Delete the temporary files of uploads, unless one goes on; what Windows keeps open is left to the next time."""
        if not self._coming:
            for path in self.folder.glob("tmp*"):
                if path.is_file():
                    remove_file(path)

    async def _store(
        self, app: AsgiApp, scope: Message, receive: Any, send: Callable[[Message], Awaitable[None]], length: int
    ) -> None:
        result = Result(send)
        try:
            with self.receiving(network_of((scope.get("client") or ("", 0))[0]), length) as paths:
                plain = [
                    entry for entry in scope["headers"] if entry[0].lower() != b"accept-encoding"
                ]  # the answer is read here
                try:
                    await app({**scope, "headers": plain}, receive, result.send)
                finally:
                    paths |= result.paths
        except WebError as error:
            await answer(scope, send, error.code.status, str(error))
            return
        except Exception:
            if not result.failed:
                raise
        if result.failed:
            is_full = shutil.disk_usage(self.folder).free < FREE_BYTES
            await answer(scope, send, 507 if is_full else 500, texts.DISK_FULL if is_full else texts.UPLOAD_FAILED)


class Result:
    """Passes on the answer to an upload, except for one of an internal error, and reads the paths of the stored files from it."""

    def __init__(self, send: Callable[[Message], Awaitable[None]]):
        self._send, self._body = send, b""
        self.failed = False

    async def send(self, message: Message) -> None:
        self.failed = self.failed or message.get("status", 200) >= 500
        if not self.failed:
            self._body += message.get("body", b"")
            await self._send(message)

    @property
    def paths(self) -> set[Path]:
        """The stored files; none if the upload was refused."""
        try:
            listed = json.loads(self._body)
        except ValueError:
            return set()
        return {Path(path) for path in listed if isinstance(path, str)} if isinstance(listed, list) else set()


def check_room(folder: Path, limits: Limits, length: int) -> None:
    """WebError if the app's folder has no room for `length` bytes more, of whomever."""
    if shutil.disk_usage(folder).free < length + FREE_BYTES:
        raise WebError(texts.DISK_FULL, ErrorCode.STORAGE_FULL)
    if disk_bytes([folder]) + length > limits.stored_bytes:
        raise WebError(texts.STORE_FULL.format(limit=size(limits.stored_bytes)), ErrorCode.STORAGE_FULL)


def disk_bytes(places: Iterable[Path]) -> int:
    """Bytes of files and of everything in folders; a file with several names counts once, one that is gone meanwhile not at all."""
    found: dict[int, int] = {}
    for place in places:
        for path in (place, *tree(place)):
            try:
                status = path.stat()
            except OSError:
                continue
            if path.is_file():
                found[status.st_ino] = status.st_size
    return sum(found.values())
