"""Webhooks: signed calls when a job has ended, tried again if they fail, and never to other hosts or private addresses."""

import json
import re
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import pytest

from tests.web.support import (
    API,
    LIMITS,
    ROOT,
    TOKENS,
    ApiClient,
    kept_environment,
    message_of,
    stub_models,
    wait_until,
)
from web.api.webhooks import Webhooks, checked_url, is_public, public_address
from web.errors import WebError
from web.serve import Server
from web.settings import ApiSettings, AppSettings
from web.store import JobStore


class Receiver(HTTPServer):
    """A host of a client: it keeps what it gets and answers with the next of `statuses`, at last with 204."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.calls: list[tuple[str, dict[str, str], bytes]] = []
        self.statuses: list[int] = []
        self.url = f"http://127.0.0.1:{self.server_port}/"


class Handler(BaseHTTPRequestHandler):
    server: Receiver

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["content-length"]))
        self.server.calls.append((self.path, {name.lower(): value for name, value in self.headers.items()}, body))
        self.send_response(self.server.statuses.pop(0) if self.server.statuses else 204)
        self.send_header("location", f"{self.server.url}elsewhere")
        self.end_headers()

    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    with Receiver() as running:
        thread = Thread(target=running.serve_forever)
        thread.start()
        yield running
        running.shutdown()
        thread.join()


def settings(receiver: Receiver, folder: Path, **api: Any) -> AppSettings:
    allowed = ApiSettings(
        TOKENS, webhook_hosts=(f"127.0.0.1:{receiver.server_port}",), **{"private_webhooks": True, **api}
    )
    return AppSettings(folder / "app", LIMITS, port=None, api=allowed)


@pytest.fixture
def app(receiver: Receiver, tmp_path: Path) -> Iterator[Server]:
    with kept_environment(), Server(stub_models(), settings(receiver, tmp_path)) as running:
        running.api.webhooks.retry_sec = (0.0, 0.0)
        yield running


def delivered(client: ApiClient, job_id: str) -> dict[str, Any]:
    """Wait until a job's webhook needs no further call."""
    wait_until(lambda: client.status(job_id)["webhook"]["state"] != "pending")
    return client.status(job_id)


def test_a_call_is_signed_and_told(app: Server, receiver: Receiver, pair: tuple[Path, Path]) -> None:
    client = ApiClient(app.url)
    status = delivered(client, client.submit(pair, kind="preflight", webhook_url=f"{receiver.url}done?shop=1"))
    assert status["webhook"] == {"url": f"{receiver.url}done?shop=1", "state": "delivered", "attempts": 1, "error": ""}
    [(path, headers, body)] = receiver.calls
    assert path == "/done?shop=1" and headers["host"] == f"127.0.0.1:{receiver.server_port}"
    sent = json.loads(body)
    assert sent["type"] == "job.ended" and sent["data"]["id"] == status["id"] and sent["data"]["state"] == "done"
    page = (ROOT / "docs/api.md").read_text(encoding="utf-8")
    names: dict[str, Any] = {}
    exec(
        next(code for code in re.findall(r"```python\n(.*?)```", page, flags=re.DOTALL) if "is_genuine" in code), names
    )
    assert names["is_genuine"](headers, body, TOKENS["ann"])
    assert not names["is_genuine"](headers, body, TOKENS["bob"]) and not names["is_genuine"](
        headers, body + b" ", TOKENS["ann"]
    )


def test_a_call_that_fails_is_made_again(app: Server, receiver: Receiver, pair: tuple[Path, Path]) -> None:
    client = ApiClient(app.url)
    receiver.statuses = [500, 404]
    status = delivered(client, client.submit(pair, kind="preflight", webhook_url=receiver.url))
    assert (status["webhook"]["state"], status["webhook"]["attempts"]) == ("delivered", 3)
    receiver.statuses, receiver.calls[:] = [302] * 3, []
    status = delivered(client, client.submit(pair, kind="preflight", webhook_url=receiver.url))
    assert (status["webhook"]["state"], status["webhook"]["attempts"]) == ("failed", 3)
    assert "redirects are not followed" in status["webhook"]["error"]
    assert {path for path, _, _ in receiver.calls} == {"/"}, "the other address was never called"


