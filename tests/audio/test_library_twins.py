"""What was written anew to start faster gives the numbers of the libraries that it replaces."""

import numpy as np
import pytest
import torch
import whisper.model
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy import ndimage, signal

from latentsync.audio.peaks import find_peaks, moving_average, spread
from latentsync.audio.whisper_encoder import AudioEncoder
from latentsync.audio.whisper_features import encode_log_mel

REACH = 6
curves = st.lists(st.integers(-4, 4), min_size=1, max_size=60).map(lambda values: np.array(values, np.float32) / 2)


@given(curves, st.sampled_from([-1.0, 0.5]), st.sampled_from([0.5, 1.0, 2.0]), st.sampled_from([1, 2, 4]))
def test_peaks_are_scipys(curve: NDArray[np.float32], height: float, prominence: float, width: int) -> None:
    window = 2 * REACH + 1
    wanted, _ = signal.find_peaks(
        curve, height, plateau_size=(1, REACH), prominence=prominence, width=width, wlen=window
    )
    np.testing.assert_array_equal(find_peaks(curve, height, prominence, width, REACH), wanted)


@pytest.mark.parametrize("width", [1, 12])
def test_peaks_of_a_long_curve_are_scipys(width: int) -> None:
    curve = np.cumsum(np.random.default_rng(3).normal(size=20_000)).astype(np.float32)
    wanted, _ = signal.find_peaks(curve, -20, plateau_size=(1, 50), prominence=6, width=width, wlen=101)
    assert len(wanted) > 100
    np.testing.assert_array_equal(find_peaks(curve, -20, 6, width, 50), wanted)


@given(st.lists(st.booleans(), min_size=1, max_size=30), st.integers(1, 6))
def test_spread_is_scipys(values: list[bool], samples: int) -> None:
    marks = np.array(values)
    np.testing.assert_array_equal(spread(marks, samples), ndimage.binary_dilation(marks, iterations=samples))


@pytest.mark.parametrize("length", [1, 2, 3, 5, 400])
def test_moving_average_is_scipys_to_the_bit(length: int) -> None:
    rows = np.random.default_rng(length).lognormal(sigma=6, size=(length, 3))
    np.testing.assert_array_equal(moving_average(rows, 5), ndimage.uniform_filter1d(rows, 5, axis=0))


def test_the_speech_encoder_is_whispers_to_the_bit() -> None:
    sizes = (80, 50, 32, 4, 2)
    torch.manual_seed(1)
    reference = whisper.model.AudioEncoder(*sizes).eval()
    own = AudioEncoder(*sizes).eval()
    torch.testing.assert_close(own.positional_embedding, reference.positional_embedding)
    assert list(own.state_dict()) == list(reference.state_dict())
    own.load_state_dict(reference.state_dict())
    mel = torch.randn(2, 80, 100)
    with torch.no_grad():
        hidden = encode_log_mel(own, mel)
        assert torch.equal(hidden, encode_log_mel(reference, mel))
        assert torch.equal(own.ln_post(hidden[:, :, -1]), reference(mel))
