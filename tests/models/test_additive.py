from __future__ import annotations

import json
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from features.matrix import Inputs
from models.additive import BLOCK, Additive
from models.basis import DERIVED, RECENCY, RFM
from models.evaluation import auc, log_loss
from models.purchase_rate import Rates, probability_of_none
from tests.models import made

H = 28.0
Make = Callable[[], Additive]
MODELS: dict[str, Make] = {
    "champion": lambda: Additive(H),
    "recency": lambda: Additive(H, RECENCY, anchored=False),
    "rfm": lambda: Additive(H, RFM, anchored=False),
    "two inputs": lambda: Additive(H, ["silence_in_gaps", "open_complaints"]),
}
each_model = pytest.mark.parametrize("make", MODELS.values(), ids=MODELS)


def taught(make: Make, n: int = 1000, seed: int = 0) -> Additive:
    model = make()
    rows = made.rows(n, seed)
    model.learn_many(rows.tolist(), made.outcomes(rows, seed), days(n))
    return model


def days(n: int) -> list[float]:
    return [100.0 + i / 10 for i in range(n)]


# ---- laws that every model keeps


@each_model
def test_it_predicts_before_it_has_learned_anything(make: Make) -> None:
    for row in made.rows(20).tolist():
        p = make().predict_proba_one(row)
        assert set(p) == {False, True}
        assert 0.0 < p[True] < 1.0
        assert p[False] + p[True] == pytest.approx(1.0)


@each_model
def test_it_learns_what_is_there_to_learn(make: Make) -> None:
    rows = made.rows(4000)
    churned = made.outcomes(rows)
    model = make()
    stated = np.array(model.learn_many(rows.tolist(), churned, days(4000)))
    half = slice(2000, None)
    p = 1.0 / (1.0 + np.exp(-stated[half]))
    rate = float(np.mean(churned[half]))
    assert auc(churned[half], p) > 0.55
    assert log_loss(churned[half], p) < log_loss(churned[half], np.full(2000, rate)) + 0.02


@each_model
def test_its_memory_is_bounded(make: Make) -> None:
    model = taught(make, 3000)
    hats = sum(len(DERIVED[name].knots) for name in model.names)
    state = model.state()
    assert len(state["weights"]) <= hats
    assert len(state["squares"]) <= hats
    assert len(state["usual"]) <= hats


@each_model
def test_it_leaves_its_inputs_alone_and_keeps_none_of_them(make: Make) -> None:
    rows = made.rows(300)
    churned = made.outcomes(rows)
    one, two = make(), make()
    given = rows.tolist()
    before = json.dumps(given)
    one.learn_many(given, churned, days(300))
    assert json.dumps(given) == before
    for row in given:
        row[:] = [float("nan")] * len(row)
    two.learn_many(rows.tolist(), churned, days(300))
    assert one.state() == two.state()


@each_model
def test_the_order_of_keys_does_not_matter(make: Make) -> None:
    model = taught(make)
    values = {name: float(i) / 3 for i, name in enumerate(model.names)}
    turned = dict(reversed(values.items()))
    assert model.pipeline.predict_proba_one(values) == model.pipeline.predict_proba_one(turned)


@each_model
def test_a_stop_and_a_restart_from_its_state_change_nothing(make: Make) -> None:
    rows = made.rows(900)
    churned = made.outcomes(rows)
    straight, first, second = make(), make(), make()
    straight.learn_many(rows.tolist(), churned, days(900))
    first.learn_many(rows[:333].tolist(), churned[:333], days(900)[:333])
    second.restore(json.loads(json.dumps(first.state())))
    second.learn_many(rows[333:].tolist(), churned[333:], days(900)[333:])
    assert second.state() == straight.state()
    assert second.published() == straight.published()


@each_model
@pytest.mark.parametrize("size", [1, 7, BLOCK, 500])
def test_how_examples_are_cut_does_not_matter(make: Make, size: int) -> None:
    rows = made.rows(600)
    churned = made.outcomes(rows)
    whole, cut = make(), make()
    said = whole.learn_many(rows.tolist(), churned, days(600))
    apart: list[float] = []
    for i in range(0, 600, size):
        end = i + size
        apart += cut.learn_many(rows[i:end].tolist(), churned[i:end], days(600)[i:end])
    assert apart == said
    assert cut.state() == whole.state()


@each_model
def test_what_it_states_is_rivers_own_prediction(make: Make) -> None:
    model = taught(make)
    rows = made.rows(50, seed=9)
    for row in rows.tolist():
        p = model.predict_proba_one(row)[True]
        (logit,) = model.learn_many([row], [True], [300.0])
        assert 1.0 / (1.0 + math.exp(-logit)) == pytest.approx(p, abs=1e-12)


