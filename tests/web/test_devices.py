"""A creator's whole way on a laptop and on a phone, with portrait footage and in the dark; the keyboard alone; and accessibility.

The app is a process of its own, which is killed and started again in the middle of a job.
"""

import re
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from playwright.sync_api import Page, TimeoutError, expect, sync_playwright

from latentsync.media.probe import probe
from latentsync.media.sound.read import read_audio
from latentsync.media.sound.write import write_wav
from latentsync.media.video.read import read_frames
from latentsync.media.video.write import VideoFormat, VideoWriter
from tests.web.support import ROOT
from tests.web.test_browser import (
    BROWSER,
    FAINT,
    PATIENCE_MS,
    picture,
    play_together,
    press,
    type_in,
    unfold,
    upload,
    wait_for_message,
)
from tests.web.test_creator import compare, has_no_serious_fault, is_in_sight, run_three
from web import texts
from web.settings import EXAMPLES

pytestmark = [pytest.mark.slow, pytest.mark.skipif(BROWSER is None, reason="no Chromium is installed")]
FRAMES = 48
LAPTOP: dict[str, Any] = {"viewport": {"width": 1366, "height": 768}}
PHONE: dict[str, Any] = {
    "viewport": {"width": 390, "height": 844},
    "is_mobile": True,
    "has_touch": True,
    "device_scale_factor": 2,
}
DEVICES = {"laptop": LAPTOP, "phone": PHONE}
MOST_WIDE = "() => document.documentElement.scrollWidth <= innerWidth"


class App:
    """The app as a user starts it, always at the same address."""

    def __init__(self, folder: Path):
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        self.command = [sys.executable, str(ROOT / "gradio_app.py"), "--demo", "--folder", str(folder)]
        self.start()

    def start(self) -> None:
        command = [*self.command, "--port", str(self.port)]
        self.process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)
        assert self.process.stdout is not None
        self.url = re.findall(r"http://\S+", self.process.stdout.readline())[0]

    def kill(self) -> None:
        self.process.send_signal(signal.SIGKILL)
        self.process.wait()
        assert self.process.stdout is not None
        self.process.stdout.close()


@pytest.fixture
def app(tmp_path: Path) -> Iterator[App]:
    running = App(tmp_path / "app")
    yield running
    running.kill()


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """The demo's speaker in portrait format, between two bars."""
    folder, example = tmp_path_factory.mktemp("portrait"), EXAMPLES[0]
    video, audio, info = folder / "my story.mp4", folder / "new words.wav", probe(example.video)
    with VideoWriter(video, VideoFormat.constant(256, 456, info.fps)) as writer:
        for shown in islice(read_frames(example.video), FRAMES):
            writer.write(np.pad(shown.frame, ((100, 100), (0, 0), (0, 0)), constant_values=90))
    write_wav(audio, read_audio(example.audio)[: FRAMES * 640])
    return video, audio


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with sync_playwright() as playwright:
        running = playwright.chromium.launch(executable_path=BROWSER, args=["--no-sandbox", "--mute-audio"])
        yield running
        running.close()


def opened(browser: Any, url: str, device: dict[str, Any], theme: str = "dark") -> Page:
    page = browser.new_context(**device, color_scheme=theme, accept_downloads=True).new_page()
    page.set_default_timeout(PATIENCE_MS)
    expect.set_options(timeout=PATIENCE_MS)
    page.goto(url)
    page.get_by_role("button", name=texts.RUN, exact=True).wait_for()
    return page


def choose_steps(page: Page, steps: int) -> None:
    unfold(page, texts.ADVANCED_SECTION)
    type_in(page, "#steps input[type=number]", str(steps))
    unfold(page, texts.ADVANCED_SECTION)


def wait_for_lips(page: Page) -> None:
    expect(page.locator("#progress")).to_contain_text(re.compile(rf"generate lips\s*[1-9]\d* of {FRAMES} frames"))


