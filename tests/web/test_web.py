"""The web app without a browser: jobs, refused requests, access to jobs, expiry of files."""

import gc
import mmap
import shutil
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import httpx
import pytest

import gradio_app
from latentsync.media.probe import probe
from tests.support.tiny import NUM_FRAMES, make_audio, make_video
from tests.web.support import (
    API,
    LIMITS,
    ROOT,
    TOKENS,
    ApiClient,
    kept_environment,
    message_of,
    stub_models,
    uploaded,
    wait_until,
)
from web import texts
from web.errors import WebError
from web.form import form_of, wish_of
from web.jobs import Submission
from web.orders import Wish, checked_face
from web.page import Page
from web.serve import Server
from web.settings import AppSettings, Limits


@pytest.mark.slow
def test_preflight_and_preview(server: Server, pair: tuple[Path, Path], tmp_path: Path) -> None:
    client = ApiClient(server.url)
    long = make_video(tmp_path / "long.mp4", 120), make_audio(tmp_path / "long.wav", 4.5)
    seen, shown = client.submit(pair, kind="preflight"), client.submit(long, kind="preview")
    assert "10 of 10 frames" in client.ended(seen)["summary"]
    assert client.result(seen, tmp_path).suffix == ".jpg" and client.report(seen)["planned"]
    assert client.ended(shown)["state"] == "done"
    assert probe(client.result(shown, tmp_path)).frame_count == 75


SOMEBODY = Submission("somebody")
BAD_FILES = {
    "text named .mp4": ("video", "note.mp4", b"this is no video\n" * 50, "note.mp4"),
    "an empty video": ("video", "empty.mp4", b"", "empty (0 bytes)"),
    "an empty sound": ("audio", "empty.wav", b"", "empty (0 bytes)"),
    "text named .wav": ("audio", "song.wav", b"la la la\n" * 99, "song.wav"),
    "half a video": ("video", "half.mp4", None, "half.mp4"),
    "a hostile name": ("video", "../../;$(reboot) '\"<script>é.mp4", b"x" * 99, ".mp4"),
}


@pytest.mark.parametrize("case", BAD_FILES)
def test_bad_uploads_get_one_sentence(server: Server, pair: tuple[Path, Path], case: str) -> None:
    field, name, content, said = BAD_FILES[case]
    content = pair[0].read_bytes()[:2000] if content is None else content
    paths = {"video": uploaded(server, "a.mp4", pair[0].read_bytes())}
    paths["audio"] = uploaded(server, "a.wav", pair[1].read_bytes())
    paths[field] = uploaded(server, name, content)
    with pytest.raises(ValueError) as caught:
        server.app.submit(SOMEBODY, Wish(), paths["video"], paths["audio"])
    sentence = str(caught.value)
    assert said in sentence and "\n" not in sentence and sentence.endswith(".")
    assert str(server.settings.folder) not in sentence


def test_missing_and_too_long_audio_is_refused(server: Server, pair: tuple[Path, Path], tmp_path: Path) -> None:
    video = uploaded(server, "mute.mp4", pair[0].read_bytes())
    with pytest.raises(WebError, match="mute.mp4 has no audio"):
        server.app.submit(SOMEBODY, Wish(), video, video)
    long = uploaded(server, "long.wav", make_audio(tmp_path / "long.wav", 21).read_bytes())
    with pytest.raises(WebError, match="long.wav lasts 21 s, and the limit is 20 s"):
        server.app.submit(SOMEBODY, Wish(), video, long)
    refused = httpx.post(f"{server.url}gradio_api/upload", files={"files": ("big.mp4", b"0" * 3_100_000)})
    assert refused.status_code == 413
    with pytest.raises(WebError, match=texts.NEED_BOTH):
        server.app.submit(SOMEBODY, Wish(), video, None)


def test_a_video_without_a_face_is_reported(server: Server, pair: tuple[Path, Path], tmp_path: Path) -> None:
    client = ApiClient(server.url)
    dark = make_video(tmp_path / "night.mp4", 12, dark=range(12)), pair[1]
    passed, stopped = client.submit(dark), client.submit(dark, on_missing_face="error")
    assert "No frame shows a face" in client.ended(passed)["warnings"][0]
    error = client.ended(stopped)["error"]
    assert (
        error.startswith("night.mp4 shows no face") and "use on_missing_face passthrough" in error and "--" not in error
    )
    files = [uploaded(server, path.name, path.read_bytes()) for path in dark]
    job = server.app.submit(SOMEBODY, Wish(options={"on_missing_face": "error"}), *files)
    wait_until(lambda: job.is_over)
    assert "(Advanced settings)" in job.error and "--" not in job.error, "the page has other words"
    for name in ("result", "report"):
        assert "has no files" in message_of(client.http.get(f"/jobs/{stopped}/{name}"), 409)


