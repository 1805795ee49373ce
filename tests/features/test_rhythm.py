from __future__ import annotations

from itertools import pairwise
from math import log

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from features.rhythm import WEIGHT, WINDOW, Fold, Rhythm


def bought(days: list[int]) -> Rhythm:
    rhythm = Rhythm()
    for day in days:
        rhythm = rhythm.add(day) or rhythm
    return rhythm


def test_a_first_purchase_has_no_gap() -> None:
    assert bought([100]) == Rhythm((100,))


def test_two_purchases_on_one_day_are_one_purchase_day() -> None:
    rhythm = bought([100, 107])
    assert rhythm.add(107) is rhythm
    assert rhythm.add(100) is rhythm


def test_the_first_gaps_average_and_later_ones_are_smoothed() -> None:
    gaps = [3, 5, 8, 2, 2, 2, 30]
    days = [0]
    for gap in gaps:
        days.append(days[-1] + gap)
    mean = variance = 0.0
    for number, gap in enumerate(gaps, 1):
        a = max(WEIGHT, 1 / number)
        deviation = log(gap) - mean
        mean += a * deviation
        variance = (1 - a) * (variance + a * deviation**2)
    fold = bought(days).now
    assert fold == pytest.approx((len(gaps), mean, variance))


def test_with_up_to_five_gaps_mean_and_variance_are_the_plain_ones() -> None:
    logs = [log(gap) for gap in (3, 5, 8, 2)]
    fold = bought([0, 3, 8, 16, 18]).now
    mean = sum(logs) / 4
    assert fold.mean == pytest.approx(mean)
    assert fold.variance == pytest.approx(sum((x - mean) ** 2 for x in logs) / 4)


@settings(derandomize=True, max_examples=80, deadline=None)
@given(st.lists(st.integers(0, 300), min_size=1, max_size=WINDOW, unique=True), st.randoms())
def test_within_the_window_no_order_of_arrival_makes_a_difference(days: list[int], random: object) -> None:
    assert bought(days) == bought(sorted(days))
    assert bought(days) == bought(sorted(days, reverse=True))


@settings(derandomize=True, max_examples=80, deadline=None)
@given(st.lists(st.integers(0, 2_000), min_size=WINDOW + 1, max_size=40, unique=True))
def test_the_fold_over_all_days_is_the_fold_of_what_was_not_late(days: list[int]) -> None:
    rhythm = Rhythm()
    taken: list[int] = []
    for day in days:
        after = rhythm.add(day)
        if after is None:
            assert day < rhythm.days[0], "only what is older than the window is late"
            assert len(rhythm.days) == WINDOW
        else:
            rhythm = after
            taken.append(day)
    fold = Fold()
    for earlier, later in pairwise(sorted(taken)):
        fold = fold.add(later - earlier)
    assert rhythm.now == fold
    assert rhythm.days == tuple(sorted(taken)[-WINDOW:])


def test_a_day_older_than_the_window_is_late_and_a_day_within_it_is_not() -> None:
    rhythm = bought(list(range(0, 20 * WINDOW, 10)))
    first = rhythm.days[0]
    assert rhythm.add(first - 1) is None
    assert rhythm.add(first) is rhythm
    between = rhythm.add(first + 1)
    assert between is not None
    assert len(between.days) == WINDOW


def test_before_the_window_is_full_an_older_day_still_finds_its_place() -> None:
    late = bought([50, 60]).add(10)
    assert late == bought([10, 50, 60])
