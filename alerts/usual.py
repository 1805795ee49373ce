"""The usual, for many customers at once.

Nearly everything that arrives is a view, a search or an order by somebody to whom nothing else happens: no deadline
has come, nothing is late, nobody is warned. Here such customers are rows of an array (``features.layout``) and their
events rounds of array operations: the first event of everybody, then the second, ... Whoever turns out to need more
(an alert, an offer, a re-sent event, ...) is given back untouched, and lives its turn in ``alerts.engine``, which is
the meaning of all that is done here: the same bytes leave and the same bytes are stored, whichever way a customer
goes.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from math import exp, log
from typing import Any, Final, NamedTuple, TypeGuard

import numpy as np
from msgspec.structs import replace
from numpy.typing import NDArray
from xxhash import xxh3_64_digest

from alerts import bands, offers
from alerts.ahead import NEVER, Ahead, band_of
from alerts.decide import WARN_AT
from alerts.forgotten import Retention
from alerts.looks import Grid
from alerts.policy import Policy
from alerts.tally import TENTHS, Change
from features import decay, layout, ledger, matrix
from features.cold import HABIT, Cold, abandoned
from features.customer import (
    REMEMBERED,
    Customer,
    pack_cold,
    pack_hot,
    purchased,
    unpack_cold,
    viewed,
)
from features.ledger import Pending
from features.rhythm import WEIGHT, WINDOW
from features.shop import DAY, HOUR, Calendar
from models.churn import ChurnModel, Scores
from streams import events as ev
from streams.codec import Decoded, Tombstone

Ints = NDArray[np.int64]
Bools = NDArray[np.bool_]
Todo = Sequence[tuple[int, int, Decoded]]
"""A customer's events in a turn: place of the record, offset of the one before it, and what it says."""

MOST: Final = 8
"""Events of one customer in a turn; who has more shares the cost of being loaded among them."""
FEWEST: Final = 24
"""Customers for whom arrays are worth while."""
_ROUND: Final = 8
_EXACT: Final = 2**52
_VIEW, _SEARCH, _PURCHASE = range(3)
_KINDS: Final[dict[type, int]] = {ev.View: _VIEW, ev.Search: _SEARCH, ev.Purchase: _PURCHASE}
_RATES: Final = tuple(log(2) / (days * DAY) for days in decay.HALF_LIVES)
_VALUE_HALF_LIFE: Final = 90.0
_FULL: Final = layout.DIGEST * REMEMBERED
_FAR: Final = 65_000 * DAY
_NEW: Final = pack_hot(Customer())


class Chosen(NamedTuple):
    """Customers of one partition who may be usual, and their events."""

    clock: int
    bound: int
    ring: int
    keys: list[bytes]
    todos: list[Todo]
    hot: list[bytes | None]
    cold: Mapping[bytes, bytes | None]


class Written(NamedTuple):
    """A score to be written: place of what caused it, customer, probability, band, instant."""

    place: int
    key: bytes
    churn: float
    band: int
    at: int


class Lived(NamedTuple):
    """What became of the customers of one partition. ``left``: who is to live a turn of its own, untouched."""

    left: list[int]
    hot: dict[bytes, bytes]
    cold: dict[bytes, bytes]
    deadlines: dict[bytes, int]
    written: list[Written]
    change: Change
    decisions: int = 0
    fired: int = 0
    looks: int = 0


class Usual:
    """One policy, one model, one calendar. ``known``: the fingerprint of what decides."""

    def __init__(
        self,
        policy: Policy,
        grid: Grid,
        model: ChurnModel,
        ahead: Ahead,
        calendar: Calendar,
        known: int,
        snapshots: int,
        horizons: tuple[int, ...],
        retention: Retention,
    ) -> None:
        """``snapshots``: microseconds between snapshots, 0 if nothing is learned; ``horizons``: of the labels;
        ``retention``: for how long who is silent is kept."""
        self.policy = policy
        self.grid = grid
        self.model = model
        self.ahead = ahead
        self.calendar = calendar
        self.known = known
        self.step = snapshots
        self.horizons = horizons
        self.retention = retention
        self.lapsed = round(policy.lapsed_days * DAY)
        self.overdue = round(policy.complaint_overdue_hours * HOUR)
        self.pause = policy.offer_pause_days * DAY

    def turns(self, chosen: Sequence[Chosen], fewest: int = FEWEST) -> list[Lived]:
        """What becomes of the customers of different partitions; each is what it would be alone. ``fewest``: for so
        many customers another round is worth while."""
        return _Turn(self, chosen).run(fewest)

    def timers(self, chosen: Chosen, silent: Callable[[int], bool]) -> Lived:
        """What becomes of customers with deadlines up to ``chosen.bound``, of whom nothing has arrived. ``silent``:
        whether looks at an instant are held."""
        (lived,) = _Turn(self, [chosen]).fire(silent)
        return lived


