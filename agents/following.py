"""Small topics that every worker follows: model snapshots to score by, brakes on what is delivered.

The whole topic is read at the start and followed from there, without a group. A record that cannot be used is
refused, said and counted, and the worker goes on with what it has; so does one that finds no such topic yet. While
Kafka cannot be reached at the start, nothing is decided.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any, Generic, Protocol, TypeVar

from aiokafka import AIOKafkaConsumer
from aiokafka.errors import KafkaError, TopicAuthorizationFailedError
from aiokafka.structs import TopicPartition

from agents.failure import KafkaBroken, KafkaDenied
from agents.settings import Kafka
from agents.transport import explained, topic_partitions

log = logging.getLogger(__name__)

# After how many seconds of the first reading it is said that it takes long; and how long a reading may stand still
# before its end, as the last offsets of a log may be of no records.
PATIENCE = 30.0
# How often it is looked for a topic that is not there, or tried again after an error.
AGAIN = 5.0


Known_co = TypeVar("Known_co", covariant=True)


class Book(Protocol[Known_co]):
    """The records of a topic taken together."""

    def take(self, key: bytes | None, value: bytes | None) -> str | None:
        """One record. Why it was refused, or None."""
        ...

    def known(self) -> Known_co:
        """What there is now; two that are equal say the same."""
        ...


class Following(Generic[Known_co]):
    """Follows a topic (logical name) in the running event loop.

    ``new`` makes an empty book. ``changed`` is called with all that is known, once at the end of the first reading
    (also where there is nothing) and after each change; it must not fail. ``refused`` hears of each record that was
    not taken. ``absent``: what it means that there is no such topic, if that is worth a warning. ``start`` returns
    after the first call of ``changed``.
    """

    def __init__(
        self,
        kafka: Kafka,
        topic: str,
        new: Callable[[], Book[Known_co]],
        changed: Callable[[Known_co], None],
        refused: Callable[[], None] = lambda: None,
        absent: str = "",
    ) -> None:
        self._kafka = kafka
        self._name = topic
        self._topic = kafka.topic(topic)
        self._new = new
        self._changed = changed
        self._refused = refused
        self._absent = absent
        self._said: Counter[str] = Counter()
        self._first = asyncio.Event()
        # Clients wait by wait_for, which in Python 3.11 may swallow a cancellation: the flag ends the loops.
        self._stopping = False
        self._task: asyncio.Task[None] | None = None
        self.known: Known_co | None = None

    async def start(self) -> None:
        """Read all that is there; then go on following. Whoever decided before it is read would decide otherwise
        than before a restart: it is waited for as long as it takes."""
        self._task = asyncio.create_task(self._keep_following(), name=self._name)
        first = asyncio.create_task(self._first.wait())
        try:
            while not first.done():
                await asyncio.wait((first, self._task), timeout=PATIENCE, return_when=asyncio.FIRST_COMPLETED)
                if self._task.done():
                    return self._task.result()  # what cannot heal, or a bug, ends the worker
                if not first.done():
                    log.warning(
                        "%s could not be read for %.0f s: nothing is decided before", self._topic, PATIENCE
                    )
        finally:
            first.cancel()

    async def stop(self) -> None:
        """Follow no more."""
        self._stopping = True
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    async def _keep_following(self) -> None:
        while not self._stopping:
            try:
                await self._follow()
            except (KafkaError, KafkaBroken, OSError) as error:
                if not self._first.is_set():
                    # Asking again does not change it, and deciding without would be deciding otherwise.
                    if isinstance(error, KafkaDenied):
                        raise
                    if isinstance(error, TopicAuthorizationFailedError):
                        raise explained(error) from error
                log.warning("%s cannot be followed: %s. Trying again.", self._topic, error)
            await asyncio.sleep(AGAIN)

    async def _follow(self) -> None:
        """One connection, from the beginning of the topic. Returns when there is no such topic."""
        count = (await topic_partitions(self._kafka, PATIENCE, [self._topic])).get(self._topic, 0)
        if not count:
            if not self._first.is_set():  # later, what was known stays
                if self._absent:
                    log.warning(
                        "There is no topic %s: %s. Create it with `churnwatch topics create`.",
                        self._topic,
                        self._absent,
                    )
                self._tell(self._new())
            return
        consumer: Any = AIOKafkaConsumer(
            bootstrap_servers=list(self._kafka.brokers),
            client_id=f"churnwatch-{self._name}",
            enable_auto_commit=False,
            auto_offset_reset="earliest",
            request_timeout_ms=int(self._kafka.request_timeout * 1000),
            **self._kafka.aiokafka(),
        )
        await consumer.start()
        try:
            partitions = [TopicPartition(self._topic, number) for number in range(count)]
            consumer.assign(partitions)
            await consumer.seek_to_beginning(*partitions)
            book = self._new()
            await self._read_all(consumer, partitions, book)
            self._tell(book)
            while not self._stopping:
                if self._take(book, await consumer.getmany(timeout_ms=1000)):
                    self._tell(book)
        finally:
            await consumer.stop()

    async def _read_all(
        self, consumer: Any, partitions: Sequence[TopicPartition], book: Book[Known_co]
    ) -> None:
        """Up to the ends the topic has now."""
        ends = await consumer.end_offsets(partitions)
        begun = time.monotonic()
        while True:
            left = [tp for tp, end in ends.items() if await consumer.position(tp) < end]
            if not left or self._stopping:
                return
            if time.monotonic() - begun > PATIENCE:
                # Brokers that are away raise here: a part of the topic must not be taken for the whole, what was known
                # stays. If they answer, the last offsets are of no records.
                await consumer.end_offsets(partitions)
                return
            if self._take(book, await consumer.getmany(timeout_ms=200)):
                begun = time.monotonic()

    def _take(self, book: Book[Known_co], found: dict[Any, Sequence[Any]]) -> bool:
        """Whether there was anything."""
        for records in found.values():
            for record in records:
                why = book.take(record.key, record.value)
                if why is not None:
                    self._refused()
                    self._said[why] += 1
                    if self._said[why] == 1:
                        log.warning("%s It is passed over.", why)
        return bool(found)

    def _tell(self, book: Book[Known_co]) -> None:
        now = book.known()
        if now != self.known or not self._first.is_set():
            self.known = now
            self._changed(now)
        self._first.set()
