from __future__ import annotations

from itertools import permutations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from features.cold import (
    CART,
    CASES,
    COUNTED,
    OFFERED,
    CartItem,
    Case,
    Cold,
    Interest,
    bounded_cart,
    bounded_cases,
    bounded_offers,
    counted,
    in_cart,
    interested,
    most,
    profiled,
    tier,
    unprofiled,
)
from features.customer import pack_cold, unpack_cold
from features.decay import fade
from tests.application import day


@settings(derandomize=True, max_examples=60, deadline=None)
@given(st.lists(st.integers(0, 500), min_size=1, max_size=8))
def test_interest_is_the_same_in_any_order(days: list[int]) -> None:
    newest = day(max(days))
    expected = sum(fade(newest - day(number), 90.0) for number in days)
    for order in (days, sorted(days), sorted(days, reverse=True)):
        known: dict[str, Interest] = {}
        for number in order:
            known = interested(known, ["tea"], day(number), 90.0, 4)
        found = known["tea"]
        assert (found.events, found.first, found.last) == (len(days), day(min(days)), newest)
        assert found.weight == pytest.approx(expected)


def test_the_mean_gap_needs_two_events_at_two_instants() -> None:
    assert Interest(1, day(0), day(0), 1.0).gap_days() is None
    assert Interest(2, day(0), day(0), 2.0).gap_days() is None
    assert Interest(3, day(0), day(10), 2.0).gap_days() == pytest.approx(5.0)


def test_of_too_many_interests_the_faintest_goes_whenever_one_looks() -> None:
    known: dict[str, Interest] = {}
    for number, name in enumerate(["old", "newer", "newest"]):
        known = interested(known, [name], day(number * 30), 90.0, 3)
    assert interested(known, ["one"], day(91), 90.0, 3).keys() == {"newer", "newest", "one"}


def test_of_interests_that_weigh_the_same_the_greater_name_goes_in_any_order() -> None:
    for order in permutations(["a", "b", "c"]):
        known: dict[str, Interest] = {}
        for name in order:
            known = interested(known, [name], day(0), 90.0, 2)
        assert known.keys() == {"a", "b"}


def test_a_case_is_open_until_it_is_resolved_or_closed() -> None:
    case = Case(0).begun("service", day(0))
    assert case.open
    assert case.updated("answered", day(1)).open
    assert not case.updated("resolved", day(1)).open
    assert not case.updated("closed", day(1)).open
    assert case.updated("closed", day(1)).updated("reopened", day(2)).open


def test_updates_of_a_case_commute_and_of_two_at_one_instant_the_later_stage_holds() -> None:
    updates = [("reopened", day(2)), ("resolved", day(2)), ("answered", day(3)), ("closed", day(1))]
    ends = set()
    for order in permutations(updates):
        case = Case(0).begun("price", day(0))
        for status, at in order:
            case = case.updated(status, at)
        ends.add(case)
    assert ends == {Case(day(0), "price", "answered", day(3))}
    assert Case(1).updated("resolved", 5).updated("reopened", 5).status == "resolved"


def test_an_update_before_its_opening_waits_for_it() -> None:
    early = Case(0).updated("resolved", day(2))
    assert not early.open
    assert early.begun("other", day(1)) == Case(0).begun("other", day(1)).updated("resolved", day(2))


def test_of_several_openings_the_earliest_holds() -> None:
    assert Case(0).begun("b", day(2)).begun("a", day(1)) == Case(0).begun("a", day(1)).begun("b", day(2))
    assert Case(0).begun("b", day(1)).begun("a", day(1)).kind == "a"


def test_closed_cases_go_first_then_the_oldest() -> None:
    cases = {f"open{number:02}": Case(day(number)) for number in range(CASES - 1)}
    cases |= {f"closed{number}": Case(day(100), "", "closed", day(100 + number)) for number in range(2)}
    kept = bounded_cases(cases)
    assert len(kept) == CASES
    assert kept.keys() & {"closed0", "closed1"} == {"closed1"}
    cases = {f"open{number:02}": Case(day(number + 1)) for number in range(CASES + 1)}
    assert "open00" not in bounded_cases(cases)


def test_what_was_taken_out_or_bought_is_not_in_the_cart() -> None:
    cold = Cold(
        cart={
            "in": CartItem(day(2)),
            "again": CartItem(day(2), day(1)),
            "out": CartItem(day(1), day(2)),
            "settled": CartItem(day(0)),
            "both": CartItem(day(2), day(2)),
        }
    )
    assert in_cart(cold, day(1)).keys() == {"in", "again"}


def test_the_newest_of_a_cart_are_kept_and_a_purchase_clears_it() -> None:
    cart = {f"s{number:02}": CartItem(day(number + 1)) for number in range(CART + 3)}
    assert bounded_cart(cart, 0).keys() == set(sorted(cart)[3:])
    assert bounded_cart(cart, day(50)) == {}


def test_counts_keep_the_most_counted_names_and_all_numbers() -> None:
    known: dict[str, int] = {}
    for number in range(COUNTED):
        known = counted(counted(known, f"n{number}"), f"n{number}")
    assert counted(known, "once") == known
    hours: dict[int, int] = {}
    for hour in range(24):
        hours = counted(hours, hour)
    assert len(hours) == 24


def test_the_most_counted_is_the_smallest_of_several() -> None:
    assert most({}) is None
    assert most({"b": 2, "a": 2, "c": 1}) == "a"
    assert most({5: 1, 3: 2}) == 3


def test_the_newest_offers_are_remembered() -> None:
    offers = {f"o{number}": number for number in range(OFFERED + 10)}
    assert min(bounded_offers(offers).values()) == 10
    assert bounded_offers({"a": 1}) == {"a": 1}


@given(
    st.lists(
        st.tuples(
            st.sampled_from([None, "gold", "silver"]), st.sampled_from([1, 2, 3]), st.sampled_from([0, 4])
        ),
        max_size=5,
    )
)
def test_the_newest_profile_tells_the_tier_in_whatever_order_they_are_read(
    profiles: list[tuple[str | None, int, int]],
) -> None:
    expected = max(((at, name or "") for name, at, _ in profiles), default=(0, ""))[1] or None
    for order in permutations(profiles):
        cold = Cold()
        for name, at, topic in order:
            cold = unpack_cold(pack_cold(profiled(cold, name, at, topic)))
        assert tier(cold) == expected


def test_a_tombstone_takes_away_what_its_own_topic_told() -> None:
    cold = profiled(profiled(Cold(), "gold", day(2), 4), "silver", day(1), 0)
    assert tier(cold) == "gold"
    assert tier(unprofiled(cold, 4)) == "silver"
    assert unprofiled(unprofiled(cold, 4), 0) == Cold()
    again = profiled(unprofiled(cold, 4), "basic", day(1.5), 4)
    assert tier(again) == "basic", "older than what was cleared, and said after it"


def test_what_changes_no_tier_changes_nothing() -> None:
    cold = profiled(Cold(), "gold", day(2), 4)
    assert profiled(cold, "gold", day(2), 4) is cold
    assert profiled(cold, "platinum", day(1), 4) is cold
    assert unprofiled(cold, 0) is cold
