"""How much is computed at once, so that a run fits its device."""

import ctypes
import sys
from dataclasses import dataclass, replace
from functools import cache
from typing import Any, Literal, get_args

import torch

MemoryChoice = Literal["auto", "low", "high"]
PIXELS_AT_ONCE = 4 * 512 * 512  # that the auto-encoder works on: 4 frames of 512 px, 16 of 256 px
CPU_VAE_FRAMES = 2  # more at once are no faster there, and 16 of the demo's 128 px take 180 MB more
WINDOW_BYTES = 2.5e9  # of one guided window of 16 frames at 256 px in half precision; grows with the square of the side
MAX_WINDOWS = 8
M_ARENA_MAX = -8  # glibc, malloc.h


@dataclass(frozen=True)
class MemoryPlan:
    """What is computed at once; `offload` moves the auto-encoder off the device while the U-Net works."""

    windows: int  # sampled together
    vae_frames: int  # encoded or decoded together
    offload: bool = False

    def halved(self) -> "MemoryPlan | None":
        """The next smaller plan; None below the smallest."""
        if self.windows > 1:
            return replace(self, windows=self.windows // 2)
        if self.vae_frames > 1:
            return replace(self, vae_frames=self.vae_frames // 2)
        return None if self.offload else replace(self, offload=True)


def memory_plan(choice: MemoryChoice, device: torch.device, resolution: int) -> MemoryPlan:
    """A plan for faces of `resolution` px: the smallest (`low`), the largest (`high`), or what is free (`auto`).

    On a CPU windows are sampled one at a time, and few frames encoded and decoded: more at once win nothing there.
    """
    if choice not in get_args(MemoryChoice):
        raise ValueError(f"memory is {choice!r}: choose {', '.join(get_args(MemoryChoice))}.")
    vae_frames = max(1, PIXELS_AT_ONCE // resolution**2)
    if choice == "low":
        return MemoryPlan(windows=1, vae_frames=1, offload=device.type != "cpu")
    if device.type == "cpu":
        return MemoryPlan(windows=1, vae_frames=CPU_VAE_FRAMES)
    fitting = free_bytes(device) / (WINDOW_BYTES * (resolution / 256) ** 2)
    windows = MAX_WINDOWS if choice == "high" else min(MAX_WINDOWS, int(fitting))
    return MemoryPlan(windows=max(1, windows), vae_frames=vae_frames)


def free_bytes(device: torch.device) -> float:
    """Free memory of an accelerator, in bytes; 0 where it does not tell."""
    module: Any = getattr(torch, device.type, None)
    if hasattr(module, "mem_get_info"):
        return float(module.mem_get_info(device)[0])
    if hasattr(module, "recommended_max_memory"):
        return float(module.recommended_max_memory() - module.driver_allocated_memory())
    return 0.0


def share_one_heap() -> None:
    """Let all threads that begin from now on allocate from one heap (glibc).

    It has up to eight for each core, and what one thread frees is no use to the others: frames go from thread to thread. Heaps
    that are there already stay, so this comes before the threads.
    """
    function = _c_function("mallopt")
    if function is not None:
        function(M_ARENA_MAX, 1)


def return_freed_memory() -> None:
    """Give pages that hold nothing any more back to the system, where the C library keeps them (glibc); they count as used else.

    Blocks of a few megabytes, such as frames, come out of glibc's heaps as soon as some have been freed, and what small blocks
    stay between them keeps the heaps from shrinking. It takes a few milliseconds.
    """
    function = _c_function("malloc_trim")
    if function is not None:
        function(0)


@cache
def _c_function(name: Literal["mallopt", "malloc_trim"]) -> Any | None:
    """A function of glibc; None on systems with another C library."""
    if not sys.platform.startswith("linux"):
        return None
    try:
        return getattr(ctypes.CDLL(None), name)
    except (AttributeError, OSError):  # musl
        return None


def is_out_of_memory(error: RuntimeError) -> bool:
    """Whether PyTorch raised because memory ran out, on an accelerator or on the CPU."""
    return isinstance(error, torch.OutOfMemoryError) or "can't allocate memory" in str(error)
