"""The app's folder under another name: Gradio names files by their paths on the server, which are none of its users' business.

Gradio answers an upload with its absolute path, and the page sends that back. `HiddenPaths` stands around Gradio and writes `NAME`
for the folder in answers, and the folder for `NAME` in requests. Files, scripts and styles pass unchanged. Gradio would also give
out every file of the folder, keys and records included: those are refused.
"""

import json
import os
import re
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any
from urllib.parse import quote

from web import texts
from web.access import AsgiApp, Message, answer, route_path
from web.jobs import RECORD
from web.settings import BODY_BYTES

NAME = "/app-files"  # in place of the folder's path
FILES, UNCHANGED = re.compile(r"/gradio_api/file[=/](.*)", re.DOTALL), ("/assets/", "/static/")
JSON, STREAM, TEXTS = b"application/json", b"text/event-stream", (b"application/json", b"text/html", b"text/plain")
Send = Callable[[Message], Awaitable[None]]


class HiddenPaths:
    """Replaces the path of a folder by `NAME` in what a page is answered, and back in what it sends."""

    def __init__(self, folder: Path):
        self.folder = str(folder)
        in_json = [json.dumps(self.folder, ensure_ascii=is_ascii)[1:-1] for is_ascii in (False, True)]
        forms = {form.encode() for form in (self.folder, *in_json, quote(self.folder))}
        self._forms = sorted(forms, key=len, reverse=True)
        self._as_sent, self._as_meant = f'"{NAME}/'.encode(), f'"{in_json[1]}/'.encode()

    def around(self, app: AsgiApp) -> AsgiApp:
        """The application `app`, which works with the real paths."""

        async def hidden(scope: Message, receive: Any, send: Send) -> None:
            path = route_path(scope) if scope["type"] == "http" else ""
            if not path or path.startswith(UNCHANGED):
                await app(scope, receive, send)
            elif found := FILES.fullmatch(path):
                await self._give(found[1], app, scope, receive, send)
            else:
                asked, receive = await self._with_real_paths(scope, receive)
                await app(asked, receive, Answer(self._without_folder, send).send)

        return hidden

    async def _give(self, named: str, app: AsgiApp, scope: Message, receive: Any, send: Send) -> None:
        """Answer a request for the file `named`, unless it is one of the app's own."""
        real = self.folder + named.removeprefix(NAME) if named.startswith(f"{NAME}/") else named
        if self._is_private(Path(os.path.abspath(real))):
            await answer(scope, send, 404, texts.FILE_GONE.format(name=Path(real).name))
            return
        path = scope["path"].removesuffix(named) + real
        await app({**scope, "path": path, "raw_path": quote(path).encode()}, receive, send)

    def _is_private(self, path: Path) -> bool:
        """Whether a file is neither an upload nor a result: keys and tables are in the folder itself, records beside results."""
        is_record = path.name.lower() == RECORD
        return is_record or (path.parent.is_dir() and os.path.samefile(path.parent, self.folder))

    async def _with_real_paths(self, scope: Message, receive: Any) -> tuple[Message, Any]:
        """A request whose JSON has the real paths, and whose answer comes uncompressed, so that it can be read here."""
        headers = [(name.lower(), value) for name, value in scope["headers"] if name.lower() != b"accept-encoding"]
        length = dict(headers).get(b"content-length", b"").decode("latin-1")
        is_short = length.isdecimal() and int(length) <= BODY_BYTES  # any other is refused further inside
        if not (dict(headers).get(b"content-type", b"").startswith(JSON) and is_short):
            return {**scope, "headers": headers}, receive
        body = (await whole_body(receive)).replace(self._as_sent, self._as_meant)
        kept = [entry for entry in headers if entry[0] != b"content-length"]
        bodies = [{"type": "http.request", "body": body, "more_body": False}]

        async def receive_body() -> Message:
            return bodies.pop() if bodies else await receive()

        return {**scope, "headers": [*kept, (b"content-length", str(len(body)).encode())]}, receive_body

    def _without_folder(self, text: bytes) -> bytes:
        for form in self._forms:
            text = text.replace(form, NAME.encode())
        return text


async def whole_body(receive: Any) -> bytes:
    """The body of a request, as far as it came if the client went away."""
    body, is_more = b"", True
    while is_more:
        message = await receive()
        body += message.get("body", b"")
        is_more = message.get("more_body", False)
    return body


class Answer:
    """Passes an answer on, changed: a stream of events piece by piece, other texts as a whole."""

    def __init__(self, changed: Callable[[bytes], bytes], send: Send):
        self._changed, self._send = changed, send
        self._begin: Message = {}
        self._kind = self._body = b""

    async def send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self._begin, self._kind = message, dict(message.get("headers", ())).get(b"content-type", b"")
        if self._kind.startswith(TEXTS):
            await self._send_as_a_whole(message)
        elif self._kind.startswith(STREAM) and "body" in message:
            await self._send({**message, "body": self._changed(message["body"])})
        else:
            await self._send(message)

    async def _send_as_a_whole(self, message: Message) -> None:
        self._body += message.get("body", b"")
        if message["type"] == "http.response.start" or message.get("more_body", False):
            return
        body = self._changed(self._body)
        kept = [entry for entry in self._begin.get("headers", ()) if entry[0].lower() != b"content-length"]
        await self._send({**self._begin, "headers": [*kept, (b"content-length", str(len(body)).encode())]})
        await self._send({**message, "body": body})
