"""Utilities of all benchmarks: timing alternatives side by side, a text table, and JSON with facts about the machine."""

import json
import os
import platform
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

Row = Mapping[str, Any]  # column name, with its unit -> value
PACKAGES = ("torch", "numpy", "opencv-python", "opencv-python-headless", "av")


def machine_facts() -> dict[str, Any]:
    """The facts that timings depend on: processor, cores, threads, accelerator, load, versions."""
    import torch  # here, as `benchmarks.start` measures memory: a process begins with its parent's

    from latentsync.inference.jobs.report import installed_versions

    return {
        "processor": processor_name(),
        "system": platform.platform(),
        "cores": os.cpu_count(),
        "torch_threads": torch.get_num_threads(),
        "accelerator": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "load_average": list(os.getloadavg()) if hasattr(os, "getloadavg") else None,
        "python": platform.python_version(),
        "packages": installed_versions(PACKAGES),
    }


def processor_name() -> str:
    """The processor's model name, if the system reports it."""
    facts = Path("/proc/cpuinfo")
    lines = facts.read_text(encoding="utf-8").splitlines() if facts.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def median_ms(ways: Mapping[str, Callable[[], object]], repeats: int, rounds: int = 3) -> dict[str, float]:
    """Median milliseconds of each way, run `repeats` times in a row as for the frames of a clip.

    The ways alternate in `rounds`, so that varying load affects all of them; the first run of each turn is not counted.
    """
    taken: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(rounds):
        for name, way in ways.items():
            way()
            for _ in range(repeats):
                start = time.perf_counter()
                way()
                taken[name].append((time.perf_counter() - start) * 1e3)
    return {name: statistics.median(times) for name, times in taken.items()}


def format_table(rows: Sequence[Row]) -> str:
    """Rows with equal keys as aligned text columns under their names."""
    if not rows:
        return "(no rows)"
    cells = [list(rows[0]), *([cell_text(value) for value in row.values()] for row in rows)]
    widths = [max(len(line[column]) for line in cells) for column in range(len(cells[0]))]
    return "\n".join("  ".join(cell.rjust(width) for cell, width in zip(line, widths, strict=True)) for line in cells)


def markdown_table(rows: Sequence[Row]) -> str:
    """Rows with equal keys as a table in Markdown."""
    lines = [list(rows[0]), ["---"] * len(rows[0]), *([cell_text(value) for value in row.values()] for row in rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def cell_text(value: object) -> str:
    if not isinstance(value, float):
        return str(value)
    return f"{value:.4g}" if abs(value) < 1000 else f"{value:.0f}"


def report(name: str, rows: Sequence[Row], out: Path | None = None, **settings: Any) -> None:
    """Print the table; with `out` also write {"benchmark", "settings", "machine", "rows"} there as JSON."""
    print(format_table(rows))
    if out is not None:
        content = {"benchmark": name, "settings": settings, "machine": machine_facts(), "rows": [dict(r) for r in rows]}
        out.parent.mkdir(parents=True, exist_ok=True)
        out.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
        print(f"written: {out}")
