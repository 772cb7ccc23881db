"""The page in a real browser, with the demo models: upload, check, preview, run, cancel, play, and how it looks.

With LATENTSYNC_SCREENSHOTS=docs in the environment the pictures of the README are made anew.
"""

import os
import re
import shutil
import socket
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from itertools import islice
from pathlib import Path
from threading import Thread
from typing import Any
from urllib.parse import urlsplit

import cv2
import numpy as np
import pytest
from playwright.sync_api import Page, expect, sync_playwright

from latentsync.media.probe import probe
from latentsync.media.sound.read import read_audio
from latentsync.media.sound.write import write_wav
from latentsync.media.video.read import read_frames
from latentsync.media.video.write import VideoFormat, VideoWriter
from tests.support.tiny import make_audio, make_video
from tests.web.support import files_in, kept_environment, stub_models
from web import texts
from web.models import Models
from web.serve import Server
from web.settings import EXAMPLES, PRESETS, AppSettings, Limits

BROWSERS = ("chromium", "chromium-browser", "google-chrome")
BROWSER = next(filter(None, map(shutil.which, BROWSERS)), None)
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(BROWSER is None, reason=f"none of {', '.join(BROWSERS)} is installed"),
]

FRAMES = 32  # two windows
FOREIGN = "elsewhere.test"  # a host name that leads to this computer, as an attacker's may
USE = """async (address) => {
  const form = new FormData();
  form.append("files", new Blob(["stored"]), "stored.mp4");
  await fetch(address + "gradio_api/upload", {method: "POST", mode: "no-cors", body: form}).catch(() => {});
  for (const route of ["gradio_api/queue/join", "gradio_api/call/submit", "api/v1/jobs"])
    await fetch(address + route, {method: "POST", mode: "no-cors", body: '{"data": [], "session_hash": "s"}'}).catch(() => {});
  return await fetch(address + "config").then((answer) => answer.text(), () => "unreadable");
}"""
PICTURES = os.environ.get("LATENTSYNC_SCREENSHOTS", "")
PRESET = "balanced" if PICTURES else "quality"  # in pictures what most users get; else one that lasts some seconds
PATIENCE_MS = 90_000  # machines of continuous integration are slow
MAX_PICTURE_BYTES = 400_000
NAMELESS = """() => [...document.querySelectorAll(
    'button, input, select, textarea, a[href], [role=slider], video[controls], synced-player video')]
  .filter(e => e.checkVisibility() && e.type !== 'hidden')
  .filter(e => !(e.getAttribute('aria-label') || e.innerText || e.title || e.getAttribute('aria-labelledby')
                 || [...(e.labels || [])].some(l => l.innerText.trim())))
  .map(e => e.outerHTML.slice(0, 200))"""

# Texts whose contrast with what is behind them is below 4.5 : 1 (WCAG 2, AA); disabled fields and pictures are left out.
FAINT = """() => {
  const canvas = document.createElement('canvas').getContext('2d', {willReadFrequently: true});
  const rgba = colour => {
    canvas.clearRect(0, 0, 1, 1); canvas.fillStyle = colour; canvas.fillRect(0, 0, 1, 1);
    const [r, g, b, a] = canvas.getImageData(0, 0, 1, 1).data; return [r, g, b, a / 255];
  };
  const over = (top, below) => top.slice(0, 3).map((value, i) => value * top[3] + below[i] * (1 - top[3]));
  const behind = element => {
    if (!element) return [255, 255, 255];
    const style = getComputedStyle(element), own = rgba(style.backgroundColor);
    return own[3] === 1 ? own : over(own, behind(element.parentElement));
  };
  const light = colour => colour.slice(0, 3).map(v => v / 255).map(v => v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4)
    .reduce((sum, v, i) => sum + v * [0.2126, 0.7152, 0.0722][i], 0);
  return [...document.querySelectorAll('body *')]
    .filter(e => e.checkVisibility({visibilityProperty: true, opacityProperty: true}))
    .filter(e => !e.closest('[disabled], [aria-disabled=true]'))
    .filter(e => [...e.childNodes].some(node => node.nodeType === 3 && node.textContent.trim())
                 || e.matches('textarea, input:is([type=text], [type=number])'))
    .map(e => {
      const back = behind(e), front = over(rgba(getComputedStyle(e).color), back), both = [light(front), light(back)];
      return [(Math.max(...both) + 0.05) / (Math.min(...both) + 0.05), e];
    })
    .filter(([ratio]) => ratio < 4.5).map(([ratio, e]) => ratio.toFixed(2) + ' ' + e.outerHTML.slice(0, 150));
}"""


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    settings = AppSettings(tmp_path_factory.mktemp("app"), Limits(file_bytes=3_000_000), port=None)
    with kept_environment(), Server(Models.standard(), settings) as running:
        yield running


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """The beginning of the demo pair."""
    folder, example = tmp_path_factory.mktemp("pair"), EXAMPLES[0]
    video, audio = folder / "my talk.mp4", folder / "new words.wav"
    with VideoWriter(video, VideoFormat.like(probe(example.video))) as writer:
        for shown in islice(read_frames(example.video), FRAMES):
            writer.write(shown.frame)
    write_wav(audio, read_audio(example.audio)[: FRAMES * 640])
    return video, audio


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with sync_playwright() as playwright:
        names = f"--host-resolver-rules=MAP {FOREIGN} 127.0.0.1"
        running = playwright.chromium.launch(executable_path=BROWSER, args=["--no-sandbox", "--mute-audio", names])
        yield running
        running.close()


