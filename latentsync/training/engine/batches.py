"""The stream of batches: which items a step uses, on which process, prefetched by how many workers."""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, default_collate

from latentsync.data.draws import PositionSampler
from latentsync.training.engine.distributed import Processes

Collate = Callable[[Sequence[Any]], Any]
SPREAD = 2_654_435_761  # odd, so that seeds of neighbouring positions differ in all bits that a generator uses


def item_generator(seed: int, position: int) -> torch.Generator:
    """A CPU generator for one item: the same numbers whichever process trains on it."""
    return torch.Generator().manual_seed((seed * 1_000_003 + position) * SPREAD % (1 << 63))


def batch_generator(seed: int, step: int) -> torch.Generator:
    """A CPU generator for one step: the same numbers in a resumed run."""
    return torch.Generator().manual_seed((seed * 1_000_003 + step) % (2**63))


class Numbered(Dataset[tuple[int, Any]]):
    """A dataset whose items are (position, item)."""

    def __init__(self, data: Dataset[Any]):
        self.data = data

    def __getitem__(self, position: int) -> tuple[int, Any]:
        return position, self.data[position]


class NumberedCollate:
    """Collates (position, item) pairs into a batch and a tensor of positions."""

    def __init__(self, collate: Collate | None):
        self.collate = collate or default_collate

    def __call__(self, items: Sequence[tuple[int, Any]]) -> tuple[Any, Tensor]:
        return self.collate([item for _, item in items]), torch.tensor([position for position, _ in items])


class Batches:
    """This process's batches in order, from any position."""

    def __init__(
        self, data: Dataset[Any], batch_size: int, collate: Collate | None, workers: int, processes: Processes
    ):
        """`batch_size` counts items over all processes; ValueError if they cannot share it evenly."""
        PositionSampler(batch_size, processes.rank, processes.count)
        self.data, self.batch_size, self.workers, self.processes = Numbered(data), batch_size, workers, processes
        self.collate = NumberedCollate(collate)
        self._next_position: int | None = None
        self._stream: Iterator[tuple[Any, Tensor]] = iter(())

    def next(self, position: int) -> tuple[Any, Tensor]:
        """The batch at `position`, on the device, and its items' positions, on the CPU. All processes call it.

        Raises:
            ValueError: in all processes, where one of them cannot read its items.
        """
        if position != self._next_position:
            self._stream, self._next_position = self._open(position), position
        with self.processes.raise_together():
            try:
                batch, positions = next(self._stream)
            except Exception as error:  # of any kind: the other processes must stop too
                raise ValueError(
                    f"process {self.processes.rank} cannot read items from {position} on: {error}"
                ) from error
        self._next_position = position + self.batch_size
        return moved(batch, self.processes.device), positions

    def close(self) -> None:
        """Stop the workers."""
        self._stream, self._next_position = iter(()), None

    def _open(self, position: int) -> Iterator[tuple[Any, Tensor]]:
        sampler = PositionSampler(
            self.batch_size, self.processes.rank, self.processes.count, first_step=position // self.batch_size
        )
        loader: DataLoader[Any] = DataLoader(
            self.data,
            batch_sampler=sampler,
            collate_fn=self.collate,
            num_workers=self.workers,
            generator=torch.Generator(),  # leaves the process's own random state untouched
        )
        return iter(loader)


def moved(batch: Any, device: torch.device) -> Any:
    """A batch on `device`: a tensor, an object with a method `to`, or a dictionary of these."""
    if isinstance(batch, dict):
        return {name: moved(value, device) for name, value in batch.items()}
    return batch.to(device) if hasattr(batch, "to") else batch
