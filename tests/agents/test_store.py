from __future__ import annotations

import asyncio
import subprocess
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from agents.failure import LayoutRefused, StoreBroken
from agents.store import (
    Claimed,
    Fenced,
    Layout,
    Lease,
    Lost,
    Outcome,
    Split,
    Step,
    Store,
    StoreAway,
    Wanted,
    Write,
    connect,
)
from streams.message import Message, pack
from tests.servers import RedisServer, wait_until


@dataclass(frozen=True)
class Address:
    """Settings as `connect` takes them."""

    url: str
    extra: dict[str, Any]
    cluster: bool = False

    def options(self) -> dict[str, Any]:
        return dict(self.extra)


def address(url: str, timeout: float, **more: Any) -> Address:
    return Address(url, {"socket_timeout": timeout, "socket_connect_timeout": timeout, **more})


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    """A Redis of this module's own: it is frozen, filled up and made a replica."""
    with RedisServer(tmp_path_factory.mktemp("redis")) as running:
        yield running


@pytest.fixture
def store_of(server: RedisServer) -> Callable[..., Store]:
    server.wipe()
    return lambda patience=5.0, timeout=2.0: Store(connect(address(server.tcp_url, timeout)), "app", patience)


def run(body: Awaitable[Any]) -> Any:
    async def main() -> Any:
        return await body

    return asyncio.run(main())


async def lease_of(
    store: Store, generation: int = 1, partition: int = 0, topics: tuple[str, ...] = ("t",)
) -> Lease:
    claimed = await store.claim(partition, generation)
    assert isinstance(claimed, Claimed)
    offsets = {topic: claimed.offsets.get(topic, 0) for topic in topics}
    return Lease(
        partition, generation, claimed.version, offsets, set(topics) - set(claimed.offsets), claimed.blob
    )


def write(n: int = 1, out: int = 0) -> Write:
    return Write(
        partition=b"part%d" % n,
        hot={b"c%d" % i: b"h%d" % n for i in range(n)},
        cold={b"c0": b"cold%d" % n},
        deadlines={b"c%d" % i: 1_700_000_000_000_000 + i for i in range(n)},
        out=[pack(Message("alerts", b"c", b"%d" % i)) for i in range(out)],
    )


def test_a_commit_writes_states_deadlines_messages_offset_and_partition_together(store_of: Any) -> None:
    async def body() -> None:
        store = store_of()
        lease = await lease_of(store)
        assert await store.commit(lease, lease.version, "t", 7, write(3, out=2)) is Outcome.COMMITTED
        hot, cold = await store.load(lease, [b"c0", b"c2", b"none"], [b"c0", b"c1"])
        assert hot == {b"c0": b"h3", b"c2": b"h3", b"none": None}
        assert cold == {b"c0": b"cold3", b"c1": None}
        assert await store.due(lease, 1_700_000_000_000_001, 10) == [
            (b"c0", 1_700_000_000_000_000),
            (b"c1", 1_700_000_000_000_001),
        ]
        assert [m.value for _, m in await store.outbox(lease, 10)] == [b"0", b"1"]
        offsets, part = await store.applied(0)
        assert (offsets, part) == ({"t": 7}, b"part3")
        again = await lease_of(store)
        assert (again.offsets, again.blob, again.version) == ({"t": 7}, b"part3", lease.version)
        await store.close()

    run(body())


def test_more_arguments_than_lua_can_hold_at_once_are_written_whole(store_of: Any) -> None:
    async def body() -> None:
        store = store_of()
        lease = await lease_of(store)
        big = write(20_001)
        assert await store.commit(lease, lease.version, "t", 1, big) is Outcome.COMMITTED
        assert await store.redis.hlen(store.keys(0)[1]) == 20_001
        assert await store.redis.zcard(store.keys(0)[3]) == 20_001
        cleared = Write(partition=b"", cleared=[b"c%d" % i for i in range(20_000)])
        assert await store.commit(lease, lease.version, None, None, cleared) is Outcome.COMMITTED
        assert await store.due(lease, 2**53, 10) == [(b"c20000", 1_700_000_000_020_000)]
        await store.close()

    run(body())


