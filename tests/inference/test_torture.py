"""Whole jobs on difficult footage with a real detector: only the face of the chosen speaker differs from the source."""

from pathlib import Path

import numpy as np
import pytest

from latentsync.face.detection.detector import make_detector
from latentsync.inference.jobs.report import JobReport
from latentsync.inference.pipeline import LipsyncPipeline
from latentsync.inference.settings import InferenceSettings, JobOptions
from latentsync.media.video.read import read_frames
from latentsync.media.video.write import VideoFormat, VideoWriter
from tests.support.tiny import make_audio, tiny_models
from tests.support.torture import FPS, HEIGHT, WIDTH, TortureFrame, torture_frames
from tests.support.whole_runs import FAST, changed_region

SAMPLES = Path(__file__).resolve().parents[3] / "shared" / "samples"
REACH = 0.75  # pixels may change this far around the box of the face, relative to its sides: the crop is larger than the face
LOST = {"away", "cutaway"}  # the speaker is not visible


@pytest.fixture(scope="module")
def pipeline() -> LipsyncPipeline:
    return LipsyncPipeline(tiny_models(), make_detector())


@pytest.fixture(scope="module")
def clip() -> list[TortureFrame]:
    return list(torture_frames())


@pytest.fixture(scope="module")
def video(tmp_path_factory: pytest.TempPathFactory, clip: list[TortureFrame]) -> Path:
    path = tmp_path_factory.mktemp("torture") / "torture.mp4"
    with VideoWriter(path, VideoFormat.constant(WIDTH, HEIGHT, FPS, crf=20)) as writer:
        for shown in clip:
            writer.write(shown.frame)
    return path


def run(
    pipeline: LipsyncPipeline, video: Path, folder: Path, options: JobOptions, settings: InferenceSettings = FAST
) -> JobReport:
    audio = make_audio(folder / "a.wav", 10.0)
    return pipeline(video, audio, folder / "o.mkv", settings, options)


@pytest.mark.slow
def test_only_the_chosen_speaker_differs_from_the_source(
    tmp_path: Path, pipeline: LipsyncPipeline, clip: list[TortureFrame], video: Path
) -> None:
    report = run(pipeline, video, tmp_path, JobOptions(codec="ffv1"))
    shown = zip(clip, read_frames(video), read_frames(tmp_path / "o.mkv"), report.per_frame, strict=True)
    changed = {event: 0 for event in {frame.event for frame in clip}}
    for index, (truth, before, after, reported) in enumerate(shown):
        region = changed_region(before.frame, after.frame)
        changed[truth.event] += region is not None
        assert (region is not None) == reported.edited, (index, truth.event, reported.action)
        if region is None:
            continue
        assert truth.speaker is not None, (index, truth.event)
        assert inside(region, truth.speaker), (index, truth.event, region, truth.speaker)
        if truth.second is not None and not intersects(region, truth.second):
            x0, y0, x1, y1 = (max(0, round(edge)) for edge in truth.second)
            assert np.array_equal(before.frame[y0:y1, x0:x1], after.frame[y0:y1, x0:x1])
    assert all(changed[event] == 0 for event in LOST)
    frames = {event: sum(frame.event == event for frame in clip) for event in changed}
    assert changed["talk"] > 0.9 * frames["talk"] and changed["other room"] > 0.8 * frames["other room"]
    assert changed["second person"] > 0.3 * frames["second person"]
    assert report.actions["no face"] > 40 and report.synced_frames == sum(changed.values())
    away = [stretch for stretch in report.passed_through if stretch.start_sec == pytest.approx(90 / FPS, abs=0.09)]
    assert len(away) == 1 and away[0].stop_sec == pytest.approx(140 / FPS, abs=0.3)
    weights = [frame.weight for frame in report.per_frame[86:90]]
    assert weights == sorted(weights, reverse=True) and 0 < weights[-1] < 1  # the edit fades out before the gap


def inside(region: tuple[int, int, int, int], face: tuple[float, float, float, float]) -> bool:
    reach = REACH * max(face[2] - face[0], face[3] - face[1])
    low = region[0] >= face[0] - reach and region[1] >= face[1] - reach
    return low and region[2] <= face[2] + reach and region[3] <= face[3] + reach


def intersects(a: tuple[float, ...], b: tuple[float, ...]) -> bool:
    return min(a[2], b[2]) > max(a[0], b[0]) and min(a[3], b[3]) > max(a[1], b[1])


@pytest.mark.skipif(not SAMPLES.is_dir(), reason="the sample footage is missing")
@pytest.mark.parametrize("name", ["demo1", "demo2"])
def test_in_real_footage_only_the_face_changes(tmp_path: Path, pipeline: LipsyncPipeline, name: str) -> None:
    video, audio = SAMPLES / f"{name}_video.mp4", SAMPLES / f"{name}_audio.wav"
    report = pipeline(video, audio, tmp_path / "o.mkv", FAST, JobOptions(codec="ffv1", limit_sec=0.2))
    assert report.frames == report.synced_frames == 5
    for reported, before, after in zip(
        report.per_frame, read_frames(video), read_frames(tmp_path / "o.mkv"), strict=False
    ):
        region = changed_region(before.frame, after.frame)
        assert (region is not None) == reported.edited
        assert region is None or (reported.box is not None and inside(region, reported.box))
