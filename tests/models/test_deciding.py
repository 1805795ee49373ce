"""Which score decides by a snapshot, and the buy-till-you-die score alone."""

from __future__ import annotations

import math

import numpy as np
import pytest
from msgspec.structs import replace

from agents.core import usable
from agents.settings import Settings
from features import matrix
from features.matrix import Inputs
from models.additive import Additive
from models.churn import RhythmScore
from models.deciding import RATE, RateScore, deciding
from models.learned import LearnedScore, UnknownModel
from models.learning import Learning
from models.purchase_rate import Rates, probability_of_none
from models.snapshot import Calibration, Known, Learned, Prior, Promotion, Snapshot, named
from models.spend import Spend
from models.training import Trainer


def customers(number: int = 200) -> Inputs:
    """Histories of all kinds, from one purchase on."""
    random = np.random.default_rng(3)
    gaps = random.integers(0, 12, number).astype(float)
    bought = np.where(gaps > 0, random.uniform(1.0, 300.0, number), 0.0)
    silent = random.uniform(0.0, 200.0, number)
    nothing = dict.fromkeys(matrix.NAMES, np.zeros(number))
    return Inputs(**nothing)._replace(
        gaps=gaps,
        repeats=gaps,
        recency=silent,
        age=bought + silent,
        gap_mean=np.log(np.maximum(bought / np.maximum(gaps, 1.0), 1.0)),
        order_value=random.uniform(500.0, 9_000.0, number),
        satisfaction=np.ones(number),
    )


def snapshot(model: str, **more: object) -> Snapshot:
    """One in which ``model`` decides."""
    bare = Trainer(Learning(), 28.0, Prior(), "2").snapshot()
    promoted = Promotion(model=model, since=0, why="a test")
    models = {**bare.leading.models, "additive": Learned(data=Additive(28.0).published())}
    leading = replace(bare.leading, promoted=promoted, models={**models, **more.pop("models", {})})  # type: ignore[dict-item]
    return named(replace(bare, horizons=(leading,), **more))


def test_each_model_that_may_be_promoted_has_its_score() -> None:
    prior = Prior()
    scores = {name: deciding(snapshot(name), prior, 100.0) for name in ("rhythm", RATE, "additive")}
    assert isinstance(scores["rhythm"], RhythmScore)
    assert isinstance(scores[RATE], RateScore)
    assert isinstance(scores["additive"], LearnedScore)
    assert [score.source for score in scores.values()] == ["statistical", "statistical", "learned"]
    assert scores["rhythm"].version == prior.version, "it decides as it did before there were snapshots"
    assert scores["additive"].version == snapshot("additive").version
    for name, score in scores.items():
        assert score.name == name


def test_the_rate_alone_says_what_the_formula_says_and_its_contributions_add_up() -> None:
    x, rates = customers(), Rates()
    found = RateScore("v", rates, 28.0).score(x)
    t_x = np.maximum(x.age - x.recency, 0.0)
    assert found.churn == pytest.approx(probability_of_none(rates, x.gaps, t_x, x.age, 28.0), abs=1e-6)
    assert found.logit == pytest.approx(found.base + sum(found.contributions), abs=1e-12)
    assert found.rise == pytest.approx(found.logit - found.base, abs=1e-6)
    assert np.all((found.alive >= 0.0) & (found.alive <= 1.0))
    one_time = x.gaps == 0
    assert one_time.any()
    assert np.all(found.alive[one_time] < 1.0), "nobody is certainly alive"


def test_a_repair_of_its_calibration_is_applied() -> None:
    x, repair = customers(), Learned(calibration=Calibration(scale=1.5, shift=-0.2))
    plain = RateScore("v", Rates(), 28.0).score(x)
    repaired = RateScore("v", Rates(), 28.0, learned=repair).score(x)
    assert repaired.logit == pytest.approx(1.5 * plain.logit - 0.2, abs=1e-12)


def test_value_is_told_where_spending_is_known_and_nothing_is_made_up_where_it_is_not() -> None:
    x = Inputs(*(column[:1] for column in customers()))
    assert RateScore("v", Rates(), 28.0).expected(x) is None
    told = RateScore(
        "v", Rates(), 28.0, spend=Spend(mean=3_000.0, strength=5.0, shape=2.0), unit=100.0
    ).expected(x)
    assert told is not None
    days, value = told
    assert 0.0 < days < math.inf
    assert value > 0.0


def test_a_table_of_instants_is_scored_like_each_instant_alone() -> None:
    x, score = customers(40), RateScore("v", Rates(), 28.0)
    steps = np.array([[0.0], [7.0], [30.0]])
    table = score.score(x._replace(recency=x.recency + steps, age=x.age + steps))
    for row, step in enumerate(steps[:, 0]):
        alone = score.score(x._replace(recency=x.recency + step, age=x.age + step))
        assert table.churn[row].tobytes() == alone.churn.tobytes()


def test_all_snapshots_may_decide_each_from_its_instant_or_only_the_one_that_is_pinned() -> None:
    first, second = snapshot("additive", effective=10, made_at=10), snapshot(RATE, effective=20, made_at=20)
    settings = Settings()
    both = usable(settings, Known((first, second)))
    assert [(each.effective, each.model.version) for each in both] == [
        (10, first.version),
        (20, second.version),
    ]
    (only,) = usable(settings, Known((first, second), pinned=first))
    assert (only.effective, only.model.version) == (0, first.version)


def test_a_model_that_this_release_cannot_score_is_passed_over_and_said(
    caplog: pytest.LogCaptureFixture,
) -> None:
    foreign = snapshot("additive", models={"additive": Learned(data={"format": 99})})
    with pytest.raises(UnknownModel, match="run the release that wrote it"):
        deciding(foreign, Prior(), 100.0)
    assert usable(Settings(), Known((foreign,))) == []
    assert foreign.version in caplog.text
