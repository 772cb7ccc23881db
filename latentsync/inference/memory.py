"""Batch sizes by which inference fits into the memory of its device, and returning freed memory to the system."""

import ctypes
import sys
from dataclasses import dataclass, replace
from functools import cache
from typing import TYPE_CHECKING, Any, Literal, get_args

if TYPE_CHECKING:
    import torch  # slow to import, and not needed for the settings

MemoryChoice = Literal["auto", "low", "high"]
PIXELS_AT_ONCE = 4 * 512 * 512  # of the auto-encoder: 4 frames of 512 px, 16 of 256 px
CPU_VAE_FRAMES = 2  # larger batches are not faster; 16 frames of the demo's 128 px need 180 MB more
# Of one guided window of 16 frames at 256 px in half precision, proportional to the pixels: 0.56 GB by shapes (`python -m
# benchmarks.projected`), and a reserve. Elsewhere attention may need memory for its scores.
WINDOW_BYTES = {"cuda": 0.8e9}
WINDOW_BYTES_ELSEWHERE = 2.5e9
MAX_WINDOWS = 8
M_ARENA_MAX = -8  # glibc, malloc.h


@dataclass(frozen=True)
class MemoryPlan:
    """Batch sizes; with `offload` the auto-encoder is on the CPU while the U-Net runs."""

    windows: int  # sampled together
    vae_frames: int  # encoded or decoded together
    offload: bool = False

    def halved(self) -> "MemoryPlan | None":
        """The next smaller plan; None for the smallest."""
        if self.windows > 1:
            return replace(self, windows=self.windows // 2)
        if self.vae_frames > 1:
            return replace(self, vae_frames=self.vae_frames // 2)
        return None if self.offload else replace(self, offload=True)


def memory_plan(choice: MemoryChoice, device: "torch.device", resolution: int) -> MemoryPlan:
    """A plan for faces of `resolution` px: the smallest (`low`), the largest (`high`), or by free memory (`auto`).

    On a CPU windows are sampled one at a time, and few frames are encoded or decoded at once: more would not be faster.
    """
    if choice not in get_args(MemoryChoice):
        raise ValueError(f"memory is {choice!r}: choose {', '.join(get_args(MemoryChoice))}.")
    vae_frames = max(1, PIXELS_AT_ONCE // resolution**2)
    if choice == "low":
        return MemoryPlan(windows=1, vae_frames=1, offload=device.type != "cpu")
    if device.type == "cpu":
        return MemoryPlan(windows=1, vae_frames=CPU_VAE_FRAMES)
    window_bytes = WINDOW_BYTES.get(device.type, WINDOW_BYTES_ELSEWHERE) * (resolution / 256) ** 2
    fitting = free_bytes(device) / window_bytes
    windows = MAX_WINDOWS if choice == "high" else min(MAX_WINDOWS, int(fitting))
    return MemoryPlan(windows=max(1, windows), vae_frames=vae_frames)


def free_bytes(device: "torch.device") -> float:
    """Free memory of an accelerator in bytes, with what PyTorch keeps for itself but does not use; 0 if it cannot be queried."""
    import torch

    module: Any = getattr(torch, device.type, None)
    if hasattr(module, "mem_get_info"):
        kept = module.memory_reserved(device) - module.memory_allocated(device)
        return float(module.mem_get_info(device)[0] + kept)
    if hasattr(module, "recommended_max_memory"):
        return float(module.recommended_max_memory() - module.current_allocated_memory())
    return 0.0


def share_one_heap() -> None:
    """Let threads that start from now on share one malloc arena (glibc).

    By default glibc has up to eight arenas per core, and memory freed in one is not reused by the others, while frames are passed
    from thread to thread. Existing arenas stay, so call it before threads are started.
    """
    function = _c_function("mallopt")
    if function is not None:
        function(M_ARENA_MAX, 1)


def return_freed_memory() -> None:
    """Return free pages to the system (glibc `malloc_trim`), in a few milliseconds.

    Once some blocks of a few megabytes, such as frames, have been freed, glibc allocates them from its heaps, and small blocks
    between them keep the heaps from shrinking.
    """
    function = _c_function("malloc_trim")
    if function is not None:
        function(0)


@cache
def _c_function(name: Literal["mallopt", "malloc_trim"]) -> Any | None:
    """A function of glibc, or None with another C library."""
    if not sys.platform.startswith("linux"):
        return None
    try:
        return getattr(ctypes.CDLL(None), name)
    except (AttributeError, OSError):  # musl
        return None


OUT_OF_MEMORY = (  # in messages of errors that PyTorch raises as plain RuntimeErrors
    "can't allocate memory",  # CPU
    "MPS backend out of memory",
    "CUDA error: out of memory",
    "CUBLAS_STATUS_ALLOC_FAILED",
    "CUBLAS_STATUS_NOT_INITIALIZED",  # cuBLAS found no memory for its handle
    "CUDNN_STATUS_ALLOC_FAILED",
    "CUDNN_STATUS_INTERNAL_ERROR_HOST_ALLOCATION_FAILED",
    "HIP out of memory",
)


def is_out_of_memory(error: RuntimeError) -> bool:
    """Whether PyTorch raised because memory ran out, on an accelerator or on the CPU."""
    import torch

    return isinstance(error, torch.OutOfMemoryError) or any(part in str(error) for part in OUT_OF_MEMORY)
