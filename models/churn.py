"""The statistical churn score: silence against the customer's own rhythm, with evidence beside it.

A customer who has just bought either has left for good, with probability pi, or buys again after a
log-logistic waiting time (a split-population survival model, after Schmidt and Witte, 1989, on the
days between purchase days). After s days of silence, with survival S,

    P(no purchase in the next H days) = (pi + (1 - pi) S(s + H)) / (pi + (1 - pi) S(s))
    P(alive)                          = (1 - pi) S(s) / (pi + (1 - pi) S(s))
    S(s)                              = 1 / (1 + (s / alpha)^beta)

alpha and beta come from the mean and spread of the customer's log gaps, shrunk towards the prior:
with n gaps of mean m and variance v, k prior gaps of mean m0 and variance v0,

    log alpha = (n m + k m0) / (n + k),   sigma^2 = (n v + k v0) / (n + k),   beta = pi_ / (sqrt(3) sigma)

(the standard deviation of a log-logistic variable's logarithm is pi_ / (sqrt(3) beta)). pi is the
mean of a Beta(a, b) prior after x repeat purchases that were no defection: a / (a + b + x), as in
the Beta-geometric family (Fader, Hardie and Lee, 2005). A one-time buyer is never certainly alive.

Complaints, browsing, satisfaction and what the customer said count beside it, each by a documented
weight in log-odds, so that the contributions add up to the score.
"""

from __future__ import annotations

from collections.abc import Mapping
from math import log
from types import MappingProxyType
from typing import NamedTuple, Protocol

import numpy as np

from features.matrix import Floats, Inputs
from models.snapshot import Prior
from streams.alerts import ScoreSource

ROUND = 6
"""Decimal places to which probabilities are rounded before they are compared or printed."""
_LONGEST_MEMORY = 9.0
"""Gaps that an exponentially weighted mean with weight 0.2 is worth: 2 / 0.2 - 1."""
_TINY = 1e-6

GROUPS = ("silence", "complaint", "browsing", "satisfaction", "said_lost")
"""The groups of evidence, in the order of ``Scores.contributions``."""


class Scores(NamedTuple):
    """Per customer: ``churn``: P(no purchase within the horizon); ``alive``: P(alive) from the rhythm;
    ``base``: log-odds to which the contributions add; ``logit``: log-odds now, which is ``base`` plus the
    contributions; ``rise``: log-odds gained since right after the last purchase; ``contributions``: one row
    per group; ``usual_days``: median gap expected."""

    churn: Floats
    alive: Floats
    base: Floats
    logit: Floats
    rise: Floats
    contributions: tuple[Floats, ...]
    usual_days: Floats


class ChurnModel(Protocol):
    """What a churn model is to the decisions, learned or statistical. ``name`` says which model it is,
    ``version`` which snapshot of it; ``groups`` what its contributions are of; ``usual`` the inputs' usual values
    in this shop, where it knows them; ``needs`` the inputs that it reads;
    ``tells_value`` whether ``expected`` may have an answer."""

    name: str
    source: ScoreSource
    version: str
    groups: tuple[str, ...]
    usual: Mapping[str, float]
    needs: frozenset[str]
    tells_value: bool

    def score(self, x: Inputs) -> Scores:
        """Scores of each customer, independent of who else is in ``x``."""
        ...

    def expected(self, x: Inputs) -> tuple[float, float] | None:
        """Of the one customer in ``x``: days until the next order, and the value of the orders of the next 12
        months in units of the base currency; None where the model does not tell."""
        ...


def _logit(p: Floats) -> Floats:
    p = np.clip(p, _TINY, 1.0 - _TINY)
    return np.log(p / (1.0 - p))


class RhythmScore:
    """The model of this module for one horizon and one prior."""

    name = "rhythm"
    groups: tuple[str, ...] = GROUPS
    source: ScoreSource = "statistical"
    tells_value = False
    needs = frozenset(
        {
            *("recency", "repeats", "gaps", "gap_mean", "gap_variance", "browsed_30", "open_complaints"),
            *("overdue_complaints", "recent_complaint", "satisfaction", "said_lost"),
        }
    )

    def __init__(self, prior: Prior, horizon_days: float) -> None:
        self.version = prior.version
        # The default is nobody's shop: only a prior that was set says what is usual in this one.
        known = {"gap_mean": log(prior.gap_days)} if prior.gap_days != Prior().gap_days else {}
        self.usual: Mapping[str, float] = MappingProxyType(known)
        self._prior = prior
        self._horizon = horizon_days

    def expected(self, x: Inputs) -> None:
        """Nothing is known of value before anything has been learned."""

    def score(self, x: Inputs) -> Scores:
        """See the module."""
        prior = self._prior
        n = np.minimum(x.gaps, _LONGEST_MEMORY)
        k = prior.strength
        location = (n * x.gap_mean + k * np.log(prior.gap_days)) / (n + k)
        sigma = np.sqrt((n * x.gap_variance + k * prior.spread**2) / (n + k))
        beta = np.pi / (np.sqrt(3.0) * sigma)
        left = prior.defect_a / (prior.defect_a + prior.defect_b + x.repeats)

        def survival(days: Floats) -> Floats:
            # Beyond e^700 there is no survival to tell from none, and no float either.
            power = np.minimum(beta * (np.log(np.maximum(days, 1e-3)) - location), 700.0)
            odds: Floats = np.exp(power)
            return 1.0 / (1.0 + odds)

        now = left + (1.0 - left) * survival(x.recency)
        later = left + (1.0 - left) * survival(x.recency + self._horizon)
        base = _logit(left + (1.0 - left) * survival(np.full_like(left, self._horizon)))
        silence = _logit(later / now) - base
        complaint = (
            prior.open_complaint * np.minimum(x.open_complaints, 2.0)
            + prior.overdue_complaint * np.minimum(x.overdue_complaints, 2.0)
            + prior.recent_complaint * x.recent_complaint * (x.open_complaints == 0)
        )
        browsing = prior.browsing * np.log1p(x.browsed_30)
        satisfaction = prior.dissatisfaction * np.maximum(0.5 - x.satisfaction, 0.0) / 0.5
        lost = prior.said_lost * x.said_lost
        logit = base + silence + complaint + browsing + satisfaction + lost
        return Scores(
            churn=np.round(1.0 / (1.0 + np.exp(-logit)), ROUND),
            alive=np.round(1.0 - left / now, ROUND),
            base=base,
            logit=logit,
            rise=np.round(logit - base, ROUND),
            contributions=(silence, complaint, browsing, satisfaction, lost),
            usual_days=np.exp(location),
        )