WRONG_SETTINGS = {
    "steps is 5000": Wish(settings={"steps": 5000}),
    "preset is 'magic'": Wish(settings={"preset": "magic"}),
    "no kind of job 'delete'": Wish("delete"),
    "length is 'shrink'": Wish(options={"length": "shrink"}),
    r"no model '\.\./\.\./etc'": Wish(model="../../etc"),
    "face '/etc/hostname' is unknown": Wish(options={"face": "/etc/hostname"}),
}


@pytest.mark.parametrize("said", WRONG_SETTINGS)
def test_wrong_settings_are_refused(server: Server, pair: tuple[Path, Path], said: str) -> None:
    files = [uploaded(server, path.name, path.read_bytes()) for path in pair]
    with pytest.raises(ValueError, match=said):
        server.app.submit(SOMEBODY, WRONG_SETTINGS[said], *files)


def test_the_face_cannot_be_the_path_of_a_file() -> None:
    assert [checked_face(word) for word in ("largest", "2", "12,34@1.5", "")] == [
        "largest",
        "2",
        "12,34@1.5",
        "largest",
    ]
    with pytest.raises(WebError, match="unknown"):
        checked_face(str(ROOT / "docs/demo.png"))


def test_a_form_is_filled_in_only_with_what_is_valid_and_there(server: Server, pair: tuple[Path, Path]) -> None:
    whole = Page(server.app)
    whole.build()
    page = whole.form
    video = uploaded(server, "talk.mp4", pair[0].read_bytes())
    wish = ["fast", 4, 1.5, 7, "keep", 0.8, "", "auto", 0.0, "12,34@0.5", "0.1-0.3", "loop", "cut", "error", "", "demo"]
    rows = "[[1, 0.1, 0.3]]", ""  # and no audio of people
    assert page.filled([video, None, *rows, *wish]) == [video, None, *rows, *wish, "fast"]
    assert page.filled([video, None, *rows, "turbo", 3, *wish[2:]])[-1] == texts.CUSTOM_PRESET
    for elsewhere in (str(server.settings.folder / "api.key"), "/etc/passwd", video + "x"):
        assert page.filled([elsewhere, elsewhere, *rows, *wish])[:2] == [None, None]
    nothing = page.filled(None)
    for wrong in (
        {},
        [],
        [1],
        [video, None, *rows, *wish[:-1], "gone"],
        [video, None, *rows, "magic", *wish[1:]],
        [video, None, *wish],
        [video, None, [], "", *wish],
        [{}, [], *rows, *wish],
        "x" * 11,
    ):
        assert page.filled(wrong) == nothing, wrong
    contents = pair[0].read_bytes() + b"\0\0\0\x08skip", pair[1].read_bytes() + b"\0"  # no other test's job uses them
    files = [uploaded(server, path.name, content) for path, content in zip(pair, contents, strict=True)]
    job = server.app.submit(SOMEBODY, wish_of("preflight", *wish), *files)
    assert page.filled(form_of(job)) == [*files, "[]", "", *wish, "fast"]
    wait_until(lambda: job.is_over)
    server.app.delete(job.id, "somebody")
    assert page.filled(form_of(job))[:2] == [None, None]


def test_a_click_that_arrives_twice_makes_one_job(server: Server, pair: tuple[Path, Path]) -> None:
    files = [uploaded(server, path.name, path.read_bytes()) for path in pair]
    click = Submission("somebody", key="one click")
    first, second = (server.app.submit(click, Wish("preflight"), *files) for _ in range(2))
    assert first is second
    assert server.app.submit(Submission("somebody", key="another"), Wish("preflight"), *files) is not first


def test_others_cannot_access_a_job(server: Server, pair: tuple[Path, Path]) -> None:
    job = server.app.submit(
        SOMEBODY, Wish("preflight"), *(uploaded(server, path.name, path.read_bytes()) for path in pair)
    )
    assert len(job.id) == 32 and server.app.store.get(job.id, "somebody") is job
    for owner in ("somebody else", "", "client somebody"):
        for job_id in (job.id, "../" + job.id, "", "a" * 32):
            with pytest.raises(WebError, match="no such job"):
                server.app.store.get(job_id, owner)


