"""Kafka through Faust: the only module that knows the insides of Faust and aiokafka.

Faust hands over single messages, keeps its own offsets and drops what it has seen before. Here a *lot* of
batches, each of one partition's records, takes the place of a message, Redis is the authority on offsets, and
positions are taken where they cannot lie: in aiokafka's thread, at the moment the records are popped. Every
override leans on code of faust-streaming 0.15.3, mode-streaming 0.7.1 and aiokafka 0.14.0; for each there is a
test in ``tests/agents/test_transport_contract.py`` that fails when an upgrade changes what it leans on.
"""

from __future__ import annotations

import asyncio
import logging
import os
import socket
import ssl
import time
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple, Protocol, TypeAlias

import faust
from aiokafka import AIOKafkaClient
from aiokafka.conn import create_conn
from aiokafka.coordinator.assignors.abstract import AbstractPartitionAssignor
from aiokafka.coordinator.protocol import ConsumerProtocolMemberAssignment, ConsumerProtocolMemberMetadata
from aiokafka.errors import (
    AuthenticationFailedError,
    GroupAuthorizationFailedError,
    KafkaConnectionError,
    KafkaError,
    MessageSizeTooLargeError,
    NoOffsetForPartitionError,
    OffsetOutOfRangeError,
    SaslAuthenticationFailed,
    TopicAuthorizationFailedError,
    UnsupportedSaslMechanismError,
)
from aiokafka.partitioner import murmur2
from aiokafka.structs import OffsetAndMetadata, TopicPartition
from faust.sensors import Monitor
from faust.transport.drivers import aiokafka as driver
from faust.types import TP
from mode import Service
from mode.threads import WorkerThread

from agents import reach
from agents.failure import KafkaBroken, KafkaDenied
from agents.privileges import RIGHTS
from agents.settings import Kafka
from streams.codec import Record
from streams.message import Message

log = logging.getLogger(__name__)

Generation: TypeAlias = int
Offsets: TypeAlias = dict[tuple[str, int], int]

# A fetch waits for a megabyte or 20 ms. Without it aiokafka asks for one byte: at a thousand events a second
# nearly every event is a fetch, a batch and a commit of its own (0.8 of a core instead of 0.14).
FETCH_MIN_BYTES = 1 << 20
FETCH_MAX_WAIT_MS = 20
# Lots that wait between the fetcher and the agent. They are what back-pressure consists of.
WAITING_LOTS = 16
# New partitions must be seen soon, to be refused (300 s is aiokafka's default).
METADATA_MAX_AGE_MS = 10_000
# How long the commit of offsets to Kafka may take, which only mirrors Redis, and how often it is made.
MIRROR_TIMEOUT = 5.0
MIRROR_INTERVAL = 1.0
# How long Kafka may take to accept the commit that proves our generation.
PROOF_TIMEOUT = 5.0
# Somebody has to ask aiokafka's coordinator for its errors; how often, and how many in a row are fatal.
WATCHDOG_INTERVAL = 2.0
WATCHDOG_ERRORS = 10
# How long one attempt to reach the brokers at the start may take.
PROBE_TIMEOUT = 5.0
# How often it is looked, and said, what is there instead.
ASK_EVERY = 10.0
# One message may be a dead letter: a record of a megabyte, whole, with its headers.
MAX_MESSAGE_BYTES = 2 << 20
# Messages that leave together; brokers take a megabyte unless they are told otherwise.
MAX_BATCH_BYTES = 900_000
# What a paused fetcher sleeps before it looks again whether a partition has been claimed.
UNCLAIMED_PAUSE = 0.1
# An epoch later than any: everything popped before the seek that is under way has ended is void.
NEVER = 1 << 62


class Seen(NamedTuple):
    """What the last fetch of a partition has shown, taken at one moment.

    ``popped`` is the next offset after everything handed over so far, ``at_end`` whether aiokafka's
    position had reached the end of the log (transaction markers included), ``at`` the wall time of the
    fetch response in microseconds.
    """

    popped: int
    at_end: bool
    at: int
    end: int


