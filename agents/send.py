"""From entries of a file (or of a simulator) to records on Kafka, with the clock that a replay needs.

``feed`` decides what goes where and when the clock is told; it talks to nobody. ``Sender`` produces.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final, NamedTuple

from confluent_kafka import KafkaError, KafkaException, Message, Producer

from agents.files import Entry, Refusal, Refuse
from agents.privileges import RIGHTS
from agents.settings import Kafka
from streams import topics
from streams.codec import CLOCK_KEY, encode_clock

DAY: Final = 86_400_000_000
CLOCK_EVERY: Final = 1000
"""Events after which the clock is told at the latest."""
LONGEST_WAIT: Final = 0.1
LEAVE: Final = 2.0
"""Seconds for what was sent already, when somebody has interrupted the sending."""
ANY: Final = -1  # librdkafka: the key decides


class SendError(Exception):
    """Records that Kafka did not take. The message says what, why, and what to do."""


class Outgoing(NamedTuple):
    """One record. ``topic`` is the Kafka name; without ``partition`` the key decides (murmur2)."""

    topic: str
    partition: int | None
    key: bytes | None
    value: bytes | None
    headers: tuple[tuple[str, bytes], ...] = ()


@dataclass(frozen=True)
class Route:
    """Where events and clocks go.

    ``partitions`` has the number of partitions of each input topic, by logical name; ``only`` sends all
    events to one of them.
    """

    partitions: Mapping[str, int]
    prefix: str = ""
    only: str | None = None

    def topic(self, kind: str) -> str | None:
        """The logical topic of an event type, None where no input may carry it."""
        inputs = self.partitions
        if self.only is not None:
            chosen = self.only
        elif len(inputs) == 1:
            chosen = next(iter(inputs))
        elif topics.TOPIC_OF.get(kind) in inputs:
            chosen = topics.TOPIC_OF[kind]
        else:
            # Every type is accepted on each topic that is not compacted.
            chosen = next((t for t in inputs if t not in topics.COMPACTED), next(iter(inputs)))
        return None if chosen in topics.COMPACTED and kind not in topics.ONLY_ON_CUSTOMERS else chosen

    def clocks(self, at: int, history: bool) -> Iterator[Outgoing]:
        """A ``clock`` record for every partition of every input topic."""
        return self.everywhere(encode_clock(at, history))

    def everywhere(self, value: bytes) -> Iterator[Outgoing]:
        """A ``clock`` record's value for every partition of every input topic."""
        for topic, count in self.partitions.items():
            for partition in range(count):
                yield Outgoing(topics.kafka_name(self.prefix, topic), partition, CLOCK_KEY, value)


def feed(
    entries: Iterable[Entry],
    route: Route,
    *,
    clock: bool = True,
    history: bool = False,
    until: int | None = None,
    refuse: Refuse = lambda _refusal: None,
) -> Iterator[Outgoing]:
    """The records of entries that come in the order of time.

    With ``clock``, a clock record goes to every partition at each midnight (UTC) that the events pass,
    after every thousand events, and at the end: at the time of the last event, or day by day on to
    ``until`` (microseconds). None is ahead of an event that is still to come.
    """
    told: int | None = None
    last: int | None = None
    since = 0
    for entry in entries:
        if entry.kind == "clock":
            yield from route.everywhere(entry.value)
            told, since = max(entry.at, told or 0), 0
            last = max(entry.at, last or 0)
            continue
        topic = route.topic(entry.kind)
        if topic is None:
            refuse(
                Refusal(entry.line, f"type: {entry.kind!r} is not allowed on a compacted topic; profile is")
            )
            continue
        if clock:
            if told is None:
                told = entry.at
            for midnight in _midnights(told, entry.at):
                yield from route.clocks(midnight, history)
                told, since = midnight, 0
            if since >= CLOCK_EVERY and last is not None:
                yield from route.clocks(last, history)
                told, since = last, 0
        yield Outgoing(topics.kafka_name(route.prefix, topic), None, entry.customer.encode(), entry.value)
        since += 1
        last = entry.at if last is None else max(last, entry.at)
    if clock and last is not None:
        yield from route.clocks(last, history)
        if until is not None and until > last:
            for midnight in _midnights(last, until):
                yield from route.clocks(midnight, history)
            if until % DAY:
                yield from route.clocks(until, history)


