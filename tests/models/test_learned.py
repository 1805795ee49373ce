from __future__ import annotations

import math
from functools import cache
from typing import Any

import numpy as np
import pytest

from features.matrix import Inputs
from models import purchase_rate
from models.additive import Additive
from models.basis import ALL, RECENCY, RFM
from models.churn import ROUND
from models.learned import GROUPS, LearnedScore, UnknownModel
from models.purchase_rate import Rates
from models.spend import Spend
from tests.models import made

H = 28.0
RATES = Rates(r=0.6, alpha=30.0, a=0.5, b=2.0)
KINDS = {"champion": (ALL, True), "recency": (RECENCY, False), "rfm": (RFM, False)}
each_kind = pytest.mark.parametrize("kind", KINDS)


@cache
def learner(kind: str) -> Additive:
    names, anchored = KINDS[kind]
    model = Additive(H, names, anchored=anchored)
    model.rates = RATES
    rows = made.rows(3000)
    model.learn_many(rows.tolist(), made.outcomes(rows), [100.0 + i / 20 for i in range(3000)])
    return model


def score_of(kind: str = "champion", **how: Any) -> LearnedScore:
    return LearnedScore(kind, "v1", learner(kind).published(), RATES, **how)


def table(x: Inputs, days: list[float]) -> Inputs:
    """The customers at several instants."""
    each = [made.silent(x, d) for d in days]
    timed = ("recency", "age", "bought_7", "bought_30", "bought_90")
    return x._replace(**{name: np.vstack([getattr(one, name) for one in each]) for name in timed})


@each_kind
def test_the_score_is_rivers_own_prediction(kind: str) -> None:
    rows = made.rows(500, seed=7)
    logit = score_of(kind).score(made.inputs(rows)).logit
    p = 1.0 / (1.0 + np.exp(-logit))
    river = [learner(kind).predict_proba_one(row)[True] for row in rows.tolist()]
    assert np.abs(p - river).max() < 1e-9


@each_kind
def test_contributions_add_up_to_the_log_odds(kind: str) -> None:
    scores = score_of(kind).score(made.inputs(made.rows(500, seed=8)))
    assert len(scores.contributions) == len(GROUPS)
    assert np.abs(scores.base + sum(scores.contributions) - scores.logit).max() < 1e-9
    assert np.array_equal(scores.churn, np.round(1.0 / (1.0 + np.exp(-scores.logit)), ROUND))


@each_kind
def test_a_table_of_instants_holds_what_each_instant_gives_alone(kind: str) -> None:
    x = made.inputs(made.rows(40, seed=9))
    days = [0.0, 3.0, 30.0]
    scores = score_of(kind).score(table(x, days))
    for k, d in enumerate(days):
        alone = score_of(kind).score(made.silent(x, d))
        for name in ("churn", "alive", "logit", "rise"):
            assert np.array_equal(getattr(scores, name)[k], getattr(alone, name)), name
        for one, other in zip(scores.contributions, alone.contributions, strict=True):
            assert np.array_equal(np.broadcast_to(one, (3, 40))[k], other)


def test_who_else_is_scored_does_not_matter() -> None:
    rows = made.rows(200, seed=10)
    together = score_of().score(made.inputs(rows))
    for i in (0, 1, 77, 199):
        alone = score_of().score(made.inputs(rows[i : i + 1]))
        assert alone.logit[0] == together.logit[i]
        assert alone.rise[0] == together.rise[i]
        assert [c[0] for c in alone.contributions] == [c[i] for c in together.contributions]


def test_right_after_a_purchase_nothing_is_silence() -> None:
    x = made.inputs(made.rows(100, seed=11))
    x = x._replace(recency=np.zeros(100), age=x.age - x.recency)
    scores = score_of().score(x)
    assert np.array_equal(scores.contributions[0], np.zeros(100))


