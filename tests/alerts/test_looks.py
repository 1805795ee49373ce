from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from alerts.looks import Grid
from alerts.policy import Policy
from features.shop import DAY, HOUR
from tests.application import START

GRID = Grid("shop", Policy())
NAMES = [f"c{number}" for number in range(2_000)]


def looks(grid: Grid, stagger: int, count: int, start: int = START) -> list[int]:
    found, after = [], start
    for _ in range(count):
        after = grid.next(start, stagger, after)
        found.append(after)
    return found


def test_looks_come_daily_to_day_14_then_a_tenth_later_and_at_most_seven_days_apart() -> None:
    stagger = GRID.stagger("ann")
    origin = START + stagger - DAY
    offsets = [(at - origin) / DAY for at in looks(GRID, stagger, 60)]
    assert offsets[:14] == [pytest.approx(n) for n in range(1, 15)]
    for earlier, later in pairwise(offsets[13:]):
        assert later - earlier == pytest.approx(min(max(1.0, earlier * 0.1), 7.0), abs=1e-9)
    gaps = [later - earlier for earlier, later in pairwise(looks(GRID, stagger, 60))]
    assert gaps == sorted(gaps)
    assert max(gaps) == 7 * DAY


def test_a_stagger_is_above_zero_and_at_most_one_step() -> None:
    staggers = [GRID.stagger(name) for name in NAMES]
    assert all(0 < stagger <= DAY for stagger in staggers)
    # The one of a million names whose hash ends in six zeros.
    assert GRID.stagger("c3668361") == DAY // 1_000_000
    finer = Grid("shop", Policy(look_days=1 / 24))
    assert all(0 < finer.stagger(name) <= HOUR for name in NAMES)


def test_a_shops_customers_are_spread_over_the_step() -> None:
    hours = [GRID.stagger(name) * 24 // (DAY + 1) for name in NAMES]
    counts = [hours.count(hour) for hour in range(24)]
    assert min(counts) > 2_000 / 24 * 0.6
    assert max(counts) < 2_000 / 24 * 1.5


def test_a_stagger_is_a_customers_own_in_each_application() -> None:
    assert GRID.stagger("ann") == Grid("shop", Policy(medium=0.5)).stagger("ann")
    assert GRID.stagger("ann") != Grid("other", Policy()).stagger("ann")
    assert Grid("a", Policy()).stagger("b\0c") == Grid("a", Policy()).stagger("b\0c")


@settings(derandomize=True, max_examples=300, deadline=None)
@given(
    st.integers(1, DAY),
    st.integers(-30 * DAY, 4_000 * DAY),
    st.sampled_from([(1.0, 7.0), (1 / 24, 7.0), (1 / 24, 1.0), (7.0, 7.0), (7.0, 1.0), (0.01, 0.01)]),
)
def test_the_next_look_is_strictly_after_and_the_first_there_is(
    stagger: int, passed: int, steps: tuple[float, float]
) -> None:
    grid = Grid("shop", Policy(look_days=steps[0], look_max_days=steps[1]))
    stagger = min(stagger, grid.step)
    after = START + passed
    found = grid.next(START, stagger, after)
    assert found > after
    assert found > START
    # Nothing of the grid lies between: one microsecond before it, it is still the next.
    assert grid.next(START, stagger, found - 1) == found
    assert grid.next(START, stagger, found) > found


@settings(derandomize=True, max_examples=50, deadline=None)
@given(st.integers(1, DAY), st.integers(0, 1_000 * DAY))
def test_the_grid_is_the_same_from_wherever_one_asks(stagger: int, passed: int) -> None:
    every = looks(GRID, stagger, 200)
    found = GRID.next(START, stagger, START + passed)
    if found <= every[-1]:
        assert found in every


def test_the_first_look_comes_at_most_one_step_after_the_event() -> None:
    for name in NAMES[:200]:
        stagger = GRID.stagger(name)
        assert START < GRID.next(START, stagger, START) <= START + DAY
