"""The presets as a picture: distance to the long solution, and fit of the lips, over the time of a window."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib

COLOURS = {"ddim": "tab:blue", "dpm++": "tab:orange", "unipc": "tab:green", "lcm": "tab:red"}
DEEPCACHE_MARKER = "x"


def draw(rows: Sequence[Mapping[str, Any]], path: Path) -> None:
    """Write a PNG of the rows of `benchmarks.presets`; presets carry their names."""
    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(1, 2, figsize=(11, 4.5), layout="constrained")
    for axis, measure, title in zip(axes, ("pixels", "new sound"), TITLES, strict=True):
        for row in rows[1:]:
            is_preset = not row["way"].startswith("sweep")
            at = row["s a window"], row[measure]
            marker = DEEPCACHE_MARKER if row["deepcache"] > 1 else "o"
            colour, size = COLOURS[row["solver"]], 60 if is_preset else 16
            axis.scatter(*at, s=size, marker=marker, color=colour, zorder=3 if is_preset else 2)
            if is_preset:
                axis.annotate(row["way"], at, xytext=(5, 5), textcoords="offset points", fontsize=9)
        axis.set(xscale="log", xlabel="seconds a window", title=title)
        axis.grid(alpha=0.3)
    for solver, colour in COLOURS.items():
        axes[0].scatter([], [], color=colour, label=solver)
    axes[0].scatter([], [], color=COLOURS["ddim"], marker=DEEPCACHE_MARKER, s=16, label="ddim with DeepCache")
    axes[0].legend()
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110)
    pyplot.close(figure)


TITLES = ("Distance to a long DDIM solution, pixels (rms)", "Lip opening: correlation with the new sound")
