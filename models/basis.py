"""From a score's inputs to those of an additive model: derived inputs, and the knots of their curves.

A derived input is a number that means the same in every shop: days are measured in the customer's own gaps or
as logarithms, money by what is usual to pay there. So one set of knots serves a grocer and a wholesaler.

A curve over an input is linear between knots and constant beyond them. As a sum of hat functions (1 at one
knot, falling to 0 at its neighbours; the linear B-splines of de Boor, *A practical guide to splines*, 1978) it is
linear in its weights, so that logistic regression learns it. Two hats at most are not zero at any value.

Evidence that few shops send (complaints, browsing, use, ...) is neutral at 0: there is no hat there, so where a
shop sends none of it nothing is learned, and nothing is added.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from types import MappingProxyType
from typing import Final, NamedTuple

import numpy as np

from features.matrix import Floats, Inputs
from models.purchase_rate import Rates, log_odds_of_none


class Shop(NamedTuple):
    """What is known of the shop: the ``rates`` of its customers, the horizon in days, and the logarithm of the
    usual order value, in the unit of ``Inputs.order_value``."""

    rates: Rates
    horizon: float
    value_scale: float


SMALLEST_VALUE: Final = 1e-9
"""Order values are told apart above it."""
_LONGEST_MEMORY = 9.0
"""Gaps that an exponentially weighted mean with weight 0.2 is worth: 2 / 0.2 - 1."""
_SHRINK = 2.0
"""Gaps for which the usual rhythm counts: three purchases in a horizon, with a spread of 1 in logarithms."""
_SURE = 1e-5
"""No rhythm is so even that less than this remains."""
_LEAST_PAID = 3e-3
"""In usual orders: below it nothing is told apart."""


class _Reading:
    """The inputs of some customers, and what several derived inputs share."""

    def __init__(self, x: Inputs, shop: Shop) -> None:
        self.x = x
        self.shop = shop
        n = np.minimum(x.gaps, _LONGEST_MEMORY)
        self.gap = (n * x.gap_mean + _SHRINK * math.log(shop.horizon / 3.0)) / (n + _SHRINK)
        self.spread = np.sqrt((n * x.gap_variance + _SHRINK) / (n + _SHRINK))
        self.t_x = np.maximum(x.age - x.recency, 0.0)
        # The last purchase cannot have been before the first, whatever rounding made of them.
        self.age = self.t_x + x.recency
        self.value = np.log(np.maximum(x.order_value, SMALLEST_VALUE)) - shop.value_scale

    def then(self) -> _Reading:
        """As it was right after the last purchase, as far as purchases tell."""
        x = self.x
        days = x.recency

        def before(counter: Floats, half_life: float) -> Floats:
            # What decayed since then decays backwards; a counter that has gone to nothing stays nothing.
            grown: Floats = counter * np.exp2(np.minimum(days / half_life, 500.0))
            return grown

        return _Reading(
            x._replace(
                recency=np.zeros_like(days),
                age=self.t_x,
                bought_7=before(x.bought_7, 7.0),
                bought_30=before(x.bought_30, 30.0),
                bought_90=before(x.bought_90, 90.0),
            ),
            self.shop,
        )


def _purchase_rate(r: _Reading) -> Floats:
    return log_odds_of_none(r.shop.rates, r.x.gaps, r.t_x, r.age, r.shop.horizon)


def _rhythm(r: _Reading) -> Floats:
    beta = math.pi / math.sqrt(3.0) / r.spread

    def survival(days: Floats) -> Floats:
        beyond: Floats = 1.0 / (1.0 + np.exp(np.clip(beta * (np.log(days) - r.gap), -50.0, 50.0)))
        return beyond

    silent = r.x.recency
    q = np.clip(survival(silent + r.shop.horizon) / survival(np.maximum(silent, 0.5)), _SURE, 1.0 - _SURE)
    odds: Floats = np.log(q / (1.0 - q))
    return odds


def _gap_if_silent(r: _Reading) -> Floats:
    z: Floats = (np.log(r.x.recency + r.shop.horizon) - r.gap) / r.spread
    return z


def _silence_in_gaps(r: _Reading) -> Floats:
    ratio: Floats = np.log1p(r.x.recency) - r.gap
    return ratio


def _purchases_missed(r: _Reading) -> Floats:
    missed: Floats = np.log1p(r.x.recency * r.x.gaps / (1.0 + r.age))
    return missed


def _paid_90(r: _Reading) -> Floats:
    paid: Floats = np.log(r.x.bought_90 * np.exp(r.value + r.x.value_trend) + _LEAST_PAID)
    return paid


def _log1p(name: str) -> Callable[[_Reading], Floats]:
    def logarithm(r: _Reading) -> Floats:
        value: Floats = np.log1p(getattr(r.x, name))
        return value

    return logarithm


def _plain(name: str) -> Callable[[_Reading], Floats]:
    def value(r: _Reading) -> Floats:
        found: Floats = getattr(r.x, name)
        return found

    return value


def _turn(short: str, long: str) -> Callable[[_Reading], Floats]:
    """Whether activity grows or dries up: the logarithm of the last month's pace to the last three months'."""

    def ratio(r: _Reading) -> Floats:
        change: Floats = np.log((getattr(r.x, short) + 0.5) / (getattr(r.x, long) / 3.0 + 0.5))
        return change

    return ratio


class Derived(NamedTuple):
    """One derived input.

    ``group``: the group of evidence it counts for. ``knots``: ascending; ``slope``: the curve before anything was
    learned, in log-odds per unit. ``sparse``: neutral at 0, where it has no hat. ``timed``: what silence alone makes
    of it since the last purchase counts as silence. ``value`` reads it; ``reads``: the inputs that takes.
    ``height`` of its hats: the rate of learning is so many times the usual. What few customers show is seldom
    learned from, and has no start that is nearly right.
    """

    group: str
    knots: tuple[float, ...]
    value: Callable[[_Reading], Floats]
    reads: tuple[str, ...]
    slope: float = 0.0
    sparse: bool = False
    timed: bool = False
    height: float = 1.0


def _even(first: float, last: float, number: int) -> tuple[float, ...]:
    return tuple(float(knot) for knot in np.linspace(first, last, number))


def _of_purchases(
    knots: tuple[float, ...],
    value: Callable[[_Reading], Floats],
    *reads: str,
    group: str = "frequency",
    slope: float = 0.0,
    timed: bool = True,
) -> Derived:
    return Derived(group, knots, value, reads, slope, timed=timed)


def _seldom(
    group: str,
    knots: tuple[float, ...],
    value: Callable[[_Reading], Floats],
    *reads: str,
    slope: float = 0.0,
    height: float = 5.0,
) -> Derived:
    return Derived(group, knots, value, reads, slope, sparse=True, height=height)


_HISTORY = ("recency", "age", "gaps")
_GAPS = ("gaps", "gap_mean", "gap_variance")
_BROWSED = ("browsed_30", "browsed_90")
_USED = ("used_30", "used_90")

DERIVED: Final[Mapping[str, Derived]] = MappingProxyType(
    {
        # Log-odds of no purchase within the horizon: see models.purchase_rate.
        "purchase_rate": _of_purchases(_even(-5, 5, 6), _purchase_rate, *_HISTORY, slope=0.25),
        # Log-odds of no purchase within the horizon if gaps are log-logistic about the customer's own.
        "rhythm": _of_purchases(_even(-6, 3, 5), _rhythm, "recency", *_GAPS, slope=0.2),
        # By how many standard deviations the gap would be too long if nothing came within the horizon.
        "gap_if_silent": _of_purchases(_even(-3, 6, 13), _gap_if_silent, "recency", *_GAPS, slope=0.2),
        "silence_in_gaps": _of_purchases(_even(-4, 5, 13), _silence_in_gaps, "recency", "gaps", "gap_mean"),
        "purchases_missed": _of_purchases(_even(0, 4, 5), _purchases_missed, *_HISTORY),
        "bought_7": _of_purchases(_even(0, 2, 6), _log1p("bought_7"), "bought_7"),
        "bought_30": _of_purchases(_even(0, 3, 9), _log1p("bought_30"), "bought_30"),
        "bought_90": _of_purchases(_even(0, 3.5, 5), _log1p("bought_90"), "bought_90"),
        "gaps": _of_purchases(_even(0, 4, 7), _log1p("gaps"), "gaps", slope=-0.1, timed=False),
        # Apart from 0, which is no gap at all: the logarithm of days begins with 0.
        "last_gap": _seldom(
            "frequency",
            (0.0, 1.0, 2.375, 3.75, 5.125, 6.5),
            lambda r: np.where(r.x.gaps > 0, r.x.last_gap + 1.0, 0.0),
            "gaps",
            "last_gap",
            height=1.0,
        ),
        "order_value": _of_purchases(
            _even(-2, 2, 3), lambda r: r.value, "order_value", group="spend", timed=False
        ),
        "paid_90": _of_purchases(
            _even(-6, 6, 7), _paid_90, "bought_90", "order_value", "value_trend", group="spend"
        ),
        "value_trend": _seldom("spend", _even(-2, 2, 5), _plain("value_trend"), "value_trend", height=1.0),
        "discount_share": _seldom(
            "discount", (0.0, 0.1, 0.25, 0.5), _plain("discount_share"), "discount_share"
        ),
        "returned_90": _seldom("returns", _even(0, 2, 4), _log1p("returned_90"), "returned_90"),
        # Where a shop has categories, most customers have left one: no rare evidence, and weak.
        "abandoned": _seldom("category", (0.0, 0.25, 0.5, 1.0), _plain("abandoned"), "abandoned", height=0.5),
        "browsed_7": _seldom("browsing", _even(0, 3, 4), _log1p("browsed_7"), "browsed_7"),
        "browsed_30": _seldom("browsing", _even(0, 4, 5), _log1p("browsed_30"), "browsed_30"),
        "browsed_90": _seldom("browsing", _even(0, 5, 6), _log1p("browsed_90"), "browsed_90"),
        "browse_recency": _seldom(
            "browsing", (0.0, 1.0, 2.0, 3.0, 4.0, 5.0, 6.0), _log1p("browse_recency"), "browse_recency"
        ),
        "browsing_trend": _seldom(
            "browsing", (-3.0, -2.0, -1.0, 0.0, 1.0), _turn("browsed_30", "browsed_90"), *_BROWSED
        ),
        "empty_searches_30": _seldom(
            "search", (0.0, 0.7, 1.6), _log1p("empty_searches_30"), "empty_searches_30"
        ),
        "carts_30": _seldom("cart", (0.0, 0.7, 1.6), _log1p("carts_30"), "carts_30"),
        "used_30": _seldom("use", _even(0, 4, 5), _log1p("used_30"), "used_30"),
        "used_90": _seldom("use", _even(0, 5, 6), _log1p("used_90"), "used_90"),
        "use_trend": _seldom("use", (-3.0, -2.0, -1.0, 0.0, 1.0), _turn("used_30", "used_90"), *_USED),
        "open_complaints": _seldom(
            "complaint", (0.0, 1.0, 2.0), _plain("open_complaints"), "open_complaints", slope=0.3
        ),
        "overdue_complaints": _seldom(
            "complaint", (0.0, 1.0, 2.0), _plain("overdue_complaints"), "overdue_complaints", slope=0.2
        ),
        "recent_complaint": _seldom("complaint", (0.0, 1.0), _plain("recent_complaint"), "recent_complaint"),
        "bad_complaints": _seldom(
            "complaint", (0.0, 0.5, 1.0, 2.0), _plain("bad_complaints"), "bad_complaints", slope=0.2
        ),
        "dissatisfaction": _seldom(
            "satisfaction",
            (0.0, 0.25, 0.5, 0.75, 1.0),
            lambda r: 1.0 - r.x.satisfaction,
            "satisfaction",
            slope=0.2,
        ),
        "rating": _seldom("satisfaction", (0.0, 0.2, 0.4), _plain("rating"), "rating", slope=0.5),
        "said_lost": _seldom("said_lost", (0.0, 1.0), _plain("said_lost"), "said_lost", slope=1.0),
        # For the challengers, who know no more than this.
        "recency": _of_purchases(_even(0, 6.5, 14), _log1p("recency"), "recency", slope=0.7),
        "repeats": _of_purchases(_even(0, 4, 7), _log1p("repeats"), "repeats", slope=-0.5, timed=False),
    }
)
"""Every derived input, by its name."""

RECENCY: Final = ("recency",)
RFM: Final = ("recency", "repeats", "order_value")
"""Recency, frequency, monetary value."""
ALL: Final = tuple(name for name in DERIVED if name not in {"recency", "repeats"})
"""The inputs of the champion."""


class Values(NamedTuple):
    """Derived inputs by name: ``now``, and those that are timed as they were right after the last purchase."""

    now: dict[str, Floats]
    then: dict[str, Floats]


def derive(x: Inputs, shop: Shop, names: Iterable[str], *, then: bool = True) -> Values:
    """The derived inputs of customers (n,), or of customers at instants (k, n), where what does not change with
    time stays (n,). ``then``: whether what was right after the last purchase is wanted, too."""
    with np.errstate(divide="ignore", over="ignore", under="ignore"):
        reading = _Reading(x, shop)
        now = {name: DERIVED[name].value(reading) for name in names}
        if not then:
            return Values(now, {})
        timed = [name for name in now if DERIVED[name].timed]
        if timed:
            reading = reading.then()
        return Values(now, {name: DERIVED[name].value(reading) for name in timed})


def usual_gap(x: Inputs, horizon: float) -> Floats:
    """The customer's usual days from one purchase to the next (median), shrunk as in the derived inputs."""
    n = np.minimum(x.gaps, _LONGEST_MEMORY)
    days: Floats = np.exp((n * x.gap_mean + _SHRINK * math.log(horizon / 3.0)) / (n + _SHRINK))
    return days
