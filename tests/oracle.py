"""The naive twin: what a customer is, recomputed from a plain list of everything that was read of them.

Nothing here is incremental and nothing comes from ``features``: each number is a loop over the
history. Where churnwatch forgets on purpose (ids known for a window, sixteen purchase days, bounded
maps), the twin walks through the history and forgets by the same rule from full lists.

The order of the records is the order of their arrival. It makes a difference only to what is
forgotten; within one topic it is the order of offsets.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, date, datetime, timedelta
from itertools import pairwise
from typing import NamedTuple, TypeVar
from zoneinfo import ZoneInfo

from streams import events as ev
from streams.codec import Decoded

HOUR = 3_600_000_000
DAY = 24 * HOUR
Name = TypeVar("Name", str, int)


class Read(NamedTuple):
    """A record as it was read: the topic's name, the offset in the partition, the event."""

    topic: str
    offset: int
    item: Decoded


class Cleared(NamedTuple):
    """A tombstone of the customer, as it was read."""

    topic: str


class Keep(NamedTuple):
    """Days for which prospects and those who have bought are kept after their last event; 0: for ever."""

    prospects: float = 0
    lapsed: float = 0


def recompute(
    records: Sequence[Read | Cleared | int],
    at: int,
    *,
    time_zone: str = "UTC",
    overdue_hours: float = 48.0,
    forgotten: int = 0,
    keep: Keep | None = None,
) -> dict[str, object]:
    """Every feature of one customer at the instant ``at``, which is not before the last event."""
    items, profiles = known(records, forgotten, keep)
    purchases = [item for item in items if is_purchase(item)]
    bought = [item.at for item in purchases]
    views = [item for item in items if isinstance(item.event, ev.View)]
    searches = [item for item in items if isinstance(item.event, ev.Search)]
    browsed = [item.at for item in views + searches]
    uses = [item.at for item in items if isinstance(item.event, ev.Use)]
    returns = [item for item in items if isinstance(item.event, ev.Return)]
    named = (
        "purchase",
        "return",
        "view",
        "search",
        "cart",
        "use",
        "complaint",
        "inquiry",
        "survey",
    )
    kinds = Counter(ev.type_name(item.event) for item in items)
    last_purchase = max(bought, default=0)
    complaints = cases(items, ev.Complaint, ev.ComplaintUpdate)
    open_since = sorted(case.opened for case in complaints.values() if case.open)
    ended = [case.status_at for case in complaints.values() if case.opened and not case.open]
    closed_at = max(ended, default=0)
    satisfaction, satisfaction_at = newest_satisfaction(items)
    lost_at = max((item.at for item in items if isinstance(item.event, ev.CustomerLost)), default=0)
    spend = sum(item.minor for item in purchases)
    discount = sum(item.discount for item in purchases)
    days, late = purchase_days(bought, time_zone)
    local = [local_time(instant, time_zone) for instant in bought]
    return {
        # Counts and money
        "events": len(items),
        "orders": len(purchases),
        "returns": kinds["return"],
        "views": kinds["view"],
        "searches": kinds["search"],
        "carts": kinds["cart"],
        "uses": kinds["use"],
        "complaints": kinds["complaint"],
        "inquiries": kinds["inquiry"],
        "surveys": kinds["survey"],
        "others": len(items) - sum(kinds[name] for name in named) + kinds["purchase"] - len(purchases),
        "spend": spend,
        "returned": sum(item.minor for item in returns),
        "discount": discount,
        "discount_share": discount / (spend + discount) if spend + discount else 0.0,
        # First and last
        "first_seen": min((item.at for item in items), default=0),
        "last_seen": max((item.at for item in items), default=0),
        "first_purchase": min(bought, default=0),
        "last_purchase": last_purchase,
        "last_browse": max(browsed, default=0),
        "last_use": max(uses, default=0),
        "last_decisive": max((item.at for item in items if isinstance(item.event, DECIDES)), default=0),
        # Rhythm
        "days": days[-KEPT_DAYS:],
        "late": late,
        **rhythm(days),
        # Decayed activity
        **{f"bought_{half}": decayed(bought, half, at) for half in HALF_LIVES},
        **{f"browsed_{half}": decayed(browsed, half, at) for half in HALF_LIVES},
        **{f"used_{half}": decayed(uses, half, at) for half in HALF_LIVES},
        # What they said
        "satisfaction": satisfaction,
        "satisfaction_at": satisfaction_at,
        "lost_at": lost_at,
        "open_since": open_since,
        "closed_at": closed_at,
        "complaint_cases": {name: tuple(case) for name, case in complaints.items()},
        "inquiry_cases": {
            name: tuple(case) for name, case in cases(items, ev.Inquiry, ev.InquiryUpdate).items()
        },
        # What they like
        "basket": interest(((item.at, bought_names(item)) for item in purchases), 16, 90.0, at),
        "interest": interest(((item.at, viewed_name(item)) for item in views), 8, 7.0, at),
        "cart": cart(items, last_purchase),
        "tier": max(profiles)[1] or None if profiles else None,
        **{
            name: counts
            for attribute, name in (("channel", "channels"), ("region", "regions"), ("store", "stores"))
            for counts in [counted([getattr(item.event, attribute) for item in purchases])]
        },
        "weekdays": dict(Counter(moment.weekday() for moment in local)),
        "hours": dict(Counter(moment.hour for moment in local)),
        "preferred_channel": preferred(counted([getattr(item.event, "channel", None) for item in purchases])),
        "preferred_region": preferred(counted([getattr(item.event, "region", None) for item in purchases])),
        "preferred_store": preferred(counted([getattr(item.event, "store", None) for item in purchases])),
        "preferred_weekday": preferred(Counter(moment.weekday() for moment in local)),
        "preferred_hour": preferred(Counter(moment.hour for moment in local)),
        # What the score reads
        "recency": max(0, at - last_purchase) / DAY,
        "repeats": max(0, len(purchases) - 1),
        "open_complaints": len(open_since),
        "overdue_complaints": sum(at - opened >= overdue_hours * HOUR for opened in open_since),
        "recent_complaint": closed_at > 0 and at - closed_at < 30 * DAY,
        "said_lost": lost_at > last_purchase,
        "age": max(0, at - min(bought, default=0)) / DAY,
        "last_gap": math.log(days[-1] - days[-2]) if len(days) > 1 else 0.0,
        "order_value": spend / len(purchases) if purchases else 0.0,
        "value_trend": value_trend(purchases),
        "returned_90": decayed([item.at for item in returns], 90, at),
        "abandoned": abandoned(
            interest(((item.at, bought_names(item)) for item in purchases), 16, 90.0, at), last_purchase, at
        ),
        "browse_recency": min((at - max(browsed)) / DAY, 365.0) if browsed else 0.0,
        "empty_searches_30": decayed(
            [i.at for i in items if isinstance(i.event, ev.Search) and i.event.results == 0], 30, at
        ),
        "carts_30": decayed(
            [i.at for i in items if isinstance(i.event, ev.Cart) and i.event.action == "add"], 30, at
        ),
        "rating": shortfall(items),
        "bad_complaints": decayed([item.at for item in items if went_badly(item.event)], 90, at),
    }


