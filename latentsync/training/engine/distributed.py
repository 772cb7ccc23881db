"""Distributed processes on CPUs or GPUs, on one machine or several. Only this module calls accelerate, besides `trackers`."""

import logging
import os
import random
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any, TypeVar

import numpy as np
import torch
from accelerate import Accelerator, DistributedDataParallelKwargs
from accelerate.utils import broadcast_object_list, gather_object
from torch import Tensor, nn

from latentsync.device import pick_device, unused_gpu

log = logging.getLogger(__name__)
ROUND_SEC = 20.0  # of shared work, between two meetings of the processes
Item = TypeVar("Item")
Result = TypeVar("Result")


class Processes:
    """The group of processes that accelerate started, seen from this one; or a single process.

    The training loop handles mixed precision itself, so that one Python process can run trainings with several dtypes.
    """

    def __init__(self, cpu: bool = False):
        """With `cpu`, no GPU is used. ValueError if several processes were started but are not connected as a group."""
        plain = DistributedDataParallelKwargs(gradient_as_bucket_view=True)
        on_cpu = cpu or pick_device().type == "cpu"
        self.accelerator = Accelerator(cpu=on_cpu, mixed_precision="no", kwargs_handlers=[plain])
        started = int(os.environ.get("WORLD_SIZE", "1"))
        if started != self.count:
            raise ValueError(
                f"{started} processes were started, but are not connected: several processes need GPUs of one kind, or"
                " the CPU (--device cpu)."
            )
        reason = None if cpu else unused_gpu()
        if reason and self.rank == 0:
            log.warning(reason)

    @property
    def device(self) -> torch.device:
        return self.accelerator.device

    @property
    def rank(self) -> int:
        return self.accelerator.process_index

    @property
    def count(self) -> int:
        return self.accelerator.num_processes

    @property
    def is_main(self) -> bool:
        """Whether this is the first process, which writes files and the log."""
        return self.accelerator.is_main_process

    @property
    def is_sharded(self) -> bool:
        """Whether accelerate is configured to shard parameters over the processes (FSDP)."""
        return os.environ.get("ACCELERATE_USE_FSDP", "").lower() == "true"

    def wrap(self, module: nn.Module) -> nn.Module:
        """The module to call in training (DDP): its gradients are averaged over processes.

        With FSDP the module's own parameters are sharded in place, so the optimizer must be created afterwards; submodules
        of the classes in accelerate's `fsdp_transformer_layer_cls_to_wrap` are gathered one at a time.
        """
        if not self.is_sharded:
            return self.accelerator.prepare_model(module)
        from torch.distributed.fsdp import fully_shard  # needs PyTorch 2.6

        names = os.environ.get("FSDP_TRANSFORMER_CLS_TO_WRAP", "").split(",")
        for part in reversed(list(module.modules())):  # inner modules first
            if type(part).__name__ in names:
                fully_shard(part)
        fully_shard(module)  # in place
        return module

    def gradient_sync(self, module: nn.Module, enabled: bool) -> AbstractContextManager[Any]:
        """The context of a forward and backward pass; gradients are averaged over processes only if `enabled`."""
        if self.is_sharded:
            module.set_requires_gradient_sync(enabled)  # type: ignore[operator]
            return nullcontext()
        return nullcontext() if enabled else self.accelerator.no_sync(module)

    def mean(self, values: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Named scalars averaged over processes. All processes call it."""
        if self.count == 1 or not values:
            return dict(values)
        names = list(values)
        means = self.accelerator.reduce(torch.stack([values[name] for name in names]), reduction="mean")
        return dict(zip(names, means, strict=True))

    def first_reason(self, reason: str) -> str:
        """The first non-empty `reason` among all processes, in all of them; "" if all are empty. All processes call it."""
        if self.count == 1:
            return reason
        given = self.accelerator.reduce(torch.tensor(float(bool(reason)), device=self.device), reduction="sum")
        if not float(given):
            return ""
        return next(each for each in gather_object([reason]) if each)

    @contextmanager
    def raise_together(self, kinds: tuple[type[Exception], ...] = (OSError, ValueError)) -> Iterator[None]:
        """If one process raises one of `kinds` inside, all raise ValueError, so that none waits for another."""
        reason, cause = "", None
        try:
            yield
        except kinds as error:
            reason, cause = str(error) or type(error).__name__, error
        reason = self.first_reason(reason)
        if reason:
            raise ValueError(reason) from cause

    def broadcast(self, value: Any) -> Any:
        """The first process's `value`, in all processes."""
        return broadcast_object_list([value])[0] if self.count > 1 else value

    def broadcast_from_main(self, compute: Callable[[], Any]) -> Any:
        """The result of `compute`, called in the first process only, in all processes; errors as in `raise_together`."""
        value = None
        with self.raise_together():
            if self.is_main:
                value = compute()
        return self.broadcast(value)

    def from_all(self, value: Any) -> list[Any]:
        """The values of all processes, ordered by rank, in all of them."""
        return gather_object([value]) if self.count > 1 else [value]

    def sums(self, values: Sequence[float]) -> list[float]:
        """Numbers added up over the processes. All processes call it."""
        if self.count == 1:
            return list(values)
        return self.accelerator.reduce(
            torch.tensor(values, device=self.device, dtype=torch.float32), reduction="sum"
        ).tolist()

    def share(
        self, items: Sequence[Item], work: Callable[[Sequence[Item]], Iterable[Result]], round_sec: float = ROUND_SEC
    ) -> list[Result]:
        """The results of `work` on all items, in their order, in all processes: each works on its own part. All call it.

        They work in rounds and meet after each, so that none waits for the others longer than a round and one item: a group of
        processes gives up after some minutes of waiting. `work` yields one result for every item.

        Raises:
            ValueError: in all processes, if there is an error in one; OSError and ValueError unchanged in a single process.
        """
        if self.count == 1:
            return list(work(items))
        own: list[Result] = []
        parts = (items[self.rank :: self.count],)
        results, is_done = (result for part in parts for result in work(part)), False  # begins inside the first round
        while self.sums([not is_done])[0]:
            begun = time.monotonic()
            with self.raise_together((Exception,)):
                for result in results:
                    own.append(result)
                    if time.monotonic() - begun >= round_sec:
                        break
                else:
                    is_done = True
        done = [iter(each) for each in self.from_all(own)]
        return [next(done[index % self.count]) for index in range(len(items))]

    @contextmanager
    def own_randomness(self) -> Iterator[None]:
        """Restores the states of this process's random number generators on exit."""
        before = randomness()
        try:
            yield
        finally:
            set_randomness(before)


def seed_everything(seed: int) -> None:
    """Seed Python, NumPy and PyTorch on all devices."""
    random.seed(seed)
    np.random.seed(seed % (1 << 32))
    torch.manual_seed(seed)


def randomness() -> dict[str, Any]:
    """The states of this process's random number generators, as tensors and plain values."""
    _, keys, position, has_gauss, cached = np.random.get_state(legacy=True)
    state: dict[str, Any] = {
        "python": list(random.getstate()[1]),
        "numpy": {"keys": torch.from_numpy(np.asarray(keys).astype(np.int64)), "rest": [position, has_gauss, cached]},
        "torch": torch.get_rng_state(),
    }
    if torch.cuda.is_available():
        state["gpu"] = torch.cuda.get_rng_state()
    return state


def set_randomness(state: Mapping[str, Any]) -> None:
    """Restore states from `randomness`."""
    random.setstate((3, tuple(int(value) for value in state["python"]), None))
    position, has_gauss, cached = state["numpy"]["rest"]
    keys = state["numpy"]["keys"].numpy().astype(np.uint32)
    np.random.set_state(("MT19937", keys, int(position), int(has_gauss), float(cached)))
    torch.set_rng_state(state["torch"])
    if "gpu" in state and torch.cuda.is_available():
        torch.cuda.set_rng_state(state["gpu"])
