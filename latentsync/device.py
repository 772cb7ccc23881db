"""Where networks run, and in which precision: on CUDA (or ROCm), else Apple's MPS, else the CPU; kernels that differ by device."""

import os
import shutil
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from latentsync.precision import DTYPE_NAMES, PRECISIONS, Precision

DTYPES: dict[str, torch.dtype] = {name: getattr(torch, dtype) for name, dtype in DTYPE_NAMES.items()}
CPU_COMPILERS = ("c++", "g++", "clang++", "cl")  # torch.compile needs one of them on a CPU

GPU = "cuda"  # in PyTorch also the name of AMD GPUs
# device type -> function that returns whether this machine has it, in order of preference
AVAILABLE: dict[str, Callable[[], bool]] = {GPU: torch.cuda.is_available, "mps": torch.backends.mps.is_available}
# devices whose fused kernels misread views of queries, keys and values (PyTorch issue 181133)
IGNORES_STRIDES = ("mps",)
HALF_PRECISION_CAPABILITY = (7, 0)  # from Volta on, float16 is faster than float32


def pick_device(name: str | None = None) -> torch.device:
    """The best device of this machine, or the one called `name` (such as cpu, or a GPU's type and number).

    Raises:
        ValueError: `name` is not a device, or this machine does not have it.
    """
    if name is None:
        return torch.device(next((kind for kind, is_available in AVAILABLE.items() if is_available()), "cpu"))
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise ValueError(f"{name!r} is not a device: use cpu, {' or '.join(AVAILABLE)}.") from error
    if device.type != "cpu" and not AVAILABLE.get(device.type, lambda: False)():
        raise ValueError(f"This machine (or this PyTorch) has no device {name!r}: use cpu.")
    return device


def unused_gpu() -> str | None:
    """Why an NVIDIA GPU of this machine is not used, in a sentence with the way out.

    None without one, if it is used, and if CUDA_VISIBLE_DEVICES hides it.
    """
    is_hidden = os.environ.get("CUDA_VISIBLE_DEVICES", "all") in ("", "-1")
    if torch.cuda.is_available() or is_hidden or not has_nvidia_driver():
        return None
    if torch.version.cuda is None:
        return (
            f"This machine has an NVIDIA GPU, but PyTorch {torch.__version__} is built without CUDA, so everything runs on the CPU:"
            " install the CUDA build, with the command that https://pytorch.org/get-started/locally/ shows for your system."
        )
    return (
        f"This machine has an NVIDIA GPU, but its driver does not work with PyTorch {torch.__version__}, which is built for CUDA"
        f" {torch.version.cuda}, so everything runs on the CPU: update the driver, or install a PyTorch for an older CUDA"
        " (https://pytorch.org/get-started/previous-versions/)."
    )


def has_nvidia_driver() -> bool:
    """Whether an NVIDIA driver is installed, also one that this PyTorch cannot use."""
    return Path("/proc/driver/nvidia/version").exists() or shutil.which("nvidia-smi") is not None


def spread_devices(workers: int | None = None) -> list[torch.device]:
    """A device for each of `workers` processes, GPUs in turn; by default one process per GPU, or one on a machine without GPUs.

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

    The public checkpoints were made for float16; bfloat16 has three bits less, which is visible in smooth skin, so it is never
    chosen automatically. `half` is the same, except for bfloat16 on a CPU that has instructions for it.

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
    """Raise ValueError for a half precision on a CPU without instructions for it: float32 is faster and more exact there."""
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
    """Raise ValueError if `torch.compile` cannot work on this device: it needs a C++ compiler, or Triton on a GPU."""
    if device.type == "cpu" and not any(map(shutil.which, CPU_COMPILERS)):
        raise ValueError("compiling needs a C++ compiler, and none is installed: leave out compiling, or install g++.")
    if device.type == GPU and find_spec("triton") is None:
        raise ValueError("compiling needs the package triton, which is missing: leave out compiling, or install it.")


def full_precision(device: torch.device) -> torch.autocast:
    """A context without autocast: networks run in the type of their weights.

    Devices that autocast does not support (meta) get the CPU's context, which has no effect on them.
    """
    kind = device.type if torch.amp.is_autocast_available(device.type) else "cpu"
    return torch.autocast(kind, enabled=False)


def fused_attention(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """`torch.nn.functional.scaled_dot_product_attention` of views, also where its kernels need contiguous tensors."""
    if q.device.type in IGNORES_STRIDES:
        q, k, v = q.contiguous(), k.contiguous(), v.contiguous()
    return F.scaled_dot_product_attention(q, k, v)
