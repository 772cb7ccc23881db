"""What the network hears of the audio. For lips that open less or more it is drawn to silence, or away from it.

The features of the audio are moved along the line from those of silence at the same place: silence + strength (audio - silence).
At 1 the network hears the audio, at 0 silence, so that the mouth rests; between and beyond the lips open less or more. This
needs no other weights, and no more than the encoding of silence.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from latentsync.audio.speech_activity import HOP, at_times, speech_weights
from latentsync.audio.whisper_features import FeatureTrack, SilenceTrack
from latentsync.inference.settings import InferenceSettings
from latentsync.inference.strength import strength_at


class AudioWindows(Protocol):
    """What the networks get of the audio."""

    def windows(self, frames: Sequence[int], fps: float) -> Tensor:
        """Windows of features around frames at `fps`, f s d."""


@dataclass(frozen=True)
class StrengthenedAudio:
    """Windows of `features`, drawn to those of `silence` by a strength of every 10 ms."""

    features: FeatureTrack
    silence: SilenceTrack
    strength: NDArray[np.float32]  # [n] of frames of 10 ms

    def windows(self, frames: Sequence[int], fps: float) -> Tensor:
        """See `AudioWindows`."""
        heard, silent = (each.windows(frames, fps) for each in (self.features, self.silence))
        strength = torch.from_numpy(at_times(self.strength, np.array(frames) / fps)).to(heard)
        return torch.lerp(silent, heard, strength[:, None, None])


def audio_windows(features: FeatureTrack, waveform: NDArray[np.floating], settings: InferenceSettings) -> AudioWindows:
    """The features of a waveform, float [n] at 16 kHz, as strong as the settings `strength` and `silence` say."""
    strength = strength_at(settings.strength, len(waveform) // HOP + 1)
    if settings.silence == "close":
        strength = strength * speech_weights(waveform)
    return features if (strength == 1).all() else StrengthenedAudio(features, features.silence(), strength)
