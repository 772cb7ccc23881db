"""The one policy of where networks run and in which precision: CUDA (and ROCm), else Apple's MPS, else the CPU."""

import shutil
from collections.abc import Callable
from importlib.util import find_spec
from typing import Literal, get_args

import torch

Precision = Literal["auto", "half", "fp32", "bf16", "fp16"]
PRECISIONS: tuple[Precision, ...] = get_args(Precision)
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
CPU_COMPILERS = ("c++", "g++", "clang++", "cl")  # programs, of which torch.compile needs one on a CPU

GPU = "cuda"  # also the name of AMD's GPUs in PyTorch
# name of a device type -> whether this machine has it, in order of preference
AVAILABLE: dict[str, Callable[[], bool]] = {GPU: torch.cuda.is_available, "mps": torch.backends.mps.is_available}
HALF_PRECISION_CAPABILITY = (7, 0)  # from here on (Volta) a GPU computes float16 faster than float32


def pick_device(name: str | None = None) -> torch.device:
    """The best device of this machine, or the one called `name` (such as cpu, or a GPU's type and number).

    Raises:
        ValueError: `name` is no device, or this machine lacks it.
    """
    if name is None:
        return torch.device(next((kind for kind, is_available in AVAILABLE.items() if is_available()), "cpu"))
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise ValueError(f"{name!r} is no device: use cpu, {' or '.join(AVAILABLE)}.") from error
    if device.type != "cpu" and not AVAILABLE.get(device.type, lambda: False)():
        raise ValueError(f"This machine (or this PyTorch) has no device {name!r}: use cpu.")
    return device


def spread_devices(workers: int | None = None) -> list[torch.device]:
    """A device for each of so many processes, GPUs in turn; by default a process for every GPU, one without any.

    Raises ValueError for fewer than one process.
    """
    if workers is not None and workers < 1:
        raise ValueError(f"workers is {workers}: choose 1 or more.")
    first = pick_device()
    gpus = torch.cuda.device_count() if first.type == GPU else 0
    count = workers or max(1, gpus)
    return [torch.device(GPU, number % gpus) if gpus else first for number in range(count)]


def pick_dtype(device: torch.device, precision: Precision = "auto") -> torch.dtype:
    """Precision of the large networks on `device`; `auto` is float16 on GPUs that are fast at it, float32 everywhere else.

    The public checkpoints were made to run in float16; bfloat16 has three bits less and shows them in flat skin. On a CPU it
    is asked for, not chosen, for the same reason; `half` is `auto`, but bfloat16 on a CPU that has instructions for it.

    Raises:
        ValueError: `precision` is unknown, or slower than float32 on this device.
    """
    if precision not in PRECISIONS:
        raise ValueError(f"precision is {precision!r}: choose {', '.join(PRECISIONS)}.")
    if precision == "half" and device.type == "cpu" and has_bfloat16():
        return torch.bfloat16
    if precision not in ("auto", "half"):
        check_precision(device, precision)
        return DTYPES[precision]
    is_fast = device.type == GPU and torch.cuda.get_device_capability(device) >= HALF_PRECISION_CAPABILITY
    return torch.float16 if is_fast else torch.float32


def check_precision(device: torch.device, precision: Precision) -> None:
    """ValueError where a CPU lacks the instructions for a half precision, so that float32 is both faster and better."""
    if device.type != "cpu" or precision == "fp32":
        return
    if precision == "fp16":
        raise ValueError("precision is fp16, which is slow on a CPU: choose fp32, or bf16 where the processor has it.")
    if not has_bfloat16():
        raise ValueError("precision is bf16, but this processor has no instructions for it: choose fp32.")


def has_bfloat16() -> bool:
    """Whether this processor has instructions for bfloat16."""
    return bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())


def check_compiler(device: torch.device) -> None:
    """ValueError where `torch.compile` lacks what it needs on this device: a C++ compiler, or Triton on a GPU."""
    if device.type == "cpu" and not any(map(shutil.which, CPU_COMPILERS)):
        raise ValueError("compiling needs a C++ compiler, and none is installed: leave out compiling, or install g++.")
    if device.type == GPU and find_spec("triton") is None:
        raise ValueError("compiling needs the package triton, which is missing: leave out compiling, or install it.")


def full_precision(device: torch.device) -> torch.autocast:
    """A context in which networks run in their own number format, whatever autocast is on outside.

    Devices without an autocast of their own (meta) borrow the CPU's, which does nothing to them.
    """
    kind = device.type if torch.amp.is_autocast_available(device.type) else "cpu"
    return torch.autocast(kind, enabled=False)
