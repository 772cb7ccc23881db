"""Training the demo's speech encoder: Whisper's architecture, trained on the phonemes of the avatars' speech.

Two losses: `phoneme`, the cross-entropy of the phoneme of every 20 ms row, predicted from the last hidden state; `mouth`, the
mean squared error of the mouth's controls, predicted linearly from the mean over the window of rows and layers that the
U-Net attends to.
"""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import Dataset
from whisper.model import AudioEncoder

from latentsync.audio.whisper_features import encode_log_mel
from latentsync.audio.whisper_mel import whisper_log_mel
from latentsync.audio.windows import window_rows
from latentsync.avatar.mouth import TARGETS, mouth_track, targets_of
from latentsync.avatar.sound.sentences import random_sentence
from latentsync.avatar.sound.speech import Speech, random_voice, speak
from latentsync.timebase import MODEL_FPS, WHISPER_HOP, WHISPER_ROW_HZ, frames_in
from latentsync.training.engine.loop import Losses

CONTROLS = ("aperture", "width", "teeth", "tongue", "tuck")
CLASSES = {targets: index for index, targets in enumerate(dict.fromkeys(TARGETS.values()))}
IGNORED = -100  # label of padding rows


@dataclass(frozen=True)
class SpeechSample:
    """One utterance: `mel` [80, 2 * rows], phoneme `labels` [rows] and mouth `controls` [frames, 5]."""

    mel: Tensor
    labels: Tensor
    controls: Tensor


class SpeechEncoderWithHeads(nn.Module):
    """The encoder and a linear head for each loss; the heads are dropped after training."""

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
        """Hidden states [rows, layers + 1, width] of one utterance -> controls [frames, 5], each from its frame's window."""
        frames = len(states) * MODEL_FPS // WHISPER_ROW_HZ
        rows = window_rows(range(frames), len(states)).to(states.device)
        return self.mouth_head(states.mean(1)[rows].mean(1))


def speech_sample(rng: np.random.Generator, max_rows: int) -> SpeechSample:
    """A random utterance of at most `max_rows` rows; in half of the cases it starts at a random frame of the first half."""
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
    """Phoneme classes of the 20 ms rows, int64 [rows]."""
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


class SpeechItems(Dataset[dict[str, Tensor]]):
    """Item n: an utterance drawn from (seed, n), padded to `max_rows` rows; `rows` is its length before padding."""

    def __init__(self, max_rows: int, seed: int):
        self.max_rows, self.seed = max_rows, seed

    def __getitem__(self, position: int) -> dict[str, Tensor]:
        sample = speech_sample(np.random.default_rng((self.seed, position)), self.max_rows)
        missing = self.max_rows - len(sample.labels)
        return {
            "mel": F.pad(sample.mel, (0, 2 * self.max_rows - sample.mel.shape[-1])),
            "labels": F.pad(sample.labels, (0, missing), value=IGNORED),
            "controls": F.pad(sample.controls, (0, 0, 0, missing // 2)),
            "rows": torch.tensor(len(sample.labels)),
        }


class WhisperObjective(nn.Module):
    """The losses `phoneme` and `mouth` of a batch of utterances."""

    def __init__(self, model: SpeechEncoderWithHeads):
        super().__init__()
        self.model = model

    def forward(self, batch: dict[str, Tensor], positions: Tensor) -> Losses:
        logits, states = self.model(batch["mel"])
        mouth = [
            F.mse_loss(self.model.mouth(each[:rows]), controls[: rows // 2])
            for each, controls, rows in zip(states, batch["controls"], batch["rows"].tolist(), strict=True)
        ]  # windows do not reach into the padding, as at inference
        phoneme = F.cross_entropy(logits.flatten(0, 1), batch["labels"].flatten(), ignore_index=IGNORED)
        return {"phoneme": phoneme, "mouth": torch.stack(mouth).mean()}
