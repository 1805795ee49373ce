"""The load of a soak: seeded, in bursts, and as uneven as a bad day.

One customer has a fifth of all events, and that customer's partition ten times as many as each of the others. Events
are purchases, views and complaints, and now and then a customer who says that they leave, which warns at once. Time on
the records passes at its own pace (a day every so many events), so that silence is looked at all the while.
"""

from __future__ import annotations

import threading
import time
from array import array
from collections.abc import Callable, Iterator
from functools import partial
from random import Random
from typing import NamedTuple

from confluent_kafka import Message, Producer

from agents.transport import partition_of
from bench.events import DAY, SECOND, small_order
from bench.stage import PARTITIONS
from streams.codec import CLOCK_KEY, encode_clock
from streams.events import rfc3339

START = 1_451_692_800_000_000
"""2016-01-02T00:00:00Z: hours of it stay in the past."""
SPACING = 4 * SECOND
CLOCK_EVERY = 1_000
"""Events between two clock records at most."""
HEAVY = 0
"""The partition with ten times the events of each of the others."""
WEIGHTS = tuple(10 if number == HEAVY else 1 for number in range(PARTITIONS))
SHARE = 0.2
"""Of all events, that of the one customer."""
PERIOD = 10.0
"""Seconds from one burst to the next."""
BURST = 0.3
"""Share of a period in which a burst lasts, at twice the rate of the rest of it."""
PRODUCER = {
    "enable.idempotence": True,
    "linger.ms": 5,
    "message.timeout.ms": 600_000,
    "queue.buffering.max.messages": 2_000_000,
    "queue.buffering.max.kbytes": 2_000_000,
    "log_level": 0,
}
INVALID = (b"{", b"[]", b'{"type":"unheard","id":"x","customer":"c","time":"2016-01-02"}')


class Event(NamedTuple):
    """One record. ``number``: which event it is, -1 for a clock record and for one that cannot be read."""

    partition: int
    key: bytes
    value: bytes
    number: int


