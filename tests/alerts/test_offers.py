from __future__ import annotations

import pytest

from alerts.offers import Candidate, candidates
from alerts.policy import Policy
from features.cold import CartItem, Cold, Interest
from features.customer import Customer
from features.shop import DAY, HOUR
from tests.application import day

POLICY = Policy()
BUYER = Customer(orders=5, last_purchase=day(40))


def often(gap: float = 10.0, events: int = 4, last: float = 30.0) -> Interest:
    return Interest(events, day(last - gap * (events - 1)), day(last), 2.0)


def offered(cold: Cold, at: int, customer: Customer = BUYER, policy: Policy = POLICY) -> list[str]:
    return [candidate.key for candidate in candidates(customer, cold, at, policy)]


@pytest.mark.parametrize(
    ("passed", "due"), [(8.9, False), (9.0, True), (10.0, True), (15.0, True), (15.1, False)]
)
def test_a_category_is_due_by_its_own_rhythm(passed: float, due: bool) -> None:
    cold = Cold(basket={"tea": often()})
    assert offered(cold, day(30 + passed)) == (["replenish|tea"] if due else [])


@pytest.mark.parametrize(("passed", "lapsed"), [(19.9, False), (20.0, True), (60.0, True), (60.1, False)])
def test_a_category_that_is_bought_no_more_may_be_won_back(passed: float, lapsed: bool) -> None:
    cold = Cold(basket={"tea": often()})
    assert offered(cold, day(30 + passed)) == (["category_reactivation|tea"] if lapsed else [])
    gone = Customer(orders=5, last_purchase=day(30))
    assert offered(cold, day(30 + passed), gone) == [], "only of someone who still buys other things"


def test_two_purchases_or_a_daily_rhythm_are_no_rhythm() -> None:
    assert offered(Cold(basket={"tea": often(events=2)}), day(40)) == []
    assert offered(Cold(basket={"tea": often(events=3)}), day(40)) == ["replenish|tea"]
    assert offered(Cold(basket={"tea": often(gap=0.5)}), day(30.5)) == []
    assert offered(Cold(basket={"tea": Interest(5, day(30), day(30), 5.0)}), day(40)) == []


@pytest.mark.parametrize(
    ("age", "left"), [(4 * HOUR - 1, False), (4 * HOUR, True), (7 * DAY, True), (7 * DAY + 1, False)]
)
def test_a_cart_is_left_after_some_hours_and_for_a_week(age: int, left: bool) -> None:
    cold = Cold(cart={"s1": CartItem(day(50))})
    assert offered(cold, day(50) + age) == (["cart_abandoned|s1"] if left else [])


def test_what_was_bought_or_taken_out_is_not_left() -> None:
    cold = Cold(cart={"bought": CartItem(day(40)), "out": CartItem(day(50), day(50) + 1)})
    assert offered(cold, day(51)) == []


def test_three_fresh_views_of_what_was_not_bought_are_worth_an_offer() -> None:
    cold = Cold(browsed={"tea": Interest(3, day(50), day(50), 3.0)})
    assert offered(cold, day(50)) == ["browse_abandoned|tea"]
    assert offered(cold, day(51)) == [], "they fade"
    assert offered(Cold(browsed={"tea": Interest(2, day(50), day(50), 2.0)}), day(50)) == []
    bought = Interest(1, day(50), day(50), 1.0)
    assert offered(Cold(browsed=cold.browsed, basket={"tea": bought}), day(50)) == []
    before = Interest(1, day(49), day(49), 1.0)
    assert offered(Cold(browsed=cold.browsed, basket={"tea": before}), day(50)) == ["browse_abandoned|tea"]


def test_nothing_is_offered_again_within_the_days_of_the_policy() -> None:
    at = day(40)
    for ago, again in ((0, False), (30 * DAY, False), (30 * DAY + 1, True)):
        cold = Cold(basket={"tea": often()}, offered={"replenish|tea": at - ago})
        assert bool(offered(cold, at)) is again
    cold = Cold(basket={"tea": often()}, offered={"category_reactivation|tea": at, "replenish|milk": at})
    assert offered(cold, at) == ["replenish|tea"]


def test_the_strongest_come_first_and_names_decide_between_equals() -> None:
    basket = {name: often() for name in ("b", "a", "d", "c", "f", "e")}
    cold = Cold(basket=basket, cart={"s1": CartItem(day(41) - 5 * HOUR)})
    assert offered(cold, day(41)) == [
        "cart_abandoned|s1",
        "replenish|a",
        "replenish|b",
        "replenish|c",
        "replenish|d",
    ]


def test_the_order_of_the_maps_makes_no_difference() -> None:
    names = [f"n{number}" for number in range(12)]
    one = Cold(basket={name: often() for name in names})
    other = Cold(basket={name: often() for name in reversed(names)})
    assert offered(one, day(41)) == offered(other, day(41))


def test_an_offer_says_why_in_a_sentence() -> None:
    cold = Cold(
        basket={"tea": often(), "sku:s7": often(last=15)},
        cart={"s1": CartItem(day(41) - 5 * HOUR)},
        browsed={"milk": Interest(4, day(41), day(41), 4.0)},
    )
    found = {candidate.key: candidate for candidate in candidates(BUYER, cold, day(41), POLICY)}
    assert {key: candidate.text for key, candidate in found.items()} == {
        "replenish|tea": "Buys tea about every 10 days, last 11 days ago.",
        "category_reactivation|sku:s7": "Used to buy s7 every 10 days, but not for 26 days.",
        "cart_abandoned|s1": "Left s1 in the cart 5 hours ago.",
        "browse_abandoned|milk": "Looked at milk 4 times and did not buy.",
    }
    assert all(isinstance(candidate, Candidate) for candidate in found.values())
