from __future__ import annotations

import json
import math
from collections.abc import Callable
from random import Random

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from agents.datasets import DatasetError, cdnow
from features.matrix import Floats
from models import evaluation, purchase_rate
from models.purchase_rate import OnlineRates, Rates, log_gamma
from tests.models import shops
from tests.models.shops import Example, Histories

PAPERS = Rates(fade=0.0)
"""Without the fading of memory, as the papers have it."""

positive = st.floats(0.02, 20.0)
RATES = st.builds(
    Rates,
    r=positive,
    alpha=st.floats(0.5, 400.0),
    a=positive,
    b=positive,
    fade=st.sampled_from([0.0, 0.1, 0.5]),
)


@st.composite
def customers(draw: st.DrawFn) -> Histories:
    x = draw(st.integers(0, 300))
    t_x = draw(st.floats(1.0, 3000.0)) if x else 0.0
    silent = draw(st.floats(0.0, 3000.0))
    return Histories(np.array([float(x)]), np.array([t_x]), np.array([t_x + silent]))


DAYS = st.floats(0.1, 800.0)


# ---- the mathematics -------------------------------------------------------------------------------------------


def test_the_published_fit_of_cdnow_has_the_published_likelihood() -> None:
    """Fader, Hardie and Lee (2005), table 2: the BG/NBD on 2,357 customers over 39 weeks."""
    lines, _ = shops.sample()
    x, t_x, age = shops.histories(shops.purchase_days(lines, 2), 272)
    assert len(x) == 2357

    def total(r: float, alpha: float, a: float, b: float) -> float:
        weeks = Rates(r, alpha, a, b, 0.0)
        return float(purchase_rate.log_likelihood(weeks, x, t_x / 7, age / 7, first_counts=False).sum())

    published = (0.2426, 4.4136, 0.7929, 2.4259)
    assert total(*published) == pytest.approx(-9582.4, abs=0.05)
    for place in range(4):
        for factor in (0.97, 1.03):
            other = [value * (factor if k == place else 1.0) for k, value in enumerate(published)]
            assert total(*other) < total(*published)


def test_a_history_is_as_likely_as_its_integral_over_rates_and_leaving_says() -> None:
    rates, x, t_x, age = Rates(0.7, 20.0, 1.3, 2.1, 0.0), 3.0, 41.0, 60.0
    rate, leaving, weights = grid(rates)
    stays = rate**x * (1 - leaving) ** (x + 1) * np.exp(-rate * age)
    leaves = rate**x * (1 - leaving) ** x * leaving * np.exp(-rate * t_x)
    expected = float((weights * (stays + leaves)).sum())
    found = purchase_rate.log_likelihood(rates, *(np.array([v]) for v in (x, t_x, age)))
    assert math.exp(found[0]) == pytest.approx(expected, rel=1e-6)


def grid(rates: Rates, points: int = 1600) -> tuple[Floats, Floats, Floats]:
    """Nodes and weights of an integral over the gamma and beta distributions, by the trapezoidal rule in the
    logarithm and the log-odds, where both fall off at either end."""
    u, v = np.linspace(-60, 8, points), np.linspace(-180, 60, points)
    rate, odds = np.exp(u), np.exp(v)
    leaving = odds / (1 + odds)
    norm_rate = rates.r * math.log(rates.alpha) - math.lgamma(rates.r)
    norm_leaving = math.lgamma(rates.a + rates.b) - math.lgamma(rates.a) - math.lgamma(rates.b)
    by_rate = np.exp(norm_rate + rates.r * u - rates.alpha * rate) * (u[1] - u[0])
    by_leaving = np.exp(norm_leaving + rates.a * np.log(leaving) - rates.b * np.logaddexp(0.0, v)) * (
        v[1] - v[0]
    )
    return rate[:, None], leaving[None, :], by_rate[:, None] * by_leaving[None, :]


@pytest.mark.parametrize("a", [0.15, 1.0, 1.6])
@pytest.mark.parametrize("days", [1.0, 84.0, 365.0, 20_000.0])
def test_purchases_expected_are_those_of_the_integral_over_rates_and_leaving(a: float, days: float) -> None:
    """While alive a customer buys at their rate and leaves at rate times probability, so that (1 - e^-rpt)/p
    purchases are expected of whoever is alive now."""
    rates = Rates(0.6, 25.0, a, 2.0, 0.0)
    for x, t_x, age in ((0.0, 0.0, 0.0), (0.0, 0.0, 70.0), (6.0, 100.0, 130.0)):
        rate, leaving, weights = grid(Rates(rates.r + x, rates.alpha + age, rates.a, rates.b + x + 1, 0.0))
        expected = float((weights * -np.expm1(-rate * leaving * days) / leaving).sum())
        history = Histories(*(np.array([v]) for v in (x, t_x, age)))
        found = purchase_rate.expected_purchases(rates, *history, days) / purchase_rate.alive(rates, *history)
        assert found[0] == pytest.approx(expected, rel=2e-6)


