"""A customer: a small record, and how one event changes it.

``apply`` is a pure function: it returns a new record and leaves the one it was given alone, so that
an event that is refused half-way has changed nothing. Order of arrival does not matter for anything
but ``standing``: counts, sums and decayed counters commute, the rhythm keeps its last days sorted,
and what needs several kinds of event is combined when it is read.

The record has a hot part (``Customer``: what a score needs), stored as a row of fixed width
(``features.layout``), and a cold part (``Cold``), stored as a version byte and a msgpack array.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, NamedTuple

import msgspec
from msgspec.structs import replace
from xxhash import xxh3_64_digest

from features import decay, layout
from features.cold import (
    BASKET_HALF_LIFE,
    BROWSE_HALF_LIFE,
    BROWSED,
    CATEGORIES,
    CartItem,
    Case,
    Cold,
    abandoned,
    bounded_cart,
    bounded_cases,
    counted,
    in_cart,
    interested,
    profiled,
)
from features.ledger import marked, settled
from features.rhythm import Rhythm
from features.shop import DAY, HOUR, Calendar
from features.signals import Signals, one_more
from features.standing import Standing
from streams import events as ev
from streams.codec import Decoded

VERSION: Final = layout.VERSION
"""Of what is stored. Version 2 had a msgpack array as the hot part, and is still read."""
OLDEST: Final = 2
"""The oldest version that is read."""
FEATURES: Final = "2"
"""Of the inputs of a score: the same number says that a model was taught by the same inputs."""
REMEMBERED: Final = 32
"""Ids remembered per input topic, and orders remembered, to know a re-send."""
MOST_MONEY: Final = 2**62
_VALUE_HALF_LIFE: Final = 90.0
_NO_SIGNALS: Final = Signals()
RECENT_DAYS: Final = 30
"""A closed complaint counts as recent for this long."""


class Customer(msgspec.Struct, array_like=True, gc=False):
    """The hot part. Instants are microseconds since the Unix epoch (0: never), money is minor units
    of the base currency.

    - ``events``: events that changed the state (duplicates do not); ``orders``: distinct purchases
      with a line above zero; ``returns``, ``views``, ``searches``, ``carts``, ``uses``,
      ``complaints``, ``inquiries``, ``surveys``: events of that kind; ``others``: all other kinds.
    - ``spend``: paid on purchases; ``returned``: given back; ``discount``: list value minus paid.
    - ``first_seen`` and ``last_seen`` over all events; ``first_purchase``, ``last_purchase``;
      ``last_browse`` over views and searches; ``last_use``; ``last_decisive``: newest event of a kind
      that is a decision point, from which the look grid runs.
    - ``rhythm``: see ``features.rhythm``; ``late``: purchase days too old for it.
    - ``bought``, ``browsed``, ``used``: decayed counters (7, 30, 90 days) at the last instant of
      their kind.
    - ``satisfaction``: newest survey score as a share of its scale, the lower of two at one instant,
      -1 before the first; ``satisfaction_at``: its instant. ``lost_at``: newest time at which the
      customer was said to be lost.
    - ``open_since``: opening instants of open complaints, ascending; ``closed_at``: newest instant at
      which a complaint ended. Both follow from the cold part and are kept here for the score.
    - ``paid_90``: paid on purchases, decayed with a half-life of 90 days, at ``last_purchase``;
      ``abandoned``: see ``features.cold.abandoned``; ``signals``: what few shops send (None: nothing yet).
    - ``seen``: hashes of the last ids by input topic; ``seen_orders``: of the last orders.
    """

    events: int = 0
    orders: int = 0
    returns: int = 0
    views: int = 0
    searches: int = 0
    carts: int = 0
    uses: int = 0
    complaints: int = 0
    inquiries: int = 0
    surveys: int = 0
    others: int = 0
    spend: int = 0
    returned: int = 0
    discount: int = 0
    first_seen: int = 0
    last_seen: int = 0
    first_purchase: int = 0
    last_purchase: int = 0
    last_browse: int = 0
    last_use: int = 0
    last_decisive: int = 0
    rhythm: Rhythm = Rhythm()
    late: int = 0
    bought: decay.Trio = decay.NONE
    browsed: decay.Trio = decay.NONE
    used: decay.Trio = decay.NONE
    satisfaction: float = -1.0
    satisfaction_at: int = 0
    lost_at: int = 0
    open_since: tuple[int, ...] = ()
    closed_at: int = 0
    seen: tuple[bytes, ...] = ()
    seen_orders: bytes = b""
    standing: Standing = msgspec.field(default_factory=Standing)
    paid_90: float = 0.0
    abandoned: float = 0.0
    signals: Signals | None = None


class Applied(NamedTuple):
    """What ``apply`` made of an event. ``duplicate``: it was known and nothing changed. ``bought``: it
    was a purchase above zero. ``late``: its day was too old for the rhythm."""

    customer: Customer
    cold: Cold
    duplicate: bool = False
    bought: bool = False
    late: bool = False


class UnknownVersion(ValueError):
    """A state was written by a newer version of churnwatch than this one."""


_encode = msgspec.msgpack.Encoder().encode
_decode_hot = msgspec.msgpack.Decoder(Customer).decode
_decode_cold = msgspec.msgpack.Decoder(Cold).decode
EMPTY_COLD = Cold()
PREFIX: Final = bytes([VERSION])


def pack_hot(customer: Customer) -> bytes:
    """The hot part as stored."""
    return layout.pack(customer)


def pack_cold(cold: Cold) -> bytes:
    """The cold part as stored."""
    return PREFIX + _encode(cold)


def _newer(raw: bytes) -> UnknownVersion:
    return UnknownVersion(
        f"a customer's state has version {raw[0]}, this churnwatch knows {VERSION}: run the newer release"
    )


def unpack_hot(raw: bytes | None) -> Customer:
    """The hot part; a new customer for None. Raises UnknownVersion."""
    if raw is None:
        return Customer()
    if raw[0] == VERSION:
        return layout.unpack(raw, Customer)
    if raw[0] > VERSION:
        raise _newer(raw)
    return _decode_hot(raw[1:])


def unpack_cold(raw: bytes | None) -> Cold:
    """The cold part; an empty one for None. Raises UnknownVersion."""
    if raw is None:
        return EMPTY_COLD
    if raw[0] > VERSION:
        raise _newer(raw)
    return _decode_cold(raw[1:])


DECISIVE: Final[frozenset[type]] = frozenset(
    {
        ev.Purchase,
        ev.Return,
        ev.Complaint,
        ev.ComplaintUpdate,
        ev.Inquiry,
        ev.InquiryUpdate,
        ev.Survey,
        ev.Cart,
        ev.Checkout,
        ev.CustomerLost,
        ev.AlertFeedback,
    }
)
"""Event types that are decision points; all others count at the next look."""


def touches_cold(event: ev.Event) -> bool:
    """Whether the cold part is needed: for decisions, and where an event changes it."""
    kind = type(event)
    return (
        kind in DECISIVE
        or kind is ev.Profile
        or (type(event) is ev.View and bool(event.category or event.sku))
    )


def remembered(ring: bytes, digest: bytes) -> bool:
    """Whether the ring of 8-byte hashes holds this one."""
    at = ring.find(digest)
    while at >= 0 and at % 8:
        at = ring.find(digest, at + 1)
    return at >= 0


def _remember(ring: bytes, digest: bytes) -> bytes:
    return ring[-(REMEMBERED - 1) * 8 :] + digest


def apply(customer: Customer, cold: Cold, item: Decoded, topic: int, calendar: Calendar) -> Applied:
    """The customer after one event of the input topic with index ``topic``.

    A re-sent event (its id among the last 32 of the topic, or a purchase whose order is among the
    last 32 orders) changes nothing. Raises ValueError for what cannot be counted.
    """
    event = item.event
    seen = customer.seen
    digest = xxh3_64_digest(event.id.encode("utf-8", "surrogatepass"))
    ring = seen[topic] if topic < len(seen) else b""
    if remembered(ring, digest):
        return Applied(customer, cold, duplicate=True)
    order = b""
    if isinstance(event, ev.Purchase) and _is_paid(event):
        order = xxh3_64_digest((event.order or event.id).encode("utf-8", "surrogatepass"))
        if remembered(customer.seen_orders, order):
            return Applied(customer, cold, duplicate=True)

    # copy.copy() ends here too, after a while.
    new: Customer = customer.__copy__()  # type: ignore[attr-defined]
    if topic >= len(seen):
        seen = (*seen, *[b""] * (topic + 1 - len(seen)))
    new.seen = (*seen[:topic], _remember(ring, digest), *seen[topic + 1 :])
    if order:
        new.seen_orders = _remember(customer.seen_orders, order)
    at = item.at
    new.events += 1
    if not new.first_seen or at < new.first_seen:
        new.first_seen = at
    new.last_seen = max(new.last_seen, at)
    if at > new.last_decisive and type(event) in DECISIVE:
        new.last_decisive = at
    handler = _HANDLERS.get(type(event))
    if handler is None:
        new.others += 1
        if isinstance(event, ev.Profile):
            cold = profiled(cold, event.tier, at, topic)
        return Applied(new, cold)
    return handler(new, cold, item, calendar)


def _is_paid(event: ev.Purchase) -> bool:
    """Whether some line is above zero; an order without one is no purchase."""
    return any(line.amount > 0 for line in event.lines)


def _bounded(total: int) -> int:
    """A sum of money that still fits the stored state."""
    if total > MOST_MONEY:
        raise ValueError(f"money: a total of {total} minor units; allowed are {MOST_MONEY}")
    return total


def _names(lines: tuple[ev.Line, ...] | list[ev.Line]) -> list[str]:
    """Categories of the lines above zero, by SKU where a line has none, each once."""
    names: dict[str, None] = {}
    for line in lines:
        if line.amount > 0:
            if line.category:
                names[line.category] = None
            elif line.sku:
                names["sku:" + line.sku] = None
    return list(names)


def _purchase(new: Customer, cold: Cold, item: Decoded, calendar: Calendar) -> Applied:
    event = item.event
    assert isinstance(event, ev.Purchase)
    if not _is_paid(event):
        new.others += 1
        return Applied(new, cold)
    at = item.at
    new.orders += 1
    new.spend = _bounded(new.spend + item.minor)
    new.discount = _bounded(new.discount + item.discount)
    new.bought = decay.add(new.bought, new.last_purchase, at)
    new.paid_90 = _paid(new, item.minor, at)
    if not new.first_purchase or at < new.first_purchase:
        new.first_purchase = at
    new.last_purchase = max(new.last_purchase, at)
    rhythm = new.rhythm.add(calendar.day(at))
    if rhythm is None:
        new.late += 1
    else:
        new.rhythm = rhythm
    cold = purchased(cold, event, at, calendar)
    new.abandoned = abandoned(cold.basket, new.last_purchase)
    if cold.cart:
        cold = replace(cold, cart=bounded_cart(cold.cart, new.last_purchase))
    return Applied(new, cold, bought=True, late=rhythm is None)


def purchased(cold: Cold, event: ev.Purchase, at: int, calendar: Calendar) -> Cold:
    """The cold part after a purchase; the cart, which is settled by the newest of them, stays as it is."""
    local = calendar.local(at)
    return replace(
        cold,
        basket=interested(cold.basket, _names(event.lines), at, BASKET_HALF_LIFE, CATEGORIES),
        pending=marked(cold.pending, at),
        weekdays=counted(cold.weekdays, calendar.weekday(local // DAY)),
        hours=counted(cold.hours, local // HOUR % 24),
        channels=counted(cold.channels, event.channel) if event.channel else cold.channels,
        regions=counted(cold.regions, event.region) if event.region else cold.regions,
        stores=counted(cold.stores, event.store) if event.store else cold.stores,
    )


def _paid(new: Customer, minor: int, at: int) -> float:
    if at >= new.last_purchase:
        return new.paid_90 * decay.fade(at - new.last_purchase, _VALUE_HALF_LIFE) + minor
    return new.paid_90 + minor * decay.fade(new.last_purchase - at, _VALUE_HALF_LIFE)


def _return(new: Customer, cold: Cold, item: Decoded, calendar: Calendar) -> Applied:
    new.returns += 1
    new.returned = _bounded(new.returned + item.minor)
    known = new.signals or _NO_SIGNALS
    counter, at = one_more(known.returns_90, known.returned_at, item.at, 90.0)
    new.signals = replace(known, returns_90=counter, returned_at=at)
    return Applied(new, cold)


def _view(new: Customer, cold: Cold, item: Decoded, calendar: Calendar) -> Applied:
    new.views += 1
    _browse(new, item.at)
    assert isinstance(item.event, ev.View)
    return Applied(new, viewed(cold, item.event, item.at))


def viewed(cold: Cold, event: ev.View, at: int) -> Cold:
    """The cold part after a view."""
    name = event.category or (event.sku and "sku:" + event.sku)
    if not name:
        return cold
    return replace(cold, browsed=interested(cold.browsed, [name], at, BROWSE_HALF_LIFE, BROWSED))


def _search(new: Customer, cold: Cold, item: Decoded, calendar: Calendar) -> Applied:
    event = item.event
    assert isinstance(event, ev.Search)
    new.searches += 1
    _browse(new, item.at)
    if event.results == 0:
        known = new.signals or _NO_SIGNALS
        counter, at = one_more(known.empty_30, known.empty_at, item.at, 30.0)
        new.signals = replace(known, empty_30=counter, empty_at=at)
    return Applied(new, cold)


def _browse(new: Customer, at: int) -> None:
    new.browsed = decay.add(new.browsed, new.last_browse, at)
    new.last_browse = max(new.last_browse, at)


def _use(new: Customer, cold: Cold, item: Decoded, calendar: Calendar) -> Applied:
    new.uses += 1
    new.used = decay.add(new.used, new.last_use, item.at)
    new.last_use = max(new.last_use, item.at)
    return Applied(new, cold)


def _cart(new: Customer, cold: Cold, item: Decoded, calendar: Calendar) -> Applied:
    event = item.event
    assert isinstance(event, ev.Cart)
    new.carts += 1
    if event.action == "add":
        signals = new.signals or _NO_SIGNALS
        counter, carted = one_more(signals.carts_30, signals.carted_at, item.at, 30.0)
        new.signals = replace(signals, carts_30=counter, carted_at=carted)
    name = event.sku or event.category
    if not name:
        return Applied(new, cold)
    known = cold.cart.get(name, CartItem())
    if event.action == "add":
        newer = item.at > known.added or (item.at == known.added and item.minor > known.amount)
        changed = CartItem(item.at, known.removed, item.minor) if newer else known
    else:
        changed = CartItem(known.added, max(known.removed, item.at), known.amount)
    cart = bounded_cart({**cold.cart, name: changed}, new.last_purchase)
    return Applied(new, replace(cold, cart=cart))


def _complaint(new: Customer, cold: Cold, item: Decoded, calendar: Calendar) -> Applied:
    event = item.event
    assert isinstance(event, ev.Complaint)
    new.complaints += 1
    case = cold.complaints.get(event.complaint, Case(0)).begun(event.kind, item.at)
    return _with_complaints(new, cold, {**cold.complaints, event.complaint: case})


def _complaint_update(new: Customer, cold: Cold, item: Decoded, calendar: Calendar) -> Applied:
    event = item.event
    assert isinstance(event, ev.ComplaintUpdate)
    new.others += 1
    case = cold.complaints.get(event.complaint, Case(0)).updated(event.status, item.at)
    if event.status == "reopened" or (event.status == "closed" and not event.resolution):
        known = new.signals or _NO_SIGNALS
        counter, at = one_more(known.bad_90, known.bad_at, item.at, 90.0)
        new.signals = replace(known, bad_90=counter, bad_at=at)
    return _with_complaints(new, cold, {**cold.complaints, event.complaint: case})


def _with_complaints(new: Customer, cold: Cold, complaints: dict[str, Case]) -> Applied:
    complaints = bounded_cases(complaints)
    new.open_since = tuple(sorted(case.opened for case in complaints.values() if case.open))
    new.closed_at = max(
        [case.status_at for case in complaints.values() if case.opened and not case.open], default=0
    )
    return Applied(new, replace(cold, complaints=complaints))


def _inquiry(new: Customer, cold: Cold, item: Decoded, calendar: Calendar) -> Applied:
    event = item.event
    assert isinstance(event, ev.Inquiry)
    new.inquiries += 1
    case = cold.inquiries.get(event.inquiry, Case(0)).begun(event.topic or "", item.at)
    inquiries = bounded_cases({**cold.inquiries, event.inquiry: case})
    return Applied(new, replace(cold, inquiries=inquiries))


def _inquiry_update(new: Customer, cold: Cold, item: Decoded, calendar: Calendar) -> Applied:
    event = item.event
    assert isinstance(event, ev.InquiryUpdate)
    new.others += 1
    case = cold.inquiries.get(event.inquiry, Case(0)).updated(event.status, item.at)
    inquiries = bounded_cases({**cold.inquiries, event.inquiry: case})
    return Applied(new, replace(cold, inquiries=inquiries))


def _survey(new: Customer, cold: Cold, item: Decoded, calendar: Calendar) -> Applied:
    event = item.event
    assert isinstance(event, ev.Survey)
    new.surveys += 1
    share = min(event.score / event.scale, 1.0)
    if item.at > new.satisfaction_at or (item.at == new.satisfaction_at and share < new.satisfaction):
        new.satisfaction = share
        new.satisfaction_at = item.at
    return Applied(new, cold)


def _review(new: Customer, cold: Cold, item: Decoded, calendar: Calendar) -> Applied:
    event = item.event
    assert isinstance(event, ev.Review)
    new.others += 1
    known = new.signals or _NO_SIGNALS
    share = event.rating / 5.0
    if item.at > known.rated_at or (item.at == known.rated_at and share < known.rating):
        new.signals = replace(known, rating=share, rated_at=item.at)
    return Applied(new, cold)


def _lost(new: Customer, cold: Cold, item: Decoded, calendar: Calendar) -> Applied:
    event = item.event
    assert isinstance(event, ev.CustomerLost)
    new.others += 1
    new.lost_at = max(new.lost_at, item.at)
    if event.competitor:
        known = new.signals or _NO_SIGNALS
        new.signals = replace(known, competitor_at=max(known.competitor_at, item.at))
    if cold.pending:
        cold = replace(cold, pending=settled(cold.pending, item.at))
    return Applied(new, cold)


_Handler = Callable[[Customer, Cold, Decoded, Calendar], Applied]
_HANDLERS: dict[type, _Handler] = {
    ev.Purchase: _purchase,
    ev.Return: _return,
    ev.View: _view,
    ev.Search: _search,
    ev.Use: _use,
    ev.Cart: _cart,
    ev.Complaint: _complaint,
    ev.ComplaintUpdate: _complaint_update,
    ev.Inquiry: _inquiry,
    ev.InquiryUpdate: _inquiry_update,
    ev.Survey: _survey,
    ev.Review: _review,
    ev.CustomerLost: _lost,
}


def newest_cart(cold: Cold, last_purchase: int) -> int:
    """The newest instant at which something that still lies in the cart was put in; 0 for none."""
    return max((item.added for item in in_cart(cold, last_purchase).values()), default=0)