class Batch:
    """Records of one partition in their order.

    ``prev`` is the position just before the first record, ``epoch`` that of the last seek before they
    were popped.
    """

    __slots__ = ("epoch", "partition", "prev", "records", "topic")

    def __init__(self, records: Sequence[Record], prev: int, epoch: int) -> None:
        first: Any = records[0]
        self.topic: str = first.topic
        self.partition: int = first.partition
        self.records = records
        self.prev = prev
        self.epoch = epoch

    @property
    def offset(self) -> int:
        """Of the last record."""
        return self.records[-1].offset


class Lot:
    """Batches that are worked on together, at most one of a partition; to Faust they look like one
    ``ConsumerRecord`` of the first.

    Until it is ``taken`` up, what is fetched next may still join it.
    """

    __slots__ = (
        "batches", "checksum", "count", "headers", "key", "offset", "partition", "serialized_key_size",
        "serialized_value_size", "taken", "timestamp", "timestamp_type", "topic", "value",
    )  # fmt: skip

    def __init__(self, tp: Any, batch: Batch) -> None:
        last: Any = batch.records[-1]
        self.topic: str = batch.topic
        self.partition: int = batch.partition
        self.offset: int = last.offset
        self.timestamp: int = last.timestamp
        self.timestamp_type: int = last.timestamp_type
        self.key = None
        self.value = self
        self.headers = ()
        self.checksum = None
        self.serialized_key_size = 0
        self.serialized_value_size = 0
        self.batches: dict[Any, Batch] = {tp: batch}
        self.count = len(batch.records)
        self.taken = False

    def join(self, tp: Any, batch: Batch, size: int) -> bool:
        """Take in a batch that was popped after all that is here, while this waits and there is room for all
        of it. It must follow what is here of its partition."""
        if self.taken or self.count + len(batch.records) > size:
            return False
        waiting = self.batches.get(tp)
        if waiting is None:
            self.batches[tp] = batch
        elif batch.epoch != waiting.epoch or batch.prev != waiting.offset + 1:
            return False
        else:
            waiting.records = [*waiting.records, *batch.records]
        self.count += len(batch.records)
        return True


class Fetched(dict[Any, Sequence[Record]]):
    """Records by partition, with the position before them and the seek epoch, both of the popping."""

    prev: dict[Any, int]
    epoch: int


class LotScheduler:
    """Faust's setting ``ConsumerScheduler``: makes lots of at most ``size`` records of what was fetched.

    What comes while an earlier lot still waits joins it: when the worker is behind, it catches up in fewer and
    larger commits, instead of some for each fetch.
    """

    size = 2000

    def __init__(self) -> None:
        self._newest: Lot | None = None

    def forget(self) -> None:
        """Nothing joins the lots of before: Faust may clear its buffers."""
        self._newest = None

    def iterate(self, fetched: Fetched) -> Iterator[tuple[Any, Lot]]:
        """The lots that are new, each with the partition that it stands for with Faust.

        All of it is sorted before the first is handed over, so that what was fetched together stays together.
        """
        fresh: list[tuple[Any, Lot]] = []
        for tp, records in fetched.items():
            prev = fetched.prev[tp]
            for i in range(0, len(records), self.size):
                part = records[i : i + self.size]
                batch = Batch(part, prev, fetched.epoch)
                if self._newest is None or not self._newest.join(tp, batch, self.size):
                    self._newest = Lot(tp, batch)
                    fresh.append((tp, self._newest))
                prev = part[-1].offset + 1
        yield from fresh


class LotSchema(faust.Schema):
    """Hands the lot through: decoding is ours, because Faust acknowledges what it cannot decode."""

    def compile(self, app: Any, **_: Any) -> Any:
        """The decoder that Faust's conductor calls for each message."""
        create_event = app.create_event

        async def decode(message: Any, *, propagate: bool = False) -> Any:  # noqa: ARG001
            return create_event(None, message.value, None, message)

        return decode


