"""What a creator does on the page in a real browser, with the demo models: faces, keys, comparison, phone, several videos.

With LATENTSYNC_AXE in the environment, the path of axe.min.js (package axe-core), the page is also checked by axe.
"""

import json
import os
from collections.abc import Iterator
from importlib.util import find_spec
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from playwright.sync_api import Page, expect, sync_playwright

from latentsync.avatar.conversation import random_conversation
from latentsync.media.sound.copy import AudioSource
from latentsync.media.sound.write import write_wav
from latentsync.media.video.read import read_frames
from latentsync.media.video.write import VideoFormat, VideoWriter
from tests.web.support import kept_environment
from tests.web.test_browser import BROWSER, PATIENCE_MS, jobs, picture, press, remove, unfold, upload, wait_for_message
from web import texts
from web.models import Models
from web.serve import Server
from web.settings import AppSettings, Limits

AXE_PACKAGE = find_spec("axe_playwright_python")
AXE = os.environ.get("LATENTSYNC_AXE") or (AXE_PACKAGE and Path(str(AXE_PACKAGE.origin)).with_name("axe.min.js"))
SERIOUS = """async () => (await axe.run()).violations.filter(v => ['serious', 'critical'].includes(v.impact))
  .map(v => v.id + ' ' + v.nodes.map(node => node.html.slice(0, 150)).join(' | '))"""
COUNTED = """window.notes = []; window.Notification = class {
  static permission = 'default';
  static async requestPermission() { return (Notification.permission = 'granted'); }
  constructor(title, options) { window.notes.push(options.body); }
};"""
SLOW = """const send = window.fetch; window.fetch = async (...request) => {
  if (/upload\\?/.test(String(request[0]?.url || request[0]))) await new Promise(done => setTimeout(done, 2000));
  return send(...request);
};"""  # uploads begin late
PHONE: Any = {"width": 390, "height": 844}
pytestmark = [pytest.mark.slow, pytest.mark.skipif(BROWSER is None, reason="no Chromium is installed")]
from tests.web.test_browser import pair  # noqa: E402, F401


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    settings = AppSettings(tmp_path_factory.mktemp("app"), Limits(), port=None)
    with kept_environment(), Server(Models.standard(), settings) as running:
        yield running


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with sync_playwright() as playwright:
        running = playwright.chromium.launch(executable_path=BROWSER, args=["--no-sandbox", "--mute-audio"])
        yield running
        running.close()


@pytest.fixture
def page(browser: Any, server: Server) -> Iterator[Page]:
    context = browser.new_context(viewport={"width": 1440, "height": 900})
    page, complaints = context.new_page(), []
    page.add_init_script(COUNTED)
    page.set_default_timeout(PATIENCE_MS)
    expect.set_options(timeout=PATIENCE_MS)
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.goto(server.url)
    page.get_by_role("button", name=texts.RUN, exact=True).wait_for()
    yield page
    context.close()
    assert complaints == []


def is_in_sight(page: Page, selector: str) -> bool:
    box = page.locator(selector).bounding_box()
    height = page.evaluate("() => innerHeight")
    return box is not None and box["y"] >= 0 and box["y"] + box["height"] <= height


def has_no_serious_fault(page: Page) -> None:
    if AXE:  # a file axe.min.js
        page.evaluate(Path(AXE).read_text(encoding="utf-8"))
        assert page.evaluate(SERIOUS) == []


