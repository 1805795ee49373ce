"""Records that Kafka threw away before they were applied: nothing goes on over them until somebody says so."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest
from confluent_kafka import TopicPartition

from agents.failure import LayoutRefused
from tests.agents.command_line import CommandLine
from tests.agents.shell import Shell, eventually
from tests.servers import KafkaServer, RedisServer

CUSTOMERS = [f"c{i}" for i in range(30)]
Topics = Callable[..., list[str]]


@pytest.fixture
def shell(kafka: KafkaServer, redis_server: RedisServer, application: str, prefix: str) -> Shell:
    return Shell(kafka.brokers, redis_server.url, application, prefix)


@pytest.fixture
def flags(shell: Shell) -> list[str]:
    return [
        *("--brokers", shell.brokers, "--redis", shell.redis_url, "--application", shell.application),
        *("--prefix", shell.prefix, "--set", "kafka.inputs=purchases", "--set", "clock.mode=record"),
    ]


def expire(kafka: KafkaServer, name: str, offset: int) -> None:
    admin = kafka.admin()  # its answers end with it
    for future in admin.delete_records([TopicPartition(name, 0, offset)]).values():
        future.result(30)


def test_a_gap_is_named_given_up_when_somebody_says_so_and_remembered(
    shell: Shell, topics: Topics, kafka: KafkaServer, flags: list[str], churnwatch: CommandLine
) -> None:
    (name,) = topics("purchases", partitions=1)
    topics("alerts", "dead-letters", partitions=1)
    gap = f"{name}/0: offsets 30 to 41 (12 records expired unread)"

    async def work(records: int) -> None:
        async with shell.worker():
            await eventually(lambda: shell.counted(1) == records)

    async def refused() -> None:
        with pytest.raises(LayoutRefused, match="12 records expired unread"):
            async with shell.worker() as worker:
                await asyncio.wait_for(worker.failed, 10)

    shell.send("purchases", CUSTOMERS)
    asyncio.run(work(30))
    assert "Nothing expired" in churnwatch(*flags, "accept-loss", "--yes").out
    shell.send("purchases", CUSTOMERS)
    expire(kafka, name, 42)
    asyncio.run(refused())
    assert gap in churnwatch(*flags, "status").out.replace("\n", " ")

    asked = churnwatch(*flags, "accept-loss")
    assert asked.code == 2
    assert gap in asked.out
    assert "nothing was changed" in asked.err
    asyncio.run(refused())

    said = churnwatch(*flags, "accept-loss", "--yes")
    assert said.code == 0, said.err
    assert gap in said.out
    asyncio.run(work(30 + 18))
    meta: Any = shell.meta(0)
    assert meta[b"lost:" + name.encode() + b":30"].startswith(b"42 ")
    report = churnwatch(*flags, "status").out
    assert f"12 records of {name}/0 (offsets 30 to 41) were given up" in report
    assert "expired unread" not in report.replace("12 records expired unread", "")
    assert "Nothing expired" in churnwatch(*flags, "accept-loss", "--yes").out


def test_a_worker_that_has_moved_the_offset_meanwhile_is_not_overtaken(
    shell: Shell, topics: Topics, redis_server: RedisServer, application: str
) -> None:
    from agents.losses import Loss, give_up
    from agents.store import Claimed, Lease, Outcome, Store, Write, connect

    async def body() -> None:
        store = Store(connect(shell.settings().redis), application, 5.0)
        claimed = await store.claim(0, 1)
        assert isinstance(claimed, Claimed)
        lease = Lease(0, 1, claimed.version, {"t": 0}, {"t"}, None)
        assert await store.commit(lease, lease.version, "t", 7, Write(b"p")) is Outcome.COMMITTED
        assert not await give_up(store, Loss("t", 0, 6, 9))
        assert (await store.applied(0))[0] == {"t": 7}
        # And who holds the partition has to look again before it commits.
        assert await give_up(store, Loss("t", 0, 7, 9))
        assert await store.commit(lease, lease.version, "t", 8, Write(b"p")) is Outcome.STALE
        assert (await store.applied(0))[0] == {"t": 9}
        await store.close()

    asyncio.run(body())
