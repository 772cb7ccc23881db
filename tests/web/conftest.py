"""Fixtures of the app's tests: a running server and a pair of files."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.tiny import make_audio, make_video
from tests.web.support import API, LIMITS, kept_environment, stub_models
from web.serve import Server
from web.settings import AppSettings


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    settings = AppSettings(tmp_path_factory.mktemp("app"), LIMITS, port=None, api=API)
    with kept_environment(), Server(stub_models(), settings) as running:
        yield running


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    folder = tmp_path_factory.mktemp("pair")
    return make_video(folder / "talk.mp4", 12), make_audio(folder / "new.wav", 0.4)
