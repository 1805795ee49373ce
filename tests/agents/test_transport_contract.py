"""What ``agents.transport`` leans on inside Faust, mode and aiokafka.

An upgrade that changes one of these fails here, not at a customer's. First the versions and the text of every
method that we override or reach into, each with what we rely on; then the same as behaviour where it can be seen
without servers (with servers: ``test_conditions.py``). After an upgrade read what has changed, mend the transport
if need be, and record the new fingerprint.
"""

from __future__ import annotations

import asyncio
import hashlib
import inspect
import socket
import ssl
import subprocess
import sys
from collections.abc import Callable
from importlib import metadata
from types import SimpleNamespace
from typing import Any

import aiokafka
import faust
import pytest
from aiokafka.cluster import ClusterMetadata
from aiokafka.consumer import fetcher, group_coordinator, subscription_state
from aiokafka.consumer.consumer import AIOKafkaConsumer
from aiokafka.coordinator.assignors.abstract import AbstractPartitionAssignor
from aiokafka.errors import IllegalStateError
from aiokafka.producer import message_accumulator
from aiokafka.structs import TopicPartition
from faust.app.base import App as FaustApp
from faust.sensors.monitor import Monitor
from faust.tables.recovery import Recovery
from faust.transport import consumer as base
from faust.transport import producer as producers
from faust.transport.conductor import ConductorCompiler
from faust.transport.drivers import aiokafka as driver
from faust.types import TP
from mode import Service
from mode.services import ServiceTask
from mode.threads import MethodQueue, ServiceThread, WorkerThread

from agents import transport
from agents.settings import Kafka, Secret
from tests.servers import KafkaServer


@pytest.mark.parametrize(
    ("package", "version"),
    [("faust-streaming", "0.15.3"), ("mode-streaming", "0.7.1"), ("aiokafka", "0.14.0")],
)
def test_the_versions_are_those_that_the_transport_was_written_for(package: str, version: str) -> None:
    assert metadata.version(package) == version


def fingerprint(thing: Any) -> str:
    """Of the source without its comments and white space."""
    lines = (line.split("  # ")[0].strip() for line in inspect.getsource(thing).splitlines())
    text = "\n".join(line for line in lines if line and not line.startswith("#"))
    return hashlib.sha256(text.encode()).hexdigest()[:12]


