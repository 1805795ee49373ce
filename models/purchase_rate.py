"""How often a customer buys, and whether they still do: a buy-till-you-die model, estimated online.

The modified beta-geometric/NBD model (Batislam, Denizel and Filiztekin, *Empirical validation and comparison
of models for customer base analysis*, International Journal of Research in Marketing 24, 2007), of the family
of Fader, Hardie and Lee (*Counting your customers the easy way*, Marketing Science 24, 2005), with a memory
that fades. While alive, a customer buys at random with the rate lambda (a Poisson process). After **every**
purchase, the first included, they leave for good with probability p; that the first counts is what tells it
from the BG/NBD, under which whoever has bought only once is alive for certain. Over the shop's customers
lambda has a gamma distribution (shape r, rate alpha days) and p a beta distribution (a, b).

A customer is three numbers, as of an instant, in days: ``x``, the gaps between purchase days so far; ``t_x``,
from the first purchase day to the last; ``T``, from the first purchase to now. Arrays of them have the shape
(n,), or (k, n) for tables of instants, and broadcast; what is in one place depends on nothing in another.

**Memory.** People's rates drift: of thirty gaps the last ten say more than the first. What a history tells of
the rate is discounted as a whole, so that its mean stays and it never weighs more than 1 / fade gaps,

    m = 1 / (1 + fade x),     R = m (r + x),     A = m (alpha + t_x),     s = T - t_x

(a density raised to a power, as in Harvey and Fernandes, *Time series models for count or qualitative
observations*, Journal of Business and Economic Statistics 7, 1989). ``fade`` 0 is the model of the papers.

**What follows.** With the odds that they have left, once lambda and p are integrated out,

    left     = a / (b + x) * ((A + s) / A)^R
    alive    = 1 / (1 + left)

Who is alive has a rate distributed as gamma(R, A + s) and, until the next purchase, no occasion to leave, so

    P(no purchase in the next H days)  =  (left + wait(H)) / (left + 1)
    wait(H)                            =  ((A + s) / (A + s + H))^R

**Expected purchases** in the next t days. Who is alive has, too, a probability of leaving distributed as
beta(a, b + x + 1), and with the rate lambda and the probability p they make (1 - e^(-lambda p t)) / p purchases on
the average. Over lambda that is closed; over p it is an integral of one dimension (the one behind the hypergeometric
function of equation 10 of Fader, Hardie and Lee), for

    E = alive * integral of (1 - (1 + p t / (A + s))^-R) / p * beta(p; a, b + x + 1) dp

It is taken by Gauss' quadrature in the log-odds of p, where the integrand is one smooth hill, and below it, where
p hardly matters, by the first two terms of its series. It takes the same steps for everybody, and is right to 1e-5 of
itself, in most cases to 1e-9; the series of the hypergeometric function would need ten thousand terms for a
year of somebody who buys every day.
"""

from __future__ import annotations

import math
from bisect import bisect_right
from typing import Annotated, Final

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
    probability of leaving after a purchase is beta (``a``, ``b``); ``fade`` is one over the number of gaps
    that a history weighs at most.

    The defaults lie between a grocer, a record shop and a gift wholesaler (``docs/score.md``).
    """

    r: _Positive = 0.8
    alpha: _Positive = 35.0
    a: _Positive = 0.4
    b: _Positive = 2.5
    fade: Annotated[float, Meta(ge=0)] = 0.1


def _posterior(rates: Rates, x: Floats, t_x: Floats) -> tuple[Floats, Floats]:
    """R and A of the module's text: the rate right after the last purchase is gamma(R, A)."""
    weight = 1.0 / (1.0 + rates.fade * x)
    return weight * (rates.r + x), weight * (rates.alpha + t_x)


def _left_odds(rates: Rates, x: Floats, shape: Floats, scale: Floats, silent: Floats) -> Floats:
    power = shape * np.log1p(silent / scale)
    odds: Floats = rates.a / (rates.b + x) * np.exp(np.minimum(power, _LARGEST))
    return odds


