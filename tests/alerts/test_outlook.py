from __future__ import annotations

import math

import pytest

from alerts import bands
from alerts.outlook import Expected, Outlook, outlook, stage
from features.shop import DAY
from tests.application import day


@pytest.mark.parametrize(
    ("orders", "band", "warned", "expected"),
    [
        (0, bands.LOW, False, "prospect"),
        (1, bands.LOW, False, "first_purchase"),
        (1, bands.HIGH, True, "at_risk"),
        (5, bands.MEDIUM, True, "at_risk"),
        (5, bands.LAPSED, False, "lapsed"),
        (1, bands.HIGH, False, "first_purchase"),
        (5, bands.HIGH, False, None),
        (5, bands.LOW, False, None),
    ],
)
def test_the_stage_is_told_where_orders_and_band_tell_it(
    orders: int, band: int, warned: bool, expected: str | None
) -> None:
    assert stage(orders, band, warned) == expected


def test_the_revenue_at_risk_is_the_probability_times_the_value_of_twelve_months() -> None:
    found = outlook(day(0) + 7, 3, bands.HIGH, True, 0.8125, Expected(10.5, 123.456))
    assert found == Outlook("at_risk", day(0) + 10 * DAY + DAY // 2, 123.46, 100.31)
    assert outlook(day(0), 3, bands.HIGH, True, 0.8125, Expected(None, 123.456), 0).revenue_at_risk == 100.0


def test_what_is_not_known_is_absent_never_null_or_zero() -> None:
    assert outlook(day(0), 3, bands.LOW, False, 0.5, Expected()).known() == {}
    assert outlook(day(0), 3, bands.LOW, False, None, Expected(3.0, 9.0)).known().keys() == {
        "expected_next_order", "predicted_clv",
    }  # fmt: skip
    nothing = Expected(math.inf, 0.004)
    assert outlook(day(0), 3, bands.LOW, False, 0.5, nothing).known() == {}
    assert outlook(day(0), 3, bands.LOW, False, 0.0, Expected(None, 9.0)).known() == {"predicted_clv": 9.0}
    assert outlook(day(0), 3, bands.LOW, False, 0.5, Expected(math.nan, math.nan)).known() == {}
    assert outlook(day(0), 3, bands.LOW, False, 0.5, Expected(4000.0, -1.0)).known() == {}
