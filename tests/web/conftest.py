"""Fixtures of the app's tests: a running server and a pair of files."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.tiny import make_audio, make_video
from tests.web.support import API, LIMITS, kept_environment, stub_models, wait_until
from web.serve import Server
from web.settings import AppSettings


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    settings = AppSettings(tmp_path_factory.mktemp("app"), LIMITS, port=None, api=API)
    with kept_environment(), Server(stub_models(), settings) as running:
        yield running


@pytest.fixture(autouse=True)
def no_job_left(request: pytest.FixtureRequest) -> Iterator[None]:
    """After each test with the shared server its jobs have ended, so that none counts in the next test."""
    yield
    if "server" in request.fixturenames:
        app = request.getfixturevalue("server").app
        left = [job for job in app.store._jobs.values() if not job.is_over]
        for job in left:
            app.engine.cancel(job)
        wait_until(lambda: all(job.is_over for job in left))


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    folder = tmp_path_factory.mktemp("pair")
    return make_video(folder / "talk.mp4", 12), make_audio(folder / "new.wav", 0.4)
