"""Windows of audio features for the networks. For lips that open less or more, features are drawn to silence, or away from it.

They are moved along the line from those of silence at the same place: silence + share (audio - silence). A share of 1 leaves them
as they are, with 0 the mouth rests; between and beyond the lips open less or more. This works with any weights, and costs some
more encodings of the audio.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from latentsync.audio.speech_activity import FRAMES_PER_SEC, HOP, at_times, speech_weights
from latentsync.audio.whisper_features import FeatureTrack, SilenceTrack
from latentsync.inference.settings import InferenceSettings, keyframes

BELOW, ABOVE = 0.75, 2.0  # power below 1, slope above, see `share_of_audio`


class AudioWindows(Protocol):
    """What the networks get of the audio."""

    def windows(self, frames: Sequence[int], fps: float) -> Tensor:
        """Windows of features around frames at `fps`, f s d."""


@dataclass(frozen=True)
class StrengthenedAudio:
    """Windows of `features`, drawn to those of `silence`."""

    features: FeatureTrack
    silence: SilenceTrack
    share: NDArray[np.float32]  # [n] of the audio, in frames of 10 ms: 1 is the audio itself, 0 silence

    def windows(self, frames: Sequence[int], fps: float) -> Tensor:
        """See `AudioWindows`."""
        audio, silent = (each.windows(frames, fps) for each in (self.features, self.silence))
        share = torch.from_numpy(at_times(self.share, np.array(frames) / fps)).to(audio)
        return torch.lerp(silent, audio, share[:, None, None])


def audio_windows(features: FeatureTrack, waveform: NDArray[np.floating], settings: InferenceSettings) -> AudioWindows:
    """The features of a waveform, float [n] at 16 kHz, as strong as the settings `strength` and `silence` say."""
    strength = strength_at(settings.strength, len(waveform) // HOP + 1)
    if settings.silence == "close":
        strength = strength * speech_weights(waveform)
    share = share_of_audio(strength)
    return features if (share == 1).all() else StrengthenedAudio(features, features.silence(), share)


def strength_at(strength: float | str, count: int) -> NDArray[np.float32]:
    """The strength in each of `count` frames of 10 ms."""
    times, values = zip(*keyframes(strength), strict=True)
    return np.interp(np.arange(count) / FRAMES_PER_SEC, times, values).astype(np.float32)


def share_of_audio(strength: NDArray[np.float32]) -> NDArray[np.float32]:
    """The share of the audio with which lips open `strength` times as far as with the audio itself.

    Fitted to measurements, see docs/inference.md: a share of 0.6 gives about half of the opening, one of 2 about 1.3 times as much.
    """
    return np.where(strength < 1, strength**BELOW, 1 + ABOVE * (strength - 1)).astype(np.float32)
