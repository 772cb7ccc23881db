"""Downloading checkpoints from a local server that behaves like the hub: lost connections, resuming, verification, errors."""

import hashlib
import json
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import huggingface_hub.constants
import pytest
import torch

from latentsync.models.unet.checkpoint import load_unet
from latentsync.weights import CheckpointError, PublicFile, UnreachableError, hub
from latentsync.weights.hub import fetch, file_state
from latentsync.weights.sources import release_of, stored_sources
from latentsync.weights.table import FETCH, IMAGENET, files_of
from scripts import download_checkpoints
from tests.weights.test_weights import tensors_of

COMMIT = "c" * 40
CUT_BYTES = 40_000


@dataclass
class Hub:
    """The server's files, its faults, and the requests that it received."""

    address: str
    files: dict[str, bytes] = field(default_factory=dict)  # by REPOSITORY/NAME
    cuts: int = 0  # responses that end after CUT_BYTES
    ignores_ranges: bool = False
    lies: bool = False  # sends other bytes than its hash states
    is_gated: bool = False
    requests: list[tuple[str, str, str]] = field(default_factory=list)  # method, path, range

    def holds(self, file: PublicFile, content: bytes) -> None:
        self.files[f"{file.repo}/{file.name}"] = content

    @property
    def received(self) -> list[str]:
        """The ranges of the downloads, "" for one from the start."""
        return [span for method, _, span in self.requests if method == "GET"]


def handler(hub_state: list[Hub]) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, format: str, *args: Any) -> None:
            """Log nothing."""

        def do_HEAD(self) -> None:
            self.answer(False)

        def do_GET(self) -> None:
            self.answer(True)

        def answer(self, has_body: bool) -> None:
            state = hub_state[0]
            span = self.headers.get("Range", "")
            state.requests.append((self.command, self.path, span))
            content = state.files.get(self.path.strip("/").replace("resolve/main/", ""))
            if content is None or state.is_gated:
                self.refuse("GatedRepo" if state.is_gated else "EntryNotFound", 403 if state.is_gated else 404)
                return
            start = int(span[6:].split("-")[0]) if span and not state.ignores_ranges else 0
            self.announce(content, start)
            if has_body:
                self.send(content[start:])

        def refuse(self, code: str, status: int) -> None:
            self.send_response(status)
            self.send_header("X-Error-Code", code)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def announce(self, content: bytes, start: int) -> None:
            tag = f'"{hashlib.sha256(content).hexdigest()}"'
            self.send_response(206 if start else 200)
            self.send_header("X-Repo-Commit", COMMIT)
            self.send_header("X-Linked-Size", str(len(content)))
            self.send_header("X-Linked-Etag", tag)
            self.send_header("ETag", tag)
            if start:
                self.send_header("Content-Range", f"bytes {start}-{len(content) - 1}/{len(content)}")
            self.send_header("Content-Length", str(len(content) - start))
            self.end_headers()

        def send(self, body: bytes) -> None:
            state = hub_state[0]
            if state.lies:
                body = body[:-1] + bytes([body[-1] ^ 1])
            if state.cuts:
                state.cuts -= 1
                body = body[:CUT_BYTES]
                self.close_connection = True
            self.wfile.write(body)

    return Handler


