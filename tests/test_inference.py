"""The inference room, with tiny random networks and synthetic heads: counts, order, what stays untouched, errors."""

import json
from collections.abc import Iterator
from dataclasses import replace
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
import torch
from whisper.model import AudioEncoder

from latentsync.config import UNetRun, load
from latentsync.face.align import align_matrix
from latentsync.face.detect import AlignmentPoints
from latentsync.face.paste import pasted_region
from latentsync.inference.models import LipsyncModels
from latentsync.inference.pipeline import STAGES, LipsyncPipeline
from latentsync.inference.sampling import WindowSampler
from latentsync.inference.settings import InferenceSettings
from latentsync.inference.stopwatch import Stopwatch
from latentsync.inference.timeline import Timeline, frames_in_order, spans
from latentsync.inference.tracks import FaceTrack, track_face
from latentsync.media.audio import write_wav
from latentsync.media.container import MediaError
from latentsync.media.probe import probe
from latentsync.media.read import frames_at, frames_between
from latentsync.media.write import VideoWriter
from latentsync.models.unet import UNet3DConditionModel
from latentsync.models.unet_config import UNetConfig
from latentsync.models.vae import build_vae
from latentsync.weights import CheckpointError, save_checkpoint
from scripts.inference import main

RESOLUTION, NUM_FRAMES, WIDTH = 32, 4, 16
SIZE = (96, 128)  # h, w of the source
POINTS = np.array([[56, 36], [76, 36], [66, 48]], dtype=np.float32)
VAE = {"block_out_channels": [8, 8, 8, 8], "layers_per_block": 1, "norm_num_groups": 2}
DARK = 40  # the detector sees no face in frames darker than this
FAST = InferenceSettings(steps=1, guidance_scale=1.0)


class StubDetector:
    """Sees a still face in every frame but the dark ones."""

    def points(self, frame: np.ndarray) -> AlignmentPoints | None:
        return None if frame[0, 0].max() < DARK else AlignmentPoints(POINTS, (50, 30, 82, 70), 1.0)

    def reset(self) -> None:
        """There is nothing to forget."""


def unet_config() -> UNetConfig:
    return UNetConfig(
        block_out_channels=[8],
        down_block_types=["CrossAttnDownBlock3D"],
        up_block_types=["CrossAttnUpBlock3D"],
        layers_per_block=1,
        norm_num_groups=2,
        attention_head_dim=2,
        cross_attention_dim=WIDTH,
        use_motion_module=False,
    )


@pytest.fixture(scope="module")
def models() -> LipsyncModels:
    torch.manual_seed(0)
    unet = UNet3DConditionModel(unet_config())
    for parameter in unet.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    vae = build_vae(VAE)
    encoder = AudioEncoder(80, 50, WIDTH, 2, 1)
    for net in (unet, vae, encoder):
        net.eval().requires_grad_(False)
    return LipsyncModels(unet, vae, encoder, RESOLUTION, NUM_FRAMES, torch.device("cpu"), torch.float32)


@pytest.fixture(scope="module")
def pipeline(models: LipsyncModels) -> LipsyncPipeline:
    return LipsyncPipeline(models, StubDetector())


def scene(index: int, dark: bool = False) -> np.ndarray:
    """A smooth picture whose brightness tells the frame's number (mod 20)."""
    y, x = np.mgrid[: SIZE[0], : SIZE[1]]
    image = np.stack([50 + 9 * (index % 20) + 0 * x, 100 + 40 * np.sin(x / 20), 100 + 40 * np.cos(y / 15)], axis=-1)
    return (image * (0.1 if dark else 1)).astype(np.uint8)


def make_video(path: Path, count: int, dark: range = range(0)) -> Path:
    with VideoWriter(path, SIZE[1], SIZE[0], 25, crf=4) as writer:
        for index in range(count):
            writer.write(scene(index, index in dark))
    return path


def make_audio(path: Path, seconds: float) -> Path:
    times = np.arange(round(16_000 * seconds)) / 16_000
    write_wav(path, (0.3 * np.sin(2 * np.pi * 200 * times * (1 + times))).astype(np.float32))
    return path