@pytest.mark.parametrize(
    "change",
    [
        lambda s: s.pop("tide"),
        lambda s: s.update(weights={"recency:0": "much"}),
        lambda s: s.update(horizon_days=84.0),
        lambda s: s.update(names=["recency"]),
        lambda s: s.update(more=1),
    ],
)
def test_a_state_of_something_else_is_refused_and_changes_nothing(change: Callable[[Any], Any]) -> None:
    model = taught(MODELS["champion"], 200)
    before = model.state()
    other = json.loads(json.dumps(before))
    change(other)
    with pytest.raises(ValueError, match="state"):
        model.restore(other)
    assert model.state() == before


# ---- what this one is


def test_before_it_has_learned_it_ranks_much_as_the_purchase_rate_does() -> None:
    rows = made.rows(2000)
    x = made.inputs(rows)
    model = Additive(H)
    p = [model.predict_proba_one(row)[True] for row in rows[:400].tolist()]
    rate = probability_of_none(Rates(), x.gaps, np.maximum(x.age - x.recency, 0.0), x.age, H)[:400]
    assert np.corrcoef(np.argsort(np.argsort(p)), np.argsort(np.argsort(rate)))[0, 1] > 0.8


def test_inputs_that_never_change_get_no_weight() -> None:
    rows = made.rows(800)
    sent = [Inputs._fields.index(name) for name in ("browsed_7", "browsed_30", "browsed_90", "used_30")]
    sent += [Inputs._fields.index(name) for name in ("browse_recency", "used_90", "carts_30")]
    rows[:, sent] = 0.0
    model = Additive(H)
    model.learn_many(rows.tolist(), made.outcomes(rows), days(800))
    curves = model.published()["curves"]
    assert not {"browsed_7", "browsed_30", "browsed_90", "browse_recency", "browsing_trend"} & curves.keys()
    assert not {"used_30", "used_90", "use_trend", "carts_30"} & curves.keys()
    assert "recent_complaint" in curves


def test_a_season_goes_into_the_tide_and_not_into_what_is_stated() -> None:
    rows = made.rows(6000)
    x = made.inputs(rows)
    rate = probability_of_none(Rates(), x.gaps, np.maximum(x.age - x.recency, 0.0), x.age, H)
    # All are by 1 in log-odds less likely to leave than their purchase rate says, in this one season.
    p = 1.0 / (1.0 + np.exp(-(np.log(rate / (1.0 - rate)) - 1.0)))
    churned = [bool(y) for y in np.random.default_rng(2).random(6000) < p]
    model = Additive(H)
    model.learn_many(rows.tolist(), churned, [100.0 + i / 200 for i in range(6000)])
    state = model.state()
    assert state["tide"] - state["anchor"] < -0.6
    assert abs(model.level - state["anchor"]) < 0.3 * abs(state["drift"])


def test_what_is_off_through_many_seasons_is_believed() -> None:
    model = Additive(H)
    state = model.state() | {
        "examples": 10_000,
        "anchor": 0.5,
        "drift": -0.8,
        "swing": 10_000 * 0.01,
        "since": 0.0,
        "until": 5000.0,
    }
    model.restore(state)
    assert model.level == pytest.approx(0.5 - 0.8, abs=0.02)


def test_a_shop_that_the_purchase_rate_cannot_describe_is_believed_soon() -> None:
    def stated(distance: float) -> float:
        model = Additive(H)
        few = {
            "examples": 2_000,
            "anchor": 0.5,
            "drift": distance,
            "swing": 2_000 * 0.02,
            "since": 0.0,
            "until": 84.0,
        }
        model.restore(model.state() | few)
        return (model.level - 0.5) / distance

    assert stated(-1.5) > 0.9
    assert stated(1.5) > 0.9
    assert stated(-0.3) < 0.5, "that may be a season"


def test_challengers_know_nothing_of_the_purchase_rate() -> None:
    one, two = (Additive(H, RFM, anchored=False) for _ in range(2))
    rows = made.rows(400)
    two.rates = Rates(r=3.0, alpha=5.0, a=0.01, b=9.0)
    for model in (one, two):
        model.learn_many(rows.tolist(), made.outcomes(rows), days(400))
    assert one.published() == two.published()


def test_what_is_published_is_readable_and_goes_through_json_unchanged() -> None:
    published = taught(MODELS["champion"]).published()
    assert json.loads(json.dumps(published)) == published
    curve = published["curves"]["open_complaints"]
    assert curve["group"] == "complaint"
    assert list(curve["knots"]) == [0.0, 1.0, 2.0]
    assert curve["effects"][0] == 0.0