def test_timers_are_committed_without_moving_an_offset(store_of: Any) -> None:
    async def body() -> None:
        store = store_of()
        lease = await lease_of(store)
        await store.commit(lease, lease.version, "t", 5, write())
        assert await store.commit(lease, lease.version, None, None, write()) is Outcome.COMMITTED
        assert (await store.applied(0))[0] == {"t": 5}
        assert lease.offsets == {"t": 5}
        await store.close()

    run(body())


def test_deadlines_come_by_instant_and_then_by_customer(store_of: Any) -> None:
    async def body() -> None:
        store = store_of()
        lease = await lease_of(store)
        deadlines = {b"b": 2, b"a": 2, b"z": 1, b"y": 3}
        await store.commit(lease, lease.version, "t", 1, Write(partition=b"", deadlines=deadlines))
        assert await store.due(lease, 2, 10) == [(b"z", 1), (b"a", 2), (b"b", 2)]
        assert await store.due(lease, 2, 2) == [(b"z", 1), (b"a", 2)]
        await store.close()

    run(body())


def test_a_commit_whose_answer_was_lost_is_found_done_by_its_nonce(store_of: Any) -> None:
    """Also when the fence has moved on since: what is stored is ours."""

    async def body() -> None:
        store, newer = store_of(), store_of()
        lease = await lease_of(store)
        sent = store._scripted
        attempts = 0

        async def answer_lost(*arguments: Any) -> Any:
            nonlocal attempts
            attempts += 1
            answer = await sent(*arguments)
            if attempts == 1:
                await newer.claim(0, 2)
                raise ConnectionError("the answer was lost")
            return answer

        store._scripted = answer_lost
        assert await store.commit(lease, lease.version, "t", 1, write(1, out=1)) is Outcome.COMMITTED
        assert attempts == 2
        assert len(await store.outbox(lease, 10)) == 1
        await store.close()
        await newer.close()

    run(body())


def test_several_partitions_are_loaded_committed_and_relayed_in_one_round_trip_each_for_itself(
    store_of: Any,
) -> None:
    """One of three is claimed by another worker, one is let go before it is sent: the third is not held up."""

    async def body() -> None:
        store, newer = store_of(), store_of()
        leases = [await lease_of(store, 1, partition) for partition in range(4)]
        first = [Step(lease, lease.version, "t", 1, write(2, out=3)) for lease in leases]
        assert await store.commit_all(first) == [Outcome.COMMITTED] * 4
        await newer.claim(1, 2)
        leases[2].lost = True
        steps = [Step(lease, lease.version, "t", 2, write(3, out=1)) for lease in leases]
        stale = steps[3]._replace(version="another")
        assert await store.commit_all([*steps[:3], stale]) == [
            Outcome.COMMITTED, Outcome.LOST, None, Outcome.RACE,
        ]  # fmt: skip
        assert [lease.offsets["t"] for lease in leases] == [2, 1, 1, 1]
        asked = [Wanted(leases[0], [b"c0", b"none"], [b"c0"]), Wanted(leases[2], [b"c0"], [])]
        assert await store.load_all([*asked, Wanted(leases[3], [], [b"c0"])]) == [
            ({b"c0": b"h3", b"none": None}, {b"c0": b"cold3"}),
            None,
            ({}, {b"c0": b"cold2"}),
        ]
        waiting = await store.outboxes([leases[0], leases[2], leases[3]], 10)
        assert [[m.value for _, m in some] for some in waiting] == [
            [b"0", b"1", b"2", b"0"], [], [b"0", b"1", b"2"],
        ]  # fmt: skip
        await store.trim_all(
            [
                (leases[0], [ident for ident, _ in waiting[0][:3]]),
                (leases[1], []),
                (leases[3], [waiting[2][1][0]]),
            ]
        )
        waiting = await store.outboxes([leases[0], leases[3]], 10)
        assert [[m.value for _, m in some] for some in waiting] == [[b"0"], [b"0", b"2"]]
        await store.close()
        await newer.close()

    run(body())


