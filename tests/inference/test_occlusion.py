"""The option `occlusion`: what is in front of a face stays as it is in the video, and a hidden mouth is not edited."""

import json
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest

from latentsync.avatar.clip import HELD_OUT_FIRST_SEED, random_clip, random_part
from latentsync.inference.faces.occluders import PART, Occluders, parts_of
from latentsync.inference.jobs.job import check_job
from latentsync.inference.pipeline import LipsyncPipeline
from latentsync.inference.preflight import preflight
from latentsync.inference.settings import InferenceSettings, JobOptions
from latentsync.media.container import MediaError
from latentsync.media.video.write import VideoFormat, VideoWriter
from tests.support.tiny import StubDetector, make_audio, make_video, read, tiny_models

SETTINGS = InferenceSettings(steps=1, guidance_scale=1.0)
LOSSLESS = JobOptions(codec="ffv1", length="cut")
COUNT = 30


@pytest.fixture(scope="module")
def pipeline() -> LipsyncPipeline:
    return LipsyncPipeline(tiny_models(), StubDetector())


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    folder = tmp_path_factory.mktemp("files")
    return make_video(folder / "v.mkv", COUNT), make_audio(folder / "a.wav", COUNT / 25)


def masked(pipeline: LipsyncPipeline, files: tuple[Path, Path], output: Path, occlusion: str):
    return pipeline(*files, output, SETTINGS, replace(LOSSLESS, occlusion=occlusion))


