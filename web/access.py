"""Who may use the app: its names, the origin of requests, and attempts to log in.

A page of another site reaches an app on this computer through the browser of the app's user: by a host name of its own that
leads here (DNS rebinding), or by requests whose answers it cannot read. The headers Host and Origin show both.
"""

import json
import math
import socket
import time
from collections.abc import Awaitable, Callable, Iterable, MutableMapping
from ipaddress import ip_address, ip_network
from typing import Any
from urllib.parse import urlsplit

from web import texts
from web.errors import ErrorCode, code_of

Message = MutableMapping[str, Any]
AsgiApp = Callable[..., Awaitable[None]]

API_PREFIX = "/api/"  # of the job API's paths
DEFAULT_PORTS = {"http": 80, "https": 443}
FREE_ATTEMPTS = 5  # wrong passwords before the first wait
LONGEST_WAIT_SEC = 300.0
FORGET_SEC = 3600.0  # after the last attempt
SHOWN_LENGTH = 100  # characters of a refused host name


class HostNames:
    """The names under which the app answers: any IP address, localhost, this machine's names, and those that were given."""

    def __init__(self, given: Iterable[str] = ()):
        own = socket.gethostname()
        self.names = {"localhost", own, f"{own}.local", socket.getfqdn(), *given}
        self.names = {name.lower().rstrip(".") for name in self.names}

    def accepts(self, host: str) -> bool:
        """Whether a Host header is one of the names; a page of another site always has a name of its own, not an address."""
        name, _ = host_and_port(host, "http")
        return is_address(name) or name in self.names


def host_and_port(netloc: str, scheme: str) -> tuple[str, int | None]:
    """Lower-case name and port of `name:port`, with the scheme's default port; an empty name if it cannot be parsed."""
    try:
        parts = urlsplit(f"//{netloc}")
        return (parts.hostname or "").rstrip("."), parts.port or DEFAULT_PORTS.get(scheme)
    except ValueError:
        return "", None


def is_address(name: str) -> bool:
    """Whether a host name is an IPv4 or IPv6 address."""
    try:
        ip_address(name)
    except ValueError:
        return False
    return True


def is_own_origin(origin: str, host: str) -> bool:
    """Whether the Origin header of a request names the host that the request was sent to."""
    scheme, _, netloc = origin.partition("://")
    name, port = host_and_port(netloc, scheme)
    return bool(name) and scheme in DEFAULT_PORTS and (name, port) == host_and_port(host, scheme)


def network_of(address: str) -> str:
    """The network that one client can choose its addresses from: an IPv4 address, or the first half of an IPv6 address."""
    if not is_address(address) or ip_address(address).version == 4:
        return address
    return str(ip_network(f"{address.partition('%')[0]}/64", strict=False))


def route_path(scope: Message) -> str:
    """The path of a request without the prefix of a proxy (GRADIO_ROOT_PATH), which the proxy may have left or removed."""
    path, prefix = scope["path"], str(scope.get("root_path", "")).rstrip("/")
    return path[len(prefix) :] if prefix and path.startswith(f"{prefix}/") else path


class LoginBrake:
    """Delays attempts to log in: after `FREE_ATTEMPTS` wrong passwords from an address each further one doubles a wait."""

    def __init__(self) -> None:
        self.clock = time.monotonic
        self._attempts: dict[str, tuple[int, float]] = {}  # address -> attempts, time from which the next is allowed

    def wait_sec(self, address: str) -> float:
        """Seconds until the next attempt from an address is allowed; 0: now."""
        return max(0.0, self._attempts.get(address, (0, 0.0))[1] - self.clock())

    def attempt(self, address: str) -> None:
        """Record an attempt before its result is known, so that attempts at the same time count too."""
        now = self.clock()
        self._attempts = {key: known for key, known in self._attempts.items() if now - known[1] < FORGET_SEC}
        count = self._attempts.get(address, (0, 0.0))[0] + 1
        over = count - FREE_ATTEMPTS
        pause_sec = min(LONGEST_WAIT_SEC, 2.0**over) if over >= 0 else 0.0
        self._attempts[address] = count, now + pause_sec

    def succeeded(self, address: str) -> None:
        self._attempts.pop(address, None)


class Guard:
    """ASGI application around another one: refuses requests of other sites and under other names, and slows down logging in."""

    def __init__(self, names: HostNames):
        self.names, self.brake = names, LoginBrake()

    def around(self, app: AsgiApp) -> AsgiApp:
        """The application `app` behind this guard."""

        async def guarded(scope: Message, receive: Any, send: Callable[[Message], Awaitable[None]]) -> None:
            if scope["type"] != "http":
                await app(scope, receive, send)
                return
            headers = {name.decode("latin-1").lower(): value.decode("latin-1") for name, value in scope["headers"]}
            if reason := self.refusal(headers):
                await answer(scope, send, 403, reason)
            elif scope["method"] == "POST" and route_path(scope).rstrip("/").endswith("/login"):
                await self._login(app, scope, receive, send)
            else:
                await app(scope, receive, send)

        return guarded

    def refusal(self, headers: dict[str, str]) -> str:
        """Why a request with these headers is refused, as one sentence; empty if it is allowed."""
        host, origin = headers.get("host", ""), headers.get("origin")
        if not self.names.accepts(host):
            return texts.FOREIGN_HOST.format(host=host_and_port(host, "http")[0][:SHOWN_LENGTH] or "?")
        return texts.FOREIGN_ORIGIN if origin is not None and not is_own_origin(origin, host) else ""

    async def _login(
        self, app: AsgiApp, scope: Message, receive: Any, send: Callable[[Message], Awaitable[None]]
    ) -> None:
        address = network_of((scope.get("client") or ("", 0))[0])
        wait_sec = math.ceil(self.brake.wait_sec(address))
        if wait_sec:
            await answer(scope, send, 429, texts.WAIT_TO_LOG_IN.format(count=wait_sec), {"retry-after": str(wait_sec)})
            return
        self.brake.attempt(address)

        async def send_and_note(message: Message) -> None:
            if message["type"] == "http.response.start" and message["status"] < 400:
                self.brake.succeeded(address)
            await send(message)

        await app(scope, receive, send_and_note)


async def answer(
    scope: Message,
    send: Callable[[Message], Awaitable[None]],
    status: int,
    sentence: str,
    headers: dict[str, str] | None = None,
    code: ErrorCode | None = None,
) -> None:
    """Send an error of one sentence: as text, or as the job API states errors if the request was sent to it."""
    is_api = route_path(scope).startswith(API_PREFIX)
    body = error_body(code or code_of(status), sentence) if is_api else sentence.encode()
    kind = "application/json" if is_api else "text/plain; charset=utf-8"
    named = {"content-type": kind, "content-length": str(len(body)), **(headers or {})}
    listed = [(name.encode(), value.encode()) for name, value in named.items()]
    await send({"type": "http.response.start", "status": status, "headers": listed})
    await send({"type": "http.response.body", "body": body})


def error_body(code: ErrorCode, sentence: str) -> bytes:
    """The body of the job API's answers that are errors."""
    return json.dumps({"error": {"code": code.value, "message": sentence}}).encode()
