"""What the network hears of the audio. For lips that open less or more it is drawn to silence, or away from it.

The features of the audio are moved along the line from those of silence at the same place: silence + share (audio - silence). At a
share of 1 the network hears the audio, at 0 silence, so that the mouth rests; between and beyond the lips open less or more.
This needs no other weights, and no more than the encoding of silence.
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
from latentsync.inference.strength import share_of_audio, strength_at


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
        heard, silent = (each.windows(frames, fps) for each in (self.features, self.silence))
        share = torch.from_numpy(at_times(self.share, np.array(frames) / fps)).to(heard)
        return torch.lerp(silent, heard, share[:, None, None])


def audio_windows(features: FeatureTrack, waveform: NDArray[np.floating], settings: InferenceSettings) -> AudioWindows:
    """The features of a waveform, float [n] at 16 kHz, as strong as the settings `strength` and `silence` say."""
    strength = strength_at(settings.strength, len(waveform) // HOP + 1)
    if settings.silence == "close":
        strength = strength * speech_weights(waveform)
    share = share_of_audio(strength)
    return features if (share == 1).all() else StrengthenedAudio(features, features.silence(), share)
