from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from features.matrix import Inputs
from models import basis
from models.additive import Basis, feature
from models.basis import ALL, DERIVED, Shop, derive
from models.learned import GROUPS
from models.purchase_rate import Rates
from tests.models import made

SHOP = Shop(Rates(), 28.0, 8.0)
DENSE = [name for name in DERIVED if not DERIVED[name].sparse]
SPARSE = [name for name in DERIVED if DERIVED[name].sparse]


def of_purchases_only(n: int = 50) -> Inputs:
    nothing = np.zeros(n)
    x = made.inputs(made.rows(n, seed=5))
    sent = {
        "recency",
        "age",
        "repeats",
        "gaps",
        "gap_mean",
        "gap_variance",
        "last_gap",
        "bought_7",
        "bought_30",
    }
    sent |= {"bought_90", "order_value"}
    return Inputs(*(f if name in sent else nothing for name, f in zip(x._fields, x, strict=True)))._replace(
        satisfaction=np.ones(n)
    )


@pytest.mark.parametrize("name", DENSE)
@settings(max_examples=25)
@given(value=st.floats(-20, 20))
def test_hats_add_up_to_one_and_give_back_what_lies_between_knots(name: str, value: float) -> None:
    knots = DERIVED[name].knots
    hats = Basis([name]).transform_one({name: value})
    assert 1 <= len(hats) <= 2
    assert sum(hats.values()) == pytest.approx(1.0, abs=1e-12)
    assert DERIVED[name].height == 1.0
    back = sum(hat * knots[int(key.rpartition(":")[2])] for key, hat in hats.items())
    assert back == pytest.approx(min(max(value, knots[0]), knots[-1]), abs=1e-9)


@pytest.mark.parametrize("name", SPARSE)
def test_what_is_neutral_has_no_hat(name: str) -> None:
    neutral = feature(name, DERIVED[name].knots.index(0.0))
    assert Basis([name]).transform_one({name: 0.0}) == {}
    for value in (-1.3, -0.01, 0.01, 0.05, 0.7, 9.0):
        assert neutral not in Basis([name]).transform_one({name: value})


def test_many_at_once_are_each_on_its_own() -> None:
    values = derive(made.inputs(made.rows(300)), SHOP, ALL, then=False).now
    one = Basis(ALL)
    for row, hats in enumerate(one.transform_all(values)):
        assert hats == one.transform_one({name: float(values[name][row]) for name in ALL})


def test_a_shop_that_sends_only_purchases_has_no_other_evidence() -> None:
    x = of_purchases_only()
    hats = list(Basis(ALL).transform_all(derive(x, SHOP, ALL, then=False).now))
    found = {key.partition(":")[0] for each in hats for key in each}
    assert found <= {*DENSE, "last_gap"}


def test_every_input_reads_only_what_it_says_it_reads() -> None:
    x = made.inputs(made.rows(40, seed=3))
    other = made.inputs(made.rows(40, seed=4))
    for name, derived in DERIVED.items():
        reads = {*derived.reads, *(("recency",) if derived.timed else ())}
        mixed = Inputs(*(a if f in reads else b for f, a, b in zip(x._fields, x, other, strict=True)))
        if "age" not in reads:
            mixed = mixed._replace(age=mixed.age + 1000.0)
        for then in (False, True):
            one = derive(x, SHOP, [name], then=then)
            two = derive(mixed, SHOP, [name], then=then)
            assert np.array_equal(one.now[name], two.now[name]), name
            if name in one.then:
                assert np.array_equal(one.then[name], two.then[name]), name


def test_values_are_finite_whatever_a_customer_has_done() -> None:
    extremes = np.array([0.0, 1e-3, 1.0, 300.0, 4000.0])
    for recency in extremes:
        for gaps in (0.0, 1.0, 900.0):
            x = Inputs(*(np.zeros(1) for _ in Inputs._fields))._replace(
                recency=np.array([recency]),
                age=np.array([recency + gaps]),
                gaps=np.array([gaps]),
                satisfaction=np.ones(1),
            )
            values = derive(x, SHOP, DERIVED)
            for name, value in {**values.now, **values.then}.items():
                assert np.isfinite(value).all(), (name, recency, gaps)


def test_right_after_the_purchase_silence_has_changed_nothing() -> None:
    x = made.inputs(made.rows(60))
    x = x._replace(recency=np.zeros(60), age=x.age - x.recency)
    values = derive(x, SHOP, ALL)
    for name, before in values.then.items():
        assert np.array_equal(before, values.now[name]), name


def test_what_was_right_after_the_purchase_is_the_same_however_long_ago_it_was() -> None:
    x = made.inputs(made.rows(60))
    soon, late = derive(x, SHOP, ALL).then, derive(made.silent(x, 50.0), SHOP, ALL).then
    for name, before in soon.items():
        assert np.allclose(before, late[name], atol=1e-9), name


def test_a_table_of_instants_holds_what_each_instant_gives_alone() -> None:
    x = made.inputs(made.rows(30))
    later = made.silent(x, 11.0)
    timed = ("recency", "age", "bought_7", "bought_30", "bought_90")
    table = x._replace(**{name: np.vstack([getattr(x, name), getattr(later, name)]) for name in timed})
    found = derive(table, SHOP, ALL)
    for k, alone in enumerate((x, later)):
        expected = derive(alone, SHOP, ALL)
        for name in ALL:
            value = np.broadcast_to(found.now[name], (2, 30))[k]
            assert np.array_equal(value, expected.now[name]), name
        for name, before in expected.then.items():
            assert np.array_equal(np.broadcast_to(found.then[name], (2, 30))[k], before), name


def test_money_is_told_in_the_shops_own_orders() -> None:
    x = made.inputs(made.rows(20))
    dear = x._replace(order_value=x.order_value * 250.0)
    names = ["order_value", "paid_90"]
    one = derive(x, SHOP, names).now
    two = derive(dear, SHOP._replace(value_scale=8.0 + math.log(250.0)), names).now
    for name in names:
        assert np.allclose(one[name], two[name], atol=1e-9)


def test_every_group_is_one_that_reasons_know() -> None:
    assert {derived.group for derived in DERIVED.values()} <= set(GROUPS)
    assert set(basis.RFM) <= set(DERIVED)
    assert all(list(d.knots) == sorted(set(d.knots)) for d in DERIVED.values())
