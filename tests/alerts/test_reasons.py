from __future__ import annotations

import pytest

from alerts.reasons import reasons
from features.customer import Customer
from features.shop import DAY, HOUR
from streams.alerts import Reason
from tests.application import day

NOTHING = (0.0, 0.0, 0.0, 0.0, 0.0)


def told(
    customer: Customer, at: int, *, silence: float = 0.0, complaint: float = 0.0, browsing: float = 0.0,
    satisfaction: float = 0.0, lost: float = 0.0,
) -> tuple[Reason, ...]:  # fmt: skip
    return reasons(customer, at, (silence, complaint, browsing, satisfaction, lost), 12.3456789, 48.0)


def test_without_evidence_there_is_no_reason() -> None:
    assert told(Customer(), day(1)) == ()
    assert told(Customer(), day(1), silence=0.004999) == ()


def test_silence_tells_the_days_and_what_is_usual() -> None:
    (reason,) = told(Customer(last_purchase=day(0)), day(30) + 12 * HOUR, silence=1.23456789)
    assert reason == Reason(
        feature="recency_days",
        value=30.5,
        usual=12.345679,
        contribution=1.234568,
        text="No purchase for 30 days; 12 days are usual for this customer.",
    )


def test_an_open_complaint_tells_for_how_long_and_whether_it_is_overdue() -> None:
    customer = Customer(open_since=(day(0), day(1)))
    (reason,) = told(customer, day(2) - 1, complaint=0.9)
    assert (reason.feature, reason.value, reason.usual) == ("open_complaints", 2, 0.0)
    assert reason.text == "A complaint has been open for 48 hours."
    (reason,) = told(customer, day(2), complaint=0.9)
    assert reason.text == "A complaint has been open for 48 hours and is overdue."


def test_a_complaint_that_ended_tells_when_and_has_nothing_usual() -> None:
    (reason,) = told(Customer(closed_at=day(0)), day(3), complaint=0.3)
    assert (reason.feature, reason.value, reason.usual) == ("days_since_complaint", 3.0, None)
    assert reason.text == "A complaint ended 3 days ago."


def test_browsing_is_read_at_the_instant_and_compared_with_the_quarter() -> None:
    customer = Customer(browsed=(4.0, 4.0, 6.0), last_browse=day(0))
    (reason,) = told(customer, day(30), browsing=-0.3)
    assert reason.value == pytest.approx(2.0)
    assert reason.usual == pytest.approx(2.0 * 2 ** (-1 / 3), abs=1e-6)
    assert reason.contribution == -0.3


def test_satisfaction_and_what_was_said_have_their_sentences() -> None:
    customer = Customer(satisfaction=0.25)
    first, second = told(customer, day(1), satisfaction=0.3, lost=2.5)
    assert first.text == "The customer said that they are leaving."
    assert second.text == "The last survey answer was 25% of its scale."
    assert second.value == 0.25


def test_the_strongest_comes_first_whichever_way_it_points() -> None:
    customer = Customer(last_purchase=day(0), browsed=(1, 1, 1), last_browse=day(0), satisfaction=0.1)
    found = told(customer, day(9), silence=0.5, browsing=-0.7, satisfaction=0.6, lost=0.1)
    assert [reason.contribution for reason in found] == [-0.7, 0.6, 0.5, 0.1]
    equal = told(customer, day(9), silence=0.5, browsing=-0.5, satisfaction=0.5)
    assert [reason.feature for reason in equal] == ["browsing_30d", "recency_days", "satisfaction"]


def test_numbers_are_rounded_before_they_are_printed() -> None:
    (reason,) = told(Customer(last_purchase=day(0)), day(0) + DAY // 7, silence=1 / 3)
    assert (reason.value, reason.contribution) == (0.142857, 0.333333)


def test_every_group_of_the_score_has_a_place() -> None:
    assert reasons(Customer(), day(0), NOTHING, 1.0, 48.0) == ()
