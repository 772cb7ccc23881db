"""Golden cases of the audio room: the SyncNet mel spectrogram and the Whisper features."""

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from whisper.model import AudioEncoder

from latentsync.audio.spectrum import mel_filters
from latentsync.audio.sync_mel import FMAX_HZ, FMIN_HZ, N_FFT, NUM_MELS, sync_mel, sync_mel_window
from latentsync.audio.whisper_features import WhisperFeatures, encode_log_mel
from latentsync.audio.whisper_mel import whisper_log_mel
from latentsync.audio.windows import audio_windows, training_windows, window_rows
from latentsync.timebase import SAMPLE_RATE_HZ, sync_mel_length, whisper_centre_row
from tests.golden.harness import Check, GoldenCase, compare, compare_table, fill_by_rule, golden


def chirp(signal: dict[str, Any], num_samples: int) -> np.ndarray:
    """Unit sine whose frequency rises from f0 to f1 within `dur` seconds, float64."""
    t = np.arange(num_samples) / SAMPLE_RATE_HZ
    f0, f1, dur = (signal[key] for key in ("f0", "f1", "dur"))
    return np.sin(2 * np.pi * (f0 * t + 0.5 * (f1 - f0) / dur * t**2))


def mismatches(name: str, got: list[Any], want: list[Any]) -> Check:
    """Number of entries that differ (must be 0)."""
    wrong = sum(a != b for a, b in zip(got, want, strict=True))
    return Check(name, float(wrong), 0.0)


@golden("mel")
def mel_case(case: GoldenCase) -> Iterator[Check]:
    tolerance = case.facts["tolerance"]["max_abs"]
    signal = case.facts["signal"]
    noise = case.normal("mel_noise", [signal["n_samples"]])
    wave = (signal["amp"] * chirp(signal, len(noise))).astype(np.float32) + np.float32(0.01) * noise
    mel = sync_mel(wave)
    yield compare("spectrogram", mel, case.arrays["mel"], tolerance)
    yield compare("silence", sync_mel(np.zeros(8000, np.float32)), case.arrays["silence_mel"], tolerance)
    filters = mel_filters(NUM_MELS, N_FFT, SAMPLE_RATE_HZ, FMIN_HZ, FMAX_HZ)
    yield compare("filters", filters, case.arrays["mel_basis"], 1e-7)
    yield from overlap_checks(case, mel)
    yield from crop_checks(case, mel)


def overlap_checks(case: GoldenCase, mel: torch.Tensor) -> Iterator[Check]:
    """The reference's overlapping windows: 3 columns apart, the last few columns are never covered."""
    overlap = case.facts["overlap"]
    length = overlap["shape_each"][-1]
    firsts = [first for first in range(0, mel.shape[1], 3) if first + length < mel.shape[1] - 3]
    selected = torch.stack([mel[None, :, firsts[i] : firsts[i] + length] for i in overlap["selected"]])
    yield mismatches("number of overlapping windows", [len(firsts)], [overlap["count"]])
    yield compare("overlapping windows", selected, case.arrays["overlap_selected"], case.facts["tolerance"]["max_abs"])


def crop_checks(case: GoldenCase, mel: torch.Tensor) -> Iterator[Check]:
    for num_frames, facts in case.facts["crops"].items():
        got, want = [sync_mel_length(int(num_frames))], [facts["window_length"]]
        for start, crop in facts["starts"].items():
            window = sync_mel_window(mel, int(start), int(num_frames))
            first = crop["first_mel_column"]
            got += [[1, *window.shape], bool(torch.equal(window[:, :1], mel[:, first : first + 1]))]
            want += [crop["returned_shape"], True]
        yield mismatches(f"crops of {num_frames} frames", got, want)


def speech_like(case: GoldenCase, signal: dict[str, Any]) -> np.ndarray:
    """The recorded WAV's samples: an interrupted chirp with noise, rounded to 16 bit, float32 in [-1, 1)."""
    noise = case.normal(signal["noise_rule_name"], [signal["n"]]).astype(np.float64)
    t = np.arange(signal["n"]) / SAMPLE_RATE_HZ
    envelope = np.where(np.floor(t / 0.7) % 3 == 2, 0.0, 1.0) * (0.6 + 0.4 * np.sin(2 * np.pi * 0.31 * t))
    wave = signal["amp"] * envelope * chirp(signal, signal["n"]) + 0.003 * noise
    return (np.rint(32767 * np.clip(wave, -1, 1)) / 32768).astype(np.float32)


def reference_chunk_count(num_rows: int, fps: float) -> int:
    """Number of frames the reference makes: it goes on until a centre row lies beyond the last row."""
    frame = 0
    while whisper_centre_row(frame, fps) <= num_rows:
        frame += 1
    return frame + 1


