"""The job API over HTTP: its description, jobs and lists, tokens, limits, repeated requests, ranges, events, refused requests."""

import importlib.util
import json
import os
import re
import subprocess
import threading
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import hypothesis
import pytest
from hypothesis import strategies as st
from openapi_spec_validator import validate

import gradio_app
from latentsync.inference.batch import OPTIONS, SETTINGS
from latentsync.media.probe import probe
from tests.web.support import (
    API,
    LIMITS,
    ROOT,
    TOKENS,
    ApiClient,
    files_in,
    kept_environment,
    message_of,
    stub_models,
    wait_until,
)
from web import texts
from web.api.clients import RateLimit, client_of, parse_tokens
from web.errors import ErrorCode, WebError
from web.serve import Server
from web.settings import AppSettings, Limits
from web.storage import StoredUploads
from web.store import JobStore


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory, pair: tuple[Path, Path]) -> Iterator[Server]:
    """An app whose jobs may use the files of the pair's folder, and wait until a test lets the worker run."""
    api = replace(API, input_folders=(pair[0].parent,))
    settings = AppSettings(
        tmp_path_factory.mktemp("app"), replace(LIMITS, requests_per_minute=100_000), port=None, api=api
    )
    with kept_environment(), Server(stub_models(), settings) as running:
        yield running


@pytest.fixture(scope="module")
def done(server: Server, pair: tuple[Path, Path]) -> str:
    """A finished job of ann."""
    client = ApiClient(server.url)
    job_id = client.submit(pair, seed=5)
    assert client.ended(job_id)["state"] == "done"
    return job_id


@pytest.fixture
def ann(server: Server) -> ApiClient:
    return ApiClient(server.url)


