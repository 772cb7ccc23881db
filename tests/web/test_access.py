"""Who may use the app: its own pages under its own names, those who know the password, and nobody at the cost of all others."""

import shutil
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import httpx
import pytest

import gradio_app
from latentsync.places import HOME
from tests.web.support import LIMITS, files_in, kept_environment, stub_models
from web.access import HostNames, is_own_origin, network_of
from web.errors import WebError
from web.jobs import Submission
from web.models import ModelChoice, Models
from web.orders import Wish
from web.sentences import without_folders
from web.serve import Server
from web.settings import AppSettings
from web.uploads import client_error
from web.views import error_html

FOREIGN_ORIGINS = ("http://evil.test", "null", "http://127.0.0.1:1", "http://localhost:7", "file://", "http://[")
FOREIGN_HOSTS = ("evil.test", "evil.test:7860", "localhost.evil.test", "127.0.0.1.evil.test", "[", "")


@pytest.mark.parametrize("origin", FOREIGN_ORIGINS)
@pytest.mark.parametrize("route", ["upload", "call/submit", "queue/join", "run/predict"])
def test_pages_of_other_sites_can_store_and_start_nothing(server: Server, origin: str, route: str) -> None:
    before, headers = files_in(server), {"Origin": origin}
    body = (
        {"files": {"files": ("a.mp4", b"x")}} if route == "upload" else {"json": {"data": ["x"], "session_hash": "s"}}
    )
    for host in ("", "evil.test", f"192.0.2.1:{urlsplit(server.url).port}"):
        answer = httpx.post(
            f"{server.url}gradio_api/{route}", headers=headers | ({"Host": host} if host else {}), **body
        )
        assert answer.status_code == 403 and answer.text.endswith(".") and "\n" not in answer.text
        assert "access-control-allow-origin" not in answer.headers
    assert files_in(server) == before


@pytest.mark.parametrize("method", ["GET", "OPTIONS"])
def test_pages_of_other_sites_can_read_nothing(server: Server, method: str) -> None:
    asked = {"Origin": "http://evil.test", "Access-Control-Request-Method": "POST", "Host": "192.0.2.1"}
    answer = httpx.request(method, f"{server.url}config", headers=asked)
    assert answer.status_code == 403 and "access-control-allow-origin" not in answer.headers


def test_the_apps_own_page_may_use_it(server: Server) -> None:
    at = urlsplit(server.url)
    for host in (at.netloc, f"localhost:{at.port}", f"[::1]:{at.port}"):
        own = {"Origin": f"http://{host}", "Host": host}
        answer = httpx.post(f"{server.url}gradio_api/upload", files={"files": ("a.mp4", b"x")}, headers=own)
        assert answer.status_code == 200


@pytest.mark.parametrize("host", FOREIGN_HOSTS)
def test_the_app_answers_under_its_own_names_only(server: Server, host: str) -> None:
    before = files_in(server)
    for route in ("", "config", "gradio_api/info"):
        answer = httpx.get(f"{server.url}{route}", headers={"Host": host})
        assert answer.status_code in (400, 403) and "window.gradio_config" not in answer.text
    stored = httpx.post(f"{server.url}gradio_api/upload", files={"files": ("a", b"x")}, headers={"Host": host})
    assert stored.status_code in (400, 403) and files_in(server) == before


def test_names_can_be_allowed() -> None:
    args = ["--allow_host", "lips.example.org", "--allow_host", "other.example.org"]
    names = HostNames(gradio_app.settings_of(gradio_app.parse(args)).allowed_hosts)
    asked = ("lips.example.org", "OTHER.example.org:443", "example.org", "x.lips.example.org", "localhost.:80")
    assert [names.accepts(host) for host in asked] == [True, True, False, False, True]


def test_a_page_behind_a_proxy_has_the_origin_of_its_host() -> None:
    assert is_own_origin("https://lips.example.org", "lips.example.org")
    assert not is_own_origin("https://lips.example.org:8443", "lips.example.org")
    assert not is_own_origin("ftp://lips.example.org", "lips.example.org")


def test_the_addresses_of_one_client_are_one() -> None:
    assert network_of("2001:db8::1") == network_of("2001:db8::ffff:2") != network_of("2001:db8:0:1::1")
    assert network_of("192.0.2.1") != network_of("192.0.2.2")


@pytest.fixture
def guarded(tmp_path: Path) -> Iterator[Server]:
    settings = AppSettings(tmp_path / "app", LIMITS, port=None, login=("ann", "secret"))
    with kept_environment(), Server(stub_models(), settings) as running:
        yield running


def log_in(server: Server, password: str, **headers: str) -> httpx.Response:
    data = {"username": "ann", "password": password}
    return httpx.post(f"{server.url}login", data=data, headers=headers)


def test_wrong_passwords_slow_down(guarded: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]
    monkeypatch.setattr(guarded.guard.brake, "clock", lambda: now[0])
    answers = [log_in(guarded, f"guess {n}", **{"X-Forwarded-For": f"192.0.2.{n}"}) for n in range(30)]
    assert [answer.status_code for answer in answers[:5]] == [400] * 5
    assert {answer.status_code for answer in answers[5:]} == {429}
    assert "wait" in answers[-1].text and int(answers[-1].headers["retry-after"]) > 0
    assert log_in(guarded, "secret").status_code == 429, "a guess that was right tells nothing"
    now[0] += float(answers[-1].headers["retry-after"])
    assert log_in(guarded, "secret").status_code == 200
    assert [log_in(guarded, "typo").status_code for _ in range(3)] == [400] * 3


def test_new_session_names_do_not_take_all_seats(pair: tuple[Path, Path], tmp_path: Path) -> None:
    with kept_environment():
        app = Server(stub_models(), AppSettings(tmp_path / "app", LIMITS, port=None)).app  # its worker does not run
    uploads = app.store.folder / ("a" * 64)
    uploads.mkdir()
    files = [Path(shutil.copy(path, uploads)) for path in pair]
    taken = 0
    with pytest.raises(WebError, match="from your address"):
        for taken in range(LIMITS.unfinished_jobs):
            app.submit(Submission(f"page {taken}", "192.0.2.1"), Wish(), *map(str, files))
    assert 0 < taken < LIMITS.unfinished_jobs
    assert app.submit(Submission("page new", "192.0.2.2"), Wish(), *map(str, files)).state == "waiting"


def test_answers_name_no_folder_of_the_server(tmp_path: Path) -> None:
    own = tmp_path / "secret" / "unet.pt"
    models = Models({"own": ModelChoice("own", own, "cascade")})
    with pytest.raises(WebError) as caught:
        models.check("own")
    for shown in (client_error(caught.value).message, error_html(str(caught.value))):
        assert "unet.pt does not exist" in shown and "secret" not in shown


FOLDERS_GONE = {
    "cannot write /srv/app/x/y z.mp4: full.": "cannot write y z.mp4: full.",
    "cannot read /srv/x.mp4.": "cannot read x.mp4.",
    f"{HOME}/checkpoints/a.pt is gone (docs/performance.md), see https://a.test/b/c or 1/2/3.":
        "checkpoints/a.pt is gone (docs/performance.md), see https://a.test/b/c or 1/2/3.",
    r"cannot read C:\Users\ann\x.mp4: gone.": "cannot read x.mp4: gone.",
}  # fmt: skip


@pytest.mark.parametrize("sentence", FOLDERS_GONE)
def test_folders_are_left_out_of_sentences(sentence: str) -> None:
    assert without_folders(sentence) == FOLDERS_GONE[sentence]
