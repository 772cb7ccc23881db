"""Disk space of the app: quotas, a full disk, uploads that end early, and deletion."""

import shutil
import socket
import time
from collections import namedtuple
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from urllib.parse import quote, urlsplit

import httpx
import pytest

from tests.web.support import LIMITS, files_in, kept_environment, real_path, stub_models, uploaded, wait_until
from web import texts
from web.errors import WebError
from web.files import newest, remove_own
from web.hidden_paths import NAME
from web.jobs import Submission
from web.orders import Wish
from web.serve import Server
from web.settings import AppSettings, Limits
from web.storage import disk_bytes

SMALL = Limits(file_bytes=3_000_000, stored_bytes=300_000, stored_bytes_each=200_000)
Usage = namedtuple("Usage", "total used free")
CLIENT = httpx.Client(timeout=60)
FILE = {"_type": "gradio.FileData"}  # how Gradio recognises a file in JSON


@pytest.fixture
def small(tmp_path: Path) -> Iterator[Server]:
    """An app with little space."""
    with kept_environment(), Server(stub_models(), AppSettings(tmp_path / "app", SMALL, port=None)) as running:
        yield running


def send(server: Server, content: bytes) -> httpx.Response:
    return httpx.post(f"{server.url}gradio_api/upload", files={"files": ("a.mp4", content)})


def test_one_client_cannot_fill_the_app(small: Server) -> None:
    answers = [send(small, bytes([number]) * 60_000) for number in range(5)]
    assert [answer.status_code for answer in answers] == [200, 200, 200, 413, 413]
    assert answers[-1].text == texts.QUOTA_USED.format(limit="200 kB")
    assert sum(path.stat().st_size for path in files_in(small) if path.name == "a.mp4") == 180_000


def test_all_clients_together_cannot_fill_the_app(small: Server) -> None:
    (small.app.store.jobs_folder / "result.mp4").write_bytes(b"0" * 250_000)
    answer = send(small, b"0" * 60_000)
    assert (answer.status_code, answer.text) == (507, texts.STORE_FULL.format(limit="300 kB"))


def test_deleted_files_make_room_again(small: Server) -> None:
    paths = [Path(uploaded(small, "a.mp4", bytes([number]) * 60_000)) for number in range(3)]
    assert send(small, b"x" * 60_000).status_code == 413
    shutil.rmtree(paths[0].parent)
    assert send(small, b"x" * 60_000).status_code == 200


