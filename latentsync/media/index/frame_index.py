"""The index of a video: its frames, the time of each, and the keyframes.

Tensor legend: n frames in the order of display, k keyframes in the order of decoding.
"""

import os
from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache

import av
import numpy as np

from latentsync.media.container import ChosenTracks, MediaError, PathLike, check_readable, reason
from latentsync.media.index.packets import FirstPicture, PacketTimes, first_picture, packet_times
from latentsync.media.pixels.colour import ColourTags
from latentsync.media.pixels.geometry import Orientation

NTSC = Fraction(1000, 1001)
HALF = Fraction(1, 2)
FEW_FRAMES = 3
MAX_FPS_DENOMINATOR = 100_000
EXACT_TICKS = 1e-6  # smaller differences are rounding errors
MAX_HOLD_SEC = 3600  # a frame shown for longer means a damaged time stamp
INDEXES_KEPT = 64


@dataclass(frozen=True)
class FrameIndex:
    """The frames of a video, their times, and the keyframes.

    Containers with a coarse time base (Matroska's milliseconds, 90 kHz) round times. Where all times are within one tick of a
    constant rate, exact times follow from that rate.
    """

    first: FirstPicture
    ticks: np.ndarray  # int64 n + 1: time of each frame, and the end of the last one
    time_base: Fraction  # seconds of one tick
    stamped: bool  # whether decoded pictures have these time stamps; else they are counted
    rate: Fraction | None  # frames per second; None: variable
    fps: Fraction  # the same, or the average of a variable rate
    decode_order: np.ndarray  # int64 n: index of the frame of each packet
    one_each: bool  # whether every packet of the file is one of these frames
    key_ticks: np.ndarray  # int64 k: times of the keyframes; empty: decoding can begin at the first frame only
    key_stamps: np.ndarray  # int64 k: the time stamps to seek to

    @property
    def frame_count(self) -> int:
        return len(self.ticks) - 1

    @property
    def colour(self) -> ColourTags:
        return self.first.colour

    @property
    def orientation(self) -> Orientation:
        return self.first.orientation

    def time(self, frame: int) -> Fraction:
        """Time of a frame in seconds from the first one; for frame n the end of the last."""
        if self.rate is not None:
            return frame / self.rate
        return (int(self.ticks[frame]) - int(self.ticks[0])) * self.time_base

    def times(self) -> list[Fraction]:
        """`time` of all frames and of the end: n + 1 entries."""
        return [self.time(frame) for frame in range(self.frame_count + 1)]

    def seek_stamp(self, frame: int) -> int | None:
        """The time stamp to seek to so that a frame is decoded exactly; None: decode from the start of the file."""
        # Pictures that follow a keyframe in the file but are shown before it may refer to earlier ones.
        keys = np.flatnonzero(self.key_ticks <= self.ticks[frame])
        return int(self.key_stamps[keys[-1]]) if len(keys) and keys[-1] > 0 else None


def frame_index(path: PathLike) -> FrameIndex:
    """The index of a video or still image; cached as long as the file does not change.

    Raises MediaError if the file cannot be read, is cut short, has no video or its first frame cannot be decoded.
    """
    check_readable(path)
    status = os.stat(path)
    key = path if isinstance(path, ChosenTracks) else os.fspath(path)
    return _frame_index(key, os.path.abspath(path), status.st_size, status.st_mtime_ns)


@lru_cache(maxsize=INDEXES_KEPT)
def _frame_index(path: PathLike, _location: str, _size: int, _modified: int) -> FrameIndex:
    first = first_picture(path)
    try:
        packets = packet_times(path, first)
    except (av.error.FFmpegError, OSError) as error:
        raise MediaError(f"cannot read {path}: {reason(error)}. Repair the file or convert it again.") from error
    if not len(packets.ticks):
        raise MediaError(f"{path} holds no video frame. Re-encode or repair the file.")
    return index_of(packets, first, path)


def index_of(packets: PacketTimes, first: FirstPicture, path: PathLike) -> FrameIndex:
    order = np.argsort(packets.ticks, kind="stable")
    shown = packets.ticks[order]
    decode_order = np.empty_like(order)
    decode_order[order] = np.arange(len(order))
    stated_end = end_ticks(int(shown[-1]), int(packets.durations[order[-1]]), packets)
    rate = None if first.is_still else constant_rate(shown, stated_end, packets)
    end = stated_end
    if rate is not None and packets.end is None:
        end = int(shown[0]) + round(len(shown) / (rate * packets.time_base))
    ticks = np.append(shown, max(end, int(shown[-1]) + 1))
    if np.diff(ticks).max() * packets.time_base > MAX_HOLD_SEC:
        raise MediaError(f"the time stamps of {path} are damaged: a frame is shown for over an hour. Repair the file.")
    span = (int(ticks[-1]) - int(ticks[0])) * packets.time_base
    average = (len(shown) / span).limit_denominator(MAX_FPS_DENOMINATOR)
    return FrameIndex(
        first=first,
        ticks=ticks,
        time_base=packets.time_base,
        stamped=packets.stamped,
        rate=rate,
        fps=packets.usual_rate if first.is_still else rate or average,
        decode_order=decode_order,
        one_each=packets.one_each,
        key_ticks=packets.key_ticks,
        key_stamps=packets.key_stamps,
    )


def end_ticks(last: int, duration: int, packets: PacketTimes) -> int:
    """End in ticks of the last frame, shown at `last`: as the container states, else by its packet's or the usual duration."""
    if packets.end is not None and packets.end > last:
        return packets.end
    return last + max(1, duration or round(1 / (packets.usual_rate * packets.time_base)))


def constant_rate(shown: np.ndarray, end: int, packets: PacketTimes) -> Fraction | None:
    """The constant rate in frames per second that fits all times within one tick; None: a variable rate.

    The end may differ by up to half a frame, because a clip that was cut can end within a frame.
    """
    # one or two frames fit any rate; then the end of the last one decides
    starts = np.append(shown, end) if len(shown) <= FEW_FRAMES else shown
    estimate = (len(starts) - 1) / ((int(starts[-1]) - int(starts[0])) * packets.time_base)
    standards = [standard_rate(rate) for rate in (*packets.stated_rates, estimate)]
    fits = {
        rate: misfit(starts, 1 / (rate * packets.time_base)) for rate in (*packets.stated_rates, *standards) if rate
    }
    exact = [rate for rate, ticks in fits.items() if ticks < EXACT_TICKS]
    rounded = [rate for rate, ticks in fits.items() if ticks <= 1 + EXACT_TICKS]
    if not exact and not rounded:
        return None
    rate = min(exact or rounded, key=lambda rate: rate.denominator not in (1, NTSC.denominator))
    frames_left = (end - int(shown[-1])) * packets.time_base * rate
    return rate if abs(frames_left - 1) <= HALF else None


def standard_rate(rate: Fraction) -> Fraction:
    """The nearest whole rate or its NTSC variant, frames per second; 0 below half a frame."""
    standards = [round(rate / base) * base for base in (Fraction(1), NTSC)]
    return min(standards, key=lambda standard: abs(standard - rate))


def misfit(shown: np.ndarray, step: Fraction) -> float:
    """Largest deviation in ticks of frame times from multiples of `step`; infinite if ticks are too coarse to decide."""
    if step < 4:
        return 0.0 if len(set(np.diff(shown).tolist())) == 1 and step == shown[1] - shown[0] else np.inf
    return float(np.abs(shown - shown[0] - np.arange(len(shown)) * float(step)).max())