def test_other_hosts_are_refused_before_the_job_waits(app: Server, receiver: Receiver, pair: tuple[Path, Path]) -> None:
    client, port = ApiClient(app.url), receiver.server_port
    for url in (
        f"http://localhost:{port}/",
        "https://127.0.0.1/",
        f"http://127.0.0.1:{port + 1}/",
        "ftp://127.0.0.1/",
        "x",
    ):
        assert "webhook" in message_of(client.post(pair, webhook_url=url), 422)
    assert client.http.get("/jobs").json()["jobs"] == []


def test_a_call_goes_on_after_a_restart(receiver: Receiver, tmp_path: Path, pair: tuple[Path, Path]) -> None:
    with kept_environment(), Server(stub_models(), settings(receiver, tmp_path, private_webhooks=True)) as first:
        first.api.webhooks.stop()
        client = ApiClient(first.url)
        job_id = client.submit(pair, kind="preflight", webhook_url=receiver.url)
        client.ended(job_id)
        store = JobStore(first.settings.folder, LIMITS)
        assert not receiver.calls
    again = Webhooks(store, settings(receiver, tmp_path).api, TOKENS, lambda job: job.id.encode())
    again.start()
    wait_until(lambda: not store.due_webhooks())
    again.stop()
    assert [body for _, _, body in receiver.calls] == [job_id.encode()]


@pytest.mark.parametrize("private", [True, False])
def test_private_addresses_are_not_called(receiver: Receiver, private: bool) -> None:
    if private:
        assert public_address("127.0.0.1", receiver.server_port, allow_private=True) == "127.0.0.1"
        return
    with pytest.raises(OSError, match="private address 127.0.0.1"):
        public_address("127.0.0.1", receiver.server_port, allow_private=False)
    with pytest.raises(OSError, match="private address"):
        public_address("localhost", receiver.server_port, allow_private=False)


PRIVATE = [
    "127.0.0.1",
    "10.1.2.3",
    "192.168.0.1",
    "169.254.169.254",
    "0.0.0.0",
    "224.0.0.1",
    "100.64.0.1",
    "::1",
    "fe80::1%eth0",
]
PRIVATE += ["fc00::1", "::ffff:127.0.0.1", "2002:7f00:1::", "ff02::1", "::"]


def test_addresses_of_the_internet_are_told_from_private_ones() -> None:
    assert [address for address in PRIVATE if is_public(address)] == []
    assert is_public("8.8.8.8") and is_public("2606:4700:4700::1111")


def test_addresses_of_webhooks_are_checked() -> None:
    allowed = ApiSettings(webhook_hosts=("shop.example.org", "lab.example.org:8443"))
    for url in ("https://shop.example.org/x?y=1", "https://SHOP.example.org.:443", "https://lab.example.org:8443/"):
        assert checked_url(url, allowed) == url
    wrong = [
        "http://shop.example.org/",
        "https://shop.example.org:8443/",
        "https://lab.example.org/",
        "https://evil.test/",
    ]
    wrong += ["https://shop.example.org@evil.test/", "https://u:p@shop.example.org/", "https://shop.example.org:x/"]
    wrong += [
        "https://shop.example.org.evil.test/",
        "https://shop.example.org\\@evil.test/",
        "//shop.example.org/",
        "https://[",
    ]
    wrong += ["https://shop.example.org/\r\nx: y", "https:///x", "https://shop.example.org/ x", "javascript:alert(1)"]
    for url in wrong:
        with pytest.raises(WebError):
            checked_url(url, allowed)
    with pytest.raises(WebError, match="calls no webhooks"):
        checked_url("https://shop.example.org/", API)
