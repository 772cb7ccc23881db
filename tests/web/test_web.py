"""The web app without a browser: job API, refused requests, access to jobs, expiry of files."""

import importlib.util
import json
import shutil
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import httpx
import pytest
from gradio_client import Client
from gradio_client.exceptions import AppError

import gradio_app
from latentsync.media.probe import probe
from tests.support.tiny import NUM_FRAMES, make_audio, make_video
from tests.web.support import (
    FILE,
    LIMITS,
    ROOT,
    client_of,
    ended,
    kept_environment,
    raw_submit,
    stub_models,
    submit,
    uploaded,
)
from web import texts
from web.errors import WebError
from web.orders import Wish, checked_face
from web.serve import Server
from web.settings import AppSettings, Limits


def test_the_documented_client_gets_its_video(server: Server, pair: tuple[Path, Path], tmp_path: Path) -> None:
    spec = importlib.util.spec_from_file_location("api_client", ROOT / "docs/api_client.py")
    assert spec and spec.loader
    program = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(program)
    output = tmp_path / "result.mp4"
    files = [str(path) for path in (*pair, output)]
    assert program.main([*files, "--url", server.url, "--preset", "fast"]) == 0
    assert probe(output).frame_count == 10
    report = json.loads(output.with_suffix(".report.json").read_text())
    assert report["video"] == "talk.mp4" and report["settings"]["preset"] == "fast"
    assert str(server.settings.folder) not in json.dumps(report)
    assert program.main([*files[:1], str(ROOT / "README.md"), str(output), "--url", server.url]) == 2


@pytest.mark.slow
def test_preflight_and_preview(server: Server, pair: tuple[Path, Path], tmp_path: Path) -> None:
    client = client_of(server, tmp_path)
    long = make_video(tmp_path / "long.mp4", 120), make_audio(tmp_path / "long.wav", 4.5)
    seen, shown = submit(client, pair, kind="preflight"), submit(client, long, kind="preview")
    assert "10 of 10 frames" in ended(client, seen)["summary"]
    assert [Path(path).suffix for path in client.predict(seen, api_name="/fetch")] == [".jpg", ".json"]
    assert ended(client, shown)["state"] == "done"
    assert probe(client.predict(shown, api_name="/fetch")[0]).frame_count == 75


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
        server.app.submit("somebody", Wish(), paths["video"], paths["audio"])
    sentence = str(caught.value)
    assert said in sentence and "\n" not in sentence and sentence.endswith(".")
    assert str(server.settings.folder) not in sentence


def test_missing_and_too_long_audio_is_refused(server: Server, pair: tuple[Path, Path], tmp_path: Path) -> None:
    video = uploaded(server, "mute.mp4", pair[0].read_bytes())
    with pytest.raises(WebError, match="mute.mp4 has no audio"):
        server.app.submit("somebody", Wish(), video, video)
    long = uploaded(server, "long.wav", make_audio(tmp_path / "long.wav", 21).read_bytes())
    with pytest.raises(WebError, match="long.wav lasts 21 s, and the limit is 20 s"):
        server.app.submit("somebody", Wish(), video, long)
    refused = httpx.post(f"{server.url}gradio_api/upload", files={"files": ("big.mp4", b"0" * 3_100_000)})
    assert refused.status_code == 413
    with pytest.raises(WebError, match=texts.NEED_BOTH):
        server.app.submit("somebody", Wish(), video, None)


def test_a_video_without_a_face_is_reported(server: Server, pair: tuple[Path, Path], tmp_path: Path) -> None:
    client = client_of(server, tmp_path)
    dark = make_video(tmp_path / "night.mp4", 12, dark=range(12)), pair[1]
    passed, stopped = submit(client, dark), submit(client, dark, on_missing_face="error")
    assert "No frame shows a face" in ended(client, passed)["warnings"][0]
    error = ended(client, stopped)["error"]
    assert error.startswith("night.mp4 shows no face") and "Advanced settings" in error and "--" not in error
    with pytest.raises(AppError, match="has no files"):
        client.predict(stopped, api_name="/fetch")


