"""What is stored of a customer, with names, instants in words and money in the shop's currency."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import msgspec

from alerts import bands
from features.cold import Cold
from features.customer import Customer, unpack_cold, unpack_hot
from features.ledger import Pending, unpacked
from features.matrix import Inputs
from features.shop import DAY
from features.standing import Episode, Standing
from streams.events import rfc3339
from streams.topics import INPUTS

_INSTANTS: Final = frozenset(
    {
        *("first_seen", "last_seen", "first_purchase", "last_purchase", "last_browse", "last_use", "last_decisive"),
        *("satisfaction_at", "lost_at", "closed_at", "open_since", "returned_at", "empty_at", "carted_at"),
        *("rated_at", "bad_at", "competitor_at", "at", "labelled", "offered", "warned", "followed", "forgotten"),
        *("opened", "since", "status_at", "added", "removed", "first", "last", "active", "lost"),
    }
)  # fmt: skip
"""Fields that hold microseconds since the epoch; 0 is never."""
_MONEY: Final = frozenset({"spend", "returned", "discount", "paid_90", "amount", "stake"})
_DEADLINES: Final = {
    "look": "next look",
    "cart_due": "cart left",
    "complaint_due": "complaint overdue",
    "snapshot_due": "next snapshot",
    "label_due": "next label matures",
    "expire_due": "is kept until, at least",
}
_TRIO: Final = (7, 30, 90)


def decoded(hot: bytes, cold: bytes | None, unit: int) -> dict[str, Any]:
    """A customer's record in its parts. ``unit``: minor units of the base currency in one. Raises UnknownVersion."""
    customer, habits = unpack_hot(hot), unpack_cold(cold)
    standing = customer.standing
    found: dict[str, Any] = {"state": _state(customer, unit), "habits": _habits(habits, unit)}
    found["deadlines"] = {
        name: rfc3339(at) for field, name in _DEADLINES.items() if (at := getattr(standing, field))
    }
    found["episodes"] = [
        {"kind": kind, **_episode(episode)}
        for kind, episode in (("churn", standing.churn), ("upsell", standing.upsell))
        if episode is not None
    ]
    found["labels"] = [_label(each) for each in habits.pending]
    return found


def _state(customer: Customer, unit: int) -> dict[str, Any]:
    state = {
        name: _value(name, value, unit)
        for name, value in msgspec.structs.asdict(customer).items()
        if name not in {"standing", "rhythm", "signals", "bought", "browsed", "used", "seen", "seen_orders"}
    }
    for name in ("bought", "browsed", "used"):
        state |= {f"{name}_{half}": value for half, value in zip(_TRIO, getattr(customer, name), strict=True)}
    state["purchase_days"] = [rfc3339(day * DAY)[:10] for day in customer.rhythm.days]
    if customer.signals is not None:
        state["signals"] = {
            name: _value(name, value, unit)
            for name, value in msgspec.structs.asdict(customer.signals).items()
        }
    # Of ids only hashes are kept, to know a re-send.
    state["hashes_of_ids"] = [ring.hex() for ring in customer.seen]
    state["hashes_of_orders"] = customer.seen_orders.hex()
    state["standing"] = _standing(customer.standing, unit)
    return state


def _standing(standing: Standing, unit: int) -> dict[str, Any]:
    hidden = {*_DEADLINES, "churn", "upsell", "due", "known", "request"}
    found = {
        name: _value(name, value, unit)
        for name, value in msgspec.structs.asdict(standing).items()
        if name not in hidden
    }
    if standing.written_band >= 0:
        found["written_band"] = bands.NAMES[standing.written_band]
    return found


def _habits(cold: Cold, unit: int) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, value in msgspec.structs.asdict(cold).items():
        if name == "pending":
            continue
        if name == "tiers":
            found["tiers"] = {INPUTS[topic]: _part(told, unit) for topic, told in value.items()}
        elif name == "offered":
            found["offers"] = {offer: rfc3339(at) for offer, at in value.items()}
        else:
            found[name] = {str(each): _part(part, unit) for each, part in value.items()}
    return found


def _part(part: Any, unit: int) -> Any:
    if isinstance(part, msgspec.Struct):
        return {name: _value(name, value, unit) for name, value in msgspec.structs.asdict(part).items()}
    return part


def _episode(episode: Episode) -> Mapping[str, Any]:
    return {
        "opened": rfc3339(episode.opened),
        "band": bands.NAMES[episode.band],
        "transitions": episode.ordinal,
        "last_purchase_then": rfc3339(episode.since) if episode.since else "never",
        "offers": list(episode.offers),
    }


def _label(pending: Pending) -> Mapping[str, Any]:
    values = unpacked(pending.inputs)
    return {
        "at": rfc3339(pending.at),
        "active": rfc3339(pending.active) if pending.active else "never",
        "lost": rfc3339(pending.lost) if pending.lost else "never",
        "inputs": dict(zip(Inputs._fields, (round(value, 6) for value in values), strict=False)),
    }


def _value(name: str, value: Any, unit: int) -> Any:
    if name in _INSTANTS and isinstance(value, tuple):
        return [rfc3339(at) for at in value]
    if name in _INSTANTS:
        return rfc3339(value) if value else "never"
    if name in _MONEY:
        return round(value / unit, 2)
    if isinstance(value, bytes):
        return value.hex()
    return list(value) if isinstance(value, tuple) else value
