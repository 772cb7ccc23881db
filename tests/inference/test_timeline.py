"""The timeline: lengths, orders and variable rates, and reading in that order with few frames in memory."""

from collections.abc import Iterator
from fractions import Fraction
from itertools import islice

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from latentsync.inference.jobs.timeline import frames_in_order, make_timeline, runs_of
from latentsync.timebase import frames_in

RATES = [
    Fraction(24_000, 1001),
    *map(Fraction, (15, 24, 25, 30, 50, 60)),
    Fraction(30_000, 1001),
    Fraction(60_000, 1001),
]
rates = st.sampled_from(RATES)
seconds = st.integers(1, 16_000 * 12).map(lambda samples: Fraction(samples, 16_000))


def constant(count: int, fps: Fraction) -> list[Fraction]:
    return [Fraction(index) / fps for index in range(count + 1)]


def order_of(count: int, wanted: int, **policy: str) -> list[int]:
    fps = Fraction(25)
    return make_timeline(constant(count, fps), wanted / fps, 1 / fps, **policy).order.tolist()


@given(st.integers(1, 200), rates, seconds)
def test_the_output_lasts_as_long_as_the_audio(count: int, fps: Fraction, sound: Fraction) -> None:
    timeline = make_timeline(constant(count, fps), sound, 1 / fps)
    assert len(timeline) == timeline.frames_with_sound == max(1, frames_in(sound, fps))
    assert timeline.ticks.tolist() == list(range(len(timeline) + 1))
    assert abs(timeline.time_sec(len(timeline)) - float(sound)) <= 0.5 / fps + 1e-9 or len(timeline) == 1


@given(
    st.lists(st.integers(1, 200), min_size=1, max_size=40),
    st.integers(1, 20_000),
    st.sampled_from(["bounce", "loop", "hold"]),
)
def test_frames_of_a_variable_rate_are_shown_as_long_as_in_the_source(ms: list[int], sound: int, length: str) -> None:
    times = [Fraction(int(ms_sum), 1000) for ms_sum in np.cumsum([0, *ms])]
    timeline = make_timeline(times, Fraction(sound, 1000), Fraction(1, 1000), length)  # type: ignore[arg-type]
    assert np.diff(timeline.ticks).tolist() == [ms[index] for index in timeline.order]
    assert abs(int(timeline.ticks[-1]) - sound) <= max(ms) / 2 or len(timeline) == 1


@pytest.mark.parametrize("count", [1, 2, 3, 7, 30])
@pytest.mark.parametrize("wanted", [1, 6, 13, 75])
def test_bounce_does_not_repeat_the_frames_at_which_it_turns(count: int, wanted: int) -> None:
    there = list(range(count))
    cycle = there + there[-2:0:-1]
    assert order_of(count, wanted) == [cycle[frame % len(cycle)] for frame in range(wanted)]


def test_loop_hold_cut_and_keep() -> None:
    assert order_of(3, 7, length="loop") == [0, 1, 2, 0, 1, 2, 0]
    assert order_of(3, 7, length="hold") == [0, 1, 2, 2, 2, 2, 2]
    assert order_of(3, 7, length="cut") == [0, 1, 2]
    assert order_of(9, 4) == [0, 1, 2, 3]
    assert order_of(9, 4, rest="keep") == list(range(9))
    kept = make_timeline(constant(9, Fraction(25)), Fraction(4, 25), Fraction(1, 25), rest="keep")
    assert (kept.frames_with_sound, len(kept)) == (4, 9)


def test_a_loop_jumps_and_a_bounce_does_not() -> None:
    fps = Fraction(25)
    looped, bounced = (make_timeline(constant(3, fps), 7 / fps, 1 / fps, how) for how in ("loop", "bounce"))  # type: ignore[arg-type]
    assert looped.jumps.tolist() == [True, False, False, True, False, False, True]
    assert bounced.jumps.tolist() == [True] + [False] * 6


@given(st.integers(1, 40), st.integers(1, 120), st.sampled_from(["bounce", "loop", "hold"]), st.integers(1, 20))
def test_frames_in_order_are_complete(count: int, wanted: int, length: str, held: int) -> None:
    order = make_timeline(constant(count, Fraction(25)), Fraction(wanted, 25), Fraction(1, 25), length).order  # type: ignore[arg-type]
    assert list(frames_in_order(lambda start, stop: iter(range(start, stop)), order, held)) == order.tolist()
    assert [frame for run, _ in runs_of(order) for frame in run] == list(range(len(order)))


def test_backward_pieces_are_read_a_window_at_a_time() -> None:
    alive: list[int] = []

    def read_some(start: int, stop: int) -> Iterator[int]:
        alive.append(stop - start)
        yield from range(start, stop)

    order = make_timeline(constant(1000, Fraction(25)), Fraction(1990, 25), Fraction(1, 25)).order
    backwards = islice(frames_in_order(read_some, order, held=16), 1000, 1990)
    assert list(backwards) == list(range(998, 8, -1))
    assert max(alive[1:]) == 16