CONSUMER, THREAD = base.Consumer, driver.AIOKafkaConsumerThread
LEANED_ON: list[tuple[Any, str, str]] = [
    (
        CONSUMER.__init__,
        "adc123b1205f",
        "makes the scheduler from the setting without arguments; _read_offset and _acked",
    ),
    (
        CONSUMER.getmany,
        "21d536260dc7",
        "iterates scheduler.iterate(fetched), then _to_message; drops on a new generation",
    ),
    (CONSUMER._wait_next_records, "2ef4eefa2c02", "asks _getmany only, with the active partitions"),
    (
        CONSUMER._drain_messages,
        "3265380b48ee",
        "reads and writes _read_offset through its methods, gaps through _add_gap",
    ),
    (CONSUMER.perform_seek, "cdb1c23be724", "is seek_to_committed and then _read_offset.update"),
    (CONSUMER._new_offset, "9f425b34cc45", "the only source of what is committed to Kafka"),
    (CONSUMER._filter_committable_offsets, "ebc9df290770", "asks _new_offset for each partition with acks"),
    (CONSUMER._commit_offsets, "392a2d988fc0", "ends in _commit, ignores its False"),
    (CONSUMER._add_gap, "e461cdf028ef", "keeps books that a batch's offset would upset"),
    (
        CONSUMER.on_buffer_full,
        "f2d1c652aada",
        "takes a full partition out of the active ones, then sleeps a second",
    ),
    (CONSUMER.on_partitions_revoked, "e7564e625d0b", "is awaited before the group goes on"),
    (CONSUMER.on_partitions_assigned, "a2f6d5bbb1b6", "is awaited also where nothing is assigned"),
    (Recovery._resume_streams, "66178e8c7483", "seeks only where something is assigned"),
    (driver.Consumer.verify_event_path, "cac9905ae91e", "only logs"),
    (driver.Consumer._to_message, "b68886661fc3", "reads the fields that Batch has"),
    (driver.Consumer._new_consumer_thread, "cd26d06ef170", "makes the thread"),
    (base.ThreadDelegateConsumer._getmany, "4d54988be08f", "goes to the thread"),
    (base.ThreadDelegateConsumer.seek_to_committed, "d9a0f7c75bce", "is what we replace by the claim"),
    (base.ThreadDelegateConsumer._commit, "f4b72c7892d6", "goes to the thread"),
    (base.Fetcher._fetcher.fun, "670047f1d1d9", "dies alone of an error in _getmany"),
    (THREAD.__post_init__, "58ba254bd133", "runs before the thread"),
    (THREAD.getmany, "faf6e6013bef", "calls _fetch_records in the thread"),
    (
        THREAD._fetch_records,
        "75048a2cb7da",
        "returns what fetched_records returned, nothing is awaited in between",
    ),
    (THREAD._create_worker_consumer, "a1e0167498bf", "makes the consumer that we tune before it starts"),
    (THREAD._commit, "ddc1eb3a1c7c", "crashes the app on any error"),
    (THREAD._highwaters, "5915b03acfb9", "the ends of the log as the brokers tell"),
    (
        driver.ConsumerRebalanceListener,
        "221a428d3b0c",
        "sets app.rebalancing at once and the generation before claims",
    ),
    (driver.Producer._ensure_producer, "96b2a3da0af9", "the aiokafka producer, once it is started"),
    (aiokafka.AIOKafkaProducer.partitions_for, "7c2741b6fc8d", "waits until the topic is known"),
    (aiokafka.AIOKafkaProducer.create_batch, "36f10539953b", "a batch of producer_max_batch_size"),
    (
        aiokafka.AIOKafkaProducer.send_batch,
        "98e01e08ed4c",
        "one batch of one partition; its future ends with the answer",
    ),
    (
        message_accumulator.BatchBuilder,
        "2913c3faeb14",
        "takes the first message whatever its size, None when full",
    ),
    (driver.credentials_to_aiokafka_auth, "c48d5a246783", "how credentials reach aiokafka"),
    (producers.Producer.__init__, "5050b77dd8af", "takes acks, sizes and time-outs from the settings"),
    (ConductorCompiler.build, "a980ed1f49c8", "hands a message to its streams"),
    (
        Recovery.on_recovery_completed,
        "9d601706f3f5",
        "calls perform_seek within broker_request_timeout, then resumes",
    ),
    (
        FaustApp._on_partitions_revoked,
        "67caf4ad2e54",
        "stops the flow, clears buffers, waits for streams only if told",
    ),
    (FaustApp._on_partitions_assigned, "9e2b7ef12585", "leads to recovery"),
    (FaustApp._new_transport, "2644c0e1e602", "makes the transport of the consumer"),
    (FaustApp._new_producer_transport, "814d117fb148", "makes the transport of the producer"),
    (FaustApp._create_directories, "5e40d6b1a5c0", "only makes the folders of tables"),
    (FaustApp.create_event, "4c23eed9bb86", "takes key, value, headers, message"),
    (faust.Schema.compile, "5974592c0201", "gives the decoder that Conductor awaits"),
    (ServiceThread.start, "cd07aae71d3b", "makes its thread from Worker"),
    (ServiceThread._start_thread, "1155fa658f65", "runs the loop in the thread"),
    (WorkerThread.__init__, "d6c9fb0ca3ef", "sets daemon to False"),
    (MethodQueue.call, "a9d0ac0d4b1f", "runs a method in the other loop"),
    (Service.crash, "60d7eb785cdd", "sets crash_reason all the way up"),
    (
        fetcher.Fetcher.fetched_records,
        "35512671ebbc",
        "pops and returns without a point of suspension; errors are records",
    ),
    (
        fetcher.Fetcher._proc_fetch_request,
        "0e9e17b0c5b9",
        "sets highwater and timestamp (ms) from one response",
    ),
    (
        fetcher.Fetcher._update_fetch_positions,
        "ad774dbac5e9",
        "no reset strategy: an error record, position untouched",
    ),
    (AIOKafkaConsumer.start, "5a3c9f9ca8c6", "passes the fetch tuning and the assignors on"),
    (AIOKafkaConsumer.seek, "18d56e297eab", "is no coroutine"),
    (AIOKafkaConsumer.commit, "145df7ea17d5", "commits in the generation that we are in"),
    (group_coordinator.GroupCoordinator.check_errors, "98643f8549bf", "raises what was parked, once"),
    (
        subscription_state.TopicPartitionState,
        "15aca86a899a",
        "position, highwater, timestamp, has_valid_position",
    ),
    (subscription_state.Assignment, "be66cc7de92f", "tps and state_value"),
    (AbstractPartitionAssignor, "615606fc9be5", "assign, metadata, on_assignment and name"),
    (Monitor.on_rebalance_start, "2abd9dfdf204", "its result is handed back"),
]


