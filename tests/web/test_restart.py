"""The app is killed or stopped and started again: jobs, results and the browser's token are there, and unfinished jobs go on."""

import json
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from gradio_client import Client
from gradio_client.exceptions import AppError

from latentsync.media.probe import probe
from tests.support.tiny import make_audio, make_video
from tests.web.support import LIMITS, ROOT, ended, kept_environment, stub_models, submit
from web import texts
from web.jobs import RECORD, JobStore
from web.page import Page
from web.serve import Server
from web.settings import AppSettings

APP = """
import sys, time
from pathlib import Path
from tests.web.support import LIMITS, stub_models
from web.serve import Server
from web.settings import AppSettings
with Server(stub_models(), AppSettings(Path(sys.argv[1]), LIMITS, port=None)) as server:
    print(server.url, flush=True)
    time.sleep(600)
"""
FRAMES = 300


@pytest.fixture(autouse=True)
def environment() -> Iterator[None]:
    with kept_environment():
        yield


def client_of(url: str, session: str = "mine") -> Client:
    client = Client(url, verbose=False)
    client.session_hash = session
    return client


def wait_for_lips(client: Client, job_id: str) -> None:
    """Wait until a segment may have been written."""
    while True:
        status = client.predict(job_id, api_name="/status")
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
    client = client_of(process.stdout.readline().strip())
    done = submit(client, short, seed=5)
    assert ended(client, done)["state"] == "done"
    running, waiting = submit(client, long, steps=2, seed=6), submit(client, short, kind="preflight")
    wait_for_lips(client, running)
    process.send_signal(signal.SIGKILL)
    process.wait()

    with Server(stub_models(), AppSettings(folder, LIMITS, port=None)) as server:
        again = client_of(server.url)
        status = again.predict(done, api_name="/status")
        assert (status["state"], "8 of 8" in status["summary"]) == ("done", True)
        assert Path(again.predict(done, api_name="/fetch")[0]).stat().st_size
        for job_id in (running, waiting):
            status = again.predict(job_id, api_name="/status")
            assert (status["state"], status["error"]) == ("interrupted", texts.STOPPED)
            assert again.predict(job_id, api_name="/resume")["state"] in ("waiting", "running", "done")
        assert ended(again, running)["state"] == ended(again, waiting)["state"] == "done"
        video, report = again.predict(running, api_name="/fetch")
        assert probe(video).frame_count == FRAMES and json.loads(Path(report).read_text())["settings"]["seed"] == 6
        with pytest.raises(AppError, match="is done and cannot go on"):
            again.predict(running, api_name="/resume")
        with pytest.raises(AppError, match="no such job"):
            client_of(server.url, "other").predict(done, api_name="/status")


def test_an_app_that_is_stopped_interrupts_its_jobs(tmp_path: Path) -> None:
    settings = AppSettings(tmp_path / "app", LIMITS, port=None)
    long = make_video(tmp_path / "long.mp4", FRAMES), make_audio(tmp_path / "long.wav", FRAMES / 25)
    with Server(stub_models(), settings) as server:
        client = client_of(server.url)
        running, waiting = submit(client, long, steps=4), submit(client, long)
        wait_for_lips(client, running)
    store = JobStore(settings.folder, LIMITS)
    states = {job.id: job.state for job in store.of("session mine")}
    assert states == {running: "interrupted", waiting: "interrupted"}
    assert (store.get(running, "session mine").work / "faces.npz").is_file(), "what is done is kept"


def test_a_damaged_record_does_not_stop_the_app(tmp_path: Path) -> None:
    folder = JobStore(tmp_path / "app", LIMITS).jobs_folder
    for number, content in enumerate(("", "{}", "[1]", '{"owner": 1}')):
        (folder / (str(number) * 32)).mkdir()
        (folder / (str(number) * 32) / RECORD).write_text(content)
    assert JobStore(tmp_path / "app", LIMITS).of("session mine") == []


def test_a_browser_keeps_its_token(tmp_path: Path) -> None:
    settings = AppSettings(tmp_path / "app", LIMITS, port=None)
    first, second = Server(stub_models(), settings), Server(stub_models(), settings)
    pages = [Page(server.app) for server in (first, second)]
    for page in pages:
        page.build()
    assert pages[0].token.secret == pages[1].token.secret
