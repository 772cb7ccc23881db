"""Peaks of a curve, their prominence and width, and moving averages: the few routines of SciPy's signal package that speech
activity needs, with the same results. Importing that package takes longer than checking a whole job.

Legend: n samples, k peaks; positions are indices of samples.
"""

import numpy as np
from numpy.typing import NDArray

Curve = NDArray[np.float64]
Positions = NDArray[np.int64]


def find_peaks(curve: NDArray[np.floating], height: float, prominence: float, width: float, reach: int) -> Positions:
    """Local maxima [k] of a curve [n], as `scipy.signal.find_peaks` finds them.

    Peaks are at least `height` high, rise by `prominence` above the minima before and after them within `reach` samples, are
    `width` samples wide at half of that rise, and are no plateau of more than `reach` samples.
    """
    values = np.asarray(curve, np.float64)
    first, last = plateaus(values)
    peaks = (first + last) // 2
    peaks = peaks[(last - first < reach) & (values[peaks] >= height)]
    left, left_base = minimum_beside(values, peaks, reach, -1)
    right, right_base = minimum_beside(values, peaks, reach, 1)
    rise = values[peaks] - np.maximum(left, right)
    half = values[peaks] - rise * 0.5
    extent = crossing(values, peaks, half, right_base, 1) - crossing(values, peaks, half, left_base, -1)
    return peaks[(rise >= prominence) & (extent >= width)]


def plateaus(values: Curve) -> tuple[Positions, Positions]:
    """First and last samples [k] of the runs of equal values that are higher than both neighbours; the ends have only one."""
    starts = np.flatnonzero(np.diff(values, prepend=np.nan) != 0)
    ends = np.append(starts[1:], len(values)) - 1
    heights = values[starts]
    is_peak = np.zeros(len(starts), bool)
    is_peak[1:-1] = (heights[1:-1] > heights[:-2]) & (heights[1:-1] > heights[2:])
    return starts[is_peak], ends[is_peak]


def minimum_beside(values: Curve, peaks: Positions, reach: int, direction: int) -> tuple[Curve, Positions]:
    """The lowest value on one side of each peak, up to the next higher sample or `reach`, and its position nearest to the peak."""
    lowest, base, is_below = values[peaks].copy(), peaks.copy(), np.ones(len(peaks), bool)
    for distance in range(1, reach + 1):
        at = peaks + direction * distance
        is_below &= (at >= 0) & (at < len(values))
        beside = values[np.clip(at, 0, len(values) - 1)]
        is_below &= beside <= values[peaks]
        is_lower = is_below & (beside < lowest)
        lowest[is_lower], base[is_lower] = beside[is_lower], at[is_lower]
    return lowest, base


def crossing(values: Curve, peaks: Positions, levels: Curve, bases: Positions, direction: int) -> Curve:
    """Where the curve first falls to a level on one side of each peak, not beyond its base; between samples, interpolated."""
    at = peaks.copy()
    while True:
        is_above = (at != bases) & (levels < values[at])
        if not is_above.any():
            break
        at[is_above] += direction
    inner = values[np.clip(at - direction, 0, len(values) - 1)]
    is_between = values[at] < levels
    share = np.divide(levels - values[at], inner - values[at], out=np.zeros(len(peaks)), where=is_between)
    return at - direction * share


def spread(marks: NDArray[np.bool_], samples: int) -> NDArray[np.bool_]:
    """True [n] up to so many samples around every true value."""
    windows = np.lib.stride_tricks.sliding_window_view(np.pad(marks, samples), 2 * samples + 1)
    return np.asarray(windows.any(axis=1))


def moving_average(rows: Curve, size: int) -> Curve:
    """Means of `size` (odd) rows [n, b] around each; beyond the ends the rows are mirrored."""
    padded = np.pad(rows, ((size // 2, size // 2), (0, 0)), mode="symmetric")
    steps = [np.cumsum(padded[:size], axis=0)[-1:], padded[size:] - padded[:-size]]
    return np.cumsum(np.concatenate(steps), axis=0) / size
