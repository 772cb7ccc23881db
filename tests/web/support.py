"""A server with tiny networks, and its clients, for the tests of the app."""

import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
from gradio_client import Client, handle_file

from latentsync.inference.pipeline import LipsyncPipeline
from tests.support.tiny import StubDetector, tiny_models
from web.models import ModelChoice, Models
from web.serve import Server
from web.settings import Limits

ROOT = Path(__file__).resolve().parents[2]
LIMITS = Limits(file_bytes=3_000_000, length_sec=20, unfinished_jobs_each=2)
FILE = {"meta": {"_type": "gradio.FileData"}}  # how Gradio knows a file
VARIABLES = ("GRADIO_TEMP_DIR", "GRADIO_RUN_HISTORY", "FORWARDED_ALLOW_IPS")  # that a server sets


@contextmanager
def kept_environment() -> Iterator[None]:
    """Restores what a server changes in the environment, so that the tests' other server keeps its folder."""
    before = {name: os.environ.get(name) for name in VARIABLES}
    try:
        yield
    finally:
        for name, value in before.items():
            os.environ.pop(name, None) if value is None else os.environ.update({name: value})


def stub_models() -> Models:
    choice = ModelChoice("demo", Path(__file__), "stub")
    return Models({"demo": choice}, lambda _: LipsyncPipeline(tiny_models(), StubDetector()))


def client_of(server: Server, folder: Path) -> Client:
    return Client(server.url, download_files=str(folder), verbose=False)


def submit(client: Client, pair: tuple[Path, Path], **wish: Any) -> str:
    wish = {"preset": "fast", "steps": 1, **wish}
    return client.predict(video=handle_file(pair[0]), audio=handle_file(pair[1]), api_name="/submit", **wish)


def ended(client: Client, job_id: str) -> dict[str, Any]:
    for _ in range(400):
        status = client.predict(job_id, api_name="/status")
        if status["state"] not in ("waiting", "running"):
            return status
        time.sleep(0.05)
    raise AssertionError(f"the job does not end: {status}")


def uploaded(server: Server, name: str, content: bytes) -> str:
    answer = httpx.post(f"{server.url}gradio_api/upload", files={"files": (name, content)})
    assert answer.status_code == 200, answer.text
    return answer.json()[0]


def raw_submit(server: Server, video: Any, audio: Any) -> str:
    """The last event of a submission over bare HTTP."""
    data = [video, audio, "preflight", "fast", 1, 1, 0, "largest", "bounce", "cut", "passthrough", ""]
    posted = httpx.post(f"{server.url}gradio_api/call/submit", json={"data": data})
    return httpx.get(f"{server.url}gradio_api/call/submit/{posted.json()['event_id']}", timeout=30).text


def wait_until(holds: Callable[[], bool]) -> None:
    """Wait for a condition that another thread brings about; AssertionError if it never does."""
    for _ in range(1200):
        if holds():
            return
        time.sleep(0.05)
    raise AssertionError("what was waited for did not happen.")


def files_in(server: Server) -> set[Path]:
    """All files of the app."""
    return {path for path in server.settings.folder.rglob("*") if path.is_file()}
