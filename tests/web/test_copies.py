"""Small copies of videos that browsers may not play: made in the background, shown instead, counted, deleted with their video."""

from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest
from gradio import processing_utils
from playwright.sync_api import expect, sync_playwright

from latentsync.media.probe import probe
from latentsync.media.sound.copy import AudioSource
from latentsync.media.video.read import frame_times, read_frames
from latentsync.media.video.write import VideoFormat, VideoWriter
from tests.support.tiny import SIZE, make_audio, make_video, scene
from tests.web.support import files_in, kept_environment, stub_models, uploaded, wait_until
from tests.web.test_browser import BROWSER, PATIENCE_MS, picture, play_together, press, upload, wait_for_message
from web import texts
from web.copies import SIDE, Copies, Copy, copy_of
from web.errors import WebError
from web.jobs import Submission
from web.orders import Wish
from web.page import Page
from web.serve import Server
from web.settings import AppSettings, Limits
from web.storage import StoredUploads
from web.store import JobStore

HEVC: Any = {"codec": "hevc", "pixel_format": "yuv420p10le"}  # of which results have 10 bits too


def make_phone_video(path: Path, frames: int = 10, scale: int = 1) -> Path:
    """An HEVC video with sound, at a variable rate."""
    size = SIZE[1] * scale, SIZE[0] * scale
    form = VideoFormat(*size, Fraction(25), Fraction(1, 1000), **HEVC)
    with VideoWriter(path, form, AudioSource(make_audio(path.with_suffix(".wav"), frames / 25))) as writer:
        for number in range(frames):
            frame = scene(number).repeat(scale, 0).repeat(scale, 1)
            writer.write(frame, 40 * number + 7 * (number % 2))
    return path


@pytest.fixture
def copies() -> Iterator[Copies]:
    made = Copies(lambda length: None)
    made.start()
    yield made
    made.stop()


def made(copies: Copies, video: Path, *same: Path) -> Path:
    """The copy of a video, when it is made."""
    wait_until(lambda: not there(copies.of(video, same)).is_coming)
    path = there(copies.of(video, same)).video
    assert path is not None
    return path


def there(copy: Copy | None) -> Copy:
    assert copy is not None
    return copy


def test_a_copy_shows_the_same_at_the_same_times(copies: Copies, tmp_path: Path) -> None:
    video = make_phone_video(tmp_path / "phone.mov", scale=10)
    first = there(copies.of(video))
    assert first.picture is not None and first.picture.stat().st_size, "the picture is there at once"
    copy = made(copies, video)
    info = probe(copy)
    assert (info.codec, info.pixel_format, info.width, info.height) == ("h264", "yuv420p", SIDE, 720)
    assert [round(at, 3) for at in map(float, frame_times(copy))] == [
        round(at, 3) for at in map(float, frame_times(video))
    ]
    assert info.has_audio
    for ours, theirs in zip(read_frames(copy), read_frames(video), strict=True):
        assert abs(ours.frame.mean(axis=(0, 1)) - theirs.frame.mean(axis=(0, 1))).max() < 6


def test_what_every_browser_plays_needs_none(copies: Copies, tmp_path: Path) -> None:
    assert copies.of(make_video(tmp_path / "v.mp4", 4)) is None
    assert copies.of(make_video(tmp_path / "v.mkv", 4)) is not None


def test_there_is_none_where_there_is_no_room(tmp_path: Path) -> None:
    def full(length: int) -> None:
        raise WebError(texts.DISK_FULL)

    copies = Copies(full)
    copies.start()
    video = make_video(tmp_path / "v.mkv", 4)
    wait_until(lambda: there(copies.of(video)).problem == texts.DISK_FULL)
    assert there(copies.of(video)).picture is not None and not copy_of(video).exists()
    copies.stop()


