"""The shipped demo: models, pair and scores belong together, and the demo's lips follow the new sound."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
import whisper

from latentsync.data.aligned import aligned_faces
from latentsync.face.detection.detector import make_detector
from latentsync.inference.model_files import DEMO_UNET
from latentsync.inference.models import LipsyncModels
from latentsync.inference.pipeline import LipsyncPipeline
from latentsync.media.probe import probe
from latentsync.metrics.lips.aperture import correlation
from latentsync.metrics.lips.mesh_height import read_lips
from latentsync.weights import DEMO, read_checkpoint
from scripts.inference import DEMO_AUDIO, DEMO_VIDEO, main

MAX_BYTES = 40 * 1024 * 1024


def test_demo_models_are_small_and_say_what_they_are() -> None:
    assert sum(path.stat().st_size for path in DEMO.iterdir()) <= MAX_BYTES
    for name in ("unet", "vae", "syncnet"):
        metadata = read_checkpoint(DEMO / f"{name}.safetensors").metadata
        described = json.loads((DEMO / f"{name}.json").read_text())
        assert metadata["kind"] == name and metadata == described
        assert metadata["step"] > 0 and metadata["clips"] > 0


def test_openai_whisper_loads_the_speech_encoder() -> None:
    model = whisper.load_model(str(DEMO / "whisper.pt"), device="cpu")
    assert model.dims.n_audio_state == 96
    mel = torch.zeros(1, 80, 2 * model.dims.n_audio_ctx)
    assert model.encoder(mel).shape == (1, model.dims.n_audio_ctx, 96)


@pytest.mark.slow
def test_the_demo_pair_speaks_the_new_sound(tmp_path: Path) -> None:
    pytest.importorskip("espeakng_loader", reason="the truth of the demo's sound needs espeak-ng")
    from scripts.figures import AUDIO_SEED, two_sentences

    output = tmp_path / "out.mp4"
    pipeline = LipsyncPipeline(LipsyncModels.load(DEMO_UNET, device=torch.device("cpu")), make_detector())
    settings = pipeline.models.defaults.changed({"steps": 8})
    report = pipeline(DEMO_VIDEO, DEMO_AUDIO, output, settings)
    truth = two_sentences(AUDIO_SEED).mouth.aperture
    lips, before = (read_lips(np.stack(list(aligned_faces(p, make_detector(), 128)))) for p in (output, DEMO_VIDEO))
    count = min(len(lips), len(before), len(truth))
    assert report.frames == probe(output).frame_count and report.synced_frames == report.frames
    assert correlation(lips[:count], truth[:count]) >= 0.7
    assert correlation(before[:count], truth[:count]) <= 0.4


def test_the_distilled_demo_takes_two_steps_and_the_small_decoder(tmp_path: Path) -> None:
    output = tmp_path / "out.mp4"
    assert main(["--demo", "--preset", "turbo", "--limit_sec", "0.8", "--video_out_path", str(output)]) == 0
    report = json.loads(output.with_suffix(".report.json").read_text())
    chosen = {name: report["settings"][name] for name in ("preset", "solver", "steps", "vae")}
    assert chosen == {"preset": "turbo", "solver": "lcm", "steps": 2, "vae": "auto"}
    assert report["synced_frames"] == report["frames"] == 20