@pytest.mark.parametrize("rates", [PAPERS, Rates(0.5, 50.0, 1.0, 1.5, 0.0), Rates(1.6, 12.0, 0.1, 3.0, 0.0)])
def test_customers_who_act_as_the_model_says_do_what_it_expects(rates: Rates) -> None:
    seen, future = shops.simulate(rates, 120_000, 200.0, 300.0, seed=7)
    none = purchase_rate.probability_of_none(rates, *seen, 100.0)
    alive = purchase_rate.alive(rates, *seen)
    expected = purchase_rate.expected_purchases(rates, *seen, 100.0)
    recent = seen.T - seen.t_x < 60
    for low, high in ((0, 0), (1, 1), (2, 4), (5, 1000)):
        for group in (recent, ~recent):
            some = (seen.x >= low) & (seen.x <= high) & group
            n = int(some.sum())
            if n < 400:
                continue
            for said, came in (
                (none, future.purchases == 0),
                (1 - alive, future.left),
                (expected, future.purchases),
            ):
                error = float(np.std(came[some] - said[some])) / math.sqrt(n)
                assert abs(float(np.mean(came[some] - said[some]))) < 4.5 * error + 1e-4


def test_log_gamma_is_that_of_the_standard_library() -> None:
    values = np.geomspace(1e-3, 1e5, 400)
    expected = np.array([math.lgamma(value) for value in values])
    assert np.allclose(log_gamma(values), expected, rtol=1e-12, atol=1e-12)


def test_the_slopes_of_the_log_odds_are_their_differences() -> None:
    random = np.random.default_rng(5)
    x = random.integers(0, 25, 60).astype(np.float64)
    t_x, silent, days = x * random.exponential(15, 60), random.exponential(90, 60), np.full(60, 28.0)
    _, slopes = purchase_rate._log_odds(Rates(), x, t_x, silent, days)
    theta = purchase_rate._logs(Rates())
    for place, slope in enumerate(slopes):
        up, down = ([t + step * (k == place) for k, t in enumerate(theta)] for step in (1e-5, -1e-5))
        above, below = (
            purchase_rate._log_odds(purchase_rate._rates(near, 0.1), x, t_x, silent, days)[0]
            for near in (up, down)
        )
        assert np.allclose((above - below) / 2e-5, slope, atol=1e-7)


# ---- laws ------------------------------------------------------------------------------------------------------


@given(RATES, customers(), DAYS)
def test_probabilities_are_probabilities(rates: Rates, seen: Histories, days: float) -> None:
    none = purchase_rate.probability_of_none(rates, *seen, days)[0]
    alive = purchase_rate.alive(rates, *seen)[0]
    assert 0 <= none <= 1
    assert 0 <= alive < 1, "nobody is certainly alive"
    assert none >= 1 - alive - 1e-12, "who has left does not buy"
    assert math.isfinite(purchase_rate.log_odds_of_none(rates, *seen, days)[0])


@given(RATES, customers(), DAYS, DAYS)
def test_a_longer_time_leaves_fewer_without_a_purchase(
    rates: Rates, seen: Histories, one: float, other: float
) -> None:
    short, long = sorted((one, other))
    assert (
        purchase_rate.log_odds_of_none(rates, *seen, long)[0]
        <= purchase_rate.log_odds_of_none(rates, *seen, short)[0] + 1e-9
    )
    assert purchase_rate.expected_purchases(rates, *seen, long)[0] >= purchase_rate.expected_purchases(
        rates, *seen, short
    )[0] * (1 - 1e-9)


@given(RATES, customers(), DAYS, st.floats(0.0, 500.0))
def test_silence_never_makes_a_customer_likelier_to_come_again(
    rates: Rates, seen: Histories, days: float, more: float
) -> None:
    later = seen._replace(T=seen.T + more)
    assert (
        purchase_rate.log_odds_of_none(rates, *later, days)[0]
        >= purchase_rate.log_odds_of_none(rates, *seen, days)[0] - 1e-9
    )
    assert purchase_rate.alive(rates, *later)[0] <= purchase_rate.alive(rates, *seen)[0] * (1 + 1e-12)


