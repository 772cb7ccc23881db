"""Frames that are shown again are not encoded again, and the result is the same."""

from pathlib import Path

import numpy as np
import pytest
import torch

from latentsync.inference.pipeline import LipsyncPipeline
from latentsync.inference.settings import JobOptions
from latentsync.inference.windows import sampler
from latentsync.inference.windows.latents import LatentCache
from tests.support.tiny import StubDetector, make_audio, make_video, tiny_models
from tests.support.whole_runs import FAST

FRAMES = 16


def test_frames_shown_again_are_computed_once() -> None:
    cache, calls = LatentCache([0, 1, 2, 3, 2, 1]), []

    def compute() -> torch.Tensor:
        calls.append(1)
        return torch.arange(4.0)[:, None] + 10

    assert cache("x", [0, 1, 2, 3], compute)[:, 0].tolist() == [10, 11, 12, 13]
    assert cache("x", [2, 1], compute)[:, 0].tolist() == [12, 11]
    assert len(calls) == 1
    cache("y", [2, 1], compute)  # of another kind
    cache("x", [3, 2], compute)  # 3 is shown once only
    cache("x", [], compute)  # frames of no source
    assert len(calls) == 4


def test_the_cache_keeps_within_its_limit() -> None:
    cache = LatentCache([0, 1, 2, 0, 1, 2], limit_bytes=8)
    cache("x", [0, 1, 2], lambda: torch.zeros(3, 1))
    assert len(cache.results) == 2


@pytest.mark.parametrize("length", ["bounce", "loop", "hold"])
@pytest.mark.parametrize("colour", ["decoded", "matched"])
def test_a_video_shown_again_has_the_same_bytes_with_fewer_encodes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, length: str, colour: str
) -> None:
    pipeline = LipsyncPipeline(tiny_models(), StubDetector())
    options = JobOptions(length=length)  # type: ignore[arg-type]
    settings, encode = FAST.changed({"colour": colour}), sampler.encode
    pair = make_video(tmp_path / "v.mp4", FRAMES), make_audio(tmp_path / "a.wav", 3 * FRAMES / 25)
    encoded: dict[str, int] = {}
    for name, limit in (("with", 1 << 20), ("without", 0)):
        monkeypatch.setattr(sampler, "encode", lambda vae, pixels, name=name: count(encoded, name, encode(vae, pixels)))
        monkeypatch.setattr(
            "latentsync.inference.jobs.edited.LatentCache", lambda order, limit=limit: LatentCache(order, limit)
        )
        pipeline(*pair, tmp_path / f"{name}.mp4", settings, options)
    assert (tmp_path / "with.mp4").read_bytes() == (tmp_path / "without.mp4").read_bytes()
    assert encoded["with"] < 0.7 * encoded["without"]


def count(encoded: dict[str, int], name: str, latents: torch.Tensor) -> torch.Tensor:
    encoded[name] = encoded.get(name, 0) + len(latents)
    return latents


def test_latents_do_not_depend_on_the_other_frames_of_the_batch() -> None:
    """The cache relies on it: a face's latents are bit-identical in any batch."""
    vae = tiny_models().vae
    pixels = torch.from_numpy(np.random.default_rng(0).uniform(-1, 1, (6, 3, 32, 32)).astype(np.float32))
    with torch.inference_mode():
        order = torch.tensor([3, 1, 5, 0, 4, 2])
        assert torch.equal(sampler.encode(vae, pixels)[order], sampler.encode(vae, pixels[order]))
