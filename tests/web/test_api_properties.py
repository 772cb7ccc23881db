"""The job API against its own description: requests made from the OpenAPI document, valid and not, get answers that it names."""

from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import hypothesis
import pytest
from hypothesis import strategies as st

from tests.web.support import API, LIMITS, TOKENS, ApiClient, kept_environment, stub_models
from web.serve import Server
from web.settings import AppSettings
from web.store import JobStore

requests = pytest.importorskip("requests")
schemathesis = pytest.importorskip("schemathesis", reason="it needs Python 3.11")
checks = pytest.importorskip("schemathesis.checks")
pytestmark = pytest.mark.slow

REQUESTS = 2000
NAMES = ("job_id", "list_id")  # in paths
CHECKS = (
    "not_a_server_error",
    "status_code_conformance",
    "content_type_conformance",
    "response_headers_conformance",
    "response_schema_conformance",
)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory, pair: tuple[Path, Path]) -> Iterator[Server]:
    """An app that may use the files of the pair's folder, and accepts any number of jobs and requests."""
    api = replace(API, input_folders=(pair[0].parent,))
    limits = replace(LIMITS, requests_per_minute=1_000_000, unfinished_jobs=9999, unfinished_jobs_address=9999)
    settings = AppSettings(tmp_path_factory.mktemp("app"), limits, port=None, api=api)
    with kept_environment(), Server(stub_models(), settings) as running:
        yield running


def some_of_each_state(server: Server, files: dict[str, str]) -> dict[str, list[str]]:
    """Ids of jobs that are done, cancelled and checked, and of a list, by their names in paths."""
    ann, body = ApiClient(server.url), {**files, "preset": "fast", "steps": 1}
    done, cancelled = (ann.http.post("/jobs", json=body).json()["id"] for _ in range(2))
    ann.cancel(cancelled)
    listed = ann.http.post("/lists", json={"jobs": [{**body, "kind": "preflight"}, body]}).json()
    for job_id in (done, cancelled, *(job["id"] for job in listed["jobs"])):
        ann.ended(job_id)
    return {"job_id": [done, cancelled, listed["jobs"][0]["id"]], "list_id": [listed["id"]]}


def with_known_names(case: Any, data: st.DataObject, names: dict[str, list[str]], files: dict[str, str]) -> None:
    """Let the path of a request name a job that exists, and its body files that exist, with at most two settings."""
    there = {name: data.draw(st.sampled_from(names[name])) for name in NAMES if name in (case.path_parameters or {})}
    case.path_parameters = {**(case.path_parameters or {}), **there}
    if case.media_type == "application/json":
        jobs = [body_of(job, data, files) for job in case.body.get("jobs", [case.body])]
        case.body = {"jobs": jobs} if "jobs" in case.body else jobs[0]


def body_of(job: dict[str, Any], data: st.DataObject, files: dict[str, str]) -> dict[str, Any]:
    settings = sorted(job.keys() - files.keys())
    kept = data.draw(st.lists(st.sampled_from(settings), max_size=2)) if settings else []
    return {**files, **{name: job[name] for name in kept}}


def test_every_answer_is_one_that_the_description_names(
    server: Server, pair: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Jobs that are accepted end at once, so that following one comes to an end; deleted ones stay, to be asked for again."""
    files = {"video": pair[0].name, "audio": pair[1].name}
    names = some_of_each_state(server, files)
    monkeypatch.setattr(server.app.engine, "submit", lambda job: job.end("cancelled"))
    monkeypatch.setattr(JobStore, "delete", lambda store, job: None)
    checks.load_all_checks()
    held = checks.CHECKS.get_by_names(CHECKS)
    schema = schemathesis.openapi.from_dict(ApiClient(server.url).http.get("/openapi.json").json())
    operations = [found.ok() for found in schema.get_all_operations()]
    valid, wrong = schemathesis.GenerationMode.POSITIVE, schemathesis.GenerationMode.NEGATIVE
    made = {
        mode: st.sampled_from([each.as_strategy(mode) for each in operations]).flatmap(lambda cases: cases)
        for mode in (valid, wrong)
    }
    answers: Counter[tuple[str, int]] = Counter()

    def with_token(request: Any) -> Any:
        """Whatever a request was made with, it gets past the gate, whose answers other tests ask for."""
        request.headers["authorization"] = f"Bearer {TOKENS['ann']}"
        return request

    with requests.Session() as session:
        session.auth = with_token

        @hypothesis.settings(
            max_examples=REQUESTS,
            deadline=None,
            database=None,
            derandomize=True,
            suppress_health_check=list(hypothesis.HealthCheck),
        )
        @hypothesis.given(st.data())
        def ask(data: st.DataObject) -> None:
            how = data.draw(st.sampled_from(("valid", "wrong", "known", "known")))
            case = data.draw(made[wrong if how == "wrong" else valid])
            if how == "known":
                with_known_names(case, data, names, files)
            answer = case.call(base_url=server.url.rstrip("/"), session=session, timeout=60)
            answers[case.operation.label, answer.status_code] += 1
            case.validate_response(answer, checks=held)

        ask()
    assert sum(answers.values()) >= REQUESTS
    assert {label for label, _ in answers} == {operation.label for operation in operations}
    assert {200, 201, 204, 404, 409, 422} <= {status for _, status in answers}, answers
