"""Made-up examples: customers whose inputs are all of them possible, and mostly usual."""

from __future__ import annotations

import numpy as np

from features.matrix import Floats, Inputs


def rows(n: int, seed: int = 0) -> Floats:
    """Inputs of ``n`` customers, a row each, to float32 as examples carry them. Half of them know everything that
    a shop may send, the others only purchases."""
    rng = np.random.default_rng(seed)
    gaps = rng.poisson(3, n).astype(np.float64) * (rng.random(n) < 0.7)
    t_x = gaps * rng.uniform(3, 40, n)
    recency = rng.exponential(40, n)
    chatty = rng.random(n) < 0.5
    activity = chatty * rng.exponential(3, n)

    def seldom(share: float, values: Floats) -> Floats:
        kept: Floats = np.where(chatty & (rng.random(n) < share), values, 0.0)
        return kept

    found = Inputs(
        recency=recency,
        age=t_x + recency,
        repeats=gaps + rng.integers(0, 2, n).astype(np.float64),
        gaps=gaps,
        gap_mean=np.where(gaps > 0, rng.normal(3, 0.7, n), 0.0),
        gap_variance=np.where(gaps > 1, rng.exponential(0.5, n), 0.0),
        last_gap=np.where(gaps > 0, np.abs(rng.normal(3, 1, n)), 0.0),
        bought_7=rng.exponential(1, n) * 2 ** (-recency / 7),
        bought_30=rng.exponential(2, n) * 2 ** (-recency / 30),
        bought_90=rng.exponential(3, n) * 2 ** (-recency / 90),
        order_value=rng.lognormal(8, 1, n),
        value_trend=np.where(gaps > 0, rng.normal(0, 0.5, n), 0.0),
        discount_share=seldom(0.5, rng.random(n) / 2),
        returned_90=seldom(0.3, rng.exponential(1, n)),
        abandoned=seldom(0.3, rng.random(n)),
        browsed_7=activity * 0.3,
        browsed_30=activity,
        browsed_90=activity * rng.uniform(1, 3, n),
        browse_recency=chatty * rng.exponential(10, n),
        empty_searches_30=seldom(0.2, rng.exponential(1, n)),
        carts_30=seldom(0.4, rng.exponential(1, n)),
        used_30=seldom(0.4, rng.exponential(3, n)),
        used_90=seldom(0.4, rng.exponential(6, n)),
        rating=seldom(0.1, rng.choice([0.2, 0.4], n)),
        open_complaints=seldom(0.2, rng.integers(1, 3, n).astype(np.float64)),
        overdue_complaints=seldom(0.1, np.ones(n)),
        recent_complaint=seldom(0.1, np.ones(n)),
        bad_complaints=seldom(0.1, rng.random(n)),
        satisfaction=1.0 - seldom(0.3, rng.random(n)),
        said_lost=seldom(0.05, np.ones(n)),
    )
    return np.stack(found, axis=1).astype(np.float32).astype(np.float64)


def outcomes(found: Floats, seed: int = 0) -> list[bool]:
    """Whether they churned: the longer the silence in their own gaps the likelier, and more so after complaints."""
    x = inputs(found)
    logit = np.log1p(x.recency) - x.gap_mean - 0.3 * x.gaps + x.open_complaints - 0.2 * np.log1p(x.browsed_30)
    p = 1.0 / (1.0 + np.exp(-logit))
    return [bool(y) for y in np.random.default_rng(seed + 1).random(len(found)) < p]


def inputs(found: Floats) -> Inputs:
    """As a score reads them."""
    return Inputs(*np.ascontiguousarray(found.T))


def silent(x: Inputs, days: float) -> Inputs:
    """The same customers after so many days more in which nothing happened, as far as purchases tell."""
    return x._replace(
        recency=x.recency + days,
        age=x.age + days,
        bought_7=x.bought_7 * 2 ** (-days / 7),
        bought_30=x.bought_30 * 2 ** (-days / 30),
        bought_90=x.bought_90 * 2 ** (-days / 90),
    )
