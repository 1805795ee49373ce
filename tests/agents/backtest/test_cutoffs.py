from __future__ import annotations

import numpy as np
import pytest

from agents.backtest.cutoffs import Settled, Stated, days, figures, gains, reliability, settle
from agents.backtest.silences import silences


def stated(day: int, probabilities: list[float], active: list[bool] | None = None) -> Stated:
    places = np.arange(len(probabilities))
    mask = np.array(active if active is not None else [True] * len(places))
    return Stated(day, places, mask, {"champion": np.array(probabilities)}, "learned")


def test_cut_offs_go_from_the_middle_of_the_span_to_its_end_minus_the_horizon() -> None:
    assert days(0, 100, 28, 7) == [50, 57, 64, 71]
    assert days(0, 100, 28, 28, start=20) == [20, 48]
    assert days(0, 100, 28, 28, start=-5) == [0, 28, 56]
    assert days(0, 100, 60, 28) == []
    assert days(0, 100, 50, 28) == [50]


def test_churned_is_who_buys_nothing_on_the_days_after_the_cut_off_up_to_the_horizon() -> None:
    # Bought on day 0; then on the last day of the horizon, a day later, never, and on the cut-off's own day.
    bought = silences(np.array([0, 1, 2, 3, 0, 1, 3]), np.array([0, 0, 0, 0, 20, 21, 10]))
    (settled,) = settle([stated(10, [0.1, 0.2, 0.3, 0.4])], bought, 10)
    assert settled.churned.tolist() == [False, True, True, True]


def test_figures_are_of_each_population_and_means_are_over_the_cut_offs() -> None:
    one = Settled(
        stated(50, [0.9, 0.2, 0.4, 0.8], [True, True, True, False]), np.array([True, False, False, False])
    )
    two = Settled(stated(78, [0.9, 0.2], [True, False]), np.array([True, True]))
    found = figures([one, two], ["champion"])
    cutoffs = found["all"]["cutoffs"]
    assert isinstance(cutoffs, list)
    assert [each["time"] for each in cutoffs] == ["1970-02-20", "1970-03-20"]
    assert [(each["n"], each["base_rate"]) for each in cutoffs] == [(4, 0.25), (2, 1.0)]
    assert cutoffs[0]["champion"]["auc"] == 1.0
    # Of one outcome alone nothing can be ranked: such a cut-off is left out of that mean.
    assert cutoffs[1]["champion"]["auc"] is None
    mean = found["all"]["mean"]
    assert isinstance(mean, dict)
    assert mean["champion"]["auc"] == 1.0
    both = (cutoffs[0]["champion"]["brier"] + cutoffs[1]["champion"]["brier"]) / 2
    assert mean["champion"]["brier"] == pytest.approx(both, abs=1e-6)
    active = found["active"]["cutoffs"]
    assert isinstance(active, list)
    assert [each["n"] for each in active] == [3, 1]


def test_reliability_tells_what_happened_for_each_tenth_of_the_probabilities() -> None:
    found = Settled(stated(50, [0.05, 0.15, 0.15, 1.0]), np.array([False, True, False, True]))
    bins = reliability([found], "champion")
    assert [each.customers for each in bins] == [1, 2, 1]
    assert [each.stated for each in bins] == pytest.approx([0.05, 0.15, 1.0])
    assert [each.churned for each in bins] == [0.0, 0.5, 1.0]


def test_gains_rise_as_steeply_as_the_score_sorts_and_by_chance_where_it_says_nothing() -> None:
    churned = np.array([True, True, False, False, False, False, False, False])
    perfect = Settled(stated(50, [0.9, 0.8, 0.1, 0.1, 0.1, 0.1, 0.1, 0.1]), churned)
    x, y = gains([perfect], "champion", "all", points=8)
    assert y[2] == pytest.approx(1.0)
    nothing = Settled(stated(50, [0.5] * 8), churned)
    x, y = gains([nothing], "champion", "all", points=8)
    assert y.tolist() == pytest.approx(x.tolist())
