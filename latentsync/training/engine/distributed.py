"""The processes that train together: one on a CPU, one GPU, many GPUs or many machines. The one place that knows how many."""

import os
import random
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator, DistributedDataParallelKwargs
from accelerate.utils import broadcast_object_list, gather_object
from torch import Tensor, nn

from latentsync.device import pick_device


class Processes:
    """This process among those that accelerate started; alone where it started none.

    Number formats are the loop's own business, so one Python process can train in several of them.
    """

    def __init__(self, cpu: bool = False):
        """With `cpu` an accelerator is left alone. ValueError if processes were started that cannot find each other."""
        plain = DistributedDataParallelKwargs(gradient_as_bucket_view=True)
        on_cpu = cpu or pick_device().type == "cpu"
        self.accelerator = Accelerator(cpu=on_cpu, mixed_precision="no", kwargs_handlers=[plain])
        started = int(os.environ.get("WORLD_SIZE", "1"))
        if started != self.count:
            raise ValueError(
                f"{started} processes were started, but each trains alone: several processes need GPUs of one kind, or"
                " the CPU (--device cpu)."
            )

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
        """Whether this is the first process, which writes files and speaks."""
        return self.accelerator.is_main_process

    @property
    def is_sharded(self) -> bool:
        """Whether accelerate was told to share out parameters over the processes (FSDP)."""
        return os.environ.get("ACCELERATE_USE_FSDP", "").lower() == "true"

    def share(self, module: nn.Module) -> nn.Module:
        """What is called instead of the module, so that gradients are averaged over processes.

        With FSDP the module's own parameters are shared out, so an optimizer is made of them afterwards; parts whose class
        accelerate's configuration names (`fsdp_transformer_layer_cls_to_wrap`) are gathered one at a time.
        """
        if not self.is_sharded:
            return self.accelerator.prepare_model(module)
        from torch.distributed.fsdp import fully_shard  # of PyTorch 2.6 and later

        names = os.environ.get("FSDP_TRANSFORMER_CLS_TO_WRAP", "").split(",")
        for part in reversed(list(module.modules())):  # from the inside out
            if type(part).__name__ in names:
                fully_shard(part)
        fully_shard(module)  # in place
        return module

    def gradients(self, module: nn.Module, shared: bool) -> AbstractContextManager[Any]:
        """The context of a backward pass: gradients are averaged over processes in the last one of a step only."""
        if self.is_sharded:
            module.set_requires_gradient_sync(shared)  # type: ignore[operator]
            return nullcontext()
        return nullcontext() if shared else self.accelerator.no_sync(module)

    def mean(self, values: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Means over processes of scalars by name, for which the processes wait."""
        if self.count == 1 or not values:
            return dict(values)
        names = list(values)
        means = self.accelerator.reduce(torch.stack([values[name] for name in names]), reduction="mean")
        return dict(zip(names, means, strict=True))

    def first_reason(self, reason: str) -> str:
        """The first reason that is not empty among those of all processes, told to all of them."""
        if self.count == 1:
            return reason
        some = self.accelerator.reduce(torch.tensor(float(bool(reason)), device=self.device), reduction="sum")
        if not float(some):
            return ""
        return next(each for each in gather_object([reason]) if each)

    def raise_together(self, trouble: str) -> None:
        """Raise ValueError in all processes if one has a trouble."""
        reason = self.first_reason(trouble)
        if reason:
            raise ValueError(reason)

    def broadcast_from_main(self, ask: Callable[[], Any]) -> Any:
        """What the first process answers, in all of them; where its answer is an error, all raise ValueError."""
        answer, trouble = None, ""
        if self.is_main:
            try:
                answer = ask()
            except (OSError, ValueError) as error:
                trouble = str(error)
        self.raise_together(trouble)
        return broadcast_object_list([answer])[0] if self.count > 1 else answer

    def from_all(self, value: Any) -> list[Any]:
        """The values of all processes in order, in all of them."""
        return gather_object([value]) if self.count > 1 else [value]

    @contextmanager
    def own_randomness(self) -> Iterator[None]:
        """What happens inside leaves this process's random numbers as they were."""
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
    """The state of this process's random numbers, as tensors and plain values."""
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
    """Go back to a state from `randomness`."""
    random.setstate((3, tuple(int(value) for value in state["python"]), None))
    position, has_gauss, cached = state["numpy"]["rest"]
    keys = state["numpy"]["keys"].numpy().astype(np.uint32)
    np.random.set_state(("MT19937", keys, int(position), int(has_gauss), float(cached)))
    torch.set_rng_state(state["torch"])
    if "gpu" in state and torch.cuda.is_available():
        torch.cuda.set_rng_state(state["gpu"])