@given(RATES, customers(), DAYS)
def test_purchases_expected_are_at_least_the_chance_of_one_and_at_most_those_of_who_never_leaves(
    rates: Rates, seen: Histories, days: float
) -> None:
    expected = purchase_rate.expected_purchases(rates, *seen, days)[0]
    chance = 1 - purchase_rate.probability_of_none(rates, *seen, days)[0]
    weight = 1 / (1 + rates.fade * seen.x[0])
    scale = weight * (rates.alpha + seen.t_x[0])
    mean = weight * (rates.r + seen.x[0]) / (scale + seen.T[0] - seen.t_x[0])
    assert chance * (1 - 1e-3) - 1e-9 <= expected
    assert expected <= purchase_rate.alive(rates, *seen)[0] * mean * days * (1 + 1e-3) + 1e-9


@given(RATES.filter(lambda rates: rates.r > 0.1), customers())
def test_half_of_those_alive_have_bought_after_the_wait_expected(rates: Rates, seen: Histories) -> None:
    wait = float(purchase_rate.expected_wait(rates, *seen)[0])
    alive = purchase_rate.alive(rates, *seen)[0]
    none = purchase_rate.probability_of_none(rates, *seen, wait)[0]
    if alive > 1e-6:
        assert (none - (1 - alive)) / alive == pytest.approx(0.5, abs=1e-6)


def test_whoever_has_bought_once_is_not_certainly_alive_on_the_day_itself() -> None:
    day = Histories(*(np.zeros(1) for _ in range(3)))
    assert purchase_rate.alive(Rates(), *day)[0] == pytest.approx(2.5 / 2.9)
    assert purchase_rate.probability_of_none(Rates(), *day, 1e9)[0] == pytest.approx(0.4 / 2.9, abs=1e-3)


def test_a_history_weighs_no_more_than_a_number_of_gaps_and_its_mean_stays() -> None:
    for x in (5.0, 50.0, 500.0):
        seen = Histories(np.array([x]), np.array([x * 10]), np.array([x * 10]))
        faded, whole = (
            purchase_rate._posterior(rates, seen.x, seen.t_x) for rates in (Rates(fade=0.1), PAPERS)
        )
        assert faded[0][0] < 10 + Rates().r
        assert faded[0][0] / faded[1][0] == pytest.approx(whole[0][0] / whole[1][0])
        assert whole[0][0] == x + Rates().r


FUNCTIONS: list[Callable[[Rates, Floats, Floats, Floats], Floats]] = [
    purchase_rate.alive,
    purchase_rate.expected_wait,
    lambda rates, x, t_x, age: purchase_rate.log_odds_of_none(rates, x, t_x, age, 28.0),
    lambda rates, x, t_x, age: purchase_rate.expected_purchases(rates, x, t_x, age, 365.0),
]


@pytest.mark.parametrize("function", FUNCTIONS)
def test_a_customer_is_bit_equal_alone_among_two_thousand_and_in_a_table_of_instants(
    function: Callable[[Rates, Floats, Floats, Floats], Floats],
) -> None:
    random = np.random.default_rng(3)
    x = np.where(random.random(2000) < 0.4, 0, random.geometric(0.1, 2000)).astype(np.float64)
    t_x = x * random.exponential(25, 2000)
    age = t_x + random.exponential(100, 2000)
    together = function(Rates(), x, t_x, age)
    for first, size in ((0, 1), (1, 3), (5, 7), (17, 1000), (1999, 1)):
        part = slice(first, first + size)
        assert function(Rates(), x[part], t_x[part], age[part]).tobytes() == together[part].tobytes()
    table = function(Rates(), x, t_x, age + np.array([[0.0], [7.0], [30.0]]))
    assert table.shape == (3, 2000)
    assert table[0].tobytes() == together.tobytes()
    assert table[2].tobytes() == function(Rates(), x, t_x, age + 30.0).tobytes()


# ---- the estimate ----------------------------------------------------------------------------------------------


def teach(online: OnlineRates, examples: list[Example], horizon: float) -> OnlineRates:
    for example in examples:
        online.learn_one(example.x, example.t_x, example.T, horizon, example.none, example.at)
    return online


