from __future__ import annotations

import math
from collections.abc import Sequence

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from alerts.reasons import _TELLS, BASE, GROUP_OF, reasons, weightiest
from alerts.words import ENGLISH
from features.cold import Case, Cold, Interest
from features.customer import Customer
from features.rhythm import Rhythm
from features.shop import DAY, HOUR
from features.signals import Signals
from models.churn import GROUPS
from streams.alerts import Reason
from tests.alerts.evidence import BUYER, evidence
from tests.application import day

with_ = msgspec.structs.replace


def one(*arguments: object, **changes: object) -> Reason:
    """The only reason beside the base."""
    first, base = reasons(evidence(*arguments, **changes))  # type: ignore[arg-type]
    assert base.feature == BASE
    return first


def regular(every: int, orders: int) -> Customer:
    """Has bought on every so many days from day 0."""
    rhythm = Rhythm()
    for number in range(orders):
        added = rhythm.add(day(number * every) // DAY)
        assert added is not None
        rhythm = added
    return with_(BUYER, orders=orders, rhythm=rhythm, last_purchase=day((orders - 1) * every))


# ---- the sum


@given(
    weights=st.dictionaries(st.sampled_from(tuple(_TELLS)), st.floats(-6, 6), max_size=13),
    base=st.floats(-6, 6),
)
def test_the_contributions_of_all_reasons_add_up_to_the_log_odds(
    weights: dict[str, float], base: float
) -> None:
    found = reasons(evidence(BUYER, day(40), base=base, weights=weights))
    total = base + sum(weights.values())
    assert sum(r.contribution or 0.0 for r in found) == pytest.approx(total, abs=1e-6)
    assert {GROUP_OF[r.feature] for r in found[:-1]} == {g for g, w in weights.items() if abs(w) >= 0.005}


def test_the_last_reason_is_the_start_with_what_weighs_too_little_for_a_sentence() -> None:
    found = reasons(evidence(BUYER, day(40), base=-0.5, silence=1.0, browsing=0.004, satisfaction=-0.001))
    assert [r.feature for r in found] == ["recency_days", BASE]
    assert found[-1] == Reason(
        feature=BASE,
        value=round(1 / (1 + math.exp(0.497)), 6),
        contribution=-0.497,
        text="Starting point: 38%, the risk right after the last purchase.",
    )
    (learned,) = reasons(evidence(BUYER, day(40), base=-0.5, source="learned"))
    assert learned.text == "Starting point: 38%, usual in this shop right after a purchase."


def test_the_strongest_comes_first_whichever_way_it_points() -> None:
    found = reasons(evidence(BUYER, day(9), silence=0.5, browsing=-0.7, satisfaction=0.6, said_lost=0.1))
    assert [r.contribution for r in found] == [-0.7, 0.6, 0.5, 0.1, 0.0]
    equal = reasons(evidence(BUYER, day(9), silence=0.5, browsing=-0.5, satisfaction=0.5))
    assert [r.feature for r in equal] == ["browsing_30d", "recency_days", "satisfaction", BASE]


def test_numbers_are_rounded_before_they_are_printed() -> None:
    found = one(BUYER, day(0) + DAY // 7, silence=1 / 3)
    assert (found.value, found.contribution) == (0.142857, 0.333333)


def test_every_group_of_the_statistical_score_has_its_sentence() -> None:
    assert set(GROUPS) <= _TELLS.keys()
    assert set(GROUP_OF.values()) == _TELLS.keys()


def test_a_group_that_nobody_knows_is_named_and_counts() -> None:
    found = one(BUYER, day(3), weather=0.2)
    assert (found.feature, found.contribution, found.text) == ("weather", 0.2, "Other signs: weather.")


# ---- the sentences


def test_silence_is_told_against_the_customers_own_rhythm_and_the_shops() -> None:
    found = one(regular(10, 4), day(60) + 12 * HOUR, usual={"gap_mean": math.log(28.0)}, silence=1.23456789)
    assert found == Reason(
        feature="recency_days",
        value=30.5,
        usual=10.0,
        contribution=1.234568,
        text="No purchase for 30 days. Usual: 10 days for this customer, 28 days in this shop.",
    )


def test_what_is_usual_is_the_shops_where_the_customer_has_no_rhythm_and_absent_where_nothing_is_known() -> (
    None
):
    found = one(BUYER, day(40), usual={"gap_mean": math.log(28.0)}, silence=1.0)
    assert found.usual == pytest.approx(28.0)
    assert found.text == "No purchase for 40 days. Usual in this shop: 28 days."
    found = one(BUYER, day(40), silence=1.0)
    assert (found.usual, found.text) == (None, "No purchase for 40 days.")
    found = one(regular(1, 3), day(3), silence=0.1)
    assert found.text == "No purchase for 1 day. Usual for this customer: 1 day."
    assert one(BUYER, day(0) + HOUR, silence=-1.0).text == "Bought less than a day ago."


def test_buying_less_often_is_told_by_the_pace() -> None:
    customer = with_(regular(10, 37), last_purchase=day(360))
    steady = with_(customer, bought=(1.0, _steady(0.1, 30), _steady(0.1, 90)))
    found = one(steady, day(360), frequency=-0.2)
    assert found.value == pytest.approx(3.0, rel=0.01)
    assert found.usual == pytest.approx(3.0 / (1 - 0.5**4), rel=0.01)
    assert found.text == "At the recent pace 3 purchases in 30 days. Usual for this customer: 3.2."
    found = one(steady, day(400), frequency=0.2)
    assert found.text is not None
    assert found.text.startswith("Buys less often than before: at the recent pace 1.2 purchases in 30 days.")


def _steady(per_day: float, half_life: float) -> float:
    """Where a decayed counter stands after events at a steady pace."""
    return per_day * half_life / math.log(2.0)


def test_who_is_known_for_less_than_a_month_is_counted_and_not_compared() -> None:
    customer = with_(BUYER, views=7, browsed=(6.0, 6.8, 6.9), last_browse=day(9))
    found = one(customer, day(10), browsing=-0.3)
    assert (found.value, found.usual) == (7.0, None)
    assert found.text == "At the recent pace 7 views and searches in 30 days."


def test_browsing_dries_up_goes_on_without_buying_or_never_was() -> None:
    browser = with_(BUYER, views=90, browsed=(9.0, 20.0, 50.0), last_browse=day(100))
    dried = one(browser, day(190), usual={"browsed_30": 10.0}, browsing=0.4)
    assert dried.text is not None
    assert dried.text.startswith(
        "Browses less than before: at the recent pace 1.8 views and searches in 30 days."
    )
    assert dried.text.endswith("in this shop.")
    looking = one(browser, day(101), browsing=0.4)
    assert looking.text is not None
    assert looking.text.startswith("Browses without buying: ")
    assert one(BUYER, day(101), browsing=0.1).text == "No browsing has been seen."


def test_spending_is_told_in_the_shops_money() -> None:
    less = one(
        with_(BUYER, orders=5),
        day(9),
        inputs={"order_value": 5000.0, "value_trend": math.log(0.6)},
        spend=0.2,
    )
    assert (less.value, less.usual) == (30.0, 50.0)
    assert (
        less.text
        == "Spends less per order than before: lately 30.00 on average. Usual for this customer: 50.00."
    )
    same = one(with_(BUYER, orders=5), day(9), inputs={"order_value": 5000.0}, spend=0.2)
    assert same.text == "An order is lately worth 50.00 on average. Usual for this customer: 50.00."
    once = one(BUYER, day(9), inputs={"order_value": 123450.0}, usual={"order_value": 4000.0}, spend=-0.2)
    assert (once.usual, once.text) == (40.0, "The order was worth 1,234.50. Usual in this shop: 40.00.")
    yen = evidence(BUYER, day(9), inputs={"order_value": 1234.0}, spend=-0.2)._replace(minor_units=0)
    assert reasons(yen)[0].text == "The order was worth 1,234."


@pytest.mark.parametrize(
    ("share", "text"),
    [
        (0.45, "Buys mostly at a discount: 45% below list price on average. Usual in this shop: 10%."),
        (0.07, "Paid 7% less than list price on average. Usual in this shop: 10%."),
        (0.0, "No discount so far. Usual in this shop: 10%."),
    ],
)
def test_discounts_are_told_as_a_share_of_list_price(share: float, text: str) -> None:
    found = one(BUYER, day(9), inputs={"discount_share": share}, usual={"discount_share": 0.1}, discount=0.3)
    assert (found.value, found.usual, found.text) == (share, 0.1, text)


def complained(status: str = "", kind: str = "service", at: int = 0) -> Cold:
    return Cold(complaints={"k1": Case(day(0), kind, status, at)})


def test_an_open_complaint_tells_of_what_for_how_long_and_whether_it_is_overdue() -> None:
    customer = with_(BUYER, open_since=(day(0), day(1)))
    found = one(customer, day(2) - HOUR, complained(), complaint=0.9)
    assert (found.feature, found.value, found.usual) == ("open_complaints", 2.0, 0.0)
    assert found.text == "A complaint about the service has been open for 47 hours."
    found = one(customer, day(2), complained(kind="price"), complaint=0.9)
    assert found.text == "A complaint about the price has been open for 48 hours and is overdue."
    found = one(customer, day(0) + HOUR, complained(kind="other"), complaint=0.9)
    assert found.text == "A complaint about another matter has been open for 1 hour."
    found = one(customer, day(0) + HOUR - 1, complained(kind="other"), complaint=0.9)
    assert found.text == "A complaint about another matter has just been made."
    found = one(customer, day(5), complained("reopened", at=day(3)), complaint=0.9)
    assert found.text == "A complaint about the service has been open for 5 days, and was reopened."


def test_a_complaint_that_ended_tells_when_and_how() -> None:
    found = one(BUYER, day(3), complained("resolved", at=day(0)), complaint=0.3)
    assert (found.feature, found.value, found.usual) == ("days_since_complaint", 3.0, None)
    assert found.text == "A complaint about the service was resolved 3 days ago (Jan 1, 2026)."
    found = one(BUYER, day(3), complained("closed", at=day(2)), complaint=0.3)
    assert found.text == "A complaint about the service was closed 24 hours ago (Jan 3, 2026)."
    badly = with_(BUYER, signals=Signals(bad_90=1.0, bad_at=day(2)))
    found = one(badly, day(3), complained("closed", "delivery", day(2)), complaint=0.3)
    assert (
        found.text
        == "A complaint about the delivery was closed 24 hours ago (Jan 3, 2026) without a solution."
    )
    assert one(BUYER, day(3), complaint=-0.01).text == "No complaint is known."


def test_satisfaction_is_that_of_a_survey_else_of_a_review() -> None:
    asked = with_(BUYER, satisfaction=0.25, satisfaction_at=day(0))
    found = one(asked, day(1), usual={"satisfaction": 0.8}, satisfaction=0.3)
    assert (found.value, found.usual) == (0.25, 0.8)
    assert found.text == "The last survey answer was 25% of its scale. Usual in this shop: 80%."
    found = one(asked, day(1), usual={"satisfaction": 1.0}, satisfaction=0.3)
    assert found.usual is None, "where few are asked, full marks are what silence counts as"
    reviewed = with_(BUYER, signals=Signals(rating=0.4, rated_at=day(0)))
    found = one(reviewed, day(1), satisfaction=0.3)
    assert (found.feature, found.value, found.text) == ("rating", 2.0, "The newest review gave 2 of 5 stars.")
    found = one(BUYER, day(1), satisfaction=-0.1)
    assert (found.value, found.text) == (None, "No survey answer and no review so far.")


def test_returns_use_searches_and_carts_are_told_by_their_pace() -> None:
    returned = with_(BUYER, returns=2)
    first = with_(returned, signals=Signals(returns_90=1 / math.log(2), returned_at=day(1)))
    assert one(first, day(1), returns=0.3).text == (
        "Goods were returned: at the recent pace 1 return in 90 days."
    )
    twice = with_(returned, signals=Signals(returns_90=4 / math.log(2), returned_at=day(1)))
    assert one(twice, day(91), returns=0.3).text == (
        "Goods were returned: at the recent pace 2 returns in 90 days."
    )
    assert one(BUYER, day(1), returns=-0.1).text == "Nothing has been returned."
    searched = with_(BUYER, signals=Signals(empty_30=6 / math.log(2), empty_at=day(1)))
    assert one(searched, day(31), search=0.1).text == (
        "Searches without a result: at the recent pace 3 searches in 30 days."
    )
    assert one(BUYER, day(1), search=-0.1).text == "No search without a result lately."
    put = with_(BUYER, signals=Signals(carts_30=2 / math.log(2), carted_at=day(1)))
    assert one(put, day(31), cart=0.1).text == ("Into the cart: at the recent pace 1 item in 30 days.")
    assert one(BUYER, day(1), cart=-0.1).text == "Nothing has been put into the cart lately."
    user = with_(BUYER, uses=40, used=(0.0, 8.0, 60.0), last_use=day(140))
    assert one(user, day(200), use=0.4).text == (
        "Uses it less than before: at the recent pace 1.4 uses in 30 days. Usual for this customer: 11.1."
    )
    assert one(user, day(9), use=0.4).text == "At the recent pace 40 uses in 30 days."
    assert one(BUYER, day(200), use=0.4).text == "No use has been seen."


def basket(*gone: str) -> dict[str, Interest]:
    old = {name: Interest(4, day(0), day(30), 2.0 + len(name)) for name in gone}
    return {**old, "tea": Interest(9, day(0), day(90), 4.0)}


def test_an_abandoned_category_is_named() -> None:
    customer = with_(BUYER, orders=9, last_purchase=day(90), abandoned=0.6)
    found = one(customer, day(95), Cold(basket=basket("coffee")), category=0.3)
    assert (found.feature, found.value) == ("abandoned_share", 0.6)
    assert found.text == "No longer buys coffee, 60% of earlier purchases; other purchases went on."
    for gone, others in (
        (("coffee", "cups"), "1 more category"),
        (("coffee", "cups", "jam"), "2 more categories"),
    ):
        found = one(customer, day(95), Cold(basket=basket(*gone)), category=0.3)
        assert found.text == (
            f"No longer buys coffee and {others}, 60% of earlier purchases; other purchases went on."
        )
    assert one(BUYER, day(95), category=-0.1).text == "No category has been given up."


def test_what_the_customer_said_is_told_with_its_day() -> None:
    lost = with_(BUYER, lost_at=day(2))
    found = one(lost, day(9), said_lost=2.5)
    assert (found.value, found.usual) == (1.0, 0.0)
    assert found.text == "The customer said on Jan 3, 2026 that they are leaving."
    named = with_(lost, signals=Signals(competitor_at=day(2)))
    assert one(named, day(9), said_lost=2.5).text == (
        "The customer said on Jan 3, 2026 that they are leaving for a competitor."
    )
    assert one(BUYER, day(9), said_lost=-0.1).text == "The customer has not said that they are leaving."


# ---- whatever is known


CASES = st.builds(
    Case,
    opened=st.sampled_from((0, day(0), day(1))),
    kind=st.sampled_from(("product", "service", "price", "delivery", "other", "")),
    status=st.sampled_from(("", "answered", "reopened", "resolved", "closed")),
    status_at=st.sampled_from((day(1), day(2))),
)


@given(cases=st.lists(CASES, max_size=5))
def test_which_complaint_matters_most_does_not_depend_on_their_order(cases: Sequence[Case]) -> None:
    forth = weightiest({str(n): case for n, case in enumerate(cases)})
    assert forth == weightiest({str(n): case for n, case in enumerate(reversed(cases))})
    if forth is not None:
        assert forth.open == any(case.open for case in cases)


@given(
    customer=st.builds(
        Customer,
        orders=st.integers(0, 4),
        views=st.integers(0, 3),
        uses=st.integers(0, 3),
        returns=st.integers(0, 3),
        first_seen=st.sampled_from((0, day(0))),
        first_purchase=st.sampled_from((0, day(0))),
        last_purchase=st.sampled_from((0, day(0), day(9))),
        last_browse=st.sampled_from((0, day(5))),
        browsed=st.tuples(*[st.floats(0, 1e6)] * 3),
        bought=st.tuples(*[st.floats(0, 1e6)] * 3),
        satisfaction=st.sampled_from((-1.0, 0.0, 1.0)),
        lost_at=st.sampled_from((0, day(20))),
        signals=st.none()
        | st.builds(Signals, rating=st.sampled_from((-1.0, 0.2)), competitor_at=st.just(day(20))),
    ),
    cases=st.lists(CASES, max_size=2),
    at=st.sampled_from((day(0), day(9), day(400))),
)
def test_every_group_finds_a_sentence_for_whatever_is_known(
    customer: Customer, cases: list[Case], at: int
) -> None:
    cold = Cold(complaints={str(n): case for n, case in enumerate(cases)}, basket=basket("coffee"))
    found = reasons(evidence(customer, at, cold, weights=dict.fromkeys(_TELLS, 1.0)), ENGLISH)
    assert len(found) == len(_TELLS) + 1
    for reason in found:
        assert reason.text is not None
        assert "{" not in reason.text
        assert reason.text.endswith(".")
        assert not isinstance(reason.value, float) or math.isfinite(reason.value)