@pytest.mark.parametrize(
    ("thing", "recorded", "why"), LEANED_ON, ids=[thing.__qualname__ for thing, _, _ in LEANED_ON]
)
def test_the_source_that_we_lean_on_is_the_one_we_have_read(thing: Any, recorded: str, why: str) -> None:
    found = fingerprint(inspect.unwrap(thing))
    assert found == recorded, f"{thing.__qualname__} has changed ({found}); we rely on: {why}"


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        (transport.Consumer, driver.Consumer),
        (transport.ConsumerThread, THREAD),
        (transport.QuietMonitor, Monitor),
        (transport.App, FaustApp),
        (transport.CopartitionAssignor, AbstractPartitionAssignor),
        (transport.LotSchema, faust.Schema),
        (transport.Transport, driver.Transport),
    ],
)
def test_every_override_overrides_something_and_can_be_called_like_it(ours: type, theirs: type) -> None:
    known: dict[Any, set[str]] = {
        transport.Consumer: {
            "assigned", "kept_since", "log_ends", "partition_counts", "proves", "seek_exact", "seen", "stop_reading", "void",
            "_watch_coordinator",
        },
        transport.ConsumerThread: {
            "_look", "check_coordinator", "coordination_ended", "kept_since", "proves", "seek_exact", "Worker",
        },
        transport.App: {"_read", "start_here", "produce", "output_partitions"},
    }  # fmt: skip
    new = known.get(ours, set())
    for name, value in vars(ours).items():
        if name.startswith("__") or name in new or name in {"version", "_abc_impl", "_tasks", "_logger_name"}:
            continue
        if not (callable(value) or isinstance(value, (classmethod, ServiceTask))):
            continue
        assert hasattr(theirs, name), f"{ours.__name__}.{name} overrides nothing any more"
        original = getattr(theirs, name)
        if inspect.isfunction(value) and inspect.isfunction(inspect.unwrap(original)):
            same = inspect.iscoroutinefunction(value) == inspect.iscoroutinefunction(inspect.unwrap(original))
            assert same, f"{ours.__name__}.{name}: one of the two is a coroutine"


def record(offset: int, topic: str = "t", partition: int = 0) -> Any:
    return aiokafka.ConsumerRecord(topic, partition, offset, 1_700_000_000_000, 0, b"k", b"v", None, 1, 1, ())


def test_a_lot_passes_for_a_record_with_faust() -> None:
    tp = TP("t", 0)
    lot = transport.Lot(tp, transport.Batch([record(7), record(9)], prev=5, epoch=3))
    owner = SimpleNamespace(app=SimpleNamespace(consumer_generation_id=4))
    message = driver.Consumer._to_message(owner, tp, lot)
    assert (message.topic, message.partition, message.offset, message.value) == ("t", 0, 9, lot)
    assert message.generation_id == 4