def test_a_full_disk_is_told_in_one_sentence(small: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        patch.setattr("web.storage.shutil.disk_usage", lambda _: Usage(10, 10, 0))
        answer = send(small, b"x")
        assert (answer.status_code, answer.text) == (507, texts.DISK_FULL)

    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device", str(small.settings.folder))

    with monkeypatch.context() as patch:
        patch.setattr("gradio.route_utils.GradioMultiPartParser.parse", full)
        answer = send(small, b"x")
    assert answer.status_code >= 500 and answer.text == texts.UPLOAD_FAILED
    video, audio = uploaded(small, "v.mp4", b"x"), uploaded(small, "a.wav", b"x")
    for name in ("video", "sound"):
        monkeypatch.setattr(small.app.inspector, name, lambda *_: None)
    monkeypatch.setattr("web.files.os.link", full)
    monkeypatch.setattr("web.files.shutil.copyfile", full)
    with pytest.raises(WebError, match=texts.DISK_FULL):
        small.app.submit(Submission("somebody"), Wish(), video, audio)
    assert list(small.app.store.jobs_folder.iterdir()) == [], "nothing is left of a job that could not begin"


def test_an_upload_without_a_length_is_refused(small: Server) -> None:
    answer = httpx.post(
        f"{small.url}gradio_api/upload", content=iter([b"x"]), headers={"Content-Type": "multipart/form-data"}
    )
    assert (answer.status_code, answer.text) == (411, texts.LENGTH_UNKNOWN)


def test_files_come_by_one_route_only(small: Server) -> None:
    for route in ("queue/join", "call/submit", "process_recording", "run/status"):
        answer = httpx.post(f"{small.url}gradio_api/{route}", json={"data": ["x" * 2_000_000]})
        assert (answer.status_code, answer.text) == (413, texts.LONG_REQUEST), route


@pytest.mark.parametrize("route", ["gradio_api/upload", "api/v1/jobs"])
def test_nothing_is_left_of_an_aborted_upload(small: Server, route: str) -> None:
    at, before, token = urlsplit(small.url), files_in(small), small.api.tokens["local"]
    head = f"POST /{route} HTTP/1.1\r\nHost: {at.netloc}\r\nAuthorization: Bearer {token}\r\nContent-Length: 90000\r\n"
    part = '--b\r\nContent-Disposition: form-data; name="files"; filename="a.mp4"\r\n\r\n'
    with socket.create_connection((at.hostname, at.port)) as connection:
        connection.sendall(
            f"{head}Content-Type: multipart/form-data; boundary=b\r\n\r\n{part}".encode() + b"x" * 50_000
        )
        wait_until(lambda: files_in(small) != before)
    wait_until(lambda: files_in(small) == before)
    assert send(small, b"x" * 60_000).status_code == 200


def test_uploads_that_a_killed_app_left_are_removed(tmp_path: Path) -> None:
    folder = tmp_path / "app"
    folder.mkdir()
    (folder / "tmpabc123").write_bytes(b"half an upload")
    with kept_environment(), Server(stub_models(), AppSettings(folder, LIMITS, port=None)):
        assert not (folder / "tmpabc123").exists()


def test_deleting_a_job_deletes_what_was_uploaded_for_it(
    server: Server, pair: tuple[Path, Path], tmp_path: Path
) -> None:
    before, app = files_in(server), server.app
    video = uploaded(server, "other.mp4", pair[0].read_bytes() + b"\0\0\0\x08free")
    audio = uploaded(server, "other.wav", pair[1].read_bytes())
    first, second = (app.submit(Submission("page x"), Wish("preflight"), video, audio) for _ in range(2))
    wait_until(lambda: first.state == second.state == "done")
    app.delete(first.id, "page x")
    assert Path(video).is_file(), "the second job was made from it too"
    app.delete(second.id, "page x")
    assert files_in(server) == before


def test_the_page_does_not_learn_where_the_server_keeps_files(server: Server, pair: tuple[Path, Path]) -> None:
    folder = server.settings.folder.resolve()
    named = CLIENT.post(f"{server.url}gradio_api/upload", files={"files": ("a b ü.mp4", pair[0].read_bytes())}).json()[
        0
    ]
    assert named.startswith(f"{NAME}/") and real_path(server, named) in map(str, files_in(server))
    got = CLIENT.get(f"{server.url}gradio_api/file={quote(named)}", headers={"Range": "bytes=4-7"})
    assert (got.status_code, got.content) == (206, pair[0].read_bytes()[4:8])
    event = {"session_hash": "s", "fn_index": handler(server, "on_audio"), "data": [{"path": named, "meta": FILE}]}
    assert CLIENT.post(f"{server.url}gradio_api/queue/join", json=event).status_code == 200
    answers = [CLIENT.get(f"{server.url}{path}") for path in ("", "config", "gradio_api/info")]
    with CLIENT.stream("GET", f"{server.url}gradio_api/queue/data?session_hash=s") as stream:
        told = "".join(stream.iter_text())
    assert "process_completed" in told and "no longer on the server" not in told and '"success":true' in told
    for text in (told, *(answer.text for answer in answers)):
        assert str(folder) not in text and str(folder.parent) not in text


def test_files_of_the_app_itself_are_not_given_out(tmp_path: Path, pair: tuple[Path, Path]) -> None:
    with kept_environment(), Server(stub_models(), AppSettings(tmp_path / "app", LIMITS, port=None)) as running:
        job = running.app.submit(
            Submission("somebody"),
            Wish("preflight"),
            *(uploaded(running, path.name, path.read_bytes()) for path in pair),
        )
        wait_until(lambda: job.is_over)
        folder, own = running.settings.folder.resolve(), "api.key"
        private = [path for path in files_in(running) if path.parent == folder] + [job.folder / "job.json"]
        assert own in {path.name for path in private}
        for path in private:
            inside = path.relative_to(folder)
            for named in (
                path,
                f"{NAME}/{inside}",
                f"{NAME}/jobs/../{inside}",
                f"{folder}/./{inside}",
                f"{folder}//{inside}",
            ):
                for route in ("gradio_api/file=", "gradio_api/file/", "file=", "/gradio_api/file="):
                    answer = CLIENT.get(f"{running.url}{route}{named}")
                    assert answer.status_code in (403, 404), f"{route}{named}"
        assert CLIENT.get(f"{running.url}gradio_api/file={NAME}/{job.sheet.relative_to(folder)}").status_code == 200


def handler(server: Server, name: str) -> int:
    """The number by which Gradio calls an event handler."""
    return next(number for number, each in server.blocks.fns.items() if getattr(each.fn, "__name__", "") == name)


def test_what_is_deleted_meanwhile_is_not_counted_and_hinders_nobody(tmp_path: Path) -> None:
    """Sizes and times are read while jobs end and delete their folders."""

    def come_and_go() -> None:
        for number in range(300):
            folder = tmp_path / "jobs" / str(number % 3) / "parts"
            folder.mkdir(parents=True)
            (folder / "part.bin").write_bytes(b"1")
            remove_own(folder.parent)
            remove_own(folder.parent)  # gone already

    with ThreadPoolExecutor(1) as pool:
        job = pool.submit(come_and_go)
        while not job.done():
            assert disk_bytes([tmp_path]) <= 3
            assert newest(tmp_path / "jobs" / "1") < time.time() + 1
        job.result()
