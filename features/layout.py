"""How the hot part of a customer is stored: a row of fixed width, then what has no fixed length.

The row is little-endian and aligned, so that the rows of many customers are one array (``ROW``) without a look at
each number. Behind it stand the kept purchase days, the rings of remembered ids, topic by topic, that of orders, and
in msgpack what few customers have (``Rest``).
"""

from __future__ import annotations

from struct import Struct
from typing import TYPE_CHECKING, Any, Final

import msgspec
import numpy as np
from msgspec.structs import astuple

from features import decay
from features.rhythm import WINDOW, Fold, Rhythm
from features.signals import Signals
from features.standing import Episode, Standing

if TYPE_CHECKING:
    from features.customer import Customer

VERSION: Final = 3
RINGS: Final = 7
"""Input topics for whose ids there is room."""
DIGEST: Final = 8
DAY_BYTES: Final = 2
NOTHING, ASIDE, COUNTS = range(3)
"""What stands in ``Rest``: nothing; only what a usual event or look leaves as it is; what counts for a score or an
offer, too."""

_FIELDS: Final = (
    # Lengths and small numbers; a band of -1: none.
    *((name, "u1", 1) for name in ("version", "history", "days_kept", "orders_kept", "open", "rest", "bought_since")),
    *((name, "i1", 1) for name in ("written_band", "churn_band")),
    ("ids_kept", "u1", RINGS),
    # Instants and money.
    *((name, "i8", 1) for name in (
        "spend", "discount", "first_seen", "last_seen", "first_purchase", "last_purchase", "last_browse",
        "last_decisive", "closed_at", "at", "look", "complaint_due", "due", "offered", "warned", "snapshot_due",
        "label_due", "labelled",
    )),
    ("bought", "f8", 3), ("browsed", "f8", 3),
    *((name, "f8", 1) for name in (
        "paid_90", "abandoned", "base_mean", "base_variance", "mean", "variance", "written",
    )),
    *((name, "u4", 1) for name in (
        "events", "orders", "views", "searches", "complaints", "base_gaps", "gaps", "sequence", "known",
    )),
    ("last_day", "i4", 1), ("last_gap", "i4", 1),
)  # fmt: skip
_CODES: Final = {"u1": "B", "i1": "b", "u4": "I", "i4": "i", "i8": "q", "f8": "d"}
ROW: Final = np.dtype(
    [(name, "<" + kind, (n,)) if n > 1 else (name, "<" + kind) for name, kind, n in _FIELDS]
)
"""One customer's row. ``version`` is the first byte. ``days_kept``, ``ids_kept``, ``orders_kept``: how many stand
behind it; ``open``: open complaints; ``rest``: see ``NOTHING``; ``last_day``, ``last_gap``: newest purchase day and
what lies between it and the one before (0: there is none); ``churn_band``: of the open churn episode,
``bought_since``: 1 if it is older than the last purchase."""
SIZE: Final = ROW.itemsize
_row: Final = Struct("<" + "".join(f"{n}{_CODES[kind]}" for _, kind, n in _FIELDS))
_days: Final = [Struct(f"<{n}H") for n in range(WINDOW + 1)]
_FAR: Final = 1 << 16
"""Kept days stand modulo this; a customer whose kept days span more has them in ``Rest``."""
assert _row.size == SIZE
_TOPIC_LENGTHS: Final = [bytes(RINGS - n) for n in range(RINGS + 1)]


class Rest(msgspec.Struct, array_like=True, gc=False):
    """What few customers have; the names are those of ``Customer`` and ``Standing``."""

    open_since: tuple[int, ...] = ()
    churn: Episode | None = None
    others: int = 0
    late: int = 0
    inquiries: int = 0
    returns: int = 0
    returned: int = 0
    carts: int = 0
    uses: int = 0
    last_use: int = 0
    used: decay.Trio | None = None
    surveys: int = 0
    satisfaction: float | None = None
    satisfaction_at: int = 0
    lost_at: int = 0
    signals: Signals | None = None
    upsell: Episode | None = None
    cart_due: int = 0
    days: tuple[int, ...] | None = None
    followed: int = 0
    stake: int = 0
    expire_due: int = 0
    forgotten: int = 0
    request: bytes = b""


_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(Rest).decode
_NO_REST: Final = Rest()
_NO_FOLD: Final = Fold()
_NO_RHYTHM: Final = Rhythm()


def _rest(c: Customer, days: tuple[int, ...] | None) -> tuple[int, bytes]:
    """What ``ROW.rest`` says, and the msgpack. ``days``: the kept days, where they find no room before it."""
    s = c.standing
    counts = bool(
        c.uses
        or c.surveys
        or c.carts
        or c.returns
        or c.lost_at
        or c.satisfaction != -1.0
        or c.satisfaction_at
        or c.signals is not None
        or s.upsell is not None
        or s.cart_due
        or c.last_use
        or c.returned
        or c.used != decay.NONE
        or days is not None
    )
    aside = c.open_since or s.churn is not None or c.others or c.late or c.inquiries
    if not (counts or aside or s.followed or s.stake or s.expire_due or s.forgotten or s.request):
        return NOTHING, b""
    rest = Rest(
        c.open_since,
        s.churn,
        c.others,
        c.late,
        c.inquiries,
        c.returns,
        c.returned,
        c.carts,
        c.uses,
        c.last_use,
        None if c.used == decay.NONE else c.used,
        c.surveys,
        None if c.satisfaction == -1.0 else c.satisfaction,
        c.satisfaction_at,
        c.lost_at,
        # A zero that is no float takes one byte instead of nine.
        None if c.signals is None else Signals(*[value or 0 for value in astuple(c.signals)]),
        s.upsell,
        s.cart_due,
        days,
        s.followed,
        s.stake,
        s.expire_due,
        s.forgotten,
        s.request,
    )
    return COUNTS if counts else ASIDE, _encode(rest)


