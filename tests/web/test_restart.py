"""The app is killed or stopped and started again: jobs, results and the browser's token are there, and unfinished jobs go on."""

import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from latentsync.media.probe import probe
from tests.support.tiny import make_audio, make_video
from tests.web.support import API, LIMITS, ROOT, ApiClient, kept_environment, message_of, stub_models
from web import texts
from web.jobs import RECORD
from web.page import Page
from web.serve import Server
from web.settings import AppSettings
from web.store import JobStore

APP = """
import sys, time
from pathlib import Path
from tests.web.support import API, LIMITS, stub_models
from web.serve import Server
from web.settings import AppSettings
with Server(stub_models(), AppSettings(Path(sys.argv[1]), LIMITS, port=None, api=API)) as server:
    print(server.url, flush=True)
    time.sleep(600)
"""
FRAMES = 300


@pytest.fixture(autouse=True)
def environment() -> Iterator[None]:
    with kept_environment():
        yield


def wait_for_lips(client: ApiClient, job_id: str) -> None:
    """Wait until a segment may have been written."""
    while True:
        status = client.status(job_id)
        assert status["state"] in ("waiting", "running"), status
        if status["stage"] == "Generate lips" and status["frames_done"]:
            return


@pytest.mark.slow
def test_jobs_survive_a_kill(tmp_path: Path) -> None:
    folder = tmp_path / "app"
    short = make_video(tmp_path / "s.mp4", 8), make_audio(tmp_path / "s.wav", 0.3)
    long = make_video(tmp_path / "long.mp4", FRAMES), make_audio(tmp_path / "long.wav", FRAMES / 25)
    process = subprocess.Popen([sys.executable, "-c", APP, str(folder)], cwd=ROOT, stdout=subprocess.PIPE, text=True)
    assert process.stdout
    client = ApiClient(process.stdout.readline().strip())
    done = client.submit(short, seed=5)
    assert client.ended(done)["state"] == "done"
    running, waiting = client.submit(long, steps=2, seed=6), client.submit(short, kind="preflight")
    wait_for_lips(client, running)
    process.send_signal(signal.SIGKILL)
    process.wait()

    with Server(stub_models(), AppSettings(folder, LIMITS, port=None, api=API)) as server:
        again = ApiClient(server.url)
        status = again.status(done)
        assert (status["state"], "8 of 8" in status["summary"]) == ("done", True)
        assert again.result(done, tmp_path).stat().st_size
        for job_id in (running, waiting):
            status = again.status(job_id)
            assert (status["state"], status["error"]) == ("interrupted", texts.STOPPED)
            assert again.http.post(f"/jobs/{job_id}/resume").json()["state"] in ("waiting", "running", "done")
        assert again.ended(running)["state"] == again.ended(waiting)["state"] == "done"
        assert probe(again.result(running, tmp_path)).frame_count == FRAMES
        assert again.report(running)["settings"]["seed"] == 6
        assert "is done and cannot go on" in message_of(again.http.post(f"/jobs/{running}/resume"), 409)
        assert ApiClient(server.url, "bob").http.get(f"/jobs/{done}").status_code == 404


def test_an_app_that_is_stopped_interrupts_its_jobs(tmp_path: Path) -> None:
    settings = AppSettings(tmp_path / "app", LIMITS, port=None, api=API)
    long = make_video(tmp_path / "long.mp4", FRAMES), make_audio(tmp_path / "long.wav", FRAMES / 25)
    with Server(stub_models(), settings) as server:
        client = ApiClient(server.url)
        running, waiting = client.submit(long, steps=4), client.submit(long)
        wait_for_lips(client, running)
    store = JobStore(settings.folder, LIMITS)
    states = {job.id: job.state for job in store.of(client.owner)}
    assert states == {running: "interrupted", waiting: "interrupted"}
    assert (store.get(running, client.owner).work / "faces.npz").is_file(), "what is done is kept"


def test_a_damaged_record_does_not_stop_the_app(tmp_path: Path) -> None:
    folder = JobStore(tmp_path / "app", LIMITS).jobs_folder
    for number, content in enumerate(("", "{}", "[1]", '{"owner": 1}')):
        (folder / (str(number) * 32)).mkdir()
        (folder / (str(number) * 32) / RECORD).write_text(content)
    assert JobStore(tmp_path / "app", LIMITS).of("page mine") == []


def test_a_browser_keeps_its_token(tmp_path: Path) -> None:
    settings = AppSettings(tmp_path / "app", LIMITS, port=None)
    first, second = Server(stub_models(), settings), Server(stub_models(), settings)
    pages = [Page(server.app) for server in (first, second)]
    for page in pages:
        page.build()
    assert pages[0].token.secret == pages[1].token.secret
