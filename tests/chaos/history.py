"""What the shop sends: a simulated history through the product's own sender, with what goes wrong in real ones.

Beside the simulator's events there are records that no codec takes, events that are sent twice, and events
that come late. Everything is a function of the seed.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path
from random import Random
from typing import Any, NamedTuple

from confluent_kafka import Message

from agents.files import Entry, Reading, entry, read
from agents.send import Outgoing, Route, feed
from agents.simulator import simulate
from streams.codec import Codec

START = datetime(2025, 1, 6, tzinfo=UTC)
INVALID = (
    b"",
    b"{",
    b"[]",
    b'{"type":"purchase"}',
    b'{"type":"unheard","id":"x","customer":"c","time":"2025-01-06"}',
)


class Record(NamedTuple):
    """A record as it lies in the log; the codec reads it as it reads aiokafka's."""

    topic: str
    partition: int
    offset: int
    timestamp: int
    key: bytes | None
    value: bytes | None
    headers: Sequence[tuple[str, bytes | None]] = ()


def as_record(message: Message) -> Record:
    """A record of the reader of these tests."""
    topic, partition, offset = message.topic(), message.partition(), message.offset()
    assert topic is not None
    assert partition is not None
    assert offset is not None
    return Record(
        topic, partition, offset, message.timestamp()[1], message.key(), message.value(), headers(message)
    )


def headers(message: Message) -> list[tuple[str, bytes | None]]:
    """Names and values in their order."""
    pairs: Any = message.headers() or ()  # a list, whatever the stubs say
    return list(pairs)


def simulated(seed: int, route: Route, customers: int, days: int) -> list[Outgoing]:
    """A small shop with browsing, purchases and complaints, disturbed by the seed."""
    entries = (entry(event) for event in simulate(seed=seed, customers=customers, days=days, start=START))
    return list(spoilt(feed(_untidy(entries, Random(seed)), route), Random(seed), route))


def cdnow(seed: int, path: Path, route: Route, codec: Codec, customers: int) -> list[Outgoing]:
    """All purchases of some real customers."""
    entries = list(read(path, Reading(codec), lambda _refusal: None))
    chosen = set(Random(seed).sample(sorted({each.customer for each in entries}), customers))
    kept = (each for each in entries if each.customer in chosen)
    return list(spoilt(feed(kept, route), Random(seed), route))


def _untidy(entries: Iterable[Entry], random: Random) -> Iterator[Entry]:
    """One event in forty is sent again later, one in forty arrives late."""
    waiting: list[tuple[int, Entry]] = []
    for place, each in enumerate(entries):
        while waiting and waiting[0][0] <= place:
            yield waiting.pop(0)[1]
        chance = random.random()
        if chance < 0.05:
            waiting.append((place + random.randrange(1, 60), each))
            waiting.sort(key=lambda pair: pair[0])
        if not 0.025 <= chance < 0.05:
            yield each
    yield from (each for _, each in waiting)


def spoilt(records: Iterable[Outgoing], random: Random, route: Route) -> Iterator[Outgoing]:
    """One record in sixty is followed by one that cannot be processed."""
    for record in records:
        yield record
        if random.random() < 1 / 60:
            partition = random.randrange(next(iter(route.partitions.values())))
            if random.random() < 0.3:
                # Another customer's event under a key of one's own.
                yield Outgoing(record.topic, partition, b"somebody else", record.value)
            else:
                yield Outgoing(record.topic, partition, b"broken", random.choice(INVALID))