def left_half(video: Path) -> np.ndarray:
    """A mask, uint8 h w 3, that ends near the middle of the face."""
    h, w = read(video)[0].shape[:2]
    mask = np.zeros((h, w, 3), np.uint8)
    mask[:, : w // 2 - w // 40] = 255
    return mask


def test_what_a_picture_masks_stays_and_the_rest_is_edited(
    tmp_path: Path, pipeline: LipsyncPipeline, files: tuple[Path, Path]
) -> None:
    mask = left_half(files[0])
    cv2.imwrite(str(tmp_path / "mask.png"), mask)
    report = masked(pipeline, files, tmp_path / "o.mkv", str(tmp_path / "mask.png"))
    assert report.synced_frames == COUNT and report.occluded_sec == ((0.0, COUNT / 25),)
    front = cv2.erode(mask[..., 0], np.ones((9, 9), np.uint8)) > 0
    for before, after in zip(read(files[0]), read(tmp_path / "o.mkv"), strict=True):
        apart = np.abs(before.astype(int) - after)
        assert apart[front].max() == 0
        assert apart[mask[..., 0] == 0].max() > 20


def test_a_hidden_mouth_is_passed_through_with_a_fade(
    tmp_path: Path, pipeline: LipsyncPipeline, files: tuple[Path, Path]
) -> None:
    """By masks that are a video, of which some frames are white."""
    h, w = read(files[0])[0].shape[:2]
    hidden = range(10, 20)
    with VideoWriter(tmp_path / "masks.mp4", VideoFormat.constant(w, h, 25)) as writer:
        for index in range(COUNT):
            writer.write(np.full((h, w, 3), 255 * (index in hidden), np.uint8))
    report = masked(pipeline, files, tmp_path / "o.mkv", str(tmp_path / "masks.mp4"))
    (stretch,) = report.passed_through
    assert (stretch.reason, stretch.frames) == ("mouth hidden", len(hidden))
    weights = [frame.weight for frame in report.per_frame]
    assert weights[0] == weights[-1] == 1 and 0 < weights[hidden.start - 1] < weights[hidden.start - 3]
    same = [np.array_equal(*pair) for pair in zip(read(files[0]), read(tmp_path / "o.mkv"), strict=True)]
    assert all(same[index] for index in hidden) and not any(same[: hidden.start - 1])


def test_masks_that_do_not_fit_are_an_error_before_any_work(tmp_path: Path, files: tuple[Path, Path]) -> None:
    h, w = read(files[0])[0].shape[:2]
    cv2.imwrite(str(tmp_path / "small.png"), np.zeros((h // 2, w // 2, 3), np.uint8))
    make_video(tmp_path / "short.mkv", COUNT - 1)
    output = tmp_path / "o.mkv"
    for name, problem in (
        ("small.png", "as large as"),
        ("short.mkv", f"{COUNT - 1} frames"),
        ("none.png", "no such file"),
    ):
        with pytest.raises((ValueError, MediaError), match=problem):
            check_job(*files, output, JobOptions(occlusion=str(tmp_path / name)))
    with pytest.raises(MediaError, match="input of the same run"):
        check_job(*files, tmp_path / "short.mkv", JobOptions(occlusion=str(tmp_path / "short.mkv")))
    with pytest.raises(ValueError, match="occlusion is empty"):
        JobOptions(occlusion="")


class Stopped(Exception):
    pass


def test_a_stopped_job_uses_the_same_masks_again(
    tmp_path: Path, pipeline: LipsyncPipeline, files: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    cv2.imwrite(str(tmp_path / "mask.png"), left_half(files[0]))
    whole, parts = tmp_path / "whole.mkv", tmp_path / "parts.mkv"
    masked(pipeline, files, whole, str(tmp_path / "mask.png"))

    def stop(stage: str, done: int, total: int) -> None:
        if stage == "Generate lips":
            raise Stopped

    options = replace(LOSSLESS, occlusion=str(tmp_path / "mask.png"))
    with pytest.raises(Stopped):
        pipeline(*files, parts, SETTINGS, options, stop)
    folder = tmp_path / "parts.mkv.job"
    assert len(Occluders.load(folder / "occluders_0.npz").frame) == COUNT
    with pytest.raises(MediaError, match="other"):
        pipeline(*files, parts, SETTINGS, replace(LOSSLESS, occlusion="off"))
    monkeypatch.setattr("latentsync.inference.pipeline.given_occluders", None)  # they are not made again
    pipeline(*files, parts, SETTINGS, options)
    assert whole.read_bytes() == parts.read_bytes() and not folder.exists()


def test_a_damaged_file_of_masks_is_named(tmp_path: Path) -> None:
    (tmp_path / "occluders.npz").write_bytes(b"nothing")
    with pytest.raises(ValueError, match="delete it"):
        Occluders.load(tmp_path / "occluders.npz")


def test_long_segments_are_searched_in_parts_of_limited_length() -> None:
    parts = list(parts_of([range(3, 8), range(20, 21 + 2 * PART)]))
    assert max(map(len, parts)) <= PART and len(parts) == 4
    assert [index for part in parts for index in part] == [*range(3, 8), *range(20, 21 + 2 * PART)]


@pytest.mark.slow
def test_a_microphone_is_found_reported_and_shown(tmp_path: Path) -> None:
    """In a drawn clip, with the usual detector."""
    clip = random_part(replace(random_clip(HELD_OUT_FIRST_SEED + 4), occluder="microphone"), 60)
    video, truth = tmp_path / "v.mp4", []
    with VideoWriter(video, VideoFormat.constant(256, 256, 25)) as writer:
        for frame, mask in clip.frames_and_masks():
            writer.write(frame)
            truth.append(bool(mask.any()))
    from latentsync.face.detection.detector import make_detector

    pipeline = LipsyncPipeline(tiny_models(), make_detector("mesh"))
    sound = make_audio(tmp_path / "a.wav", 2.4)
    sheets = []
    for occlusion in ("off", "auto"):
        job = check_job(video, sound, tmp_path / "o.mp4", JobOptions(occlusion=occlusion))
        sheets.append(tmp_path / f"{occlusion}.jpg")
        report = preflight(pipeline, job, sheet=sheets[-1])
    assert report.actions.keys() == {"would be edited", "mouth hidden"}
    ((start_sec, stop_sec),) = report.occluded_sec
    assert all(truth[round(25 * start_sec) : round(25 * stop_sec)])
    assert stop_sec - start_sec > 0.6 * sum(truth) / 25
    assert json.dumps(report.to_dict())
    off, on = (cv2.imread(str(sheet)).astype(int) for sheet in sheets)
    assert (np.abs(on - off).max(axis=2) > 60).sum() > 500
