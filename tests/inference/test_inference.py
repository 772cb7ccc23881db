"""Whole runs with tiny random networks and drawn scenes: what changes, what is reported, which errors are harmless."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from whisper.model import AudioEncoder

from latentsync.config import UNetRun, load
from latentsync.face.align import align_matrix, crop_size
from latentsync.face.detection.detector import Face
from latentsync.face.feather import pasted_region
from latentsync.inference.jobs.report import LIBRARIES, installed_versions
from latentsync.inference.memory import MemoryPlan
from latentsync.inference.models import LipsyncModels
from latentsync.inference.pipeline import LipsyncPipeline
from latentsync.inference.settings import InferenceSettings, JobOptions
from latentsync.inference.timing import STAGES
from latentsync.inference.windows import finish, sampler
from latentsync.inference.windows.sampler import Window, WindowSampler
from latentsync.media.container import MediaError
from latentsync.media.probe import probe
from latentsync.media.video.encode import is_installed
from latentsync.models.unet.config import UNetConfig
from latentsync.testing import UNET, VAE, WIDTH
from latentsync.weights import CheckpointError, save_checkpoint
from scripts.inference import main
from tests.support.tiny import (
    NUM_FRAMES,
    POINTS,
    RESOLUTION,
    SIZE,
    StubDetector,
    make_audio,
    make_video,
    number,
    read,
    tiny_models,
)
from tests.support.whole_runs import FAST, LOSSLESS, changed_region, command, contents, use_tiny_models


@pytest.fixture(scope="module")
def models() -> LipsyncModels:
    return tiny_models()


@pytest.fixture(scope="module")
def pipeline(models: LipsyncModels) -> LipsyncPipeline:
    return LipsyncPipeline(models, StubDetector())


def test_only_the_face_changes_and_frames_without_one_pass(tmp_path: Path, pipeline: LipsyncPipeline) -> None:
    dark = range(16, 30)  # longer than a gap that is bridged
    video = make_video(tmp_path / "v.mp4", 40, dark)
    audio, told = make_audio(tmp_path / "a.wav", 1.6), []
    report = pipeline(video, audio, tmp_path / "o.mkv", FAST, LOSSLESS, lambda *done: told.append(done))
    region = pasted_region(align_matrix(POINTS, RESOLUTION), crop_size(RESOLUTION), SIZE)
    assert region is not None
    outside = np.ones(SIZE, dtype=bool)
    outside[region] = False
    for index, (before, after) in enumerate(zip(read(video), read(tmp_path / "o.mkv"), strict=True)):
        assert np.array_equal(before[outside], after[outside])
        assert (changed_region(before, after) is None) == (index in dark) == (not report.per_frame[index].edited)
    assert report.summary() == "26 of 40 frames synced, 14 passed through (00:00.64-00:01.20 no face)."
    assert list(dict.fromkeys(stage for stage, done, total in told if done == total)) == list(STAGES)
    assert told == sorted(told, key=lambda done: (STAGES.index(done[0]), done[1]))


def test_a_video_without_any_face_keeps_its_pictures(tmp_path: Path, pipeline: LipsyncPipeline) -> None:
    video = make_video(tmp_path / "v.mp4", 5, dark=range(5))
    report = pipeline(video, make_audio(tmp_path / "a.wav", 0.4), tmp_path / "o.mkv", FAST, LOSSLESS)
    source, result = read(video), read(tmp_path / "o.mkv")
    assert report.synced_frames == 0 and "stay as they are" in report.warnings[0]
    order = [0, 1, 2, 3, 4, 3, 2, 1, 0, 1]
    assert all(np.array_equal(frame, source[index]) for frame, index in zip(result, order, strict=True))


@pytest.mark.parametrize("reference", ["current", "elsewhere", "closed"])
@pytest.mark.parametrize("init", ["noise", "reference"])
def test_the_seed_decides(tmp_path: Path, pipeline: LipsyncPipeline, reference: str, init: str) -> None:
    video, audio = make_video(tmp_path / "v.mp4", 5), make_audio(tmp_path / "a.wav", 0.2)
    settings = FAST.changed({"reference": reference, "init": init})
    outputs = []
    for name, seed in [("x", 3), ("y", 3), ("z", 4)]:
        pipeline(video, audio, tmp_path / f"{name}.mp4", replace(settings, seed=seed))
        outputs.append((tmp_path / f"{name}.mp4").read_bytes())
    assert outputs[0] == outputs[1] != outputs[2]
    assert pipeline(video, audio, tmp_path / "r.mp4", replace(settings, seed=-1)).settings.seed >= 0


def test_where_memory_runs_out_the_window_is_tried_again_with_less(
    tmp_path: Path, pipeline: LipsyncPipeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    video, audio = make_video(tmp_path / "v.mp4", 16), make_audio(tmp_path / "a.wav", 0.64)
    pipeline(video, audio, tmp_path / "calm.mp4", FAST)
    sizes: list[int] = []
    sample = WindowSampler._sample

    def tight(self: WindowSampler, windows: list[Window], on_step: object) -> object:
        sizes.append(len(windows))
        if len(windows) > 1:
            raise torch.OutOfMemoryError("no memory")
        return sample(self, windows, on_step)  # type: ignore[arg-type]

    monkeypatch.setattr(WindowSampler, "_sample", tight)
    monkeypatch.setattr("latentsync.inference.pipeline.memory_plan", lambda *_: MemoryPlan(windows=4, vae_frames=4))
    pipeline(video, audio, tmp_path / "tight.mp4", FAST)
    assert sizes == [4, 2, 1, 1, 1, 1]
    assert (tmp_path / "tight.mp4").read_bytes() == (tmp_path / "calm.mp4").read_bytes()
    monkeypatch.setattr(sampler, "decode", lambda *_: (_ for _ in ()).throw(torch.OutOfMemoryError("no memory")))
    with pytest.raises(ValueError, match="memory of cpu is too small"):
        pipeline(video, audio, tmp_path / "none.mp4", FAST)


def test_rejected_windows_are_passed_through_and_reported(
    tmp_path: Path, pipeline: LipsyncPipeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    rejections = iter([None, "not a number", None, None])
    monkeypatch.setattr(finish, "rejection_reason", lambda *_: next(rejections))
    video = make_video(tmp_path / "v.mp4", 4 * NUM_FRAMES)
    report = pipeline(video, make_audio(tmp_path / "a.wav", 0.64), tmp_path / "o.mkv", FAST, LOSSLESS)
    broken = range(NUM_FRAMES, 2 * NUM_FRAMES)
    for index, (before, after) in enumerate(zip(read(video), read(tmp_path / "o.mkv"), strict=True)):
        assert np.array_equal(before, after) == (index in broken)
    assert report.actions == {"synced": 12, "unusable result (not a number)": 4}
    assert [stretch.frames for stretch in report.passed_through] == [4]


def test_the_report_on_disk_adds_up(
    tmp_path: Path, pipeline: LipsyncPipeline, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    use_tiny_models(monkeypatch, pipeline)
    video, audio = make_video(tmp_path / "v.mp4", 60, dark=range(20, 40), fps=30), make_audio(tmp_path / "a.wav", 1.0)
    assert main(command(video, audio, tmp_path / "o.mp4", "--rest", "keep", "--seed", "9")) == 0
    told = json.loads((tmp_path / "o.report.json").read_text(encoding="utf-8"))
    assert told["summary"] in capsys.readouterr().out.replace("\n", " ")
    assert told["frames"] == len(told["per_frame"]) == sum(told["actions"].values()) == 60
    assert told["actions"] == {"after the sound": 30, "synced": 20, "no face": 10}
    assert told["synced_frames"] + sum(part["frames"] for part in told["passed_through"]) == 60
    assert [frame["time_sec"] for frame in told["per_frame"]] == pytest.approx([k / 30 for k in range(60)], abs=1e-5)
    assert (told["settings"]["seed"], told["fps"], told["duration_sec"], told["sound_sec"]) == (9, 30.0, 2.0, 1.0)
    assert "kept" in told["length"] and told["encoder"] and told["versions"]["latentsync"]
    assert set(told["timings_sec"]) >= {
        "detect",
        "read",
        "align",
        "encode",
        "sample",
        "decode",
        "paste",
        "write",
        "join",
    }
    unedited = [frame for frame in told["per_frame"] if frame["action"] != "synced"]
    assert all(frame["weight"] == 0 and frame["take"] == -1 for frame in unedited)


def test_preflight_writes_only_report_and_sheet(
    tmp_path: Path, pipeline: LipsyncPipeline, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    use_tiny_models(monkeypatch, pipeline)
    monkeypatch.setattr(WindowSampler, "__init__", lambda *_: pytest.fail("nothing may be sampled"))
    video, audio = make_video(tmp_path / "v.mp4", 40, dark=range(10, 30)), make_audio(tmp_path / "a.wav", 1.6)
    assert main(command(video, audio, tmp_path / "o.mp4", "--preflight")) == 0
    said = capsys.readouterr().out
    assert "20 of 40 frames would be edited" in said and "synced" not in said
    assert sorted(contents(tmp_path)) == ["a.wav", "o.preflight.jpg", "o.report.json", "v.mp4"]
    assert json.loads((tmp_path / "o.report.json").read_text())["actions"] == {"would be edited": 20, "no face": 20}


def test_the_sheet_of_a_preflight_replaces_no_other_picture(
    tmp_path: Path, pipeline: LipsyncPipeline, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    use_tiny_models(monkeypatch, pipeline)
    video, audio = make_video(tmp_path / "v.mp4", 4), make_audio(tmp_path / "a.wav", 0.16)
    (tmp_path / "o.preflight.jpg").write_bytes(b"\xff\xd8\xff a picture of the user's")
    before = contents(tmp_path)
    assert main(command(video, audio, tmp_path / "o.mp4", "--preflight")) == 2
    assert "o.preflight.jpg" in capsys.readouterr().err
    assert contents(tmp_path) == before
    (tmp_path / "o.preflight.jpg").unlink()
    for _ in range(2):  # its own one is replaced
        assert main(command(video, audio, tmp_path / "o.mp4", "--preflight")) == 0


def test_models_are_found_beside_their_unet(tmp_path: Path, models: LipsyncModels) -> None:
    path, config = tmp_path / "unet.safetensors", UNET.to_dict()
    metadata = {"kind": "unet", "model": config, "resolution": RESOLUTION, "num_frames": NUM_FRAMES}
    save_checkpoint(path, models.unet.state_dict(), {**metadata, "inference": {"reference": "elsewhere", "steps": 3}})
    dims = dict(n_mels=80, n_audio_ctx=50, n_audio_state=WIDTH, n_audio_head=2, n_audio_layer=1)
    assert isinstance(models.audio_encoder, AudioEncoder)
    encoder = {f"encoder.{key}": value for key, value in models.audio_encoder.state_dict().items()}
    torch.save({"dims": dims, "model_state_dict": encoder}, tmp_path / "whisper.pt")
    save_checkpoint(tmp_path / "vae.safetensors", models.vae.state_dict(), {"kind": "vae", "model": VAE})
    loaded = LipsyncModels.load(path, device=torch.device("cpu"))
    assert (loaded.resolution, loaded.num_frames, loaded.dtype) == (RESOLUTION, NUM_FRAMES, torch.float32)
    assert loaded.defaults == InferenceSettings(reference="elsewhere", steps=3)
    (tmp_path / "512.yaml").write_text("data: {resolution: 512}")
    with pytest.raises(CheckpointError):
        LipsyncModels.load(path, tmp_path / "512.yaml", torch.device("cpu"))


@pytest.mark.parametrize("name", ["stage2", "stage2_512"])
def test_the_shipped_configurations_are_the_public_models(name: str) -> None:
    run = load(Path(__file__).parents[2] / f"configs/unet/{name}.yaml", UNetRun)
    assert run.net == UNetConfig()
    assert (run.data.resolution, run.data.num_frames) == (512 if "512" in name else 256, 16)


WRONG_FILES = [
    ("missing.mp4", "a.wav", "o.mp4", "no such file"),
    ("v.mp4", "missing.wav", "o.mp4", "no such file"),
    ("a.wav", "a.wav", "o.mp4", "no video stream"),
    ("v.mp4", "v.mp4", "o.mp4", "no audio stream"),
    ("text.txt", "a.wav", "o.mp4", "text file"),
    ("v.mp4", "a.wav", "v.mp4", "an input of the same run"),
    ("v.mp4", "a.wav", "link.mp4", "an input of the same run"),
    ("v.mp4", "a.wav", "o.avi", "ends in .mp4"),
    ("v.mp4", "a.wav", "a.wav/o.mp4", "another folder"),
    ("v.mp4", "a.wav", "thesis.mp4", "--force"),
]
WRONG_CHOICES = [
    (("--face", "nobody"), "unknown"),
    (("--face", "me.jpg"), "not an existing picture"),
    (("--face", "0"), "numbered from 1"),
    (("--min_face_px", "-1"), "min_face_px"),
    (("--min_face_px", "nan"), "min_face_px"),
    (("--max_yaw_deg", "inf"), "max_yaw_deg"),
    (("--limit_sec", "nan"), "limit_sec"),
    (("--limit_sec", "0"), "limit_sec"),
    (("--fps", "0.1"), "fps"),
    (("--crf", "60"), "crf"),
    (("--codec", "ffv1", "--video_out_path=o.mov"), ".mp4 or .mkv"),
    (("--inference_steps", "0"), "steps"),
    (("--overlap", "-1"), "overlap"),
    (("--report=a.txt",), ".json"),
    (("--report=thesis.json",), "is not a report"),
    (("--job_dir=mine",), "other files"),
]


@pytest.mark.parametrize(("video", "audio", "output", "words"), WRONG_FILES)
def test_wrong_arguments_are_one_sentence_and_change_no_file(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], video: str, audio: str, output: str, words: str
) -> None:
    lay_out(tmp_path)
    before = contents(tmp_path)
    code = main(command(tmp_path / video, tmp_path / audio, tmp_path / output))
    check_refusal(code, capsys.readouterr().err, words)
    assert contents(tmp_path) == before


@pytest.mark.parametrize(("choice", "words"), WRONG_CHOICES, ids=lambda value: "-".join(value)[:30])
def test_wrong_choices_are_refused_before_the_work(
    tmp_path: Path,
    models: LipsyncModels,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    choice: tuple[str, ...],
    words: str,
) -> None:
    class Lazy(StubDetector):
        def faces(self, frame: np.ndarray) -> list[Face]:
            raise AssertionError("the work has begun")

    lay_out(tmp_path)
    monkeypatch.chdir(tmp_path)
    use_tiny_models(monkeypatch, LipsyncPipeline(models, Lazy()))
    before = contents(tmp_path)
    code = main(command(Path("v.mp4"), Path("a.wav"), Path("o.mp4"), *choice))
    check_refusal(code, capsys.readouterr().err, words)
    assert contents(tmp_path) == before


@pytest.mark.parametrize("overlap", [NUM_FRAMES, NUM_FRAMES + 5])
def test_an_overlap_as_long_as_a_window_is_refused(tmp_path: Path, pipeline: LipsyncPipeline, overlap: int) -> None:
    video, audio = make_video(tmp_path / "v.mp4", 40), make_audio(tmp_path / "a.wav", 1.6)
    with pytest.raises(ValueError, match="overlap"):
        pipeline(video, audio, tmp_path / "o.mp4", replace(FAST, overlap=overlap))


def lay_out(folder: Path) -> None:
    """Good inputs, and a user's own files."""
    make_video(folder / "v.mp4", 2)
    make_audio(folder / "a.wav", 0.1)
    (folder / "text.txt").write_text("no video")
    (folder / "link.mp4").symlink_to(folder / "v.mp4")
    (folder / "thesis.mp4").write_bytes(b"my life's work")
    (folder / "thesis.json").write_text('{"my": "life\'s work"}')
    (folder / "mine").mkdir()
    (folder / "mine" / "part_1.mp4").write_bytes(b"the first part of my film")


