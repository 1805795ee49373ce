from __future__ import annotations

import numpy as np
import pytest

from models.calibration import NONE, Affine, Repair, fit, level_kept, losses, probability, reliability
from models.evaluation import log_loss


def labels(n: int, off: Affine, seed: int = 1) -> tuple[np.ndarray, np.ndarray]:
    """Log-odds that a model says, and outcomes of which the truth is ``off`` of them."""
    random = np.random.default_rng(seed)
    said = random.normal(0.0, 1.5, n)
    return said, (random.random(n) < probability(off.of(said))).astype(float)


def blocks(
    repair: Repair, said: np.ndarray, churned: np.ndarray, size: int = 128, window: int = 4096
) -> None:
    for end in range(size, len(said) + 1, size):
        first = max(0, end - window)
        repair.after(
            (said[end - size : end], churned[end - size : end]), (said[first:end], churned[first:end])
        )


def test_losses_are_those_of_the_probabilities() -> None:
    said, churned = labels(500, NONE)
    assert float(losses(said, churned).mean()) == pytest.approx(
        log_loss(churned, probability(said)), abs=1e-12
    )
    assert np.isfinite(losses(np.array([-1e6, 1e6]), np.array([1.0, 0.0]))).all()


def test_a_fit_finds_how_far_a_model_is_off() -> None:
    said, churned = labels(40_000, Affine(0.5, -1.0))
    assert fit(said, churned) == pytest.approx((0.5, -1.0), abs=0.05)


def test_a_fit_is_the_lowest_point_of_the_loss_it_is_held_by() -> None:
    said, churned = labels(1_000, Affine(1.4, 0.3))
    best = fit(said, churned)

    def held(a: Affine) -> float:
        return float(losses(a.of(said), churned).sum()) + 5.0 * ((a.scale - 1.0) ** 2 + a.shift**2)

    for step in (1e-3, -1e-3):
        assert held(best) < held(Affine(best.scale + step, best.shift))
        assert held(best) < held(Affine(best.scale, best.shift + step))


@pytest.mark.parametrize("outcome", [0.0, 1.0])
def test_labels_of_one_kind_only_do_not_carry_a_fit_away(outcome: float) -> None:
    said = np.linspace(-3, 3, 700)
    found = fit(said, np.full(700, outcome))
    assert 0.25 <= found.scale <= 4.0
    assert abs(found.shift) < 20.0


def test_a_model_that_is_right_is_left_alone() -> None:
    repair = Repair()
    blocks(repair, *labels(20_000, NONE))
    assert repair.holds == NONE
    assert repair.published().scale == 1.0


def test_a_model_that_is_off_is_repaired_and_left_alone_again_when_it_has_come_right() -> None:
    repair = Repair()
    wrong = labels(8_192, Affine(0.4, 0.0))
    blocks(repair, *wrong)
    assert repair.holds == pytest.approx((0.4, 0.0), abs=0.1)
    assert repair.gain > 0.03
    right = labels(8_192, NONE, seed=2)
    again = Repair()
    blocks(again, np.concatenate([wrong[0], right[0]]), np.concatenate([wrong[1], right[1]]))
    assert again.holds == NONE


def test_a_season_in_which_all_churn_less_repairs_nothing() -> None:
    repair = Repair()
    blocks(repair, *labels(8_192, Affine(1.0, -0.8)))
    assert repair.holds.of(np.zeros(1)) == pytest.approx(0.0, abs=0.1)
    assert repair.holds.scale == pytest.approx(1.0, abs=0.1)


@pytest.mark.parametrize("fitted", [Affine(0.5, -1.0), Affine(2.0, 3.0), Affine(4.0, 0.0), Affine(1.0, -0.8)])
def test_a_repair_leaves_the_mean_probability_as_it_was(fitted: Affine) -> None:
    said = labels(2_000, NONE)[0] - 1.0
    kept = level_kept(fitted, said)
    assert kept.scale == fitted.scale
    assert probability(kept.of(said)).mean() == pytest.approx(probability(said).mean(), abs=1e-9)


def test_a_repair_goes_on_after_a_restart_as_if_there_had_been_none() -> None:
    said, churned = labels(6_400, Affine(0.7, 0.4))
    straight, stopped = Repair(), Repair()
    blocks(straight, said[:3200], churned[:3200])
    blocks(stopped, said[:3200], churned[:3200])
    stopped = Repair.restored(stopped.state())
    for repair in (straight, stopped):
        blocks(repair, said[3200:], churned[3200:])
    assert stopped.state() == straight.state()


def test_reliability_counts_every_label_once_and_says_what_came_of_it() -> None:
    p = np.array([0.0, 0.05, 0.1, 0.99, 1.0, 1.0])
    churned = np.array([0.0, 1.0, 0.0, 1.0, 1.0, 0.0])
    bands = reliability(p, churned)
    assert [b.labels for b in bands] == [2, 1, 0, 0, 0, 0, 0, 0, 0, 3]
    assert (bands[0].stated, bands[0].churned) == (0.025, 0.5)
    assert (bands[9].stated, bands[9].churned) == (0.996667, 0.666667)
    assert (bands[4].stated, bands[4].churned) == (None, None)
