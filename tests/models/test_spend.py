from __future__ import annotations

import csv
import json
import math
from random import Random

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from features.matrix import Floats
from models import purchase_rate, spend
from models.purchase_rate import Rates
from models.spend import OnlineSpend, Spend
from tests.models import shops

P, Q, G = 6.25, 3.74, 15.44
"""Fader and Hardie (2013): the repeat purchases of the sample of CDNOW, whose log-likelihood is -4055.92."""
PUBLISHED = Spend(mean=P * G / (Q - 1), strength=(Q - 1) / P, shape=P)
SPENDS = st.builds(Spend, mean=st.floats(0.01, 1e7), strength=st.floats(0.01, 50), shape=st.floats(0.05, 50))


def cdnow() -> tuple[Floats, Floats]:
    """Repeat purchases of 39 weeks and their mean value, of those who have any."""
    _, summary = shops.sample()
    read = csv.DictReader(summary.read_text().splitlines())
    rows = [(float(row["x"]), float(row["zbar"])) for row in read if float(row["x"])]
    orders, value = np.array(rows).T
    assert len(orders) == 946
    return orders, value


def test_the_published_fit_of_cdnow_has_the_published_likelihood() -> None:
    assert spend.log_likelihood(PUBLISHED, *cdnow()).sum() == pytest.approx(-4055.92, abs=0.01)


def test_the_online_estimate_of_cdnow_approaches_the_published_fit() -> None:
    orders, value = cdnow()
    online = OnlineSpend(shop=1e6)
    for n, m in zip(orders.tolist(), value.tolist(), strict=True):
        online.learn_one(n, m, 0.0)
    online.refit(steps=10)
    assert online.spend is not None
    assert spend.log_likelihood(online.spend, orders, value).sum() == pytest.approx(-4055.92, abs=0.1)
    assert online.spend.mean == pytest.approx(PUBLISHED.mean, rel=0.02)
    expected, published = (spend.expected_value(s, orders, value) for s in (online.spend, PUBLISHED))
    assert np.allclose(expected, published, rtol=0.02)


def test_the_next_amount_expected_is_that_of_customers_who_act_as_the_model_says() -> None:
    random = np.random.default_rng(8)
    size = 300_000
    orders = random.integers(1, 6, size).astype(np.float64)
    inverse = random.gamma(Q, 1.0 / G, size)
    value = random.gamma(P * orders, 1.0 / inverse) / orders
    following = random.gamma(P, 1.0 / inverse)
    expected = spend.expected_value(PUBLISHED, orders, value)
    for n in range(1, 6):
        for group in (value < 25, value >= 25):
            some = (orders == n) & group
            off = following[some] - expected[some]
            assert abs(off.mean()) < 4.5 * off.std() / math.sqrt(some.sum())


def test_without_orders_the_mean_of_the_shop_is_expected_and_with_many_the_customer_s_own() -> None:
    assert spend.expected_value(PUBLISHED, np.array([0.0]), np.array([0.0]))[0] == pytest.approx(
        PUBLISHED.mean
    )
    assert spend.expected_value(PUBLISHED, np.array([1e6]), np.array([9.0]))[0] == pytest.approx(
        9.0, rel=1e-4
    )


@given(SPENDS, st.integers(0, 500), st.floats(0.0, 1e7))
def test_the_amount_expected_lies_between_the_customer_s_own_and_the_shop_s(
    s: Spend, orders: int, own: float
) -> None:
    found = spend.expected_value(s, np.array([float(orders)]), np.array([own]))[0]
    assert min(own, s.mean) * (1 - 1e-12) <= found <= max(own, s.mean) * (1 + 1e-12)


@given(SPENDS, st.integers(1, 500), st.floats(1e-2, 1e7), st.floats(1e-3, 1e3))
def test_the_currency_changes_nothing_but_the_unit(s: Spend, orders: int, own: float, factor: float) -> None:
    n, m = np.array([float(orders)]), np.array([own])
    other = Spend(s.mean * factor, s.strength, s.shape)
    assert spend.expected_value(other, n, m * factor)[0] == pytest.approx(
        factor * spend.expected_value(s, n, m)[0], rel=1e-9
    )
    assert spend.log_likelihood(other, n, m * factor)[0] == pytest.approx(
        spend.log_likelihood(s, n, m)[0] - math.log(factor), rel=1e-9, abs=1e-6
    )


