"""The job API under thousands of requests made from its own description, by schemathesis where that is installed."""

import importlib.util
import os
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.web.support import API, LIMITS, TOKENS, kept_environment, stub_models
from web.serve import Server
from web.settings import AppSettings

# Folder of packages in which schemathesis is, for environments without it: `pip install --target FOLDER schemathesis`
ELSEWHERE = os.environ.get("LATENTSYNC_SCHEMATHESIS", "")
REQUESTS = 2000
CHECKS = (
    *("not_a_server_error", "status_code_conformance", "content_type_conformance"),
    *("response_headers_conformance", "response_schema_conformance"),
)


@pytest.fixture
def server(tmp_path: Path, pair: tuple[Path, Path]) -> Iterator[Server]:
    """An app whose clients may ask often, and use the files of the pair's folder."""
    limits = replace(LIMITS, requests_per_minute=1_000_000, unfinished_jobs=50, unfinished_jobs_each=40)
    api = replace(API, input_folders=(pair[0].parent,))
    with (
        kept_environment(),
        Server(stub_models(), AppSettings(tmp_path / "app", limits, port=None, api=api)) as running,
    ):
        yield running


def counted(server: Server) -> Counter[int]:
    """Counts the answers of the API by their status, from now on."""
    answers: Counter[int] = Counter()
    inner = server.api.asgi.app

    async def counting(scope: Any, receive: Any, send: Any) -> None:
        async def noting(message: Any) -> None:
            if message["type"] == "http.response.start":
                answers[message["status"]] += 1
            await send(message)

        await inner(scope, receive, noting)

    server.api.asgi.app = counting
    return answers


@pytest.mark.slow
@pytest.mark.skipif(
    not ELSEWHERE and importlib.util.find_spec("schemathesis") is None, reason="schemathesis is not installed"
)
def test_two_thousand_requests_bring_no_internal_error(server: Server, tmp_path: Path) -> None:
    answers = counted(server)
    run = [sys.executable, "-m", "schemathesis.cli", "run", f"{server.url}api/v1/openapi.json"]
    sent = ["--header", f"Authorization: Bearer {TOKENS['ann']}", "--request-timeout", "120", "--workers", "1"]
    made = [
        "--max-examples",
        "150",
        "--seed",
        "1",
        "--suppress-health-check",
        "all",
        "--no-color",
        "--continue-on-failure",
    ]
    checked = ["--checks", ",".join(CHECKS)]
    environment = {**os.environ, "PYTHONPATH": ELSEWHERE} if ELSEWHERE else dict(os.environ)
    done = subprocess.run([*run, *sent, *made, *checked], cwd=tmp_path, env=environment, capture_output=True, text=True)
    print(done.stdout[-20_000:], done.stderr[-2000:], dict(answers))
    assert done.returncode == 0, done.stdout[-5000:]
    assert sum(answers.values()) >= REQUESTS and max(answers) < 500, answers