def test_files_of_the_machine_cannot_be_read(server: Server, pair: tuple[Path, Path], tmp_path: Path) -> None:
    secret = tmp_path / "secret.mp4"
    shutil.copyfile(pair[0], secret)
    mine = uploaded(server, "a.wav", pair[1].read_bytes())
    other = server.app.store.jobs_folder / "x.mp4"
    shutil.copyfile(pair[0], other)
    for path in (secret, other, "/etc/passwd", f"{server.settings.folder}/../secret.mp4", "gradio_app.py"):
        with pytest.raises(WebError, match="no longer on the server"):
            server.app.submit(SOMEBODY, Wish(), str(path), mine)
    for path in (
        secret,
        "/etc/passwd",
        ROOT / "gradio_app.py",
        server.settings.folder / "api.key",
        server.settings.folder,
        f"{tmp_path}/app/../secret.mp4",
    ):
        assert httpx.get(f"{server.url}gradio_api/file={path}").status_code in (403, 404), path


def test_the_page_has_no_public_routes(server: Server) -> None:
    assert httpx.get(f"{server.url}gradio_api/info").json() == {"named_endpoints": {}, "unnamed_endpoints": {}}
    begun = httpx.post(f"{server.url}gradio_api/call/submit", json={"data": []}).json()
    assert "event: error" in httpx.get(f"{server.url}gradio_api/call/submit/{begun['event_id']}", timeout=30).text


@pytest.mark.slow
def test_five_users_at_once_get_their_own_results(server: Server, tmp_path: Path) -> None:
    def user(number: int) -> tuple[int, str]:
        client, folder = ApiClient(server.url, list(TOKENS)[number]), tmp_path
        frames = 8 + 4 * number
        files = make_video(folder / f"v{number}.mp4", frames), make_audio(folder / f"a{number}.wav", frames / 25)
        job_id = client.submit(files, seed=number)
        assert client.ended(job_id)["state"] == "done"
        facts = client.report(job_id)
        theirs = f"v{number}.mp4", f"a{number}.wav", number
        assert (facts["video"], facts["audio"], facts["settings"]["seed"]) == theirs
        assert [job["id"] for job in client.http.get("/jobs", params={"limit": 1}).json()["jobs"]] == [job_id]
        return probe(client.result(job_id, folder)).frame_count, job_id

    with ThreadPoolExecutor(5) as pool:
        found = list(pool.map(user, range(5)))
    assert [frames for frames, _ in found] == [8, 12, 16, 20, 24]
    assert len({job_id for _, job_id in found}) == 5


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="memory is read as Linux tells it")
def test_memory_returns_to_its_level(server: Server, tmp_path: Path) -> None:
    """Five clients at once, again and again: after the first rounds nothing is left in memory of a round."""

    def user(number: int) -> None:
        client = ApiClient(server.url, list(TOKENS)[number])
        files = make_video(tmp_path / f"v{number}.mp4", 24), make_audio(tmp_path / f"a{number}.wav", 0.96)
        job_id = client.submit(files)
        assert client.ended(job_id)["state"] == "done"
        client.result(job_id, tmp_path)
        assert client.http.delete(f"/jobs/{job_id}").status_code == 204

    levels = []
    for _ in range(6):
        with ThreadPoolExecutor(5) as pool:
            list(pool.map(user, range(5)))
        gc.collect()
        levels.append(int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1]) * mmap.PAGESIZE / 1e6)
    assert max(levels[3:]) - max(levels[:3]) < 30, levels


def test_cancel_stops_within_a_window_and_the_next_job_starts(server: Server, tmp_path: Path) -> None:
    client, other = ApiClient(server.url), ApiClient(server.url, "bob")
    files = make_video(tmp_path / "v.mp4", 300), make_audio(tmp_path / "a.wav", 12)
    short = make_video(tmp_path / "s.mp4", 8), make_audio(tmp_path / "s.wav", 0.3)
    first, second, third = client.submit(files, steps=4), client.submit(files), other.submit(short)
    job = server.app.store.get(first, client.owner)
    assert client.status(second)["place"] == 1
    while not (job.stage == "Generate lips" and job.done):
        assert not job.is_over
        time.sleep(0.01)
    assert client.cancel(second)["state"] == "cancelled"
    server.app.engine.cancel(job)
    done = job.done
    assert client.ended(first)["state"] == "cancelled" and job.done <= done + NUM_FRAMES
    assert not job.work.exists() and not job.output.exists()
    assert other.ended(third)["state"] == "done"
    assert "cancelled" in message_of(client.http.get(f"/jobs/{first}/result"), 409)