def read(path: Path) -> list[np.ndarray]:
    return [shown.frame for shown in frames_at(path, 25)]


def number(frame: np.ndarray) -> int:
    """The number of a scene, read from its left edge, which no face covers."""
    return round((float(frame[:, :16, 0].mean()) - 50) / 9)


@pytest.mark.parametrize("source_count", [1, 2, 3, 7, 30])
@pytest.mark.parametrize("output_count", [1, 6, 13, 75])
def test_bounce_goes_back_and_forth_without_doubling_the_turns(source_count: int, output_count: int) -> None:
    timeline = Timeline(source_count, output_count)
    there = list(range(source_count))
    cycle = there + there[-2:0:-1]
    expected = [cycle[frame % len(cycle)] for frame in range(output_count)]
    assert [timeline.source(frame) for frame in range(output_count)] == expected
    assert [index for leg in timeline.legs() for index in leg] == expected
    assert list(frames_in_order(lambda start, stop: iter(range(start, stop)), timeline, held=4)) == expected


def test_spans_cut_where_faces_come_and_go() -> None:
    parts = spans([True] * 6 + [False] * 2 + [True])
    assert [(span.start, span.stop, span.has_face) for span in parts] == [(0, 6, True), (6, 8, False), (8, 9, True)]
    assert list(parts[0].windows(4)) == [range(0, 4), range(4, 6)]


def test_any_stretch_of_a_video_is_read_as_from_its_beginning(tmp_path: Path) -> None:
    path = tmp_path / "v.mp4"
    with VideoWriter(path, 48, 32, 25) as writer:
        for index in range(300):  # longer than one group of pictures
            writer.write(scene(index)[:32, :48])
    whole = read(path)
    for start, stop in [(0, 3), (24, 30), (26, 28), (249, 254), (296, 300), (298, 320)]:
        part = [shown.frame for shown in frames_between(path, 25, start, stop)]
        assert len(part) == min(stop, 300) - start
        assert all(np.array_equal(a, b) for a, b in zip(part, whole[start:stop], strict=True))


def track_of(has_face: list[bool]) -> FaceTrack:
    frames = [scene(0, dark=not face) for face in has_face]
    return track_face(frames, StubDetector(), RESOLUTION, lambda done: None)


def test_the_reference_lies_elsewhere_and_changes_once() -> None:
    track = track_of([True] * 20 + [False] * 3 + [True] * 6)
    chosen = [track.reference_window(range(start, start + 4), 4) for start in range(0, 17, 4)]
    assert chosen == [range(16, 20)] * 4 + [range(0, 4)]
    assert track.reference_window(range(23, 27), 4) == range(16, 20)  # its own run is too short
    assert track_of([True] * 3).reference_window([0, 1, 2], 4) == range(0, 3)  # nothing else to show
    assert track.face_share == pytest.approx(26 / 29)


@pytest.mark.parametrize(
    ("source_count", "seconds", "frames"),
    [
        (1, 0.01, 1),
        (1, 0.3, 8),
        (7, 0.04, 1),
        (7, 1.019, 25),
        (7, 1.02, 26),
        (30, 0.3, 8),
        (30, 1.2, 30),
        (30, 3.0, 75),
    ],
)
def test_the_output_is_as_long_as_the_audio(
    tmp_path: Path, pipeline: LipsyncPipeline, source_count: int, seconds: float, frames: int
) -> None:
    video, audio = make_video(tmp_path / "v.mp4", source_count), make_audio(tmp_path / "a.wav", seconds)
    report = pipeline(video, audio, tmp_path / "out.mp4", FAST)
    info = probe(tmp_path / "out.mp4")
    assert info.frame_count == report.frames == report.synced_frames == frames
    assert info.has_audio and info.duration_sec == pytest.approx(frames / 25)
    order = [Timeline(min(source_count, frames), frames).source(frame) for frame in range(frames)]
    assert [number(frame) for frame in read(tmp_path / "out.mp4")] == [index % 20 for index in order]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.wav", "out.mp4", "v.mp4"]