def test_from_a_face_to_a_comparison(page: Page, server: Server, pair: tuple[Path, Path]) -> None:  # noqa: F811
    tops = (
        "() => ['#video', '#actions', '#message'].map(name => document.querySelector(name).getBoundingClientRect().top)"
    )
    video, actions, message = page.evaluate(tops)
    assert abs(video - actions) < 30 and 0 < message - actions < 200, "no gap at this width"
    upload(page, *pair)
    expect(page.get_by_text("1.3 s of audio")).to_be_visible()
    page.locator("#preset input").nth(0).focus()
    page.keyboard.press("ArrowRight")  # within the group
    expect(page.locator("#preset input").nth(1)).to_be_checked()
    page.keyboard.press("ArrowLeft")
    expect(page.locator("#preset input").nth(0)).to_be_checked()

    unfold(page, texts.FACE_SECTION)
    expect(page.locator("#face-note")).to_contain_text("shows one face")
    page.locator("#frame img").click(position={"x": 3, "y": 3})  # snaps to the face
    expect(page.locator("#face-note")).to_contain_text("Face 1 of this picture is chosen")
    assert is_in_sight(page, "#run"), "the bar of actions is sticky"
    has_no_serious_fault(page)

    press(page, texts.CHECK)
    wait_for_message(page, "Check:")
    expect(page.locator("#times")).to_contain_text(texts.TIMES_UNKNOWN)
    expect(page.locator("#sheet a")).to_have_attribute("target", "_blank")
    with page.expect_download() as download:
        press(page, texts.DOWNLOAD_SHEET)
    assert download.value.suggested_filename == "my_talk_lipsync.preflight.jpg"

    press(page, texts.NOTIFY)
    expect(page.locator("#notify")).to_have_text(texts.NOTIFYING)
    press(page, texts.RUN)
    page.wait_for_function("() => /^(\\d+%|…) LatentSync/.test(document.title)")
    wait_for_message(page, "Done:")
    expect(page.locator("#times")).to_contain_text("about")
    page.wait_for_function(
        "() => notes.length === 1 && notes[0].startsWith('Done:') && document.title === 'LatentSync'"
    )

    compare(page)
    page.set_viewport_size(PHONE)
    page.evaluate("() => scrollTo(0, 0)")
    assert is_in_sight(page, "#run") and page.evaluate("() => document.documentElement.scrollWidth") <= PHONE["width"]
    page.get_by_role("link", name=texts.TO_RESULT, exact=True).click()
    page.wait_for_function("() => document.querySelector('#message').getBoundingClientRect().top < innerHeight / 2")
    has_no_serious_fault(page)


def compare(page: Page) -> None:
    """The comparison wipes, enlarges, and goes frame by frame, with both videos at the same place."""
    clip = "() => getComputedStyle(document.querySelector('figure:last-of-type .sp-picture')).clipPath"
    press(page, texts.PLAYER_WIPE)
    page.locator(".sp-divider").fill("25")
    assert "25%" in page.evaluate(clip)
    press(page, texts.PLAYER_SIDES)
    assert page.evaluate(clip) == "none"
    press(page, texts.PLAYER_ZOOM)
    scales = "() => [...document.querySelectorAll('synced-player video')].map(v => v.style.transform)"
    first, second = page.evaluate(scales)
    assert first.startswith("scale(") and first == second
    times = (
        "() => [...document.querySelectorAll('synced-player video')].map(v => Math.floor(v.currentTime * 25 + 0.01))"
    )
    page.get_by_role("button", name=texts.PLAYER_ON, exact=True).click()
    page.wait_for_function(f"() => String(({times})()) === '1,1'")
    page.get_by_role("button", name=texts.PLAYER_ON, exact=True).click()
    page.wait_for_function(f"() => String(({times})()) === '2,2'")
    page.get_by_role("button", name=texts.PLAYER_BACK, exact=True).click()
    page.wait_for_function(f"() => String(({times})()) === '1,1'")
    press(page, texts.PLAYER_ZOOM)
    muted = "() => [...document.querySelectorAll('synced-player video')].map(v => v.muted).join()"
    press(page, texts.PLAYER_SOUND_RESULT)
    assert page.evaluate(muted) == "false,true"
    press(page, texts.PLAYER_SOUND_ORIGINAL)
    assert page.evaluate(muted) == "true,false"
    press(page, texts.PLAYER_FULL)
    page.wait_for_function("() => document.fullscreenElement?.localName === 'synced-player'")
    press(page, texts.PLAYER_FULL)
    page.wait_for_function("() => !document.fullscreenElement")


