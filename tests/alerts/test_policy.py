from __future__ import annotations

import itertools

import msgspec
import pytest

from agents.settings import Settings, SettingsError
from alerts.policy import BANDS, CAUSES, DEFAULT_ACTIONS, OFFERS, STAGES, Policy, measure, tiers, version


def test_the_defaults_have_a_measure_for_every_band_cause_and_stage() -> None:
    for band, cause, stage, waits in itertools.product(BANDS, CAUSES, STAGES, (True, False)):
        assert measure(Policy(), band, cause, stage, open_complaint=waits), (band, cause, stage)
    assert measure(Policy(), "low", "product", "repeat") is None
    assert measure(Policy(), "lapsed", "lost_rhythm", "repeat") is None


@pytest.mark.parametrize(
    ("key", "holds"),
    [
        ("tier:gold", True),  # names the tier: before all that do not
        ("open_complaint", True),
        ("product", False),  # high.product says more
        ("high.product.repeat", True),
        ("high.repeat", False),  # names no cause
        ("repeat.tier:gold", True),
        ("tier:silver", False),
        ("medium.product", False),
        ("high.open_complaint.product.repeat.tier:gold", True),
    ],
)
def test_the_entry_that_says_most_holds(key: str, holds: bool) -> None:
    policy = Policy(actions={**DEFAULT_ACTIONS, key: "mine"})
    found = measure(policy, "high", "product", "repeat", open_complaint=True, tier="gold")
    assert found == ("mine" if holds else "product_recovery_call")


def test_the_order_of_what_a_key_names_decides_between_keys_that_both_fit() -> None:
    order = ("tier:gold", "open_complaint", "price", "repeat", "high")
    for first, second in itertools.pairwise(order):
        policy = Policy(actions={first: "first", second: "second"})
        assert measure(policy, "high", "price", "repeat", open_complaint=True, tier="gold") == "first"
    for key in order:
        for other in ("tier:silver", "delivery", "first_order", "medium"):
            policy = Policy(actions={key: "fits", f"{other}": "does not"})
            assert measure(policy, "high", "price", "repeat", open_complaint=True, tier="gold") == "fits"


def test_what_is_not_known_of_a_customer_fits_no_key_that_asks_for_it() -> None:
    policy = Policy(actions={"tier:gold": "visit", "product": "replace", "open_complaint": "call"})
    assert measure(policy, "high", None, "repeat") is None
    assert measure(policy, "high", None, "repeat", tier="gold") == "visit"


def test_the_tiers_that_the_table_names_are_known() -> None:
    assert tiers(Policy()) == frozenset()
    table = {"tier:gold": "visit", "high.repeat.tier:a-1_B": "call", "high.repeat": "write"}
    assert tiers(Policy(actions=table)) == {"gold", "a-1_B"}


def test_an_empty_entry_is_no_measure() -> None:
    policy = Policy(actions={**DEFAULT_ACTIONS, "high.competitor": ""})
    assert measure(policy, "high", "competitor", "repeat") is None
    assert measure(policy, "medium", "competitor", "repeat") == "category_offer"


@pytest.mark.parametrize(
    "key", [*DEFAULT_ACTIONS, *(f"upsell.{offer}" for offer in OFFERS), "tier:a-1_B", "high"]
)
def test_keys_that_can_ever_fit_are_allowed(key: str) -> None:
    assert Policy(actions={key: "x"}).actions == {key: "x"}


@pytest.mark.parametrize(
    ("key", "says"),
    [
        ("hgh.product", "'hgh' is no part of a key; allowed are a band (medium, high), open_complaint, a cause (product, "),
        ("high.pruduct", "'pruduct' is no part of a key"),
        ("lapsed", "'lapsed' is no part of a key"),
        ("", "'' is no part of a key"),
        ("high.", "'' is no part of a key"),
        ("tier:", "'tier:' is no part of a key"),
        ("product.high", "at most one of each in this order: band, open_complaint, cause, stage, tier"),
        ("high.high", "at most one of each in this order"),
        ("high.product.price", "at most one of each in this order"),
        ("upsell.cart", "after upsell. must stand one of upgrade, cross_sell, replenish"),
        ("upsell", "after upsell. must stand one of"),
    ],
)  # fmt: skip
def test_a_key_that_can_never_fit_is_refused_with_key_value_and_what_is_allowed(key: str, says: str) -> None:
    with pytest.raises(ValueError, match="actions") as error:
        Policy(actions={key: "call"})
    assert f'actions.{key} = "call": ' in str(error.value)
    assert says in str(error.value)


def test_the_settings_say_where_such_a_key_stands() -> None:
    with pytest.raises(SettingsError) as error:
        Settings.load(flags={"policy.actions.high.produce": "call"})
    (problem,) = error.value.problems
    assert 'actions.high.produce = "call": ' in problem.text
    assert "'produce' is no part of a key; allowed are a band (medium, high)" in problem.text


def test_another_table_is_another_policy() -> None:
    assert version(Policy(actions={**DEFAULT_ACTIONS, "tier:gold": "visit"})) != version(Policy())
    again = msgspec.convert(msgspec.to_builtins(Policy()), Policy)
    assert version(again) == version(Policy())
