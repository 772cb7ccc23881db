"""Fixtures of the app's tests: a running server and a pair of files."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.tiny import make_audio, make_video
from tests.web.support import FOLDERS, LIMITS, stub_models
from web.serve import Server
from web.settings import AppSettings


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    before = {name: os.environ.get(name) for name in FOLDERS}
    with Server(stub_models(), AppSettings(tmp_path_factory.mktemp("app"), LIMITS, port=None)) as running:
        yield running
    for name, value in before.items():
        os.environ.pop(name) if value is None else os.environ.update({name: value})


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    folder = tmp_path_factory.mktemp("pair")
    return make_video(folder / "talk.mp4", 12), make_audio(folder / "new.wav", 0.4)
