"""Labels on ordinary CPU tensors that say on which simulated device they are; the checks and the log of `simulated_device.py`."""

import sys
import zlib
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
import torch._dynamo  # a dispatch mode imports it at its first use, which must not happen while PyTorch is patched
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode, _disable_current_modes

ROOT = Path(__file__).resolve().parents[2]
OWN_FILES = {str(Path(__file__).with_name(name)) for name in ("device_labels.py", "simulated_device.py")}
LABEL = "simulated_device"  # attribute of storages
CPU = torch.device("cpu")
SMALL_BYTES = 1024  # smaller copies may be repeated

Kind = Literal["cuda", "mps"]
Direction = Literal["to device", "to host", "read"]
real_device = torch._C.TensorBase.device.__get__
real_to = torch._C.TensorBase.to
real_numpy = torch._C.TensorBase.numpy

# Names of operations. In inference mode those that are made of others arrive whole.
PRODUCTS = {"mm", "addmm", "bmm", "baddbmm", "convolution", "linear", "matmul", "conv1d", "conv2d", "conv3d"}
SAME_TYPE = PRODUCTS | {"native_layer_norm", "native_group_norm", "layer_norm", "group_norm"}
ASSIGNMENTS = {"set_data", "_has_compatible_shallow_copy_type"}  # of a tensor's `data`, at any place
READS = {"item", "is_nonzero", "allclose"}  # besides those with a tag
INDEXING = {"index", "index_put", "index_put_", "_index_put_impl_", "_unsafe_index"}
TAKES_NUMBERS = ("_foreach", "fill", "masked_fill")  # beginnings of names; all pointwise operations do too


@dataclass(frozen=True)
class Copy:
    """A copy between host and device, or a `read` of a value or a number of elements, which the host waits for.

    `line` is the project's source line, `content` a checksum of the values.
    """

    direction: Direction
    shape: tuple[int, ...]
    dtype: torch.dtype
    line: str
    content: int
    nbytes: int


def place_of(tensor: Tensor) -> torch.device:
    """The simulated device of a tensor, else its real one."""
    try:
        return getattr(tensor.untyped_storage(), LABEL, None) or real_device(tensor)
    except NotImplementedError:  # without a storage
        return real_device(tensor)


def calling_line() -> str:
    """File and line of the innermost call in this project, outside of the simulation."""
    frame = sys._getframe(1)
    while frame.f_back is not None:
        name = frame.f_code.co_filename
        if name.startswith(str(ROOT)) and "site-packages" not in name and name not in OWN_FILES:
            return f"{Path(name).relative_to(ROOT).as_posix()}:{frame.f_lineno}"
        frame = frame.f_back
    return "outside the project"


def repeated(copies: Sequence[Copy], least_bytes: int = SMALL_BYTES) -> list[Copy]:
    """Copies of values that were copied in the same direction before."""
    seen: Counter[tuple[Any, ...]] = Counter()
    found = []
    for copy in copies:
        key = (copy.direction, copy.shape, copy.dtype, copy.content)
        if copy.nbytes >= least_bytes and seen[key]:
            found.append(copy)
        seen[key] += 1
    return found


