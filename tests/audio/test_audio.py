"""Audio: spectrograms, Whisper features of audio of any length, windows around frames."""

from fractions import Fraction
from importlib.resources import files
from itertools import combinations

import numpy as np
import pytest
import torch
from whisper.model import AudioEncoder

from latentsync.audio import spectrum
from latentsync.audio.spectrum import mel_filters
from latentsync.audio.sync_mel import sync_mel, sync_mel_window
from latentsync.audio.whisper_features import WhisperFeatures, encode_log_mel
from latentsync.audio.whisper_mel import whisper_log_mel
from latentsync.audio.windows import audio_windows, window_rows
from latentsync.timebase import SAMPLE_RATE_HZ, SYNC_MEL_HOP, frames_in, sync_mel_length
from tests.golden.harness import fill_by_rule

N_CTX = 60  # rows: 1.2 s a segment
LAYERS, WIDTH = 2, 16


@pytest.fixture(scope="module")
def encoder() -> AudioEncoder:
    torch.manual_seed(0)
    return AudioEncoder(80, N_CTX, WIDTH, 2, LAYERS).eval()


def noise(seconds: float) -> np.ndarray:
    rng = np.random.default_rng(1)
    return (0.1 * rng.standard_normal(round(seconds * SAMPLE_RATE_HZ))).astype(np.float32)


