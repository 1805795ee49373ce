from __future__ import annotations

import math
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from features import matrix
from features.customer import Customer
from features.rhythm import Fold, Rhythm
from features.shop import DAY
from models.churn import GROUPS, ROUND, RhythmScore, Scores
from models.snapshot import Prior
from tests.application import day

PRIOR = Prior()
HORIZON = 28.0


def one(customer: Customer, at: int, prior: Prior = PRIOR, horizon: float = HORIZON) -> Scores:
    return RhythmScore(prior, horizon).score(matrix.inputs([customer], [at], 48.0))


def regular(gap: float = 10.0, gaps: int = 8, variance: float = 0.1, orders: int | None = None) -> Customer:
    """Who has bought at day 0 for the last time, by an even rhythm."""
    rhythm = Rhythm((), Fold(), Fold(gaps, math.log(gap) if gaps else 0.0, variance if gaps else 0.0))
    return Customer(orders=orders or gaps + 1, last_purchase=day(0), rhythm=rhythm)


def twin(customer: Customer, at: int, prior: Prior, horizon: float) -> tuple[float, float]:
    """The formula of the module in plain Python: churn and alive."""
    fold = customer.rhythm.now
    n, k = min(fold.gaps, 9.0), prior.strength
    log_alpha = (n * fold.mean + k * math.log(prior.gap_days)) / (n + k)
    sigma = math.sqrt((n * fold.variance + k * prior.spread**2) / (n + k))
    beta = math.pi / (math.sqrt(3) * sigma)
    left = prior.defect_a / (prior.defect_a + prior.defect_b + customer.orders - 1)

    def survival(days: float) -> float:
        return 1 / (1 + math.pow(max(days, 1e-3) / math.exp(log_alpha), beta))

    silent = max(at - customer.last_purchase, 0) / DAY
    now = left + (1 - left) * survival(silent)
    later = left + (1 - left) * survival(silent + horizon)
    logit = math.log(later / now / (1 - later / now))
    opened = len(customer.open_since)
    logit += prior.open_complaint * min(opened, 2)
    logit += prior.overdue_complaint * min(
        sum(at - instant >= 48 * DAY / 24 for instant in customer.open_since), 2
    )
    if not opened and customer.closed_at and at - customer.closed_at < 30 * DAY:
        logit += prior.recent_complaint
    views = customer.browsed[1] * math.pow(2, -max(at - customer.last_browse, 0) / DAY / 30)
    logit += prior.browsing * math.log(1 + views)
    if customer.satisfaction >= 0:
        logit += prior.dissatisfaction * max(0.5 - customer.satisfaction, 0) / 0.5
    if customer.lost_at > customer.last_purchase:
        logit += prior.said_lost
    return 1 / (1 + math.exp(-logit)), (1 - left) * survival(silent) / now


@st.composite
def customers(draw: st.DrawFn) -> Customer:
    gaps = draw(st.integers(0, 40))
    return Customer(
        orders=gaps + draw(st.integers(1, 3)),
        last_purchase=day(0),
        rhythm=Rhythm(
            (),
            Fold(),
            Fold(gaps, draw(st.floats(0, 5)), draw(st.floats(0, 3))) if gaps else Fold(),
        ),
        browsed=(0.0, draw(st.floats(0, 200)), 0.0),
        last_browse=day(draw(st.integers(-50, 20))),
        open_since=tuple(sorted(day(d) for d in draw(st.lists(st.integers(-20, 20), max_size=4)))),
        closed_at=draw(st.sampled_from([0, day(-40), day(-5), day(3)])),
        satisfaction=draw(st.sampled_from([-1.0, 0.0, 0.3, 0.5, 1.0])),
        lost_at=draw(st.sampled_from([0, day(-1), day(1)])),
    )


@settings(derandomize=True, max_examples=150, deadline=None)
@given(customers(), st.integers(0, 400 * DAY), st.sampled_from([7.0, 28.0, 84.0]))
def test_the_score_is_the_documented_formula(customer: Customer, silence: int, horizon: float) -> None:
    churn, alive = twin(customer, day(20) + silence, PRIOR, horizon)
    scores = one(customer, day(20) + silence, horizon=horizon)
    # The plain formula has no clip at one in a million.
    assert float(scores.churn[0]) == pytest.approx(churn, abs=3e-6)
    assert float(scores.alive[0]) == pytest.approx(alive, abs=1e-6)


@settings(derandomize=True, max_examples=200, deadline=None)
@given(customers(), st.integers(0, 400 * DAY))
def test_contributions_add_up_to_the_log_odds(customer: Customer, silence: int) -> None:
    scores = one(customer, day(20) + silence)
    assert len(scores.contributions) == len(GROUPS)
    total = float(scores.base[0]) + sum(float(row[0]) for row in scores.contributions)
    assert float(scores.logit[0]) == pytest.approx(total, abs=1e-9)
    assert float(scores.churn[0]) == pytest.approx(1 / (1 + math.exp(-total)), abs=1e-6)


@settings(derandomize=True, max_examples=100, deadline=None)
@given(customers())
def test_who_is_silent_longer_is_never_more_alive(customer: Customer) -> None:
    alive = [float(one(customer, day(20 + days)).alive[0]) for days in (0, 1, 5, 20, 60, 200, 1_000)]
    assert alive == sorted(alive, reverse=True)