def pack(c: Customer) -> bytes:
    """A customer as it is stored."""
    s, churn = c.standing, c.standing.churn
    days, base, now = c.rhythm.days, c.rhythm.base, c.rhythm.now
    short: tuple[int, ...] = days
    if len(days) > 1 and days[-1] - days[0] >= _FAR:
        what, rest = _rest(c, days)
        short = ()
    else:
        what, rest = _rest(c, None)
    kept = [len(ring) // DIGEST for ring in c.seen]
    row = _row.pack(
        VERSION,
        s.history,
        len(short),
        len(c.seen_orders) // DIGEST,
        len(c.open_since),
        what,
        churn is not None and c.last_purchase > churn.since,
        s.written_band,
        -1 if churn is None else churn.band,
        *kept,
        *_TOPIC_LENGTHS[len(kept)],
        c.spend,
        c.discount,
        c.first_seen,
        c.last_seen,
        c.first_purchase,
        c.last_purchase,
        c.last_browse,
        c.last_decisive,
        c.closed_at,
        s.at,
        s.look,
        s.complaint_due,
        s.due,
        s.offered,
        s.warned,
        s.snapshot_due,
        s.label_due,
        s.labelled,
        *c.bought,
        *c.browsed,
        c.paid_90,
        c.abandoned,
        base.mean,
        base.variance,
        now.mean,
        now.variance,
        s.written,
        c.events,
        c.orders,
        c.views,
        c.searches,
        c.complaints,
        base.gaps,
        now.gaps,
        s.sequence,
        s.known,
        days[-1] if days else 0,
        days[-1] - days[-2] if len(days) > 1 else 0,
    )
    kept_days = _days[len(short)].pack(*[day % _FAR for day in short])
    return b"".join((row, kept_days, *c.seen, c.seen_orders, rest))


def unpack(raw: bytes, made: type[Customer]) -> Customer:
    """What ``pack`` stored. ``made``: the class of customers, which knows this module and not the reverse."""
    (
        _, history, days_kept, orders_kept, _, what, _, written_band, _, *kept, spend, discount, first_seen, last_seen,
        first_purchase, last_purchase, last_browse, last_decisive, closed_at, decided, look, complaint_due, due,
        offered, warned, snapshot_due, label_due, labelled, bought_7, bought_30, bought_90, browsed_7, browsed_30,
        browsed_90, paid_90, abandoned, base_mean, base_variance, mean, variance, written, events, orders, views,
        searches, complaints, base_gaps, gaps, sequence, known, last_day, _,
    ) = _row.unpack_from(raw)  # fmt: skip
    seen: tuple[bytes, ...] = ()
    at = SIZE + DAY_BYTES * days_kept
    for place, length in enumerate(kept):
        if length:
            end = at + DIGEST * length
            seen = (*seen, *[b""] * (place - len(seen)), raw[at:end])
            at = end
    end = at + DIGEST * orders_kept
    rest = _decode(raw[end:]) if what else _NO_REST
    rhythm = _NO_RHYTHM
    if days_kept or rest.days:
        days = rest.days
        if days is None:
            short = _days[days_kept].unpack_from(raw, SIZE)
            days = tuple([last_day - (last_day - day) % _FAR for day in short])
        rhythm = Rhythm(
            days,
            Fold(base_gaps, base_mean, base_variance),
            Fold(gaps, mean, variance),
        )
    standing = Standing(
        decided, sequence, look, rest.cart_due, complaint_due, due, known, history == 1, written, written_band,
        rest.churn, rest.upsell, offered, warned, snapshot_due, label_due, labelled,
        rest.followed, rest.stake, rest.expire_due, rest.forgotten, rest.request,
    )  # fmt: skip
    return made(
        events, orders, rest.returns, views, searches, rest.carts, rest.uses, complaints, rest.inquiries, rest.surveys,
        rest.others, spend, rest.returned, discount, first_seen, last_seen, first_purchase, last_purchase, last_browse,
        rest.last_use, last_decisive, rhythm, rest.late, (bought_7, bought_30, bought_90),
        (browsed_7, browsed_30, browsed_90), decay.NONE if rest.used is None else rest.used,
        -1.0 if rest.satisfaction is None else rest.satisfaction, rest.satisfaction_at, rest.lost_at, rest.open_since,
        closed_at, seen, raw[at:end], standing, paid_90, abandoned, rest.signals,
    )  # fmt: skip


def ends(rows: Any) -> list[int]:
    """Where what stands behind the rings begins, of each customer."""
    kept = rows["ids_kept"].sum(axis=1, dtype=np.int64) + rows["orders_kept"]
    found: list[int] = (SIZE + DAY_BYTES * rows["days_kept"].astype(np.int64) + DIGEST * kept).tolist()
    return found


def rest(raw: bytes, end: int) -> Rest:
    """What stands there."""
    return _decode(raw[end:])


def rows(stored: list[bytes]) -> Any:
    """The rows of many customers, as an array of ``ROW`` that may be written to."""
    return np.frombuffer(bytearray(b"".join([raw[:SIZE] for raw in stored])), dtype=ROW)