@pytest.mark.parametrize(
    ("wish", "said"),
    [
        ({"steps": 5000}, "steps is 5000"),
        ({"preset": "magic"}, "no preset 'magic'"),
        ({"kind": "delete"}, "no kind of job 'delete'"),
        ({"length": "shrink"}, "length is 'shrink'"),
        ({"model": "../../etc"}, "no model '../../etc'"),
        ({"face": "/etc/hostname"}, "face '/etc/hostname' is unknown"),
    ],
)
def test_wrong_arguments_are_refused(
    server: Server, pair: tuple[Path, Path], tmp_path: Path, wish: dict, said: str
) -> None:
    with pytest.raises(AppError, match=said):
        submit(client_of(server, tmp_path), pair, **wish)


def test_the_face_cannot_be_the_path_of_a_file() -> None:
    assert [checked_face(word) for word in ("largest", "2", "12,34@1.5", "")] == [
        "largest",
        "2",
        "12,34@1.5",
        "largest",
    ]
    with pytest.raises(WebError, match="unknown"):
        checked_face(str(ROOT / "docs/demo.png"))


def test_others_cannot_access_a_job(server: Server, pair: tuple[Path, Path], tmp_path: Path) -> None:
    owner, stranger = client_of(server, tmp_path / "a"), client_of(server, tmp_path / "b")
    job_id = submit(owner, pair)
    assert ended(owner, job_id)["state"] == "done" and len(job_id) == 32
    for route in ("/status", "/cancel", "/fetch"):
        for asked in (job_id, "../" + job_id, "", "a" * 32):
            with pytest.raises(AppError, match="no such job"):
                stranger.predict(asked, api_name=route)
    assert owner.predict(job_id, api_name="/fetch")


def test_files_of_the_machine_cannot_be_read(server: Server, pair: tuple[Path, Path], tmp_path: Path) -> None:
    secret = tmp_path / "secret.mp4"
    shutil.copyfile(pair[0], secret)
    mine = uploaded(server, "a.wav", pair[1].read_bytes())
    seen = {"path": uploaded(server, "a.mp4", pair[0].read_bytes()), **FILE}
    assert "event: complete" in raw_submit(server, seen, {"path": mine, **FILE})
    other = server.app.store.jobs_folder / "x.mp4"
    shutil.copyfile(pair[0], other)
    for path in (secret, other, "/etc/passwd", f"{server.settings.folder}/../secret.mp4", "gradio_app.py"):
        for video in ({"path": str(path)}, {"path": str(path), **FILE}, str(path)):
            answer = raw_submit(server, video, {"path": mine, **FILE})
            assert "event: error" in answer and "complete" not in answer, path
    for path in (
        secret,
        "/etc/passwd",
        ROOT / "gradio_app.py",
        server.settings.folder,
        f"{tmp_path}/app/../secret.mp4",
    ):
        assert httpx.get(f"{server.url}gradio_api/file={path}").status_code in (403, 404), path
    answer = raw_submit(server, {"path": "http://127.0.0.1:1/a.mp4", "url": server.url, **FILE}, {"path": mine, **FILE})
    assert "event: error" in answer


@pytest.mark.slow
def test_five_users_at_once_get_their_own_results(server: Server, tmp_path: Path) -> None:
    def user(number: int) -> tuple[int, str]:
        client, folder = client_of(server, tmp_path / str(number)), tmp_path
        frames = 8 + 4 * number
        files = make_video(folder / f"v{number}.mp4", frames), make_audio(folder / f"a{number}.wav", frames / 25)
        job_id = submit(client, files, seed=number)
        assert ended(client, job_id)["state"] == "done"
        video, report = client.predict(job_id, api_name="/fetch")
        facts = json.loads(Path(report).read_text())
        assert (facts["video"], facts["audio"], facts["settings"]["seed"]) == (
            f"v{number}.mp4",
            f"a{number}.wav",
            number,
        )
        return probe(video).frame_count, job_id

    with ThreadPoolExecutor(5) as pool:
        found = list(pool.map(user, range(5)))
    assert [frames for frames, _ in found] == [8, 12, 16, 20, 24]
    assert len({job_id for _, job_id in found}) == 5