class CopartitionAssignor(AbstractPartitionAssignor):
    """Partition n of every topic goes to the same member, the numbers in turn over the members.

    Without tables Faust takes aiokafka's round robin, which splits equal numbers over workers.
    """

    name = "copartition"
    version = 0

    @classmethod
    def assign(cls, cluster: Any, members: Mapping[str, Any]) -> dict[str, Any]:
        """The assignment of every member; a function of what all members know."""
        topics = sorted({topic for member in members.values() for topic in member.subscription})
        partitions = {topic: cluster.partitions_for_topic(topic) or set() for topic in topics}
        numbers = sorted(set().union(*partitions.values()))
        ids = sorted(members)
        given: dict[str, dict[str, list[int]]] = {member: {} for member in ids}
        for i, number in enumerate(numbers):
            for topic in topics:
                if number in partitions[topic]:
                    given[ids[i % len(ids)]].setdefault(topic, []).append(number)
        return {
            member: ConsumerProtocolMemberAssignment(cls.version, sorted(assigned.items()), b"")
            for member, assigned in given.items()
        }

    @classmethod
    def metadata(cls, topics: Iterable[str]) -> Any:
        """What a member tells the group's leader of itself."""
        return ConsumerProtocolMemberMetadata(cls.version, list(topics), b"")

    @classmethod
    def on_assignment(cls, assignment: Any) -> None:
        """Nothing to remember."""


class Owner(Protocol):
    """Who decides where reading begins and what becomes of a batch: the worker."""

    async def claim(self, assigned: Collection[tuple[str, int]], generation: Generation) -> Offsets:
        """Take over what was assigned; where to read from. What is left out is not read."""
        ...

    def revoked(self) -> None:
        """The group is rebalancing: nothing is ours until the next claim."""
        ...

    def applied(self, topic: str, partition: int) -> int | None:
        """The next offset to apply according to Redis, for the mirror in Kafka."""
        ...

    async def lot(self, lot: Lot) -> None:
        """Apply the batches of a lot. Raises only to end the process."""
        ...

    def fail(self, error: BaseException) -> None:
        """It cannot go on: whoever runs the worker has to end it."""
        ...

    def mirrored(self, accepted: bool) -> None:
        """The offsets were mirrored to Kafka, or could not be."""
        ...


class _Forgetful(dict[Any, None]):
    """Faust drops messages below its own read offset, which a seek back races with. We check contiguity."""

    def __missing__(self, _key: Any) -> None:
        return None

    def __setitem__(self, _key: Any, _value: Any) -> None:
        pass

    def update(self, *_: Any, **__: Any) -> None:
        pass


