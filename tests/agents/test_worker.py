"""The worker in this process, with the smallest core, on a real Kafka and a real Redis."""

from __future__ import annotations

import ast
import asyncio
import contextlib
import inspect
import json
import re
import textwrap
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import aiohttp
import pytest

from agents import relay, worker
from agents.files import Reading, Refusal, read
from agents.send import Route, Sender, feed
from agents.store import Store
from agents.transport import partition_of
from agents.worker import Worker
from streams.codec import Codec
from streams.message import Message
from tests.agents.shell import START, Shell, eventually, run
from tests.servers import ROOT, KafkaServer, RedisServer, read_all

Topics = Callable[..., list[str]]
DAY = timedelta(days=1)
DAY_MICROS = 86_400_000_000


@pytest.fixture
def shell(kafka: KafkaServer, redis_server: RedisServer, application: str, prefix: str) -> Shell:
    return Shell(kafka.brokers, redis_server.url, application, prefix)


def micros(at: datetime) -> int:
    return round(at.timestamp() * 1_000_000)


def test_every_event_is_applied_once_in_order_and_what_is_decided_leaves_once(
    shell: Shell, topics: Topics
) -> None:
    shell.inputs = ("purchases", "browses", "complaints")
    topics(*shell.inputs, "alerts", partitions=4)
    sent = sum(shell.send(topic, [f"c{i % 50}" for i in range(1000)]) for topic in shell.inputs)

    async def body() -> None:
        async with shell.worker():
            await eventually(lambda: shell.counted(4) == sent)
            shell.send("browses", ["c1"] * 10)
            await eventually(lambda: shell.counted(4) == sent + 10)
            await eventually(lambda: shell.waiting(4) == 0)

    run(body())
    assert shell.seen(4) == shell.right()
    alerts = shell.alerts()
    assert (
        len(alerts) == len(set(alerts)) == sum(n // 3 for c in shell.right().values() for n, _ in c.values())
    )


@pytest.mark.parametrize("partitions", [4, 3])
def test_what_leaves_lies_where_kafkas_own_partitioner_puts_its_customer(
    shell: Shell, topics: Topics, partitions: int
) -> None:
    """Also where the topic of alerts has another number of partitions than the input."""
    topics("purchases", partitions=4)
    topics("alerts", partitions=partitions)
    sent = shell.send("purchases", [f"c{i % 30}" for i in range(90)])

    async def body() -> None:
        async with shell.worker():
            await eventually(lambda: shell.counted(4) == sent)
            await eventually(lambda: shell.waiting(4) == 0)

    run(body())
    left = read_all(shell.brokers, [shell.prefix + "alerts"])
    assert len(left) == 30
    assert all(record.partition() == partition_of(record.key(), partitions) for record in left)


def test_a_topic_that_is_added_later_is_read_from_its_beginning(shell: Shell, topics: Topics) -> None:
    topics("purchases", "browses", "alerts", partitions=2)
    shell.send("browses", ["c1", "c2"] * 20)
    shell.send("purchases", ["c1", "c2"] * 10)

    async def body() -> None:
        async with shell.worker():
            await eventually(lambda: shell.counted(2) == 20)
        shell.inputs = ("purchases", "browses")
        async with shell.worker():
            await eventually(lambda: shell.counted(2) == 60)

    run(body())
    assert shell.seen(2) == shell.right()


def test_under_the_record_clock_timers_fire_oldest_first_in_several_commits_before_later_records(
    shell: Shell, topics: Topics, monkeypatch: pytest.MonkeyPatch
) -> None:
    """More is due than fits one commit; the offset moves past the clock record at the end only."""
    monkeypatch.setattr(worker, "DUE_LIMIT", 10)
    (name, *_) = topics("purchases", "alerts", partitions=1)
    core = shell.core(silence=DAY_MICROS)
    offsets: list[int | None] = []
    fire = core.timers

    def timers(*arguments: Any) -> Any:
        offsets.append(shell.offsets(1).get((name, 0)))
        return fire(*arguments)

    core.timers = timers  # type: ignore[assignment,method-assign]

    async def body() -> None:
        for i in range(35):
            shell.send("purchases", [f"c{i:02}"], at=START + timedelta(minutes=i))
        shell.tick("purchases", START + 2 * DAY, 1)
        shell.send("purchases", ["c00"], at=START + 2 * DAY)
        async with shell.worker(core):
            await eventually(lambda: shell.counted(1) == 36)

    run(body())
    assert core.fired == [
        (micros(START + timedelta(minutes=i)) + DAY_MICROS, b"c%02d" % i) for i in range(35)
    ]
    assert offsets == [35] * 4
    assert shell.states(1)[b"c00"].silences == 1


def test_under_the_record_clock_nothing_fires_before_every_topic_has_its_clock_record(
    shell: Shell, topics: Topics
) -> None:
    shell.inputs = ("purchases", "browses")
    topics(*shell.inputs, "alerts", partitions=1)
    core = shell.core(silence=DAY_MICROS)

    async def body() -> None:
        shell.send("purchases", ["c1"])
        shell.tick("purchases", START + 5 * DAY, 1)
        async with shell.worker(core):
            await eventually(lambda: shell.offsets(1).get((shell.prefix + "purchases", 0)) == 2)
            assert core.fired == []
            shell.tick("browses", START + DAY, 1)
            await eventually(lambda: len(core.fired) == 1)

    run(body())


def test_a_jump_that_was_interrupted_is_finished_by_the_next_worker(
    shell: Shell, topics: Topics, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(worker, "DUE_LIMIT", 5)
    topics("purchases", "alerts", partitions=1)
    first, second = shell.core(silence=DAY_MICROS), shell.core(silence=DAY_MICROS)

    class Interrupted(Exception):
        pass

    fire = first.timers

    def timers(*arguments: Any) -> Any:
        if len(first.fired) == 10:
            raise Interrupted
        return fire(*arguments)

    first.timers = timers  # type: ignore[assignment,method-assign]

    async def interrupted() -> None:
        shell.send("purchases", [f"c{i:02}" for i in range(20)])
        shell.tick("purchases", START + 2 * DAY, 1)
        async with shell.worker(first) as working:
            await asyncio.wait_for(asyncio.shield(working.failed), 15)

    async def body() -> None:
        async with shell.worker(second):
            await eventually(lambda: len(second.fired) == 10)
            await eventually(lambda: shell.waiting(1) == 0)

    with pytest.raises(Interrupted):
        run(interrupted())
    run(body())
    assert [key for _, key in first.fired + second.fired] == [b"c%02d" % i for i in range(20)]
    # A worker that ends between sending and forgetting leaves what is sent again, under the same id.
    assert sorted(set(shell.alerts())) == [f"c{i:02}:silent:1" for i in range(20)]


def test_under_the_wall_clock_silence_fires_once_everything_has_been_read_and_clock_records_do_nothing(
    shell: Shell, topics: Topics
) -> None:
    shell.clock = "wall"
    shell.inputs = ("purchases", "browses")
    topics(*shell.inputs, "alerts", partitions=1)
    core = shell.core(silence=600_000)

    async def body() -> None:
        async with shell.worker(core) as working:
            shell.tick("purchases", START + 9 * DAY, 1)
            shell.send("purchases", ["c1"], at=datetime.now(UTC))
            await eventually(lambda: core.fired != [])
            (instant, key) = core.fired[0]
            assert key == b"c1"
            owned = working.ownership.get(0)
            assert owned is not None
            assert owned.state.live_since > 0
            assert owned.lease.offsets[shell.prefix + "purchases"] == 2
            assert instant >= owned.lease.offsets[shell.prefix + "browses"]

    run(body())


def test_silence_is_not_invented_while_events_lie_unread_or_redis_is_frozen(
    shell: Shell, topics: Topics, own_redis: Callable[..., RedisServer]
) -> None:
    shell.clock = "wall"
    redis = own_redis()
    shell.redis_url, shell.patience, shell.timeout = redis.url, 30.0, 0.5
    topics("purchases", "alerts", partitions=1)
    core = shell.core(silence=1_500_000)

    async def body() -> None:
        async with shell.worker(core) as working:
            await eventually(lambda: working.ownership.get(0) is not None)
            # Each customer comes back within a second, for longer than anybody may be silent.
            with redis.frozen():
                for _ in range(4):
                    shell.send("purchases", [f"c{i}" for i in range(20)], at=datetime.now(UTC))
                    await asyncio.sleep(0.7)
            shell.send("purchases", [f"c{i}" for i in range(20)], at=datetime.now(UTC))
            await eventually(lambda: shell.counted(1) == 100)
            assert core.fired == []
            await eventually(lambda: len(core.fired) == 20)

    run(body())


def test_consumption_pauses_while_redis_is_away_and_resumes_by_itself(
    shell: Shell, topics: Topics, own_redis: Callable[..., RedisServer]
) -> None:
    redis = own_redis(appendfsync="always")
    shell.redis_url, shell.patience, shell.timeout = redis.url, 1.0, 0.5
    topics("purchases", "alerts", partitions=2)

    async def body() -> None:
        async with shell.worker() as working:
            shell.send("purchases", [f"c{i}" for i in range(100)])
            await eventually(lambda: shell.counted(2) == 100)
            redis.kill()
            shell.send("purchases", [f"c{i}" for i in range(100)])
            # Longer than patience: the claims are let go, the worker stays in its group.
            await eventually(lambda: working.ownership.numbers() == [])
            assert not working.failed.done()
            await asyncio.to_thread(redis.start)
            await eventually(lambda: shell.counted(2) == 200)
            await eventually(lambda: shell.waiting(2) == 0)

    run(body())
    assert shell.seen(2) == shell.right()


def test_a_worker_that_starts_before_redis_waits_for_it(
    shell: Shell, topics: Topics, own_redis: Callable[..., RedisServer]
) -> None:
    redis = own_redis()
    shell.redis_url, shell.patience, shell.timeout = redis.url, 15, 0.5
    redis.stop()
    topics("purchases", "alerts", partitions=1)

    async def body() -> None:
        shell.send("purchases", ["c1"])
        loop = asyncio.get_running_loop()
        starting = loop.call_later(1.0, lambda: loop.run_in_executor(None, redis.start))
        async with shell.worker():
            assert starting.when() < loop.time(), "it was not there at first"
            await eventually(lambda: shell.counted(1) == 1)

    run(body())


@contextlib.asynccontextmanager
async def asked(working: Worker) -> AsyncIterator[Callable[[], Awaitable[tuple[int, str]]]]:
    """A worker that serves HTTP, and what its /readyz answers."""
    await working.start()
    try:
        async with aiohttp.ClientSession(f"http://127.0.0.1:{working.http_port}") as http:

            async def ready() -> tuple[int, str]:
                async with http.get("/readyz") as answer:
                    return answer.status, await answer.text()

            yield ready
    finally:
        await working.stop()


async def until(*wanted: tuple[int, str], of: Sequence[Callable[[], Awaitable[tuple[int, str]]]]) -> None:
    """Wait for these answers of workers, in any order."""
    end = asyncio.get_running_loop().time() + 30
    while (said := sorted([await ready() for ready in of])) != list(wanted):
        assert asyncio.get_running_loop().time() < end, said
        await asyncio.sleep(0.02)


def test_ready_means_that_every_assigned_partition_is_claimed(shell: Shell, topics: Topics) -> None:
    topics("purchases", "alerts", partitions=2)

    async def body() -> None:
        working = Worker(shell.settings(), core=shell.core())
        async with asked(working) as ready:
            await until((200, "ready: 2 partitions claimed and caught up\n"), of=[ready])
            async with working.app.consumer.claiming:
                working.ownership.release(1)
                assert await ready() == (503, "1 of 2 partitions not claimed: 1\n")
            async with aiohttp.ClientSession() as http:
                metrics = await http.get(f"http://127.0.0.1:{working.http_port}/metrics")
                assert "churnwatch_partitions_assigned 2.0" in await metrics.text()

    run(body())


@pytest.mark.parametrize("clock", ["wall", "record"])
def test_ready_means_that_all_there_was_has_been_applied(
    shell: Shell, topics: Topics, clock: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    shell.inputs, shell.clock, shell.batch = ("purchases", "browses"), clock, 1
    topics(*shell.inputs, "alerts", partitions=1, message_timestamp_type="CreateTime")
    long_ago = round(START.timestamp() * 1000)
    for number in range(40):
        event = {"id": f"e{number}", "type": "view", "customer": "c1", "time": START.isoformat()}
        shell.producer().produce(shell.prefix + "browses", json.dumps(event), "c1", timestamp=long_ago)
    assert shell.producer().flush(20) == 0
    go_on = asyncio.Event()
    lot = Worker.lot

    async def held(working: Worker, lots: Any) -> None:
        """The first goes by; the others wait, with no lock held, so that the worker looks how far it is."""
        if working.metrics.registry.get_sample_value("churnwatch_decoded_total"):
            await go_on.wait()
        await lot(working, lots)

    monkeypatch.setattr(Worker, "lot", held)

    async def body() -> None:
        working = Worker(shell.settings(), core=shell.core())
        async with asked(working) as ready:
            await until((503, "1 of 1 partitions not caught up: 0\n"), of=[ready])
            await eventually(lambda: shell.counted(1) == 1)
            swept = "churnwatch_lag_records"
            labels = {"topic": "browses", "partition": "0"}
            await eventually(lambda: working.metrics.registry.get_sample_value(swept, labels) == 39)
            assert await ready() == (503, "1 of 1 partitions not caught up: 0\n")
            go_on.set()
            await until((200, "ready: 1 partitions claimed and caught up\n"), of=[ready])
            assert shell.counted(1) == 40

    run(body())


def test_a_spare_worker_is_ready(shell: Shell, topics: Topics) -> None:
    topics("purchases", "alerts", partitions=1)

    async def body() -> None:
        first, second = (Worker(shell.settings(), core=shell.core()) for _ in range(2))
        async with asked(first) as one, asked(second) as other:
            spare, busy = ((200, f"ready: {owned} partitions claimed and caught up\n") for owned in range(2))
            await until(spare, busy, of=[one, other])

    run(body())


def test_messages_of_one_partition_never_overtake_each_other(
    shell: Shell, topics: Topics, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One request after the other, however many it takes; what follows a failure waits for it."""
    topics("purchases", "alerts", partitions=1)
    waiting = [(b"%d" % n, Message("alerts", b"abc"[n % 3 :][:1], b"%d" % n)) for n in range(7)]
    sent: list[list[bytes | None]] = []

    class Brokers:
        async def output_partitions(self, topic: str) -> int:
            return 1

        async def produce(self, topic: str, partition: int, messages: Sequence[Message]) -> int:
            sent.append([message.value for message in messages])
            await asyncio.sleep(0)
            if len(sent) == 3:
                raise OSError("the broker did not answer")
            return 2

    async def body() -> None:
        async with shell.worker() as working:
            owned = working.ownership.get(0)
            assert owned is not None
            monkeypatch.setattr(working.relay, "_brokers", Brokers())
            with pytest.raises(OSError, match="did not answer"):
                await working.relay._send([relay.Waiting(owned.lease, *one) for one in waiting])

    run(body())
    assert [values[0] for values in sent] == [b"0", b"2", b"4"]
    assert [len(values) for values in sent] == [7, 5, 3], "each request offers all that is left"


def test_what_was_not_acknowledged_stays_in_the_outbox_and_holds_back_what_follows_it(
    shell: Shell, topics: Topics, monkeypatch: pytest.MonkeyPatch
) -> None:
    topics("purchases", "alerts", partitions=1)
    monkeypatch.setattr(worker, "RELAY_INTERVAL", 0.1)

    async def body() -> None:
        async with shell.worker() as working:
            send = working.app.produce
            refusals = 3

            async def produce(topic: str, partition: int, messages: Sequence[Message]) -> int:
                nonlocal refusals
                if refusals:
                    refusals -= 1
                    raise OSError("the broker did not answer")
                return await send(topic, partition, messages[:2])

            monkeypatch.setattr(working.app, "produce", produce)
            shell.send("purchases", ["c1", "c2"] * 9)
            await eventually(lambda: shell.counted(1) == 18)
            await eventually(lambda: shell.waiting(1) == 0)

    run(body())
    alerts = shell.alerts()
    assert [a for a in dict.fromkeys(alerts) if a.startswith("c1:")] == [
        f"c1:purchases:{n}" for n in (3, 6, 9)
    ]
    assert [a for a in dict.fromkeys(alerts) if a.startswith("c2:")] == [
        f"c2:purchases:{n}" for n in (3, 6, 9)
    ]


def test_a_message_that_no_broker_takes_is_set_aside_and_holds_nobody_up(
    shell: Shell, topics: Topics
) -> None:
    topics("purchases", partitions=1)
    topics("alerts", partitions=1, max_message_bytes="2000")
    core = shell.core()
    decide = core.events

    def events(*arguments: Any) -> Any:
        turn = decide(*arguments)
        turn.out.append(Message("alerts", b"big", b"x" * 5000))
        turn.out.insert(0, Message("alerts", b"bigger", b"x" * (3 << 20)))
        return turn

    core.events = events  # type: ignore[assignment,method-assign]
    assert shell.send("purchases", ["c1"] * 3) == 3  # before the start: one batch, one turn

    async def body() -> None:
        async with shell.worker(core):
            await eventually(lambda: shell.counted(1) == 3)
            await eventually(lambda: shell.waiting(1) == 0)

    run(body())
    left = {record.key() for record in read_all(shell.brokers, [shell.prefix + "alerts"])}
    assert left == {b"c1"}
    with shell.redis() as client:
        assert client.xlen(f"{{{shell.application}:p0}}:parked") == 2


def test_relay_reads_more_than_one_portion(
    shell: Shell, topics: Topics, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(relay, "COUNT", 7)
    topics("purchases", "alerts", partitions=1)

    async def body() -> None:
        shell.send("purchases", [f"c{i % 10}" for i in range(300)])
        async with shell.worker():
            await eventually(lambda: shell.counted(1) == 300)
            await eventually(lambda: shell.waiting(1) == 0)

    run(body())
    assert len(shell.alerts()) == 100


@pytest.mark.parametrize("step", [Worker._events, Worker._fire, Worker._move])
def test_nothing_is_awaited_between_the_loaded_states_and_the_packing_of_the_commit(step: Any) -> None:
    """So that nothing else of this worker can come between; by the source, whatever runs."""
    tree = ast.parse(textwrap.dedent(inspect.getsource(step)))
    awaited = [
        (node.lineno, call.func.attr)
        for node in ast.walk(tree)
        if isinstance(node, ast.Await)
        and isinstance(call := node.value, ast.Call)
        and isinstance(call.func, ast.Attribute)
    ]
    names = [name for _, name in sorted(awaited)]
    at = names.index("_commit")
    assert names[at - 1] in {"_load", "_fire"} if at else True
    for packing in (Worker._commit, Store.commit_all):
        body = ast.parse(textwrap.dedent(inspect.getsource(packing)))
        first = min(node.lineno for node in ast.walk(body) if isinstance(node, ast.Await))
        lines = inspect.getsource(packing).splitlines()
        packed = next(n for n, line in enumerate(lines, 1) if "_arguments(" in line or "Write(" in line)
        assert packed < first


def test_an_archive_updates_everything_delivers_nothing_and_is_summed_up_in_one_line(
    shell: Shell, topics: Topics, caplog: pytest.LogCaptureFixture
) -> None:
    names = topics("purchases", "alerts", "decisions", "customer-scores", partitions=2)
    codec = Codec("USD", 2, {}, frozenset())

    async def body() -> None:
        settings = shell.settings()
        worker = Worker(settings, serve_http=False)
        await asyncio.wait_for(worker.start(), 30)
        try:
            entries = read(ROOT / "examples/orders.csv", Reading(codec, history=True), _unexpected)
            route = Route({"purchases": 2}, shell.prefix)
            sent = await asyncio.to_thread(
                lambda: Sender(settings.kafka).run(feed(entries, route, history=True))
            )
            await eventually(lambda: sum(shell.offsets(2).values()) == sent, 60)
            await eventually(lambda: shell.waiting(2) == 0)
        finally:
            await asyncio.wait_for(worker.stop(), 15)

    with caplog.at_level("WARNING", "agents.worker"):
        run(body())
    withheld = read_all(shell.brokers, [names[2]])
    assert not read_all(shell.brokers, [names[1]])
    assert withheld
    lines = [record.getMessage() for record in caplog.records if "withheld" in record.getMessage()]
    # One, unless this machine stood still for seconds in the middle.
    assert 1 <= len(lines) <= 3
    assert sum(int(re.findall(r": (\d+) from an archive", line)[0]) for line in lines) == len(withheld)


def _unexpected(refusal: Refusal) -> None:
    pytest.fail(f"line {refusal.line}: {refusal.reason}")
