"""The smallest core there is: it counts each customer's events by topic, in order, and notices silence.

It has the interface of ``alerts.engine.Engine``, so that the shell can be tested for exactly that: whether
each record was applied once and in order, whether what left is what was decided.
"""

from __future__ import annotations

import zlib
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import msgspec

from agents.worker import OneByOne
from alerts.brakes import Brakes
from alerts.engine import Turn, Usable
from alerts.partition import Partition, Poisoned, unpack
from streams.codec import Decoded, Item, Record, Tick
from streams.message import Message

PRIME = (1 << 61) - 1


class Count(msgspec.Struct, array_like=True):
    """By topic: how many events and a hash of their ids that depends on the order."""

    seen: dict[str, tuple[int, int]] = {}
    at: int = 0
    silences: int = 0

    def pack(self) -> bytes:
        return _pack(self)


_pack = msgspec.msgpack.Encoder().encode
read = msgspec.msgpack.Decoder(Count).decode


def applied(count: Count, topic: str, ident: str, at: int) -> Count:
    n, hashed = count.seen.get(topic, (0, 0))
    seen = {**count.seen, topic: (n + 1, (hashed * 31 + zlib.crc32(ident.encode())) % PRIME)}
    return Count(seen, max(count.at, at), count.silences)


class Counting(OneByOne):
    """``silence`` is after how many microseconds without an event a customer is silent (None: never);
    an alert leaves at each third event of a topic and at each silence."""

    def __init__(self, inputs: Sequence[str], clock: str, silence: int | None = None) -> None:
        self.inputs = tuple(inputs)
        self.clock = clock
        self.silence = silence
        self.poisoned_at: int | None = None
        self.fired: list[tuple[int, bytes]] = []
        # What a test does in the middle of the path: after the load, before the commit.
        self.between: Callable[[str, Sequence[Item]], None] = lambda topic, items: None

    def adopt(self, usable: Sequence[Usable]) -> None:
        """It scores nobody."""

    def brake(self, brakes: Brakes) -> None:
        """It delivers everything."""

    def silent_feeds(self, partition: Partition, at: int) -> list[str]:
        return []

    def traffic(self, partition: Partition, at: int) -> dict[str, tuple[float, float]]:
        return {}

    def open(self, blob: bytes | None, number: int) -> Partition:
        return unpack(blob, number)

    def touches(self, items: Iterable[Item]) -> tuple[list[bytes], list[bytes]]:
        return list(dict.fromkeys(item.key for item in items if isinstance(item, Decoded))), []

    def events(
        self,
        partition: Partition,
        topic: str,
        records: Sequence[Record],
        items: Sequence[Item],
        hot: Mapping[bytes, bytes | None],
        cold: Mapping[bytes, bytes | None],
        read_to: int,
    ) -> Turn:
        self.between(topic, items)
        if self.poisoned_at is not None:
            raise Poisoned(topic, partition.number, self.poisoned_at, 600, 1000, {"invalid": 600})
        counts: dict[bytes, Count] = {key: read(state) if state else Count() for key, state in hot.items()}
        turn = Turn(partition=partition, counts=Counter())
        for item in items:
            if isinstance(item, Decoded):
                count = counts[item.key] = applied(counts[item.key], topic, item.event.id, item.at)
                n, hashed = count.seen[topic]
                if n % 3 == 0:
                    turn.out.append(_alert(item.key, f"{item.customer}:{topic}:{n}", hashed))
                turn.counts["event", "view"] += 1
        for key, count in counts.items():
            turn.hot[key] = count.pack()
            if self.silence is not None:
                turn.deadlines[key] = count.at + self.silence
        turn.partition = msgspec.structs.replace(
            partition, applied={**partition.applied, topic: items[-1].offset}
        )
        return turn

    def tick(self, partition: Partition, topic: str, tick: Tick) -> int | None:
        newest = {**partition.ticks, topic: max(tick.at, partition.ticks.get(topic, 0))}
        if any(name not in newest for name in self.inputs):
            return None
        until = min(newest[name] for name in self.inputs)
        return until if until > partition.clock else None

    def timers(
        self,
        partition: Partition,
        due: Sequence[tuple[bytes, int]],
        complete: bool,
        until: int,
        hot: Mapping[bytes, bytes | None],
        cold: Mapping[bytes, bytes | None],
        cause: tuple[str, Tick] | None,
    ) -> Turn:
        turn = Turn(partition=partition, counts=Counter())
        for key, instant in due:
            state = hot[key]
            assert state is not None
            count = read(state)
            count.silences += 1
            turn.hot[key] = count.pack()
            turn.cleared.append(key)
            turn.out.append(_alert(key, f"{key.decode()}:silent:{count.silences}", instant))
            turn.counts["fired",] += 1
            self.fired.append((instant, key))
        return turn

    def moved(self, partition: Partition, topic: str, tick: Tick) -> Turn:
        until = self.tick(partition, topic, tick)
        after = msgspec.structs.replace(
            partition,
            clock=until or partition.clock,
            ticks={**partition.ticks, topic: max(tick.at, partition.ticks.get(topic, 0))},
            applied={**partition.applied, topic: tick.offset},
        )
        return Turn(partition=after, counts=Counter())

    def went_live(self, partition: Partition, at: int) -> Turn:
        return Turn(partition=msgspec.structs.replace(partition, live_since=at), counts=Counter())


def _alert(key: bytes, ident: str, body: int) -> Message:
    value = msgspec.json.encode({"id": ident, "body": body})
    return Message("alerts", key, value, (("ce_id", ident.encode()),))


def recomputed(records: Iterable[Any], prefix: str) -> dict[bytes, dict[str, tuple[int, int]]]:
    """What the counts must be after these records (confluent_kafka messages, each partition in order)."""
    counts: dict[bytes, Count] = {}
    for record in records:
        if record.key() == b"clock":
            continue
        event = msgspec.json.decode(record.value())
        topic = record.topic().removeprefix(prefix)
        count = counts.get(record.key(), Count())
        counts[record.key()] = applied(count, topic, event["id"], 0)
    return {key: count.seen for key, count in counts.items()}