class _Daemon(WorkerThread):
    """A thread that cannot keep a process alive whose broker is frozen."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.daemon = True


class ConsumerThread(driver.AIOKafkaConsumerThread):
    """aiokafka's thread: positions are taken and seeks are made here, on one loop, so they cannot race."""

    Worker = _Daemon

    def __post_init__(self) -> None:
        super().__post_init__()
        self.popped: Offsets = {}
        self.epoch = 0
        self.seen: dict[tuple[str, int], Seen] = {}

    async def _fetch_records(self, *args: Any, **kwargs: Any) -> Fetched:
        # Between aiokafka's popping the records and our return there is no point of suspension.
        records = await super()._fetch_records(*args, **kwargs)
        fetched = Fetched(records)
        fetched.epoch = self.epoch
        fetched.prev = {}
        for tp, part in records.items():
            at = (tp.topic, tp.partition)
            fetched.prev[tp] = self.popped.get(at, part[0].offset)
            self.popped[at] = part[-1].offset + 1
        self._look()
        return fetched

    def _look(self) -> None:
        """Note for each partition how far we are, all of one moment of this thread."""
        subscription = self._ensure_consumer()._subscription.subscription
        assignment = subscription.assignment if subscription is not None else None
        seen: dict[tuple[str, int], Seen] = {}
        if assignment is not None:
            for tp in assignment.tps:
                state = assignment.state_value(tp)
                if state.highwater is None or not state.timestamp or not state.has_valid_position:
                    continue
                at = (tp.topic, tp.partition)
                if at in self.popped:
                    at_end = state.position >= state.highwater
                    seen[at] = Seen(self.popped[at], at_end, state.timestamp * 1000, state.highwater)
        self.seen = seen

    async def kept_since(self, partitions: Collection[TopicPartition]) -> dict[TopicPartition, int]:
        """The timestamps of the first records that are kept, in microseconds."""
        found = await self._ensure_consumer().offsets_for_times(dict.fromkeys(partitions, 0))
        return {tp: first.timestamp * 1000 for tp, first in found.items() if first is not None}

    async def seek_exact(self, offsets: Offsets) -> tuple[int, set[tuple[str, int]]]:
        """Read on from here; whatever was popped before is void. The new epoch, and what could be sought.

        A rebalance during the claim may have taken partitions away: they are claimed again by whom they were
        given to, after the assignment that follows.
        """
        consumer = self._ensure_consumer()
        assigned = {(tp.topic, tp.partition) for tp in consumer.assignment()}
        sought = {at: offset for at, offset in offsets.items() if at in assigned}
        for (topic, partition), offset in sought.items():
            tp = TopicPartition(topic, partition)
            consumer.seek(tp, offset)
            # An error that waits there ("no offset for partition") is of before the seek.
            consumer._fetcher._records.pop(tp, None)
        self.popped.update(sought)
        self.epoch += 1
        self.seen = {at: seen for at, seen in self.seen.items() if at not in sought}
        return self.epoch, set(sought)

    def _create_worker_consumer(self, transport: Any) -> Any:
        consumer = super()._create_worker_consumer(transport)
        consumer._partition_assignment_strategy = [CopartitionAssignor]
        consumer._fetch_min_bytes = FETCH_MIN_BYTES
        consumer._fetch_max_wait_ms = FETCH_MAX_WAIT_MS
        return consumer

    async def _commit(self, offsets: Mapping[Any, int]) -> bool:
        """Mirror Redis's offsets in Kafka, for those who watch the group. It may fail; Faust would crash."""
        consumer = self._ensure_consumer()
        owner: Owner = self.consumer.app.owner
        try:
            mine = self.assignment()
            mirrored = {
                driver.ensure_aiokafka_TP(tp): OffsetAndMetadata(offset, "")
                for tp, offset in offsets.items()
                if tp in mine
            }
            if mirrored:
                await asyncio.wait_for(consumer.commit(mirrored), MIRROR_TIMEOUT)
        except (KafkaError, TimeoutError) as error:
            log.warning("Offsets were not mirrored to Kafka: %r", error)
            owner.mirrored(False)
            return False
        owner.mirrored(True)
        return True

    async def proves(self, topic: str, partition: int, generation: Generation) -> bool:
        """Whether Kafka accepts a commit of ours in this generation: it does from the current one only."""
        consumer = self._ensure_consumer()
        tp = TopicPartition(topic, partition)
        try:
            if consumer._coordinator.generation != generation:
                return False
            committed = await asyncio.wait_for(consumer.committed(tp), PROOF_TIMEOUT)
            proof = {tp: OffsetAndMetadata(committed or 0, "")}
            await asyncio.wait_for(consumer.commit(proof), PROOF_TIMEOUT)
        except (KafkaError, TimeoutError) as error:
            log.warning(
                "Kafka does not confirm generation %d for %s/%d: %r", generation, topic, partition, error
            )
            return False
        # aiokafka may have joined again in between, and the commit was of another generation.
        return bool(consumer._coordinator.generation == generation)

    async def check_coordinator(self) -> None:
        """Raise what has befallen the coordinator; aiokafka keeps it until somebody asks."""
        if self._consumer is not None:
            self._consumer._coordinator.check_errors()

    @property
    def coordination_ended(self) -> bool:
        """Whether the task that keeps us in the group has died."""
        return self._consumer is not None and bool(self._consumer._coordinator._coordination_task.done())


