"""A stream of pushed frames gives what a file of them gives."""

from pathlib import Path

import numpy as np
import pytest

from latentsync.inference.pipeline import LipsyncPipeline
from latentsync.inference.settings import InferenceSettings, JobOptions
from latentsync.inference.windows.stream import FrameOut
from latentsync.media.sound.read import read_audio
from latentsync.media.sound.write import write_wav
from latentsync.timebase import SAMPLE_RATE_HZ
from tests.support.tiny import StubDetector, make_audio, make_video, read, scene, tiny_models

SETTINGS = InferenceSettings(steps=1, guidance_scale=1.5)
LOSSLESS = JobOptions(codec="ffv1", length="cut")


@pytest.fixture(scope="module")
def pipeline() -> LipsyncPipeline:
    return LipsyncPipeline(tiny_models(), StubDetector())


def pushed(pipeline: LipsyncPipeline, frames: list[np.ndarray], sound: Path, fps: float, **given) -> list[FrameOut]:
    stream = pipeline.stream(read_audio(sound), fps, **given)
    done = [out for frame in frames for out in stream.push(frame)]
    assert len(done) > 0 or len(frames) < 2 * fps
    return done + stream.flush()


@pytest.mark.parametrize("fps", [25, 50])
@pytest.mark.parametrize(("overlap", "texture"), [(0, "off"), (1, "match")])
@pytest.mark.slow
def test_a_stream_equals_the_file(
    tmp_path: Path, pipeline: LipsyncPipeline, fps: int, overlap: int, texture: str
) -> None:
    """With frames without a face: some at the start, a short gap that is bridged, and a long one that is not."""
    settings = SETTINGS.changed({"overlap": overlap, "texture": texture})
    gaps = [*range(3), *range(fps, fps + 4), *range(2 * fps, 3 * fps)]
    video = tmp_path / "v.mkv"
    make_video(video, 4 * fps, dark=gaps, fps=fps)
    sound = make_audio(tmp_path / "a.wav", 4.0)
    report = pipeline(video, sound, tmp_path / "o.mkv", settings, LOSSLESS)
    assert {"synced", "bridged", "no face"} == set(report.actions)
    live = pushed(pipeline, read(video), sound, fps, settings=settings)
    assert [out.edited for out in live] == [frame.edited for frame in report.per_frame]
    for index, (out, frame) in enumerate(zip(live, read(tmp_path / "o.mkv"), strict=True)):
        assert np.array_equal(out.frame, frame), index


def test_reference_frames_are_used(tmp_path: Path, pipeline: LipsyncPipeline) -> None:
    sound = make_audio(tmp_path / "a.wav", 1.0)
    settings, frames = SETTINGS.changed({"reference": "elsewhere"}), [scene(index) for index in range(10)]
    bright, dark = ([scene(index, dark=dark) for index in range(10, 14)] for dark in (False, True))
    done = pushed(pipeline, frames, sound, 25, settings=settings, reference_frames=bright)
    assert all(out.edited for out in done)
    with pytest.raises(ValueError, match="reference_frames"):
        pipeline.stream(read_audio(sound), 25, settings, reference_frames=dark)


def test_in_pauses_the_video_keeps_its_own_lips(tmp_path: Path, pipeline: LipsyncPipeline) -> None:
    """Syllables, two seconds of silence, syllables: in a file and in a stream, bit for bit."""
    seconds = np.arange(5 * SAMPLE_RATE_HZ) / SAMPLE_RATE_HZ
    syllables = np.random.default_rng(0).normal(0, 0.1, len(seconds)) * (np.sin(2 * np.pi * 4 * seconds) > 0)
    syllables[(seconds > 1.5) & (seconds < 3.5)] = 0
    sound = tmp_path / "a.wav"
    write_wav(sound, syllables.astype(np.float32))
    video = tmp_path / "v.mkv"
    make_video(video, 125)
    settings = SETTINGS.changed({"silence": "keep", "texture": "match"})
    report = pipeline(video, sound, tmp_path / "o.mkv", settings, LOSSLESS)
    (pause,) = report.passed_through
    assert pause.reason == "no speech" and 1.5 < pause.start_sec < 2 and 3 < pause.stop_sec < 3.5
    kept = range(round(25 * pause.start_sec), round(25 * pause.stop_sec))
    before, after = read(video), read(tmp_path / "o.mkv")
    changed = [index for index in range(125) if not np.array_equal(before[index], after[index])]
    assert changed == [index for index in range(125) if index not in kept]
    weights = [report.per_frame[kept.start - back].weight for back in (1, 2, 6)]
    assert 0 < weights[0] < weights[1] < weights[2] == 1
    live = pushed(pipeline, before, sound, 25, settings=settings)
    assert all(np.array_equal(out.frame, frame) for out, frame in zip(live, after, strict=True))