def check_refusal(code: int, error: str, words: str) -> None:
    assert code == 2 and words in error, error
    assert error.startswith("inference: ") and error.count("\n") == 1 and error.rstrip().endswith((".", "?")), error


def test_without_official_weights_the_download_command_is_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("scripts.inference.PUBLIC_UNET", tmp_path / "latentsync_unet.pt")
    video, audio = make_video(tmp_path / "v.mp4", 2), make_audio(tmp_path / "a.wav", 0.1)
    assert main(["--video_path", str(video), "--audio_path", str(audio)]) == 2
    error = capsys.readouterr().err
    assert "python -m scripts.download_checkpoints inference" in error and "--demo" in error
    assert main(["--video_path", "v.mp4"]) == 2
    assert "--audio_path" in capsys.readouterr().err


def test_a_failed_run_leaves_no_output(tmp_path: Path, models: LipsyncModels) -> None:
    class Broken(StubDetector):
        def faces(self, frame: np.ndarray) -> list[Face]:
            raise MediaError("stop")

    video, audio = make_video(tmp_path / "v.mp4", 2), make_audio(tmp_path / "a.wav", 0.1)
    with pytest.raises(MediaError):
        LipsyncPipeline(models, Broken())(video, audio, tmp_path / "o.mp4")
    assert not (tmp_path / "o.mp4").exists()