def test_a_version_that_was_read_before_another_commit_of_this_worker_is_a_race(store_of: Any) -> None:
    async def body() -> None:
        store = store_of()
        lease = await lease_of(store)
        before = lease.version
        await store.commit(lease, lease.version, "t", 1, write())
        assert await store.commit(lease, before, None, None, write(9)) is Outcome.RACE
        assert (await store.load(lease, [b"c8"], []))[0] == {b"c8": None}
        await store.close()

    run(body())


@pytest.mark.parametrize("stored", [0, 3], ids=["below what we applied", "above what we applied"])
def test_an_offset_that_is_not_the_expected_one_refuses_the_commit(store_of: Any, stored: int) -> None:
    async def body() -> None:
        store = store_of()
        lease = await lease_of(store)
        await store.commit(lease, lease.version, "t", 2, write())
        await store.redis.hset(store.keys(0)[0], "off:t", stored)
        assert await store.commit(lease, lease.version, "t", 4, write(9)) is Outcome.STALE
        assert (await store.applied(0))[0] == {"t": stored}
        await store.close()

    run(body())


def test_a_first_commit_expects_that_no_offset_is_stored(store_of: Any) -> None:
    async def body() -> None:
        store = store_of()
        lease = await lease_of(store)
        await store.redis.hset(store.keys(0)[0], "off:t", 0)
        assert await store.commit(lease, lease.version, "t", 1, write()) is Outcome.STALE
        await store.close()

    run(body())


def test_a_later_generation_fences_an_earlier_one_off(store_of: Any) -> None:
    async def body() -> None:
        old, new = store_of(), store_of()
        lease = await lease_of(old, 1)
        await lease_of(new, 2)
        assert await old.commit(lease, lease.version, "t", 1, write()) is Outcome.LOST
        assert lease.lost
        with pytest.raises(Lost):
            await old.commit(lease, lease.version, "t", 1, write())
        with pytest.raises(Lost):
            await old.load(lease, [b"c"], [])
        assert await old.claim(0, 1) == Fenced(2, new.incarnation)
        await old.close()
        await new.close()

    run(body())


def test_a_stored_generation_that_is_lower_says_that_redis_was_rolled_back(store_of: Any) -> None:
    async def body() -> None:
        store = store_of()
        lease = await lease_of(store, 5)
        await store.redis.flushall()
        assert await store.commit(lease, lease.version, "t", 1, write()) is Outcome.STALE
        assert not lease.lost
        again = await lease_of(store, 5)
        assert await store.commit(again, again.version, "t", 1, write()) is Outcome.COMMITTED
        await store.close()

    run(body())


def test_two_workers_in_one_generation_are_told_apart(store_of: Any) -> None:
    async def body() -> None:
        one, two = store_of(), store_of()
        await lease_of(one, 1)
        assert await two.claim(0, 1) == Split(one.incarnation)
        await one.close()
        await two.close()

    run(body())


def test_a_generation_that_kafka_forgot_is_taken_over_only_as_it_was_seen(store_of: Any) -> None:
    async def body() -> None:
        old, new = store_of(), store_of()
        await lease_of(old, 9)
        fenced = await new.claim(0, 1)
        assert isinstance(fenced, Fenced)
        assert isinstance(await new.claim(0, 1, forced=Fenced(8, old.incarnation)), Fenced)
        assert isinstance(await new.claim(0, 1, forced=fenced), Claimed)
        await old.close()
        await new.close()

    run(body())


def test_the_layout_is_stored_once_and_then_only_read(store_of: Any) -> None:
    async def body() -> None:
        store = store_of()
        assert await store.layout() is None
        assert await store.layout(Layout(6, "wall")) == Layout(6, "wall")
        assert await store.layout(Layout(8, "record")) == Layout(6, "wall")
        await store.redis.set("app:layout", "6 wall")
        with pytest.raises(LayoutRefused, match="another program"):
            await store.layout()
        await store.close()

    run(body())