def alive(rates: Rates, x: Floats, t_x: Floats, T: Floats) -> Floats:  # noqa: N803 (the papers' name)
    """P(still a customer): less than 1 for everyone, also right after a purchase."""
    shape, scale = _posterior(rates, x, t_x)
    probability: Floats = 1.0 / (1.0 + _left_odds(rates, x, shape, scale, T - t_x))
    return probability


def log_odds_of_none(rates: Rates, x: Floats, t_x: Floats, T: Floats, days: float) -> Floats:  # noqa: N803
    """The log-odds of no purchase in the next ``days`` (more than 0)."""
    shape, scale = _posterior(rates, x, t_x)
    silent = T - t_x
    left = _left_odds(rates, x, shape, scale, silent)
    power = shape * np.log1p(days / (scale + silent))
    logit: Floats = np.log(left + np.exp(-power)) - np.log(-np.expm1(-power))
    return logit


def probability_of_none(rates: Rates, x: Floats, t_x: Floats, T: Floats, days: float) -> Floats:  # noqa: N803
    """P(no purchase in the next ``days``). ``days`` more than 0."""
    probability: Floats = 1.0 / (1.0 + np.exp(-log_odds_of_none(rates, x, t_x, T, days)))
    return probability


def expected_purchases(rates: Rates, x: Floats, t_x: Floats, T: Floats, days: float) -> Floats:  # noqa: N803
    """The expected number of purchase days in the next ``days`` (0 or more)."""
    shape, scale = _posterior(rates, x, t_x)
    per_leaving = days / (scale + (T - t_x))
    return alive(rates, x, t_x, T) * _purchases_alive(rates.a, rates.b + x + 1.0, shape, per_leaving)


def _purchases_alive(a: float, b: Floats, shape: Floats, tau: Floats) -> Floats:
    """The integral of the module's text over all p; ``tau``: t / (A + s)."""
    b, shape, tau = np.broadcast_arrays(b, shape, tau)
    beta = math.lgamma(a) + log_gamma(b) - log_gamma(a + b)
    small = _SMALL / (1.0 + tau * (shape + 1.0) + b)
    edge = np.log(small) - np.log1p(-small)
    # Where p^a or (1 - p)^b have fallen to e^-28 of what they are on the hill, nothing is left to add.
    foot = -math.log(math.expm1(min(_DEEP / a, 600.0))) - np.log1p(b / a)
    low = np.maximum(edge, foot)
    half = 0.5 * (np.log(np.expm1(_DEEP / b)) + np.log1p(a / b) - low)
    column = (-1, *(1 for _ in range(half.ndim)))
    odds = np.exp(-(low + half * (1.0 + _NODES.reshape(column))))  # (1 - p) / p
    stays = np.log1p(odds)  # -log p
    p = 1.0 / (1.0 + odds)
    hill = np.exp(b * np.log(odds) - (a + b) * stays - beta) * -np.expm1(-shape * np.log1p(p * tau)) / p
    # cumsum adds one after the other whatever the shape; sum does not.
    total: Floats = np.cumsum(_WEIGHTS.reshape(column) * hill, axis=0)[-1]
    below = np.exp(a * np.log(small) - beta) * (
        1.0 / a - (b - 1.0 + (shape + 1.0) * tau / 2.0) * small / (a + 1.0)
    )
    found: Floats = half * total + np.where(edge > foot, shape * tau * below, 0.0)
    return found


def _gauss(number: int) -> tuple[Floats, Floats]:
    """Nodes in (-1, 1) and weights of Gauss' quadrature: the roots of Legendre's polynomial, by Newton's method
    (Abramowitz and Stegun, 25.4.29)."""
    nodes, weights = [], []
    for k in range(number):
        root = math.cos(math.pi * (k + 0.75) / (number + 0.5))
        slope = 1.0
        for _ in range(20):
            before, value = 1.0, root
            for n in range(2, number + 1):
                before, value = value, ((2 * n - 1) * root * value - (n - 1) * before) / n
            slope = number * (root * value - before) / (root * root - 1.0)
            root -= value / slope
        nodes.append(root)
        weights.append(2.0 / ((1.0 - root * root) * slope * slope))
    return np.array(nodes), np.array(weights)