def test_what_cannot_be_decoded_is_told(copies: Copies, tmp_path: Path) -> None:
    video = make_video(tmp_path / "v.mkv", 40)
    content = bytearray(video.read_bytes())
    content[len(content) // 2 :: 3] = b"\0" * len(content[len(content) // 2 :: 3])
    video.write_bytes(content)
    wait_until(lambda: there(copies.of(video)).problem == texts.NO_COPY)


def test_a_copy_survives_a_restart_and_an_unfinished_one_is_made_again(tmp_path: Path) -> None:
    video = make_video(tmp_path / "v.mkv", 200)
    for _ in range(2):  # stopped before it is done
        copies = Copies(lambda length: None)
        assert there(copies.of(video)).is_coming
        copies.start()
        copies.stop()
        assert not copy_of(video).exists()
    copies = Copies(lambda length: None)
    copies.start()
    made(copies, video)
    copies.stop()
    assert there(Copies(lambda length: None).of(video)).video == copy_of(video)
    assert {path.name for path in copy_of(video).parent.iterdir()} == {"v.mp4", "v.jpg"}


def test_the_form_keeps_the_video_itself(app: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Gradio would replace it by a converted one where ffmpeg is installed."""
    monkeypatch.setattr(processing_utils, "ffmpeg_installed", lambda: True)
    monkeypatch.setattr(processing_utils, "convert_video_to_playable_mp4", lambda *_, **__: "/converted.mp4")
    monkeypatch.setattr(processing_utils, "video_is_playable", lambda *_: False)
    page = Page(app.app)
    page.build()
    video = make_phone_video(tmp_path / "phone.mov", 2)
    shown = page.form.video.postprocess(str(video))
    assert shown is not None and shown.path == str(video) and shown.orig_name == "phone.mov"


@pytest.fixture
def app(tmp_path: Path) -> Iterator[Server]:
    with kept_environment(), Server(stub_models(), AppSettings(tmp_path / "app", Limits(), port=None)) as running:
        yield running


def test_copies_are_counted_and_go_with_the_job(app: Server, tmp_path: Path) -> None:
    store, copies, clip = app.app.store, app.app.copies, make_phone_video(tmp_path / "phone.mov")
    video = Path(uploaded(app, "phone.mov", clip.read_bytes()))
    sound = uploaded(app, "words.wav", make_audio(tmp_path / "a.wav", 0.4).read_bytes())
    before = app.uploads.used_bytes("127.0.0.1")
    copy = made(copies, video)
    assert app.uploads.used_bytes("127.0.0.1") >= before + copy.stat().st_size
    wish = Wish("run", settings={"preset": "fast", "steps": 1})
    job = app.app.submit(Submission("page ann", "127.0.0.1"), wish, str(video), sound)
    wait_until(lambda: job.is_over)
    own = made(copies, job.order.video, *job.uploads[:1])
    assert own.samefile(copy) and own.is_relative_to(job.folder), (
        "it is there before the upload expires, and not made twice"
    )
    assert probe(made(copies, job.output)).codec == "h264"
    app.app.delete(job.id, job.owner)
    assert {path for path in files_in(app) if path.suffix in (".mp4", ".mov", ".jpg")} == set()
    assert StoredUploads(JobStore(store.folder, Limits())).used_bytes("127.0.0.1") == 0


@pytest.mark.slow
@pytest.mark.skipif(BROWSER is None, reason="no Chromium is installed")
def test_a_browser_shows_what_it_cannot_play(app: Server, tmp_path: Path) -> None:
    """Debian's Chromium decodes no HEVC; the result of a video of 10 bits is HEVC too."""
    video, audio = make_phone_video(tmp_path / "phone.mov", 40, 4), make_audio(tmp_path / "new.wav", 1.6)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=BROWSER, args=["--no-sandbox", "--mute-audio"])
        page = browser.new_page(viewport={"width": 1280, "height": 900})
        page.set_default_timeout(PATIENCE_MS)
        expect.set_options(timeout=PATIENCE_MS)
        page.goto(app.url)
        upload(page, video, audio)
        expect(page.locator("#copy-note")).to_have_text(f"{texts.COPY_NEEDED} {texts.COPY_SHOWN}")
        page.wait_for_function("() => document.querySelector('#video video')?.videoWidth === 512")
        picture(page, "copy", tmp_path)
        press(page, texts.RUN)
        wait_for_message(page, "Done:")
        sizes = "() => ['.sp-original', '.sp-result'].map(name => document.querySelector(name)?.videoWidth)"
        page.wait_for_function(f"() => String(({sizes})()) === '512,512'")
        for caption in page.locator("synced-player figcaption").all():
            expect(caption).to_contain_text(texts.COPY_SHOWN)
        play_together(page)
        page.reload()
        page.wait_for_function(f"() => String(({sizes})()) === '512,512'")
        page.wait_for_function("() => document.querySelector('#video video')?.videoWidth === 512")
        with page.expect_download() as download:
            press(page, texts.DOWNLOAD_VIDEO)
        assert probe(Path(download.value.path())).codec == "hevc"
        browser.close()
