from __future__ import annotations

import math
from itertools import product
from random import Random

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from models import evaluation

SETS = st.lists(
    st.tuples(st.booleans(), st.integers(0, 20).map(lambda k: k / 20) | st.floats(0, 1)), max_size=60
)
Pairs = list[tuple[bool, float]]


def split(pairs: Pairs) -> tuple[list[bool], list[float]]:
    return [churned for churned, _ in pairs], [p for _, p in pairs]


@given(SETS)
def test_auc_is_the_chance_that_who_churned_stands_above_who_stayed(pairs: Pairs) -> None:
    gone = [p for churned, p in pairs if churned]
    here = [p for churned, p in pairs if not churned]
    if not gone or not here:
        assert math.isnan(evaluation.auc(*split(pairs)))
        return
    wins = sum((a > b) + (a == b) / 2 for a, b in product(gone, here))
    assert evaluation.auc(*split(pairs)) == pytest.approx(wins / len(gone) / len(here), abs=1e-12)


@given(SETS)
def test_average_precision_is_the_precision_at_each_threshold_times_the_recall_gained(pairs: Pairs) -> None:
    total = sum(churned for churned, _ in pairs)
    if not total:
        assert math.isnan(evaluation.average_precision(*split(pairs)))
        return
    area, before = 0.0, 0
    for threshold in sorted({p for _, p in pairs}, reverse=True):
        let_in = [churned for churned, p in pairs if p >= threshold]
        area += sum(let_in) / len(let_in) * (sum(let_in) - before) / total
        before = sum(let_in)
    assert evaluation.average_precision(*split(pairs)) == pytest.approx(area, abs=1e-12)


@given(SETS.filter(bool))
def test_log_loss_and_brier_are_means_over_customers(pairs: Pairs) -> None:
    def charge(churned: bool, p: float) -> float:
        p = min(max(p, evaluation.SMALLEST), 1 - evaluation.SMALLEST)
        return -math.log(p if churned else 1 - p)

    n = len(pairs)
    assert evaluation.log_loss(*split(pairs)) == pytest.approx(sum(charge(*pair) for pair in pairs) / n)
    brier = sum((p - churned) ** 2 for churned, p in pairs) / n
    assert evaluation.brier(*split(pairs)) == pytest.approx(brier, abs=1e-12)


@given(SETS.filter(bool))
def test_calibration_error_is_the_weighted_distance_over_ten_bins_of_equal_width(pairs: Pairs) -> None:
    error = 0.0
    for k in range(10):
        inside = [(c, p) for c, p in pairs if min(int(p * 10), 9) == k]
        if inside:
            share = sum(c for c, _ in inside) / len(inside)
            mean = sum(p for _, p in inside) / len(inside)
            error += len(inside) / len(pairs) * abs(share - mean)
    assert evaluation.calibration_error(*split(pairs)) == pytest.approx(error, abs=1e-12)


@given(SETS.filter(bool))
def test_the_top_decile_counts_ties_at_its_edge_by_their_share(pairs: Pairs) -> None:
    room = math.ceil(len(pairs) / 10)
    ranked = sorted((p for _, p in pairs), reverse=True)
    edge = ranked[room - 1]
    above = [c for c, p in pairs if p > edge]
    tied = [c for c, p in pairs if p == edge]
    right = sum(above) + (room - len(above)) * sum(tied) / len(tied)
    assert evaluation.precision_top_decile(*split(pairs)) == pytest.approx(right / room, abs=1e-12)


@given(SETS.filter(bool), st.randoms(use_true_random=False))
def test_the_order_of_the_customers_does_not_matter(pairs: Pairs, shuffle: Random) -> None:
    mixed = list(pairs)
    shuffle.shuffle(mixed)
    one, two = evaluation.quality(*split(pairs)), evaluation.quality(*split(mixed))
    assert np.allclose(one, two, atol=1e-12, equal_nan=True)


def test_known_answers() -> None:
    # Worked by hand: of 6 pairs 4 stand right and one is tied.
    churned, p = [1, 0, 1, 0, 0], [0.9, 0.8, 0.3, 0.3, 0.1]
    figures = evaluation.quality(churned, p)
    assert (figures.n, figures.base_rate) == (5, 0.4)
    assert figures.auc == pytest.approx(4.5 / 6)
    assert figures.average_precision == pytest.approx(0.5 * 1.0 + 0.5 * 0.5)
    assert figures.brier == pytest.approx((0.01 + 0.64 + 0.49 + 0.09 + 0.01) / 5)
    assert figures.calibration_error == pytest.approx((0.1 + 0.8 + abs(1 - 0.6) + 0.1) / 5)
    assert figures.precision_top_decile == 1.0


def test_a_certain_score_that_was_wrong_costs_much_but_not_everything() -> None:
    assert evaluation.log_loss([1], [0.0]) == pytest.approx(-math.log(5e-7))


def test_nobody_has_no_figures() -> None:
    figures = evaluation.quality([], [])
    assert figures.n == 0
    assert all(math.isnan(figure) for figure in figures[1:])


def test_lists_of_different_length_are_refused() -> None:
    with pytest.raises(ValueError, match="same length"):
        evaluation.auc([1, 0], [0.5])