_NODES, _WEIGHTS = _gauss(48)
_DEEP: Final = 28.0
_SMALL: Final = 1e-4
"""Below this share of the p at which anything bends, two terms of the series are enough."""


def expected_wait(rates: Rates, x: Floats, t_x: Floats, T: Floats) -> Floats:  # noqa: N803
    """Days until the next purchase of a customer who is alive: the **median**. The mean would be infinite
    for whoever has bought once where r is 1 or less, as it is in most shops."""
    shape, scale = _posterior(rates, x, t_x)
    days: Floats = (scale + (T - t_x)) * np.expm1(np.minimum(math.log(2.0) / shape, _LARGEST))
    return days


def log_likelihood(
    rates: Rates,
    x: Floats,
    t_x: Floats,
    T: Floats,  # noqa: N803
    *,
    first_counts: bool = True,
) -> Floats:
    """The log-likelihood of each history (natural logarithm, times in days), without the fading of memory.

    With ``first_counts`` a customer may leave after the first purchase too (MBG/NBD); without, only after
    a repeat purchase (BG/NBD, equation 6 of Fader, Hardie and Lee).
    """
    shape = rates.r + x
    survived = x + (1.0 if first_counts else 0.0)  # occasions to leave, had by who is alive
    since = np.log(rates.alpha + T) - np.log(rates.alpha + t_x)
    left = np.where(
        survived > 0, shape * since + np.log(rates.a / np.maximum(rates.b + survived - 1.0, 1e-300)), -np.inf
    )
    numbers = log_gamma(shape) - log_gamma(np.float64(rates.r)) + rates.r * math.log(rates.alpha)
    stays = (
        log_gamma(rates.b + survived)
        - log_gamma(np.float64(rates.b))
        + log_gamma(np.float64(rates.a + rates.b))
        - log_gamma(rates.a + rates.b + survived)
    )
    found: Floats = numbers + stays - shape * np.log(rates.alpha + T) + np.logaddexp(0.0, left)
    return found


def log_gamma(x: Floats | np.float64) -> Floats:
    """Log Gamma(x) for x > 0: Stirling's series beyond 8, where five terms give 1e-15, by recurrence below."""
    y = x + 8.0
    below = np.log(x * (x + 1.0) * (x + 2.0) * (x + 3.0)) + np.log(
        (x + 4.0) * (x + 5.0) * (x + 6.0) * (x + 7.0)
    )
    u = 1.0 / (y * y)
    tail = (1 / 12 - u * (1 / 360 - u * (1 / 1260 - u * (1 / 1680 - u / 1188)))) / y
    found: Floats = (y - 0.5) * np.log(y) - y + 0.5 * math.log(2.0 * math.pi) + tail - below
    return found


_EDGES_X: Final = (1, 2, 3, 4, 6, 8, 12, 18, 30)
_EDGES_SILENT: Final = (1, 3, 7, 14, 21, 30, 45, 60, 90, 120, 180, 270, 365, 540)
_EDGES_GAP: Final = (2, 4, 7, 10, 14, 21, 30, 45, 60, 90, 150)
_FEWEST = 1e-6
"""The weight, in examples, under which a cell is forgotten."""
_FARTHEST = 4.0
"""How far the logarithm of a parameter may stray from the prior's."""
_SHORTEST = 1e-3
"""The share of a step that is still tried, where the whole would lead down."""
_MOST_HALVES = 64.0
"""Half-lives after which weights are expressed anew, long before they overflow."""
_FIRST_FIT = 16
"""Examples before the first fit."""