def test_without_the_encoder_a_codec_is_refused_or_replaced(
    tmp_path: Path, pipeline: LipsyncPipeline, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    use_tiny_models(monkeypatch, pipeline)
    video, audio = make_video(tmp_path / "v.mp4", 4), make_audio(tmp_path / "a.wav", 0.16)
    before = contents(tmp_path)
    missing = ("libx264", "libopenh264", "libx265")
    monkeypatch.setattr(
        "latentsync.media.video.encode.is_installed", lambda name: name not in missing and is_installed(name)
    )
    for codec in ("h264", "hevc"):
        code = main(command(video, audio, tmp_path / "o.mp4", "--codec", codec))
        check_refusal(code, capsys.readouterr().err, codec)
    assert contents(tmp_path) == before
    assert main(command(video, audio, tmp_path / "o.mp4")) == 0
    assert json.loads((tmp_path / "o.report.json").read_text())["encoder"] == probe(tmp_path / "o.mp4").codec == "mpeg4"


@pytest.mark.parametrize("length", ["bounce", "loop", "cut", "hold"])
def test_video_and_audio_get_the_same_length(tmp_path: Path, pipeline: LipsyncPipeline, length: str) -> None:
    orders = {"bounce": [0, 1, 2, 3, 2, 1, 0], "loop": [0, 1, 2, 3, 0, 1, 2], "cut": [0, 1, 2, 3]}
    video, audio = make_video(tmp_path / "v.mp4", 4), make_audio(tmp_path / "a.wav", 0.28)
    options = JobOptions(length=length)  # type: ignore[arg-type]
    report = pipeline(video, audio, tmp_path / "o.mp4", FAST, options)
    order = orders.get(length, [0, 1, 2, 3, 3, 3, 3])
    assert [number(frame) for frame in read(tmp_path / "o.mp4")] == order
    assert [frame.source for frame in report.per_frame] == order
    words = {"bounce": "back and forth", "loop": "repeated", "cut": "the sound is cut", "hold": "holds its last frame"}
    assert words[length] in report.length


def test_versions_are_those_of_the_packages_that_are_installed() -> None:
    """On a machine without a display OpenCV's package has another name."""
    assert {"opencv-python", "opencv-python-headless"} <= set(LIBRARIES)
    assert installed_versions(["numpy", "no-such-package"]) == {"numpy": np.__version__}