def test_twelve_months_are_the_purchases_expected_at_the_amount_expected() -> None:
    rates = Rates()
    x, t_x, age = np.array([0.0, 4.0]), np.array([0.0, 90.0]), np.array([30.0, 100.0])
    orders, value = np.array([1.0, 5.0]), np.array([20.0, 50.0])
    clv = spend.predicted_clv(rates, PUBLISHED, x, t_x, age, orders, value)
    bought = purchase_rate.expected_purchases(rates, x, t_x, age, 365.0)
    assert clv == pytest.approx(bought * spend.expected_value(PUBLISHED, orders, value))
    twice_a_day = spend.predicted_clv(rates, PUBLISHED, x, t_x, age, orders * 2, value)
    more = spend.expected_value(PUBLISHED, orders * 2, value) / spend.expected_value(PUBLISHED, orders, value)
    assert twice_a_day == pytest.approx(2 * clv * more)
    assert (spend.predicted_clv(rates, PUBLISHED, x, t_x, age, orders, value, 730.0) > clv).all()


def shop(seed: int, customers: int) -> list[tuple[float, float, float]]:
    """Snapshots of customers who act as the published model says: orders, mean value, when."""
    random = np.random.default_rng(seed)
    found = []
    for _ in range(customers):
        inverse = random.gamma(Q, 1.0 / G)
        amounts: list[float] = []
        for month in range(4):
            amounts += random.gamma(P, 1.0 / inverse, 1 + random.poisson(1.0)).tolist()
            found.append((float(len(amounts)), math.fsum(amounts) / len(amounts), 30.0 * month))
    return sorted(found, key=lambda row: row[2])


def taught(online: OnlineSpend, snapshots: list[tuple[float, float, float]]) -> OnlineSpend:
    for snapshot in snapshots:
        online.learn_one(*snapshot)
    return online


def test_customers_who_come_again_do_not_lead_the_estimate_astray() -> None:
    found = taught(OnlineSpend(shop=1e6, half_life=1e6), shop(1, 4000)).spend
    assert found is not None
    assert found.mean == pytest.approx(PUBLISHED.mean, rel=0.05)
    for orders in (1.0, 2.0, 5.0):
        n, value = np.full(4, orders), np.array([5.0, 20.0, 40.0, 120.0])
        assert spend.expected_value(found, n, value) == pytest.approx(
            spend.expected_value(PUBLISHED, n, value), rel=0.08
        )


def test_nothing_is_said_before_anything_is_known_and_a_little_is_shrunk() -> None:
    assert OnlineSpend().spend is None
    assert taught(OnlineSpend(), shop(1, 4000)[:15]).spend is None
    few = taught(OnlineSpend(), [(1.0, 10.0, 0.0)] * 16).spend
    assert few is not None
    assert 5 < few.mean < 20
    assert 0.05 < few.strength < 5
    assert 1 < few.shape < 40


def test_a_customer_without_an_amount_says_nothing() -> None:
    online = OnlineSpend()
    online.learn_one(0, 0.0, 1.0)
    online.learn_one(3, 0.0, 1.0)
    assert online.snapshots == 0
    with pytest.raises(ValueError, match="no snapshot"):
        online.learn_one(1, math.nan, 1.0)


def test_the_order_matters_little() -> None:
    snapshots = shop(2, 800)
    other = list(snapshots)
    Random(2).shuffle(other)
    found = [taught(OnlineSpend(), rows) for rows in (snapshots, other)]
    for online in found:
        online.refit(steps=20)
    one, two = (online.spend for online in found)
    assert one is not None
    assert two is not None
    assert spend._logs(one) == pytest.approx(spend._logs(two), abs=1e-4)


def test_the_state_goes_through_json_and_the_rest_is_learned_as_if_nothing_had_been_between() -> None:
    snapshots = shop(3, 700)
    for cut in (0, 10, 1500):
        before = taught(OnlineSpend(), snapshots[:cut])
        after = OnlineSpend()
        after.restore(json.loads(json.dumps(before.state())))
        assert taught(after, snapshots[cut:]).state() == taught(OnlineSpend(), snapshots).state()


def test_what_is_no_state_is_refused_and_changes_nothing() -> None:
    online = taught(OnlineSpend(), shop(4, 10))
    before = online.state()
    for wrong in (None, {}, before | {"cells": [[1]]}, before | {"spend": {"mean": 0}}, before | {"more": 1}):
        with pytest.raises(ValueError, match="no state of the spend model"):
            online.restore(wrong)
    assert online.state() == before


def test_years_of_snapshots_take_no_more_room_and_old_ones_fade() -> None:
    online = OnlineSpend(half_life=10.0)
    snapshots = shop(5, 100)
    for year in range(20):
        taught(online, [(n, m * 1.5**year, at + 365.0 * year) for n, m, at in snapshots])
        online.refit(steps=8)
        assert len(online.state()["cells"]) < 300  # type: ignore[arg-type]
    assert online.spend is not None
    assert online.spend.mean == pytest.approx(PUBLISHED.mean * 1.5**19, rel=0.2)


@pytest.mark.parametrize("setting", ["strength", "shape", "half_life", "shop", "every"])
def test_settings_that_are_not_positive_are_refused(setting: str) -> None:
    with pytest.raises(ValueError, match=f"{setting} \\(0\\)"):
        OnlineSpend(**{setting: 0})