def off(one: Rates, other: Rates, seen: Histories, days: float) -> float:
    """How far apart two estimates are: the root mean square of what they say."""
    a, b = (purchase_rate.probability_of_none(rates, *seen, days) for rates in (one, other))
    return float(np.sqrt(np.mean((a - b) ** 2)))


def most_likely(seen: Histories, start: Rates, fade: float) -> Rates:
    """The batch estimate: the maximum of the likelihood of whole histories, by compass search."""

    def value(theta: list[float]) -> float:
        return float(purchase_rate.log_likelihood(purchase_rate._rates(theta, fade), *seen).sum())

    theta = purchase_rate._logs(start)
    best, step = value(theta), 0.4
    while step > 0.004:
        tried = [
            [t + sign * step * (k == place) for k, t in enumerate(theta)]
            for place in range(4)
            for sign in (1, -1)
        ]
        values = [value(t) for t in tried]
        if max(values) > best:
            best, theta = max(values), tried[values.index(max(values))]
        else:
            step /= 2
    return purchase_rate._rates(theta, fade)


@pytest.mark.parametrize("true", [Rates(0.5, 15.0, 0.9, 2.0, 0.0), Rates(1.6, 12.0, 0.1, 3.0, 0.0)])
def test_the_estimate_approaches_the_truth_and_the_batch_estimate_where_both_can_be_known(
    true: Rates,
) -> None:
    days = shops.simulate_days(true, 2500, 500, seed=11)
    online = OnlineRates(Rates(fade=0.0), season=0.01, shop=1e6, half_life=1e6)
    teach(online, shops.examples(days, 42, 21, 500), 42)
    seen = shops.histories(days, 500)
    batch = most_likely(seen, Rates(), 0.0)
    assert off(Rates(fade=0.0), true, seen, 42) > 0.04
    assert off(online.rates, true, seen, 42) < 0.015
    assert off(online.rates, batch, seen, 42) < 0.015


def test_on_cdnow_the_estimate_is_as_good_as_one_refitted_to_whole_histories() -> None:
    try:
        path = cdnow()
    except DatasetError as error:
        pytest.skip(str(error))
    days = shops.purchase_days(path, 1, every=5)
    examples = shops.examples(days, 84, 21, 545)
    online, learned = OnlineRates(), 0
    losses: dict[str, list[float]] = {"online": [], "batch": [], "defaults": []}
    for cut in range(273, 462, 56):
        until = next((n for n, example in enumerate(examples) if example.at > cut), len(examples))
        teach(online, examples[learned:until], 84)
        learned = until
        seen = shops.histories(days, cut)
        none = [not any(cut < day <= cut + 84 for day in bought) for bought in days if bought[0] <= cut]
        for name, rates in (
            ("online", online.rates),
            ("batch", most_likely(seen, Rates(), 0.0)),
            ("defaults", Rates()),
        ):
            said = purchase_rate.probability_of_none(rates, *seen, 84)
            losses[name].append(evaluation.log_loss(none, said.tolist()))
    assert np.mean(losses["online"]) < np.mean(losses["batch"]) < np.mean(losses["defaults"])


@pytest.fixture(scope="module")
def some() -> list[Example]:
    days = shops.simulate_days(Rates(0.5, 15.0, 0.9, 2.0, 0.0), 500, 400, seed=2)
    return shops.examples(days, 42, 21, 400)


def test_nothing_learned_is_the_prior_and_a_little_learned_is_near_it(some: list[Example]) -> None:
    assert OnlineRates().rates == Rates()
    assert OnlineRates(Rates(r=0.3)).rates == Rates(r=0.3)
    seen = Histories(np.array([0.0, 3.0]), np.array([0.0, 60.0]), np.array([50.0, 70.0]))
    little = teach(OnlineRates(), [example._replace(none=True) for example in some[:16]], 42)
    assert 0 < off(little.rates, Rates(), seen, 42) < 0.25
    much = teach(OnlineRates(), [example._replace(none=True) for example in some], 42)
    assert off(much.rates, Rates(), seen, 42) > off(little.rates, Rates(), seen, 42)


def test_the_order_of_the_examples_matters_little(some: list[Example]) -> None:
    in_order = teach(OnlineRates(), some, 42)
    shuffled = list(some)
    Random(1).shuffle(shuffled)
    other = teach(OnlineRates(), shuffled, 42)
    assert other.examples == in_order.examples
    assert other.weight == pytest.approx(in_order.weight)
    for online in (in_order, other):
        online.refit(steps=20)
    for one, two in zip(purchase_rate._logs(in_order.rates), purchase_rate._logs(other.rates), strict=True):
        assert one == pytest.approx(two, abs=1e-4)


