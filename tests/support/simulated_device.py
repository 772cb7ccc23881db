"""A device that this machine does not have: its tensors are computed on the CPU, but say that they are on `cuda` or `mps`.

Usage:

    with SimulatedDevice("cuda") as gpu:
        network.to(gpu.device)(torch.zeros(1, 4, device=gpu.device))
    assert not repeated(gpu.copies)

All tensors are ordinary ones of the CPU, so autograd, optimizers, `Module.to` and threads work unchanged: a label on a storage says
that it belongs to the device (see `device_labels.py`). Refused is what PyTorch refuses, or computes wrongly, on the real device:

- operations on tensors of both places, except for CPU tensors without dimensions where PyTorch takes them as numbers, and
  CPU indices of device tensors
- `numpy()` and `np.asarray` of its tensors, and random numbers from a generator of the other place
- products, convolutions, attention and normalisations of tensors of different types
- on mps float64, and attention of tensors that are not contiguous

Copies between host and device, and reads of values, are in `copies`. Autocast is the CPU's, except that normalisations run in
float32, as on GPUs. Not simulated: streams, memory limits, several devices, the rounding of kernels; gradients do not flow through
a copy between host and device.
"""

import threading
from collections.abc import Callable
from contextlib import ExitStack, nullcontext
from types import TracebackType
from typing import Any
from unittest import mock

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils._device import _device_constructors

from latentsync.device import AVAILABLE
from tests.support.device_labels import CPU, LABEL, DeviceLabels, Kind, LabelMode, place_of, real_numpy, real_to

GIB = 1 << 30
WITH_DATA = ("tensor", "as_tensor", "new_tensor")  # of the factories
LIKE = ("zeros_like", "ones_like", "empty_like", "full_like", "rand_like", "randn_like", "randint_like")
METHODS = ("new_zeros", "new_ones", "new_empty", "new_full", "new_tensor")
ACTIONS = ("empty_cache", "synchronize", "set_rng_state", "manual_seed", "manual_seed_all", "set_device")