def test_sync_mel_is_in_range_and_has_a_column_every_200_samples():
    mel = sync_mel(noise(1.03))
    assert mel.shape == (80, 1 + round(1.03 * SAMPLE_RATE_HZ) // SYNC_MEL_HOP)
    assert mel.dtype == torch.float32 and mel.abs().max() <= 4.0


def test_a_tone_is_loudest_in_the_band_around_it():
    t = torch.arange(SAMPLE_RATE_HZ) / SAMPLE_RATE_HZ
    filters = mel_filters(80, 800, SAMPLE_RATE_HZ, 55.0, 7600.0)
    for hz in (300, 1000, 3000):
        loudest = sync_mel(0.5 * torch.sin(2 * torch.pi * hz * t))[:, 40].argmax()
        assert loudest == filters[:, hz // 20].argmax()  # bins are 20 Hz apart


@pytest.mark.parametrize("function", [sync_mel, whisper_log_mel])
def test_spectrograms_do_not_change_where_memory_blocks_meet(function, monkeypatch):
    wave = noise(1.0)
    whole = function(wave)
    monkeypatch.setattr(spectrum, "FRAMES_PER_BLOCK", 7)
    torch.testing.assert_close(function(wave), whole)


def test_mel_windows_have_the_length_of_their_frames_until_the_audio_ends():
    mel = sync_mel(noise(2.0))
    assert sync_mel_window(mel, 5, 16).shape == (80, sync_mel_length(16))
    assert sync_mel_window(mel, 45, 16).shape[1] < sync_mel_length(16)
    with pytest.raises(ValueError, match="first frame is 0"):
        sync_mel_window(mel, -1, 16)


def test_whisper_filters_equal_the_ones_of_the_public_package():
    with np.load(str(files("whisper") / "assets" / "mel_filters.npz")) as stored:
        public = {n: stored[f"mel_{n}"] for n in (80, 128)}
    for num_mels, want in public.items():
        np.testing.assert_allclose(mel_filters(num_mels, 400, SAMPLE_RATE_HZ, 0.0, 8000.0), want, atol=1e-8)


@pytest.mark.parametrize("function", [sync_mel, whisper_log_mel])
@pytest.mark.parametrize("wave", [np.zeros(0, np.float32), np.zeros((2, 4000), np.float32)])
def test_empty_or_stereo_audio_is_refused(function, wave):
    with pytest.raises(ValueError, match="mono samples"):
        function(wave)


def test_the_last_hidden_state_gives_the_output_of_the_encoder(encoder):
    mel = torch.randn(3, 80, 2 * N_CTX)
    states = encode_log_mel(encoder, mel)
    assert states.shape == (3, N_CTX, LAYERS + 1, WIDTH)
    torch.testing.assert_close(encoder.ln_post(states[:, :, -1]), encoder(mel))


def test_encoder_can_be_trained_on_short_segments_and_refuses_long_ones(encoder):
    states = encode_log_mel(encoder, torch.randn(2, 80, 41))
    assert states.shape == (2, 20, LAYERS + 1, WIDTH)
    (gradient,) = torch.autograd.grad(states.square().mean(), [encoder.conv1.weight])
    assert gradient.abs().max() > 0
    with pytest.raises(ValueError, match="does not fit"):
        encode_log_mel(encoder, torch.zeros(1, 80, 2 * N_CTX + 1))


def test_audio_of_one_segment_is_the_same_in_both_modes(encoder):
    wave = noise(N_CTX / 50)
    reference = WhisperFeatures(encoder, segments="reference").features(wave)
    assert torch.equal(WhisperFeatures(encoder).features(wave), reference)


@pytest.mark.parametrize("num_rows", [1, N_CTX - 1, N_CTX, N_CTX + 1, 100, 108, 109, 200, 333])
def test_segment_weights_add_up_to_one_in_every_row(encoder, num_rows):
    plan = WhisperFeatures(encoder).plan
    total = torch.zeros(num_rows)
    for segment in range(plan.count(num_rows)):
        first, end = plan.span(segment, num_rows)
        assert first >= segment * plan.hop and end <= segment * plan.hop + plan.length
        total[first:end] += plan.share(segment, torch.arange(first, end), num_rows)
    torch.testing.assert_close(total, torch.ones(num_rows))


def test_features_are_continuous_at_segment_borders():
    torch.manual_seed(0)
    encoder = AudioEncoder(80, 300, WIDTH, 2, LAYERS).eval()
    silence = np.zeros(15 * SAMPLE_RATE_HZ, np.float32)

    def steps(segments) -> torch.Tensor:
        """Change of every hidden state from row to row, away from the ends of the audio."""
        features = WhisperFeatures(encoder, segments=segments).features(silence)[3:-3]
        return features.diff(dim=0).norm(dim=2)

    inside = steps("overlap")[:200].max(dim=0).values  # rows of the first segment alone
    assert (steps("overlap").max(dim=0).values < 1.3 * inside).all()
    assert (steps("reference").max(dim=0).values > 2.0 * inside).all()


def chirp(seconds: float) -> np.ndarray:
    """A tone with changing pitch and amplitude, with a little noise."""
    t = np.arange(int(seconds * SAMPLE_RATE_HZ)) / SAMPLE_RATE_HZ
    tone = np.sin(2 * np.pi * (110 * t + 20 * np.sin(2 * np.pi * 0.7 * t))) * (0.6 + 0.4 * np.sin(2 * np.pi * 2.1 * t))
    return (0.4 * tone + 0.05 * np.random.default_rng(1).standard_normal(len(t))).astype(np.float32)


def test_features_of_95_seconds_are_those_of_shifted_crops():
    """Rows depend on where a crop starts (positions are absolute); the whole track differs no more from crops than crops do."""
    encoder = AudioEncoder(80, 1500, 32, 2, 2).eval()
    fill_by_rule(encoder, 1)
    features, wave = WhisperFeatures(encoder).features, chirp(95)
    whole = features(wave)
    for first, stop in ((33, 45), (58, 70)):  # seconds inside of all crops and of one segment of the whole
        starts = range(stop - 28, first - 1, 2)
        cuts = [features(wave[s * SAMPLE_RATE_HZ : (s + 30) * SAMPLE_RATE_HZ]) for s in starts]
        crops = [cut[(first - s) * 50 : (stop - s) * 50] for cut, s in zip(cuts, starts, strict=True)]
        among = max(float((a - b).abs().mean()) for a, b in combinations(crops, 2))
        assert max(float((whole[first * 50 : stop * 50] - crop).abs().mean()) for crop in crops) < 1.02 * among
    steps = whole.diff(dim=0).flatten(1).norm(dim=1)
    for second in (30, 60, 90):
        assert steps[second * 50 - 2 : second * 50 + 2].max() < steps.quantile(0.99)


def test_features_do_not_depend_on_the_batch_size_or_the_rows_read_at_once(encoder):
    wave = noise(5.1)
    want = WhisperFeatures(encoder, batch_size=1).features(wave)
    torch.testing.assert_close(WhisperFeatures(encoder, batch_size=16).features(wave), want, atol=1e-5, rtol=0)
    track = WhisperFeatures(encoder, batch_size=2).track(wave)
    assert track.num_rows == len(want) == 255
    pieces = [track.rows(start, min(start + 37, 255)) for start in range(0, 255, 37)]
    torch.testing.assert_close(torch.cat(pieces), want, atol=1e-5, rtol=0)
    frames = [126, 3, 127, 128, 60, 0]
    torch.testing.assert_close(track.windows(frames), audio_windows(want, frames), atol=1e-5, rtol=0)


def test_interior_features_do_not_depend_on_the_length_of_the_audio(encoder):
    wave = noise(5.0)
    wave[8000] = 1.0  # fixes the maximum, to which the spectrogram is clamped
    features = WhisperFeatures(encoder)
    short, long = features.features(wave[: 3 * SAMPLE_RATE_HZ]), features.features(wave)
    assert (short[:100] - long[:100]).abs().max() < 1e-4


def test_unknown_segment_mode_is_refused(encoder):
    with pytest.raises(ValueError, match="'overlap' or 'reference'"):
        WhisperFeatures(encoder, segments="none")


@pytest.mark.parametrize(
    ("samples", "fps", "frames"), [(16_000, 25, 25), (53_920, 25, 84), (16_000, 30, 30), (100, 25, 0)]
)
def test_number_of_frames_is_the_length_of_the_audio(samples, fps, frames):
    assert frames_in(Fraction(samples, SAMPLE_RATE_HZ), fps) == frames


def test_windows_are_defined_for_every_frame():
    rows = window_rows(range(0, 90), 168)
    assert rows.shape == (90, 10) and rows.min() == 0 and rows.max() == 167
    assert rows[10].tolist() == list(range(16, 26))
    features = torch.arange(168.0)[:, None, None].expand(168, 3, 4)
    windows = audio_windows(features, [10])
    assert windows.shape == (1, 30, 4)
    assert windows[0, :, 0].tolist() == [float(row) for row in range(16, 26) for _ in range(3)]
    with pytest.raises(ValueError, match="shorter than 20 ms"):
        audio_windows(features[:0], [0])
