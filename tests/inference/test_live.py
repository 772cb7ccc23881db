"""A stream of pushed frames gives what a file of them gives."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from latentsync.audio.whisper_features import FeatureTrack, WhisperFeatures
from latentsync.inference.pipeline import LipsyncPipeline
from latentsync.inference.settings import InferenceSettings, JobOptions
from latentsync.inference.windows.audio import audio_windows
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


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Syllables of noise, two seconds of silence, syllables."""
    seconds = np.arange(5 * SAMPLE_RATE_HZ) / SAMPLE_RATE_HZ
    syllables = np.random.default_rng(0).normal(0, 0.1, len(seconds)) * (np.sin(2 * np.pi * 4 * seconds) > 0)
    syllables[(seconds > 1.5) & (seconds < 3.5)] = 0
    path = tmp_path_factory.mktemp("sound") / "a.wav"
    write_wav(path, syllables.astype(np.float32))
    return path


def test_in_pauses_the_video_keeps_its_own_lips(tmp_path: Path, pipeline: LipsyncPipeline, sound: Path) -> None:
    """In a file and in a stream, bit for bit."""
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


def test_in_pauses_the_mouth_rests_as_in_silence(pipeline: LipsyncPipeline, sound: Path) -> None:
    waveform, features = read_audio(sound), WhisperFeatures(pipeline.models.audio_encoder)
    rows = list(range(0, 250, 2))  # 25 frames a second
    given = {name: SETTINGS.changed(entries) for name, entries in STRENGTHS.items()}
    features_of = {
        name: audio_windows(features.track(waveform), waveform, each).windows(rows, 50) for name, each in given.items()
    }
    assert isinstance(audio_windows(features.track(waveform), waveform, given["model"]), FeatureTrack)
    assert torch.equal(features_of["close"][50:75], features_of["none"][50:75])  # 2 to 3 s
    for speech in (slice(8, 36), slice(95, 120)):
        assert torch.equal(features_of["close"][speech], features_of["model"][speech])
    middle = torch.lerp(features_of["none"], features_of["model"], 0.5**0.75)
    torch.testing.assert_close(features_of["half"], middle)
    torch.testing.assert_close(features_of["more"], 2 * features_of["model"] - features_of["none"])  # strength 1.5
    assert torch.equal(features_of["later"][:25], features_of["none"][:25]) and torch.equal(
        features_of["later"][50:], features_of["model"][50:]
    )
    half_open = torch.lerp(features_of["none"][37], features_of["model"][37], 0.48**0.75)  # at 1.48 s
    torch.testing.assert_close(features_of["later"][37], half_open)


STRENGTHS: dict[str, dict[str, Any]] = {
    "model": {},
    "close": {"silence": "close"},
    "none": {"strength": 0},
    "half": {"strength": "0.5"},
    "more": {"strength": 1.5},
    "later": {"strength": "1:0 2:1"},
}


@pytest.mark.parametrize("strength", [-0.1, 2.5, "", "much", "0:1 0:2", "5:1 2:1", "0:1:2", "-1:1", float("nan")])
def test_a_strength_that_is_none_is_refused(strength: float | str) -> None:
    with pytest.raises(ValueError, match="strength is .* 0 .closed lips. to 2"):
        SETTINGS.changed({"strength": strength})