class Consumer(driver.Consumer):
    """Faust's consumer with Redis's offsets instead of its own."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._read_offset = _Forgetful()
        self.owner: Owner = self.app.owner
        self.epochs: dict[tuple[str, int], int] = {}
        self.claiming = asyncio.Lock()
        self.coordinator_errors = 0

    def _new_consumer_thread(self) -> ConsumerThread:
        return ConsumerThread(self, loop=self.loop, beacon=self.beacon)

    # ---- fetching

    def on_buffer_full(self, tp: Any) -> None:
        """The bounded queue alone is back-pressure: Faust would sleep a whole second."""

    def verify_event_path(self, now: float, tp: Any) -> None:
        """Faust would log that streams hang, from sensors that we have switched off."""

    async def _getmany(self, active_partitions: Any, timeout: float) -> Any:  # noqa: ASYNC109
        """Only what has been claimed is fetched; what cannot be read on from ends the process."""
        before = {
            (tp.topic, tp.partition): self.epochs[tp.topic, tp.partition]
            for tp in active_partitions or ()
            if (tp.topic, tp.partition) in self.epochs
        }
        if not before:
            await self.sleep(UNCLAIMED_PAUSE)
            return Fetched()
        try:
            return await super()._getmany({TP(*at) for at in before}, timeout)
        except KafkaError as error:
            if isinstance(error, driver.ConsumerStoppedError):
                raise
            unsought = isinstance(error, NoOffsetForPartitionError)
            if unsought or self.app.rebalancing or any(self.epochs.get(at) != e for at, e in before.items()):
                # A fetch may outlast an assignment; then it finds where aiokafka stood before our seek.
                log.debug("Fetch of before a seek: %r", error)
                return Fetched()
            # Faust's Fetcher alone would die of it, and leave a process that reads nothing for ever.
            self.epochs.clear()
            self.owner.fail(explained(error))
            return Fetched()

    # ---- offsets

    async def _add_gap(self, *_: Any) -> None:
        """A lot's offset is that of a batch's last record; Faust would see a gap before it."""

    def _filter_tps_with_pending_acks(self, topics: Any = None) -> Iterator[Any]:
        """All that is claimed: a lot is acknowledged for its first partition only."""
        return (TP(*at) for at in self.epochs if topics is None or at in topics or at[0] in topics)

    def _new_offset(self, tp: Any) -> int | None:
        self._acked[tp].clear()
        self._acked_index[tp].clear()
        return self.owner.applied(tp.topic, tp.partition)

    async def on_partitions_revoked(self, revoked: Any) -> None:
        """Nothing is ours until the next claim."""
        self.epochs.clear()
        self.scheduler.forget()
        self.owner.revoked()
        await super().on_partitions_revoked(revoked)

    async def on_partitions_assigned(self, assigned: Any, generation_id: int = 0) -> None:
        """A spare is told of an assignment too: with nothing to read Faust seeks nowhere."""
        await super().on_partitions_assigned(assigned, generation_id)
        if not assigned:
            await self.seek_to_committed()

    async def seek_to_committed(self) -> dict[Any, int]:
        """Called after every assignment, often twice: claim in Redis and seek to the offsets kept there."""
        async with self.claiming:
            assigned = {(tp.topic, tp.partition) for tp in self.assignment()}
            generation = self.app.consumer_generation_id
            try:
                starts = await self.owner.claim(assigned, generation)
                await self.seek_exact(starts)
            except Exception as error:  # noqa: BLE001
                # Raised from here it would end as a log line in Faust's recovery.
                self.owner.fail(error)
                return {}
            return {TP(topic, partition): offset for (topic, partition), offset in starts.items()}

    async def seek_exact(self, offsets: Offsets) -> None:
        """Read on from these offsets; batches popped before are void."""
        if not offsets:
            return
        for at in offsets:
            self.epochs[at] = NEVER
        epoch, sought = await self._thread.call_thread(self._thread.seek_exact, offsets)
        for at in offsets:
            if at not in sought:
                self.epochs.pop(at, None)
            elif at in self.epochs:  # not revoked since
                self.epochs[at] = epoch

    def void(self, batch: Batch) -> bool:
        """Whether a batch was popped before the last seek of its partition, or its claim is gone."""
        return batch.epoch < self.epochs.get((batch.topic, batch.partition), NEVER)

    def stop_reading(self, partition: int) -> None:
        """Fetch nothing more of a partition number until it is claimed again."""
        for at in [at for at in self.epochs if at[1] == partition]:
            del self.epochs[at]

    # ---- what the worker asks

    def assigned(self) -> set[tuple[str, int]]:
        """What the group has given us."""
        try:
            return {(tp.topic, tp.partition) for tp in self.assignment()}
        except driver.ConsumerNotStarted:
            return set()

    def seen(self, topic: str, partition: int) -> Seen | None:
        """What the last fetch of a partition has shown; None when there was none since the last seek."""
        if self.epochs.get((topic, partition), NEVER) == NEVER:
            return None
        found: Seen | None = self._thread.seen.get((topic, partition))
        return found

    def partition_counts(self, topics: Iterable[str]) -> dict[str, int]:
        """Partitions of each topic as the brokers last told, 0 for one that is missing."""
        cluster = self._thread._ensure_consumer()._client.cluster
        return {topic: len(cluster.partitions_for_topic(topic) or ()) for topic in topics}

    async def log_ends(self, partitions: Collection[tuple[str, int]]) -> tuple[Offsets, Offsets]:
        """The first offset kept and the next to be written, of each partition. Raises ``LogAway``."""
        tps = [TopicPartition(topic, number) for topic, number in partitions]
        try:
            first = await self.earliest_offsets(*tps)
            last = await self.highwaters(*tps)
        except KafkaError as error:
            raise LogAway(f"Kafka does not tell where its logs begin and end: {error!r}") from error
        return (
            {(tp.topic, tp.partition): offset for tp, offset in first.items()},
            {(tp.topic, tp.partition): offset for tp, offset in last.items()},
        )

    async def kept_since(self, partitions: Collection[tuple[str, int]]) -> dict[tuple[str, int], int]:
        """When the first record that is kept of each partition was written, in microseconds; without those that hold
        none. Raises ``LogAway``."""
        try:
            found = await self._thread.call_thread(
                self._thread.kept_since, [TopicPartition(*at) for at in partitions]
            )
        except KafkaError as error:
            raise LogAway(f"Kafka does not tell when its records were written: {error!r}") from error
        return {(tp.topic, tp.partition): at for tp, at in found.items()}

    async def proves(self, topic: str, partition: int, generation: Generation) -> bool:
        """Whether Kafka takes us for a member of its current generation."""
        return bool(await self._thread.call_thread(self._thread.proves, topic, partition, generation))

    @Service.task
    async def _watch_coordinator(self) -> None:
        while not self.should_stop:
            await self.sleep(WATCHDOG_INTERVAL)
            if self.should_stop:
                return
            try:
                await self._thread.call_thread(self._thread.check_coordinator)
            except KafkaError as error:
                self.coordinator_errors += 1
                log.warning("Kafka's group coordinator: %r (%d in a row)", error, self.coordinator_errors)
                denied = isinstance(error, GroupAuthorizationFailedError)  # asking again does not change it
                if denied or self.coordinator_errors >= WATCHDOG_ERRORS or self._thread.coordination_ended:
                    self.owner.fail(explained(error))
                    return
            else:
                self.coordinator_errors = 0


class Transport(driver.Transport):
    """Faust's transport with our consumer."""

    Consumer = Consumer