def usual(todo: Sequence[tuple[int, int, Decoded | Tombstone]]) -> TypeGuard[Todo]:
    """Whether the events of a customer are of the usual kinds."""
    if len(todo) > MOST:
        return False
    for _, _, item in todo:
        if type(item) is not Decoded:
            return False
        event = item.event
        kind = _KINDS.get(type(event))
        if kind is None or event.history:
            return False
        if kind == _PURCHASE:
            for line in event.lines:  # type: ignore[union-attr]
                if line.amount > 0:
                    break
            else:
                return False
        elif kind == _SEARCH and event.results == 0:  # type: ignore[union-attr]
            return False
    return True


class _Entry(NamedTuple):
    """What was known after an event, for a look ahead: of which customers, after which instants, ..."""

    who: Ints
    facts: matrix.Floats
    decisive: Ints
    after: Ints
    soon: Ints
    offer: Ints
    afresh: Bools


class _Turn:
    """Some customers on their way through their events; those with most events stand first."""

    def __init__(self, shared: Usual, chosen: Sequence[Chosen]) -> None:
        self.shared = shared
        self.chosen = chosen
        order = [
            (len(todo), part, place)
            for part, one in enumerate(chosen)
            for place, todo in enumerate(one.todos)
        ]
        order.sort(key=lambda each: -each[0])
        self.order = order
        self.keys = [chosen[part].keys[place] for _, part, place in order]
        self.todos = [chosen[part].todos[place] for _, part, place in order]
        stored = [chosen[part].hot[place] for _, part, place in order]
        self.new = [raw is None for raw in stored]
        self.raw = [raw or _NEW for raw in stored]
        self.cold: list[bytes | None] = [
            chosen[part].cold.get(key) for (_, part, _), key in zip(order, self.keys, strict=True)
        ]
        self.cold_sizes = [len(raw or b"") for raw in self.cold]
        self.sizes = [size for size, _, _ in order]
        self.rows = layout.rows(self.raw)
        self.count = len(order)
        parts = np.array([part for _, part, _ in order])
        self.clock = np.array([one.clock for one in chosen])[parts]
        self.bound = np.array([one.bound for one in chosen])[parts]
        self.ring = np.array([one.ring for one in chosen])[parts]
        # Who needs a turn of its own.
        self.left = np.zeros(self.count, dtype=bool)
        self.stagger = shared.grid.staggers(self.keys)
        self.tails = [raw[layout.SIZE :] for raw in self.raw]
        self.grown = [False] * self.count
        self.promising = np.zeros(self.count, dtype=bool)
        self.habits: list[Cold | None] = [None] * self.count
        self.waits: dict[int, tuple[tuple[Pending, ...], tuple[Pending, ...]]] = {}
        self.written: list[tuple[int, Written]] = []
        self.decided = np.zeros(self.count, dtype=np.int64)

        self.fired = np.zeros(self.count, dtype=np.int64)
        self.looked = np.zeros(self.count, dtype=np.int64)
        self.cart_due = np.zeros(self.count, dtype=np.int64)
        self.expire_due = np.zeros(self.count, dtype=np.int64)
        self.carts = np.zeros(self.count, dtype=np.int64)
        self.followed = np.zeros(self.count, dtype=np.int64)
        self.forgotten = np.zeros(self.count, dtype=np.int64)
        self.was = self._places()
        self.left |= self.rows["history"] > 0
        self.left |= np.maximum(self.rows["spend"], self.rows["discount"]) > _EXACT
        self._set_aside()
        self.stored = self.rows["look"].copy()

    def run(self, fewest: int) -> list[Lived]:
        """All rounds, then the look ahead."""
        left = self.left
        sizes = self.sizes
        entries: list[_Entry] = []
        rounds = sizes[0]
        for number in range(rounds):
            count = next((place for place, size in enumerate(sizes) if size <= number), len(sizes))
            if number and count < min(fewest, _ROUND):
                left[:count] = True
                break
            entries += self._round(number, count)
        self._keep_until()
        self._look_far(entries)
        return self._lived()

    def _keep_until(self) -> None:
        """Whoever is given another deadline by the shop's retention is left."""
        rows, retention = self.rows, self.shared.retention
        if any(retention):
            keep = np.where(rows["orders"] > 0, retention.lapsed, retention.prospects)
            until = np.where(keep > 0, rows["last_seen"] + keep, 0)
            self.left |= np.where(self.expire_due == 0, until != 0, until < self.expire_due)
        else:
            self.left |= self.expire_due > 0

    def fire(self, silent: Callable[[int], bool]) -> list[Lived]:
        """The one deadline of each that has come: a look, or a snapshot."""
        rows, left, shared = self.rows, self.left, self.shared
        until = self.bound
        due = {
            name: (instants > 0) & (instants <= until)
            for name, instants in (
                ("look", rows["look"]),
                ("complaint", rows["complaint_due"]),
                ("snapshot", rows["snapshot_due"]),
                ("label", rows["label_due"]),
                ("cart", self.cart_due),
                ("expire", self.expire_due),
            )
        }
        left |= (
            due["complaint"] | due["label"] | due["cart"] | due["expire"] | (due["look"] == due["snapshot"])
        )
        rows["due"] = 0
        snapped = np.flatnonzero(due["snapshot"] & ~left)
        if len(snapped):
            self._snapshot(snapped)
        who = np.flatnonzero(due["look"] & ~left)
        if len(who):
            at = rows["look"][who].copy()
            left[who[(rows["known"][who] != shared.known) | (at < rows["at"][who])]] = True
            # The answer is the same within an hour of the shop's, and time zones are quarters of one apart.
            quarters, which = np.unique(at // (HOUR // 4), return_inverse=True)
            held = np.array([silent(quarter * (HOUR // 4)) for quarter in quarters.tolist()])
            left[who[held[which]]] = True
            self.fired[who] += 1
            self.looked[who] += 1
            following = shared.grid.nexts(rows["last_decisive"][who], self.stagger[who], at)
            left[who[following <= until[who]]] = True
            some = ~left[who]
            who, at, following = who[some], at[some], following[some]
            if len(who):
                for place in who[self._screened(who)].tolist():
                    cold = self.habits[place] = self._habits(place)
                    self.promising[place] = offers.promising(cold)
                self._decide(who, at, at.tolist(), silent=True)
                some = ~left[who]
                who, at = who[some], at[some]
                rows["look"][who] = following[some]
                self.stored[who] = 0
                entry = self._entry(who, at, np.zeros_like(at), np.ones(len(who), dtype=bool))
                self._look_far([entry])
        return self._lived()

    def _snapshot(self, who: Ints) -> None:
        """Remembers what is known of each at its instant until its labels mature."""
        rows, left, shared = self.rows, self.left, self.shared
        at = rows["snapshot_due"][who].copy()
        one = rows[who]
        left[who[(at - one["last_purchase"] > shared.lapsed) | (one["last_seen"] > at)]] = True
        some = ~left[who]
        who, at = who[some], at[some]
        if not len(who):
            return
        x = matrix.at_instants(self._facts(who, at), at, matrix.EVERY)
        kept = np.ascontiguousarray(np.array(x).T.astype("<f4"))
        self.fired[who] += 1
        until = self.bound
        for place, (customer, instant) in enumerate(zip(who.tolist(), at.tolist(), strict=True)):
            cold = self._habits(customer)
            pending = (*cold.pending[1 - ledger.MOST :], Pending(instant, 0, 0, kept[place].tobytes()))
            self.cold[customer] = pack_cold(replace(cold, pending=pending))
            self.waits[customer] = (cold.pending, pending)
            self.grown[customer] = True
            apart = int(self.stagger[customer]) * shared.step // shared.grid.step
            following = ledger.following(instant, apart, shared.step)
            label = ledger.waiting(pending, shared.horizons, int(rows["labelled"][customer]))
            if following <= until[customer] or 0 < label <= until[customer]:
                left[customer] = True
            rows["snapshot_due"][customer] = following
            rows["label_due"][customer] = label

    def _places(self) -> tuple[Ints, Ints, Ints]:
        """Of each the stage of life, the band and the tenth of the score last written (-1: none), as
        ``alerts.tally.Place`` has them."""
        rows = self.rows
        orders, band = rows["orders"], rows["written_band"].astype(np.int64)
        stage = np.select(
            [orders == 0, band == bands.LAPSED, rows["churn_band"] >= 0, orders == 1], [0, 4, 3, 1], default=2
        )
        tenths = np.minimum((rows["written"] * TENTHS).astype(np.int64), TENTHS - 1)
        return stage, band, np.where(band >= 0, tenths, -1)

    @staticmethod
    def _moved(change: Change, places: tuple[Ints, Ints, Ints], some: Bools, count: int) -> None:
        """Adds (or takes, with ``count`` -1) where some stand; what is at stake does not change."""
        change.customers += count * int(some.sum())
        for numbers, where in zip((change.stages, change.bands, change.tenths), places, strict=True):
            found = where[some]
            for place, n in enumerate(np.bincount(found[found >= 0], minlength=len(numbers)).tolist()):
                numbers[place] += count * n

    def _set_aside(self) -> None:
        """What some customers have beside their rows."""
        rows = self.rows
        self.opened: dict[int, tuple[int, ...]] = {}
        found: list[matrix.Beside | None] = [None] * self.count
        ends = layout.ends(rows)
        for place in np.flatnonzero(rows["rest"] != layout.NOTHING).tolist():
            rest = layout.rest(self.raw[place], ends[place])
            if rest.open_since:
                self.opened[place] = rest.open_since
            if rest.upsell is not None or rest.days is not None:
                self.left[place] = True
            self.cart_due[place] = rest.cart_due
            self.expire_due[place] = rest.expire_due
            self.carts[place] = rest.carts
            self.followed[place] = rest.followed
            self.forgotten[place] = rest.forgotten
            found[place] = matrix.Beside(
                -1.0 if rest.satisfaction is None else rest.satisfaction,
                rest.lost_at,
                rest.last_use,
                rest.used or decay.NONE,
                rest.signals or matrix.Beside().signals,
            )
        self.more = matrix.beside(found)

    def _overdue(self, who: Ints, at: Ints) -> matrix.Floats:
        """How many complaints of each are overdue at its instant."""
        found = np.zeros(len(who))
        if self.opened:
            wait = self.shared.overdue
            for place in np.flatnonzero(self.rows["open"][who] > 0).tolist():
                instant = int(at[place])
                found[place] = sum(1 for since in self.opened[int(who[place])] if instant - since >= wait)
        return found

    def _facts(self, who: Ints, at: Ints) -> matrix.Floats:
        return matrix.columns(self.rows[who], self.more[:, who], self._overdue(who, at))

    def _deadline(self, some: slice) -> Ints:
        """The earliest deadline of each (``NEVER``: none)."""
        rows = self.rows[some]
        earliest = np.full(len(rows), NEVER)
        for due in (
            rows["look"],
            rows["complaint_due"],
            rows["snapshot_due"],
            rows["label_due"],
            self.cart_due[some],
            self.expire_due[some],
        ):
            np.minimum(earliest, np.where(due > 0, due, NEVER), out=earliest)
        return earliest

    def _round(self, number: int, count: int) -> list[_Entry]:
        """Event ``number`` of the first ``count`` customers."""
        some = slice(0, count)
        rows, left, shared = self.rows[some], self.left[some], self.shared
        items = [todo[number] for todo in self.todos[:count]]
        at = np.array([item.at for _, _, item in items])
        kind = np.array([_KINDS[type(item.event)] for _, _, item in items])
        left |= (at < rows["last_seen"]) | (at < rows["at"])
        left |= at < self.clock[some]
        left |= self._deadline(some) <= np.minimum(at, self.bound[some])
        snapshot = rows["snapshot_due"]
        left |= (snapshot > 0) & (snapshot < at)
        buys = kind == _PURCHASE
        left |= buys & ((rows["churn_band"] >= 0) | (self.cart_due[some] > 0) | (self.followed[some] > 0))
        left |= at <= self.forgotten[some]
        left |= buys & (rows["known"] != shared.known) & (rows["at"] > 0)
        # Days kept further apart than this stand elsewhere.
        left |= buys & (rows["first_purchase"] > 0) & (at - rows["first_purchase"] > _FAR)

        rows["events"] += 1
        rows["first_seen"] = np.where(rows["first_seen"] == 0, at, rows["first_seen"])
        rows["last_seen"] = at
        looked = np.flatnonzero(~buys & ~left)
        rows["views"][kind == _VIEW] += 1
        rows["searches"][kind == _SEARCH] += 1
        since = rows["last_browse"][looked]
        rows["browsed"][looked] = self._one_more(rows["browsed"][looked], since, at[looked])
        rows["last_browse"][looked] = at[looked]
        bought = np.flatnonzero(buys & ~left)
        if len(bought):
            self._buy(bought, at[bought], [items[place][2] for place in bought.tolist()])
        self._keep(number, items, buys)

        entries = []
        if len(bought):
            bought = bought[~left[bought]]
            self._decide(bought, at[bought], [items[place][0] for place in bought.tolist()])
            bought = bought[~left[bought]]
            entries.append(self._decisive(bought, at[bought]))
        looked = looked[~left[looked] & (rows["orders"][looked] > 0)]
        if len(looked):
            entries.append(self._sooner(looked, at[looked], items))
        return entries

    @staticmethod
    def _one_more(counters: matrix.Floats, since: Ints, at: Ints) -> matrix.Floats:
        """``features.decay.add``, with the same exponential."""
        passed = (since - at).astype(np.float64)
        for place, rate in enumerate(_RATES):
            counters[:, place] = counters[:, place] * np.array(list(map(exp, (passed * rate).tolist()))) + 1.0
        return counters

    def _buy(self, who: Ints, at: Ints, items: Sequence[Decoded]) -> None:
        """The rows after a purchase of each."""
        rows, left = self.rows, self.left
        one = rows[who]
        one["orders"] += 1
        one["spend"] += np.array([item.minor for item in items])
        one["discount"] += np.array([item.discount for item in items])
        left[who[np.maximum(one["spend"], one["discount"]) > _EXACT]] = True
        since = one["last_purchase"].copy()
        one["bought"] = self._one_more(one["bought"].copy(), since, at)
        passed = (at - since).astype(np.float64)
        faded = np.array(list(map(exp, (-log(2) * passed / (_VALUE_HALF_LIFE * DAY)).tolist())))
        one["paid_90"] = one["paid_90"] * faded + np.array([item.minor for item in items])
        one["first_purchase"] = np.where(one["first_purchase"] == 0, at, one["first_purchase"])
        one["last_purchase"] = at
        one["last_decisive"] = np.maximum(one["last_decisive"], at)
        self._day(who, one, [self._calendar_day(item.at) for item in items])
        rows[who] = one

    def _calendar_day(self, at: int) -> int:
        return self.shared.calendar.local(at) // DAY

    def _day(self, who: Ints, one: Any, days: list[int]) -> None:
        """The rhythm after a purchase day of each; see ``features.rhythm``."""
        day = np.array(days)
        kept = one["days_kept"].copy()
        gap = day - one["last_day"]
        first = kept == 0
        self.left[who[~first & (gap < 0)]] = True
        later = np.flatnonzero(~first & (gap > 0))
        apart = gap[later]
        gaps, mean, variance = _folded(one["gaps"][later], one["mean"][later], one["variance"][later], apart)
        one["gaps"][later], one["mean"][later], one["variance"][later] = gaps, mean, variance
        one["last_gap"][later] = apart
        one["last_day"][first | (gap > 0)] = day[first | (gap > 0)]
        whole = later[kept[later] == WINDOW]
        if len(whole):
            oldest = []
            for place in whole.tolist():
                tail = self.tails[int(who[place])]
                earlier, then = tail[0] + 256 * tail[1], tail[2] + 256 * tail[3]
                oldest.append((then - earlier) % 65536)
            base = _folded(
                one["base_gaps"][whole],
                one["base_mean"][whole],
                one["base_variance"][whole],
                np.array(oldest),
            )
            one["base_gaps"][whole], one["base_mean"][whole], one["base_variance"][whole] = base
        kept_now = np.where(first | (gap > 0), np.minimum(kept + 1, WINDOW), kept)
        one["days_kept"] = kept_now
        for place in np.flatnonzero(first | (gap > 0)).tolist():
            customer = int(who[place])
            tail = self.tails[customer]
            end = 2 * int(kept[place])
            begin = 2 if kept[place] == WINDOW else 0
            self.tails[customer] = tail[begin:end] + (days[place] % 65536).to_bytes(2, "little") + tail[end:]

    def _keep(self, number: int, items: Sequence[tuple[int, int, Decoded]], buys: Bools) -> None:
        """What is of no fixed width: the remembered ids, and the cold parts."""
        left, tails, habits = self.left, self.tails, self.habits
        count = len(items)
        rows, calendar = self.rows[:count], self.shared.calendar
        # Where in what stands behind the row the ring of the topic lies, and that of orders.
        each = np.arange(count)
        ring = self.ring[:count]
        upto = np.cumsum(rows["ids_kept"], axis=1, dtype=np.int64)
        days = layout.DAY_BYTES * rows["days_kept"].astype(np.int64)
        ids, orders = rows["ids_kept"][each, ring].astype(np.int64), rows["orders_kept"].astype(np.int64)
        ends = days + layout.DIGEST * upto[each, ring]
        begins = ends - layout.DIGEST * ids
        firsts = days + layout.DIGEST * upto[:, -1]
        lasts = firsts + layout.DIGEST * orders
        # Nobody has a habit before it was bought often enough.
        often = (rows["orders"] >= HABIT).tolist()
        screened = self._screened(slice(0, count)).tolist()
        for place, (out, (_, _, item), begin, end, first, last) in enumerate(
            zip(
                left[:count].tolist(),
                items,
                begins.tolist(),
                ends.tolist(),
                firsts.tolist(),
                lasts.tolist(),
                strict=True,
            )
        ):
            if out:
                continue
            event = item.event
            tail = tails[place]
            digest = xxh3_64_digest(event.id.encode("utf-8", "surrogatepass"))
            if tail.find(digest, begin, end) >= 0:
                left[place] = True
                continue
            kind = type(event)
            if kind is ev.Purchase:
                assert isinstance(event, ev.Purchase)
                order = xxh3_64_digest((event.order or event.id).encode("utf-8", "surrogatepass"))
                cold = habits[place]
                if cold is None:
                    cold = unpack_cold(self.cold[place])
                if cold.cart or tail.find(order, first, last) >= 0:
                    left[place] = True
                    continue
                if last - first == _FULL:
                    first += layout.DIGEST
                    tail = tail[: first - layout.DIGEST] + tail[first:last] + order + tail[last:]
                else:
                    tail = tail[:last] + order + tail[last:]
                cold = purchased(cold, event, item.at, calendar)
                self._keep_habits(place, number, cold, screened=screened[place])
                if often[place]:
                    rows["abandoned"][place] = abandoned(cold.basket, item.at)
            elif kind is ev.View:
                assert isinstance(event, ev.View)
                if event.category or event.sku:
                    cold = habits[place]
                    if cold is None:
                        cold = unpack_cold(self.cold[place])
                    cold = viewed(cold, event, item.at)
                    self._keep_habits(place, number, cold, screened=screened[place])
            if end - begin == _FULL:
                tails[place] = tail[:begin] + tail[begin + layout.DIGEST : end] + digest + tail[end:]
            else:
                tails[place] = tail[:end] + digest + tail[end:]
        kept = ~left[:count]
        rows["ids_kept"][each[kept], ring[kept]] = np.minimum(ids[kept] + 1, REMEMBERED)
        kept &= buys
        rows["orders_kept"][kept] = np.minimum(orders[kept] + 1, REMEMBERED)

    def _habits(self, place: int) -> Cold:
        """A customer's cold part."""
        cold = self.habits[place]
        return unpack_cold(self.cold[place]) if cold is None else cold

    def _keep_habits(self, place: int, number: int, cold: Cold, *, screened: bool) -> None:
        """A customer's cold part after event ``number``, and whether something might be offered. It is packed at
        once, while it is at hand, where no more comes and nobody asks for it."""
        self.grown[place] = True
        self.promising[place] = promising = screened and offers.promising(cold)
        if promising or number < self.sizes[place] - 1:
            self.habits[place] = cold
        else:
            self.cold[place], self.habits[place] = pack_cold(cold), None

    def _screened(self, who: slice | Ints) -> Bools:
        """Those to whom something might be offered now or later, as far as can be told without their habits."""
        rows = self.rows[who]
        # No category weighs more than all that was browsed, with the same half-life; whoever never put anything into
        # a cart has nothing in it.
        some: Bools = (rows["orders"] >= offers.DUE_EVENTS) | (rows["browsed"][:, 0] >= offers.VIEWS - 1e-3)
        return some | (self.carts[who] > 0)

    def _decide(self, who: Ints, at: Ints, places: Sequence[int], *, silent: bool = False) -> None:
        """A decision for each at its instant; whoever has more to say than a score is left. ``silent``: a look, which
        leaves no trace where it has nothing to say."""
        rows, left, policy = self.rows, self.left, self.shared.policy
        if not len(who):
            return
        x = matrix.at_instants(self._facts(who, at), at, self.shared.model.needs)
        scores: Scores = self.shared.model.score(x)
        held = rows["churn_band"][who].astype(np.float64)
        band = band_of(scores.churn, scores.alive, x.recency, policy, np.maximum(held, bands.LOW))
        warns = (band >= WARN_AT[policy.warn_at]) & (band < bands.LAPSED) & (scores.rise >= policy.rise)
        says = np.where(held >= 0, (band != held) | (rows["bought_since"][who] > 0), warns)
        says |= band >= bands.LAPSED
        offered = rows["offered"][who]
        open_to = (
            (rows["open"][who] == 0)
            & (band < bands.HIGH)
            & ((offered == 0) | (at - offered >= self.shared.pause))
        )
        for place in np.flatnonzero(open_to & ~says & self.promising[who]).tolist():
            customer = int(who[place])
            known = Customer(last_purchase=int(rows["last_purchase"][customer]))
            if offers.candidates(known, self._habits(customer), int(at[place]), policy):
                says[place] = True
        left[who[says]] = True
        writes = (band != rows["written_band"][who]) | (
            np.abs(scores.churn - rows["written"][who]) >= policy.score_change
        )
        self.decided[who] += 1
        writes &= ~says
        for place in np.flatnonzero(writes).tolist():
            customer = int(who[place])
            churn = float(scores.churn[place])
            self.written.append(
                (
                    customer,
                    Written(places[place], self.keys[customer], churn, int(band[place]), int(at[place])),
                )
            )
        one = rows[who]
        one["written"] = np.where(writes, scores.churn, one["written"])
        one["written_band"] = np.where(writes, band, one["written_band"])
        one["at"] = np.where(writes, at, one["at"]) if silent else at
        one["known"] = self.shared.known
        rows[who] = one

    def _decisive(self, who: Ints, at: Ints) -> _Entry:
        """What follows from a decision-point event."""
        rows, shared = self.rows, self.shared
        clock = self.clock[who]
        after = np.maximum(at, clock)
        one = rows[who]
        if shared.step:
            for place in np.flatnonzero(one["snapshot_due"] == 0).tolist():
                labelled = int(after[place])
                apart = int(self.stagger[who[place]]) * shared.step // shared.grid.step
                one["labelled"][place] = labelled
                one["snapshot_due"][place] = ledger.following(labelled, apart, shared.step)
        one["look"] = shared.grid.nexts(one["last_decisive"], self.stagger[who], after)
        rows[who] = one
        self.stored[who] = 0
        return self._entry(who, after, np.zeros_like(after), np.ones(len(who), dtype=bool))

    def _sooner(self, who: Ints, at: Ints, items: Sequence[tuple[int, int, Decoded]]) -> _Entry:
        """What follows from an event that is no decision point."""
        rows, shared = self.rows, self.shared
        after = np.maximum(np.maximum(rows["at"][who], self.clock[who]), at)
        soon = shared.grid.nexts(at, self.stagger[who], after)
        look = rows["look"][who]
        none = look == 0
        self.stored[who[none]] = soon[none]
        rows["look"][who] = np.where(none, soon, np.minimum(look, soon))
        touched = np.array(
            [
                type(event) is ev.View and bool(event.category or event.sku)
                for event in [items[place][2].event for place in who.tolist()]
            ]
        )
        return self._entry(who, after, soon, np.zeros(len(who), dtype=bool), touched)

    def _entry(
        self, who: Ints, after: Ints, soon: Ints, afresh: Bools, touched: Bools | None = None
    ) -> _Entry:
        rows, policy = self.rows, self.shared.policy
        offer = np.full(len(who), NEVER)
        some = (rows["open"][who] == 0) & self.promising[who]
        if touched is not None:
            some &= touched
        for place in np.flatnonzero(some).tolist():
            customer = int(who[place])
            given = int(rows["offered"][customer])
            paused = round(given + policy.offer_pause_days * DAY) if given else 0
            known = Customer(last_purchase=int(rows["last_purchase"][customer]))
            begins = max(int(after[place]), paused)
            offer[place] = offers.earliest(known, self._habits(customer), begins, policy) or NEVER
        return _Entry(who, self._facts(who, after), rows["last_decisive"][who], after, soon, offer, afresh)

    def _look_far(self, entries: Sequence[_Entry]) -> None:
        """Puts each look to the first instant at which it may have something to say."""
        rows = self.rows
        if not entries:
            return
        who = np.concatenate([each.who for each in entries])
        # What was known before a decision-point event is no longer true.
        turn = np.repeat(np.arange(len(entries)), [len(each.who) for each in entries])
        afresh = np.concatenate([each.afresh for each in entries])
        newest = np.full(self.count, -1)
        np.maximum.at(newest, who[afresh], turn[afresh])
        valid = np.flatnonzero((turn >= newest[who]) & ~self.left[who])
        if not len(valid):
            return
        who = who[valid]

        def of(name: str) -> Any:
            return np.concatenate([getattr(each, name) for each in entries], axis=-1)[..., valid]

        looks = self.shared.ahead.instants(
            of("facts"),
            [
                (of("decisive") + self.stagger[who]).astype(np.float64),
                of("after").astype(np.float64),
                of("soon").astype(np.float64),
                rows["written"][who],
                rows["written_band"][who].astype(np.float64),
                rows["churn_band"][who].astype(np.float64),
                np.full(len(who), -1.0),
                of("offer").astype(np.float64),
                rows["history"][who].astype(np.float64),
            ],
        )
        best = np.where(self.stored > 0, self.stored, NEVER)
        np.minimum.at(best, who, looks)
        rows["look"][who] = best[who]

    def _lived(self) -> list[Lived]:
        """What is to be stored and what leaves, by partition."""
        rows = self.rows
        deadline = self._deadline(slice(None))
        changed = ((deadline < NEVER) & (deadline != rows["due"])).tolist()
        rows["due"] = np.where(changed, deadline, rows["due"])
        buffer = rows.tobytes()
        size = layout.SIZE
        found = [Lived([], {}, {}, {}, [], Change()) for _ in self.chosen]
        left, deadlines, tails = self.left.tolist(), deadline.tolist(), self.tails
        for place, (_, part, index) in enumerate(self.order):
            lived = found[part]
            if left[place]:
                lived.left.append(index)
                continue
            key = self.keys[place]
            hot = lived.hot[key] = buffer[place * size : (place + 1) * size] + tails[place]
            lived.change.hot += len(hot) - (0 if self.new[place] else len(self.raw[place]))
            if self.grown[place]:
                held = self.habits[place]
                cold = lived.cold[key] = (self.cold[place] or b"") if held is None else pack_cold(held)
                lived.change.cold += len(cold) - self.cold_sizes[place]
            if changed[place]:
                lived.deadlines[key] = deadlines[place]
        for place, written in self.written:
            if not left[place]:
                found[self.order[place][1]].written.append(written)
        parts = np.array([part for _, part, _ in self.order])
        for place, (known, pending) in self.waits.items():
            if not left[place]:
                found[self.order[place][1]].change.waits(known, pending)
        stayed = [(parts == part) & ~self.left for part in range(len(found))]
        now = self._places()
        for lived, some in zip(found, stayed, strict=True):
            self._moved(lived.change, self.was, some & ~np.array(self.new), -1)
            self._moved(lived.change, now, some, 1)
        return [
            lived._replace(
                decisions=int(self.decided[some].sum()),
                fired=int(self.fired[some].sum()),
                looks=int(self.looked[some].sum()),
            )
            for lived, some in zip(found, stayed, strict=True)
        ]


def _folded(gaps: Any, mean: Any, variance: Any, days: Any) -> tuple[Any, Any, Any]:
    """``features.rhythm.Fold.add`` of many, with the same logarithm."""
    n = gaps + 1
    weight = np.maximum(WEIGHT, 1.0 / n)
    d = np.array([log(each) for each in days.tolist()]) - mean
    return n, mean + weight * d, (1.0 - weight) * (variance + weight * d * d)