@pytest.fixture
def page(browser: Any, server: Server) -> Iterator[Page]:
    """The page of a new user; a request to another host or a message on the console fails the test."""
    context = browser.new_context(viewport={"width": 1280, "height": 900}, color_scheme="light", accept_downloads=True)
    page, elsewhere, complaints = context.new_page(), [], []
    page.set_default_timeout(PATIENCE_MS)
    expect.set_options(timeout=PATIENCE_MS)
    page.on("request", lambda request: elsewhere.append(request.url))
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.goto(server.url)
    page.get_by_role("button", name=texts.RUN, exact=True).wait_for()
    yield page
    context.close()
    assert [url for url in elsewhere if not url.startswith((server.url, "data:", "blob:"))] == []
    assert complaints == []


def upload(page: Page, video: Any, audio: Any) -> None:
    for field, path in (("video", video), ("audio", audio)):
        if path is not None:
            page.locator(f"#{field} input[type=file]").set_input_files(path)


def remove(page: Page, field: str) -> None:
    """Take a file out of the form."""
    page.locator(f"#{field}").get_by_label("Clear").click()


def press(page: Page, name: str) -> None:
    page.get_by_role("button", name=name, exact=True).click()


def unfold(page: Page, name: str) -> None:
    """Open or close a section; an arrow is part of its button's name."""
    page.get_by_role("button", name=re.compile(rf"^{name}\b")).click()


def type_in(page: Page, field: str, value: str) -> None:
    """Type as a person would: again, if Gradio resets the field because its section is still opening."""
    box = page.locator(field)
    for _ in range(20):
        box.fill(value)
        box.press("Tab")
        page.wait_for_timeout(500)
        if box.input_value() == value:
            return
    raise AssertionError(f"{field} does not keep {value}.")


def wait_for_message(page: Page, beginning: str) -> str:
    expect(page.locator("#message")).to_contain_text(beginning)
    return page.locator("#message").inner_text()


def jobs(server: Server) -> list[Any]:
    """All jobs, the newest first."""
    return list(reversed(server.app.store._jobs.values()))


def picture(page: Page, name: str, folder: Path, **clip: Any) -> None:
    """A screenshot, small enough for a repository."""
    path = Path(PICTURES or folder) / f"web_{name}.png"
    page.screenshot(path=path, animations="disabled", **clip)
    if path.stat().st_size > MAX_PICTURE_BYTES:
        image = np.asarray(cv2.imread(str(path)), np.uint8)
        cv2.imwrite(str(path), (image & 0xF8) | (image >> 5), [cv2.IMWRITE_PNG_COMPRESSION, 9])
    assert path.stat().st_size < MAX_PICTURE_BYTES