class QuietMonitor(Monitor):
    """Faust's sensors cost a tenth of the path and break the rules of metric names: ours are elsewhere."""

    @Service.task
    async def _sampler(self) -> None:
        """Nothing to sample."""

    def on_message_in(self, *_: Any) -> None:
        """Not counted here."""

    def on_stream_event_in(self, *_: Any) -> None:
        """Not counted here."""

    def on_stream_event_out(self, *_: Any) -> None:
        """Not counted here."""

    def on_message_out(self, *_: Any) -> None:
        """Not counted here."""

    def on_topic_buffer_full(self, *_: Any) -> None:
        """Not counted here."""

    def on_send_initiated(self, *_: Any, **__: Any) -> None:
        """Not counted here."""

    def on_send_completed(self, *_: Any) -> None:
        """Not counted here."""

    def on_send_error(self, *_: Any) -> None:
        """Not counted here."""

    def on_commit_initiated(self, *_: Any) -> None:
        """Not counted here."""

    def on_commit_completed(self, *_: Any) -> None:
        """Not counted here."""

    def on_tp_commit(self, *_: Any) -> None:
        """Not counted here."""

    def track_tp_end_offset(self, *_: Any) -> None:
        """Not counted here."""

    def on_rebalance_start(self, *_: Any) -> dict[str, Any]:
        """Not counted here."""
        return {}

    def on_rebalance_return(self, *_: Any) -> None:
        """Not counted here."""

    def on_rebalance_end(self, *_: Any) -> None:
        """Not counted here."""


