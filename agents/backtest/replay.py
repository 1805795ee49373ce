"""The engine without servers: a history goes through it day by day, on the record clock, states in dicts.

What a worker does with records from Kafka and states in Redis is done here with events of a file and states
in memory, by the same engine and in the same order: the events of a day, then the clock at its end, which
fires what is due. What leaves is given back instead of being sent.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Final, NamedTuple, overload

from alerts.engine import Engine, Turn
from alerts.partition import Partition
from features.shop import DAY
from streams.codec import Decoded, Tick, encode
from streams.erasure import Forgetting
from streams.events import type_name
from streams.message import Message
from streams.topics import PURCHASES

MOST: Final = 5_000
"""Events in one step: beyond, a day is taken in several."""


class Day(NamedTuple):
    """What a day brought: ``touched``, the customers whom events changed, and what left, in order."""

    touched: set[bytes]
    out: list[Message]


class _Record(NamedTuple):
    """An event as the record that it would have been."""

    topic: str
    partition: int
    offset: int
    timestamp: int
    key: bytes | None
    value: bytes | None
    headers: tuple[tuple[str, bytes | None], ...] = ()


class _Records(Sequence[_Record]):
    """The records of events, made when one is asked for: only of what is refused."""

    def __init__(self, topic: str, partition: int, items: Sequence[Decoded]) -> None:
        self._topic, self._partition, self._items = topic, partition, items

    def __len__(self) -> int:
        return len(self._items)

    @overload
    def __getitem__(self, place: int) -> _Record: ...

    @overload
    def __getitem__(self, place: slice) -> Sequence[_Record]: ...

    def __getitem__(self, place: int | slice) -> _Record | Sequence[_Record]:
        if isinstance(place, slice):
            return [self[at] for at in range(*place.indices(len(self)))]
        item = self._items[place]
        value = encode(item.event)
        return _Record(self._topic, self._partition, item.offset, item.at // 1000, item.key, value)


class Held:
    """What the store would hold of one partition."""

    __slots__ = ("cold", "due", "forgotten", "hot", "partition", "waiting")

    def __init__(self, partition: Partition) -> None:
        self.partition = partition
        self.hot: dict[bytes, bytes] = {}
        self.cold: dict[bytes, bytes] = {}
        self.due: dict[bytes, int] = {}
        self.forgotten: list[Forgetting] = []
        # Who may be due on a day; an entry whose deadline has moved on is passed over.
        self.waiting: dict[int, list[bytes]] = {}


class Replay:
    """An application of ``partitions`` partitions.

    ``partition_of`` says where a customer belongs, ``topic_of`` on which input topic an event type travels
    (by default all of them on ``purchases``).
    """

    def __init__(
        self,
        engine: Engine,
        partitions: int = 1,
        partition_of: Callable[[bytes], int] = lambda _key: 0,
        topic_of: Callable[[str], str] = lambda _kind: PURCHASES,
    ) -> None:
        self.engine = engine
        self.held = [Held(engine.open(None, number)) for number in range(partitions)]
        self.events = 0
        self.counts: Counter[tuple[str, ...]] = Counter()
        self._partition_of = partition_of
        self._topic_of = topic_of

    def day(self, items: Sequence[Decoded], end: int, *, history: bool = False) -> Day:
        """The events before ``end`` (microseconds) and after the day before, and then the clock at ``end``."""
        day = Day(set(), [])
        for number, topic, together in self._sorted(items):
            held = self.held[number]
            for first in range(0, len(together), MOST):
                self._events(held, topic, together[first : first + MOST], day)
        for held in self.held:
            for topic in self.engine.inputs:
                self._move(held, topic, end, day, history=history)
        self.events += len(items)
        return day

    def customers(self) -> int:
        """How many are known."""
        return sum(len(held.hot) for held in self.held)

    def hot(self, key: bytes) -> bytes | None:
        """The hot part of a customer, as it would be stored."""
        return self.held[self._partition_of(key)].hot.get(key)

    # ---- a step each, as the worker takes it

    def _sorted(self, items: Sequence[Decoded]) -> list[tuple[int, str, Sequence[Decoded]]]:
        """The items by partition and topic, each in order of time."""
        if len(self.held) == 1 and len(self.engine.inputs) == 1:
            return [(0, self.engine.inputs[0], items)] if items else []
        found: dict[tuple[int, str], list[Decoded]] = {}
        for item in items:
            place = self._partition_of(item.key), self._topic_of(type_name(item.event))
            found.setdefault(place, []).append(item)
        return [(number, topic, together) for (number, topic), together in sorted(found.items())]

    def _events(self, held: Held, topic: str, items: Sequence[Decoded], day: Day) -> None:
        hot_keys, _ = self.engine.touches(items)
        hot = {key: held.hot.get(key) for key in hot_keys}
        # All cold parts at once: to be told of one that is missing costs more than to read it.
        cold = {key: held.cold.get(key) for key in hot_keys}
        records = _Records(topic, held.partition.number, items)
        turn = self.engine.events(held.partition, topic, records, items, hot, cold, 0)
        day.touched.update(hot_keys)
        self._keep(held, turn, day)

    def _move(self, held: Held, topic: str, end: int, day: Day, *, history: bool) -> None:
        tick = Tick(max(held.partition.applied.get(topic, -1), 0), end, history)
        until = self.engine.tick(held.partition, topic, tick)
        if until is not None:
            self._fire(held, until, (topic, tick), day)
        self._keep(held, self.engine.moved(held.partition, topic, tick), day)

    def _fire(self, held: Held, until: int, cause: tuple[str, Tick], day: Day) -> None:
        while True:
            come = [at for at in held.waiting if at * DAY <= until]
            due: dict[bytes, int] = {}
            for at in come:
                later = []
                for key in held.waiting.pop(at):
                    stands = held.due.get(key)
                    if stands is None or stands // DAY != at:
                        continue
                    if stands <= until:
                        due[key] = stands
                    else:
                        later.append(key)
                if later:
                    held.waiting[at] = later
            if not due:
                return
            ranked = sorted(due.items(), key=lambda entry: (entry[1], entry[0]))
            for first in range(0, len(ranked), MOST):
                some = ranked[first : first + MOST]
                hot: Mapping[bytes, bytes | None] = {key: held.hot.get(key) for key, _ in some}
                cold: Mapping[bytes, bytes | None] = {key: held.cold.get(key) for key, _ in some}
                turn = self.engine.timers(held.partition, some, True, until, hot, cold, cause)
                self._keep(held, turn, day)

    def _keep(self, held: Held, turn: Turn, day: Day) -> None:
        held.partition = turn.partition
        for key in turn.erased:
            for kept in (held.hot, held.cold, held.due):
                kept.pop(key, None)
        held.forgotten += turn.forgotten
        held.hot.update(turn.hot)
        held.cold.update(turn.cold)
        waiting = held.waiting
        for key, at in turn.deadlines.items():
            held.due[key] = at
            waiting.setdefault(at // DAY, []).append(key)
        for key in turn.cleared:
            held.due.pop(key, None)
        if turn.out:
            day.out.extend(turn.out)
        self.counts.update(turn.counts)
