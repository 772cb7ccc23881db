"""What every golden case shares: reading a case, the weight and input rules, one check, the registry of cases.

A case is `NAME.json` (configuration, shapes, seed, tolerance) plus, where it has arrays, `NAME.npz`. Weights and inputs
are not stored: they follow from their names and the seed by the two rules below, so the same code serves any seed and
shape.
"""

import json
import math
import zlib
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn


@dataclass
class Target:
    """Where, and in which precision, cases compute. The recorded numbers are those of float32 on a CPU."""

    device: torch.device = torch.device("cpu")
    dtype: torch.dtype = torch.float32

    @property
    def relative_tolerance(self) -> float:
        """Difference from the recorded numbers, of the largest of them, that another device or precision may have."""
        if self.dtype == torch.float32:
            return 0.0 if self.device.type == "cpu" else 1e-4
        return 64 * torch.finfo(self.dtype).eps

    def created(self) -> AbstractContextManager[Any]:
        """A context in which new tensors are on the device."""
        return nullcontext() if self.device.type == "cpu" else self.device

    def placed(self, tensor: torch.Tensor) -> torch.Tensor:
        return tensor.to(self.device, self.dtype)

    def returned(self, tensor: torch.Tensor) -> np.ndarray:
        tensor = tensor.detach().cpu()
        return (tensor.float() if tensor.dtype == torch.bfloat16 else tensor).numpy()


TARGET = Target()


@dataclass(frozen=True)
class Check:
    """One compared quantity: `error` must not exceed `tolerance` (both in the quantity's own unit)."""

    name: str
    error: float
    tolerance: float

    @property
    def ok(self) -> bool:
        return bool(np.isfinite(self.error)) and self.error <= self.tolerance


@dataclass(frozen=True)
class GoldenCase:
    """A recorded case on disk."""

    path: Path  # the JSON file

    @property
    def name(self) -> str:
        return self.path.stem

    @cached_property
    def facts(self) -> dict[str, Any]:
        return json.loads(self.path.read_text())

    @cached_property
    def arrays(self) -> dict[str, np.ndarray]:
        with np.load(self.path.with_suffix(".npz")) as stored:
            return {key: stored[key] for key in stored.files}

    @property
    def is_fact(self) -> bool:
        """Registered as facts alone, and in truth without arrays."""
        return self.name in FACTS and not self.path.with_suffix(".npz").exists()

    @property
    def seed(self) -> int:
        return int(self.facts.get("seed", 0))

    def sibling(self, name: str) -> "GoldenCase":
        return GoldenCase(self.path.with_name(f"{name}.json"))

    def normal(self, name: str, shape: list[int] | tuple[int, ...]) -> np.ndarray:
        """Input rule: standard normal float32 numbers that follow from the name, the seed and the shape."""
        return rule_generator(name, self.seed).standard_normal(tuple(shape), dtype=np.float32)

    def tensor(self, name: str, shape: list[int] | tuple[int, ...]) -> torch.Tensor:
        return TARGET.placed(torch.from_numpy(self.normal(name, shape)))


def rule_generator(name: str, seed: int) -> np.random.Generator:
    return np.random.default_rng(zlib.crc32(name.encode("utf-8")) + seed)


def rule_array(key: str, shape: tuple[int, ...], seed: int) -> np.ndarray:
    """Weight rule for one state-dict entry; not for position tables (`pe`), which stay as built."""
    n = rule_generator(key, seed).standard_normal(shape, dtype=np.float32)
    one = np.float32(1.0)
    tenth = np.float32(0.1)
    if key.endswith("num_batches_tracked"):
        return np.zeros(shape, dtype=np.int64)
    if key.endswith("running_mean"):
        return tenth * n
    if key.endswith("running_var"):
        return one + tenth * np.abs(n)
    if len(shape) == 1 and key.endswith("weight"):
        return one + tenth * n
    if len(shape) < 2:
        return tenth * n
    return n / np.float32(math.sqrt(math.prod(shape[1:])))


def fill_by_rule(module: nn.Module, seed: int) -> None:
    """Overwrite every entry of the module's state dict by the weight rule, except position tables called `pe`, and move it."""
    with torch.no_grad():
        for key, value in module.state_dict().items():
            if key.rsplit(".", 1)[-1] != "pe":
                value.copy_(torch.from_numpy(np.asarray(rule_array(key, tuple(value.shape), seed))))
    nn.Module.to(module, TARGET.device, TARGET.dtype)


def compare(name: str, got: Any, want: np.ndarray, tolerance: float) -> Check:
    """Largest absolute difference; a different shape is an infinite error."""
    got = TARGET.returned(got) if isinstance(got, torch.Tensor) else np.asarray(got)
    tolerance = max(tolerance, TARGET.relative_tolerance * float(np.abs(want).max(initial=0.0)))
    if got.shape != want.shape:
        return Check(f"{name} shape {got.shape} != {want.shape}", math.inf, tolerance)
    difference = np.abs(got.astype(np.float64) - want.astype(np.float64))
    return Check(name, float(difference.max(initial=0.0)), tolerance)


def compare_relative(name: str, got: Any, want: np.ndarray, tolerance: float) -> Check:
    """Largest absolute difference divided by the largest absolute expected value."""
    largest = max(float(np.abs(want).max(initial=0.0)), 1e-30)
    check = compare(name, got, want, tolerance * largest)
    return Check(check.name, check.error / largest, check.tolerance / largest)


def compare_table(name: str, module: nn.Module, table: dict[str, list[int]]) -> Check:
    """Number of state-dict keys that are missing, extra or of another shape (must be 0)."""
    own = {key: list(value.shape) for key, value in module.state_dict().items()}
    wrong = [key for key in own.keys() | table.keys() if own.get(key) != table.get(key)]
    return Check(f"{name} key table" + (f" (e.g. {sorted(wrong)[0]})" if wrong else ""), float(len(wrong)), 0.0)


CaseRunner = Callable[[GoldenCase], Iterator[Check]]
RUNNERS: dict[str, CaseRunner] = {}
FACTS: set[str] = set()


def golden(name: str) -> Callable[[CaseRunner], CaseRunner]:
    """Register the function that re-computes case `name` and yields its checks."""

    def register(runner: CaseRunner) -> CaseRunner:
        RUNNERS[name] = runner
        return runner

    return register


def facts_only(*names: str) -> None:
    """Register cases that state rules in words and hold no numbers: they are listed, there is nothing to compute."""
    FACTS.update(names)
