"""Disk space of the app: how much its users may store, and what is left of uploads that ended early.

An upload is a POST request of Gradio's route; `StoredUploads` stands around it, because Gradio limits single files only.
"""

import json
import shutil
from collections import defaultdict
from collections.abc import Awaitable, Callable, Iterable
from pathlib import Path
from typing import Any

from web import texts
from web.access import AsgiApp, Message, answer, network_of
from web.sentences import size
from web.settings import Limits

ROUTE = "/gradio_api/upload"
UNUSED = "/gradio_api/process_recording"  # Gradio's route that stores recordings of its own pages
BODY_BYTES = 1_000_000  # of any other request
FREE_BYTES = 500_000_000  # that uploads leave on the disk, for results


class StoredUploads:
    """Refuses uploads for which there is no room, and removes what aborted ones leave."""

    def __init__(self, folder: Path, limits: Limits):
        self.folder, self.limits = folder, limits
        self._coming: dict[object, tuple[str, int]] = {}  # an upload that goes on -> its address and size in bytes
        self._stored: defaultdict[str, set[Path]] = defaultdict(set)  # address -> its files

    def around(self, app: AsgiApp) -> AsgiApp:
        """The application `app` whose uploads are limited."""

        async def limited(scope: Message, receive: Any, send: Callable[[Message], Awaitable[None]]) -> None:
            if scope["type"] != "http" or scope["method"] != "POST":
                await app(scope, receive, send)
                return
            path = scope["path"].rstrip("/")
            stated = dict(scope["headers"]).get(b"content-length", b"").decode("latin-1")
            if not stated.isdecimal():
                await answer(send, 411, texts.LENGTH_UNKNOWN)
            elif path == ROUTE:
                await self._store(app, scope, receive, send, int(stated))
            elif path == UNUSED or int(stated) > BODY_BYTES:
                await answer(send, 413, texts.LONG_REQUEST)
            else:
                await app(scope, receive, send)

        return limited

    def refusal(self, address: str, length: int) -> tuple[int, str]:
        """HTTP status and sentence if there is no room for an upload of `length` bytes; (0, "") if there is."""
        coming = sum(number for _, number in self._coming.values())
        coming_here = sum(number for where, number in self._coming.values() if where == address)
        if shutil.disk_usage(self.folder).free < coming + length + FREE_BYTES:
            return 507, texts.DISK_FULL
        if disk_bytes([self.folder]) + coming + length > self.limits.stored_bytes:
            return 507, texts.STORE_FULL.format(limit=size(self.limits.stored_bytes))
        if disk_bytes(self._stored[address]) + coming_here + length > self.limits.stored_bytes_each:
            return 413, texts.QUOTA_USED.format(limit=size(self.limits.stored_bytes_each))
        return 0, ""

    def remove_aborted(self) -> None:
        """Delete the temporary files of uploads, unless one goes on."""
        if not self._coming:
            for path in self.folder.glob("tmp*"):
                if path.is_file():
                    path.unlink(missing_ok=True)

    async def _store(
        self, app: AsgiApp, scope: Message, receive: Any, send: Callable[[Message], Awaitable[None]], length: int
    ) -> None:
        address, upload = network_of((scope.get("client") or ("", 0))[0]), object()
        status, sentence = self.refusal(address, length)
        if status:
            await answer(send, status, sentence)
            return
        self._coming[upload] = address, length
        result = Result(send)
        try:
            plain = [
                entry for entry in scope["headers"] if entry[0].lower() != b"accept-encoding"
            ]  # the answer is read here
            await app({**scope, "headers": plain}, receive, result.send)
        except Exception:
            if not result.failed:
                raise
        finally:
            del self._coming[upload]
            self._stored[address] = {path for path in self._stored[address] | result.paths if path.exists()}
            self.remove_aborted()
        if result.failed:
            is_full = shutil.disk_usage(self.folder).free < FREE_BYTES
            await answer(send, 507 if is_full else 500, texts.DISK_FULL if is_full else texts.UPLOAD_FAILED)


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


def disk_bytes(places: Iterable[Path]) -> int:
    """Bytes of files and of everything in folders; a file with several names counts once, a missing one not at all."""
    found: dict[int, int] = {}
    for place in places:
        for path in [place, *place.rglob("*")] if place.is_dir() else [place]:
            try:
                status = path.stat()
            except OSError:
                continue
            if path.is_file():
                found[status.st_ino] = status.st_size
    return sum(found.values())