_Key = tuple[float, int, int, int]


class OnlineRates:
    """``Rates`` that follow what became of the shop's customers, one matured example at a time.

    **Statistic.** An example says: so they were (x, t_x, T) at a snapshot, and they bought within H days or
    not. The same customer comes again every few weeks, and no example says who it was, so what is summed is
    the log-likelihood of each outcome **given** the history up to its snapshot, which is also what the score
    is used for. Examples fall into cells of similar (x, silence, mean gap, H), under a thousand as a rule, of
    which sums are kept; weights halve every ``half_life`` days of the examples' own time. So the order in which
    they come changes nothing but rounding and the instants of the fits.

    **Season.** The outcomes of one quarter share its weather: a hundred thousand of them are still one witness
    to the next quarter's. So the log-odds of what was seen are those of the model plus a shift u, common to
    all, of which nothing goes into the estimate; u is normal with a standard deviation of ``season``.

    **Fit.** The objective is the mean log-likelihood of the cells times

        n = W shop / (W + shop),      W: the sum of the weights

    with normal priors for u and for the logarithms of (r, alpha, a, b), these around the prior's with a standard
    deviation of 1. Two damped steps of Fisher scoring are taken from where the last ones ended, after every
    ``every`` examples (and after 16, 32, 64 ... before that).
    """

    def __init__(
        self,
        prior: Rates | None = None,
        *,
        half_life: float = 91.0,
        shop: float = 5000.0,
        season: float = 0.3,
        every: int = 512,
    ) -> None:
        """``half_life``: days; ``shop``: examples; ``season``: log-odds. Raises ValueError where one of them is not
        positive."""
        if min(half_life, shop, season, every) <= 0:
            raise ValueError(
                f"half_life ({half_life}), shop ({shop}), season ({season}) and every ({every}) must be more than 0"
            )
        self._prior = prior or Rates()
        self._half_life = half_life
        self._shop = shop
        self._season = season
        self._every = every
        self._origin = 0.0
        self._newest = -math.inf
        self._cells: dict[_Key, list[float]] = {}
        self.rates: Rates = self._prior
        """The estimate so far."""
        self.season: float = 0.0
        """By how much the log-odds of no purchase lay above the estimate's, of late: the weather."""
        self.examples: int = 0
        """How many have been learned."""

    @property
    def weight(self) -> float:
        """The sum of the examples' weights, where the newest counts 1."""
        return sum(cell[0] for cell in self._cells.values()) * self._unit()

    @property
    def until_fit(self) -> int:
        """How many more examples until the estimate changes."""
        n = self.examples
        doubled = _FIRST_FIT if n < _FIRST_FIT else 1 << n.bit_length()
        until = self._every - n % self._every
        return min(until, doubled - n) if doubled < self._every else until

    def learn_one(self, x: float, t_x: float, T: float, days: float, none: bool, at: float) -> None:  # noqa: N803
        """A customer who was (x, t_x, T) at a snapshot bought nothing in the ``days`` after it (``none``), or
        did. ``at``: when that was known, in days since any fixed instant. Raises ValueError for what is no
        history."""
        silent = T - t_x
        if not (x >= 0 and t_x >= 0 and silent >= 0 and days > 0 and math.isfinite(x + T + days + at)):
            raise ValueError(
                f"no history: x {x}, t_x {t_x}, T {T}, days {days}, at {at}; "
                "0 <= x, 0 <= t_x <= T and 0 < days are needed"
            )
        if not self._cells:
            self._origin = at
        halves = (at - self._origin) / self._half_life
        if halves > _MOST_HALVES:
            self._rebase(math.floor(halves))
            halves = (at - self._origin) / self._half_life
        self._newest = max(self._newest, at)
        w = 2.0**halves
        key = (
            days,
            bisect_right(_EDGES_X, x),
            bisect_right(_EDGES_SILENT, silent),
            bisect_right(_EDGES_GAP, t_x / x) if x else 0,
        )
        cell = self._cells.get(key)
        if cell is None:
            cell = self._cells[key] = [0.0] * 5
        cell[0] += w
        cell[1] += w * none
        cell[2] += w * x
        cell[3] += w * t_x
        cell[4] += w * silent
        n = self.examples = self.examples + 1
        if n % self._every == 0 or (_FIRST_FIT <= n < self._every and n & (n - 1) == 0):
            self.refit()

    def _unit(self) -> float:
        return 2.0 ** ((self._origin - self._newest) / self._half_life) if self._cells else 0.0

    def _rebase(self, halves: int) -> None:
        """The sums in units of a later instant: by a power of two, so nothing is rounded."""
        factor = 2.0**-halves
        self._origin += halves * self._half_life
        self._cells = {
            key: scaled
            for key, cell in self._cells.items()
            if (scaled := [value * factor for value in cell])[0] > 0.0
        }

    def refit(self, steps: int = 2) -> None:
        """``steps`` steps from where the estimate stands. Done by itself as examples come."""
        unit = self._unit()
        # In an order of their own, so that the sums do not depend on who came first.
        keys = sorted(key for key, cell in self._cells.items() if cell[0] * unit >= _FEWEST)
        if not keys:
            return
        self._cells = {key: self._cells[key] for key in keys}
        sums = np.array([self._cells[key] for key in keys])
        share = sums[:, 0] * unit
        total = float(share.sum())
        share /= total
        none, x, t_x, silent = (sums[:, column] / sums[:, 0] for column in (1, 2, 3, 4))
        days = np.array([key[0] for key in keys])
        prior = _logs(self._prior)
        n = total * self._shop / (total + self._shop)
        firm = (1.0, 1.0, 1.0, 1.0, 1.0 / self._season**2)

        def objective(theta: list[float]) -> tuple[float, list[float], list[list[float]]]:
            """Its value at the logarithms of (r, alpha, a, b) and u, the gradient, the expected information."""
            logit, slopes = _log_odds(_rates(theta, self._prior.fade), x, t_x, silent, days)
            u = theta[4]
            slopes = (*slopes, np.ones_like(logit))
            seen = logit + u
            p = 1.0 / (1.0 + np.exp(-seen))
            pull = [*(t - m for t, m in zip(theta, prior, strict=False)), u]
            value = n * float((share * (none * seen - np.logaddexp(0.0, seen))).sum()) - 0.5 * sum(
                f * v * v for f, v in zip(firm, pull, strict=True)
            )
            residual, certain = n * share * (none - p), n * share * p * (1.0 - p)
            gradient = [float((residual * slopes[i]).sum()) - firm[i] * pull[i] for i in range(5)]
            information = [[0.0] * 5 for _ in range(5)]
            for i in range(5):
                weighted = certain * slopes[i]
                for j in range(i + 1):
                    entry = float((weighted * slopes[j]).sum()) + (firm[i] if i == j else 0.0)
                    information[i][j] = information[j][i] = entry
            return value, gradient, information

        theta = [*_logs(self.rates), self.season]
        bounds = [*((m - _FARTHEST, m + _FARTHEST) for m in prior), (-_FARTHEST, _FARTHEST)]
        value, gradient, information = objective(theta)
        for _ in range(steps):
            step = solve(information, gradient)
            size = min(1.0, 1.0 / max(*(abs(d) for d in step), 1e-300))
            while size > _SHORTEST:
                tried = [
                    min(max(t + size * d, low), high)
                    for t, d, (low, high) in zip(theta, step, bounds, strict=True)
                ]
                found = objective(tried)
                if found[0] >= value:
                    theta, (value, gradient, information) = tried, found
                    break
                size /= 4.0
            else:
                break
        self.rates = _rates(theta, self._prior.fade)
        self.season = theta[4]

    def state(self) -> dict[str, object]:
        """All it takes to go on elsewhere: numbers, lists and dictionaries, as JSON has them."""
        return {
            "rates": msgspec.to_builtins(self.rates),
            "season": self.season,
            "examples": self.examples,
            "origin": self._origin,
            "newest": self._newest if self._cells else None,
            "cells": [[*key, *self._cells[key]] for key in sorted(self._cells)],
        }

    def restore(self, state: object) -> None:
        """Continue from what ``state`` gave, as if nothing had been between. Raises ValueError for anything
        else, saying what is wrong, and then nothing has changed."""
        try:
            found = msgspec.convert(state, _State)
        except msgspec.ValidationError as error:
            raise ValueError(f"no state of the purchase rate: {error}") from error
        self.rates, self.season, self.examples = found.rates, found.season, found.examples
        self._origin = found.origin
        self._newest = -math.inf if found.newest is None else found.newest
        self._cells = {(row[0], int(row[1]), int(row[2]), int(row[3])): list(row[4:]) for row in found.cells}