@pytest.fixture
def kept(monkeypatch: pytest.MonkeyPatch) -> list[np.ndarray]:
    """Frames as they are given to the encoder."""
    frames: list[np.ndarray] = []
    write = VideoWriter.write

    def kept_write(self: VideoWriter, frame: np.ndarray) -> None:
        frames.append(frame.copy())
        write(self, frame)

    monkeypatch.setattr(VideoWriter, "write", kept_write)
    return frames


def test_only_the_face_changes_and_frames_without_one_pass(
    tmp_path: Path, pipeline: LipsyncPipeline, kept: list[np.ndarray]
) -> None:
    video = make_video(tmp_path / "v.mp4", 14, dark=range(5, 8))
    source = read(video)
    kept.clear()
    stages = []
    report = pipeline(
        video, make_audio(tmp_path / "a.wav", 0.56), tmp_path / "o.mp4", FAST, lambda *told: stages.append(told)
    )
    rows, columns = pasted_region(align_matrix(POINTS, RESOLUTION), (26, 35), SIZE) or (slice(0), slice(0))
    for index, (before, after) in enumerate(zip(source, kept, strict=True)):
        changed = np.flatnonzero((before != after).any(axis=(1, 2)))
        outside = np.ones(SIZE, dtype=bool)
        outside[max(0, rows.start - 2) : rows.stop + 2, max(0, columns.start - 2) : columns.stop + 2] = False
        assert np.array_equal(before[outside], after[outside])
        assert (len(changed) > 0) == (index not in range(5, 8))
    assert (report.synced_frames, report.face_share) == (11, pytest.approx(11 / 14))
    assert report.summary() == "11 of 14 frames synced, 3 passed through (00:00.20-00:00.32 no face)."
    assert json.loads(json.dumps(report.to_dict()))["passed_through"][0]["stop_frame"] == 8
    assert [stage for stage, done, total in stages if done == total] == list(STAGES)
    assert stages == sorted(stages, key=lambda told: (STAGES.index(told[0]), told[1]))


def test_a_video_without_any_face_keeps_its_pictures(
    tmp_path: Path, pipeline: LipsyncPipeline, kept: list[np.ndarray]
) -> None:
    video = make_video(tmp_path / "v.mp4", 5, dark=range(5))
    kept.clear()
    report = pipeline(video, make_audio(tmp_path / "a.wav", 0.4), tmp_path / "o.mp4", FAST)
    source = read(video)
    assert report.synced_frames == 0
    assert all(np.array_equal(kept[i], source[j]) for i, j in enumerate([0, 1, 2, 3, 4, 3, 2, 1, 0, 1]))


@pytest.mark.parametrize("reference", ["current", "elsewhere"])
@pytest.mark.parametrize("init", ["noise", "reference"])
def test_the_seed_decides(tmp_path: Path, pipeline: LipsyncPipeline, reference: str, init: str) -> None:
    video, audio = make_video(tmp_path / "v.mp4", 9), make_audio(tmp_path / "a.wav", 0.36)
    settings = InferenceSettings().changed({"steps": 2, "reference": reference, "init": init})
    outputs = []
    for name, seed in [("x", 3), ("y", 3), ("z", 4)]:
        pipeline(video, audio, tmp_path / f"{name}.mp4", replace(settings, seed=seed))
        outputs.append((tmp_path / f"{name}.mp4").read_bytes())
    assert outputs[0] == outputs[1] != outputs[2]
    drawn = pipeline(video, audio, tmp_path / "r.mp4", replace(settings, seed=-1)).settings.seed
    assert drawn >= 0


def test_windows_share_their_noise_and_padding_changes_nothing(models: LipsyncModels) -> None:
    """The same faces and sound give the same lips in every window; a short window equals one padded by hand."""
    sampler = WindowSampler(models, InferenceSettings(steps=2), Stopwatch())

    def sample(faces: np.ndarray, audio: torch.Tensor) -> torch.Tensor:
        return sampler.sample(faces, audio, None, lambda done, total: None)

    faces = np.random.default_rng(0).integers(0, 256, (NUM_FRAMES, RESOLUTION, RESOLUTION, 3), dtype=np.uint8)
    audio = torch.randn(NUM_FRAMES, 20, WIDTH)
    assert torch.equal(sample(faces, audio), sample(faces, audio))
    assert torch.equal(sampler.noise[:, :, :1].expand_as(sampler.noise), sampler.noise)
    by_hand = sample(faces[[0, 1, 1, 1]], audio[[0, 1, 1, 1]])
    assert torch.allclose(sample(faces[:2], audio[:2]), by_hand[:2], atol=1e-5)