@settings(derandomize=True, max_examples=100, deadline=None)
@given(st.floats(1.5, 90), st.integers(0, 30), st.floats(0, 1.5))
def test_silence_makes_a_customer_first_due_and_then_lost(gap: float, gaps: int, variance: float) -> None:
    """Right after a purchase the next one is far; as it comes due, churn falls; once it is overdue,
    churn only rises, to certainty."""
    customer = regular(gap, gaps, variance)
    days = [day(number) for number in range(0, 900, 3)]
    x = matrix.inputs([customer] * len(days), days, 48.0)
    churn = RhythmScore(PRIOR, HORIZON).score(x).churn.tolist()
    lowest = churn.index(min(churn))
    falling, rising = churn[: lowest + 1], churn[lowest:]
    assert all(a >= b - 2e-6 for a, b in pairwise(falling))
    assert all(a <= b + 2e-6 for a, b in pairwise(rising))
    assert float(one(customer, day(365_000)).churn[0]) > 0.99


def test_silence_is_measured_by_the_customers_own_rhythm() -> None:
    at = day(40)
    weekly, monthly = one(regular(7), at), one(regular(30), at)
    assert float(weekly.churn[0]) > float(monthly.churn[0]) + 0.3


def test_one_time_buyers_are_never_certainly_alive() -> None:
    customer = regular(gaps=0)
    expected = 1 - PRIOR.defect_a / (PRIOR.defect_a + PRIOR.defect_b)
    assert float(one(customer, day(0)).alive[0]) == pytest.approx(expected)
    regulars = [float(one(regular(gaps=n), day(0)).alive[0]) for n in (1, 5, 20, 500)]
    assert regulars == sorted(regulars)
    assert expected < regulars[0] < regulars[-1] < 1


def test_a_few_gaps_are_shrunk_to_the_prior_and_many_are_not() -> None:
    def usual(gaps: int) -> float:
        return float(one(regular(5.0, gaps), day(1)).usual_days[0])

    assert usual(0) == pytest.approx(PRIOR.gap_days)
    days = [usual(n) for n in (0, 1, 3, 9)]
    assert days == sorted(days, reverse=True)
    k = PRIOR.strength
    assert usual(3) == pytest.approx(math.exp((3 * math.log(5) + k * math.log(PRIOR.gap_days)) / (3 + k)))
    assert usual(50) == pytest.approx(usual(9)), "an EWMA is worth nine gaps, however many it saw"


def test_a_stronger_prior_shrinks_more() -> None:
    customer = regular(5.0, 3)
    usual = [
        float(one(customer, day(1), Prior(strength=strength)).usual_days[0]) for strength in (0.1, 1, 10, 1e6)
    ]
    assert usual == sorted(usual)
    assert usual[-1] == pytest.approx(PRIOR.gap_days, rel=1e-4)


@pytest.mark.parametrize(
    ("worse", "group"),
    [
        ({"open_since": (day(9),)}, "complaint"),
        ({"closed_at": day(9)}, "complaint"),
        ({"satisfaction": 0.1}, "satisfaction"),
        ({"lost_at": day(9)}, "said_lost"),
    ],
)
def test_evidence_beside_the_rhythm_makes_churn_likelier(worse: dict[str, object], group: str) -> None:
    plain = regular()
    fields = {name: getattr(plain, name) for name in plain.__struct_fields__}
    other = Customer(**{**fields, **worse})
    before, after = one(plain, day(10)), one(other, day(10))
    assert float(after.churn[0]) > float(before.churn[0])
    changed = [
        name
        for name, a, b in zip(GROUPS, before.contributions, after.contributions, strict=True)
        if a[0] != b[0]
    ]
    assert changed == [group]


def test_browsing_makes_churn_less_likely_and_fades() -> None:
    customer = regular()
    customer.browsed, customer.last_browse = (5.0, 5.0, 5.0), day(10)
    contribution = GROUPS.index("browsing")
    now = float(one(customer, day(10)).contributions[contribution][0])
    later = float(one(customer, day(100)).contributions[contribution][0])
    assert now < later < 0


def test_two_complaints_weigh_twice_and_more_than_two_no_more() -> None:
    def weight(number: int) -> float:
        customer = regular()
        customer.open_since = (day(0),) * number
        return float(one(customer, day(1)).contributions[GROUPS.index("complaint")][0])

    assert weight(2) == pytest.approx(2 * weight(1))
    assert weight(5) == weight(2)


def test_who_buys_again_has_not_left() -> None:
    customer = regular()
    customer.lost_at = customer.last_purchase
    assert float(one(customer, day(1)).contributions[GROUPS.index("said_lost")][0]) == 0


def test_probabilities_are_rounded_before_anyone_compares_them() -> None:
    scores = one(regular(), day(13))
    for value in (float(scores.churn[0]), float(scores.alive[0])):
        assert value == round(value, ROUND)
        assert len(repr(value)) <= ROUND + 2


def test_no_silence_and_no_prior_is_beyond_the_floats() -> None:
    sharp = Prior(spread=1e-3, strength=1e-3)
    even = regular(2.0, 30, 0.0)
    with np.errstate(all="raise", under="ignore"):
        for prior in (PRIOR, sharp):
            for silence in (0, 1, DAY, 80_000 * DAY):
                scores = one(even, day(0) + silence, prior)
                assert 0 <= float(scores.churn[0]) <= 1
                assert 0 <= float(scores.alive[0]) <= 1
                assert math.isfinite(float(scores.logit[0]))


def test_only_a_prior_that_was_set_says_what_is_usual_in_the_shop() -> None:
    assert RhythmScore(Prior(), 28.0).usual == {}
    assert RhythmScore(Prior(gap_days=9.0), 28.0).usual == {"gap_mean": math.log(9.0)}
