from __future__ import annotations

import numpy as np
import pytest

from agents.backtest.horizon import suggest
from agents.prior import Purchases, TooLittle


def shop(gap: float, days: int, customers: int = 200, seed: int = 3) -> Purchases:
    dice = np.random.Generator(np.random.PCG64(seed))
    found: dict[str, list[int]] = {}
    for number in range(customers):
        at, bought = dice.uniform(0, gap), []
        while at < days:
            bought.append(int(at))
            at += max(1.0, dice.exponential(gap))
        if bought:
            found[f"c{number}"] = bought
    return Purchases(found, 0, days)


def test_three_quarters_of_those_who_come_again_have_done_so_within_the_horizon() -> None:
    found = suggest(shop(40.0, 1500))
    # Of exponential gaps three quarters are below 1.386 times their mean.
    assert found.rule == "share"
    assert found.days == 56
    assert found.within[0.5] < found.within[0.75] < found.within[0.95]
    assert sum(found.weeks) == pytest.approx(1.0)


def test_gaps_that_the_end_of_the_file_hides_are_counted_as_under_way() -> None:
    long, short = suggest(shop(60.0, 2000)), suggest(shop(60.0, 400, customers=1500))
    # The gaps that were seen to their end are shorter in the short file; the horizon is not.
    assert short.within[0.75] == pytest.approx(long.within[0.75], rel=0.12)


def test_a_horizon_is_four_weeks_at_least() -> None:
    found = suggest(shop(4.0, 400))
    assert (found.days, found.rule) == (28, "least")


def test_a_horizon_is_a_quarter_of_the_file_at_most() -> None:
    found = suggest(shop(150.0, 400, customers=900))
    assert (found.days, found.rule) == (98, "span")


def test_too_little_is_said_with_what_is_missing() -> None:
    with pytest.raises(TooLittle) as refused:
        suggest(shop(20.0, 60, customers=10))
    assert len(refused.value.missing) == 2
    assert "it takes 200" in refused.value.missing[0]
    assert "it takes 112" in refused.value.missing[1]
