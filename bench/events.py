"""The events that every engine reads: seeded, in the order of time, valid by the contract.

``uniform`` and ``zipf``: 201 bytes each, 30 % purchases of one line, 65 % views, 5 % complaints, as in the sketches
that set the targets. ``mix``: visits of some views, of which every second ends with an order of eight lines, and a
complaint now and then.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal, NamedTuple, get_args

import numpy as np
from numpy.typing import NDArray

from streams.codec import CLOCK_KEY, encode_clock
from streams.events import rfc3339

Kind = Literal["uniform", "zipf", "mix"]
KINDS: tuple[Kind, ...] = get_args(Kind)

CUSTOMERS = 50_000
SIZE = 201
"""Bytes of every event of ``uniform`` and ``zipf``."""
ZIPF = 1.1
START = 1_767_312_000_000_000
"""2026-01-02T00:00:00Z, in microseconds since the epoch."""
SECOND = 1_000_000
DAY = 86_400 * SECOND
SPACING = 4 * SECOND
"""Between two events of ``uniform`` and ``zipf``: 21,600 a day, as in the sketches that set the targets."""
LINES = 8
VIEWS = 5
"""Views of a visit, on average; every second visit ends with an order: ten views to a purchase."""
COMPLAINED = 0.02
"""Share of the orders that are complained about."""
VISIT_EVERY = 10 * DAY
"""How often a customer of ``mix`` visits, on average."""


class Row(NamedTuple):
    """One record: the instant of its event, key and value; the key of a clock record is ``clock``."""

    at: int
    key: bytes
    value: bytes


@dataclass(frozen=True)
class Events:
    """``count`` events of one kind; a clock record stands at each midnight and at the end."""

    kind: Kind
    count: int
    customers: int = CUSTOMERS
    seed: int = 7

    def rows(self) -> Iterator[Row]:
        """All events in the order of time, without the clock."""
        rng = np.random.default_rng(self.seed)
        return self._mix(rng) if self.kind == "mix" else self._flat(rng)

    def with_clock(self) -> Iterator[Row]:
        """The events, and a clock record (for every partition) at each midnight between them and at the end."""
        midnight = START
        at = START
        for row in self.rows():
            at = row.at
            while at >= midnight:
                yield Row(midnight, CLOCK_KEY, encode_clock(midnight, history=False))
                midnight += DAY
            yield row
        yield Row(at, CLOCK_KEY, encode_clock(at, history=False))

    def chosen(self, rng: np.random.Generator, count: int) -> NDArray[np.int64]:
        """Which customers, by number: as often as the kind has it."""
        if self.kind != "zipf":
            return rng.integers(0, self.customers, count)
        weight = 1.0 / np.arange(1, self.customers + 1) ** ZIPF
        ranks = rng.choice(self.customers, count, p=weight / weight.sum())
        return rng.permutation(self.customers)[ranks]

    def _flat(self, rng: np.random.Generator) -> Iterator[Row]:
        who = self.chosen(rng, self.count).tolist()
        what = rng.choice(len(_FLAT), self.count, p=[share for share, _ in _FLAT]).tolist()
        cents = rng.integers(1_000, 10_000, self.count).tolist()
        skus = rng.integers(0, 5_000, self.count).tolist()
        at = START
        for i in range(self.count):
            at += SPACING
            customer = b"c%d" % (100_000 + who[i])
            _, make = _FLAT[what[i]]
            yield Row(at, customer, make(i, customer, rfc3339(at).encode(), skus[i], cents[i]))

    def _mix(self, rng: np.random.Generator) -> Iterator[Row]:
        """Visits at random instants; what belongs to a visit lies within an hour of its beginning."""
        # Cut at the end: somewhat more visits than it takes.
        visits = round(self.count / (VIEWS + 0.5) * 1.05) + 20
        span = visits * VISIT_EVERY / self.customers
        begins = START + rng.uniform(0, span, visits)
        who = self.chosen(rng, visits)
        views = rng.poisson(VIEWS - 1, visits) + 1
        buys = rng.random(visits) < 0.5
        moments: list[tuple[int, int, str]] = []
        for begin, customer, looked, bought in zip(
            begins.tolist(), who.tolist(), views.tolist(), buys.tolist(), strict=True
        ):
            at = int(begin) // SECOND * SECOND
            for _ in range(looked):
                moments.append((at, customer, "view"))
                at += 90 * SECOND
            if bought:
                moments.append((at, customer, "purchase"))
                if rng.random() < COMPLAINED:
                    moments.append((at + DAY // 2, customer, "complaint"))
        moments.sort()
        skus = rng.integers(0, 5_000, (len(moments), LINES)).tolist()
        cents = rng.integers(100, 10_000, (len(moments), LINES)).tolist()
        for i, (at, number, what) in enumerate(moments[: self.count]):
            customer = b"c%d" % (100_000 + number)
            yield Row(at, customer, _MAKE[what](i, customer, rfc3339(at).encode(), skus[i], cents[i]))


def _view(i: int, customer: bytes, time: bytes, skus: list[int], _: list[int]) -> bytes:
    return (
        b'{"type":"view","id":"%09d","customer":"%b","time":"%b","sku":"sku-%04d","category":"cat-%02d",'
        b'"channel":"web","device":"phone"}' % (i, customer, time, skus[0], skus[0] % 40)
    )


def _order(i: int, customer: bytes, time: bytes, skus: list[int], cents: list[int]) -> bytes:
    lines = b",".join(
        b'{"sku":"sku-%04d","category":"cat-%02d","quantity":1,"amount":%d.%02d}'
        % (s, s % 40, *divmod(c, 100))
        for s, c in zip(skus, cents, strict=True)
    )
    head = b'{"type":"purchase","id":"%09d","customer":"%b","time":"%b","order":"o-%09d",' % (
        i,
        customer,
        time,
        i,
    )
    return head + b'"channel":"web","lines":[%b]}' % lines


def _complaint(i: int, customer: bytes, time: bytes, skus: list[int], _: list[int]) -> bytes:
    return (
        b'{"type":"complaint","id":"%09d","customer":"%b","time":"%b","complaint":"k-%09d","kind":"delivery",'
        b'"sku":"sku-%04d","channel":"phone","text":"It came late and the box was open."}'
        % (i, customer, time, i, skus[0])
    )


def small_order(i: int, customer: bytes, time: bytes, sku: int, cents: int) -> bytes:
    """A purchase of one line, between 10.00 and 99.99."""
    return (
        b'{"type":"purchase","id":"%08d","customer":"%b","time":"%b","order":"o-%09d",'
        b'"channel":"web","lines":[{"sku":"sku-%04d","category":"cat-%02d","quantity":1,"amount":%d.%02d}]}'
        % (i, customer, time, i, sku, sku % 40, *divmod(cents, 100))
    )


def _flat_view(i: int, customer: bytes, time: bytes, sku: int, _: int) -> bytes:
    return (
        b'{"type":"view","id":"%08d","customer":"%b","time":"%b","sku":"sku-%04d","category":"cat-%02d",'
        b'"channel":"web","device":"phone","source":"shop/categories/cat-%02d/from-my-search"}'
        % (i, customer, time, sku, sku % 40, sku % 40)
    )


def _flat_complaint(i: int, customer: bytes, time: bytes, sku: int, _: int) -> bytes:
    return (
        b'{"type":"complaint","id":"%08d","customer":"%b","time":"%b","complaint":"k-%09d","kind":"delivery",'
        b'"sku":"sku-%04d","category":"cat-%02d","channel":"phone","text":"Late."}'
        % (i, customer, time, i, sku, sku % 40)
    )


_FLAT = [(0.30, small_order), (0.65, _flat_view), (0.05, _flat_complaint)]
_MAKE = {"view": _view, "purchase": _order, "complaint": _complaint}