def test_a_job_waits_for_a_file_that_is_still_coming(page: Page, server: Server, pair: tuple[Path, Path]) -> None:  # noqa: F811
    page.add_init_script(SLOW)
    page.reload()
    page.get_by_role("button", name=texts.RUN, exact=True).wait_for()
    before = len(jobs(server))
    upload(page, *pair)
    press(page, texts.CHECK)
    expect(page.locator("#upload-note")).to_contain_text(texts.WAIT_FOR_FILE)
    wait_for_message(page, "Check:")
    assert len(jobs(server)) == before + 1


def run_three(page: Page, files: tuple[Path, Path], folder: Path) -> list[Path]:
    """Give three videos, which are written into `folder`, and one audio file, and press Run all; returns the videos."""
    videos = [folder / f"{name}.mp4" for name in ("first", "second", "third")]
    for video in videos:
        video.write_bytes(files[0].read_bytes())
    page.get_by_label(texts.PRESETS["turbo"]).check()
    unfold(page, texts.BATCH_SECTION)
    page.locator("#videos input[type=file]").set_input_files(videos)
    expect(page.locator("#videos")).to_contain_text("third")
    page.locator("#audios input[type=file]").set_input_files(files[1])
    expect(page.locator("#audios")).to_contain_text("new words")
    press(page, texts.RUN_ALL)
    expect(page.locator("#queue a")).to_have_count(3)
    return videos


def test_three_videos_with_one_audio_file(page: Page, server: Server, pair: tuple[Path, Path], tmp_path: Path) -> None:  # noqa: F811
    videos = run_three(page, pair, tmp_path)
    links = page.locator("#queue a")
    assert [link.get_attribute("download") for link in links.all()] == [f"{video.stem}_lipsync.mp4" for video in videos]
    assert {job.state for job in jobs(server)[:3]} == {"done"}


def test_two_people_with_their_own_audio(
    page: Page,
    server: Server,
    pair: tuple[Path, Path],  # noqa: F811
    tmp_path: Path,
) -> None:
    video = tmp_path / "two.mp4"
    with VideoWriter(video, VideoFormat.constant(512, 256, 25)) as writer:
        for shown in read_frames(pair[0]):
            writer.write(np.concatenate([shown.frame, shown.frame[:, ::-1]], axis=1))
    upload(page, video, None)
    unfold(page, texts.FACE_SECTION)
    for number in (1, 2):
        expect(page.locator(f"#person-{number} img")).to_be_visible()
        page.locator(f"#sound-{number} input[type=file]").set_input_files(pair[1])
        expect(page.locator(f"#sound-{number}")).to_contain_text("new words")
    expect(page.locator("#person-3")).to_be_hidden()
    page.wait_for_timeout(1000)  # the browser keeps the form a moment after the last change
    page.reload()
    unfold(page, texts.FACE_SECTION)
    for number in (1, 2):
        expect(page.locator(f"#person-{number} img")).to_be_visible()
        expect(page.locator(f"#sound-{number}")).to_contain_text("new words")
    page.locator("#person-1").scroll_into_view_if_needed()
    picture(page, "people", tmp_path)
    has_no_serious_fault(page)
    page.get_by_label(texts.PRESETS["turbo"]).check()
    press(page, texts.RUN)
    wait_for_message(page, "Done:")
    content = json.loads(jobs(server)[0].order.audio.read_text(encoding="utf-8"))
    places = [float(person["face"].split(",")[0]) for _, person in sorted(content["people"].items())]
    assert len(places) == 2 and places[0] < 256 < places[1]
    remove(page, "video")
    upload(page, pair[0], None)  # of one person
    expect(page.locator("#person-1")).to_be_hidden()