def _midnights(after: int, until: int) -> Iterator[int]:
    """The midnights after one instant and not after another."""
    return iter(range((after // DAY + 1) * DAY, until + 1, DAY))


class Sender:
    """An idempotent producer that partitions as Java's clients do and lets no failure go unseen.

    ``pace`` is called before each record is produced and may wait: the demo holds the producer back there
    until the workers have caught up, ``send --rate`` waits for its next turn.
    """

    def __init__(
        self,
        kafka: Kafka,
        *,
        pace: Callable[[Outgoing], None] | None = None,
        config: Mapping[str, Any] | None = None,
    ) -> None:
        self.pace = pace
        self.sent = 0
        self.acknowledged = 0
        self.timeout = kafka.request_timeout
        self._failure: str | None = None
        self._polled = time.monotonic()
        self._producer = Producer(
            {
                **kafka.librdkafka(),
                "enable.idempotence": True,
                "partitioner": "murmur2_random",
                "linger.ms": 20,
                "compression.type": "lz4",
                "message.timeout.ms": int(kafka.request_timeout * 1000),
                "queue.buffering.max.messages": 100_000,
                "log_level": 0,
                **(config or {}),
            }
        )

    def send(self, out: Outgoing) -> None:
        """Gives one record to the producer; waits while its queue is full. Raises :class:`SendError`."""
        self._check()
        if self.pace is not None:
            self.pace(out)
        partition = ANY if out.partition is None else out.partition
        while True:
            try:
                self._producer.produce(
                    out.topic,
                    key=out.key,
                    value=out.value,
                    partition=partition,
                    headers=list(out.headers),
                    on_delivery=self._delivered,
                )
            except BufferError:
                self._poll(LONGEST_WAIT)
                self._check()
            except (KafkaException, SystemError) as e:
                raise SendError(_given_up(e)) from e
            else:
                break
        self.sent += 1
        # Often enough for a slow sender to hear of a failure, seldom enough not to slow down a fast one.
        if self.sent % 256 == 0 or time.monotonic() - self._polled > LONGEST_WAIT:
            self._poll(0)
            self._polled = time.monotonic()

    def run(self, records: Iterable[Outgoing]) -> int:
        """Sends all and waits until all are acknowledged. Returns how many."""
        for out in records:
            self.send(out)
        self.flush()
        return self.acknowledged

    def flush(self, tell: Callable[[], None] = lambda: None) -> None:
        """Waits until everything is acknowledged; ``tell`` is called meanwhile. Raises :class:`SendError`."""
        deadline = time.monotonic() + self.timeout + 5
        while self._flushed(LONGEST_WAIT * 5):
            self._check()
            tell()
            if time.monotonic() > deadline:
                raise SendError(
                    f"{len(self._producer)} records were not acknowledged in {self.timeout:.0f} s."
                )
        self._check()

    def leave(self) -> int:
        """Gives what was sent a moment to arrive; how many records are not acknowledged then."""
        try:
            return self._flushed(LEAVE)
        except SendError:
            return len(self._producer)

    def _poll(self, seconds: float) -> None:
        try:
            self._producer.poll(seconds)
        except (KafkaException, SystemError) as e:
            raise SendError(_given_up(e)) from e

    def _flushed(self, seconds: float) -> int:
        """How many records are not acknowledged yet."""
        try:
            return self._producer.flush(seconds)
        except (KafkaException, SystemError) as e:
            raise SendError(_given_up(e)) from e

    def _delivered(self, error: KafkaError | None, message: Message) -> None:
        if error is None:
            self.acknowledged += 1
        elif self._failure is None:
            self._failure = f"{message.topic()} did not take a record: {_sentence(error)}"

    def _check(self) -> None:
        if self._failure is not None:
            raise SendError(f"{self._failure} {self.acknowledged} records had been acknowledged before.")


def _given_up(error: BaseException) -> str:
    """Why the client sends nothing more. What is fatal to it, it raises as Python's SystemError, with its own error
    behind that or without any."""
    found: BaseException | None = error
    while found is not None and not isinstance(found, KafkaException):
        found = found.__cause__ or found.__context__
    if found is None:
        return f"Kafka's client has given up, as it does when this user may write to no topic at all: authorization failed. {RIGHTS}"
    return _sentence(found.args[0])


def _sentence(error: KafkaError) -> str:
    # Who may write to no topic at all is told that it may not do so idempotently.
    denied = KafkaError.TOPIC_AUTHORIZATION_FAILED, KafkaError.CLUSTER_AUTHORIZATION_FAILED
    rights = f" {RIGHTS}" if error.code() in denied else ""
    return f"{error.str() or error.name()} ({error.name()}).{rights}"