# What counts ------------------------------------------------------------------------------------

WINDOW = 32
DECIDES = (
    ev.Purchase
    | ev.Return
    | ev.Complaint
    | ev.ComplaintUpdate
    | ev.Inquiry
    | ev.InquiryUpdate
    | ev.Survey
    | ev.Cart
    | ev.Checkout
    | ev.CustomerLost
    | ev.AlertFeedback
)


def accepted(
    records: Iterable[Read | Cleared | int], forgotten: int = 0, keep: Keep | None = None
) -> list[Decoded]:
    """The events that count; see ``known``."""
    return known(records, forgotten, keep)[0]


def known(
    records: Iterable[Read | Cleared | int], forgotten: int = 0, keep: Keep | None = None
) -> tuple[list[Decoded], list[tuple[int, str]]]:
    """The events that are no re-send: of an id among the last 32 of its topic, or of a purchase (above
    zero) whose order is among the last 32 orders.

    A forget takes away all that was read before it, and what is not later than that or the forget when it comes;
    read again it changes nothing. ``forgotten``: an instant up to which the customer was known to be forgotten before
    anything was read. A number among the records is where the clock has come to: who was not heard of for as long as
    ``keep`` says by then is not known any more. Beside the events stand the instants and tiers ("": none) of the
    profiles among them that no tombstone has cleared: one clears what was read before it of its topic.
    """
    profiles: list[tuple[str, int, str]] = []
    ids: dict[str, list[str]] = {}
    orders: list[str] = []
    items: list[Decoded] = []
    request = ""
    for record in records:
        if isinstance(record, int):
            days = keep and (keep.lapsed if any(map(is_purchase, items)) else keep.prospects)
            if days and items and max(item.at for item in items) + days * DAY <= record:
                ids, orders, items, profiles = {}, [], [], []
            continue
        if isinstance(record, Cleared):
            profiles = [each for each in profiles if each[0] != record.topic]
            continue
        event = record.item.event
        if isinstance(event, ev.Forget):
            if not (items and event.id == request and record.item.at <= forgotten):
                forgotten = max([forgotten, record.item.at, *(item.at for item in items)])
                request = event.id
                ids, orders, items, profiles = {}, [], [], []
            continue
        if record.item.at <= forgotten:
            continue
        before = ids.setdefault(record.topic, [])
        if event.id in before[-WINDOW:]:
            continue
        if isinstance(event, ev.Purchase) and is_purchase(record.item):
            order = event.order or event.id
            if order in orders[-WINDOW:]:
                continue
            orders.append(order)
        before.append(event.id)
        items.append(record.item)
        if isinstance(event, ev.Profile):
            profiles.append((record.topic, record.item.at, event.tier or ""))
    return items, [(at, tier) for _, at, tier in profiles]