def test_the_state_goes_through_json_and_the_rest_is_learned_as_if_nothing_had_been_between(
    some: list[Example],
) -> None:
    through = teach(OnlineRates(), some, 42)
    before = teach(OnlineRates(), some[:3000], 42)
    after = OnlineRates()
    after.restore(json.loads(json.dumps(before.state())))
    teach(after, some[3000:], 42)
    assert after.state() == through.state()
    empty = OnlineRates()
    empty.restore(json.loads(json.dumps(OnlineRates().state())))
    assert teach(empty, some[:600], 42).state() == teach(OnlineRates(), some[:600], 42).state()


def test_what_is_no_state_is_refused_and_changes_nothing(some: list[Example]) -> None:
    online = teach(OnlineRates(), some[:600], 42)
    before = online.state()
    for wrong in (
        None,
        {},
        before | {"cells": [[1, 2]]},
        before | {"rates": {"r": -1.0}},
        before | {"more": 1},
    ):
        with pytest.raises(ValueError, match="no state of the purchase rate"):
            online.restore(wrong)
    assert online.state() == before


def test_it_says_after_how_many_examples_the_estimate_changes() -> None:
    online = OnlineRates(every=200)
    changed: list[int] = []
    last, foretold = online.rates, online.until_fit
    for n in range(1, 650):
        assert online.until_fit == foretold - (n - 1 - (changed[-1] if changed else 0))
        online.learn_one(n % 5, n % 5 * 9.0, 60.0, 28.0, n % 3 == 0, n / 10)
        if online.rates != last:
            changed.append(n)
            last, foretold = online.rates, online.until_fit
    assert changed == [16, 32, 64, 128, 200, 400, 600]


def test_old_examples_fade_and_years_of_them_take_no_more_room(some: list[Example]) -> None:
    online = OnlineRates(half_life=10.0)
    cells = []
    for year in range(40):
        teach(online, [example._replace(at=example.at + 365.25 * year) for example in some[:1024]], 42)
        cells.append(len(online.state()["cells"]))  # type: ignore[arg-type]
    assert max(cells) == cells[0] < 1000
    assert online.weight < 1024
    assert all(math.isfinite(v) for v in purchase_rate._logs(online.rates))


def test_an_outcome_that_a_whole_season_shares_moves_the_estimate_only_in_part(some: list[Example]) -> None:
    """More bought in the quarter of the examples than the model expects: some is this shop, some the weather."""
    random = Random(4)
    shifted = [example._replace(none=example.none and random.random() < 0.6) for example in some]
    firm, loose = (teach(OnlineRates(season=season), shifted, 42) for season in (0.6, 0.001))
    seen = Histories(*np.array([(e.x, e.t_x, e.T) for e in some]).T)
    in_part, whole = (
        float(purchase_rate.log_odds_of_none(rates, *seen, 42).mean()) for rates in (firm.rates, loose.rates)
    )
    assert whole + 0.05 < in_part
    assert firm.season < -0.05
    assert abs(loose.season) < 0.01


@pytest.mark.parametrize(
    ("x", "t_x", "age", "days"),
    [(-1, 0, 1, 28), (1, 5, 4, 28), (1, -1, 4, 28), (0, 0, 1, 0), (math.nan, 0, 1, 28), (0, 0, math.inf, 28)],
)
def test_what_is_no_history_is_refused(x: float, t_x: float, age: float, days: float) -> None:
    with pytest.raises(ValueError, match="no history"):
        OnlineRates().learn_one(x, t_x, age, days, True, 1.0)


@pytest.mark.parametrize("setting", ["half_life", "shop", "season", "every"])
def test_settings_that_are_not_positive_are_refused(setting: str) -> None:
    with pytest.raises(ValueError, match=f"{setting} \\(0\\)"):
        OnlineRates(**{setting: 0})  # type: ignore[arg-type]


def test_equations_solve() -> None:
    matrix = [[4.0, 1.0, 0.5], [1.0, 3.0, 0.2], [0.5, 0.2, 2.0]]
    found = purchase_rate.solve(matrix, [1.0, 2.0, 3.0])
    assert [sum(m * v for m, v in zip(row, found, strict=True)) for row in matrix] == pytest.approx([1, 2, 3])
