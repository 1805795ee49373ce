"""How often a customer buys, and whether they still do: the modified beta-geometric/NBD model.

A buy-till-you-die model (Batislam, Denizel and Filiztekin, *Empirical validation and comparison of models
for customer base analysis*, International Journal of Research in Marketing 24, 2007; the family of Fader,
Hardie and Lee, *Counting your customers the easy way*, Marketing Science 24, 2005). While alive, a customer
buys at random with the rate lambda (a Poisson process). After **every** purchase, the first included, they
leave for good with probability p; that the first counts is what tells it from the BG/NBD, under which
whoever has bought only once is alive for certain. Over the shop's customers lambda has a gamma distribution
(shape r, rate alpha, in days) and p a beta distribution (a, b).

A customer is three numbers, as of an instant, in days: ``x``, the gaps between purchase days so far; ``t_x``,
from the first purchase to the last; ``T``, from the first purchase to now. Arrays of them have the shape
(n,), or (k, n) for tables of instants, and broadcast; what is in one place depends on nothing in another.

With R = r + x, and the odds that they have left, once lambda and p are integrated out,

    L      = Gamma(R) alpha^r / Gamma(r) * B(a, b + x + 1) / B(a, b) * (alpha + T)^-R * (1 + left)
    left   = a / (b + x) * ((alpha + T) / (alpha + t_x))^R        (L: the likelihood of a history)
    alive  = 1 / (1 + left)

Who is alive has a rate with the distribution gamma(R, alpha + T) and, until the next purchase, no occasion
to leave, so that

    no purchase in the next H days:  (left + wait(H)) / (left + 1),   wait(H) = ((alpha + T) / (alpha + T + H))^R
"""

from __future__ import annotations

from typing import Annotated

import msgspec
import numpy as np
from msgspec import Meta
from numpy.typing import NDArray

Floats = NDArray[np.float64]
_Positive = Annotated[float, Meta(gt=0)]

_LARGEST = 700.0
"""Beyond e^700 there is no float."""


class Rates(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The shop's customers: the rate of purchases per day is gamma (shape ``r``, rate ``alpha`` days), the
    probability of leaving after a purchase is beta (``a``, ``b``).

    The defaults lie between a grocer, a record shop and a gift wholesaler (``docs/score.md``).
    """

    r: _Positive = 0.8
    alpha: _Positive = 35.0
    a: _Positive = 0.4
    b: _Positive = 2.5


def _left_odds(rates: Rates, x: Floats, t_x: Floats, now: Floats) -> Floats:
    """The odds of having left; ``now`` is alpha + T."""
    power = (rates.r + x) * (np.log(now) - np.log(rates.alpha + t_x))
    odds: Floats = rates.a / (rates.b + x) * np.exp(np.minimum(power, _LARGEST))
    return odds


def alive(rates: Rates, x: Floats, t_x: Floats, T: Floats) -> Floats:  # noqa: N803 (the literature's name)
    """P(still a customer), less than 1 also for one-time buyers."""
    probability: Floats = 1.0 / (1.0 + _left_odds(rates, x, t_x, rates.alpha + T))
    return probability


def log_odds_of_none(rates: Rates, x: Floats, t_x: Floats, T: Floats, days: float) -> Floats:  # noqa: N803
    """The log-odds of no purchase in the next ``days`` (more than 0)."""
    now = rates.alpha + T
    left = _left_odds(rates, x, t_x, now)
    power = (rates.r + x) * np.log1p(days / now)
    bought = -np.expm1(-power)
    logit: Floats = np.log(left + np.exp(-power)) - np.log(bought)
    return logit


def probability_of_none(rates: Rates, x: Floats, t_x: Floats, T: Floats, days: float) -> Floats:  # noqa: N803
    """P(no purchase in the next ``days``)."""
    probability: Floats = 1.0 / (1.0 + np.exp(-log_odds_of_none(rates, x, t_x, T, days)))
    return probability