@pytest.fixture
def queue(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    """Jobs wait and do not run."""
    monkeypatch.setattr(server.app.engine, "submit", lambda job: server.app.engine._waiting.append(job))


def test_the_description_is_valid_and_names_every_setting_and_error(server: Server) -> None:
    document = httpx.get(f"{server.url}api/v1/openapi.json").json()
    validate(document)
    schemas = document["components"]["schemas"]
    for name in ("JobRequest", "JobForm"):
        assert set(schemas[name]["properties"]) == {
            "video",
            "audio",
            "kind",
            "model",
            "webhook_url",
            *SETTINGS,
            *OPTIONS,
        }
    assert schemas["ErrorCode"]["enum"] == [code.value for code in ErrorCode]
    assert schemas["Job"]["properties"]["state"]["enum"][:2] == ["waiting", "running"]
    operations = [operation for path in document["paths"].values() for operation in path.values()]
    assert all(
        {"401", "403", "429"} <= operation["responses"].keys() and operation["security"] for operation in operations
    )
    assert len({operation["operationId"] for operation in operations}) == len(operations) == 15


def test_a_job_from_uploads(ann: ApiClient, done: str, tmp_path: Path, server: Server) -> None:
    status = ann.status(done)
    assert (status["state"], status["video"], status["audio"], status["error"]) == ("done", "talk.mp4", "new.wav", "")
    assert status["ended_at"] < status["expires_at"] and status["ended_at"].endswith("Z")
    assert probe(ann.result(done, tmp_path)).frame_count == 10
    report = ann.report(done)
    assert (report["video"], report["settings"]["seed"], report["settings"]["steps"]) == ("talk.mp4", 5, 1)
    assert str(server.settings.folder) not in json.dumps([report, status])
    assert not [path for path in server.settings.folder.iterdir() if len(path.name) == 64], "only the job has the files"


def test_every_setting_of_the_engine_reaches_the_job(
    ann: ApiClient, queue: None, pair: tuple[Path, Path], server: Server
) -> None:
    values = {"guidance_interval": "[0, 0.5]", "fps": "30000/1001", "crf": "20", "codec": "prores", "audio_track": "1"}
    answer = ann.post(pair, preset="quality", solver="unipc", kind="preview", limit_sec=1.5, face="2", **values)
    assert answer.status_code == 201, answer.text
    job = server.app.store.get(answer.json()["id"], ann.owner)
    settings, options = job.order.settings, job.order.options
    assert settings | {"guidance_interval": tuple(settings["guidance_interval"])} == settings
    assert (settings["solver"], settings["steps"], settings["guidance_interval"]) == ("unipc", 1, (0.0, 0.5))
    assert (str(options.fps), options.crf, options.limit_sec, options.face) == ("30000/1001", 20, 1.5, "2")
    assert job.output.suffix == ".mov", "a container that holds the codec"
    assert JobStore(server.settings.folder, LIMITS).get(job.id, ann.owner).order.options == options, (
        "also after a restart"
    )
    ann.cancel(job.id)


def with_speakers(ann: ApiClient, pair: tuple[Path, Path], content: Any, *names: str, **values: Any) -> httpx.Response:
    """Ask for a job of several people, whose sounds are uploaded as the fields `names`."""
    files = {"video": pair[0].read_bytes(), **{name: pair[1].read_bytes() for name in names}}
    data = {"steps": "1", "speakers": content if isinstance(content, str) else json.dumps(content), **values}
    uploads = {name: (f"{name}{pair[name == 'video' and 0 or 1].suffix}", data) for name, data in files.items()}
    return ann.http.post("/jobs", data=data, files=uploads)


PEOPLE = {"Anna": {"face": "largest"}, "far": {"face": None}}
SEGMENTS = [
    {"speaker": "Anna", "start": 0, "end": 0.2, "audio": "first"},
    {"speaker": "far", "start": 0.1, "end": 0.3, "audio": "second"},
]


def test_speakers_name_the_uploads_of_their_sounds(
    ann: ApiClient, pair: tuple[Path, Path], server: Server, tmp_path: Path
) -> None:
    answer = with_speakers(ann, pair, {"people": PEOPLE, "segments": SEGMENTS}, "first", "second")
    assert answer.status_code == 201, answer.text
    job_id = answer.json()["id"]
    assert ann.ended(job_id)["state"] == "done", ann.status(job_id)
    report = ann.report(job_id)
    assert [each["name"] for each in report["speakers"]] == ["Anna"]
    assert probe(ann.result(job_id, tmp_path)).has_audio and str(server.settings.folder) not in json.dumps(report)
    assert "Nothing was found" in message_of(ann.http.get(f"/jobs/{job_id}/speakers"), 404)
    inputs = server.app.store.get(job_id, ann.owner).folder / "input"
    assert sorted(path.stem for path in inputs.iterdir()) == ["sound_0", "sound_1", "speakers", "video"]
    assert not [path for path in server.settings.folder.iterdir() if len(path.name) == 64]
    assert JobStore(server.settings.folder, LIMITS).get(job_id, ann.owner).order.audio.is_file(), "also after a restart"


def test_speakers_name_files_of_the_server(
    ann: ApiClient, pair: tuple[Path, Path], queue: None, server: Server
) -> None:
    segments = [{**segment, "audio": str(pair[1])} for segment in SEGMENTS]
    speakers = {"people": PEOPLE, "segments": segments, "mix": pair[1].name}
    answer = ann.http.post("/jobs", json={"video": str(pair[0]), "speakers": speakers})
    assert answer.status_code == 201, answer.text
    job = server.app.store.get(answer.json()["id"], ann.owner)
    assert json.loads(job.order.audio.read_text())["mix"] == str(pair[1].resolve())
    ann.cancel(job.id)


WRONG_PEOPLE = {
    "a picture of the server": (
        {"people": {"a": {"face": "/etc/hostname", "audio": "first"}}},
        "face '/etc/hostname' is unknown",
    ),
    "a file of the server": (
        {"people": {"a": {"face": 1, "audio": "/etc/hostname"}}},
        "no file hostname in the folders",
    ),
    "a table": ({"people": {"a": {"face": 1, "audio": "first"}}, "segments": "/etc/t.csv"}, "speakers are incomplete"),
    "cues": ({"people": {"a": {"face": 1, "audio": "first"}}, "cues": "/etc"}, "speakers are incomplete"),
    "nobody": ({"people": {}}, "speakers are incomplete"),
    "a list": ({"people": ["a"]}, "speakers are incomplete"),
    "no face": ({"people": {"a": {"audio": "first"}}}, 'a has no "face"'),
    "a key": ({"people": {"a": {"face": 1, "audio": "first"}}, "sound": 1}, "'sound' is unknown"),
    "a number as sound": ({"people": {"a": {"face": 1, "audio": 3}}}, "speakers are incomplete"),
    "an RTTM file of the server": ("/etc/t.rttm", "speakers"),
}


@pytest.mark.parametrize("case", WRONG_PEOPLE)
def test_wrong_speakers_make_no_job(ann: ApiClient, server: Server, pair: tuple[Path, Path], case: str) -> None:
    before, (content, words) = files_in(server), WRONG_PEOPLE[case]
    assert words in message_of(with_speakers(ann, pair, content, *(["first"] if "first" in str(content) else [])), 422)
    assert files_in(server) == before


def test_speakers_contradict_an_audio_and_a_face(ann: ApiClient, pair: tuple[Path, Path]) -> None:
    content = {"people": {"a": {"face": 1, "audio": "first"}}}
    assert "leave out audio" in message_of(with_speakers(ann, pair, content, "first", audio="b.wav"), 422)
    assert "leave out face" in message_of(with_speakers(ann, pair, content, "first", face="2"), 422)
    assert "leave out face" in message_of(ann.post(pair, speakers="auto", face="2"), 422)
    assert "audio is missing" in message_of(ann.http.post("/jobs", json={"video": str(pair[0])}), 422)
    assert "second is a file" in message_of(with_speakers(ann, pair, content, "first", "second"), 422).replace("'", "")


def test_speakers_can_be_sought(ann: ApiClient, pair: tuple[Path, Path], queue: None, server: Server) -> None:
    job_id = ann.submit(pair, speakers="auto")
    job = server.app.store.get(job_id, ann.owner)
    assert job.order.options.speakers == "auto"
    ann.cancel(job_id)


WRONG = {
    "steps": ("many", "steps is 'many'"),
    "length": ("shrink", "length is 'shrink'"),
    "solver": ("euler", "solver is 'euler'"),
    "fps": ("1e999", "fps is '1e999'"),
    "crf": (64, "crf is 64"),
    "face": ("/etc/hostname", "face '/etc/hostname' is unknown"),
    "model": ("../../etc", "no model '../../etc'"),
    "guidance_interval": ("0 0.5", "not JSON"),
    "audio_track": (7, "new.wav"),
    "webhook_url": ("https://evil.test/", "no webhooks"),
    "colour_": ("x", "colour_ is unknown: known are video, audio, kind"),
}


@pytest.mark.parametrize("name", WRONG)
def test_wrong_settings_make_no_job(ann: ApiClient, server: Server, pair: tuple[Path, Path], name: str) -> None:
    before = files_in(server)
    answer = ann.post(pair, **{name: WRONG[name][0]})
    assert WRONG[name][1] in message_of(answer, 422)
    assert files_in(server) == before, "nothing is left of the uploads"


REFUSED_BODIES: dict[str, tuple[dict[str, Any], int, str]] = {
    "no file": ({"data": {"steps": "1"}, "files": {"video": b"x"}}, 422, "audio is missing"),
    "text for a video": ({"files": {"video": ("a.mp4", b"la la " * 99), "audio": ("a.wav", b"x")}}, 422, "a.mp4"),
    "two videos": ({"files": [("video", b"x"), ("video", b"y"), ("audio", b"z")]}, 422, "one video"),
    "another field": ({"files": {"movie": b"x"}}, 422, "movie is a file"),
    "no body": ({}, 415, "multipart/form-data"),
    "text": ({"content": "x", "headers": {"content-type": "text/plain"}}, 415, "multipart/form-data"),
    "broken JSON": ({"content": "{", "headers": {"content-type": "application/json"}}, 422, "is not JSON"),
    "deep JSON": ({"content": "[" * 99_999, "headers": {"content-type": "application/json"}}, 422, "is not JSON"),
    "a list": ({"json": [1]}, 422, "it is a list"),
    "an infinite number": (
        {"content": '{"video":"a","audio":"b","crf":Infinity}', "headers": {"content-type": "application/json"}},
        422,
        "crf is inf",
    ),
    "half a character": (
        {"content": b'{"\\ud800": 1}', "headers": {"content-type": "application/json"}},
        422,
        "unable to parse",
    ),
    "no boundary": ({"content": "x", "headers": {"content-type": "multipart/form-data"}}, 422, "not a form"),
    "a long text": ({"data": {"face": "x" * 1_100_000}, "files": {"video": b"x"}}, 422, "field of the request"),
    "a large file": ({"files": {"video": b"0" * 3_100_000}}, 413, "larger than 3 MB"),
    "no length": (
        {"content": iter([b"x"]), "headers": {"content-type": "multipart/form-data; boundary=b"}},
        411,
        "length",
    ),
}


@pytest.mark.parametrize("case", REFUSED_BODIES)
def test_wrong_bodies_get_one_sentence(ann: ApiClient, server: Server, case: str) -> None:
    body, status, said = REFUSED_BODIES[case]
    before = files_in(server)
    assert said in message_of(ann.http.post("/jobs", **body), status)
    assert files_in(server) == before


def values_of(schema: dict[str, Any]) -> st.SearchStrategy[Any]:
    """Values that a schema of the document allows, or nearly."""
    if "anyOf" in schema:
        return st.one_of([values_of(kind) for kind in schema["anyOf"]])
    if "enum" in schema:
        return st.sampled_from(schema["enum"])
    if "items" in schema or "prefixItems" in schema:
        return st.lists(st.floats(-1, 2), max_size=3)
    kinds: dict[str, st.SearchStrategy[Any]] = {
        "integer": st.integers(-1, 60) | st.integers(),
        "number": st.floats(allow_nan=False, allow_infinity=False) | st.integers(0, 30),
        "string": st.sampled_from(["", "largest", "1", "2,3@0", "25", "30000/1001", "talk.mp4"]) | st.text(max_size=9),
        "boolean": st.booleans(),
        "null": st.none(),
        "object": st.dictionaries(st.sampled_from(["people", "segments", "mix", "x"]), st.none() | st.text(max_size=3)),
    }
    return kinds[schema["type"]]


@pytest.mark.slow
def test_no_combination_of_settings_brings_an_internal_error(server: Server, ann: ApiClient, queue: None) -> None:
    """The files are good, so that requests reach the checks of the engine; schemas with other bodies are in `REFUSED_BODIES`."""
    document = ann.http.get("/openapi.json").json()
    fields = {
        name: values_of(field) for name, field in document["components"]["schemas"]["JobRequest"]["properties"].items()
    }
    fields["model"] = st.just("")
    answers: Counter[int] = Counter()

    @hypothesis.settings(max_examples=300, deadline=None, database=None, derandomize=True)
    @hypothesis.given(
        st.fixed_dictionaries({}, optional={name: fields[name] for name in fields if name not in ("video", "audio")})
    )
    def ask(values: dict[str, Any]) -> None:
        answer = ann.http.post("/jobs", json={"video": "talk.mp4", "audio": "new.wav", **values})
        answers[answer.status_code] += 1
        if answer.status_code == 201:
            assert ann.cancel(answer.json()["id"])["state"] == "cancelled"
            assert ann.http.delete(f"/jobs/{answer.json()['id']}").status_code == 204
        else:
            message_of(answer, 422)

    ask()
    assert set(answers) == {201, 422} and min(answers.values()) > 10, answers


def test_unknown_addresses_and_methods_are_told(ann: ApiClient) -> None:
    assert "/api/v1/openapi.json" in message_of(ann.http.get("/nothing"), 404)
    assert "PUT" in message_of(ann.http.put("/jobs"), 405)
    assert "limit is '0'" in message_of(ann.http.get("/jobs", params={"limit": 0}), 422)
    for path in ("/jobs/x", "/jobs/x/result", "/jobs/x/events", "/lists/x"):
        assert "deleted" in message_of(ann.http.get(path), 404)


def test_files_of_the_server_are_read_in_allowed_folders_only(
    ann: ApiClient, server: Server, pair: tuple[Path, Path], tmp_path: Path, queue: None
) -> None:
    folder, outside = pair[0].parent, tmp_path / "secret.mp4"
    outside.write_bytes(pair[0].read_bytes())
    link = folder / "link.mp4"
    link.symlink_to(outside)
    for video in (
        str(outside),
        "link.mp4",
        "../secret.mp4",
        "missing.mp4",
        ".",
        "a\x7f",
        str(server.settings.folder / "api.key"),
    ):
        sentence = message_of(ann.http.post("/jobs", json={"video": video, "audio": "new.wav"}), 422)
        assert "no file" in sentence and str(tmp_path) not in sentence
    for video in ("talk.mp4", str(pair[0])):
        answer = ann.http.post("/jobs", json={"video": video, "audio": "new.wav", "fps": 25})
        assert answer.status_code == 201 and answer.json()["video"] == "talk.mp4"
        ann.cancel(answer.json()["id"])
        assert ann.http.delete(f"/jobs/{answer.json()['id']}").status_code == 204
    assert pair[0].is_file(), "a file of the server is read where it is, and stays"
    with kept_environment():
        other = Server(stub_models(), AppSettings(tmp_path / "app", LIMITS, port=None, api=API))
    assert other.settings.api.input_folders == ()


def test_adapters_are_files_in_allowed_folders(
    ann: ApiClient, server: Server, pair: tuple[Path, Path], queue: None
) -> None:
    (pair[0].parent / "anna.safetensors").write_bytes(b"")
    order = {"video": "talk.mp4", "audio": "new.wav"}
    for adapter, words in {"../x.safetensors": "no file", "/etc/hostname:0.5": "no file", "anna:9": "from 0"}.items():
        assert words in message_of(ann.http.post("/jobs", json={**order, "adapter": adapter}), 422)
    answer = ann.http.post("/jobs", json={**order, "adapter": "anna.safetensors:0.5"})
    assert answer.status_code == 201
    chosen = server.app.engine._waiting[-1].order.settings["adapter"]
    assert chosen == f"{pair[0].parent / 'anna.safetensors'}:0.5"
    ann.cancel(answer.json()["id"])


def test_parts_of_a_result(ann: ApiClient, done: str) -> None:
    path = f"/jobs/{done}/result"
    whole = ann.http.get(path)
    assert whole.headers["accept-ranges"] == "bytes" and whole.headers["content-type"] == "video/mp4"
    part = ann.http.get(path, headers={"Range": "bytes=10-19"})
    assert (part.status_code, part.content) == (206, whole.content[10:20])
    assert part.headers["content-range"] == f"bytes 10-19/{len(whole.content)}"
    asked = ann.http.head(path)
    assert (asked.status_code, asked.headers["content-length"]) == (200, str(len(whole.content)))
    for wrong in ("bytes=99999999-", "bytes=9-1", "lines=1-2", "nonsense"):
        assert "Range" in message_of(ann.http.get(path, headers={"Range": wrong}), 416)
    changed = ann.http.get(path, headers={"Range": "bytes=0-9", "If-Range": '"another"'})
    assert changed.status_code == 200


def test_events_follow_a_job_to_its_end(ann: ApiClient, pair: tuple[Path, Path], done: str) -> None:
    job_id = ann.submit(pair, kind="preflight")
    for followed in (job_id, done):
        answer = ann.http.get(f"/jobs/{followed}/events")
        assert answer.headers["content-type"].startswith("text/event-stream")
        events = re.findall(r"id: (\d+)\nevent: (\w+)\ndata: (.*)\n\n", answer.text)
        assert [int(number) for number, _, _ in events] == list(range(1, len(events) + 1))
        assert {name for _, name, _ in events[:-1]} <= {"progress"} and events[-1][1] == "end"
        assert json.loads(events[-1][2])["state"] == "done"


def test_a_stream_of_events_ends_with_the_app(tmp_path: Path, pair: tuple[Path, Path]) -> None:
    seen: list[str] = []

    def follow(client: ApiClient, job_id: str) -> None:
        with client.http.stream("GET", f"/jobs/{job_id}/events") as answer:
            seen.extend(answer.iter_lines())

    with kept_environment(), Server(stub_models(), AppSettings(tmp_path / "app", LIMITS, port=None, api=API)) as app:
        app.app.engine.submit = lambda job: app.app.engine._waiting.append(job)  # type: ignore[method-assign]
        client = ApiClient(app.url)
        thread = threading.Thread(target=follow, args=(client, client.submit(pair)))
        thread.start()
        wait_until(lambda: app.api._streams["ann"] == 1)
    thread.join(30)
    assert not thread.is_alive() and "event: progress" in seen and "event: end" not in seen


def test_a_repeated_request_makes_no_second_job(
    ann: ApiClient, pair: tuple[Path, Path], queue: None, server: Server
) -> None:
    key = {"Idempotency-Key": "order 17"}
    with ThreadPoolExecutor(4) as pool:
        answers = list(pool.map(lambda _: ann.post(pair, headers=key), range(4)))
    assert sorted(answer.status_code for answer in answers) == [200, 200, 200, 201]
    assert len({answer.json()["id"] for answer in answers}) == 1
    assert "another request" in message_of(ann.post(pair, headers=key, seed=8), 409)
    other = ApiClient(server.url, "bob").post(pair, headers=key, seed=9)
    assert other.status_code == 201, "keys belong to a client"
    assert JobStore(server.settings.folder, LIMITS).repeated(
        server.app.store.get(answers[0].json()["id"], ann.owner).submission
    )
    ann.cancel(answers[0].json()["id"])
    ApiClient(server.url, "bob").cancel(other.json()["id"])


def test_a_list_is_made_whole_or_not_at_all(
    ann: ApiClient, server: Server, pair: tuple[Path, Path], queue: None
) -> None:
    uploads = [("files", (name, path.read_bytes())) for name, path in (("a.mp4", pair[0]), ("b.wav", pair[1]))]
    entry = {"video": "a.mp4", "audio": "b.wav", "steps": 1}
    before = len(server.app.store.of(ann.owner))
    wrong = ann.http.post("/lists", data={"jobs": json.dumps([entry, {**entry, "steps": 5000}])}, files=uploads)
    assert message_of(wrong, 422).startswith("Job 2 of the list: steps is 5000")
    many = ann.http.post("/lists", data={"jobs": json.dumps([entry] * 11)}, files=uploads)
    assert "unfinished jobs, and the limit is 10" in message_of(many, 429)
    assert len(server.app.store.of(ann.owner)) == before
    mixed = [entry, {"video": "talk.mp4", "audio": "b.wav", "kind": "preflight"}]
    made = ann.http.post("/lists", data={"jobs": json.dumps(mixed)}, files=uploads)
    assert made.status_code == 201 and made.json()["states"] == {"waiting": 2}
    path = made.headers["location"].removeprefix("/api/v1")
    assert [job["video"] for job in ann.http.get(path).json()["jobs"]] == ["a.mp4", "talk.mp4"]
    assert "deleted" in message_of(ApiClient(server.url, "bob").http.get(path), 404)
    assert "cancel it" in message_of(ann.http.delete(path), 409)
    assert ann.http.post(f"{path}/cancel").json()["is_over"]
    assert ann.http.delete(path).status_code == 204 and ann.http.get(path).status_code == 404


def test_jobs_are_listed_page_by_page(ann: ApiClient, pair: tuple[Path, Path], queue: None) -> None:
    made = [ann.submit(pair) for _ in range(3)]
    first = ann.http.get("/jobs", params={"limit": 2, "state": "waiting"}).json()
    rest = ann.http.get("/jobs", params={"after": first["next"], "state": "waiting"}).json()
    assert [job["id"] for job in first["jobs"] + rest["jobs"]] == made[::-1] and rest["next"] is None
    for job_id in made:
        assert ann.cancel(job_id)["state"] == "cancelled"
        assert ann.cancel(job_id)["state"] == "cancelled", "a second time too"
        assert "cannot go on" in message_of(ann.http.post(f"/jobs/{job_id}/resume"), 409)


def test_an_expired_job_is_gone_and_others_learn_nothing(tmp_path: Path, pair: tuple[Path, Path]) -> None:
    settings = AppSettings(tmp_path, LIMITS, port=None, api=API)
    with kept_environment(), Server(stub_models(), settings) as server:
        ann, store = ApiClient(server.url), server.app.store
        job_id = ann.submit(pair, kind="preflight")
        assert ann.ended(job_id)["state"] == "done"
        store.sweep(time.time() + LIMITS.keep_sec + 60)
        for path in (f"/jobs/{job_id}", f"/jobs/{job_id}/result", f"/jobs/{job_id}/events"):
            assert "submit it again" in message_of(ann.http.get(path), 410)
            assert message_of(ApiClient(server.url, "bob").http.get(path), 404)
        kept = ann.submit(pair, kind="preflight")
        ann.ended(kept)
        assert ann.http.delete(f"/jobs/{kept}").status_code == 204
        assert message_of(ann.http.get(f"/jobs/{kept}"), 404)  # deleted by its owner
    assert JobStore(tmp_path, LIMITS)._expired.has(job_id, ann.owner)


def test_only_its_client_can_use_a_job(server: Server, done: str) -> None:
    bob = ApiClient(server.url, "bob").http
    calls = [bob.get(f"/jobs/{done}{part}") for part in ("", "/events", "/result", "/report")]
    calls += [bob.post(f"/jobs/{done}/cancel"), bob.post(f"/jobs/{done}/resume"), bob.delete(f"/jobs/{done}")]
    assert {message_of(answer, 404) for answer in calls} == {texts.UNKNOWN_JOB}
    assert done not in bob.get("/jobs").text
    assert ApiClient(server.url).status(done)["state"] == "done"


@pytest.mark.parametrize(
    "given", ["", "Bearer", "Bearer wrong", f"Basic {TOKENS['ann']}", TOKENS["ann"], "Bearer \xfc"]
)
def test_every_request_needs_a_token(server: Server, given: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server.api.asgi, "strangers", RateLimit(1000))
    headers = {"Authorization": given.encode("latin-1")} if given else {}
    for method, path in (
        ("GET", "jobs"),
        ("POST", "jobs"),
        ("GET", "nothing"),
        ("DELETE", "jobs/x"),
        ("GET", "limits"),
    ):
        answer = httpx.request(method, f"{server.url}api/v1/{path}", headers=headers)
        assert "token" in message_of(answer, 401) and answer.headers["www-authenticate"] == "Bearer"


def test_guesses_of_tokens_slow_down(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    strangers = RateLimit(30)
    monkeypatch.setattr(server.api.asgi, "strangers", strangers)
    monkeypatch.setattr(strangers, "clock", lambda: 0.0)
    answers = [httpx.get(f"{server.url}api/v1/jobs", headers={"Authorization": f"Bearer {n}"}) for n in range(32)]
    assert [answer.status_code for answer in answers] == [401] * 30 + [429] * 2
    assert ApiClient(server.url).http.get("/jobs").status_code == 200, "who has a token is not slowed down"


def test_pages_of_other_sites_cannot_use_the_api(ann: ApiClient) -> None:
    for headers in ({"Origin": "http://evil.test"}, {"Origin": "null"}, {"Host": "evil.test"}):
        for method, path in (("GET", "/jobs"), ("POST", "/jobs"), ("OPTIONS", "/jobs"), ("GET", "/openapi.json")):
            answer = ann.http.request(method, path, headers=headers)
            message_of(answer, 403)
            assert "access-control-allow-origin" not in answer.headers


def test_requests_are_counted_and_limited(tmp_path: Path, pair: tuple[Path, Path]) -> None:
    limits = replace(LIMITS, requests_per_minute=3)
    with kept_environment(), Server(stub_models(), AppSettings(tmp_path / "app", limits, port=None, api=API)) as small:
        now = [0.0]
        small.api.asgi.rates.clock = lambda: now[0]
        ann, bob = ApiClient(small.url).http, ApiClient(small.url, "bob").http
        answers = [ann.get("/jobs") for _ in range(4)]
        assert [answer.headers["ratelimit-remaining"] for answer in answers] == ["2", "1", "0", "0"]
        assert "wait 60 s" in message_of(answers[-1], 429)
        assert (answers[-1].headers["retry-after"], answers[-1].headers["ratelimit-limit"]) == ("60", "3")
        assert bob.get("/jobs").status_code == 200
        now[0] = 61.0
        assert ann.get("/jobs").status_code == 200


def test_uploads_are_counted_for_a_client(tmp_path: Path, pair: tuple[Path, Path]) -> None:
    size = sum(path.stat().st_size for path in pair)
    limits = Limits(stored_bytes_each=2 * size + 3000)
    settings = AppSettings(tmp_path / "app", limits, port=None, api=API)
    with kept_environment(), Server(stub_models(), settings) as small:
        small.app.engine.submit = lambda job: small.app.engine._waiting.append(job)  # type: ignore[method-assign]
        ann, bob = ApiClient(small.url), ApiClient(small.url, "bob")
        first = ann.post(pair)
        left = int(first.headers["x-quota-stored-bytes-remaining"])
        assert left == limits.stored_bytes_each - size == ann.http.get("/limits").json()["stored_bytes_left"]
        again = StoredUploads(JobStore(small.settings.folder, limits))
        assert again.used_bytes(ann.owner) == size, "also after a restart"
        ann.submit(pair)
        assert "your limit" in message_of(ann.post(pair), 413)
        bob.cancel(bob.submit(pair))
        ann.cancel(first.json()["id"])
        assert ann.http.delete(f"/jobs/{first.json()['id']}").status_code == 204
        assert ann.post(pair).status_code == 201, "deleted jobs make room"


def test_an_app_without_clients_makes_a_token_for_its_own_user(tmp_path: Path) -> None:
    settings = AppSettings(tmp_path / "app", LIMITS, port=None)
    with kept_environment():
        tokens = [Server(stub_models(), settings).api.tokens for _ in range(2)]
    file = settings.folder / "api.key"
    assert tokens[0] == tokens[1] == {"local": file.read_text()} and len(file.read_text()) == 32
    assert file.stat().st_mode & 0o077 == 0


def test_tokens_are_read_from_a_file_or_the_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "tokens"
    file.write_text(f"# clients\nshop:{TOKENS['ann']}  # the shop\n\nlab-2:{TOKENS['bob']}\n")
    args = ["--api_tokens", str(file), "--input_folder", str(tmp_path), "--webhook_host", "shop.example.org"]
    api = gradio_app.settings_of(gradio_app.parse(args)).api
    assert api.tokens == {"shop": TOKENS["ann"], "lab-2": TOKENS["bob"]}
    assert (api.input_folders, api.webhook_hosts, api.private_webhooks) == ((tmp_path,), ("shop.example.org",), False)
    assert client_of(f"bearer {TOKENS['bob']}", api.tokens) == "lab-2"
    monkeypatch.setenv("LATENTSYNC_API_TOKENS", f"one:{TOKENS['cat']} two:{TOKENS['dan']}")
    assert gradio_app.settings_of(gradio_app.parse([])).api.tokens == {"one": TOKENS["cat"], "two": TOKENS["dan"]}
    for text in (
        "shop",
        "shop:short",
        f"a b:{TOKENS['ann']}",
        f":{TOKENS['ann']}",
        f"a:{TOKENS['ann']} b:{TOKENS['ann']}",
    ):
        with pytest.raises(WebError, match="^here"):
            parse_tokens(text, "here")
    for wrong in (["--api_tokens", "missing"], ["--input_folder", "missing"]):
        with pytest.raises(WebError, match="missing"):
            gradio_app.settings_of(gradio_app.parse(wrong))


def test_gradios_own_variables_are_honoured(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("GRADIO_SERVER_PORT", "7999")
    monkeypatch.setenv("GRADIO_SERVER_NAME", "0.0.0.0")
    stated = gradio_app.settings_of(gradio_app.parse([]))
    asked = gradio_app.settings_of(gradio_app.parse(["--port", "8001", "--host", "127.0.0.1"]))
    assert (stated.port, stated.host, asked.port, asked.host) == (7999, "0.0.0.0", 8001, "127.0.0.1")
    monkeypatch.setenv("GRADIO_SERVER_PORT", "0")  # any that is free
    assert gradio_app.settings_of(gradio_app.parse([])).port is None and "GRADIO_SERVER_PORT" not in os.environ
    monkeypatch.setenv("GRADIO_SERVER_PORT", "many")
    with pytest.raises(WebError, match="GRADIO_SERVER_PORT is 'many'"):
        gradio_app.settings_of(gradio_app.parse([]))


def test_the_app_works_below_a_path_of_a_proxy(
    tmp_path: Path, pair: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GRADIO_ROOT_PATH", "/lips")
    settings = AppSettings(tmp_path / "app", Limits(stored_bytes_each=10), port=None, api=API)
    with kept_environment(), Server(stub_models(), settings) as proxied:
        for prefix in ("", "lips/"):  # the proxy removes the prefix, or leaves it
            base = f"{proxied.url}{prefix}"
            assert '"root":"' in httpx.get(f"{base}config").text
            assert (
                httpx.get(f"{base}api/v1/jobs", headers={"Authorization": f"Bearer {TOKENS['ann']}"}).status_code == 200
            )
            assert httpx.get(f"{base}api/v1/jobs").json()["error"]["code"] == "unauthorized"
            upload = httpx.post(f"{base}gradio_api/upload", files={"files": ("a", b"x" * 100)})
            assert upload.status_code == 413, "uploads are limited under both names"


def documented_client() -> Any:
    spec = importlib.util.spec_from_file_location("api_client", ROOT / "docs/api_client.py")
    assert spec and spec.loader
    program = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(program)
    return program


def test_the_documented_client_gets_its_video(
    server: Server, pair: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    program, output = documented_client(), tmp_path / "result.mp4"
    access = ["--url", server.url, "--token", TOKENS["ann"]]
    files = [str(path) for path in (*pair, output)]
    assert program.main([*files, *access, "--preset", "fast", "--kind", "preview"]) == 0
    assert probe(output).frame_count == 10
    assert json.loads(output.with_suffix(".report.json").read_text())["settings"]["preset"] == "fast"
    assert program.main([files[0], str(ROOT / "README.md"), str(output), *access]) == 2
    assert "README.md" in capsys.readouterr().err
    assert program.main([*files, "--url", server.url, "--token", "wrong"]) == 2
    assert texts.API_TOKEN in capsys.readouterr().err


def documented(language: str, word: str) -> str:
    """The first block of docs/api.md in a language that has a word."""
    page = (ROOT / "docs/api.md").read_text(encoding="utf-8")
    blocks = re.findall(rf"```{language}\n(.*?)```", page, flags=re.DOTALL)
    return next(block for block in blocks if word in block)


def test_the_documented_lines_of_python_work(
    server: Server, pair: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(user_folder(tmp_path, pair))
    code = documented("python", "httpx").replace("http://127.0.0.1:7860/", server.url)
    exec(compile(code, "api.md", "exec"), {})
    assert probe(tmp_path / "result.mp4").frame_count == 10


def user_folder(folder: Path, pair: tuple[Path, Path]) -> Path:
    """A folder with the files that the page names."""
    (folder / "runs/web").mkdir(parents=True)
    (folder / "runs/web/api.key").write_text(TOKENS["ann"])
    for name, path in zip(("talk.mp4", "dubbed.wav"), pair, strict=True):
        (folder / name).write_bytes(path.read_bytes())
    return folder


def test_the_documented_commands_of_curl_work(server: Server, pair: tuple[Path, Path], tmp_path: Path) -> None:
    user_folder(tmp_path, pair)
    script = documented("bash", "curl").replace("http://127.0.0.1:7860/", server.url)
    done = subprocess.run(["bash", "-eu", "-c", script], cwd=tmp_path, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert probe(tmp_path / "result.mp4").frame_count == 10, done.stdout
    assert json.loads((tmp_path / "result.report.json").read_text())["output"]
    job = json.loads((tmp_path / "job.json").read_text())["id"]
    assert (
        "event: end" in done.stdout and ApiClient(server.url).http.get(f"/jobs/{job}").status_code == 404
    )  # it is deleted
