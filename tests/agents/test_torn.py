"""Redis stopped hard while it writes a commit, and started twice: docs/decisions/0005."""

from __future__ import annotations

import asyncio
import itertools
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from confluent_kafka import TopicPartition
from confluent_kafka.admin import AdminClient

from agents.failure import StoreBroken
from agents.store import Claimed, Lease, Outcome, Store, Write, connect
from streams.message import Message, pack
from tests.agents.shell import Shell, eventually, run
from tests.agents.test_conditions import customers
from tests.agents.test_store import address
from tests.servers import KafkaServer, RedisServer

_generations = itertools.count(1)


async def _lease(store: Store, partition: int) -> tuple[Lease, bool]:
    generation = next(_generations)
    claimed = await store.claim(partition, generation)
    assert isinstance(claimed, Claimed)
    unwritten = {"t"} - set(claimed.offsets)
    offsets = {"t": claimed.offsets.get("t", 0)}
    return Lease(partition, generation, claimed.version, offsets, unwritten, claimed.blob), claimed.torn


def _write(name: bytes, customer: bytes) -> Write:
    return Write(
        partition=b"part-" + name,
        hot={customer: b"hot-" + name},
        cold={customer: b"cold-" + name},
        deadlines={customer: 1_700_000_000_000_000},
        out=[pack(Message("alerts", customer, name))],
    )


def _commit(server: RedisServer, partition: int, name: bytes, customer: bytes) -> Outcome:
    async def body() -> Outcome:
        store = Store(connect(address(server.url, 2.0)), "app", 5.0)
        lease, _ = await _lease(store, partition)
        outcome = await store.commit(
            lease, lease.version, "t", lease.offsets["t"] + 1, _write(name, customer)
        )
        await store.close()
        return outcome

    return asyncio.run(body())


def _held(server: RedisServer) -> tuple[bool, dict[str, Any]]:
    """Whether the store says that partition 0 is torn, and what is there."""

    async def body() -> tuple[bool, dict[str, Any]]:
        store = Store(connect(address(server.url, 2.0)), "app", 5.0)
        lease, torn = await _lease(store, 0)
        hot, cold = await store.load(lease, [b"a", b"b"], [b"a", b"b"])
        found = {"hot": hot, "cold": cold, "offset": lease.offsets["t"], "part": lease.blob}
        if torn:  # no commit passes on what does not belong together
            refused = await store.commit(lease, lease.version, "t", 9, _write(b"nine", b"a"))
            assert refused is Outcome.STALE
        await store.close()
        return torn, found

    return asyncio.run(body())


@pytest.mark.parametrize("following", [0, 1], ids=["the same partition", "another partition"])
def test_half_of_a_lost_commit_that_comes_back_to_life_is_noticed_wherever_it_was_cut(
    tmp_path: Path, following: int
) -> None:
    """Redis drops the commit that was cut, but leaves its beginning in the file; what is written after it
    closes it, and the next start brings it back. Cut after each of its commands, and in the middle of each."""
    # Everything that was answered is in the file: what is lost is what the test cuts off.
    with RedisServer(tmp_path / "redis", appendfsync="always") as server:
        _commit(server, 0, b"one", b"a")
        before = server.tail_file().stat().st_size
        _commit(server, 0, b"two", b"b")
        server.stop()
        whole = tmp_path / "whole"
        shutil.copytree(server.data, whole)
        torn_part = server.tail_file().read_bytes()[before:]
        begins = torn_part.index(b"MULTI")
        # The claim of the second commit stands before it, and belongs to no transaction.
        commands = [at for at in range(begins, len(torn_part)) if torn_part[at : at + 1] == b"*"]
        noticed = 0
        for at in sorted({*commands, *(at + 6 for at in commands)}):
            shutil.rmtree(server.data)
            shutil.copytree(whole, server.data)
            os.truncate(server.tail_file(), min(before + at, before + len(torn_part) - 1))
            server.start()
            torn, held = _held(server)
            assert not torn
            assert held["offset"] == 1
            assert held["hot"] == {b"a": b"hot-one", b"b": None}, "the first start undoes what was cut"
            assert _commit(server, following, b"three", b"a") is Outcome.COMMITTED
            server.kill()
            server.start()
            torn, held = _held(server)
            noticed += torn
            expected = {
                "hot": {b"a": b"hot-three" if following == 0 else b"hot-one", b"b": None},
                "cold": {b"a": b"cold-three" if following == 0 else b"cold-one", b"b": None},
                "offset": 2 if following == 0 else 1,
                "part": b"part-three" if following == 0 else b"part-one",
            }
            complete = {
                "hot": {b"a": b"hot-one", b"b": b"hot-two"},
                "cold": {b"a": b"cold-one", b"b": b"cold-two"},
                "offset": 2,
                "part": b"part-two",
            }
            assert torn or held in (expected, complete), f"cut at {at}: half of a commit, unnoticed"
            server.stop()
        assert noticed, "this Redis brings nothing back: the guard may go"


@pytest.fixture
def shell(kafka: KafkaServer, redis_server: RedisServer, application: str, prefix: str) -> Shell:
    return Shell(kafka.brokers, redis_server.url, application, prefix)


def _tear(shell: Shell) -> None:
    """What a revived commit leaves: the counts differ, and a state that is not what the offset says."""
    tag = f"{{{shell.application}:p0}}"
    with shell.redis() as client:
        client.hincrby(f"{tag}:meta", "begun", 1)
        client.hset(f"{tag}:hot", "c3", client.hget(f"{tag}:hot", "c4"))


def test_a_partition_that_is_torn_is_read_again_from_the_beginning_and_ends_right(
    shell: Shell, topics: Callable[..., list[str]]
) -> None:
    topics("purchases", "alerts", partitions=1)

    async def body() -> None:
        shell.send("purchases", customers(60))
        async with shell.worker() as worker:
            await eventually(lambda: shell.counted(1) == 60)
            _tear(shell)
            shell.send("purchases", customers(20))
            await eventually(lambda: shell.counted(1) == 80)
            assert worker.metrics.resyncs.labels("torn")._value.get() == 1

    run(body())
    assert shell.seen(1) == shell.right()


def test_a_torn_partition_whose_log_has_expired_stops_the_worker_and_says_what_to_do(
    shell: Shell, topics: Callable[..., list[str]]
) -> None:
    (name,) = topics("purchases", partitions=1)
    topics("alerts", partitions=1)

    async def body() -> None:
        shell.send("purchases", customers(60))
        async with shell.worker():
            await eventually(lambda: shell.counted(1) == 60)
        admin = AdminClient({"bootstrap.servers": shell.brokers})
        for future in admin.delete_records([TopicPartition(name, 0, 42)]).values():
            future.result(10)
        _tear(shell)
        with pytest.raises(StoreBroken, match=r"begins at offset 42.*redis-cli UNLINK"):
            async with shell.worker() as worker:
                await asyncio.wait_for(worker.failed, 10)

    run(body())
