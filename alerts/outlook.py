"""What is expected of a customer, as far as it is known: the stage of life, the next order, the value, the risk to it.

An alert carries these beside its probability. What is not known is absent, never null or zero: without a model
of purchases and spending there is neither a next order nor a value.
"""

from __future__ import annotations

import math
from typing import Final, Literal, NamedTuple, TypeAlias

from alerts import bands
from features.shop import DAY
from streams.events import Micros

Stage: TypeAlias = Literal["prospect", "first_purchase", "at_risk", "lapsed"]
_LONGEST_DAYS: Final = 3650.0
"""An order expected later than this is not expected."""


class Expected(NamedTuple):
    """What the models of purchases and spending expect, None where one is not there: days until the next order,
    and the value of the customer's orders over the next 12 months in units of the base currency, discounted by
    the chance that the customer has left already."""

    next_order_days: float | None = None
    clv: float | None = None


class Outlook(NamedTuple):
    """The optional fields of an alert of these names; None: not known."""

    lifecycle_stage: Stage | None = None
    expected_next_order: Micros | None = None
    predicted_clv: float | None = None
    revenue_at_risk: float | None = None

    def known(self) -> dict[str, object]:
        """Only what is known, by the names of the alert's fields."""
        return {name: value for name, value in self._asdict().items() if value is not None}


def stage(orders: int, band: int, warned: bool) -> Stage | None:
    """The stage of life, where orders and band tell it: ``prospect`` before the first order, ``lapsed`` and (while
    a warning stands: ``warned``) ``at_risk`` by the band, ``first_purchase`` after one order. None for those who
    have bought again: repeat and loyal customers are not told apart."""
    if orders == 0:
        return "prospect"
    if band == bands.LAPSED:
        return "lapsed"
    if warned:
        return "at_risk"
    return "first_purchase" if orders == 1 else None


def outlook(
    at: Micros, orders: int, band: int, warned: bool, probability: float | None, expected: Expected, minor_units: int = 2
) -> Outlook:  # fmt: skip
    """What is known at an instant. ``probability``: of churn; ``minor_units``: decimal places of money.

    The revenue at risk is the probability of churn times the predicted value of 12 months.
    """
    days, clv = expected
    due = days is not None and math.isfinite(days) and 0.0 <= days <= _LONGEST_DAYS
    value = _money(clv, minor_units)
    risk = None if value is None or probability is None else _money(probability * value, minor_units)
    return Outlook(
        lifecycle_stage=stage(orders, band, warned),
        # To the second: nobody knows it better.
        expected_next_order=at // 1_000_000 * 1_000_000 + round((days or 0.0) * DAY / 1e6) * 1_000_000
        if due
        else None,
        predicted_clv=value,
        revenue_at_risk=risk,
    )


def _money(value: float | None, minor_units: int) -> float | None:
    """Rounded to the currency; None for what is not known or rounds to nothing."""
    if value is None or not math.isfinite(value):
        return None
    rounded = round(value, minor_units)
    return rounded if rounded > 0.0 else None