class _State(msgspec.Struct, forbid_unknown_fields=True):
    rates: Rates
    season: float
    examples: int
    origin: float
    newest: float | None
    cells: list[Annotated[tuple[float, ...], Meta(min_length=9, max_length=9)]]


def _logs(rates: Rates) -> list[float]:
    return [math.log(rates.r), math.log(rates.alpha), math.log(rates.a), math.log(rates.b)]


def _rates(theta: list[float], fade: float) -> Rates:
    r, alpha, a, b = (math.exp(t) for t in theta[:4])
    return Rates(r, alpha, a, b, fade)


def _log_odds(
    rates: Rates, x: Floats, t_x: Floats, silent: Floats, days: Floats
) -> tuple[Floats, tuple[Floats, ...]]:
    """The log-odds of no purchase in ``days``, and their slopes in the logarithms of (r, alpha, a, b).

    With S(u) = (1 + u / A)^-R and d = a / (b + x) they are log(d + S(s + H)) - log(S(s) - S(s + H)); here both
    are divided by S(s), which may be too small for a float.
    """
    shape, scale = _posterior(rates, x, t_x)
    now = scale + silent
    odds = _left_odds(rates, x, shape, scale, silent)
    longer = np.log1p(days / now)
    wait = np.exp(-shape * longer)
    some, rest = odds + wait, -np.expm1(-shape * longer)
    # d log S(s + H) / d R = -log1p((s + H) / A), d log S(s) / d R = -log1p(s / A), and likewise by A.
    earlier = np.log1p(silent / scale)
    tail = wait / some + wait / rest  # d logit / d log wait
    left = odds / some  # d logit / d log odds
    weight = shape / (rates.r + x)
    by_r = rates.r * weight * (left * earlier - tail * longer)
    by_alpha = (
        rates.alpha * weight * shape * (tail * days / (now * (now + days)) - left * silent / (scale * now))
    )
    by_a = left
    by_b = -left * rates.b / (rates.b + x)
    return np.log(some) - np.log(rest), (by_r, by_alpha, by_a, by_b)


def solve(matrix: list[list[float]], right: list[float]) -> list[float]:
    """The solution of a positive definite system, by Cholesky's decomposition. In plain Python: four rows, and
    BLAS would add up in an order of its own."""
    n = len(right)
    lower = [[0.0] * n for _ in range(n)]
    for i in range(n):
        for j in range(i + 1):
            rest = matrix[i][j] - sum(lower[i][k] * lower[j][k] for k in range(j))
            lower[i][j] = math.sqrt(rest) if i == j else rest / lower[j][j]
    half = [0.0] * n
    for i in range(n):
        half[i] = (right[i] - sum(lower[i][k] * half[k] for k in range(i))) / lower[i][i]
    found = [0.0] * n
    for i in reversed(range(n)):
        found[i] = (half[i] - sum(lower[k][i] * found[k] for k in range(i + 1, n))) / lower[i][i]
    return found