class App(faust.App):
    """A Faust application with one agent that reads the co-partitioned topics."""

    def __init__(self, kafka: Kafka, group: str, batch: int, owner: Owner) -> None:
        self.owner = owner
        context = kafka.ssl_context()
        super().__init__(
            group,
            broker=";".join(f"kafka://{broker}" for broker in kafka.brokers),
            broker_client_id=f"churnwatch-{socket.gethostname()}-{os.getpid()}",
            broker_credentials=_credentials(kafka, context),
            broker_max_poll_records=batch,
            broker_session_timeout=kafka.session_timeout,
            broker_heartbeat_interval=min(3.0, kafka.session_timeout / 4),
            broker_request_timeout=kafka.request_timeout,
            broker_rebalance_timeout=kafka.session_timeout,
            broker_commit_interval=MIRROR_INTERVAL,
            # Out of range must be loud: reading on from elsewhere would lose events or apply them twice.
            consumer_auto_offset_reset="none",
            consumer_metadata_max_age_ms=METADATA_MAX_AGE_MS,
            producer_acks=-1,
            producer_linger=0.005,
            producer_request_timeout=kafka.request_timeout,
            producer_max_request_size=MAX_MESSAGE_BYTES,
            producer_max_batch_size=MAX_BATCH_BYTES,
            topic_allow_declare=False,
            topic_disable_leader=True,
            table_standby_replicas=0,
            # The commit is atomic: there is nothing to wait for.
            stream_wait_empty=False,
            web_enabled=False,
            ConsumerScheduler=type("Scheduler", (LotScheduler,), {"size": batch}),
            Monitor=QuietMonitor,
        )
        names = [kafka.topic(logical) for logical in kafka.inputs]
        self.lots = self.topic(*names, schema=LotSchema(), maxsize=WAITING_LOTS)
        self.agent(self.lots, name="churnwatch", concurrency=1)(self._read)

    def _new_transport(self) -> Transport:
        return Transport(self.conf.broker_consumer, self)

    def _new_producer_transport(self) -> Transport:
        return Transport(self.conf.broker_producer, self)

    def _create_directories(self) -> None:
        """Faust's folder is for tables; we have none."""

    async def _read(self, stream: Any) -> None:
        async for event in stream.events():
            try:
                await self.owner.lot(event.value)
            except Exception as error:  # noqa: BLE001
                # Raised out of the loop the lot would be acknowledged and skipped.
                self.owner.fail(error)
                await asyncio.Event().wait()

    async def start_here(self) -> None:
        """Start in the running loop. Raises what kept the consumer from starting."""
        self.loop = asyncio.get_running_loop()
        self.finalize()
        await self.start()
        if self.crashed:
            raise self.crash_reason or RuntimeError("Faust did not start")

    async def output_partitions(self, topic: str) -> int:
        """How many partitions a topic that is written to has now; waits until it is known."""
        return len(await self.producer._ensure_producer().partitions_for(topic))

    async def produce(self, topic: str, partition: int, messages: Sequence[Message]) -> int:
        """Send the first of the messages in one record batch, which is written whole or not at all; returns how
        many went in, when the brokers have acknowledged them. Message by message it costs ten times as much.

        Raises :class:`TooLargeError` for a message that no broker would take.
        """
        producer = self.producer._ensure_producer()
        batch = producer.create_batch()
        now = round(time.time() * 1000)
        count = 0
        for message in messages:
            added = batch.append(
                timestamp=now, key=message.key, value=message.value, headers=list(message.headers)
            )
            if added is None:
                break
            count += 1
        batch.close()
        if batch.size() > MAX_MESSAGE_BYTES:
            raise TooLargeError(f"{batch.size()} bytes; at most {MAX_MESSAGE_BYTES} are sent")
        await (await producer.send_batch(batch, topic, partition=partition))
        return count


class LogAway(Exception):
    """The brokers could not be asked about their logs. They may come back."""


class TooLargeError(Exception):
    """A message is larger than producer or broker allow."""


def is_too_large(error: BaseException) -> bool:
    """Whether a broker (or our own limit) refused a message for its size, for good."""
    return isinstance(error, (TooLargeError, MessageSizeTooLargeError))


def partition_of(key: bytes, count: int) -> int:
    """Where Kafka's own partitioner puts a key."""
    return int(murmur2(key) & 0x7FFFFFFF) % count


def running_loop_is_fast() -> bool:
    """Whether the running event loop is uvloop's, about an eighth of the CPU of the whole path."""
    return type(asyncio.get_running_loop()).__module__.startswith("uvloop")