class SimulatedDevice(DeviceLabels):
    """A context in which the machine has one device `kind`, in all threads started inside; see the top of the file."""

    def __init__(self, kind: Kind = "cuda"):
        super().__init__(kind)
        self._stack = ExitStack()

    def __enter__(self) -> "SimulatedDevice":
        self._patch_tensors()
        self._patch_factories()
        self._patch_generators()
        self._patch_queries()
        self._patch_kernels()
        self._patch_files()
        self._patch_threads()
        self._stack.enter_context(LabelMode(self))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.close()

    def to(self, tensor: Tensor, *args: Any, **options: Any) -> Tensor:
        """`Tensor.to`."""
        copy = options.pop("copy", False)
        like = options.pop("other", args[0] if args and isinstance(args[0], Tensor) else None)
        if like is not None:
            device, dtype, form = place_of(like), like.dtype, options.get("memory_format")
        else:
            device, dtype, _, form = torch._C._nn._parse_to(*args, **options)
        layout = {} if form is None else {"memory_format": form}
        place = place_of(tensor) if device is None else self.place(device)
        if place != place_of(tensor):
            return self.copied(tensor, place, dtype or tensor.dtype, **layout)
        return real_to(tensor, dtype or tensor.dtype, copy=copy, **layout)

    def numpy(self, tensor: Tensor, *, force: bool = False) -> Any:
        """`Tensor.numpy`, which `np.asarray` calls too."""
        if place_of(tensor) == self.device and not force:
            raise TypeError(f"can't convert {self.device} device type tensor to numpy. Use Tensor.cpu() first.")
        return real_numpy(tensor.detach().cpu() if force else tensor)

    def tolist(self, tensor: Tensor) -> Any:
        """`Tensor.tolist`."""
        if place_of(tensor) == self.device:
            self.log("to host", tensor)
        return torch._C.TensorBase.tolist(tensor)

    def _patch(self, owner: Any, name: str, value: Any) -> None:
        self._stack.enter_context(mock.patch.object(owner, name, value))

    def _patch_tensors(self) -> None:
        copied_storage = Tensor.__deepcopy__
        for name, value in {
            "device": property(place_of),
            **{
                f"is_{kind}": property(lambda t, kind=kind: place_of(t).type == kind) for kind in ("cpu", "cuda", "mps")
            },
            "get_device": lambda tensor: 0 if place_of(tensor) == self.device else -1,
            "to": lambda tensor, *args, **options: self.to(tensor, *args, **options),
            "cpu": lambda tensor, **options: self.to(tensor, CPU, **options),
            "cuda": lambda tensor, device="cuda", **options: self.to(tensor, device, **options),
            "type_as": lambda tensor, other: self.to(tensor, other),
            "numpy": lambda tensor, **options: self.numpy(tensor, **options),
            "tolist": lambda tensor: self.tolist(tensor),
            "__deepcopy__": lambda tensor, memo: self.label(copied_storage(tensor, memo), place_of(tensor)),
        }.items():
            self._patch(Tensor, name, value)

    def _patch_factories(self) -> None:
        names = [make.__name__ for make in _device_constructors() if hasattr(torch, make.__name__)]
        for owner, name in [*((torch, name) for name in (*names, *LIKE)), *((Tensor, name) for name in METHODS)]:
            self._patch(owner, name, self._factory(getattr(owner, name), holds_data=name in WITH_DATA))

    def _factory(self, make: Callable[..., Tensor], holds_data: bool) -> Callable[..., Tensor]:
        """A function that makes tensors, whose argument `device` may be the simulated device."""

        def made(*args: Any, device: Any = None, **options: Any) -> Tensor:
            like = args[0] if args and isinstance(args[0], Tensor) else None
            if device is None and like is not None:
                return make(*args, **options)
            place = CPU if device is None else self.place(device)
            if holds_data and isinstance(like, Tensor):
                return like.to(place, options.get("dtype"))
            self.check_generators([options["generator"]] if options.get("generator") else [], place)
            if place != self.device:
                where = {} if device is None else {"device": place}
                return self.label(make(*args, **options, **where), place)
            result = self.label(make(*args, **options, device=CPU), place)
            if holds_data:
                self.log("to device", result)
            return result

        return made

    def _patch_generators(self) -> None:
        simulated = self

        class Generator(torch.Generator):
            def __new__(cls, device: Any = CPU) -> "Generator":
                generator = super().__new__(cls, device=CPU)
                is_there = simulated.place(device) == simulated.device
                (simulated.generators.add if is_there else simulated.generators.discard)(generator._cdata)
                return generator

            @property
            def device(self) -> torch.device:
                return simulated.device if self._cdata in simulated.generators else CPU

        self._patch(torch, "Generator", Generator)

    def _patch_queries(self) -> None:
        is_cuda = self.kind == "cuda"
        self._stack.enter_context(mock.patch.dict(AVAILABLE, cuda=lambda: is_cuda, mps=lambda: not is_cuda))
        for name, answer in {
            "is_available": is_cuda,
            "is_initialized": is_cuda,
            "is_bf16_supported": True,
            "is_current_stream_capturing": False,
            "device_count": int(is_cuda),
            "current_device": 0,
            "get_device_capability": (8, 0),
            "get_device_name": "simulated",
            "mem_get_info": (8 * GIB, 8 * GIB),
            "memory_reserved": 0,
            "memory_allocated": 0,
            "get_rng_state": torch.zeros(16, dtype=torch.uint8),
            "device": nullcontext(),
            **dict.fromkeys(ACTIONS),
        }.items():
            self._patch(torch.cuda, name, _always(answer))
        for name in {*ACTIONS} & {*dir(torch.mps)}:
            self._patch(torch.mps, name, _always(None))
        self._patch(torch.mps, "recommended_max_memory", _always(8 * GIB))
        self._patch(torch.mps, "current_allocated_memory", _always(0))
        for name in ("is_available", "is_built"):
            self._patch(torch.backends.mps, name, _always(not is_cuda))
        self._patch(torch.accelerator, "current_accelerator", _always(None))

    def _patch_kernels(self) -> None:
        begin, attention = torch.autocast.__init__, F.scaled_dot_product_attention

        def begun(context: torch.autocast, device_type: str, dtype: Any = None, *args: Any, **options: Any) -> None:
            if device_type == self.kind:
                device_type, dtype = "cpu", dtype or torch.float16
            begin(context, device_type, dtype, *args, **options)

        def attended(q: Tensor, k: Tensor, v: Tensor, *args: Any, **options: Any) -> Tensor:
            is_whole = all(tensor.is_contiguous() for tensor in (q, k, v))
            if self.kind == "mps" and place_of(q) == self.device and not is_whole:
                raise RuntimeError("attention on mps misreads queries, keys and values that are not contiguous")
            return attention(q, k, v, *args, **options)

        self._patch(torch.autocast, "__init__", begun)
        self._patch(F, "scaled_dot_product_attention", attended)
        for name in ("layer_norm", "group_norm"):
            self._patch(F, name, self._in_float32_under_autocast(getattr(F, name)))

    def _in_float32_under_autocast(self, compute: Callable[..., Tensor]) -> Callable[..., Tensor]:
        def computed(x: Tensor, *args: Any, **options: Any) -> Tensor:
            is_cast = place_of(x) == self.device and torch.is_autocast_enabled("cpu")
            return compute(x.float() if is_cast else x, *args, **options)

        return computed

    def _patch_files(self) -> None:
        """Tensors are stored with the device's name, and loaded to it unless `map_location` says otherwise."""

        def tag(storage: Any) -> str | None:
            return str(self.device) if getattr(storage, LABEL, None) else None

        def restore(storage: Any, location: str) -> Any:
            if not location.startswith(self.kind):
                return None
            setattr(storage, LABEL, self.device)
            return storage

        registry, entry = torch.serialization._package_registry, (0, tag, restore)
        registry.insert(0, entry)
        self._stack.callback(registry.remove, entry)

    def _patch_threads(self) -> None:
        run = threading.Thread.run

        def labelled(thread: threading.Thread) -> None:
            with LabelMode(self):
                run(thread)

        self._patch(threading.Thread, "run", labelled)


def _always(answer: Any) -> Callable[..., Any]:
    """A function that always returns `answer`."""
    return lambda *args, **options: answer
