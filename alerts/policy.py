"""What the business decides: thresholds, the look grid, offers and the action for each warning."""

from __future__ import annotations

import hashlib
import itertools
import json
import re
from typing import Annotated, Final, Literal

import msgspec
from msgspec import Meta

Probability = Annotated[float, Meta(ge=0, le=1)]
Days = Annotated[float, Meta(gt=0, le=3650)]
Hours = Annotated[float, Meta(gt=0, le=8760)]
LookDays = Annotated[float, Meta(ge=0.01, le=7)]

BANDS: Final = ("medium", "high")
COMPLAINT: Final = "open_complaint"
CAUSES: Final = ("product", "service", "price", "delivery", "competitor", "lost_rhythm")
STAGES: Final = ("first_order", "repeat")
OFFERS: Final = (
    "upgrade",
    "cross_sell",
    "replenish",
    "category_reactivation",
    "cart_abandoned",
    "browse_abandoned",
)
TIER: Final = re.compile(r"tier:[A-Za-z0-9_-]{1,40}")

DEFAULT_ACTIONS = {
    "high.product": "product_recovery_call",
    "high.service": "service_recovery_call",
    "high.price": "price_match_offer",
    "high.delivery": "delivery_recovery_call",
    "high.competitor": "counter_offer",
    "high.first_order": "second_order_incentive",
    "high.repeat": "personal_offer",
    "medium.product": "product_advice",
    "medium.service": "service_recovery_call",
    "medium.price": "loyalty_discount",
    "medium.delivery": "delivery_voucher",
    "medium.competitor": "category_offer",
    "medium.first_order": "welcome_series",
    "medium.repeat": "reminder",
    "upsell.replenish": "replenishment_reminder",
    "upsell.category_reactivation": "category_offer",
    "upsell.cart_abandoned": "cart_reminder",
    "upsell.browse_abandoned": "browse_reminder",
}

# The parts of a key in the order in which they are written, and for a lookup all choices of them: what names the
# tier comes before what does not, then an open complaint, the cause, the stage, the band.
_WRITTEN: Final = ("band", "complaint", "cause", "stage", "tier")
_CHOICES: Final = tuple(
    tuple(part for part in _WRITTEN if part in chosen)
    for size in itertools.product((True, False), repeat=5)
    if (chosen := frozenset(itertools.compress(("tier", "complaint", "cause", "stage", "band"), size)))
)


class Policy(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Thresholds on probabilities, log-odds, days and hours; ``docs/configuration.md`` has each."""

    horizon_days: Days = 28.0
    medium: Probability = 0.6
    high: Probability = 0.8
    warn_at: Literal["medium", "high"] = "medium"
    hysteresis: Probability = 0.05
    rise: Annotated[float, Meta(ge=0, le=20)] = 0.3
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

    def __post_init__(self) -> None:
        for key, name in self.actions.items():
            wrong = _wrong(key)
            if wrong:
                raise ValueError(f"actions.{key} = {json.dumps(name, ensure_ascii=False)}: {wrong}")


def _wrong(key: str) -> str:
    """What is wrong with a key of the table of actions; empty if nothing is."""
    first, _, rest = key.partition(".")
    if first == "upsell":
        if rest in OFFERS:
            return ""
        return f"after upsell. must stand one of {', '.join(OFFERS)}"
    parts = key.split(".")
    places = [_place(part) for part in parts]
    if -1 in places:
        unknown = parts[places.index(-1)]
        return (
            f"{unknown!r} is no part of a key; allowed are a band ({', '.join(BANDS)}), {COMPLAINT}, a cause "
            f"({', '.join(CAUSES)}), a stage ({', '.join(STAGES)}) and tier:NAME, joined by dots in this order, or "
            f"upsell.OFFER"
        )
    if any(here >= there for here, there in itertools.pairwise(places)):
        return f"at most one of each in this order: band, {COMPLAINT}, cause, stage, tier"
    return ""


def _place(part: str) -> int:
    """Where a part stands in a key; -1 for what is none."""
    if part in BANDS:
        return 0
    if part == COMPLAINT:
        return 1
    if part in CAUSES:
        return 2
    if part in STAGES:
        return 3
    return 4 if TIER.fullmatch(part) else -1


def measure(
    policy: Policy, band: str, cause: str | None, stage: str, *, open_complaint: bool = False, tier: str | None = None
) -> str | None:  # fmt: skip
    """What the business does about a warning: the entry of ``policy.actions`` that fits and says most.

    A key that names the customer's tier holds before one that does not; of those alike in this, one for an open
    complaint, then one that names the cause, the stage, the band. An empty entry, or none, is no measure.
    """
    known = {"band": band, "stage": stage}
    if open_complaint:
        known["complaint"] = COMPLAINT
    if cause is not None:
        known["cause"] = cause
    if tier is not None:
        known["tier"] = f"tier:{tier}"
    for choice in _CHOICES:
        if known.keys() >= set(choice):
            found = policy.actions.get(".".join(known[part] for part in choice))
            if found is not None:
                return found or None
    return None


def tiers(policy: Policy) -> frozenset[str]:
    """The tiers that the table of measures names."""
    last = (key.rpartition(".")[2] for key in policy.actions)
    return frozenset(part.removeprefix("tier:") for part in last if TIER.fullmatch(part))


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