@pytest.fixture(scope="module")
def server() -> Iterator[tuple[str, list[Hub]]]:
    state: list[Hub] = []
    running = ThreadingHTTPServer(("127.0.0.1", 0), handler(state))
    thread = threading.Thread(target=running.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{running.server_port}", state
    running.shutdown()
    running.server_close()


@pytest.fixture
def served(server: tuple[str, list[Hub]], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Hub:
    """The running server without files, set as the hub."""
    address, state = server
    state[:] = [Hub(address)]
    monkeypatch.setenv("HF_ENDPOINT", address)
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(hub, "PAUSE_SEC", 0.0)
    return state[0]


@pytest.fixture(scope="module")
def content() -> bytes:
    """A checkpoint of about 100 kB."""
    from safetensors.torch import save

    torch.manual_seed(0)
    return save({"weight": torch.randn(25_000)})


UNET = next(file for file in files_of("inference") if file.path == "latentsync_unet.pt")
UNET_15 = next(file for file in files_of("inference", "1.5") if file.path == "latentsync_unet.pt")
DETECTOR = next(file for file in files_of("inference") if file.path.startswith("auxiliary/s3fd"))


def test_an_interrupted_download_is_resumed(served: Hub, content: bytes, tmp_path: Path) -> None:
    served.holds(UNET, content)
    served.cuts = 1
    reports: list[tuple[int, int | None]] = []
    fetch(UNET, tmp_path, report=lambda done, size: reports.append((done, size)))
    assert (tmp_path / UNET.path).read_bytes() == content
    assert served.received == ["", f"bytes={CUT_BYTES}-"]
    assert reports[-1] == (len(content), len(content))
    assert file_state(UNET, tmp_path).state == "there" and not list(tmp_path.glob("*.partial"))


def test_a_download_is_resumed_by_the_next_run(
    served: Hub, content: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    served.holds(UNET, content)
    served.cuts = 1
    with monkeypatch.context() as context:
        context.setattr(hub, "STALLS", -1)
        with pytest.raises(UnreachableError, match="lost after 0.0 MB .*kept"):
            fetch(UNET, tmp_path)
    assert file_state(UNET, tmp_path).state == "missing"
    fetch(UNET, tmp_path)
    assert (tmp_path / UNET.path).read_bytes() == content
    assert served.received == ["", f"bytes={CUT_BYTES}-"]


def test_a_server_without_ranges_and_a_file_that_changed(served: Hub, content: bytes, tmp_path: Path) -> None:
    served.holds(UNET, content)
    served.cuts, served.ignores_ranges = 1, True
    fetch(UNET, tmp_path)
    assert (tmp_path / UNET.path).read_bytes() == content
    (tmp_path / UNET.path).unlink()
    (tmp_path / f"{UNET.path}.{'0' * 12}.partial").write_bytes(b"of an older version")
    served.ignores_ranges = False
    fetch(UNET, tmp_path)
    assert (tmp_path / UNET.path).read_bytes() == content


def test_a_file_that_was_not_published_is_removed(served: Hub, content: bytes, tmp_path: Path) -> None:
    served.holds(UNET, content)
    served.lies = True
    with pytest.raises(CheckpointError, match="is not the published file .its hash is not"):
        fetch(UNET, tmp_path)
    served.lies = False
    served.holds(DETECTOR, content)  # consistent on the hub, but not the file of the table
    with pytest.raises(CheckpointError, match="its hash is not 619a316812"):
        fetch(DETECTOR, tmp_path)
    page = b"<html>" + b" " * 100
    served.holds(UNET, page)
    with pytest.raises(CheckpointError, match="is a web page"):
        fetch(UNET, tmp_path)
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]


def test_a_file_of_another_server(served: Hub, content: bytes, tmp_path: Path) -> None:
    file = PublicFile("test", "auxiliary/net.pt", "MIT", IMAGENET, url=f"{served.address}/elsewhere/net.pt")
    served.files["elsewhere/net.pt"] = content
    served.cuts = 1
    fetch(replace(file, sha256=hashlib.sha256(content).hexdigest()[:10]), tmp_path)
    assert (tmp_path / file.path).read_bytes() == content and len(served.received) == 2
    with pytest.raises(CheckpointError, match="refuses"):
        fetch(replace(file, url=f"{served.address}/elsewhere/other.pt"), tmp_path)


def test_small_files_are_verified_by_the_hash_of_git(tmp_path: Path) -> None:
    (tmp_path / "hello").write_text("hello\n")
    assert hub._has_digest(tmp_path / "hello", "ce013625030ba8dba906f756967f9e9ca394464a")
    assert not hub._has_digest(tmp_path / "hello", "ce013625030ba8dba906f756967f9e9ca394464b")


def test_refusals_have_different_errors(served: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(CheckpointError, match="has no latentsync_unet.pt"):
        fetch(UNET, tmp_path)
    served.is_gated = True
    with pytest.raises(CheckpointError, match="accept its terms.*HF_TOKEN"):
        fetch(UNET, tmp_path)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(UnreachableError, match="HF_HUB_OFFLINE"):
        fetch(UNET, tmp_path)


def test_a_fetched_unet_knows_its_resolution(served: Hub, tmp_path: Path) -> None:
    torch.save({"state_dict": tensors_of(), "global_step": 1}, tmp_path / "official.pt")
    for file in (UNET, UNET_15):
        served.holds(file, (tmp_path / "official.pt").read_bytes())
    fetch(UNET, tmp_path)
    _, facts = load_unet(tmp_path / UNET.path)
    assert (facts["resolution"], facts["release"], facts["num_frames"]) == (512, "1.6", 16)
    with pytest.raises(CheckpointError, match="resolution 512, not 256"):
        load_unet(tmp_path / UNET.path, expected={"resolution": 256})
    assert file_state(UNET_15, tmp_path).state == "other release"
    fetch(UNET_15, tmp_path)
    assert load_unet(tmp_path / UNET.path)[1]["resolution"] == 256
    torch.save(tensors_of(), tmp_path / UNET.path)  # replaced by another file
    assert release_of(tmp_path / UNET.path) is None and file_state(UNET, tmp_path).state == "there"


def test_a_mirror_folder_needs_no_network(content: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    mirror, folder = tmp_path / "mirror", tmp_path / "checkpoints"
    for place in (UNET.path, f"{UNET_15.repo}/{UNET_15.name}"):
        (mirror / place).parent.mkdir(parents=True, exist_ok=True)
        (mirror / place).write_bytes(content)
    for file in (UNET, UNET_15):
        fetch(file, folder, mirror)
        assert (folder / file.path).read_bytes() == content and stored_sources(folder)[
            file.path
        ].release == file.release
    (mirror / DETECTOR.path).parent.mkdir()
    (mirror / DETECTOR.path).write_bytes(content)
    with pytest.raises(CheckpointError, match="hash"):
        fetch(DETECTOR, folder, mirror)
    with pytest.raises(CheckpointError, match="is not a folder"):
        fetch(UNET, folder, tmp_path / "nowhere")


def run(arguments: list[str], folder: Path) -> int:
    return download_checkpoints.main([*arguments, "--folder", str(folder)])


def test_the_command(
    served: Hub, content: bytes, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    files = [replace(file, sha256="") for file in files_of("inference") if file.repo]
    monkeypatch.setattr(download_checkpoints, "files_of", lambda *chosen: files)
    for file in files:
        served.holds(file, b"{}" if file.path.endswith(".json") else content)
    assert run(["--check"], tmp_path) == 1 and not served.requests
    assert run(["inference"], tmp_path) == 0
    shown = capsys.readouterr().out
    assert all(file.path in shown and file.licence in shown for file in files) and "5.07 GB" in shown
    requested = {path for _, path, _ in served.requests}
    assert requested == {f"/{file.repo}/resolve/main/{file.name}" for file in files}
    served.requests.clear()
    assert run(["--check"], tmp_path) == 0 and run([], tmp_path) == 0 and not served.requests
    (tmp_path / UNET.path).write_text("version https://git-lfs.github.com/spec/v1\n")
    assert run(["--check"], tmp_path) == 1
    assert "Git LFS pointer" in capsys.readouterr().out
    del served.files[f"{UNET.repo}/{UNET.name}"]
    assert run([], tmp_path) == 1
    assert "has no latentsync_unet.pt" in capsys.readouterr().out


def test_the_error_without_a_network_has_remedies(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    hub_files = [file for file in files_of("inference") if file.repo]
    monkeypatch.setattr(download_checkpoints, "files_of", lambda *chosen: hub_files)
    assert run([], tmp_path) == 2
    message = capsys.readouterr().err.strip()
    assert "127.0.0.1:9 cannot be reached" in message and "HF_ENDPOINT" in message and "\n" not in message
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]


def test_setup_and_messages_name_the_real_command() -> None:
    root = Path(__file__).resolve().parents[2]
    assert '-m scripts.download_checkpoints "$1"' in (root / "setup_env.sh").read_text()
    assert FETCH == "python -m scripts.download_checkpoints"
    assert download_checkpoints.parse([]).set == "inference"


def test_a_damaged_record_of_sources_is_ignored(tmp_path: Path) -> None:
    for text in ("{", "[]", json.dumps({"a": {"b": 1}})):
        (tmp_path / "sources.json").write_text(text)
        assert stored_sources(tmp_path) == {}
