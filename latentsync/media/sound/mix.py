"""The sum of several sounds, each at its time, block by block, as quiet as needed not to clip.

Tensor legend: c channels, n samples; audio is float32 [-1, 1] `c n`. Positions are in samples of the sum.
"""

from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from latentsync.media.sound.splice import edge_gain

BLOCK = 1 << 16  # samples added at once


@dataclass(frozen=True)
class Placed:
    """Sound that plays from the sample `start` to `stop`, with a short fade at both ends; silence where it ends before."""

    start: int
    stop: int
    chunks: Callable[[], Generator[np.ndarray, None, None]]  # opens the sound and reads it from its start on, `c n`
    fade: int  # samples


def summed(sounds: Sequence[Placed], channels: int) -> Iterator[np.ndarray]:
    """The sum of sounds in blocks `c n`, up to the end of the last one.

    If it exceeds full scale anywhere, all of it is quieter by the same factor. The sounds are read twice.
    """
    peak = max((float(np.abs(block).max(initial=0)) for block in _added(sounds, channels)), default=0.0)
    gain = np.float32(1 / max(1.0, peak))
    return (block * gain for block in _added(sounds, channels))


def _added(sounds: Sequence[Placed], channels: int) -> Iterator[np.ndarray]:
    players = [_Player(sound, channels) for sound in sounds]
    stop = max((sound.stop for sound in sounds), default=0)
    for place in range(0, stop, BLOCK):
        block = np.zeros((channels, min(BLOCK, stop - place)), np.float32)
        for player in players:
            player.add_to(block, place)
        yield block


class _Player:
    """Plays a sound piece by piece; its file is open from its first piece to its last."""

    def __init__(self, sound: Placed, channels: int):
        self.sound, self.chunks = sound, sound.chunks()
        self.rest = np.zeros((channels, 0), np.float32)  # read, and not played yet

    def add_to(self, block: np.ndarray, place: int) -> None:
        """Add the part of the sound that plays in `block` `c n`, which begins at `place`, in place."""
        start, stop = max(self.sound.start, place), min(self.sound.stop, place + block.shape[1])
        if start < stop:
            gain = edge_gain(np.arange(start, stop), self.sound.start, self.sound.stop, self.sound.fade)
            played = self._next(stop - start)
            block[:, start - place : start - place + played.shape[1]] += played * gain[: played.shape[1]]
            if stop == self.sound.stop:
                self.chunks.close()

    def _next(self, count: int) -> np.ndarray:
        """The next `count` samples; fewer at the end of the sound."""
        pieces, missing = [self.rest], count - self.rest.shape[1]
        while missing > 0 and (chunk := next(self.chunks, None)) is not None:
            pieces.append(chunk)
            missing -= chunk.shape[1]
        samples = np.concatenate(pieces, axis=1)
        self.rest = samples[:, count:]
        return samples[:, :count]