async def topic_partitions(kafka: Kafka, patience: float, needed: Collection[str] = ()) -> dict[str, int]:
    """All topics and their numbers of partitions, from metadata alone (an embedded broker has no more).

    Raises :class:`KafkaBroken` when no broker answers within ``patience`` seconds, or none lets us in, or this user may
    not see one that is ``needed``.
    """
    end = time.monotonic() + patience
    auth = kafka.aiokafka()
    auth["request_timeout_ms"] = int(min(kafka.request_timeout, PROBE_TIMEOUT) * 1000)
    asked = -ASK_EVERY
    advice: reach.Advice | None = None
    while True:
        client = AIOKafkaClient(bootstrap_servers=list(kafka.brokers), **auth)
        try:
            await client.bootstrap()
            cluster = await client.fetch_all_metadata()
            found = {topic: len(cluster.partitions_for_topic(topic) or ()) for topic in cluster.topics()}
            missing = [topic for topic in needed if topic not in found]
            if missing and (hidden := await asyncio.to_thread(reach.hidden, kafka, missing)):
                raise KafkaDenied(
                    f"Kafka does not let us see {', '.join(hidden)}: the user needs READ on it. {RIGHTS}"
                )
            return found
        except KafkaError as error:
            why = await _refused(kafka, auth) or error
            if not (isinstance(why, KafkaConnectionError) or _retriable(why)):
                raise explained(why) from error
            names = ", ".join(kafka.brokers)
            now = time.monotonic()
            if now - asked >= ASK_EVERY or now >= end:
                before, asked = advice, now
                advice = await asyncio.to_thread(reach.kafka, kafka)
                if now >= end or (advice and advice.final and advice == before):
                    if advice is None:
                        raise explained(why) from error
                    what = advice.what or f"Kafka does not answer at {names}"
                    raise KafkaBroken(f"{what}. {advice.why} {advice.todo}") from error
                log.warning(
                    "Kafka does not answer at %s yet: %s Trying again for %.0f s",
                    names,
                    advice.why if advice else f"{why!r}.",
                    end - now,
                )
                if advice and advice.final:
                    asked = (
                        -ASK_EVERY
                    )  # and look again at once: a broker that starts may have been in the way
            await asyncio.sleep(min(1.0, max(0.0, end - time.monotonic())))
        finally:
            await client.close()


async def _refused(kafka: Kafka, auth: Mapping[str, Any]) -> BaseException | None:
    """Why no broker lets us in; aiokafka's bootstrap only logs it."""
    why: BaseException | None = None
    for broker in kafka.brokers:
        host, _, port = broker.rpartition(":")
        try:
            connection = await create_conn(host.strip("[]"), int(port), **auth)
        except (OSError, KafkaError, TimeoutError) as error:
            why = why or error
        else:
            connection.close()
            return None
    return why


def _retriable(error: BaseException) -> bool:
    if isinstance(error, KafkaError):
        return bool(error.retriable)
    return not isinstance(error, ssl.SSLCertVerificationError)


def explained(error: BaseException) -> KafkaBroken:
    """What an error of Kafka means to who has to act."""
    match error:
        case ssl.SSLCertVerificationError():
            advice = reach.distrust(error, "kafka")
            return KafkaBroken(f"{advice.what}. {advice.why} {advice.todo}")
        case AuthenticationFailedError() | SaslAuthenticationFailed() | UnsupportedSaslMechanismError():
            text = "Kafka does not let us in: check kafka.sasl, kafka.username and kafka.password (password_file)."
        case GroupAuthorizationFailedError():
            text = f"Kafka does not let us into the consumer group: the user needs READ on it (see kafka.group). {RIGHTS}"
        case TopicAuthorizationFailedError():
            text = f"Kafka does not let us read a topic: the user needs READ on all that is read. {RIGHTS}"
        case OffsetOutOfRangeError() | NoOffsetForPartitionError():
            text = (
                "What is to be read next is no longer in Kafka (retention was shorter than the worker was away, or "
                "the topic was created anew while the worker ran). Start the worker again: it says how many records "
                "are missing."
            )
        case KafkaConnectionError() | OSError():  # a refused connection, an unknown host, a time-out
            text = "No broker answers: check kafka.brokers, kafka.tls, and that the brokers run."
        case _:
            text = "Kafka cannot go on."
    denied = isinstance(error, (GroupAuthorizationFailedError, TopicAuthorizationFailedError))
    return (KafkaDenied if denied else KafkaBroken)(f"{text} ({error!r})")


def _credentials(kafka: Kafka, context: ssl.SSLContext | None) -> Any:
    if kafka.sasl is not None:
        assert kafka.password is not None  # the settings see to it
        return faust.SASLCredentials(
            mechanism=kafka.sasl,
            username=kafka.username,
            password=kafka.password.reveal(),
            ssl_context=context,
        )
    if context is not None:
        return faust.SSLCredentials(context)
    return None