class DeviceLabels:
    """Labels tensors with one simulated device, checks operations as that device would, and logs copies."""

    def __init__(self, kind: Kind):
        self.kind, self.device = kind, torch.device(kind, 0)
        self.copies: list[Copy] = []
        self.generators: set[int] = set()  # addresses of the device's generators

    def place(self, device: Any) -> torch.device:
        """The place that `device` names, with its number; RuntimeError for one that this machine does not have."""
        found = torch.device(device)
        if found.type == self.kind and not found.index:
            return self.device
        if found.type not in ("cpu", "meta"):
            raise RuntimeError(f"{found} is not a device of this machine, which has {self.device}")
        return found

    def label(self, tensor: Tensor, place: torch.device) -> Tensor:
        """Say that a tensor is at `place`."""
        if place.type == "mps" and tensor.dtype == torch.float64:
            raise TypeError(
                "Cannot convert a MPS Tensor to float64 dtype as the MPS framework doesn't support float64."
            )
        setattr(tensor.untyped_storage(), LABEL, place if place == self.device else None)
        return tensor

    def log(self, direction: Direction, tensor: Tensor) -> None:
        """Add an entry to `copies`."""
        with _disable_current_modes(), torch.no_grad():
            values = tensor.detach().clone(memory_format=torch.contiguous_format).reshape(-1).view(torch.uint8)
            content = zlib.crc32(memoryview(real_numpy(values)))
        shape, nbytes = tuple(tensor.shape), tensor.numel() * tensor.element_size()
        self.copies.append(Copy(direction, shape, tensor.dtype, calling_line(), content, nbytes))

    def copied(self, tensor: Tensor, place: torch.device, dtype: torch.dtype, **layout: Any) -> Tensor:
        """A copy of a tensor at another place."""
        if "meta" in (place.type, real_device(tensor).type):
            return real_to(tensor, place if place.type == "meta" else CPU, dtype)
        self.log("to device" if place == self.device else "to host", tensor)
        return self.label(real_to(tensor, CPU, dtype, copy=True, **layout), place)

    def check(self, func: Any, given: Sequence[Tensor], generators: Sequence[Any]) -> bool:
        """Whether an operation's results are on the device; RuntimeError if the device refuses the operation."""
        name, places = func.overloadpacket.__name__, [place_of(tensor) for tensor in given]
        if self.device not in places or name in ASSIGNMENTS:
            self.check_generators(generators if given else (), CPU)
            return False
        self.check_generators(generators, self.device)
        takes_numbers = torch.Tag.pointwise in func.tags or name.startswith(TAKES_NUMBERS)
        for tensor, place in zip(given, places, strict=True):
            if place == self.device or (not tensor.ndim and takes_numbers):
                continue
            if name not in INDEXING or tensor is given[0]:
                both = f"{self.device} and {place}"
                raise RuntimeError(f"Expected all tensors to be on the same device, but {name} got {both}.")
            self.log("to device", tensor)  # an index
        types = {tensor.dtype for tensor in given if tensor.is_floating_point()}
        if name in SAME_TYPE and len(types) > 1:
            raise RuntimeError(f"{name} on {self.device} needs tensors of one type, but got {types}.")
        if is_read(func, name, given):
            self.log("read", given[0])
        return True

    def check_generators(self, generators: Sequence[Any], place: torch.device) -> None:
        """RuntimeError for a generator that is not at `place`."""
        for generator in generators:
            own = self.device if generator._cdata in self.generators else CPU
            if own != place:
                raise RuntimeError(f"Expected a '{place.type}' device type for generator but found '{own.type}'")


def is_read(func: Any, name: str, given: Sequence[Tensor]) -> bool:
    """Whether the host waits for a value, or for the number of elements of the result."""
    if name in INDEXING:
        return any(tensor.dtype == torch.bool for tensor in given[1:])
    return name in READS or not {torch.Tag.data_dependent_output, torch.Tag.dynamic_output_shape}.isdisjoint(func.tags)


def flat(values: Iterable[Any]) -> Iterator[Any]:
    """The values and, of lists and tuples, their elements."""
    for value in values:
        if isinstance(value, (list, tuple)):
            yield from flat(value)
        else:
            yield value


class LabelMode(TorchDispatchMode):
    """Checks every operation of a thread, also those of the backward pass, and labels the results."""

    def __init__(self, labels: DeviceLabels):
        super().__init__()
        self.labels = labels

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs, labels = kwargs or {}, self.labels
        leaves = list(flat((*args, *kwargs.values())))
        given = [leaf for leaf in leaves if isinstance(leaf, Tensor)]
        if func.overloadpacket.__name__ == "copy_":
            target, source = map(place_of, given)
            if source != target and "meta" not in (source.type, target.type):
                labels.log("to device" if target == labels.device else "to host", given[1])
            return func(*args, **kwargs)
        is_there = labels.check(func, given, [leaf for leaf in leaves if isinstance(leaf, torch._C.Generator)])
        result = func(*args, **kwargs)
        for made in flat((result,)) if is_there else ():
            if isinstance(made, Tensor):
                labels.label(made, labels.device)
        return result