def test_a_key_of_another_type_is_refused_before_anything_is_written(store_of: Any) -> None:
    async def body() -> None:
        store = store_of()
        await store.redis.set(store.keys(0)[3], "not ours")
        with pytest.raises(StoreBroken, match="is a string"):
            await store.claim(0, 1)
        assert await store.redis.exists(store.keys(0)[0]) == 0
        await store.close()

    run(body())


def test_messages_leave_the_outbox_by_id_and_one_that_nobody_takes_is_set_aside(store_of: Any) -> None:
    async def body() -> None:
        store = store_of()
        lease = await lease_of(store)
        await store.commit(lease, lease.version, "t", 1, write(1, out=4))
        items = await store.outbox(lease, 3)
        assert len(items) == 3
        await store.trim(lease, [items[0][0], items[2][0]])
        await store.park(lease, items[1][0], pack(items[1][1]))
        assert [m.value for _, m in await store.outbox(lease, 10)] == [b"3"]
        assert await store.redis.xlen("{app:p0}:parked") == 1
        await store.close()

    run(body())


def test_every_customer_is_read_once_with_both_parts(store_of: Any) -> None:
    async def body() -> None:
        store = store_of()
        lease = await lease_of(store)
        await store.commit(lease, lease.version, "t", 1, write(3000))
        found = [item async for item in store.customers(0)]
        assert len(found) == 3000
        assert {k for k, _, _ in found} == {b"c%d" % i for i in range(3000)}
        assert [c for k, _, c in found if k == b"c0"] == [b"cold3000"]
        assert await store.customer(0, b"c0") == (b"h3000", b"cold3000")
        await store.close()

    run(body())


def test_a_frozen_redis_is_waited_for_and_the_commit_is_made_once(server: RedisServer, store_of: Any) -> None:
    async def body() -> None:
        store = store_of(patience=20.0, timeout=0.3)
        lease = await lease_of(store)
        server.freeze()
        task = asyncio.create_task(store.commit(lease, lease.version, "t", 1, write(1, out=1)))
        await asyncio.sleep(1.0)
        assert not task.done()
        server.thaw()
        assert await asyncio.wait_for(task, 10) is Outcome.COMMITTED
        assert len(await store.outbox(lease, 10)) == 1
        await store.close()

    run(body())


def test_patience_ends_with_an_error_of_its_own_and_a_lost_lease_ends_it_at_once(
    server: RedisServer, store_of: Any
) -> None:
    async def body() -> None:
        store = store_of(patience=0.8, timeout=0.2)
        lease = await lease_of(store)
        server.freeze()
        try:
            with pytest.raises(StoreAway, match="could not be reached for"):
                await store.load(lease, [b"c"], [])
            store.patience = 60.0
            task = asyncio.create_task(store.load(lease, [b"c"], []))
            await asyncio.sleep(0.1)
            lease.lost = True
            with pytest.raises(Lost):
                await asyncio.wait_for(task, 5)
        finally:
            server.thaw()
        await store.close()

    run(body())


def test_what_cannot_heal_is_said_at_once_with_what_to_do(server: RedisServer, store_of: Any) -> None:
    async def body() -> None:
        store = store_of()
        lease = await lease_of(store)
        await store.redis.config_set("maxmemory", 1)
        try:
            with pytest.raises(StoreBroken, match="maxmemory"):
                await store.commit(lease, lease.version, "t", 1, write())
        finally:
            await store.redis.config_set("maxmemory", 0)
        await store.redis.execute_command(
            "ACL", "SETUSER", "reader", "on", ">secret", "~*", "+@read", "+@connection"
        )
        for user, word in (("reader", "evalsha.*churnwatch acl redis"), ("nobody", "redis.username")):
            denied = Store(
                connect(address(server.tcp_url, 2.0, username=user, password="secret")), "app", 5.0
            )
            with pytest.raises(StoreBroken, match=word):
                await denied.claim(0, 1)
            await denied.close()
        await store.close()

    run(body())