@pytest.mark.parametrize("device", DEVICES)
def test_the_whole_way(browser: Any, app: App, pair: tuple[Path, Path], device: str, tmp_path: Path) -> None:
    page = opened(browser, app.url, DEVICES[device])
    assert page.evaluate("() => document.body.classList.contains('dark')")
    upload(page, *pair)
    expect(page.get_by_text("256 x 456, 25 frames per second, 1.9 s")).to_be_visible()
    assert is_in_sight(page, "#run"), "portrait footage does not push the actions out of sight"
    press(page, texts.CHECK)
    assert f"{FRAMES} of {FRAMES} frames would be edited" in wait_for_message(page, "Check:")

    unfold(page, texts.FACE_SECTION)
    page.locator("#frame img").click(position={"x": 5, "y": 5})
    expect(page.locator("#face-note")).to_contain_text("Face 1 of this picture is chosen")
    assert is_in_sight(page, "#run")
    unfold(page, texts.FACE_SECTION)

    page.get_by_label(texts.PRESETS["turbo"]).check()
    unfold(page, texts.PART_SECTION)
    type_in(page, "#ranges textarea", "0.4-1.2")
    press(page, texts.PREVIEW)
    wait_for_message(page, "Done:")
    with page.expect_download() as download:
        press(page, texts.DOWNLOAD_VIDEO)
    assert download.value.suggested_filename == "my_story_preview_0.4s.mp4"
    type_in(page, "#ranges textarea", "")
    unfold(page, texts.PART_SECTION)

    choose_steps(page, 50)
    page.get_by_role("button", name=texts.RUN, exact=True).dblclick()
    wait_for_lips(page)
    page.reload()
    wait_for_lips(page)
    press(page, texts.CANCEL)
    wait_for_message(page, "Cancelled")
    unfold(page, texts.HISTORY_SECTION)
    expect(page.locator("#history label")).to_have_count(3)  # the check, the preview, and one job of the double click
    unfold(page, texts.HISTORY_SECTION)

    press(page, texts.RUN)
    wait_for_lips(page)
    app.kill()
    app.start()
    page.goto(app.url)
    wait_for_message(page, texts.STOPPED)
    expect(page.get_by_text("256 x 456, 25 frames per second, 1.9 s")).to_be_visible()
    press(page, texts.RESUME)
    wait_for_message(page, "Done:")

    compare(page)
    play_together(page)
    if device == "phone":
        page.evaluate("() => scrollTo(0, 0)")
        page.get_by_role("link", name=texts.TO_RESULT, exact=True).click()
    page.wait_for_function("() => document.querySelector('#message').getBoundingClientRect().top < innerHeight / 2")
    assert is_in_sight(page, "#run") and page.evaluate(MOST_WIDE)
    picture(page, f"portrait_{device}", tmp_path)
    assert page.evaluate(FAINT) == []

    run_three(page, pair, tmp_path)
    assert page.evaluate(MOST_WIDE)
    page.context.close()


@pytest.mark.parametrize("theme", ["light", "dark"])
@pytest.mark.parametrize("device", DEVICES)
def test_no_serious_fault_of_accessibility(
    browser: Any, app: App, pair: tuple[Path, Path], device: str, theme: str
) -> None:
    """With every section open, before a job and after."""
    page = opened(browser, app.url, DEVICES[device], theme)
    sections = (
        texts.FACE_SECTION,
        texts.LIPS_SECTION,
        texts.PART_SECTION,
        texts.ADVANCED_SECTION,
        texts.MODEL_SECTION,
        texts.BATCH_SECTION,
    )
    for section in sections:
        unfold(page, section)
    has_no_serious_fault(page)
    upload(page, *pair)
    expect(page.locator("#face-note")).to_contain_text("shows one face")
    page.get_by_label(texts.PRESETS["turbo"]).check()
    press(page, texts.RUN)
    wait_for_message(page, "Done:")
    unfold(page, texts.REPORT_SECTION)
    unfold(page, texts.HISTORY_SECTION)
    has_no_serious_fault(page)
    assert page.evaluate(FAINT) == [] and page.evaluate(MOST_WIDE)
    page.context.close()


def go_to(page: Page, selector: str) -> None:
    """Press Tab until an element, or something in it, has the focus."""
    for _ in range(200):
        page.keyboard.press("Tab")
        if page.evaluate("selector => Boolean(document.activeElement.closest(selector))", selector):
            return
    raise AssertionError(f"{selector} is not reached by the key Tab.")


def choose_file(page: Page, selector: str, path: Path) -> None:
    """Press Enter on a field as a person would: again, if Gradio draws it anew while the page is still loading."""
    for _ in range(10):
        go_to(page, selector)
        try:
            with page.expect_file_chooser(timeout=3000) as chooser:
                page.keyboard.press("Enter")
            chooser.value.set_files(path)
            return
        except TimeoutError:
            continue
    raise AssertionError(f"{selector} opens no choice of files.")


def test_the_keyboard_alone(browser: Any, app: App, pair: tuple[Path, Path]) -> None:
    page = opened(browser, app.url, LAPTOP, "light")
    for field, path in (("#video", pair[0]), ("#audio", pair[1])):
        choose_file(page, f"{field} button:has(input[type=file])", path)
        page.locator(field).get_by_label("Clear").wait_for()
    expect(page.get_by_text("1.9 s of audio")).to_be_visible()
    go_to(page, "#preset")
    page.keyboard.press("ArrowLeft")
    page.keyboard.press("ArrowLeft")
    expect(page.get_by_label(texts.PRESETS["turbo"])).to_be_checked()
    go_to(page, "#run")
    page.keyboard.press("Enter")
    wait_for_message(page, "Done:")
    go_to(page, ".sp-play")
    page.keyboard.press("Space")
    page.wait_for_function("() => document.querySelector('.sp-result').currentTime > 0.2")
    go_to(page, ".sp-wipe")
    page.keyboard.press("Enter")
    go_to(page, ".sp-divider")
    page.keyboard.press("ArrowLeft")
    expect(page.locator(".sp-divider")).to_have_value("49")
    go_to(page, "#get-video")
    with page.expect_download() as download:
        page.keyboard.press("Enter")
    assert download.value.suggested_filename == "my_story_lipsync.mp4"
    page.context.close()
