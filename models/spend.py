"""What a customer pays for an order, and what their orders of the next year are worth.

The gamma-gamma model (Colombo and Jiang, *A stochastic RFM model*, Journal of Interactive Marketing 13, 1999;
Fader and Hardie, *The gamma-gamma model of monetary value*, 2013). The amounts of a customer's orders are
gamma distributed with the shape p, the same for all, and a scale of their own, whose inverse is gamma (q, g)
over the shop's customers; how much is bought has nothing to do with how often. Of a customer whose n orders
had the mean m,

    E(next amount) = p (g + n m) / (p n + q - 1) = (strength mean + n m) / (strength + n)

with the mean of the shop, p g / (q - 1), and its ``strength``, (q - 1) / p: as many orders as the shop's mean
weighs beside the customer's own. These two and p are the parameters here, since they can be read. The
likelihood of the mean m of n orders, with q = 1 + p strength and g = strength mean, is

    Gamma(pn + q) / (Gamma(pn) Gamma(q)) * g^q m^(pn - 1) n^(pn) / (g + n m)^(pn + q)

Money is in whatever unit it is given in; what comes out is in the same. Arrays broadcast, and what is in one
place depends on nothing in another.
"""

from __future__ import annotations

import math
from bisect import bisect_right
from typing import Annotated, Final

import msgspec
import numpy as np
from msgspec import Meta

from models.purchase_rate import Floats, Rates, expected_purchases, log_gamma, solve

_Positive = Annotated[float, Meta(gt=0)]

CLV_DAYS: Final = 365.0
"""The days over which the value of a customer is told: 12 months."""


