"""Training the demo's speech encoder: Whisper's architecture, taught on the avatars' phonemes.

Two losses: `phoneme`, cross-entropy of every 20 ms row's phoneme from the last hidden state; `mouth`, the squared error of
the mouth's controls read linearly from the mean of the very window of rows and layers that the U-Net attends to.
"""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from whisper.model import AudioEncoder

from latentsync.audio.log_mel import whisper_log_mel
from latentsync.audio.whisper_features import encode_log_mel
from latentsync.audio.windows import window_rows
from latentsync.avatar.mouth import TARGETS, mouth_track, targets_of
from latentsync.avatar.sentences import random_sentence
from latentsync.avatar.speech import Speech, random_voice, speak
from latentsync.timebase import MODEL_FPS, WHISPER_HOP, WHISPER_ROW_HZ, frames_in
from latentsync.training.loop import Losses

CONTROLS = ("aperture", "width", "teeth", "tongue", "tuck")
CLASSES = {targets: index for index, targets in enumerate(dict.fromkeys(TARGETS.values()))}
IGNORED = -100  # label of rows without speech that counts


@dataclass(frozen=True)
class SpeechSample:
    """One utterance as the encoder sees it: `mel` [80, 2 * rows], labels [rows], controls [frames, 5]."""

    mel: Tensor
    labels: Tensor
    controls: Tensor


class SpeechEncoderWithHeads(nn.Module):
    """The encoder and the two linear heads that teach it; only the encoder is kept."""

    def __init__(self, encoder: AudioEncoder):
        super().__init__()
        self.encoder = encoder
        width = encoder.conv1.out_channels
        self.phoneme_head = nn.Linear(width, len(CLASSES))
        self.mouth_head = nn.Linear(width, len(CONTROLS))

    def forward(self, mel: Tensor) -> tuple[Tensor, Tensor]:
        """mel [b, 80, t] -> phoneme logits [b, rows, classes] and hidden states [b, rows, layers + 1, width]."""
        states = encode_log_mel(self.encoder, mel)
        return self.phoneme_head(states[:, :, -1]), states

    def mouth(self, states: Tensor) -> Tensor:
        """Hidden states [rows, d, w] of one utterance -> controls [frames, 5] from every frame's window."""
        frames = len(states) * MODEL_FPS // WHISPER_ROW_HZ
        rows = window_rows(range(frames), len(states)).to(states.device)
        return self.mouth_head(states.mean(1)[rows].mean(1))


def speech_sample(rng: np.random.Generator, max_rows: int) -> SpeechSample:
    """Draw an utterance, cut to at most `max_rows` rows, starting anywhere in it half of the time."""
    speech = speak(random_sentence(rng, held_out=False), random_voice(rng))
    frames = frames_in(speech.duration_sec)
    track = mouth_track(speech.phonemes, frames)
    controls = np.stack([getattr(track, name) for name in CONTROLS], axis=1)
    gain = 10 ** rng.uniform(-1.0, 0.2)
    noise = rng.standard_normal(len(speech.waveform)) * 10 ** rng.uniform(-5, -2.5)
    waveform = np.clip(gain * speech.waveform + noise, -1, 1).astype(np.float32)
    start = int(rng.integers(0, frames // 2)) if rng.random() < 0.5 else 0  # in video frames
    return _cut(waveform, row_labels(speech, 2 * frames), controls, start, min(frames - start, max_rows // 2))


def row_labels(speech: Speech, rows: int) -> np.ndarray:
    """Phoneme class of every 20 ms row, [rows] int64."""
    labels = np.full(rows, CLASSES[TARGETS["_"]])
    for phoneme in speech.phonemes:
        first, last = round(phoneme.start_sec * WHISPER_ROW_HZ), round(phoneme.end_sec * WHISPER_ROW_HZ)
        labels[first:last] = CLASSES[targets_of(phoneme.symbol)]
    return labels


def _cut(waveform: np.ndarray, labels: np.ndarray, controls: np.ndarray, start: int, frames: int) -> SpeechSample:
    rows = slice(2 * start, 2 * (start + frames))
    samples = slice(rows.start * 2 * WHISPER_HOP, rows.stop * 2 * WHISPER_HOP)
    piece = np.pad(waveform, (0, max(0, samples.stop - len(waveform))))[samples]
    return SpeechSample(
        whisper_log_mel(torch.from_numpy(piece)),
        torch.from_numpy(labels[rows]),
        torch.from_numpy(controls[start : start + frames]),
    )


class WhisperStep:
    """A step function: draws a batch of utterances from (seed, step), returns the two losses."""

    def __init__(self, model: SpeechEncoderWithHeads, batch_size: int, seed: int):
        self.model, self.batch_size, self.seed = model, batch_size, seed
        self.max_rows = len(model.encoder.positional_embedding)

    def __call__(self, step: int) -> Losses:
        rng = np.random.default_rng((self.seed, step))
        samples = [speech_sample(rng, self.max_rows) for _ in range(self.batch_size)]
        longest = 2 * self.max_rows
        mel = torch.stack([F.pad(s.mel, (0, longest - s.mel.shape[-1])) for s in samples])
        labels = torch.stack([F.pad(s.labels, (0, self.max_rows - len(s.labels)), value=IGNORED) for s in samples])
        logits, states = self.model(mel)
        mouth = [
            F.mse_loss(self.model.mouth(states[i, : len(s.labels)]), s.controls) for i, s in enumerate(samples)
        ]  # windows end where the utterance ends, as they do at inference
        phoneme = F.cross_entropy(logits.flatten(0, 1), labels.flatten(), ignore_index=IGNORED)
        return {"phoneme": phoneme, "mouth": torch.stack(mouth).mean()}
