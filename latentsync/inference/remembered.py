"""What the auto-encoder said about frames of the source that are shown again: it is not asked twice.

A video that is played back and forth, in a loop or held shows the same aligned face at several times. Whatever is computed from
that face alone, frame by frame, is the same each time.
"""

from collections.abc import Callable, Hashable, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

REMEMBERED_BYTES = 1 << 28  # of all results: 5 minutes of 256 px at 25 frames a second, a good minute of 512 px


class Remembered:
    """Results for single frames, on the CPU, until they take up `limit_bytes`; the first ones stay.

    Those that came first are kept, and not the last ones, because a loop comes back to them first, and playing back and forth
    meets as many of the ones as of the others.
    """

    def __init__(self, order: NDArray[np.integer] | Sequence[int] = (), limit_bytes: int = REMEMBERED_BYTES):
        """`order` names the source frames that are going to be asked for; those that occur once are not kept."""
        frames, shows = np.unique(np.asarray(order, np.int64), return_counts=True)
        self.again = set(frames[shows > 1].tolist())
        self.left = limit_bytes
        self.results: dict[tuple[Hashable, int], Tensor] = {}

    def __call__(self, kind: Hashable, sources: Sequence[int], compute: Callable[[], Tensor]) -> Tensor:
        """Results [n, ...] of a kind for the frames `sources`, at most n: computed, or remembered if all of them are known.

        `compute` gives those for all frames of a window, the last of which is repeated where `sources` are fewer.
        """
        keys = [(kind, source) for source in sources]
        if keys and all(key in self.results for key in keys):
            return torch.stack([self.results[key] for key in keys])
        computed = compute()
        for key, result in zip(keys, computed, strict=False):
            self._keep(key, result)
        return computed

    def _keep(self, key: tuple[Hashable, int], result: Tensor) -> None:
        size = result.numel() * result.element_size()
        if key[1] in self.again and key not in self.results and size <= self.left:
            self.left -= size
            self.results[key] = result.to("cpu", copy=True)
