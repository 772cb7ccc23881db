"""Hidden states of a Whisper encoder as audio features at 50 rows a second, for audio of any length.

b segments, t mel frames, s feature rows, d hidden states per row (layers + 1), w width of a hidden state.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from latentsync.audio.whisper_mel import DYNAMIC_RANGE, SCALE, whisper_log_mel
from latentsync.audio.windows import CONTEXT, window_rows
from latentsync.timebase import MODEL_FPS, whisper_centre_row

Segments = Literal["overlap", "reference"]

# In "overlap" mode neighbouring segments overlap by 3/15 of their length: 1/15 is trimmed from each, and the middle 1/15 is
# cross-faded. For the public encoders (30 s) that gives at least 2 s of context on both sides of a row and a fade of 2 s.
OVERLAP_PART = 15

PASSES, SILENT_BLOCK = (
    3,
    75,
)  # versions of a track with silence, and rows: two of three blocks of 1.5 s are silent in each


class AudioEncoder(Protocol):
    """The attributes of `whisper.model.AudioEncoder` that are used here."""

    conv1: nn.Conv1d
    conv2: nn.Conv1d
    positional_embedding: Tensor  # [n_ctx, w]
    blocks: nn.ModuleList


def encode_log_mel(encoder: AudioEncoder, mel: Tensor) -> Tensor:
    """Hidden states of a batch of segments; gradients reach the encoder unless the caller disables them.

    Args:
        encoder: `whisper.model.AudioEncoder` on the device and with the dtype of `mel`.
        mel: [b, mels, t] log-mel segments, t <= 2 * n_ctx; shorter ones are padded with zeros (in the log-mel domain).

    Returns:
        [b, t // 2, d, w]: the output of the convolutions plus positional embedding, then of every block; no final norm.

    Raises:
        ValueError: a segment is longer than the encoder's context.
    """
    positions = encoder.positional_embedding
    num_frames, max_frames = mel.shape[-1], 2 * len(positions)
    if num_frames > max_frames:
        raise ValueError(
            f"a segment of {num_frames} mel frames does not fit the encoder's context of {max_frames}; cut the audio "
            "into segments"
        )
    x = F.gelu(encoder.conv1(F.pad(mel, (0, max_frames - num_frames))))
    x = F.gelu(encoder.conv2(x)).transpose(1, 2)  # b s w, s = n_ctx
    states = [(x + positions).to(x.dtype)]
    for block in encoder.blocks:
        states.append(block(states[-1]))
    return torch.stack([state[:, : num_frames // 2] for state in states], dim=2)


@dataclass(frozen=True)
class SegmentPlan:
    """Which rows come from which segment: the encoder's input for segment k is rows k * hop ... k * hop + length - 1."""

    length: int
    margin: int  # rows trimmed on each side of a border
    fade: int  # rows in which two neighbouring segments are cross-faded

    @property
    def hop(self) -> int:
        return self.length - 2 * self.margin - self.fade

    def count(self, num_rows: int) -> int:
        return 1 + max(0, -(-(num_rows - self.length) // self.hop))

    def handover(self, segment: int) -> int:
        """First row with a weight above 0 for `segment`."""
        return segment * self.hop + self.margin if segment else 0

    def span(self, segment: int, num_rows: int) -> tuple[int, int]:
        """Rows [first, stop) with a weight above 0 for `segment`."""
        last = segment == self.count(num_rows) - 1
        return self.handover(segment), num_rows if last else self.handover(segment + 1) + self.fade

    def share(self, segment: int, rows: Tensor, num_rows: int) -> Tensor:
        """Weight in [0, 1] of `segment` in `rows` of its span; the weights of all segments add up to 1."""
        weight = torch.ones(len(rows))
        if segment > 0 and self.fade:
            weight = ((rows - self.handover(segment) + 0.5) / self.fade).clamp(0.0, 1.0)
        if segment < self.count(num_rows) - 1 and self.fade:
            weight = weight - ((rows - self.handover(segment + 1) + 0.5) / self.fade).clamp(0.0, 1.0)
        return weight


def segment_plan(n_ctx: int, segments: Segments) -> SegmentPlan:
    """Plan for an encoder of `n_ctx` rows: overlapping segments, or consecutive blocks ("reference").

    Raises:
        ValueError: the mode is unknown.
    """
    if segments == "reference":
        return SegmentPlan(n_ctx, margin=0, fade=0)
    if segments == "overlap":
        return SegmentPlan(n_ctx, margin=n_ctx // OVERLAP_PART, fade=n_ctx // OVERLAP_PART)
    raise ValueError(f"unknown segment mode {segments!r}; use 'overlap' or 'reference'")


class FeatureTrack:
    """Feature rows of one audio track, computed on demand in bounded memory."""

    def __init__(self, encoder: AudioEncoder, log_mel: Tensor, plan: SegmentPlan, batch_size: int) -> None:
        self.encoder = encoder
        self.log_mel = log_mel  # [mels, t]
        self.plan = plan
        self.batch_size = batch_size
        self.num_rows = log_mel.shape[1] // 2
        self._hidden: dict[int, Tensor] = {}  # segment -> [s, d, w]

    def silence(self) -> "SilenceTrack":
        """The features of silence at the places of this track, amid its sound."""
        return SilenceTrack(self)

    def rows(self, start: int, stop: int) -> Tensor:
        """Rows [stop - start, d, w] with 0 <= start < stop <= num_rows, on the encoder's device."""
        assert 0 <= start < stop <= self.num_rows
        out: Tensor | None = None
        for segment in range(self.plan.count(self.num_rows)):
            first, end = self.plan.span(segment, self.num_rows)
            first, end = max(first, start), min(end, stop)
            if first >= end:
                continue
            part = self._weighted(segment, first, end)
            out = part.new_zeros(stop - start, *part.shape[1:]) if out is None else out
            out[first - start : end - start] += part
        assert out is not None
        return out

    def windows(self, frames: Sequence[int], fps: float = MODEL_FPS, context: tuple[int, int] = CONTEXT) -> Tensor:
        """`audio_windows` of this track, [f, rows * d, w]; computes only the rows that are needed."""
        rows = window_rows(frames, self.num_rows, fps, context)
        first = int(rows.min())
        features = self.rows(first, int(rows.max()) + 1)
        return features[(rows - first).to(features.device)].flatten(1, 2)

    def _weighted(self, segment: int, first: int, end: int) -> Tensor:
        weight = self.plan.share(segment, torch.arange(first, end), self.num_rows)
        offset = segment * self.plan.hop
        hidden = self._segment(segment)[first - offset : end - offset]
        return hidden * weight.to(hidden)[:, None, None]

    def _segment(self, segment: int) -> Tensor:
        if segment not in self._hidden:
            batch = range(segment, min(segment + self.batch_size, self.plan.count(self.num_rows)))
            previous = {k: v for k, v in self._hidden.items() if k == segment - 1}
            self._hidden = previous | dict(zip(batch, self._encode(batch), strict=True))
        return self._hidden[segment]

    @torch.no_grad()
    def _encode(self, batch: range) -> Tensor:
        weight = self.encoder.conv1.weight
        width = 2 * self.plan.length
        starts = [2 * self.plan.hop * segment for segment in batch]
        cuts = [self.log_mel[:, start : start + width] for start in starts]
        # only the last segment is shorter; it is padded with zeros in the log-mel domain
        mel = torch.stack([F.pad(cut, (0, width - cut.shape[1])) for cut in cuts])
        return encode_log_mel(self.encoder, mel.to(weight))


class SilenceTrack:
    """The features that a track would have where it is silent.

    A row depends on its whole segment, and segments of nothing but silence do not occur in training. So each row is taken from one
    of `PASSES` versions of the track in which some seconds around the row are silent, and the sound before and after is as it was.
    """

    def __init__(self, track: FeatureTrack) -> None:
        lowest = track.log_mel.max() - DYNAMIC_RANGE / SCALE
        block = torch.arange(track.log_mel.shape[1]) // (SILENT_BLOCK * 2)  # a row is two mel frames
        silent = ((block - passing) % PASSES < PASSES - 1 for passing in range(PASSES))
        self.versions = [
            FeatureTrack(track.encoder, torch.where(mask, lowest, track.log_mel), track.plan, track.batch_size)
            for mask in silent
        ]

    def windows(self, frames: Sequence[int], fps: float = MODEL_FPS) -> Tensor:
        """As `FeatureTrack.windows`."""
        rows = torch.tensor([whisper_centre_row(frame, fps) for frame in frames])
        version = (rows - SILENT_BLOCK // 2).div(SILENT_BLOCK, rounding_mode="floor") % PASSES
        found = torch.stack([each.windows(frames, fps) for each in self.versions])
        return found[version, torch.arange(len(frames))]


class WhisperFeatures:
    """Hidden states of a Whisper encoder for waveforms.

    Audio is split into segments of the encoder's context (`n_ctx` rows: 1500, 30 s, for the public encoders). Audio of one
    segment gives the same rows in both modes. For longer audio, "overlap" (default) overlaps neighbouring segments by a fifth
    of their length, trims `n_ctx // 15` rows (2 s) on each side of every border and cross-fades the `n_ctx // 15` rows
    between, so that features are continuous; "reference" uses consecutive blocks without overlap, as the first public
    implementation does.
    """

    def __init__(self, encoder: AudioEncoder, segments: Segments = "overlap", batch_size: int = 4) -> None:
        """`encoder` is an `AudioEncoder` in evaluation mode on its device; `batch_size` segments are encoded at once.

        Raises:
            ValueError: the mode is unknown or the batch size is not positive.
        """
        if batch_size < 1:
            raise ValueError(f"batch_size is {batch_size}; it must be at least 1")
        self.encoder = encoder
        self.batch_size = batch_size
        self.plan = segment_plan(len(encoder.positional_embedding), segments)

    def track(self, waveform: Tensor | np.ndarray) -> FeatureTrack:
        """Feature rows of `waveform` [n] (16 kHz, [-1, 1]), computed on demand in bounded memory.

        Raises:
            ValueError: the waveform is not mono or shorter than 20 ms.
        """
        num_mels = self.encoder.conv1.in_channels
        return FeatureTrack(self.encoder, whisper_log_mel(waveform, num_mels), self.plan, self.batch_size)

    def features(self, waveform: Tensor | np.ndarray) -> Tensor:
        """All rows [n // 320, layers + 1, width] of `waveform` [n] (16 kHz, [-1, 1]), on the encoder's device.

        Raises:
            ValueError: the waveform is not mono or shorter than 20 ms.
        """
        track = self.track(waveform)
        return track.rows(0, track.num_rows)