def test_cancel_stops_within_a_window_and_the_next_job_starts(server: Server, tmp_path: Path) -> None:
    client, other = client_of(server, tmp_path / "a"), client_of(server, tmp_path / "b")
    files = make_video(tmp_path / "v.mp4", 300), make_audio(tmp_path / "a.wav", 12)
    short = make_video(tmp_path / "s.mp4", 8), make_audio(tmp_path / "s.wav", 0.3)
    first, second, third = submit(client, files, steps=4), submit(client, files), submit(other, short)
    job = server.app.store.get(first, f"session {client.session_hash}")
    assert client.predict(second, api_name="/status")["place"] == 1
    with pytest.raises(AppError, match="2 unfinished jobs"):
        submit(client, short)
    while not (job.stage == "Generate lips" and job.done):
        assert not job.is_over
        time.sleep(0.01)
    assert client.predict(second, api_name="/cancel")["state"] == "cancelled"
    server.app.engine.cancel(job)
    done = job.done
    assert ended(client, first)["state"] == "cancelled" and job.done <= done + NUM_FRAMES
    assert not job.work.exists() and not job.output.exists()
    assert ended(other, third)["state"] == "done"
    with pytest.raises(AppError, match="cancelled"):
        client.predict(first, api_name="/fetch")


def test_expired_results_are_deleted(server: Server, pair: tuple[Path, Path], tmp_path: Path) -> None:
    client, store = client_of(server, tmp_path), server.app.store
    job_id = submit(client, pair)
    ended(client, job_id)
    left_behind, not_ours = store.jobs_folder / ("b" * 32), store.jobs_folder / "notes"
    left_behind.mkdir()
    not_ours.mkdir()
    store.sweep()
    assert (store.jobs_folder / job_id).exists() and left_behind.exists()
    store.sweep(time.time() + LIMITS.keep_sec + 60)
    assert [path.name for path in store.jobs_folder.iterdir() if path.is_dir()] == ["notes"]
    assert not [path for path in store.folder.iterdir() if len(path.name) == 64]
    with pytest.raises(AppError, match="no such job"):
        client.predict(job_id, api_name="/status")
    job_id = submit(client, pair)
    assert ended(client, job_id)["state"] == "done"


def test_models_stay_loaded_until_idle(server: Server, pair: tuple[Path, Path], tmp_path: Path) -> None:
    client, engine = client_of(server, tmp_path), server.app.engine
    ended(client, submit(client, pair))
    kept = engine.pipeline
    ended(client, submit(client, pair))
    assert engine.pipeline is kept
    engine.unload_sec = 0.2
    ended(client, submit(client, pair))
    for _ in range(100):
        if engine.pipeline is None:
            break
        time.sleep(0.05)
    engine.unload_sec = None
    assert engine.pipeline is None
    assert ended(client, submit(client, pair))["state"] == "done"


def test_a_bug_ends_one_job_only(
    server: Server, pair: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    client = client_of(server, tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr("web.engine.check_job", lambda *_: 1 // 0)
        status = ended(client, submit(client, pair))
    assert status["state"] == "failed" and "ZeroDivisionError" in status["error"]
    assert ended(client, submit(client, pair))["state"] == "done"


def test_a_login_protects_page_and_files(pair: tuple[Path, Path], tmp_path: Path) -> None:
    settings = AppSettings(tmp_path / "app", LIMITS, port=None, login=("ann", "secret"))
    with kept_environment(), Server(stub_models(), settings) as guarded:
        upload = httpx.post(f"{guarded.url}gradio_api/upload", files={"files": ("a.mp4", pair[0].read_bytes())})
        call = httpx.post(f"{guarded.url}gradio_api/call/status", json={"data": ["x"]})
        assert upload.status_code == 401 and call.status_code == 401
        first = Client(guarded.url, auth=("ann", "secret"), verbose=False, download_files=str(tmp_path))
        job_id = submit(first, pair)
        assert ended(first, job_id)["state"] == "done"
        again = Client(guarded.url, auth=("ann", "secret"), verbose=False)
        assert again.predict(job_id, api_name="/status")["state"] == "done"
        job = guarded.app.store.get(job_id, "user ann")
        assert httpx.get(f"{guarded.url}gradio_api/file={job.output}").status_code == 401


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
