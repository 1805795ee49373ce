"""What churnwatch's own record of a customer says at an instant, in the words of ``tests.oracle``."""

from __future__ import annotations

from features import cold as parts
from features import decay
from features.cold import Cold, Interest
from features.customer import Customer
from features.matrix import inputs

READ = (
    *("age", "last_gap", "order_value", "value_trend", "returned_90", "abandoned", "browse_recency"),
    *("empty_searches_30", "carts_30", "rating", "bad_complaints"),
    *(f"{name}_{half}" for name in ("bought", "browsed") for half in (7, 30, 90)),
    *("used_30", "used_90"),
)
"""Inputs of the score that stand nowhere else."""


def observed(customer: Customer, cold: Cold, at: int, *, overdue_hours: float = 48.0) -> dict[str, object]:
    """Every feature at ``at``, read the way scores and decisions read it."""
    row = inputs([customer], [at], overdue_hours)
    listed = customer.spend + customer.discount
    return {
        **{
            name: getattr(customer, name)
            for name in (
                *("events", "orders", "returns", "views", "searches", "carts", "uses"),
                *("complaints", "inquiries", "surveys", "others", "spend", "returned", "discount"),
                *("first_seen", "last_seen", "first_purchase", "last_purchase", "last_browse"),
                *("last_use", "last_decisive", "late", "satisfaction", "satisfaction_at", "lost_at"),
                "closed_at",
            )
        },
        "discount_share": customer.discount / listed if listed else 0.0,
        "days": list(customer.rhythm.days),
        "gaps": row.gaps[0],
        "gap_mean": row.gap_mean[0],
        "gap_variance": row.gap_variance[0],
        **_decayed("bought", customer.bought, customer.last_purchase, at),
        **_decayed("browsed", customer.browsed, customer.last_browse, at),
        **_decayed("used", customer.used, customer.last_use, at),
        "open_since": list(customer.open_since),
        "complaint_cases": _cases(cold.complaints),
        "inquiry_cases": _cases(cold.inquiries),
        "basket": _interest(cold.basket, parts.BASKET_HALF_LIFE, at),
        "interest": _interest(cold.browsed, parts.BROWSE_HALF_LIFE, at),
        "cart": {
            name: (item.added, item.amount)
            for name, item in parts.in_cart(cold, customer.last_purchase).items()
        },
        "tier": parts.tier(cold),
        "channels": cold.channels,
        "regions": cold.regions,
        "stores": cold.stores,
        "weekdays": cold.weekdays,
        "hours": cold.hours,
        "preferred_channel": parts.most(cold.channels),
        "preferred_region": parts.most(cold.regions),
        "preferred_store": parts.most(cold.stores),
        "preferred_weekday": parts.most(cold.weekdays),
        "preferred_hour": parts.most(cold.hours),
        "recency": row.recency[0],
        "repeats": row.repeats[0],
        "open_complaints": row.open_complaints[0],
        "overdue_complaints": row.overdue_complaints[0],
        "recent_complaint": bool(row.recent_complaint[0]),
        "said_lost": bool(row.said_lost[0]),
        **{name: float(getattr(row, name)[0]) for name in READ},
    }


def differences(seen: dict[str, object], true: dict[str, object]) -> dict[str, tuple[object, object]]:
    """Where the two say something else: a number by more than 1e-9 of itself (at least 1e-9)."""
    names = seen.keys() | true.keys()
    return {
        name: (seen.get(name), true.get(name))
        for name in sorted(names)
        if name not in seen or name not in true or not _same(seen[name], true[name])
    }


def _same(one: object, other: object) -> bool:
    if isinstance(one, dict) and isinstance(other, dict):
        return one.keys() == other.keys() and all(_same(one[key], other[key]) for key in one)
    if isinstance(one, list | tuple) and isinstance(other, list | tuple):
        return len(one) == len(other) and all(_same(a, b) for a, b in zip(one, other, strict=True))
    if isinstance(one, int) and isinstance(other, int):
        return one == other
    if isinstance(one, int | float) and isinstance(other, int | float):
        return abs(one - other) <= 1e-9 * max(1.0, abs(other))
    return one == other


def _decayed(name: str, counters: decay.Trio, ref: int, at: int) -> dict[str, object]:
    values = decay.value(counters, ref, at)
    return {f"{name}_{half}": value for half, value in zip(decay.HALF_LIVES, values, strict=True)}


def _cases(cases: dict[str, parts.Case]) -> dict[str, tuple[int, str, str, int]]:
    return {name: (case.opened, case.kind, case.status, case.status_at) for name, case in cases.items()}


def _interest(
    known: dict[str, Interest], half_life: float, at: int
) -> dict[str, tuple[int, int, int, float]]:
    return {
        name: (each.events, each.first, each.last, each.weight * decay.fade(at - each.last, half_life))
        for name, each in known.items()
    }