def test_frames_are_read_one_window_at_a_time() -> None:
    alive: list[int] = []

    def read_some(start: int, stop: int) -> Iterator[int]:
        alive.append(stop - start)
        yield from range(start, stop)

    backwards = islice(frames_in_order(read_some, Timeline(1000, 1990), held=16), 1000, 1990)
    assert list(backwards) == list(range(998, 8, -1))
    assert max(alive[1:]) == 16


def test_settings_are_checked() -> None:
    for wrong in ({"steps": 0}, {"reference": "other"}, {"init": "zeros"}, {"guidance_scale": -1.0}, {"seed": -2}):
        with pytest.raises(ValueError, match=next(iter(wrong))):
            InferenceSettings().changed(wrong)
    assert InferenceSettings().changed({"steps": None, "seed": 5}) == InferenceSettings(seed=5)


def test_models_are_found_beside_their_unet(tmp_path: Path, models: LipsyncModels) -> None:
    path, config = tmp_path / "unet.safetensors", unet_config().to_dict()
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
    run = load(Path(__file__).parent.parent / f"configs/unet/{name}.yaml", UNetRun)
    assert UNetConfig.from_dict(run.model) == UNetConfig()
    assert (run.data.resolution, run.data.num_frames) == (512 if "512" in name else 256, 16)


@pytest.mark.parametrize(
    ("video", "audio", "output", "words"),
    [
        ("missing.mp4", "a.wav", "o.mp4", "no such file"),
        ("v.mp4", "missing.wav", "o.mp4", "no such file"),
        ("a.wav", "a.wav", "o.mp4", "no video stream"),
        ("v.mp4", "v.mp4", "o.mp4", "no audio stream"),
        ("text.txt", "a.wav", "o.mp4", "text file"),
        ("v.mp4", "a.wav", "v.mp4", "an input of the same run"),
        ("v.mp4", "a.wav", "link.mp4", "an input of the same run"),
        ("v.mp4", "a.wav", "o.avi", "ends in .mp4"),
        ("v.mp4", "a.wav", "a.wav/o.mp4", "another folder"),
    ],
)
def test_what_a_user_got_wrong_is_one_sentence_and_harms_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], video: str, audio: str, output: str, words: str
) -> None:
    make_video(tmp_path / "v.mp4", 2)
    make_audio(tmp_path / "a.wav", 0.1)
    (tmp_path / "text.txt").write_text("no video")
    (tmp_path / "link.mp4").symlink_to(tmp_path / "v.mp4")
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    files = ("--video_path", video), ("--audio_path", audio), ("--video_out_path", output)
    code = main(["--demo", *(part for flag, name in files for part in (flag, str(tmp_path / name)))])
    error = capsys.readouterr().err
    assert code == 2 and words in error and error.count("\n") == 1
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_without_official_weights_the_way_out_is_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("scripts.inference.PUBLIC_UNET", tmp_path / "latentsync_unet.pt")
    assert main(["--video_path", "v.mp4", "--audio_path", "a.wav"]) == 2
    error = capsys.readouterr().err
    assert "python -m scripts.download_checkpoints inference" in error and "--demo" in error
    assert main(["--video_path", "v.mp4"]) == 2
    assert "--audio_path" in capsys.readouterr().err


def test_a_broken_output_disappears(tmp_path: Path, models: LipsyncModels) -> None:
    class Broken(StubDetector):
        def points(self, frame: np.ndarray) -> AlignmentPoints | None:
            raise MediaError("stop")

    video, audio = make_video(tmp_path / "v.mp4", 2), make_audio(tmp_path / "a.wav", 0.1)
    with pytest.raises(MediaError):
        LipsyncPipeline(models, Broken())(video, audio, tmp_path / "o.mp4")
    assert not (tmp_path / "o.mp4").exists()
