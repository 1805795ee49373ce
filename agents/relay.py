"""Carries what waits in the outbox to Kafka: at least once, and each customer's messages in their order."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Sequence
from datetime import datetime
from typing import Any, Protocol

from agents.metrics import Metrics
from agents.store import Lease, Store
from streams import topics
from streams.message import Message, pack

log = logging.getLogger(__name__)

# Messages read at a time: enough that one round trip to the brokers carries many.
COUNT = 500


class Producer(Protocol):
    """Who brings a message to the brokers."""

    def __call__(
        self, topic: str, key: bytes | None, value: bytes | None, headers: Sequence[tuple[str, bytes]], /
    ) -> Awaitable[Awaitable[Any]]:
        """Hand over; the inner awaitable ends with the acknowledgement."""
        ...


class Relay:
    """Empties the outbox of one partition number after the other.

    ``live``: decisions happen on the wall clock, so that their age on arrival means something. Always from
    the head, and a message is removed only when it was acknowledged. A message is not sent
    before the earlier ones of the same topic and key are acknowledged, so that what is sent again after a
    failure never overtakes.
    """

    def __init__(
        self,
        store: Store,
        produce: Producer,
        kafka_name: Callable[[str], str],
        too_large: Callable[[BaseException], bool],
        metrics: Metrics,
        *,
        live: bool,
    ) -> None:
        self.store = store
        self._produce = produce
        self._kafka_name = kafka_name
        self._too_large = too_large
        self._metrics = metrics
        self._live = live

    async def carry(self, lease: Lease) -> int:
        """Carry all that waits of one partition number; how many messages left.

        Raises what kept a message from being acknowledged, after those that were are removed.
        """
        total = 0
        while not lease.lost:
            waiting = await self.store.outbox(lease, COUNT)
            if not waiting:
                break
            self._metrics.stage_in.labels("relay").inc(len(waiting))
            for wave in waves(waiting):
                total += await self._send(lease, wave)
            self._metrics.stage_last.labels("relay").set(time.time())
        return total

    async def _send(self, lease: Lease, wave: Sequence[tuple[bytes, Message]]) -> int:
        done = await asyncio.gather(*(self._one(message) for _, message in wave), return_exceptions=True)
        acknowledged = []
        failure: BaseException | None = None
        for (ident, message), result in zip(wave, done, strict=True):
            error = result
            if error is not None and self._too_large(error) and len(wave) > 1:
                # The brokers refuse the batch that a message travelled in: alone it may well be taken.
                (error,) = await asyncio.gather(self._one(message), return_exceptions=True)
            if error is None:
                acknowledged.append(ident)
                self._metrics.relayed.labels(message.topic).inc()
                if self._live and message.topic == topics.ALERTS:
                    self._metrics.latency.observe(since_decided(message))
            else:
                self._metrics.relay_failures.labels(message.topic).inc()
                if self._too_large(error):
                    await self._set_aside(lease, ident, message)
                else:
                    failure = failure or error
        await self.store.trim(lease, acknowledged)
        self._metrics.stage_out.labels("relay").inc(len(acknowledged))
        if failure is not None:
            raise failure
        return len(acknowledged)

    async def _set_aside(self, lease: Lease, ident: bytes, message: Message) -> None:
        """Nobody will ever take it, and everything behind it waits."""
        log.error(
            "A message to %s of %d bytes is larger than the brokers allow: set aside in %s. Raise "
            "max.message.bytes of the topic.",
            message.topic,
            len(message.value or b""),
            self.store.keys(lease.partition)[4].replace(":out", ":parked"),
        )
        await self.store.park(lease, ident, pack(message))

    async def _one(self, message: Message) -> None:
        self._metrics.relay_attempts.labels(message.topic).inc()
        acknowledgement = await self._produce(
            self._kafka_name(message.topic), message.key, message.value, message.headers
        )
        await acknowledgement


def since_decided(message: Message) -> float:
    """Seconds since the instant of the decision that a message carries; 0 where it carries none."""
    for name, value in message.headers:
        if name == "ce_time":
            return max(0.0, time.time() - datetime.fromisoformat(value.decode()).timestamp())
    return 0.0


def waves(waiting: Sequence[tuple[bytes, Message]]) -> list[list[tuple[bytes, Message]]]:
    """Cut so that no two messages of one topic and key are in the same wave, each key's in their order."""
    parted: list[list[tuple[bytes, Message]]] = []
    sent: dict[tuple[str, bytes | None], int] = {}
    for item in waiting:
        lane = item[1].topic, item[1].key
        number = sent.get(lane, 0)
        sent[lane] = number + 1
        if number == len(parted):
            parted.append([])
        parted[number].append(item)
    return parted