Cut = list[tuple[TP, int, list[int], int]]


def cut(lot: transport.Lot) -> Cut:
    return [(tp, b.prev, [r.offset for r in b.records], b.epoch) for tp, b in lot.batches.items()]


def test_the_scheduler_keeps_together_what_was_fetched_together_up_to_a_size() -> None:
    a, b, c = TP("a", 0), TP("b", 0), TP("c", 1)
    fetched = transport.Fetched({
        a: [record(n, "a") for n in (3, 4, 8)], b: [record(0, "b")], c: [record(5, "c"), record(6, "c")],
    })  # fmt: skip
    fetched.prev = {a: 2, b: 0, c: 5}
    fetched.epoch = 6
    scheduler = type("Two", (transport.LotScheduler,), {"size": 2})()
    lots = list(scheduler.iterate(fetched))
    assert [tp for tp, _ in lots] == [a, a, c]
    assert [cut(lot) for _, lot in lots] == [
        [(a, 2, [3, 4], 6)], [(a, 5, [8], 6), (b, 0, [0], 6)], [(c, 5, [5, 6], 6)],
    ]  # fmt: skip


def fetched(offsets: list[int], prev: int, epoch: int = 1, topic: str = "a") -> transport.Fetched:
    found = transport.Fetched({TP(topic, 0): [record(offset, topic) for offset in offsets]})
    found.prev, found.epoch = {TP(topic, 0): prev}, epoch
    return found


@pytest.mark.parametrize(
    ("offsets", "prev", "epoch", "taken", "joins"),
    [
        ([3, 4], 3, 1, False, True),
        ([3, 4], 3, 1, True, False),
        ([5, 6], 5, 1, False, False),
        ([3, 4], 3, 2, False, False),
        ([3, 4, 5, 6], 3, 1, False, False),
    ],
    ids=["right behind", "already taken up", "behind a hole", "popped after a seek", "no room"],
)
def test_what_is_fetched_joins_a_lot_that_waits_where_it_follows_and_there_is_room(
    offsets: list[int], prev: int, epoch: int, taken: bool, joins: bool
) -> None:
    scheduler = type("Five", (transport.LotScheduler,), {"size": 5})()
    ((_, first),) = scheduler.iterate(fetched([1, 2], 1))
    first.taken = taken
    after = [lot for _, lot in scheduler.iterate(fetched(offsets, prev, epoch))]
    tp = TP("a", 0)
    assert cut(first) == [(tp, 1, [1, 2, *offsets] if joins else [1, 2], 1)]
    assert first.count == len(first.batches[tp].records)
    assert [cut(lot) for lot in after] == ([] if joins else [[(tp, prev, offsets, epoch)]])


def test_another_partition_joins_a_lot_that_waits_and_what_follows_goes_to_the_newest() -> None:
    scheduler = type("Five", (transport.LotScheduler,), {"size": 5})()
    ((_, first),) = scheduler.iterate(fetched([1, 2], 1))
    assert not list(scheduler.iterate(fetched([7, 8], 7, epoch=2, topic="b")))
    ((tp, second),) = scheduler.iterate(fetched([9, 10], 9, epoch=2, topic="b"))
    assert not list(scheduler.iterate(fetched([3], 3)))
    a, b = TP("a", 0), TP("b", 0)
    assert tp == b
    assert cut(first) == [(a, 1, [1, 2], 1), (b, 7, [7, 8], 2)]
    assert cut(second) == [(b, 9, [9, 10], 2), (a, 3, [3], 1)]
    assert (first.count, second.count) == (4, 3)


