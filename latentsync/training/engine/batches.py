"""The stream of batches: which items a step takes, on which process, read ahead by how many workers."""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, default_collate

from latentsync.data.draws import PositionSampler
from latentsync.training.engine.distributed import Processes

Collate = Callable[[Sequence[Any]], Any]
SPREAD = 2_654_435_761  # odd: neighbouring positions get seeds that differ in all of the bits a generator reads


def item_generator(seed: int, position: int) -> torch.Generator:
    """The random numbers of one item, on the CPU: the same on whichever process it is trained."""
    return torch.Generator().manual_seed((seed * 1_000_003 + position) * SPREAD % (1 << 63))


def batch_generator(seed: int, step: int) -> torch.Generator:
    """The random numbers of one step: the same for a resumed run."""
    return torch.Generator().manual_seed((seed * 1_000_003 + step) % (2**63))


class Numbered(Dataset[tuple[int, Any]]):
    """Items with their positions."""

    def __init__(self, data: Dataset[Any]):
        self.data = data

    def __getitem__(self, position: int) -> tuple[int, Any]:
        return position, self.data[position]


class NumberedCollate:
    """Joins items, and their positions beside them."""

    def __init__(self, collate: Collate | None):
        self.collate = collate or default_collate

    def __call__(self, items: Sequence[tuple[int, Any]]) -> tuple[Any, Tensor]:
        return self.collate([item for _, item in items]), torch.tensor([position for position, _ in items])


class Batches:
    """Batches of this process in order, from any position on."""

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
        """The batch that begins at `position`, on the device, and its items' positions, on the CPU. All processes call it.

        Raises:
            ValueError: a process cannot get its items; all of them raise it, so that none waits for another.
        """
        if position != self._next_position:
            self._stream, self._next_position = self._open(position), position
        found, trouble = None, ""
        try:
            found = next(self._stream)
        except Exception as error:  # whatever it is, the other processes have to be told
            trouble = f"process {self.processes.rank} cannot read items from {position} on: {error}"
        self.processes.raise_together(trouble)
        assert found is not None, "what could not be read has ended the training"
        self._next_position += self.batch_size
        batch, positions = found
        return moved(batch, self.processes.device), positions

    def close(self) -> None:
        """End the workers."""
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
            generator=torch.Generator(),  # so that the process's own random numbers stay untouched
        )
        return iter(loader)


def moved(batch: Any, device: torch.device) -> Any:
    """A batch on `device`: tensors, what has a method `to`, and dictionaries of them."""
    if isinstance(batch, dict):
        return {name: moved(value, device) for name, value in batch.items()}
    return batch.to(device) if hasattr(batch, "to") else batch
