"""The GPU benchmark keeps what it has measured, whatever ends it; projections count calls and memory."""

import json
from argparse import Namespace
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import pytest
import torch

from benchmarks import gpu, projected
from benchmarks.table import Row
from latentsync.inference.settings import PRESETS

CALLS = {"quality": 40, "balanced": 20, "fast": 7, "turbo": 2}  # of the U-Net, for a window
Phase = Callable[[Namespace], Iterator[Row]]


def endless(args: Namespace) -> Iterator[Row]:
    while True:
        yield {"preset": "fast", "ms": 1.0}


def stopped_by(error: BaseException) -> Phase:
    def phase(args: Namespace) -> Iterator[Row]:
        yield {"preset": "quality", "ms": 2.0}
        raise error

    return phase


def run(folder: Path, monkeypatch: pytest.MonkeyPatch, phases: dict[str, Phase], *arguments: str) -> dict:
    """What is on disk after a run of these phases."""
    monkeypatch.setattr(gpu, "PHASES", phases)
    out = folder / "new" / "gpu.json"
    with suppress(KeyboardInterrupt):
        gpu.bench(gpu.parse(["--device", "cpu", "--tiny", "--out", str(out), *arguments]))
    return json.loads(out.read_text())


def test_a_fault_ends_its_phase_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    phases = {"first": stopped_by(RuntimeError("no memory")), "second": stopped_by(ValueError("no shape"))}
    found = run(tmp_path, monkeypatch, phases)
    assert [len(found["phases"][name]) for name in phases] == [1, 1]
    assert found["notes"] == {"first": "Ended by RuntimeError: no memory", "second": "Ended by ValueError: no shape"}
    tables = (tmp_path / "new/gpu.md").read_text()
    assert tables.count("| quality | 2 |") == 2 and "Ended by ValueError: no shape" in tables


def test_an_interrupted_run_keeps_its_rows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    phases = {"first": stopped_by(ValueError("no shape")), "second": stopped_by(KeyboardInterrupt())}
    found = run(tmp_path, monkeypatch, phases)
    assert [len(found["phases"][name]) for name in phases] == [1, 1]
    assert "| quality | 2 |" in (tmp_path / "new/gpu.md").read_text()


def test_no_row_begins_after_the_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = run(tmp_path, monkeypatch, {"first": endless, "second": endless}, "--minutes", "0.0005")
    assert found["phases"]["first"] and found["notes"]["first"] == "The time was up."
    assert not found["phases"]["second"] and found["notes"]["second"] == "Not begun: the time was up."


@pytest.mark.slow
def test_every_phase_runs_on_a_cpu(tmp_path: Path) -> None:
    out = tmp_path / "gpu.json"
    assert gpu.main(["--device", "cpu", "--tiny", "--presets", "fast", "--out", str(out)]) == 0
    found = json.loads(out.read_text())
    assert found["notes"] == {} and all(found["phases"][name] for name in gpu.PHASES if name != "golden")


def test_calls_of_the_network_are_counted_for_every_preset() -> None:
    assert {preset: projected.network_calls(preset) for preset in PRESETS} == CALLS


def test_memory_is_that_of_the_tensors_that_are_alive_together() -> None:
    with torch.device("meta"), projected.LiveMemory() as memory:
        first = torch.empty(1000, dtype=torch.float32)
        del first
        second = torch.empty(500, dtype=torch.float32)
        view = second[:10]
        third = second + 1
        del second, view, third
        torch.empty(100, dtype=torch.float32)
    assert (memory.peak, memory.live) == (4000, 0)
