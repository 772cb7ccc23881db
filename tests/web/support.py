"""A server with tiny networks, and its clients, for the tests of the app."""

import os
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx

from latentsync.inference.pipeline import LipsyncPipeline
from tests.support.tiny import StubDetector, tiny_models
from web.errors import ErrorCode
from web.hidden_paths import NAME
from web.jobs import API_OWNER
from web.models import ModelChoice, Models
from web.serve import Server
from web.settings import ApiSettings, Limits

ROOT = Path(__file__).resolve().parents[2]
LIMITS = Limits(file_bytes=3_000_000, length_sec=20, unfinished_jobs_each=2)
TOKENS = {name: f"{name}-token-of-a-test-0123456789" for name in ("ann", "bob", "cat", "dan", "eve")}
API = ApiSettings(TOKENS)
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


class ApiClient:
    """A client of the job API."""

    def __init__(self, url: str, name: str = "ann"):
        self.owner, headers = f"{API_OWNER}{name}", {"authorization": f"Bearer {TOKENS[name]}"}
        self.http = httpx.Client(base_url=f"{url}api/v1", headers=headers, timeout=60)

    def post(self, pair: tuple[Path, Path], headers: Mapping[str, str] | None = None, **values: Any) -> httpx.Response:
        """Ask for a job of one sampling step, unless `values` say otherwise; those that are None are left out."""
        values = {"preset": "fast", "steps": 1, **values}
        given = {name: str(value) for name, value in values.items() if value is not None}
        with pair[0].open("rb") as video, pair[1].open("rb") as audio:
            return self.http.post("/jobs", data=given, files={"video": video, "audio": audio}, headers=headers)

    def submit(self, pair: tuple[Path, Path], **values: Any) -> str:
        """Make a job and return its id."""
        answer = self.post(pair, **values)
        assert answer.status_code == 201, answer.text
        return answer.json()["id"]

    def status(self, job_id: str) -> dict[str, Any]:
        return self.http.get(f"/jobs/{job_id}").raise_for_status().json()

    def cancel(self, job_id: str) -> dict[str, Any]:
        return self.http.post(f"/jobs/{job_id}/cancel").raise_for_status().json()

    def ended(self, job_id: str) -> dict[str, Any]:
        """Wait until a job has ended."""
        for _ in range(400):
            status = self.status(job_id)
            if status["state"] not in ("waiting", "running"):
                return status
            time.sleep(0.05)
        raise AssertionError(f"the job does not end: {status}")

    def report(self, job_id: str) -> dict[str, Any]:
        return self.http.get(f"/jobs/{job_id}/report").raise_for_status().json()

    def result(self, job_id: str, folder: Path) -> Path:
        """Save a job's result in a folder."""
        answer = self.http.get(f"/jobs/{job_id}/result").raise_for_status()
        path = folder / f"{job_id}{'.jpg' if answer.headers['content-type'] == 'image/jpeg' else '.mp4'}"
        path.write_bytes(answer.content)
        return path


def message_of(answer: httpx.Response, status: int) -> str:
    """The sentence of an answer of the API that is an error with this status."""
    assert answer.status_code == status, answer.text
    error = answer.json()["error"]
    assert ErrorCode(error["code"]).status == status
    assert "\n" not in error["message"] and error["message"].endswith((".", ")"))
    return error["message"]


def uploaded(server: Server, name: str, content: bytes) -> str:
    """The real path of a file that was uploaded as by the page."""
    answer = httpx.post(f"{server.url}gradio_api/upload", files={"files": (name, content)})
    assert answer.status_code == 200, answer.text
    return real_path(server, answer.json()[0])


def real_path(server: Server, named: str) -> str:
    """The path on the server of a file as the page names it."""
    assert named.startswith(f"{NAME}/"), named
    return named.replace(NAME, str(server.settings.folder.resolve()), 1)


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
