"""Frames in, frames out: order, windows, what is passed on, cross-fades, and what happens to faces that cannot be shown."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from latentsync.audio.whisper_features import WhisperFeatures
from latentsync.face.align import align_matrix
from latentsync.inference.faces.plan import NOT_EDITED
from latentsync.inference.memory import MemoryPlan
from latentsync.inference.models import LipsyncModels
from latentsync.inference.settings import InferenceSettings, LastWindow
from latentsync.inference.timing import Stopwatch
from latentsync.inference.windows.sampler import Window, WindowSampler
from latentsync.inference.windows.stream import FrameIn, FrameOut, LipsyncStream
from latentsync.media.pixels.picture import RgbPicture
from latentsync.testing import WIDTH
from tests.support.tiny import NUM_FRAMES, POINTS, RESOLUTION, scene, tiny_models, waveform

FAST = InferenceSettings(steps=1, guidance_scale=1.0)
MATRIX = align_matrix(POINTS, RESOLUTION)


@pytest.fixture(scope="module")
def models() -> LipsyncModels:
    return tiny_models()


def make_stream(
    models: LipsyncModels, stride: int = 1, overlap: int = 0, windows: int = 1, sampler: WindowSampler | None = None
) -> LipsyncStream:
    sampler = sampler or WindowSampler(models, FAST, Stopwatch(), MemoryPlan(windows, 4))
    features = WhisperFeatures(models.audio_encoder).track(waveform(4.0))
    return LipsyncStream(sampler, features, lambda frames: None, stride, overlap)


def frame_in(index: int, segment: int) -> FrameIn:
    return FrameIn(RgbPicture(scene(index)), index / 25, index, segment, None if segment == NOT_EDITED else MATRIX)


def through(stream: LipsyncStream, segments: list[int], start: int = 0) -> list[FrameOut]:
    done = [out for index, segment in enumerate(segments, start) for out in stream.push(frame_in(index, segment))]
    return done + stream.flush()


def same(first: list[FrameOut], second: list[FrameOut], atol: float = 0) -> bool:
    pairs = zip(first, second, strict=True)
    return all(np.abs(a.frame.astype(int) - b.frame.astype(int)).max() <= atol for a, b in pairs)


@pytest.mark.slow
@settings(max_examples=25, deadline=None)
@given(
    st.lists(st.tuples(st.integers(-1, 2), st.integers(1, 9)), min_size=1, max_size=5),
    st.integers(1, 2),
    st.integers(0, 2),
    st.integers(1, 3),
)
def test_every_frame_comes_out_once_in_order(
    runs: list[tuple[int, int]], stride: int, overlap: int, windows: int
) -> None:
    segments = [segment for segment, length in runs for _ in range(length)]
    done = through(make_stream(MODELS, stride, overlap, windows), segments)
    assert len(done) == len(segments)
    for index, (segment, out) in enumerate(zip(segments, done, strict=True)):
        before = scene(index)
        assert out.edited == (segment != NOT_EDITED)
        assert np.array_equal(out.frame[:, :16], before[:, :16])  # away from the face
        assert np.array_equal(out.frame, before) == (segment == NOT_EDITED)


MODELS = tiny_models()


def test_windows_do_not_depend_on_how_many_are_sampled_together(models: LipsyncModels) -> None:
    segments = [1] * 13
    one, three = (through(make_stream(models, windows=count), segments) for count in (1, 3))
    assert same(one, three, atol=1)


def test_a_stream_that_begins_at_a_window_gives_the_same_frames(models: LipsyncModels) -> None:
    whole = through(make_stream(models), [1] * 12)
    assert same(whole[8:], through(make_stream(models), [1] * 4, start=8))


def test_with_an_overlap_one_window_earlier_is_early_enough(models: LipsyncModels) -> None:
    whole = through(make_stream(models, overlap=1), [1] * 13)
    fresh = NUM_FRAMES - 1
    assert same(whole[2 * fresh :], through(make_stream(models, overlap=1), [1] * (13 - fresh), start=fresh)[fresh:])


def test_at_50_frames_a_second_every_other_frame_is_a_window(models: LipsyncModels) -> None:
    """Two interleaved halves at 25 a second each give what a stream at 25 a second gives of each."""

    def at_50(index: int) -> FrameIn:
        return FrameIn(RgbPicture(scene(index)), index / 50, index, 1, MATRIX)

    stream = make_stream(models, stride=2)
    done = [out for index in range(8) for out in stream.push(at_50(index))] + stream.flush()
    for phase in (0, 1):
        single = make_stream(models)
        alone = [out for index in range(phase, 8, 2) for out in single.push(at_50(index))] + single.flush()
        assert same(done[phase::2], alone)


class SpoiledSampler(WindowSampler):
    """Returns rejected faces for the second window."""

    calls = 0

    def _sample_all(self, windows, on_step):  # type: ignore[no-untyped-def]
        results = super()._sample_all(windows, on_step)
        self.calls += 1
        return [replace(r, rejection="not a number") for r in results] if self.calls == 2 else results


def test_frames_with_rejected_faces_are_passed_through(models: LipsyncModels) -> None:
    sampler = SpoiledSampler(models, FAST, Stopwatch(), MemoryPlan(1, 4))
    done = through(make_stream(models, sampler=sampler), [1] * 9)
    assert [out.passed for out in done] == [None] * 4 + ["unusable result (not a number)"] * 4 + [None]
    assert all(np.array_equal(done[index].frame, scene(index)) for index in range(4, 8))


def test_rejected_windows_are_retried_in_float32_and_marked(models: LipsyncModels) -> None:
    half = replace(models, unet=tiny_models().unet.bfloat16(), vae=tiny_models().vae.bfloat16(), dtype=torch.bfloat16)
    sampler = SpoiledSampler(half, FAST, Stopwatch(), MemoryPlan(1, 4))
    sampler.calls = 1
    faces = np.stack([scene(0)[:RESOLUTION, :RESOLUTION]] * NUM_FRAMES)
    (result,) = sampler.sample([Window(faces, torch.randn(NUM_FRAMES, 20, WIDTH))])
    assert (result.rejection, result.retried) == (None, True)
    assert half.unet.conv_in.weight.dtype == torch.bfloat16


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("too much"),
        RuntimeError("MPS backend out of memory (MPS allocated: 17.90 GB, other allocations: 96.00 MB)."),
        RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
        RuntimeError("cuDNN error: CUDNN_STATUS_ALLOC_FAILED"),
    ],
    ids=["PyTorch", "MPS", "cuBLAS", "cuDNN"],
)
def test_running_out_of_memory_halves_the_batch(models: LipsyncModels, error: RuntimeError) -> None:
    class Small(WindowSampler):
        def _sample(self, windows, on_step):  # type: ignore[no-untyped-def]
            if len(windows) > 1:
                raise error
            return super()._sample(windows, on_step)

    small = Small(models, FAST, Stopwatch(), MemoryPlan(4, 4))
    segments = [1] * 16
    assert same(through(make_stream(models, sampler=small), segments), through(make_stream(models), segments))
    assert small.memory == MemoryPlan(1, 4)


def test_windows_share_their_noise(models: LipsyncModels) -> None:
    """The same faces and audio give the same lips in every window, and the same noise in shorter ones."""
    sampler = WindowSampler(models, InferenceSettings(steps=2), Stopwatch())
    faces = np.random.default_rng(0).integers(0, 256, (NUM_FRAMES, RESOLUTION, RESOLUTION, 3), dtype=np.uint8)
    window = Window(faces, torch.randn(NUM_FRAMES, 20, WIDTH))
    first, second = sampler.sample([window, window])
    assert torch.allclose(first.faces, second.faces, atol=1e-5)
    assert torch.equal(sampler.latents.noise[:, :, :1].expand_as(sampler.latents.noise), sampler.latents.noise)


def test_windows_of_different_lengths_are_sampled_as_each_alone(models: LipsyncModels) -> None:
    sampler = WindowSampler(models, InferenceSettings(steps=2), Stopwatch(), MemoryPlan(3, 4))
    faces = np.random.default_rng(0).integers(0, 256, (NUM_FRAMES, RESOLUTION, RESOLUTION, 3), dtype=np.uint8)
    audio = torch.randn(NUM_FRAMES, 20, WIDTH)
    windows = [Window(faces[:count], audio[:count]) for count in (NUM_FRAMES, NUM_FRAMES, 1, 2)]
    together = sampler.sample(windows)
    assert [len(new.faces) for new in together] == [NUM_FRAMES, NUM_FRAMES, 1, 2]
    for window, new in zip(windows, together, strict=True):
        assert torch.allclose(sampler.sample([window])[0].faces, new.faces, atol=1e-5)


def lips_of(models: LipsyncModels, last_window: LastWindow, frames: range, before: int = 0) -> torch.Tensor:
    """New faces [f, 3, r, r] of `frames`, in a segment that begins with frame `before`."""
    sampler = WindowSampler(models, replace(FAST, last_window=last_window), Stopwatch(), MemoryPlan(1, 4))
    stream = make_stream(models, sampler=sampler)
    done = [each for index in range(before, frames.stop) for each in stream.repaint(frame_in(index, 1))]
    faces = [each.new.faces for each in [*done, *stream.rest()] if each.new is not None]
    return torch.cat(faces[frames.start - before :])


@pytest.mark.parametrize("left_over", range(1, NUM_FRAMES))
def test_leftover_frames_are_sampled_with_earlier_ones_or_alone(models: LipsyncModels, left_over: int) -> None:
    last = range(NUM_FRAMES, NUM_FRAMES + left_over)
    shifted, alone = (lips_of(models, way, last) for way in ("shift", "shorten"))
    assert torch.equal(shifted, lips_of(models, "shift", last, before=left_over))  # one full window that ends there
    assert torch.equal(alone, lips_of(models, "shorten", last, before=NUM_FRAMES))
