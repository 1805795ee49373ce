"""What the business decides: thresholds, the look grid, offers and the action for each warning."""

from __future__ import annotations

import hashlib
from typing import Annotated, Literal

import msgspec
from msgspec import Meta

Probability = Annotated[float, Meta(ge=0, le=1)]
Days = Annotated[float, Meta(gt=0, le=3650)]
Hours = Annotated[float, Meta(gt=0, le=8760)]
LookDays = Annotated[float, Meta(ge=0.01, le=7)]

DEFAULT_ACTIONS = {
    "high.open_complaint": "service_recovery_call",
    "high.first_order": "second_order_incentive",
    "high.repeat": "personal_offer",
    "medium.open_complaint": "service_recovery_call",
    "medium.first_order": "welcome_series",
    "medium.repeat": "reminder",
    "upsell.replenish": "replenishment_reminder",
    "upsell.category_reactivation": "category_offer",
    "upsell.cart_abandoned": "cart_reminder",
    "upsell.browse_abandoned": "browse_reminder",
}


class Policy(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Thresholds on probabilities, log-odds, days and hours; ``docs/configuration.md`` has each."""

    horizon_days: Days = 28.0
    medium: Probability = 0.6
    high: Probability = 0.8
    warn_at: Literal["medium", "high"] = "medium"
    hysteresis: Probability = 0.05
    rise: Annotated[float, Meta(ge=0, le=20)] = 0.8
    lapsed_alive: Probability = 0.1
    lapsed_horizons: Annotated[float, Meta(ge=1, le=100)] = 2.0
    lapsed_days: Days = 365.0
    look_days: LookDays = 1.0
    look_max_days: LookDays = 7.0
    complaint_overdue_hours: Hours = 48.0
    cart_hours: Hours = 4.0
    offer_days: Days = 14.0
    offer_pause_days: Days = 7.0
    offer_repeat_days: Days = 30.0
    score_change: Probability = 0.1
    deliver_per_minute: Annotated[int, Meta(ge=1)] = 1000
    type_prefix: Annotated[str, Meta(pattern=r"^[a-z0-9]+(\.[a-z0-9-]+)*$")] = "io.churnwatch"
    actions: dict[str, str] = msgspec.field(default_factory=lambda: dict(DEFAULT_ACTIONS))


def fingerprint(policy: Policy, *more: str) -> bytes:
    """A digest of the policy, and of what else decides beside it."""
    return hashlib.sha256(
        msgspec.json.encode(policy, order="deterministic") + "".join(more).encode()
    ).digest()


def version(policy: Policy) -> str:
    """The version of a policy as alerts carry it: the first twelve digits of its digest."""
    return fingerprint(policy).hex()[:12]


class Feeds(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """When a topic's traffic counts as silent: below ``silent_below`` of what is usual, where at
    least ``min_expected`` events are usual in the window of ``window_hours`` (``window_days`` for a
    feed that carries dates only), after ``learn_days`` of traffic."""

    enabled: bool = True
    silent_below: Probability = 0.1
    min_expected: Annotated[int, Meta(ge=1)] = 100
    window_hours: Annotated[int, Meta(ge=1, le=168)] = 24
    window_days: Annotated[int, Meta(ge=1, le=28)] = 3
    learn_days: Annotated[int, Meta(ge=7, le=365)] = 14