def is_purchase(item: Decoded) -> bool:
    """A purchase with a line above zero."""
    return isinstance(item.event, ev.Purchase) and any(line.amount > 0 for line in item.event.lines)


# Rhythm -----------------------------------------------------------------------------------------

KEPT_DAYS = 16


def local_time(at: int, time_zone: str) -> datetime:
    """The shop's wall clock at the instant."""
    moment = datetime(1970, 1, 1, tzinfo=UTC) + timedelta(microseconds=at)
    return moment.astimezone(ZoneInfo(time_zone))


def purchase_days(bought: Sequence[int], time_zone: str) -> tuple[list[int], int]:
    """Distinct shop-local purchase days, ascending, and how many purchases came too late to find
    their place: on a day before the sixteen newest that were known."""
    days: list[int] = []
    late = 0
    for instant in bought:
        day = (local_time(instant, time_zone).date() - date(1970, 1, 1)).days
        if len(days) >= KEPT_DAYS and day < sorted(days)[-KEPT_DAYS]:
            late += 1
        elif day not in days:
            days.append(day)
    return sorted(days), late


def rhythm(days: Sequence[int]) -> dict[str, object]:
    """Mean and variance of the logarithms of the gaps, the newest weighing most: the n-th gap takes
    1/n of the weight, at least a fifth, from those before it."""
    logs = [math.log(later - earlier) for earlier, later in pairwise(days)]
    weights: list[float] = []
    for n in range(1, len(logs) + 1):
        share = max(0.2, 1 / n)
        weights = [weight * (1 - share) for weight in weights] + [share]
    mean = math.fsum(w * x for w, x in zip(weights, logs, strict=True))
    variance = math.fsum(w * (x - mean) ** 2 for w, x in zip(weights, logs, strict=True))
    return {"gaps": len(logs), "gap_mean": mean, "gap_variance": variance}


# Decayed activity -------------------------------------------------------------------------------

HALF_LIVES = (7, 30, 90)


def decayed(instants: Sequence[int], half_life_days: float, at: int) -> float:
    """Events, each of which counts half after every half-life."""
    return math.fsum(0.5 ** (max(0, at - instant) / (half_life_days * DAY)) for instant in instants)


