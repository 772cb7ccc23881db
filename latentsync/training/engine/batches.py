"""The stream of batches: the items of each step, divided among the processes and prefetched by workers."""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, default_collate

from latentsync.data.draws import PositionSampler
from latentsync.training.engine.distributed import Processes
from latentsync.training.engine.stop import ignore_stop_signals

Collate = Callable[[Sequence[Any]], Any]
SPREAD = 2_654_435_761  # an odd multiplier, so that the seeds of neighbouring positions differ in many bits


def item_generator(seed: int, position: int) -> torch.Generator:
    """A CPU generator for one item; its numbers depend on `seed` and `position` only, not on the process."""
    return torch.Generator().manual_seed((seed * 1_000_003 + position) * SPREAD % (1 << 63))


def batch_generator(seed: int, step: int) -> torch.Generator:
    """A CPU generator for one step; its numbers depend on `seed` and `step` only."""
    return torch.Generator().manual_seed((seed * 1_000_003 + step) % (2**63))


class Numbered(Dataset[tuple[int, Any]]):
    """`data` with items (position, item)."""

    def __init__(self, data: Dataset[Any]):
        self.data = data

    def __getitem__(self, position: int) -> tuple[int, Any]:
        return position, self.data[position]


class NumberedCollate:
    """Collates (position, item) pairs into a batch of items and a tensor of positions."""

    def __init__(self, collate: Collate | None):
        self.collate = collate or default_collate

    def __call__(self, items: Sequence[tuple[int, Any]]) -> tuple[Any, Tensor]:
        return self.collate([item for _, item in items]), torch.tensor([position for position, _ in items])


class Batches:
    """This process's part of the batches, in order, starting at any position."""

    def __init__(
        self, data: Dataset[Any], batch_size: int, collate: Collate | None, workers: int, processes: Processes
    ):
        """`batch_size` is the total over all processes; ValueError if it is not a multiple of their number."""
        PositionSampler(batch_size, processes.rank, processes.count)
        self.data, self.batch_size, self.workers, self.processes = Numbered(data), batch_size, workers, processes
        self.collate = NumberedCollate(collate)
        self._next_position: int | None = None
        self._stream: Iterator[tuple[Any, Tensor]] = iter(())

    def next(self, position: int) -> tuple[Any, Tensor]:
        """This process's batch at `position`, on its device, and its items' positions, on the CPU. All processes call it.

        Raises:
            ValueError: in all processes, if one of them cannot read its items.
        """
        if position != self._next_position:
            self._stream, self._next_position = self._open(position), position
        with self.processes.raise_together():
            try:
                batch, positions = next(self._stream)
            except Exception as error:  # of any type, because the other processes must stop too
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
            generator=torch.Generator(),  # does not advance the process's default generator
            worker_init_fn=ignore_stop_signals,
        )
        return iter(loader)


def moved(batch: Any, device: torch.device) -> Any:
    """A batch on `device`: a tensor, an object with a method `to`, or a dictionary of these."""
    if isinstance(batch, dict):
        return {name: moved(value, device) for name, value in batch.items()}
    return batch.to(device) if hasattr(batch, "to") else batch