def test_from_upload_to_download(page: Page, server: Server, pair: tuple[Path, Path], tmp_path: Path) -> None:
    upload(page, *pair)
    expect(page.get_by_text("256 x 256, 25 frames per second, 1.3 s")).to_be_visible()
    expect(page.get_by_text("1.3 s of audio")).to_be_visible()

    unfold(page, texts.FACE_SECTION)
    page.locator("#frame img").click(position={"x": 170, "y": 160})
    expect(page.locator("#face input")).to_have_value(re.compile(r"\d+,\d+@0\.00"))
    place = page.locator("#face input").input_value()
    unfold(page, texts.FACE_SECTION)

    press(page, texts.CHECK)
    assert f"{FRAMES} of {FRAMES} frames would be edited" in wait_for_message(page, "Check:")
    expect(page.locator("#sheet img")).to_be_visible()
    picture(page, "check", tmp_path, full_page=True)

    unfold(page, texts.ADVANCED_SECTION)
    type_in(page, "#steps input[type=number]", "2")
    expect(page.get_by_label(texts.CUSTOM_TITLE)).to_be_checked()
    unfold(page, texts.ADVANCED_SECTION)
    press(page, texts.PREVIEW)
    expect(page.locator("#progress")).to_contain_text(re.compile(rf"\d+ of {FRAMES} frames"))
    wait_for_message(page, "Done:")
    assert jobs(server)[0].report["options"]["limit_sec"] == 3 and jobs(server)[0].report["settings"]["steps"] == 2

    unfold(page, texts.ADVANCED_SECTION)
    type_in(page, "#steps input[type=number]", "50")  # long enough to be seen and cancelled
    unfold(page, texts.ADVANCED_SECTION)
    press(page, texts.RUN)
    expect(page.locator("#progress")).to_contain_text(re.compile(rf"generate lips\s*\d+ of {FRAMES} frames"))
    press(page, texts.CANCEL)
    wait_for_message(page, "Cancelled")
    assert jobs(server)[0].state == "cancelled" and not jobs(server)[0].output.exists()

    page.get_by_label(texts.PRESETS[PRESET]).check()
    run = page.get_by_role("button", name=texts.RUN, exact=True)
    expect(run).to_be_enabled()
    run.focus()
    page.keyboard.press("Enter")
    expect(page.locator("#progress")).to_contain_text("Step")
    page.reload()  # the page finds its job again
    expect(page.locator("#progress")).to_contain_text("Step")
    wait_for_message(page, "Done:")
    job = jobs(server)[0]
    assert probe(job.output).frame_count == FRAMES
    assert (job.report["settings"]["steps"], job.report["options"]["face"]) == (PRESETS[PRESET]["steps"], place)

    play_together(page)
    with page.expect_download() as download:
        press(page, texts.DOWNLOAD_VIDEO)
    assert download.value.suggested_filename == "my_talk_lipsync.mp4"
    assert Path(download.value.path()).read_bytes() == job.output.read_bytes()
    unfold(page, texts.REPORT_SECTION)
    expect(page.locator("#report")).to_contain_text(f"{PRESETS[PRESET]['steps']} steps")
    unfold(page, texts.HISTORY_SECTION)
    expect(page.locator("#history label")).to_have_count(4)
    assert page.evaluate(NAMELESS) == []
    looks(page, tmp_path)
    unfold(page, texts.HISTORY_SECTION)
    page.locator("#history label", has_text="cancelled").click()
    wait_for_message(page, "Cancelled")
    press(page, texts.DELETE)
    wait_for_message(page, texts.DELETED)
    expect(page.locator("#history label")).to_have_count(3)


def play_together(page: Page) -> None:
    """The player plays both videos in sync."""
    page.evaluate("() => { document.querySelector('.sp-result').loop = true }")
    button = page.locator(".sp-play")
    button.click()
    page.wait_for_function("() => document.querySelector('.sp-result').currentTime > 0.4")
    times = "() => ['.sp-original', '.sp-result'].map(name => document.querySelector(name).currentTime)"
    expect(button).to_have_text(texts.PLAYER_PAUSE)
    button.click()
    page.wait_for_function(f"() => {{ const [a, b] = ({times})(); return Math.abs(a - b) < 0.05 }}")
    page.locator(".sp-controls input[type=range]:not(.sp-divider)").fill("500")
    page.wait_for_function(f"() => {{ const [a, b] = ({times})(); return b > 0.5 && Math.abs(a - b) < 0.05 }}")
    assert page.evaluate("() => [document.querySelector('.sp-result').muted, document.querySelector('.sp-original').muted]") == [
        False,
        True,
    ]  # fmt: skip