class Shop:
    """What happens, one event after the other, for ever."""

    def __init__(self, seed: int, customers: int) -> None:
        self._random = Random(seed)
        self._customers = self._of_partitions(customers)
        self.heavy = self._customers[HEAVY].pop()
        self.number = 0
        self.at = START

    @staticmethod
    def _of_partitions(count: int) -> list[list[bytes]]:
        """Names by the partition where Kafka's partitioner puts them, as many in each as it has events."""
        found: list[list[bytes]] = [[] for _ in range(PARTITIONS)]
        wanted = [max(2, round(count * weight / sum(WEIGHTS))) for weight in WEIGHTS]
        number = 100_000
        while any(len(some) < want for some, want in zip(found, wanted, strict=True)):
            name = b"c%d" % number
            part = found[partition_of(name, PARTITIONS)]
            if len(part) < wanted[partition_of(name, PARTITIONS)]:
                part.append(name)
            number += 1
        return found

    def events(self) -> Iterator[Event]:
        """Without end."""
        random = self._random
        # The one customer's events are among those of the heavy partition.
        weights = [weight / sum(WEIGHTS) - (SHARE if n == HEAVY else 0) for n, weight in enumerate(WEIGHTS)]
        midnight = START + DAY
        while True:
            if random.random() < SHARE:
                partition, customer = HEAVY, self.heavy
            else:
                (partition,) = random.choices(range(PARTITIONS), weights)
                customer = random.choice(self._customers[partition])
            yield Event(partition, customer, self._happens(customer), self.number)
            self.number += 1
            self.at += SPACING
            if self.at >= midnight or self.number % CLOCK_EVERY == 0:
                yield from self.clock()
                midnight = (self.at // DAY + 1) * DAY

    def clock(self) -> Iterator[Event]:
        """A clock record for every partition."""
        raw = encode_clock(self.at, history=False)
        for number in range(PARTITIONS):
            yield Event(number, CLOCK_KEY, raw, -1)

    def _happens(self, customer: bytes) -> bytes:
        i, time_, chance = self.number, rfc3339(self.at).encode(), self._random.random()
        sku = self._random.randrange(5_000)
        if chance < 0.30:
            return small_order(i, customer, time_, sku, 1_000 + self._random.randrange(9_000))
        if chance < 0.92:
            return (
                b'{"type":"view","id":"%08d","customer":"%b","time":"%b","sku":"sku-%04d","category":"cat-%02d",'
                b'"channel":"web","device":"phone"}' % (i, customer, time_, sku, sku % 40)
            )
        if chance < 0.96:
            return (
                b'{"type":"complaint","id":"%08d","customer":"%b","time":"%b","complaint":"k-%09d","kind":"delivery",'
                b'"sku":"sku-%04d","channel":"phone","text":"Late."}' % (i, customer, time_, i, sku)
            )
        return b'{"type":"customer_lost","id":"%08d","customer":"%b","time":"%b","reason":"too dear"}' % (
            i, customer, time_,
        )  # fmt: skip


class Load(threading.Thread):
    """Sends events in bursts, whatever becomes of them, at ``rate`` events a second on average; 0: as fast as
    ``room`` says that there is room for more.

    ``produced`` and ``numbered`` are the instants (seconds) at which each record and each event was handed over, the
    first by partition and offset.
    """

    daemon = True

    def __init__(self, brokers: str, topic: str, shop: Shop, room: Callable[[int], bool]) -> None:
        super().__init__()
        self._topic = topic
        self._events = shop.events()
        self._shop = shop
        self._room = room
        self._producer = Producer({"bootstrap.servers": brokers, **PRODUCER})
        self._ending = threading.Event()
        self._extra: list[Event] = []
        self._extra_lock = threading.Lock()
        self.rate = 0.0
        self.sent = 0
        self.limit = 0  # runs of the fault tests raise it; here nothing waits for them
        self.produced: list[array[float]] = [array("d") for _ in range(PARTITIONS)]
        self.numbered: array[float] = array("d")
        self.failure: Exception | None = None

    def run(self) -> None:
        """Until it is told to finish; then a last clock record, and all of it is with the broker."""
        try:
            due, last = 0.0, time.monotonic()
            began = last
            while not self._ending.is_set():
                now = time.monotonic()
                if self.rate:
                    due += (now - last) * self.rate * _burst(now - began)
                else:
                    due = 200.0 if self._room(self.sent) else 0.0
                last = now
                for _ in range(int(due)):
                    self._produce(next(self._events))
                due -= int(due)
                with self._extra_lock:
                    extra, self._extra = self._extra, []
                for event in extra:
                    self._produce(event)
                self._producer.poll(0)
                time.sleep(0.005)
            for event in self._shop.clock():
                self._produce(event)
            while self._producer.flush(1.0):
                pass
        except Exception as error:  # noqa: BLE001 -- whoever waits for it raises it
            self.failure = error

    def finish(self) -> None:
        """Send no more."""
        self._ending.set()

    def flood(self, partition: int, count: int) -> None:
        """So many records in a row that no codec takes."""
        with self._extra_lock:
            self._extra += [Event(partition, b"broken", INVALID[i % len(INVALID)], -1) for i in range(count)]

    def give_up(self) -> None:
        """Likewise, for a run that has failed."""
        self._ending.set()

    def _produce(self, event: Event) -> None:
        now = time.time()
        if event.number >= 0:
            self.numbered.append(now)
        self._producer.produce(
            self._topic, event.value, event.key, event.partition, on_delivery=partial(self._delivered, now)
        )
        self.sent += 1
        if self.sent % 500 == 0:
            self._producer.poll(0)

    def _delivered(self, now: float, error: object, message: Message) -> None:
        partition, offset = message.partition(), message.offset()
        if error is not None or partition is None or offset is None:
            self.failure = RuntimeError(f"the broker did not take an event: {error}")
            return
        found = self.produced[partition]
        assert len(found) == offset, "records of a partition are acknowledged in their order"
        found.append(now)


def _burst(seconds: float) -> float:
    """By how much the rate is above its average just now."""
    calm = 1 / (1 + BURST)
    return 2 * calm if seconds % PERIOD < BURST * PERIOD else calm