def value_trend(purchases: Sequence[Decoded]) -> float:
    """Logarithm of what an order of late was worth to what all were, each order weighing half after 90 days;
    between -3 and 3."""
    spend = sum(item.minor for item in purchases)
    if len(purchases) < 2 or not spend:
        return 0.0
    newest = max(item.at for item in purchases)
    weights = [0.5 ** ((newest - item.at) / (90 * DAY)) for item in purchases]
    paid = math.fsum(weight * item.minor for weight, item in zip(weights, purchases, strict=True))
    if not paid:
        return 0.0
    return min(max(math.log(paid / math.fsum(weights) / (spend / len(purchases))), -3.0), 3.0)


def went_badly(event: ev.Event) -> bool:
    """A complaint was reopened, or closed and nothing said of how it was resolved."""
    if not isinstance(event, ev.ComplaintUpdate):
        return False
    return event.status == "reopened" or (event.status == "closed" and not event.resolution)


def shortfall(items: Sequence[Decoded]) -> float:
    """How far the newest review stays below three stars of five; of two at one instant the lower."""
    reviews = [(item.at, -item.event.rating) for item in items if isinstance(item.event, ev.Review)]
    return max(0.6 + max(reviews)[1] / 5, 0.0) if reviews else 0.0


# Categories -------------------------------------------------------------------------------------


def bought_names(item: Decoded) -> list[str]:
    """What a purchase was of: categories, or SKUs where a line has no category; lines above zero."""
    names = []
    if isinstance(item.event, ev.Purchase):
        for line in item.event.lines:
            if line.amount > 0 and line.category:
                names.append(line.category)
            elif line.amount > 0 and line.sku:
                names.append(f"sku:{line.sku}")
    return sorted(set(names))


def viewed_name(item: Decoded) -> list[str]:
    """What a view was of."""
    if isinstance(item.event, ev.View) and item.event.category:
        return [item.event.category]
    if isinstance(item.event, ev.View) and item.event.sku:
        return [f"sku:{item.event.sku}"]
    return []


def interest(
    seen: Iterable[tuple[int, list[str]]], most: int, half_life_days: float, at: int
) -> dict[str, tuple[int, int, int, float]]:
    """By name: events, first, last, and what they are worth at ``at``. When there are more than
    ``most`` names, those worth least are forgotten, and begin anew if they come back."""
    instants: dict[str, list[int]] = {}
    for instant, names in seen:
        for name in names:
            instants.setdefault(name, []).append(instant)
        if len(instants) > most:
            # In half-lives since the epoch, so that nothing is too old to be compared; rounded, so that
            # of two that are worth the same the greater name goes.
            worth = {
                name: math.log2(decayed(times, half_life_days, max(times)))
                + max(times) / (half_life_days * DAY)
                for name, times in instants.items()
            }
            ranked = sorted(instants, key=lambda name: (-round(worth[name], 6), name))
            instants = {name: instants[name] for name in ranked[:most]}
    return {
        name: (len(times), min(times), max(times), decayed(times, half_life_days, at))
        for name, times in instants.items()
    }


def abandoned(basket: dict[str, tuple[int, int, int, float]], last_purchase: int, at: int) -> float:
    """Of what the categories weighed when each was last bought, the share of those that stopped: three times
    bought or more, and up to the last purchase not for twice the usual gap and two weeks."""
    weights = {
        name: (
            worth / 0.5 ** ((at - last) / (90 * DAY)),
            times,
            (last - first) / DAY,
            (last_purchase - last) / DAY,
        )
        for name, (times, first, last, worth) in basket.items()
        if not name.startswith("sku:")
    }
    stopped = [
        weight
        for weight, times, span, silent in weights.values()
        if times >= 3 and span > 0 and silent > max(2 * span / (times - 1), 14)
    ]
    whole = math.fsum(weight for weight, *_ in weights.values())
    return math.fsum(stopped) / whole if whole else 0.0


def counted(names: Iterable[str | None], most: int = 8) -> dict[str, int]:
    """How often each name was given; of more than ``most`` the rarest is forgotten."""
    counts: dict[str, int] = {}
    for name in names:
        if name:
            counts[name] = counts.get(name, 0) + 1
            ranked = sorted(counts, key=lambda key: (-counts[key], key))
            counts = {key: counts[key] for key in ranked[:most]}
    return counts