def looks(page: Page, folder: Path) -> None:
    """Screenshots in light and dark and on a phone, where nothing is wider than the screen."""
    page.evaluate(
        "() => { document.activeElement.blur(); window.scrollTo(0, 0) }"
    )  # the actions stay in sight, at the top
    picture(page, "light", folder, full_page=True)
    assert page.evaluate(FAINT) == []
    page.emulate_media(color_scheme="dark")
    page.reload()
    wait_for_message(page, "Done:")
    page.wait_for_function("() => document.querySelector('.sp-result').readyState >= 2")
    assert page.evaluate("() => document.body.classList.contains('dark')")
    expect(page.get_by_text("1.3 s of audio")).to_be_visible()
    page.wait_for_timeout(1000)  # what is being filled in is faint
    picture(page, "dark", folder, full_page=True)
    assert page.evaluate(FAINT) == []
    page.set_viewport_size({"width": 390, "height": 844})
    page.wait_for_timeout(300)
    assert page.evaluate("() => document.documentElement.scrollWidth") <= 390
    picture(page, "phone", folder)
    page.set_viewport_size({"width": 1280, "height": 900})


def choose_turbo_with_three_steps(page: Page, pair: tuple[Path, Path]) -> None:
    upload(page, *pair)
    expect(page.get_by_text("1.3 s of audio")).to_be_visible()
    page.get_by_label(texts.PRESETS["turbo"]).check()
    unfold(page, texts.ADVANCED_SECTION)
    type_in(page, "#steps input[type=number]", "3")


def test_turbo_with_another_number_of_steps_keeps_its_weights(
    page: Page, server: Server, pair: tuple[Path, Path]
) -> None:
    choose_turbo_with_three_steps(page, pair)
    expect(page.get_by_label(texts.CUSTOM_TITLE)).to_be_checked()
    press(page, texts.PREVIEW)
    wait_for_message(page, "Done:")
    settings = jobs(server)[0].report["settings"]
    assert (settings["solver"], settings["steps"], settings["guidance_scale"]) == ("lcm", 3, 1)


def test_a_job_goes_on_after_the_app_was_stopped(browser: Any, tmp_path: Path) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        settings = AppSettings(tmp_path / "app", port=free.getsockname()[1])
    page = browser.new_page()
    page.set_default_timeout(PATIENCE_MS)
    expect.set_options(timeout=PATIENCE_MS)
    with kept_environment(), Server(stub_models(), settings) as first:
        page.goto(first.url)
        upload(page, make_video(tmp_path / "v.mp4", 600), make_audio(tmp_path / "a.wav", 24))
        expect(page.get_by_text("24 s of audio")).to_be_visible()
        press(page, texts.CHECK)
        wait_for_message(page, "Check:")
        press(page, texts.RUN)
        expect(page.locator("#progress")).to_contain_text(re.compile(r"generate lips\s*[1-9]\d* of 600 frames"))
    with kept_environment(), Server(stub_models(), settings) as second:
        page.goto(second.url)
        wait_for_message(page, texts.STOPPED)
        unfold(page, texts.HISTORY_SECTION)
        expect(page.locator("#history label")).to_have_count(2)
        expect(page.locator("#history label", has_text="Check, v.mp4 + a.wav: done")).to_be_visible()
        press(page, texts.RESUME)
        assert "600 of 600 frames" in wait_for_message(page, "Done:")
        expect(page.get_by_role("button", name=texts.RESUME, exact=True)).to_be_hidden()
    page.close()