def test_nothing_joins_a_lot_of_before_a_rebalance() -> None:
    scheduler = transport.LotScheduler()
    ((_, first),) = scheduler.iterate(fetched([1, 2], 1))
    scheduler.forget()
    ((_, second),) = scheduler.iterate(fetched([3], 3))
    assert [cut(lot) for lot in (first, second)] == [[(TP("a", 0), 1, [1, 2], 1)], [(TP("a", 0), 3, [3], 1)]]


@pytest.mark.parametrize("members", [1, 2, 3, 4, 7])
def test_the_assignor_never_splits_a_number_and_spreads_them_evenly(members: int) -> None:
    topics = ["a", "b", "c"]
    cluster = SimpleNamespace(partitions_for_topic=lambda topic: set(range(6)))
    group = {f"m{i}": transport.CopartitionAssignor.metadata(topics) for i in range(members)}
    given = transport.CopartitionAssignor.assign(cluster, group)
    owners: dict[int, set[str]] = {}
    for member, assignment in given.items():
        for topic, numbers in assignment.assignment:
            assert topic in topics
            for number in numbers:
                owners.setdefault(number, set()).add(member)
    assert sorted(owners) == list(range(6))
    assert all(len(who) == 1 for who in owners.values())
    loads = [sum(len(n) for _, n in a.assignment) for a in given.values()]
    assert max(loads) - min(loads) <= len(topics)
    # It travels through Kafka's own encoding.
    for assignment in given.values():
        assert type(assignment).decode(assignment.encode()).assignment == assignment.assignment


def test_faust_forgets_no_read_offset_because_it_never_knows_one() -> None:
    forgetful = transport._Forgetful()
    forgetful[TP("t", 0)] = 5
    forgetful.update({TP("t", 0): 5})
    assert forgetful.__getitem__(TP("t", 0)) is None
    assert forgetful.pop(TP("t", 0), None) is None


class _Owner:
    """Enough of an owner to make an application that is never started."""

    claim = batch = None
    revoked = applied = mirrored = fail = None


@pytest.fixture
def made() -> Callable[..., Any]:
    def make(**kafka: Any) -> Any:
        async def body() -> Any:
            app = transport.App(Kafka(**kafka), "group", 123, _Owner())  # type: ignore[arg-type]
            app.loop = asyncio.get_running_loop()
            consumer = app.consumer
            inner = consumer._thread._create_worker_consumer(consumer.transport)
            found = SimpleNamespace(app=app, consumer=consumer, kafka=inner)
            consumer._thread.thread_loop.close()
            inner._closed = True  # it was never started
            return found

        return asyncio.run(body())

    return make


def test_the_consumer_is_made_as_we_mean_it(made: Callable[..., Any]) -> None:
    found = made(brokers=("k1:9092", "k2:9093"), session_timeout=7.0, request_timeout=30.0)
    kafka = found.kafka
    assert type(found.consumer) is transport.Consumer
    assert type(found.consumer._thread) is transport.ConsumerThread
    assert kafka._client._bootstrap_servers == ["k1:9092", "k2:9093"]
    assert kafka._group_id == "group"
    assert kafka._partition_assignment_strategy == [transport.CopartitionAssignor]
    assert kafka._fetch_min_bytes == transport.FETCH_MIN_BYTES
    assert kafka._fetch_max_wait_ms == transport.FETCH_MAX_WAIT_MS
    assert kafka._max_poll_records == 123
    assert kafka._auto_offset_reset == "none"
    assert kafka._session_timeout_ms == 7000
    assert not kafka._enable_auto_commit
    assert found.consumer.scheduler.size == 123
    assert found.app.conf.stream_wait_empty is False
    assert found.consumer._thread.Worker.__mro__[1] is WorkerThread
    assert isinstance(found.app.monitor, transport.QuietMonitor)