def preferred(counts: Mapping[Name, int]) -> Name | None:
    """What was counted most often; the smallest of several."""
    most = max(counts.values(), default=0)
    return min((key for key, count in counts.items() if count == most), default=None)


# Cart -------------------------------------------------------------------------------------------


def cart(items: Sequence[Decoded], last_purchase: int) -> dict[str, tuple[int, int]]:
    """What lies in the cart, when it was last put in and for how much: put in after it was last taken
    out and after the last purchase, among the sixteen that were touched last."""
    put: dict[str, list[tuple[int, int]]] = {}
    taken: dict[str, list[int]] = {}
    for item in items:
        if isinstance(item.event, ev.Cart) and (name := item.event.sku or item.event.category):
            if item.event.action == "add":
                put.setdefault(name, []).append((item.at, item.minor))
            else:
                taken.setdefault(name, []).append(item.at)
    touched = {
        name: max([when for when, _ in put.get(name, [])] + taken.get(name, [])) for name in put | taken
    }
    newest = sorted(touched, key=lambda name: (-touched[name], name))
    newest = [name for name in newest if touched[name] > last_purchase][:16]
    inside = {}
    for name in newest:
        if name in put:
            added, amount = max(put[name])
            if added > max(taken.get(name, [0])) and added > last_purchase:
                inside[name] = (added, amount)
    return inside


# Complaints, inquiries, satisfaction ------------------------------------------------------------

STAGES = ("answered", "reopened", "resolved", "closed")


class Case(NamedTuple):
    """A complaint or inquiry: when it was opened (0: unknown so far), its kind, the newest status."""

    opened: int
    kind: str
    status: str
    status_at: int

    @property
    def open(self) -> bool:
        """Opened, and not over."""
        return self.opened > 0 and self.status not in {"resolved", "closed"}


def cases(
    items: Iterable[Decoded],
    opening: type[ev.Complaint] | type[ev.Inquiry],
    update: type[ev.ComplaintUpdate] | type[ev.InquiryUpdate],
) -> dict[str, Case]:
    """The cases by their ids. The earliest opening counts, the newest status (of two at one instant
    the later stage). Of more than sixteen, what is over is forgotten first, then what is oldest."""
    openings: dict[str, list[tuple[int, str]]] = {}
    updates: dict[str, list[tuple[int, int]]] = {}
    known: list[str] = []

    def case(name: str) -> Case:
        opened, kind = min(openings.get(name, [(0, "")]))
        status_at, stage = max(updates.get(name, [(0, -1)]))
        return Case(opened, kind, STAGES[stage] if stage >= 0 else "", status_at)

    for item in items:
        event = item.event
        if not isinstance(event, opening | update):
            continue
        name = event.complaint if isinstance(event, ev.Complaint | ev.ComplaintUpdate) else event.inquiry
        if isinstance(event, ev.Complaint):
            openings.setdefault(name, []).append((item.at, event.kind))
        elif isinstance(event, ev.Inquiry):
            openings.setdefault(name, []).append((item.at, event.topic or ""))
        else:
            updates.setdefault(name, []).append((item.at, STAGES.index(event.status)))
        if name not in known:
            known.append(name)
        if len(known) > 16:
            all_cases = {each: case(each) for each in known}
            known.sort(
                key=lambda each: (
                    not all_cases[each].open,
                    -max(all_cases[each].opened, all_cases[each].status_at),
                    each,
                )
            )
            for forgotten in known[16:]:
                openings.pop(forgotten, None)
                updates.pop(forgotten, None)
            known = known[:16]
    return {name: case(name) for name in known}


def newest_satisfaction(items: Iterable[Decoded]) -> tuple[float, int]:
    """The newest answer as a share of its scale, at most 1, and its instant; the lower of two at one
    instant; -1 and 0 before the first."""
    answers = [
        (item.at, -min(item.event.score / item.event.scale, 1.0))
        for item in items
        if isinstance(item.event, ev.Survey)
    ]
    if not answers:
        return -1.0, 0
    at, negative = max(answers)
    return -negative, at
