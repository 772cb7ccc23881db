"""The steps of the Dockerfile, tried without Docker: what is copied suffices, and its command serves what its check looks for."""

import ast
import json
import re
import shlex
import signal
import socket
import subprocess
import sys
import time
from fnmatch import fnmatch
from pathlib import Path

import pytest
import yaml

from latentsync.__main__ import VERBS
from tests.test_house import ROOT, kept_files
from tests.test_package import Installed, installed  # noqa: F401  (a fixture)

SECONDS = 120  # until the app must answer


def instructions() -> list[tuple[str, str]]:
    """(instruction, its argument) of the Dockerfile, continued lines joined."""
    text = re.sub(r"^#.*\n", "", (ROOT / "Dockerfile").read_text(), flags=re.MULTILINE).replace("\\\n", " ")
    return [(line.split(" ", 1)[0], line.split(" ", 1)[1].strip()) for line in text.splitlines() if line.strip()]


def argument(name: str) -> str:
    """The argument of the last instruction of that name."""
    return [value for instruction, value in instructions() if instruction == name][-1]


def context() -> set[str]:
    """The files that .dockerignore lets into the build: the last pattern that fits decides."""
    patterns = [line for line in (ROOT / ".dockerignore").read_text().splitlines() if line and not line.startswith("#")]

    def is_kept(name: str) -> bool:
        kept = True
        for pattern in patterns:
            bare = pattern.removeprefix("!").removeprefix("**/")
            parents = [name, *(str(parent) for parent in Path(name).parents)]
            if any(
                fnmatch(each, bare) and (each.count("/") == bare.count("/") or "**/" in pattern) for each in parents
            ):
                kept = pattern.startswith("!")
        return kept

    return {name for name in kept_files() if is_kept(name)}


def test_the_image_gets_what_the_wheel_holds_and_nothing_else() -> None:
    listed = re.search(r"SHIPPED = (\(.*?\n\))", (ROOT / "setup.py").read_text(), re.DOTALL)
    assert listed
    patterns: tuple[str, ...] = ast.literal_eval(listed[1])
    names = context()
    packaged = {name for name in kept_files() if name.startswith("latentsync/")}
    shipped = {name for name in kept_files() if any(Path(name).match(pattern) for pattern in patterns)}
    assert packaged | {"pyproject.toml", "setup.py", "LICENSE", "LICENSES.md"} <= names
    assert {name for name in shipped if not name.startswith("checkpoints/face/")} <= names
    assert not {name for name in names if name.split("/")[0] in ("tests", "docs", "benchmarks", "eval", ".git", "data")}


def test_the_image_runs_as_a_user_whose_files_are_in_a_volume() -> None:
    order = [name for name, _ in instructions()]
    assert argument("USER") not in ("root", "0") and order.index("USER") > order.index("COPY")
    assert f"LATENTSYNC_HOME={argument('VOLUME')}" in argument("ENV").split()
    entry, command = json.loads(argument("ENTRYPOINT")), json.loads(argument("CMD"))
    assert entry == ["latentsync"] and command[0] in VERBS


def test_compose_runs_the_same_image_on_cpus_and_on_gpus() -> None:
    services = yaml.safe_load((ROOT / "compose.yaml").read_text())["services"]
    assert services["app"]["build"]["args"] == {"TORCH": "cpu"} and services["gpu"]["build"]["args"] == {
        "TORCH": "cuda"
    }
    for service in services.values():
        assert service["volumes"] == [f"data:{argument('VOLUME')}"]
        assert service["ports"] == [f"127.0.0.1:{argument('EXPOSE')}:{argument('EXPOSE')}"], "others need a password"


@pytest.mark.slow
def test_the_command_of_the_image_serves_what_its_health_check_looks_for(installed: Installed, tmp_path: Path) -> None:  # noqa: F811
    pytest.importorskip("gradio")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    options, check = (
        shlex.split(argument("HEALTHCHECK").split("CMD")[0]),
        json.loads(argument("HEALTHCHECK").split("CMD")[1]),
    )
    assert any(option.startswith("--start-period") for option in options)
    check = [sys.executable, *(part.replace(argument("EXPOSE"), port) for part in check[1:])]

    def is_healthy() -> bool:
        return subprocess.run(check, capture_output=True).returncode == 0

    assert not is_healthy()
    command = [installed.command, *json.loads(argument("CMD")), "--port", port]
    variables = {**installed.variables, "LATENTSYNC_HOME": str(tmp_path)}
    app = subprocess.Popen(command, cwd=installed.work, env=variables)
    try:
        deadline = time.monotonic() + SECONDS
        while not is_healthy():
            assert app.poll() is None and time.monotonic() < deadline
            time.sleep(1)
        assert any(tmp_path.rglob("*")), "the app keeps its files in LATENTSYNC_HOME"
    finally:
        app.send_signal(signal.SIGINT)
        app.wait(30)
    assert not is_healthy()
