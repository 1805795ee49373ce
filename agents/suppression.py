"""The list of those who were forgotten, where it is kept, and how it is carried forward.

It is kept twice. ``{app:pN}:gone`` in Redis is written by the same commit that removes a customer's state. The
compacted topic ``forgotten`` is beside every backup of Redis: whatever Redis is restored to, whoever takes over a
partition reads the topic first, and removes those again who have come back with the backup. Neither holds anything
but keyed hashes (``alerts.forgotten``), instants and offsets.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final, NamedTuple, TypeAlias

import msgspec
from aiokafka import AIOKafkaConsumer
from aiokafka.errors import KafkaError, TopicAuthorizationFailedError
from aiokafka.structs import TopicPartition

from agents.failure import KafkaBroken, KafkaDenied, LayoutRefused
from agents.settings import Kafka
from agents.store import Store
from agents.transport import LogAway, explained, topic_partitions
from alerts.engine import Turn
from alerts.forgotten import Entry, Forgotten, entry, erasure
from streams import topics
from streams.erasure import UnknownErasure, decode_erasure, erasure_message, is_about
from streams.message import Message

SECRET: Final = b"secret"
"""The field of ``gone`` that says with which secret the hashes were made; shorter than any of them."""
PATIENCE: Final = 30.0
"""Seconds that reading the topic may stand still before its end: its last offsets may be of no records."""

_pack = msgspec.msgpack.Encoder().encode
_unpack = msgspec.msgpack.Decoder(Entry).decode


def packed(entries: Mapping[bytes, Entry], secret: str) -> dict[bytes, bytes]:
    """Entries as ``gone`` holds them."""
    return {SECRET: secret.encode(), **{digest: _pack(each) for digest, each in entries.items()}}


def unpacked(stored: Mapping[bytes, bytes]) -> dict[bytes, Entry]:
    """The entries of ``gone``."""
    return {digest: _unpack(raw) for digest, raw in stored.items() if digest != SECRET}


Waiting: TypeAlias = dict[bytes, tuple[list[bytes], list[bytes]]]
"""Of customers, the ids of messages that wait to leave, and of those that no broker takes."""


class Carried(NamedTuple):
    """What a commit that forgets somebody writes beside the turn: see ``agents.store.Write``."""

    unsent: Sequence[bytes] = ()
    unparked: Sequence[bytes] = ()
    gone: Mapping[bytes, bytes] = {}
    out: Sequence[Message] = ()


class ErasedSince:
    """Who must not come back with a backup: who is on the list, and was not when the backup was taken."""

    def __init__(self, forgotten: Forgotten | None) -> None:
        self._forgotten = forgotten

    def listed(self, customer: bytes) -> bool:
        """Whether a customer was ever erased. (Who came back afterwards is known anew, and may stay.)"""
        return self._forgotten is not None and self._forgotten.of(customer) is not None

    def since(self, customer: bytes, gone: Mapping[bytes, bytes]) -> bool:
        """Whether it was after the backup, whose own list is ``gone``."""
        known = self._forgotten
        entry = known.of(customer) if known is not None else None
        if known is None or entry is None:
            return False
        then = gone.get(known.digest(customer))
        return then is None or _unpack(then).until < entry.until


class Suppression:
    """What a worker knows of the list. ``forgotten`` is the engine's; None where there is no secret."""

    def __init__(self, kafka: Kafka, application: str, store: Store, forgotten: Forgotten | None) -> None:
        self._kafka = kafka
        self._application = application
        self._store = store
        self._forgotten = forgotten
        self._topic = kafka.topic(topics.FORGOTTEN)
        self._next: dict[TopicPartition, int] = {}

    # ---- at a claim

    async def read_topic(self) -> None:
        """Everything that the topic holds by now. Raises ``LayoutRefused`` where it is not there, or was made with
        another secret, ``LogAway`` where Kafka cannot be asked."""
        if self._forgotten is None:
            return
        try:
            count = (await topic_partitions(self._kafka, PATIENCE, [self._topic])).get(self._topic, 0)
            if not count:
                raise LayoutRefused(
                    f"There is no topic {self._topic}, and privacy.key is set: nobody could be kept forgotten. Create "
                    f"it with `churnwatch topics create`."
                )
            await self._read(count)
        except KafkaDenied:
            raise
        except TopicAuthorizationFailedError as error:
            raise explained(error) from error
        except (KafkaError, KafkaBroken, OSError) as error:
            raise LogAway(f"{self._topic} cannot be read: {error}") from error

    async def _read(self, count: int) -> None:
        consumer: Any = AIOKafkaConsumer(
            bootstrap_servers=list(self._kafka.brokers),
            client_id="churnwatch-forgotten",
            enable_auto_commit=False,
            auto_offset_reset="earliest",
            request_timeout_ms=int(self._kafka.request_timeout * 1000),
            **self._kafka.aiokafka(),
        )
        await consumer.start()
        try:
            partitions = [TopicPartition(self._topic, number) for number in range(count)]
            consumer.assign(partitions)
            ends = await consumer.end_offsets(partitions)
            begins = await consumer.beginning_offsets(partitions)
            for tp in partitions:
                consumer.seek(tp, max(begins[tp], min(self._next.get(tp, 0), ends[tp])))
            since = time.monotonic()
            while any([await consumer.position(tp) < end for tp, end in ends.items()]):
                found = await consumer.getmany(timeout_ms=200)
                for records in found.values():
                    for record in records:
                        self._take(record.key, record.value)
                if found:
                    since = time.monotonic()
                elif time.monotonic() - since > PATIENCE:
                    break
            self._next = {tp: await consumer.position(tp) for tp in partitions}
        finally:
            await consumer.stop()

    def _take(self, key: bytes | None, value: bytes | None) -> None:
        assert self._forgotten is not None
        try:
            digest, known = decode_erasure(key, value)
        except UnknownErasure as error:
            raise LayoutRefused(f"{self._topic} holds what cannot be read: {error}") from error
        if known.secret != self._forgotten.secret:
            raise LayoutRefused(
                f"{self._topic} was written with another secret than privacy.key is now: those who were forgotten could "
                f"not be told apart from others, and would come back. Set privacy.key to what it was."
            )
        self._forgotten.learn(digest, entry(known))

    async def missing(self, number: int) -> dict[bytes, Entry]:
        """Takes in what Redis holds of a partition number; who is on the list and not in Redis, which was restored
        to before. Raises ``LayoutRefused`` where it was made with another secret."""
        stored = await self._store.forgotten(number)
        known = self._forgotten
        if stored and (known is None or stored.get(SECRET) != known.secret.encode()):
            is_now = "is another one now" if known is not None else "is not set"
            raise LayoutRefused(
                f"{len(stored) - 1} customers of partition {number} were forgotten with a secret (privacy.key) that "
                f"{is_now}: they would come back. Set it to what it was."
            )
        if known is None:
            return {}
        here = unpacked(stored)
        for digest, each in here.items():
            known.learn(digest, each)
        return {
            digest: each
            for digest, each in known.here(self._application, number).items()
            if digest not in here or here[digest].until < each.until
        }

    def written(self, entries: Mapping[bytes, Entry]) -> Carried:
        """Entries that Redis did not hold."""
        if self._forgotten is None or not entries:
            return Carried()
        secret = self._forgotten.secret
        again = [erasure_message(digest, erasure(each, secret)) for digest, each in entries.items()]
        return Carried(gone=packed(entries, secret), out=again)

    # ---- at a commit

    async def waiting(self, number: int, customers: Iterable[bytes]) -> Waiting:
        """What waits to leave of some customers of a partition number."""
        found: Waiting = {}
        for key in customers:
            customer = key.decode("utf-8", "surrogatepass")

            def concerns(message: Message, customer: str = customer) -> bool:
                return is_about(customer, message.key, message.value, message.headers)

            found[key] = await self._store.waiting(number, concerns)
        return found

    def carried(self, turn: Turn, waiting: Waiting) -> Carried:
        """What goes of those whom a turn forgets beside their states, and what is kept and said of them."""
        unsent: list[bytes] = []
        unparked: list[bytes] = []
        entries: dict[bytes, Entry] = {}
        out: list[Message] = []
        secret = ""
        for each in turn.forgotten:
            said = each.erasure
            if each.key in turn.erased or not said.again:
                messages, parked = waiting[each.key]
                unsent += messages
                unparked += parked
                counts = {**said.removed, "messages": len(messages), "parked": len(parked)}
                said = msgspec.structs.replace(said, removed=counts)
            entries[each.digest] = entry(said)
            out.append(erasure_message(each.digest, said))
            secret = said.secret
        return Carried(unsent, unparked, packed(entries, secret), out)

    def learn(self, turn: Turn) -> None:
        """A turn has been committed."""
        if self._forgotten is not None:
            for each in turn.forgotten:
                self._forgotten.learn(each.digest, entry(each.erasure))
