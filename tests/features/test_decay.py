from __future__ import annotations

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from features import decay
from features.shop import DAY
from tests.application import START

INSTANTS = st.lists(st.integers(START, START + 400 * DAY), min_size=1, max_size=12)


def naive(instants: list[int], half_life: float, at: int) -> float:
    return sum(math.pow(0.5, (at - instant) / (half_life * DAY)) for instant in instants)


def folded(instants: list[int]) -> tuple[decay.Trio, int]:
    counters, ref = decay.NONE, 0
    for at in instants:
        counters = decay.add(counters, ref, at)
        ref = max(ref, at)
    return counters, ref


@settings(derandomize=True, max_examples=60, deadline=None)
@given(INSTANTS, st.integers(0, 400 * DAY))
def test_a_counter_is_the_sum_of_its_faded_events_in_any_order(instants: list[int], later: int) -> None:
    at = max(instants) + later
    for order in (instants, sorted(instants), sorted(instants, reverse=True)):
        counters, ref = folded(order)
        found = decay.value(counters, ref, at)
        assert found == pytest.approx(
            tuple(naive(instants, half, at) for half in decay.HALF_LIVES), rel=1e-9, abs=1e-12
        )


def test_an_event_counts_half_after_a_half_life() -> None:
    counters, ref = folded([START])
    assert counters == (1.0, 1.0, 1.0)
    for place, days in enumerate(decay.HALF_LIVES):
        assert decay.value(counters, ref, START + days * DAY)[place] == pytest.approx(0.5)


def test_an_instant_before_the_newest_event_reads_as_that_event() -> None:
    counters, ref = folded([START])
    assert decay.value(counters, ref, START - DAY) == counters


def test_silence_only_ever_lowers_a_counter() -> None:
    counters, ref = folded([START, START + DAY])
    values = [decay.value(counters, ref, ref + days * DAY) for days in (0, 1, 10, 100, 100_000)]
    assert values == sorted(values, reverse=True)
    assert values[-1] == (0.0, 0.0, 0.0)


def test_fading_is_one_at_once_and_never_more() -> None:
    assert decay.fade(0, 7.0) == 1.0
    assert decay.fade(-DAY, 7.0) == 1.0
    assert decay.fade(7 * DAY, 7.0) == pytest.approx(0.5)
    assert math.isfinite(decay.fade(2**62, 0.001))
