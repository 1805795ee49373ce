"""Carries what waits in the outbox to Kafka: at least once, and each customer's messages in their order."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Sequence
from datetime import datetime
from typing import NamedTuple, Protocol

from agents.metrics import Metrics
from agents.store import Lease, Store
from agents.transport import partition_of
from streams import topics
from streams.message import Message, pack

log = logging.getLogger(__name__)

# Keyed by a customer, who lies in the partition of that number wherever there are as many partitions.
OF_CUSTOMERS = frozenset({topics.ALERTS, topics.CUSTOMER_SCORES, topics.DECISIONS, topics.TASKS})
# Messages read at a time: enough that one round trip to the brokers carries many.
COUNT = 2_000


class Waiting(NamedTuple):
    """A message in the outbox of a partition number that is ours, and the id it has there."""

    lease: Lease
    ident: bytes
    message: Message


class Brokers(Protocol):
    """Who brings messages to the brokers."""

    async def output_partitions(self, topic: str) -> int:
        """How many partitions a topic (Kafka's name) has now."""
        ...

    async def produce(self, topic: str, partition: int, messages: Sequence[Message]) -> int:
        """Send the first of the messages, as many as one request holds, all or none; returns how many, when
        the brokers have acknowledged them."""
        ...


class Relay:
    """Empties the outboxes of partition numbers.

    ``partitions``: how many the input topics have. ``live``: decisions happen on the wall clock, so that their age
    on arrival means something. ``delivered`` hears of what the brokers have acknowledged. Always from the head, and a message is removed only when it was acknowledged. What
    goes to one partition of a topic goes one request after the other, so that what is sent again after a failure
    never overtakes.
    """

    def __init__(
        self,
        store: Store,
        brokers: Brokers,
        kafka_name: Callable[[str], str],
        too_large: Callable[[BaseException], bool],
        metrics: Metrics,
        *,
        partitions: Callable[[], int],
        live: bool,
        delivered: Callable[[str, Sequence[Message]], None] | None = None,
    ) -> None:
        self.store = store
        self._brokers = brokers
        self._kafka_name = kafka_name
        self._too_large = too_large
        self._metrics = metrics
        self._partitions = partitions
        self._live = live
        self._delivered = delivered

    async def carry(self, leases: Sequence[Lease]) -> int:
        """Carry all that waits now of some partition numbers; how many messages left.

        Raises what kept a message from being acknowledged, after those that were are removed.
        """
        total = 0
        while leases := [lease for lease in leases if not lease.lost]:
            found = await self.store.outboxes(leases, COUNT)
            waiting = [
                Waiting(lease, ident, message)
                for lease, some in zip(leases, found, strict=True)
                for ident, message in some
            ]
            if not waiting:
                break
            with self._metrics.stage("relay", len(waiting)):
                total += await self._send(waiting)
            # Whoever commits more says so.
            leases = [lease for lease, some in zip(leases, found, strict=True) if len(some) == COUNT]
        return total

    async def _send(self, waiting: Sequence[Waiting]) -> int:
        counts = {
            topic: await self._brokers.output_partitions(self._kafka_name(topic))
            for topic in {item.message.topic for item in waiting}
        }
        lanes: dict[tuple[str, int], list[Waiting]] = {}
        for item in waiting:
            topic, key = item.message.topic, item.message.key
            if key is None:
                number = 0  # the dead letters of records that had none
            elif topic in OF_CUSTOMERS and counts[topic] == self._partitions():
                number = item.lease.partition
            else:
                number = partition_of(key, counts[topic])
            lanes.setdefault((topic, number), []).append(item)
        left: list[Waiting] = []
        failures = await asyncio.gather(
            *(self._lane(topic, number, items, left) for (topic, number), items in lanes.items()),
            return_exceptions=True,
        )
        idents: dict[Lease, list[bytes]] = {}
        for item in left:
            idents.setdefault(item.lease, []).append(item.ident)
        await self.store.trim_all(list(idents.items()))
        self._metrics.left("relay", len(left), time.time())
        for failure in failures:
            if failure is not None:
                raise failure
        return len(left)

    async def _lane(self, topic: str, number: int, items: Sequence[Waiting], left: list[Waiting]) -> None:
        """Send what goes to one partition, in its order; what was acknowledged goes to ``left``."""
        most = len(items)
        while items := [item for item in items if not item.lease.lost]:
            sent = items[:most]
            self._metrics.relay_attempts.labels(topic).inc(len(sent))
            try:
                taken = await self._brokers.produce(
                    self._kafka_name(topic), number, [item.message for item in sent]
                )
            except Exception as error:
                self._metrics.relay_failures.labels(topic).inc(len(sent))
                if not self._too_large(error):
                    raise
                if len(sent) > 1:
                    # The brokers refuse the batch that a message travels in: alone it may well be taken.
                    most = 1
                    continue
                await self._set_aside(*sent[0])
                items = items[1:]
                continue
            left.extend(sent[:taken])
            if self._live and topic == topics.ALERTS:
                for item in sent[:taken]:
                    self._metrics.latency.observe(since_decided(item.message))
            self._metrics.relayed.labels(topic).inc(taken)
            if self._delivered is not None:
                self._delivered(topic, [item.message for item in sent[:taken]])
            items = items[taken:]

    async def _set_aside(self, lease: Lease, ident: bytes, message: Message) -> None:
        """Nobody will ever take it, and everything behind it waits."""
        log.error(
            "A message to %s of %d bytes is larger than the brokers allow: set aside in %s. Raise "
            "max.message.bytes of the topic.",
            message.topic,
            len(message.value or b""),
            self.store.keys(lease.partition)[4].replace(":out", ":parked"),
        )
        self._metrics.parked.inc()
        await self.store.park(lease, ident, pack(message))


def since_decided(message: Message) -> float:
    """Seconds since the instant of the decision that a message carries; 0 where it carries none."""
    for name, value in message.headers:
        if name == "ce_time":
            return max(0.0, time.time() - datetime.fromisoformat(value.decode()).timestamp())
    return 0.0
