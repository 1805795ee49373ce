"""What is promised, checked of a run that is too long to be kept in memory: the logs are read once, as streams.

Every state, deadline and partition equals the undisturbed run's. Everything that left does too, byte for byte and per
customer in order, de-duplicated by id: of each customer and topic a running hash is compared. Of a seeded sample of
customers the naive oracle says the same as their states, and decides each of their alerts the same.
"""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Iterator
from random import Random
from typing import Any

import msgspec

from models.snapshot import Known
from streams.codec import CLOCK_KEY
from streams.message import Message
from tests.chaos import promises
from tests.chaos.harness import WRITTEN, Application
from tests.chaos.history import Record, as_record
from tests.chaos.promises import Left, Verdict, identity
from tests.chaos.reference import undisturbed
from tests.servers import each_of


class _Fingerprints:
    """By topic and customer: how many messages, and a hash of all of them in their order."""

    def __init__(self) -> None:
        self.found: dict[tuple[str, object], list[Any]] = defaultdict(lambda: [0, b""])

    def add(self, topic: str, message: Left) -> None:
        # Records that are broken share a key, examples have none: they come from several partitions.
        shared = not message.headers or "churnwatch-error" in dict(message.headers)
        entry = self.found[topic, identity(message) if shared else message.key]
        entry[0] += 1
        entry[1] = hashlib.blake2b(entry[1] + msgspec.msgpack.encode(message), digest_size=16).digest()


def check(application: Application, seed: int, sample: int = 40, heaviest: int = 1_000) -> Verdict:
    """Raises AssertionError with what is broken. ``sample``: so many customers are asked about; one with more than
    ``heaviest`` events is not among them, because the oracle recomputes everything from the beginning each time."""
    prefix = application.prefix
    verdict = Verdict()
    customers, chosen = _sample(application, seed, sample, heaviest, verdict)
    kept: list[Record] = []
    right, ours = _Fingerprints(), _Fingerprints()

    def records() -> Iterator[Record]:
        for record in _read(application, application.inputs):
            if record.key in chosen:
                kept.append(record)
            yield record

    def sink(message: Message) -> None:
        right.add(message.topic, Left(message.key, message.value, message.headers))

    reference = undisturbed(application.settings, records(), sink=sink)
    left: dict[str, list[Left]] = {name: [] for name in WRITTEN}
    seen: dict[str, dict[bytes, bytes]] = {name: {} for name in WRITTEN}
    for record in _read(application, WRITTEN):
        name = record.topic.removeprefix(prefix)
        message = Left(record.key, record.value, tuple(record.headers))
        ident = hashlib.blake2b(identity(message).encode(), digest_size=12).digest()
        whole = hashlib.blake2b(msgspec.msgpack.encode(message), digest_size=8).digest()
        if ident in seen[name]:
            assert seen[name][ident] == whole, f"{identity(message)} came twice, and differs: {message}"
            verdict.repeated += 1
            verdict.repeated_alerts += name == "alerts"
            continue
        seen[name][ident] = whole
        ours.add(name, message)
        if message.key in chosen and "churnwatch-error" not in dict(message.headers):
            left[name].append(message)
    verdict.customers = customers
    verdict.alerts, verdict.dead_letters = len(seen["alerts"]), len(seen["dead-letters"])
    verdict.examples = len(seen["examples"])
    verdict.decisions = len(seen["decisions"]) + len(seen["customer-scores"])

    wrong = [at for at in ours.found.keys() | right.found.keys() if ours.found.get(at) != right.found.get(at)]
    assert not wrong, f"what left differs from the undisturbed run in {len(wrong)} places: {wrong[:5]}"
    held = promises.stored(application)
    promises.check_stored(held, reference)
    asked = held.only(kept, left, chosen)
    promises.check_sample(asked, Known())
    return verdict


def _sample(
    application: Application, seed: int, sample: int, heaviest: int, verdict: Verdict
) -> tuple[int, frozenset[bytes]]:
    """How many customers the log names, and some of them."""
    counts: dict[bytes, int] = defaultdict(int)
    for record in _read(application, application.inputs):
        verdict.records += 1
        if record.key is not None and record.key != CLOCK_KEY:
            counts[record.key] += 1
    with application.redis.client() as client:
        known: set[bytes] = set()
        for number in range(application.partitions):
            names: Any = client.hkeys(application.key(number, "hot"))
            known |= set(names)
    verdict.events = sum(counts[key] for key in known)
    usual = sorted(key for key in known if counts[key] <= heaviest)
    return len(known), frozenset(Random(seed).sample(usual, min(sample, len(usual))))


def _read(application: Application, names: tuple[str, ...]) -> Iterator[Record]:
    return map(as_record, each_of(application.kafka.brokers, [application.topic(name) for name in names]))