def test_a_replica_that_was_not_promoted_yet_is_waited_for(server: RedisServer, store_of: Any) -> None:
    async def body() -> None:
        store = store_of(patience=10.0)
        lease = await lease_of(store)
        await store.redis.replicaof("127.0.0.1", 1)
        task = asyncio.create_task(store.commit(lease, lease.version, "t", 1, write()))
        await asyncio.sleep(0.3)
        assert not task.done()
        await store.redis.replicaof("NO", "ONE")
        assert await asyncio.wait_for(task, 10) is Outcome.COMMITTED
        await store.close()

    run(body())


@pytest.fixture
def over_tls(tmp_path: Path) -> Iterator[RedisServer]:
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=localhost",
         "-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1", "-keyout", "key.pem", "-out", "cert.pem"],
        cwd=tmp_path, check=True, capture_output=True,
    )  # fmt: skip
    server = RedisServer(tmp_path)
    server.settings |= {
        "port": "0", "tls-port": str(server.port), "tls-auth-clients": "no", "tls-cert-file": f"{tmp_path}/cert.pem",
        "tls-key-file": f"{tmp_path}/key.pem", "tls-ca-cert-file": f"{tmp_path}/cert.pem",
    }  # fmt: skip
    with server as running:
        yield running


def test_redis_is_reached_over_tls_and_through_a_unix_socket(over_tls: RedisServer, tmp_path: Path) -> None:
    tls = f"rediss://localhost:{over_tls.port}/0"
    trusting = address(tls, 2.0, ssl_ca_certs=str(tmp_path / "cert.pem"))

    async def body() -> None:
        for generation, settings in enumerate((trusting, address(over_tls.url, 2.0))):
            store = Store(connect(settings), "app", 5.0)
            lease = await lease_of(store, generation)
            assert (
                await store.commit(lease, lease.version, "t", lease.offsets["t"] + 1, write())
                is Outcome.COMMITTED
            )
            await store.close()
        stranger = Store(connect(address(tls, 2.0)), "app", 5.0)
        with pytest.raises(StoreBroken, match=r"redis\.ca"):
            await stranger.claim(0, 1)
        await stranger.close()

    run(body())


def test_in_a_cluster_each_partition_lies_on_one_node_and_commits_as_elsewhere(
    own_redis: Callable[..., RedisServer],
) -> None:
    nodes = [own_redis(settings={"cluster-enabled": "yes", "cluster-node-timeout": "2000"}) for _ in range(2)]
    clients: list[Any] = [node.client() for node in nodes]
    clients[0].execute_command("CLUSTER", "ADDSLOTSRANGE", 0, 8191)
    clients[1].execute_command("CLUSTER", "ADDSLOTSRANGE", 8192, 16383)
    clients[0].execute_command("CLUSTER", "MEET", "127.0.0.1", nodes[1].port)
    wait_until(lambda: all(b"cluster_state:ok" in _info(client) for client in clients), 30)

    async def body() -> None:
        settings = address(f"redis://127.0.0.1:{nodes[0].port}/0", 2.0)
        store = Store(connect(Address(settings.url, settings.extra, cluster=True)), "app", 10.0)
        assert await store.layout(Layout(4, "record")) == Layout(4, "record")
        for partition in range(4):
            lease = await lease_of(store, 1, partition)
            assert await store.commit(lease, lease.version, "t", 1, write(3, out=2)) is Outcome.COMMITTED
            hot, _ = await store.load(lease, [b"c0", b"c2", b"nobody"], [])
            assert hot == {b"c0": b"h3", b"c2": b"h3", b"nobody": None}
            waiting = await store.outbox(lease, 10)
            await store.trim(lease, [ident for ident, _ in waiting])
            assert len(waiting) == 2
            assert (await store.glance(lease, 2**52)).waiting == 0
            assert len(await store.due(lease, 2**52, 10)) == 3
        await store.close()

    run(body())
    keys = [{key.split(b":")[1] for key in client.keys("{app:*")} for client in clients]
    assert keys[0]
    assert keys[1]
    assert not keys[0] & keys[1]


def _info(client: Any) -> bytes:
    answer = client.execute_command("CLUSTER", "INFO")
    return answer if isinstance(answer, bytes) else str(answer).encode()