def test_credentials_reach_aiokafka(made: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> None:
    sasl = made(sasl="SCRAM-SHA-512", username="me", password=Secret("pw"))
    client = sasl.kafka._client
    assert (client._security_protocol, client._sasl_mechanism) == ("SASL_PLAINTEXT", "SCRAM-SHA-512")
    assert (client._sasl_plain_username, client._sasl_plain_password) == ("me", "pw")
    tls = made(tls=True)
    assert tls.kafka._client._security_protocol == "SSL"
    assert isinstance(tls.kafka._client._ssl_context, ssl.SSLContext)
    both = made(tls=True, sasl="PLAIN", username="me", password=Secret("pw"))
    assert both.kafka._client._security_protocol == "SASL_SSL"
    producer = both.app.producer._settings_auth()
    assert producer["security_protocol"] == "SASL_SSL"
    assert producer["sasl_plain_username"] == "me"


def test_what_we_read_of_aiokafkas_state_is_there() -> None:
    async def body() -> None:
        tp = TopicPartition("t", 0)
        assignment = subscription_state.Assignment([tp])
        state = assignment.state_value(tp)
        assert (state.highwater, state.timestamp, state.has_valid_position) == (None, None, False)
        state.seek(5)
        assert (state.position, state.has_valid_position) == (5, True)
        assert assignment.tps == {tp}
        consumer = aiokafka.AIOKafkaConsumer(bootstrap_servers="localhost:1", group_id="g")
        assert consumer._subscription.subscription is None
        assert isinstance(consumer._client.cluster, ClusterMetadata)
        assert consumer._client.cluster.partitions_for_topic("t") is None
        await consumer.stop()

    asyncio.run(body())


def test_sending_is_not_delayed_and_a_messages_limit_is_that_of_a_dead_letter(
    made: Callable[..., Any],
) -> None:
    producer = made().app.producer
    settings = producer._settings_default()
    assert (settings["acks"], settings["linger_ms"]) == (-1, 5)
    assert settings["max_request_size"] == transport.MAX_MESSAGE_BYTES


def test_nothing_of_faust_is_written_to_disk_and_no_web_server_is_started(
    made: Callable[..., Any], tmp_path: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    app = made().app
    app._create_directories()
    assert list(tmp_path.iterdir()) == []
    assert app.conf.web_enabled is False


def test_uvloop_is_the_loop_of_the_process_and_of_fausts_threads() -> None:
    """Chosen before the first loop is made; put into Faust's arguments later it would be ignored."""
    code = (
        "import asyncio, agents.worker as w; w.use_uvloop()\n"
        "print(type(asyncio.new_event_loop()).__module__)\n"
        "async def main(): print(w.transport.running_loop_is_fast())\n"
        "asyncio.run(main())\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["uvloop", "True"], done.stderr


def test_a_partition_that_a_rebalance_has_taken_away_is_not_sought(
    kafka: KafkaServer, topics: Callable[..., list[str]]
) -> None:
    """aiokafka refuses to seek what is not assigned; a rebalance between a claim and its seek makes that happen."""
    (name,) = topics("purchases", partitions=2)
    kept, gone = TopicPartition(name, 0), TopicPartition(name, 1)

    async def body() -> None:
        consumer = AIOKafkaConsumer(bootstrap_servers=kafka.brokers, group_id=name, enable_auto_commit=False)
        consumer.assign([kept])
        await consumer.start()
        try:
            with pytest.raises(IllegalStateError):
                consumer.seek(gone, 0)
            thread: Any = SimpleNamespace(_ensure_consumer=lambda: consumer, popped={}, epoch=4, seen={})
            starts = {(name, 0): 7, (name, 1): 9}
            assert await transport.ConsumerThread.seek_exact(thread, starts) == (5, {(name, 0)})
            assert thread.popped == {(name, 0): 7}
            assert await consumer.position(kept) == 7
        finally:
            await consumer.stop()

    asyncio.run(body())


@pytest.mark.parametrize(
    "error", [ConnectionRefusedError(111, "refused"), TimeoutError(), socket.gaierror(-2, "unknown host")]
)
def test_a_broker_that_is_not_there_is_explained_with_what_to_check(error: OSError) -> None:
    assert "No broker answers: check kafka.brokers" in str(transport.explained(error))
