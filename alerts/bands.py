"""Risk bands: low, medium, high, lapsed; with hysteresis against a score that trembles."""

from __future__ import annotations

from typing import Final

from alerts.policy import Policy
from streams.alerts import Band

LOW: Final = 0
MEDIUM: Final = 1
HIGH: Final = 2
LAPSED: Final = 3
NAMES: Final[tuple[Band, ...]] = ("low", "medium", "high", "lapsed")


def band(churn: float, alive: float, silent_days: float, policy: Policy, held: int = LOW) -> int:
    """The band of a score; ``held`` is the band of the open episode, which a score leaves downwards
    only when it is ``hysteresis`` below the threshold.

    Lapsed is who has been silent for ``lapsed_horizons`` horizons and is alive with a probability
    below ``lapsed_alive``, or has been silent for ``lapsed_days``.
    """
    if silent_days > policy.lapsed_days or (
        alive < policy.lapsed_alive and silent_days > policy.lapsed_horizons * policy.horizon_days
    ):
        return LAPSED
    now = _plain(churn, policy)
    if now < held:
        return min(held, _plain(churn + policy.hysteresis, policy))
    return now


def _plain(churn: float, policy: Policy) -> int:
    return HIGH if churn >= policy.high else MEDIUM if churn >= policy.medium else LOW
