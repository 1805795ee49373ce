from __future__ import annotations

from collections.abc import Mapping

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from alerts.cause import CAUSES, POINTS, Cause, cause, judged
from alerts.policy import CAUSES as MEASURED
from features.cold import Case, Cold
from features.customer import Customer
from features.signals import Signals
from tests.alerts.evidence import BUYER, evidence
from tests.application import day

RIVAL = msgspec.structs.replace(BUYER, signals=Signals(competitor_at=day(5)))


def case(kind: str, status: str = "", opened: int = 1, at: int = 0) -> Case:
    return Case(day(opened), kind, status, day(at) if at else 0)


OPEN, ENDED = case("price"), case("delivery", "resolved", at=3)


@pytest.mark.parametrize(
    ("customer", "cases", "weights", "abandoned", "expected"),
    [
        # nothing but silence
        (BUYER, (), {"silence": 3.0}, 0.0, "lost_rhythm"),
        (BUYER, (), {"silence": 2.0, "frequency": 1.0, "browsing": 0.5, "use": 0.5, "spend": 0.4}, 0.0, "lost_rhythm"),
        (BUYER, (), {}, 0.0, "lost_rhythm"),
        (BUYER, (), {"silence": 1.0, "said_lost": 2.5}, 0.0, "lost_rhythm"),
        # a competitor, named or suspected
        (RIVAL, (OPEN,), {"complaint": 2.0}, 0.0, "competitor"),
        (msgspec.structs.replace(RIVAL, last_purchase=day(6)), (), {}, 0.0, "lost_rhythm"),
        (BUYER, (), {"silence": 3.0}, 0.25, "competitor"),
        (BUYER, (), {"silence": 3.0}, 0.24, "lost_rhythm"),
        (BUYER, (), {"silence": 3.0, "category": 0.1}, 0.05, "competitor"),
        # complaints
        (BUYER, (case("product"),), {"complaint": 0.9}, 0.0, "product"),
        (BUYER, (case("service"),), {"complaint": 0.9}, 0.0, "service"),
        (BUYER, (case("price"),), {"complaint": 0.9}, 0.0, "price"),
        (BUYER, (case("delivery"),), {"complaint": 0.9}, 0.0, "delivery"),
        (BUYER, (case("other"),), {"complaint": 0.9}, 0.9, "service"),
        (BUYER, (OPEN,), {"complaint": -0.2}, 0.0, "price"),
        (BUYER, (ENDED,), {"complaint": 0.1}, 0.0, "delivery"),
        (BUYER, (ENDED,), {"complaint": 0.09}, 0.0, "lost_rhythm"),
        (BUYER, (ENDED, OPEN), {"complaint": 0.5}, 0.0, "price"),
        (BUYER, (case("product", opened=1), case("price", "reopened", 2, 3)), {"complaint": 0.5}, 0.0, "price"),
        (BUYER, (case("product", opened=2), case("price", opened=1)), {"complaint": 0.5}, 0.0, "price"),
        (BUYER, (Case(0, "", "resolved", day(1)),), {"complaint": 0.5}, 0.0, "lost_rhythm"),
        # what points to a cause beside complaints
        (BUYER, (), {"silence": 3.0, "returns": 0.2}, 0.0, "product"),
        (BUYER, (), {"silence": 3.0, "satisfaction": 0.2}, 0.0, "service"),
        (BUYER, (), {"silence": 3.0, "discount": 0.2}, 0.0, "price"),
        (BUYER, (), {"discount": 0.3, "satisfaction": 0.2}, 0.0, "price"),
        (BUYER, (), {"returns": 0.15, "search": 0.15, "satisfaction": 0.2}, 0.0, "product"),
        (BUYER, (), {"discount": 0.2, "satisfaction": 0.2}, 0.0, "service"),
        (BUYER, (), {"discount": 0.09, "satisfaction": -1.0}, 0.0, "lost_rhythm"),
        (BUYER, (), {"satisfaction": 0.2}, 0.9, "service"),
    ],
)  # fmt: skip
def test_the_cause_follows_the_rule(
    customer: Customer, cases: tuple[Case, ...], weights: dict[str, float], abandoned: float, expected: Cause
) -> None:
    complaints = {f"k{number}": case for number, case in enumerate(cases)}
    assert judged(customer, complaints, weights, abandoned) == expected
    found = evidence(
        customer, day(9), Cold(complaints=complaints), weights=weights, inputs={"abandoned": abandoned}
    )
    assert cause(found) == expected


CASES = st.dictionaries(
    st.text(max_size=2),
    st.builds(
        Case,
        opened=st.sampled_from((0, day(0), day(1))),
        kind=st.sampled_from(("product", "service", "price", "delivery", "other", "")),
        status=st.sampled_from(("", "answered", "reopened", "resolved", "closed")),
        status_at=st.sampled_from((day(1), day(2))),
    ),
    max_size=4,
)
WEIGHTS = st.dictionaries(
    st.sampled_from(("silence", "complaint", "weather", *POINTS)), st.floats(-9, 9), max_size=7
)


def backwards(found: Mapping[str, object]) -> dict[str, object]:
    return dict(reversed(list(found.items())))


@given(
    customer=st.sampled_from((BUYER, RIVAL, Customer())),
    complaints=CASES,
    weights=WEIGHTS,
    abandoned=st.floats(0, 1),
)
def test_every_customer_has_one_cause_whatever_the_order(
    customer: Customer, complaints: dict[str, Case], weights: dict[str, float], abandoned: float
) -> None:
    found = judged(customer, complaints, weights, abandoned)
    assert found in CAUSES
    again = judged(customer, backwards(complaints), backwards(weights), abandoned)  # type: ignore[arg-type]
    assert again == found


@given(weights=WEIGHTS, more=st.floats(0, 5))
def test_more_silence_never_hides_a_cause(weights: dict[str, float], more: float) -> None:
    before = judged(BUYER, {}, weights, 0.0)
    assert judged(BUYER, {}, {**weights, "silence": weights.get("silence", 0.0) + more}, 0.0) == before


def test_there_may_be_a_measure_for_every_cause() -> None:
    assert set(MEASURED) == set(CAUSES)
