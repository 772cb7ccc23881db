"""The gate of the job API: every request needs a client's token, is counted, and gets its errors in one form."""

import math
from collections.abc import Awaitable, Callable
from typing import Any

from web import texts
from web.access import AsgiApp, Message, answer, network_of, route_path
from web.api.clients import RateLimit, client_of
from web.errors import ErrorCode
from web.settings import Limits

STRANGERS_PER_MINUTE = 30  # requests without a valid token, of one address
Send = Callable[[Message], Awaitable[None]]


class Gate:
    """ASGI application around the routes; they find the client's name in `request.state.client`."""

    def __init__(self, app: AsgiApp, public_path: str, tokens: dict[str, str], limits: Limits):
        """`public_path`: answered without a token."""
        self.app, self.public_path, self.tokens = app, public_path, tokens
        self.rates, self.strangers = RateLimit(limits.requests_per_minute), RateLimit(STRANGERS_PER_MINUTE)

    async def __call__(self, scope: Message, receive: Any, send: Send) -> None:
        if scope["type"] != "http" or route_path(scope) == self.public_path:
            await self.app(scope, receive, send)
            return
        headers = dict(scope["headers"])
        client = client_of(headers.get(b"authorization", b"").decode("latin-1"), self.tokens)
        if client is None:
            await self._refuse_stranger(scope, send)
            return
        left, window_sec = self.rates.take(client)
        shown = {
            "ratelimit-limit": str(self.rates.limit),
            "ratelimit-remaining": str(max(0, left)),
            "ratelimit-reset": str(math.ceil(window_sec)),
        }
        if left < 0:
            await refuse_rate(scope, send, window_sec, shown)
            return
        scope.setdefault("state", {})["client"] = client
        await self.app(scope, receive, with_plain_errors(scope, send, shown))

    async def _refuse_stranger(self, scope: Message, send: Send) -> None:
        left, window_sec = self.strangers.take(network_of((scope.get("client") or ("", 0))[0]))
        if left < 0:
            await refuse_rate(scope, send, window_sec, {})
        else:
            await answer(scope, send, 401, texts.API_TOKEN, {"www-authenticate": "Bearer"})


async def refuse_rate(scope: Message, send: Send, window_sec: float, headers: dict[str, str]) -> None:
    wait_sec = max(1, math.ceil(window_sec))
    sentence = texts.TOO_MANY_REQUESTS.format(count=wait_sec)
    await answer(scope, send, 429, sentence, {**headers, "retry-after": str(wait_sec)}, ErrorCode.RATE_LIMITED)


def with_plain_errors(scope: Message, send: Send, headers: dict[str, str]) -> Send:
    """A `send` that adds headers to an answer, and replaces the text of a refused range by an error of the API."""
    listed = [(name.encode(), value.encode()) for name, value in headers.items()]
    replaced = False

    async def send_answer(message: Message) -> None:
        nonlocal replaced
        if message["type"] == "http.response.start":
            given = dict(message.get("headers", ()))
            if message["status"] in (400, 416) and given.get(b"content-type", b"").startswith(b"text/plain"):
                replaced = True
                kept = {b"content-range": given[b"content-range"]} if b"content-range" in given else {}
                plain = {name.decode(): value.decode() for name, value in kept.items()} | headers
                await answer(scope, send, 416, texts.WRONG_RANGE, plain)
                return
            message["headers"] = [*message.get("headers", ()), *listed]
        if not replaced:
            await send(message)

    return send_answer
