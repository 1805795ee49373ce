from __future__ import annotations

from collections import defaultdict
from itertools import pairwise
from statistics import median

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agents.backtest.silences import NEVER, Heights, Ints, Judge, silences

HORIZON = 10
FIRST, LAST = 5, 40
END = LAST + HORIZON

purchases = st.lists(st.tuples(st.integers(0, 4), st.integers(0, END)), max_size=60)
warnings = st.lists(st.tuples(st.integers(0, 4), st.integers(0, END)), max_size=40)


def ints(values: list[int]) -> Ints:
    return np.array(values, dtype=np.int64)


def judge_of(bought: list[tuple[int, int]]) -> Judge:
    found = silences(ints([who for who, _ in bought]), ints([day for _, day in bought]))
    return Judge(found, HORIZON, FIRST, LAST)


def naive(bought: list[tuple[int, int]]) -> list[tuple[int, int, int]]:
    """(customer, begin, following) of every silence."""
    days = defaultdict(set)
    for who, day in bought:
        days[who].add(day)
    found = []
    for who in sorted(days):
        for begin, following in pairwise([*sorted(days[who]), NEVER]):
            found.append((who, begin, following))
    return found


@given(purchases, warnings)
@settings(max_examples=200, deadline=None)
def test_warnings_are_judged_as_one_would_by_hand(
    bought: list[tuple[int, int]], warned: list[tuple[int, int]]
) -> None:
    judge = judge_of(bought)
    who, day = ints([who for who, _ in warned]), ints([day for _, day in warned])
    found = judge.verdict(judge.silences.of(who, day), day)
    right, leads, total, lost, active = 0, [], 0, 0, 0
    for customer, begin, following in naive(bought):
        ends = min(following, begin + HORIZON, LAST + 1)
        active += max(0, ends - max(begin, FIRST))
        if not FIRST <= begin <= LAST:
            continue
        is_lost = following - begin > HORIZON
        lost += is_lost
        mine = [
            at for name, at in warned if name == customer and begin <= at < min(following, begin + HORIZON)
        ]
        if mine:
            total += 1
            right += is_lost
            leads += [begin + HORIZON - min(mine)] * is_lost
    assert (found.warnings, found.right) == (total, right)
    assert found.precision == (right / total if total else None)
    assert found.recall == (right / lost if lost else None)
    assert found.lead == (median(leads) if leads else None)
    days = LAST - FIRST + 1
    assert judge.active == pytest.approx(active / days)
    if active:
        assert found.weekly == pytest.approx(total / (days / 7) / (active / days) * 1000)


@given(purchases)
@settings(max_examples=100, deadline=None)
def test_a_limit_on_silence_warns_whoever_has_been_silent_for_so_long(bought: list[tuple[int, int]]) -> None:
    judge = judge_of(bought)
    for days, verdict in enumerate(judge.limits()):
        silent = [
            following - begin > HORIZON
            for _, begin, following in naive(bought)
            if FIRST <= begin <= LAST and following - begin > days
        ]
        assert (verdict.warnings, verdict.right) == (len(silent), sum(silent))
        assert verdict.lead == (HORIZON - days if any(silent) else None)


def test_everybody_is_warned_at_each_purchase_by_a_limit_of_no_days() -> None:
    judge = judge_of([(0, 10), (0, 15), (1, 20)])
    everybody = judge.limit(0)
    assert everybody.warnings == 3
    assert everybody.right == 2
    assert everybody.lead == HORIZON


def test_any_threshold_can_be_judged_from_the_heights_that_scores_came_to() -> None:
    bought = [(0, 10), (1, 10), (1, 16)]
    judge = judge_of(bought)
    heights = Heights()
    scores = {11: (0.2, 0.3), 12: (0.6, 0.3), 13: (0.5, 0.4), 14: (0.9, 0.7)}
    for day, both in scores.items():
        heights.see(ints([0, 1]), ints([10, 10]), day, np.array(both))
    heights.see(ints([1]), ints([16]), 17, np.array([0.65]))
    low, middle, high = heights.verdicts(judge, [0.3, 0.6, 0.8])
    assert (low.warnings, low.right, low.lead) == (3, 2, (8 + 9) / 2)
    assert (middle.warnings, middle.right, middle.lead) == (3, 2, (8 + 9) / 2)
    assert (high.warnings, high.right, high.lead) == (1, 1, 6)
    assert heights.verdicts(judge, [0.95])[0].warnings == 0


def test_nothing_can_be_said_of_nothing() -> None:
    judge = judge_of([])
    none = ints([])
    assert judge.verdict(none, none) == (0, 0, None, None, None, None)
    assert Heights().verdicts(judge, [0.5]) == [(0, 0, None, None, None, None)]