class Spend(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The shop's orders: ``mean`` amount over customers (not over orders), ``strength``: as many of a customer's
    orders as that mean weighs; ``shape``: of the gamma distribution of a customer's amounts, whose coefficient
    of variation is one over its root."""

    mean: _Positive
    strength: _Positive
    shape: _Positive


def expected_value(spend: Spend, orders: Floats, order_value: Floats) -> Floats:
    """The expected amount of the next order of customers with so many ``orders`` of the mean ``order_value``;
    without orders, the shop's mean."""
    amount: Floats = (spend.strength * spend.mean + orders * order_value) / (spend.strength + orders)
    return amount


def predicted_clv(
    rates: Rates,
    spend: Spend,
    x: Floats,
    t_x: Floats,
    T: Floats,  # noqa: N803 (the papers' name)
    orders: Floats,
    order_value: Floats,
    days: float = CLV_DAYS,
) -> Floats:
    """What a customer is expected to pay in the next ``days``, from now and from what is known now.

    Expected purchase days (``models.purchase_rate``, with ``x``, ``t_x`` and ``T``), times orders per purchase
    day so far, times the expected amount. That they may have left already or will leave is in it. Nothing is
    discounted: over one year a rate of 10 % would take some 5 % off everybody and change nobody's rank, and
    the rate is the business's own.
    """
    per_day = np.maximum(orders, 1.0) / (1.0 + np.minimum(x, np.maximum(orders - 1.0, 0.0)))
    value: Floats = (
        expected_purchases(rates, x, t_x, T, days) * per_day * expected_value(spend, orders, order_value)
    )
    return value


def log_likelihood(spend: Spend, orders: Floats, order_value: Floats) -> Floats:
    """Of the mean amount of each customer's orders (natural logarithm); both more than 0."""
    p = spend.shape
    q, g = 1.0 + p * spend.strength, spend.strength * spend.mean
    pn = p * orders
    found: Floats = (
        log_gamma(pn + q)
        - log_gamma(pn)
        - log_gamma(np.float64(q))
        + q * math.log(g)
        + (pn - 1.0) * np.log(order_value)
        + pn * np.log(orders)
        - (pn + q) * np.log(g + orders * order_value)
    )
    return found


_EDGES_ORDERS: Final = (2, 3, 4, 6, 9, 14, 23, 41)
_PER_E: Final = 4.0
"""Cells of amounts in a factor of e."""
_FIRST_FIT = 16
_FEWEST = 1e-6
"""The weight, in examples, under which a cell is forgotten."""
_MOST_HALVES = 64.0
_FARTHEST = 4.0
_NUDGE = 1e-4

_Key = tuple[int, int]


class OnlineSpend:
    """``Spend`` that follows the shop's customers, one snapshot of a customer at a time.

    The likelihood of each customer's mean so far is summed over snapshots, weights halving every ``half_life``
    days of the snapshots' own time; the same customer comes again, so that a snapshot is less than one
    customer's worth, and together they count as at most ``shop``. Snapshots fall into cells of similar numbers
    of orders and amounts, of which sums are kept. Every ``every`` snapshots (and after 16, 32, 64 ... before)
    two damped steps of the method of Berndt, Hall, Hall and Hausman (1974) in the logarithms of mean, strength
    and shape, with normal priors of standard deviation 1 around strength ``strength``, shape ``shape``. Of the
    mean nothing is known before, as nothing is known of the currency.
    """

    def __init__(
        self,
        *,
        strength: float = 0.5,
        shape: float = 4.0,
        half_life: float = 182.0,
        shop: float = 2000.0,
        every: int = 1024,
    ) -> None:
        """``half_life``: days; ``shop``: snapshots. Raises ValueError where one of them is not positive."""
        if min(strength, shape, half_life, shop, every) <= 0:
            raise ValueError(
                f"strength ({strength}), shape ({shape}), half_life ({half_life}), shop ({shop}) and every ({every}) "
                "must be more than 0"
            )
        self._prior = (math.log(strength), math.log(shape))
        self._half_life = half_life
        self._shop = shop
        self._every = every
        self._origin = 0.0
        self._newest = -math.inf
        self._cells: dict[_Key, list[float]] = {}
        self.spend: Spend | None = None
        """The estimate so far; None until 16 snapshots have come."""
        self.snapshots: int = 0
        """How many have been learned."""

    def learn_one(self, orders: float, order_value: float, at: float) -> None:
        """A customer had so many ``orders`` of the mean ``order_value`` at a snapshot that was known ``at``, in
        days since any fixed instant. One without orders or without an amount says nothing and is passed over.
        Raises ValueError for numbers that are none."""
        if not (math.isfinite(orders) and math.isfinite(order_value) and math.isfinite(at)):
            raise ValueError(
                f"no snapshot: orders {orders}, order_value {order_value}, at {at}; numbers are needed"
            )
        if orders < 1 or order_value <= 0:
            return
        if not self._cells:
            self._origin = at
        halves = (at - self._origin) / self._half_life
        if halves > _MOST_HALVES:
            self._rebase(math.floor(halves))
            halves = (at - self._origin) / self._half_life
        self._newest = max(self._newest, at)
        w = 2.0**halves
        amount = math.log(order_value)
        key = (bisect_right(_EDGES_ORDERS, orders), math.floor(_PER_E * amount))
        cell = self._cells.get(key)
        if cell is None:
            cell = self._cells[key] = [0.0] * 3
        cell[0] += w
        cell[1] += w * orders
        cell[2] += w * amount
        n = self.snapshots = self.snapshots + 1
        if n % self._every == 0 or (_FIRST_FIT <= n < self._every and n & (n - 1) == 0):
            self.refit()

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
        """``steps`` steps from where the estimate stands. Done by itself as snapshots come."""
        unit = 2.0 ** ((self._origin - self._newest) / self._half_life) if self._cells else 0.0
        keys = sorted(key for key, cell in self._cells.items() if cell[0] * unit >= _FEWEST)
        if not keys:
            return
        self._cells = {key: self._cells[key] for key in keys}
        sums = np.array([self._cells[key] for key in keys])
        share = sums[:, 0] * unit
        total = float(share.sum())
        share *= self._shop / (total + self._shop)
        orders, amount = sums[:, 1] / sums[:, 0], sums[:, 2] / sums[:, 0]
        order_value = np.exp(amount)
        middle = float((share * amount).sum() / share.sum())

        def likelihood(theta: list[float]) -> Floats:
            return log_likelihood(_spend(theta), orders, order_value)

        def value(theta: list[float]) -> float:
            away = (theta[1] - self._prior[0]) ** 2 + (theta[2] - self._prior[1]) ** 2
            return float((share * likelihood(theta)).sum()) - 0.5 * away

        theta = [middle, *self._prior] if self.spend is None else _logs(self.spend)
        bounds = [(middle - _FARTHEST, middle + _FARTHEST)]
        bounds += [(m - _FARTHEST, m + _FARTHEST) for m in self._prior]
        best = value(theta)
        for _ in range(steps):
            slopes = []
            for place in range(3):
                up, down = (
                    [t + nudge * (k == place) for k, t in enumerate(theta)] for nudge in (_NUDGE, -_NUDGE)
                )
                slopes.append((likelihood(up) - likelihood(down)) / (2.0 * _NUDGE))
            firm = (0.0, 1.0, 1.0)
            centre = (0.0, *self._prior)
            gradient = [float((share * slopes[i]).sum()) - firm[i] * (theta[i] - centre[i]) for i in range(3)]
            information = [
                [
                    float((share * slopes[i] * slopes[j]).sum()) + (firm[i] + 1e-6 if i == j else 0.0)
                    for j in range(3)
                ]
                for i in range(3)
            ]
            step = solve(information, gradient)
            size = min(1.0, 1.0 / max(*(abs(d) for d in step), 1e-300))
            while size > 1e-3:
                tried = [
                    min(max(t + size * d, low), high)
                    for t, d, (low, high) in zip(theta, step, bounds, strict=True)
                ]
                if (found := value(tried)) >= best:
                    theta, best = tried, found
                    break
                size /= 4.0
            else:
                break
        self.spend = _spend(theta)

    def state(self) -> dict[str, object]:
        """All it takes to go on elsewhere: numbers, lists and dictionaries, as JSON has them."""
        return {
            "spend": msgspec.to_builtins(self.spend),
            "snapshots": self.snapshots,
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
            raise ValueError(f"no state of the spend model: {error}") from error
        self.spend, self.snapshots, self._origin = found.spend, found.snapshots, found.origin
        self._newest = -math.inf if found.newest is None else found.newest
        self._cells = {(int(row[0]), int(row[1])): list(row[2:]) for row in found.cells}


class _State(msgspec.Struct, forbid_unknown_fields=True):
    spend: Spend | None
    snapshots: int
    origin: float
    newest: float | None
    cells: list[Annotated[tuple[float, ...], Meta(min_length=5, max_length=5)]]


def _logs(spend: Spend) -> list[float]:
    return [math.log(spend.mean), math.log(spend.strength), math.log(spend.shape)]


def _spend(theta: list[float]) -> Spend:
    mean, strength, shape = (math.exp(t) for t in theta)
    return Spend(mean, strength, shape)