@golden("whisper_features")
def whisper_features_case(case: GoldenCase) -> Iterator[Check]:
    dims = case.facts["dims"]
    names = ("n_mels", "n_audio_ctx", "n_audio_state", "n_audio_head", "n_audio_layer")
    encoder = AudioEncoder(*(dims[name] for name in names)).eval()
    fill_encoder_by_rule(encoder, case.seed)
    table = {k: v for k, v in case.facts["state_dict"].items() if k.startswith("encoder.")}
    yield compare_table("encoder", torch.nn.ModuleDict({"encoder": encoder}), table)
    yield from encoder_checks(case, encoder)
    for name, results in case.facts["results"].items():
        waveform = speech_like(case, case.facts["signals"][name])
        yield from log_mel_checks(case, name, results, whisper_log_mel(waveform, dims["n_mels"]))
        features = WhisperFeatures(encoder, segments="reference").features(waveform)
        yield from feature_checks(case, name, results, features)
        yield from window_checks(case, name, results, features)


def fill_encoder_by_rule(encoder: AudioEncoder, seed: int) -> None:
    """The recorded keys are those of the whole network, so the encoder's have a prefix."""
    fill_by_rule(torch.nn.ModuleDict({"encoder": encoder}), seed)


def encoder_checks(case: GoldenCase, encoder: AudioEncoder) -> Iterator[Check]:
    facts = case.facts["inputs"]["logmel_segment"]
    mel = case.tensor(facts["rule_name"], facts["shape"])
    rows, tolerance = facts["rows"], case.facts["tolerance"]["max_abs"]
    hidden = encode_log_mel(encoder, mel)[0, rows]
    yield compare("hidden states", hidden.transpose(0, 1), case.arrays["encoder_embeddings_rows"], tolerance)
    final = encoder.ln_post(hidden[:, -1])
    yield compare("normalised last state", final, case.arrays["encoder_final_rows"], tolerance)


def log_mel_checks(case: GoldenCase, name: str, results: dict, log_mel: torch.Tensor) -> Iterator[Check]:
    yield mismatches(f"{name} mel frames", [log_mel.shape[1]], [results["mel_frames"]])
    columns = results.get("stored_logmel_columns")
    key = f"{name}_logmel" if columns is None else f"{name}_logmel_columns"
    got = log_mel if columns is None else log_mel[:, columns]
    yield compare(f"{name} log-mel", got, case.arrays[key], case.facts["tolerance"]["logmel_max_abs"])


def feature_checks(case: GoldenCase, name: str, results: dict, features: torch.Tensor) -> Iterator[Check]:
    yield mismatches(f"{name} features shape", list(features.shape), results["features"])
    rows = results.get("stored_rows")
    key = f"{name}_features" if rows is None else f"{name}_feature_rows"
    got = features if rows is None else features[rows]
    yield compare(f"{name} features", got, case.arrays[key], case.facts["tolerance"]["max_abs"])


def window_checks(case: GoldenCase, name: str, results: dict, features: torch.Tensor) -> Iterator[Check]:
    tolerance = case.facts["tolerance"]["max_abs"]
    for key in (key for key in results if key.startswith("fps")):
        fps, facts = int(key[3:]), results[key]
        selected = facts["selected"]
        rows = window_rows(selected, len(features), fps).tolist()
        yield mismatches(f"{name} rows at {fps} fps", rows, list(facts["feature_rows_of_selected"].values()))
        yield mismatches(f"{name} count at {fps} fps", [reference_chunk_count(len(features), fps)], [facts["count"]])
        chunks = audio_windows(features, selected, fps)
        yield compare(f"{name} windows at {fps} fps", chunks, case.arrays[f"{name}_chunks_{key}"], tolerance)
    num_frames, stored = results["crop_full_shape"][0], results["crop_stored_frames"]
    crops = torch.stack([training_windows(features, start, num_frames)[stored] for start in results["crop_starts"]])
    yield compare(f"{name} training windows", crops, case.arrays[f"{name}_crop"], tolerance)
    yield from asymmetric_checks(case, name, results, features)


def asymmetric_checks(case: GoldenCase, name: str, results: dict, features: torch.Tensor) -> Iterator[Check]:
    """Keys say which context and frame: `asymmetric_<left>_<right>_frame<index>`."""
    for key in (key.removesuffix("_rows") for key in results if key.startswith("asymmetric")):
        _, left, right, frame = key.split("_")
        frames, context = [int(frame.removeprefix("frame"))], (int(left), int(right))
        window = audio_windows(features, frames, context=context)[0]
        yield compare(f"{name} {key}", window, case.arrays[f"{name}_{key}"], case.facts["tolerance"]["max_abs"])
        rows = window_rows(frames, len(features), context=context)[0].tolist()
        yield mismatches(f"{name} {key} rows", rows, results[f"{key}_rows"])