def test_the_rise_is_what_silence_and_all_beside_buying_have_added() -> None:
    rows = made.rows(300, seed=12)
    x = made.inputs(rows)
    scores = score_of().score(x)
    mute = x._replace(
        recency=np.zeros(300),
        age=x.age - x.recency,
        bought_7=x.bought_7 * 2 ** (x.recency / 7),
        bought_30=x.bought_30 * 2 ** (x.recency / 30),
        bought_90=x.bought_90 * 2 ** (x.recency / 90),
        open_complaints=np.zeros(300),
        overdue_complaints=np.zeros(300),
        recent_complaint=np.zeros(300),
        bad_complaints=np.zeros(300),
        rating=np.zeros(300),
        satisfaction=np.ones(300),
        said_lost=np.zeros(300),
        browsed_7=np.zeros(300),
        browsed_30=np.zeros(300),
        browsed_90=np.zeros(300),
        browse_recency=np.zeros(300),
        empty_searches_30=np.zeros(300),
        carts_30=np.zeros(300),
        used_30=np.zeros(300),
        used_90=np.zeros(300),
    )
    assert np.abs(scores.rise - (scores.logit - score_of().score(mute).logit)).max() < 2e-6


def test_a_complaint_raises_the_score_and_is_told_as_one() -> None:
    quiet = made.inputs(made.rows(50, seed=13))._replace(open_complaints=np.zeros(50))
    angry = quiet._replace(open_complaints=np.ones(50))
    one, two = score_of().score(quiet), score_of().score(angry)
    added = two.contributions[GROUPS.index("complaint")] - one.contributions[GROUPS.index("complaint")]
    assert (added > 0.3).all()
    assert np.allclose(two.logit - one.logit, added)
    assert np.allclose(two.rise - one.rise, added, atol=2e-6)


def test_contributions_say_what_is_unusual() -> None:
    rows = made.rows(3000)
    scores = score_of().score(made.inputs(rows))
    for group, contribution in zip(GROUPS, scores.contributions, strict=True):
        if group != "silence":
            assert abs(float(contribution.mean())) < 0.12, group


def test_a_repair_of_calibration_turns_all_of_it() -> None:
    x = made.inputs(made.rows(100, seed=14))
    plain, turned = score_of().score(x), score_of(scale=0.8, shift=-0.3).score(x)
    assert np.allclose(turned.logit, 0.8 * plain.logit - 0.3)
    assert np.allclose(turned.rise, 0.8 * plain.rise, atol=2e-6)
    assert np.allclose(turned.base + sum(turned.contributions), turned.logit)


def test_alive_and_usual_days_are_those_of_the_customer() -> None:
    x = made.inputs(made.rows(100, seed=15))
    scores = score_of().score(x)
    alive = purchase_rate.alive(RATES, x.gaps, np.maximum(x.age - x.recency, 0.0), x.age)
    assert np.allclose(scores.alive, alive, atol=1e-5)
    regular = x._replace(gaps=np.full(100, 9.0), gap_mean=np.full(100, math.log(10.0)))
    assert np.allclose(score_of().score(regular).usual_days, 10.0, atol=0.4)


def test_it_says_what_it_reads_and_reads_no_more() -> None:
    x = made.inputs(made.rows(60, seed=16))
    for kind in KINDS:
        score = score_of(kind)
        hidden = Inputs(*(f if n in score.needs else f + 1.0 for n, f in zip(x._fields, x, strict=True)))
        assert np.array_equal(score.score(x).logit, score.score(hidden).logit)


def test_value_is_told_only_where_spending_is_known() -> None:
    one = made.inputs(made.rows(1, seed=17))
    assert score_of().expected(one) is None
    assert not score_of().tells_value
    told = score_of(spend=Spend(mean=3000.0, strength=2.0, shape=3.0), unit=100.0)
    assert told.tells_value
    found = told.expected(one)
    assert found is not None
    days, value = found
    assert days > 0
    assert value > 0


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"format": 2}, "format 2"),
        ({"curves": {"mood": {"group": "silence", "knots": [0.0], "effects": [1.0]}}}, "'mood'"),
        ({"curves": {"recency": {"group": "luck", "knots": [0.0], "effects": [1.0]}}}, "luck"),
        (
            {"curves": {"recency": {"group": "silence", "knots": [1.0, 0.0], "effects": [1.0, 2.0]}}},
            "ascending",
        ),
        ({"curves": {"recency": {"group": "silence", "knots": [0.0, 1.0], "effects": [1.0]}}}, "as many"),
        ({"level": "low"}, "no additive model"),
        ({"more": 1}, "no additive model"),
    ],
)
def test_what_it_does_not_know_is_refused_with_a_message(change: dict[str, Any], says: str) -> None:
    with pytest.raises(UnknownModel, match=says):
        LearnedScore("champion", "v1", learner("champion").published() | change, RATES)