TALK_FRAMES = 152  # the first turn of each of the two people: 0.4 to 2.9 s, 3.4 to 5.9 s


@pytest.fixture(scope="module")
def talk(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """The beginning of a drawn conversation, and its sound as that of a file of its own."""
    folder, drawn = tmp_path_factory.mktemp("talk"), random_conversation("side_by_side", 1_000_011, 2, held_out=True)
    video, sound = folder / "talk.mp4", folder / "mix.wav"
    write_wav(sound, drawn.waveform[: TALK_FRAMES * 640])
    with VideoWriter(video, VideoFormat.constant(drawn.width, 256, 25), AudioSource(sound)) as writer:
        for picture_of_frame, _ in islice(drawn.frames_and_people(), TALK_FRAMES):
            writer.write(picture_of_frame)
    return video, sound


def test_who_speaks_is_found_and_corrected(page: Page, server: Server, talk: tuple[Path, Path], tmp_path: Path) -> None:
    upload(page, *talk)
    expect(page.get_by_text("6.1 s of audio")).to_be_visible()
    page.get_by_label(texts.PRESETS["turbo"]).check()
    unfold(page, texts.FACE_SECTION)
    page.locator("#speakers input").click()
    page.get_by_role("option", name=texts.SPEAKERS_CHOICES[1][0]).click()
    table = page.locator("speaking-times")
    expect(table).to_contain_text(texts.TIMELINE_EMPTY)
    press(page, texts.CHECK)
    wait_for_message(page, "Check:")
    found = {(column, row): field(page, column, row) for row in (1, 2) for column in range(3)}
    expect(found[0, 1]).to_have_value("1")
    expect(found[0, 2]).to_have_value("2")
    for (column, row), truth_sec in {(1, 1): 0.41, (2, 1): 2.94, (1, 2): 3.36, (2, 2): 5.93}.items():
        assert abs(float(found[column, row].input_value()) - truth_sec) < 0.4
    expect(table.locator(".st-bar span")).to_have_count(2)
    expect(table.locator("img")).to_have_count(2)
    table.scroll_into_view_if_needed()
    picture(page, "speaking", tmp_path)
    has_no_serious_fault(page)

    found[1, 1].fill("0.6")
    press(page, texts.TIMELINE_REMOVE.format(number=2))
    press(page, texts.TIMELINE_ADD)
    expect(field(page, 0, 2)).to_be_focused()
    for column, value in enumerate(("2", "3.5", "4.5")):
        field(page, column, 2).fill(value)
    page.wait_for_timeout(1000)  # the browser keeps the form a moment after the last change
    page.reload()
    unfold(page, texts.FACE_SECTION)
    expect(field(page, 2, 2)).to_have_value("4.5")
    expect(table.locator("img")).to_have_count(2)
    field(page, 2, 1).fill("2.5")
    press(page, texts.RUN)
    wait_for_message(page, "Done:")
    content = json.loads(jobs(server)[0].order.audio.read_text(encoding="utf-8"))
    assert content["people"] == {"person 1": {"face": 1}, "person 2": {"face": 2}}
    assert content["segments"] == [
        {"speaker": "person 1", "start": 0.6, "end": 2.5},
        {"speaker": "person 2", "start": 3.5, "end": 4.5},
    ]
    edited = {each["name"]: each["edited_sec"] for each in jobs(server)[0].report["speakers"]}
    assert 0.6 <= edited["person 1"][0][0] + 0.2 < 1 and edited["person 2"][0][1] < 4.8
    remove(page, "video")
    upload(page, talk[0], None)
    expect(table).to_contain_text(texts.TIMELINE_EMPTY)


def field(page: Page, column: int, row: int) -> Any:
    """A field of the table of who speaks when."""
    return page.get_by_label(texts.TIMELINE_FIELD.format(name=texts.TIMELINE_HEAD[column], number=row), exact=True)