def test_expired_results_are_deleted(server: Server, pair: tuple[Path, Path]) -> None:
    store = server.app.store
    files = [uploaded(server, path.name, path.read_bytes()) for path in pair]
    job = store.get(server.app.submit(SOMEBODY, Wish("preflight"), *files).id, "somebody")
    wait_until(lambda: job.is_over)
    left_behind, not_ours = store.jobs_folder / ("b" * 32), store.jobs_folder / "notes"
    left_behind.mkdir()
    not_ours.mkdir()
    store.sweep()
    assert job.folder.exists() and left_behind.exists()
    store.sweep(time.time() + LIMITS.keep_sec + 60)
    assert [path.name for path in store.jobs_folder.iterdir() if path.is_dir()] == ["notes"]
    assert not [path for path in store.folder.iterdir() if len(path.name) == 64]
    with pytest.raises(WebError, match="has expired"):
        store.get(job.id, "somebody")
    client = ApiClient(server.url)
    assert client.ended(client.submit(pair))["state"] == "done"


def test_models_stay_loaded_until_idle(server: Server, pair: tuple[Path, Path]) -> None:
    client, engine = ApiClient(server.url), server.app.engine
    client.ended(client.submit(pair))
    kept = engine.pipeline
    client.ended(client.submit(pair))
    assert engine.pipeline is kept
    engine.unload_sec = 0.2
    client.ended(client.submit(pair))
    for _ in range(100):
        if engine.pipeline is None:
            break
        time.sleep(0.05)
    engine.unload_sec = None
    assert engine.pipeline is None
    assert client.ended(client.submit(pair))["state"] == "done"


def test_a_bug_ends_one_job_only(
    server: Server, pair: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    client = ApiClient(server.url)
    with monkeypatch.context() as patch:
        patch.setattr("web.engine.check_job", lambda *_: 1 // 0)
        status = client.ended(client.submit(pair))
    assert status["state"] == "failed" and "ZeroDivisionError" in status["error"]
    assert client.ended(client.submit(pair))["state"] == "done"


def test_a_login_protects_page_and_files(pair: tuple[Path, Path], tmp_path: Path) -> None:
    settings = AppSettings(tmp_path / "app", LIMITS, port=None, login=("ann", "secret"), api=API)
    with kept_environment(), Server(stub_models(), settings) as guarded:
        upload = httpx.post(f"{guarded.url}gradio_api/upload", files={"files": ("a.mp4", pair[0].read_bytes())})
        call = httpx.post(
            f"{guarded.url}gradio_api/queue/join", json={"data": ["x"], "fn_index": 0, "session_hash": "s"}
        )
        assert upload.status_code == 401 and call.status_code == 401
        assert httpx.get(f"{guarded.url}api/v1/jobs", auth=("ann", "secret")).status_code == 401
        client = ApiClient(guarded.url, "bob")
        job_id = client.submit(pair, kind="preflight")
        assert client.ended(job_id)["state"] == "done", "a client of the API needs its token only"
        job = guarded.app.store.get(job_id, client.owner)
        file = f"{guarded.url}gradio_api/file={job.order.video}"
        assert httpx.get(file).status_code == 401
        with httpx.Client() as browser:
            browser.post(f"{guarded.url}login", data={"username": "ann", "password": "secret"}).raise_for_status()
            assert browser.get(f"{guarded.url}config").status_code == 200


def test_the_page_loads_nothing_from_other_hosts(server: Server) -> None:
    answer = httpx.get(server.url)
    assert answer.headers["content-security-policy"].startswith("default-src 'self'")
    head = answer.text.split("window.gradio_config")[0]
    assert "fonts.googleapis" not in answer.text and "cdnjs" not in answer.text
    assert 'src="http' not in head and 'href="http' not in head


def test_the_command_line(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    usual = gradio_app.settings_of(gradio_app.parse([]))
    assert (usual.host, usual.share, usual.login, usual.limits) == ("127.0.0.1", False, None, Limits())
    asked = gradio_app.settings_of(gradio_app.parse(["--user", "ann", "--password", "x", "--max_gb", "0.5"]))
    assert asked.login == ("ann", "x") and asked.limits == replace(Limits(), file_bytes=500_000_000)
    folder = ["--folder", str(tmp_path)]
    assert gradio_app.main(["--demo", "--share", *folder]) == 2
    assert "--share lets others reach the app: add --user" in capsys.readouterr().err
    assert gradio_app.main(["--demo", "--keep_hours", "0", *folder]) == 2
    assert gradio_app.main(["--inference_ckpt_path", "missing.pt", *folder]) == 2
    assert "missing.pt does not exist" in capsys.readouterr().err


def test_a_busy_machine_may_need_long_for_the_first_page(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gradio.networking.url_ok", lambda url: False)  # no page within Gradio's three seconds
    with kept_environment(), Server(stub_models(), AppSettings(tmp_path / "app", LIMITS, port=None)) as running:
        assert httpx.get(running.url, timeout=60).status_code == 200
