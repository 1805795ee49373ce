from __future__ import annotations

import pytest

from alerts import bands
from alerts.bands import HIGH, LAPSED, LOW, MEDIUM, band
from alerts.policy import Policy

POLICY = Policy()


@pytest.mark.parametrize(
    ("churn", "expected"),
    [(0.0, LOW), (0.599999, LOW), (0.6, MEDIUM), (0.799999, MEDIUM), (0.8, HIGH), (1.0, HIGH)],
)
def test_a_threshold_belongs_to_the_band_above_it(churn: float, expected: int) -> None:
    assert band(churn, 1.0, 1.0, POLICY) == expected


@pytest.mark.parametrize(
    ("churn", "held", "expected"),
    [
        (0.79, HIGH, HIGH),
        (0.75, HIGH, HIGH),
        (0.749999, HIGH, MEDIUM),
        (0.549999, HIGH, LOW),
        (0.55, HIGH, MEDIUM),
        (0.55, MEDIUM, MEDIUM),
        (0.549999, MEDIUM, LOW),
        (0.8, MEDIUM, HIGH),
        (0.59, LOW, LOW),
    ],
)
def test_a_band_is_left_downwards_only_a_margin_below_its_threshold(
    churn: float, held: int, expected: int
) -> None:
    assert band(churn, 1.0, 1.0, POLICY, held) == expected


def test_without_a_margin_there_is_no_hysteresis() -> None:
    assert band(0.799999, 1.0, 1.0, Policy(hysteresis=0.0), HIGH) == MEDIUM


def test_lapsed_is_who_is_hardly_alive_after_some_horizons_of_silence() -> None:
    days = POLICY.lapsed_horizons * POLICY.horizon_days
    assert band(0.99, 0.099999, days + 0.01, POLICY) == LAPSED
    assert band(0.99, 0.1, days + 0.01, POLICY) == HIGH
    assert band(0.99, 0.01, days, POLICY) == HIGH


def test_lapsed_is_who_has_been_silent_for_very_long_in_any_case() -> None:
    assert band(0.1, 1.0, POLICY.lapsed_days, POLICY) == LOW
    assert band(0.1, 1.0, POLICY.lapsed_days + 0.01, POLICY) == LAPSED


def test_bands_have_their_contracts_names_in_order() -> None:
    assert [bands.NAMES[n] for n in (LOW, MEDIUM, HIGH, LAPSED)] == ["low", "medium", "high", "lapsed"]
