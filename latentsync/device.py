"""The one policy of where networks run and in which precision: CUDA (and ROCm), else Apple's MPS, else the CPU."""

from collections.abc import Callable

import torch

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


def pick_dtype(device: torch.device) -> torch.dtype:
    """Precision of the large networks on `device`: float16 on GPUs that are fast at it, float32 everywhere else.

    The public checkpoints were made to run in float16; bfloat16 has three bits less and shows them in flat skin.
    """
    is_fast = device.type == GPU and torch.cuda.get_device_capability(device) >= HALF_PRECISION_CAPABILITY
    return torch.float16 if is_fast else torch.float32


def full_precision(device: torch.device) -> torch.autocast:
    """A context in which networks run in their own number format, whatever autocast is on outside.

    Devices without an autocast of their own (meta) borrow the CPU's, which does nothing to them.
    """
    kind = device.type if torch.amp.is_autocast_available(device.type) else "cpu"
    return torch.autocast(kind, enabled=False)