def test_files_and_settings_survive_and_a_double_click_counts_once(
    page: Page, server: Server, pair: tuple[Path, Path]
) -> None:
    choose_turbo_with_three_steps(page, pair)
    unfold(page, texts.FACE_SECTION)
    page.locator("#frame img").click(position={"x": 170, "y": 160})
    expect(page.locator("#face input")).to_have_value(re.compile(r"\d+,\d+@0\.00"))
    place, before = page.locator("#face input").input_value(), len(jobs(server))
    page.get_by_role("button", name=texts.CHECK, exact=True).dblclick()
    expect(page.get_by_role("button", name=texts.RUN, exact=True)).to_be_disabled()
    wait_for_message(page, "Check:")
    assert len(jobs(server)) == before + 1

    def is_restored() -> None:
        expect(page.get_by_text("1.3 s of audio")).to_be_visible()
        expect(page.get_by_text("256 x 256, 25 frames per second, 1.3 s")).to_be_visible()
        expect(page.get_by_label(texts.CUSTOM_TITLE)).to_be_checked()
        for section, field, value in (
            (texts.ADVANCED_SECTION, "#steps input[type=number]", "3"),
            (texts.FACE_SECTION, "#face input", place),
        ):
            if not page.locator(field).is_visible():
                unfold(page, section)
            expect(page.locator(field)).to_have_value(value)

    page.wait_for_timeout(1000)  # the browser keeps the form a moment after the last change
    page.reload()
    is_restored()
    page.goto(f"{server.url}robots.txt")
    page.go_back()
    is_restored()
    page.get_by_label(texts.PRESETS["fast"]).check()
    page.get_by_role("button", name=texts.PREVIEW, exact=True).click()
    wait_for_message(page, "Done:")
    assert jobs(server)[0].order.settings["preset"] == "fast" and jobs(server)[0].order.options.face == place
    unfold(page, texts.HISTORY_SECTION)
    page.locator("#history label", has_text="Check, my talk.mp4").last.click()
    is_restored()
    remove(page, "video")
    expect(page.locator("#face input")).to_have_value(texts.FACE_CHOICES[0][0])  # the place was one of that video


def test_another_site_can_store_start_and_read_nothing(browser: Any, server: Server, tmp_path: Path) -> None:
    port, before, made = urlsplit(server.url).port, files_in(server), len(jobs(server))
    refused: list[int] = []
    pages = ThreadingHTTPServer(("127.0.0.1", 0), partial(SimpleHTTPRequestHandler, directory=str(tmp_path)))
    Thread(target=pages.serve_forever, daemon=True).start()
    page = browser.new_page()
    page.on("response", lambda answer: refused.append(answer.status) if answer.request.method == "POST" else None)
    expect.set_options(timeout=PATIENCE_MS)
    page.goto(f"http://{FOREIGN}:{pages.server_port}/")
    for address in (server.url, f"http://{FOREIGN}:{port}/"):
        assert "components" not in page.evaluate(USE, address)
    page.goto(f"http://{FOREIGN}:{port}/")
    expect(page.locator("body")).to_contain_text(f"does not answer under the name {FOREIGN}")
    assert "components" not in page.evaluate(USE, f"http://{FOREIGN}:{port}/")
    assert files_in(server) == before and len(jobs(server)) == made
    assert len(refused) >= 4 and set(refused) == {403}, "of other origins the browser itself hides the answers"
    page.close()
    pages.shutdown()


def test_bad_files_give_an_error_and_the_page_keeps_working(page: Page, server: Server, tmp_path: Path) -> None:
    upload(page, {"name": "note.mp4", "mimeType": "video/mp4", "buffer": b"no video " * 30}, None)
    alert = page.get_by_role("alert").filter(has_text="note.mp4")
    expect(alert).to_be_visible()
    press(page, texts.RUN)
    problem = page.locator("#problem")
    expect(problem).to_contain_text(texts.NEED_BOTH)
    before = len(jobs(server))
    upload(page, None, make_audio(tmp_path / "a.wav", 0.4))
    expect(page.get_by_text("0.4 s of audio")).to_be_visible()
    expect(problem.get_by_role("alert")).to_have_count(0)  # an error goes with its cause
    press(page, texts.RUN)
    expect(problem).to_contain_text("note.mp4")
    page.get_by_label(texts.PRESETS["fast"]).check()
    expect(problem.get_by_role("alert")).to_have_count(0)
    assert len(jobs(server)) == before
    big = tmp_path / "big.mp4"
    big.write_bytes(b"0" * 3_100_000)
    remove(page, "video")
    remove(page, "audio")
    upload(page, big, None)
    expect(page.locator("#upload-note")).to_contain_text("larger than 3 MB")
    upload(page, make_video(tmp_path / "hostile '\"<b>&;$(x).mp4", 10), make_audio(tmp_path / "b.wav", 0.4))
    expect(page.locator("#upload-note")).to_be_hidden()
    expect(page.get_by_text("0.4 s of audio")).to_be_visible()
    expect(page.get_by_text("128 x 96")).to_be_visible()
    press(page, texts.CHECK)
    assert "No frame shows a face" in wait_for_message(page, "Check:")
