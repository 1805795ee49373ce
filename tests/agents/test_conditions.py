"""The conditions under which nothing is lost and nothing doubled, a test for each.

Every test fails when its condition is removed; which change was made to see that is recorded in
``docs/decisions/0003-twelve-conditions.md``.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection
from typing import Any

import pytest
from aiokafka.errors import CommitFailedError
from confluent_kafka import Consumer as PlainConsumer
from confluent_kafka import TopicPartition
from confluent_kafka.admin import AdminClient

from agents import transport
from agents.failure import KafkaBroken, LayoutRefused
from agents.store import Lost, Outcome
from agents.worker import Proposal, Worker
from alerts.engine import Turn
from tests.agents import counting
from tests.agents.shell import Shell, eventually, run
from tests.servers import KafkaServer, RedisServer

Topics = Callable[..., list[str]]


@pytest.fixture
def shell(kafka: KafkaServer, redis_server: RedisServer, application: str, prefix: str) -> Shell:
    return Shell(kafka.brokers, redis_server.url, application, prefix)


def customers(n: int) -> list[str]:
    return [f"c{i % 20}" for i in range(n)]


def total(counter: Any) -> float:
    """The value of a counter over all its labels."""
    return float(
        sum(s.value for family in counter.collect() for s in family.samples if s.name.endswith("_total"))
    )


def test_1_a_redis_that_lost_its_tail_is_read_again_from_where_it_stands(
    shell: Shell, topics: Topics
) -> None:
    """Equality of offset and version: what is missing lies below, and "at least" would skip it."""
    shell.sweep = 60.0  # the commit has to find out, not the sweep
    topics("purchases", "alerts", partitions=1)

    async def body() -> None:
        shell.send("purchases", customers(100))
        async with shell.worker() as worker:
            await eventually(lambda: shell.counted(1) == 100)
            before = shell.snapshot(0)
            shell.send("purchases", customers(100))
            await eventually(lambda: shell.counted(1) == 200)
            shell.roll_back(0, before)
            shell.send("purchases", customers(100))
            await eventually(lambda: shell.counted(1) == 300)
            assert total(worker.metrics.conflicts) >= 1

    run(body())
    assert shell.seen(1) == shell.right()


def test_2_the_version_is_read_before_the_states(shell: Shell, topics: Topics) -> None:
    """What another task commits between load and commit is not overwritten."""
    topics("purchases", "alerts", partitions=1)

    async def body() -> None:
        async with shell.worker() as worker:
            await eventually(lambda: worker.ownership.get(0) is not None)
            loaded = worker.store.load_all
            rivals = 0

            async def load_and_be_overtaken(wanted: Any) -> Any:
                nonlocal rivals
                answer = await loaded(wanted)
                if not rivals:
                    rivals += 1
                    (found,) = answer
                    assert found is not None
                    hot, _ = found
                    count = counting.read(hot[b"c0"]) if hot[b"c0"] else counting.Count()
                    count.silences = 7
                    owned = worker.ownership.get(0)
                    assert owned is not None
                    turn = Turn(partition=owned.state, hot={b"c0": count.pack()})
                    rival = Proposal(owned, owned.lease.version, None, None, turn)
                    assert await worker._commit([rival]) == [Outcome.COMMITTED]
                return answer

            worker.store.load_all = load_and_be_overtaken  # type: ignore[method-assign]
            shell.send("purchases", ["c0"] * 5)
            await eventually(lambda: shell.counted(1) == 5)
            assert shell.states(1)[b"c0"].silences == 7
            assert total(worker.metrics.conflicts) == 1

    run(body())


def test_3_a_batch_keeps_the_lease_it_began_with_and_writes_nothing_after_the_next_claim(
    shell: Shell, topics: Topics
) -> None:
    topics("purchases", "alerts", partitions=1)

    async def body() -> None:
        async with shell.worker() as worker:
            await eventually(lambda: worker.ownership.get(0) is not None)
            loaded, committed = worker.store.load_all, worker.store.commit_all
            outcomes: list[Any] = []

            async def load_and_claim_again(wanted: Any) -> Any:
                answer = await loaded(wanted)
                if not outcomes:
                    owned = worker.ownership.get(0)
                    assert owned is not None
                    worker._drop(owned, "conflict")
                    await eventually(lambda: worker.ownership.get(0) not in {None, owned})
                return answer

            async def commit(steps: Any) -> Any:
                try:
                    outcomes.extend(await committed(steps))
                except Lost:
                    outcomes.append(Lost)
                    raise
                return outcomes[-len(steps) :]

            worker.store.load_all = load_and_claim_again  # type: ignore[method-assign]
            worker.store.commit_all = commit  # type: ignore[method-assign]
            shell.send("purchases", customers(40))
            await eventually(lambda: shell.counted(1) == 40 and len(outcomes) > 1)
            assert outcomes[0] is Lost
            assert set(outcomes[1:]) == {Outcome.COMMITTED}

    run(body())
    assert shell.seen(1) == shell.right()


def test_3_a_redis_that_was_wiped_is_claimed_again_and_everything_is_read_anew(
    shell: Shell, topics: Topics
) -> None:
    """The stored generation is lower than ours: nobody took the partition, Redis was replaced."""
    topics("purchases", "alerts", partitions=1)

    async def body() -> None:
        shell.send("purchases", customers(60))
        async with shell.worker() as worker:
            await eventually(lambda: shell.counted(1) == 60)
            shell.roll_back(0, {})
            shell.send("purchases", customers(20))
            await eventually(lambda: shell.counted(1) == 80)
            assert total(worker.metrics.fenced) == 0

    run(body())
    assert shell.seen(1) == shell.right()


def test_3_a_redis_that_was_wiped_is_noticed_although_nothing_arrives(shell: Shell, topics: Topics) -> None:
    topics("purchases", "alerts", partitions=1)

    async def body() -> None:
        shell.send("purchases", customers(60))
        async with shell.worker() as worker:
            await eventually(lambda: shell.counted(1) == 60)
            shell.roll_back(0, {})
            assert shell.counted(1) == 0
            await eventually(lambda: shell.counted(1) == 60)
            assert worker.metrics.resyncs.labels("restored")._value.get() == 1

    run(body())
    assert shell.seen(1) == shell.right()


def test_4_what_was_popped_before_a_seek_back_is_void(shell: Shell, topics: Topics) -> None:
    """Positions are of the popping, in aiokafka's thread: otherwise what was lost looks like a hole."""
    topics("purchases", "alerts", partitions=1)
    shell.batch = 10

    async def body() -> None:
        shell.send("purchases", customers(50))
        async with shell.worker() as worker:
            await eventually(lambda: shell.counted(1) == 50)
            before = shell.snapshot(0)
            shell.send("purchases", customers(50))
            await eventually(lambda: shell.counted(1) == 100)
            popped = worker.app.consumer._thread.popped
            at = (shell.prefix + "purchases", 0)
            async with worker.ownership.lock(0):
                # These are popped and wait for the lock, then Redis goes back and the partition is sought back.
                shell.send("purchases", customers(50))
                await eventually(lambda: popped[at] == 150)
                shell.roll_back(0, before)
                owned = worker.ownership.get(0)
                assert owned is not None
                worker._drop(owned, "conflict")
                await eventually(lambda: worker.ownership.get(0) not in {None, owned})
                await eventually(
                    lambda: worker.app.consumer.epochs.get(at, transport.NEVER) != transport.NEVER
                )
            await eventually(lambda: shell.offsets(1)[at] == 150)
            assert total(worker.metrics.stale_batches) >= 1

    run(body())
    assert shell.seen(1) == shell.right()


def test_5_faust_does_not_drop_what_is_read_again_after_a_seek_back(shell: Shell, topics: Topics) -> None:
    topics("purchases", "alerts", partitions=1)
    shell.batch = 10

    async def body() -> None:
        async with shell.worker() as worker:
            await eventually(lambda: worker.ownership.get(0) is not None)
            before = shell.snapshot(0)
            shell.send("purchases", customers(80))
            await eventually(lambda: shell.counted(1) == 80)
            shell.roll_back(0, before)
            owned = worker.ownership.get(0)
            assert owned is not None
            worker._drop(owned, "conflict")
            # Nothing new is sent: all of it is what Faust has seen before.
            await eventually(lambda: shell.counted(1) == 80)

    run(body())
    assert shell.seen(1) == shell.right()


def test_6_no_offset_in_redis_means_the_beginning_of_the_log_whatever_kafka_has_committed(
    shell: Shell, topics: Topics
) -> None:
    (name,) = topics("purchases", partitions=1)
    topics("alerts", partitions=1)
    shell.send("purchases", customers(70))
    plain = PlainConsumer({"bootstrap.servers": shell.brokers, "group.id": shell.application})
    plain.commit(offsets=[TopicPartition(name, 0, 70)], asynchronous=False)
    plain.close()

    async def body() -> None:
        async with shell.worker():
            await eventually(lambda: shell.counted(1) == 70)

    run(body())
    assert shell.seen(1) == shell.right()


def test_7_a_topic_that_was_created_anew_is_refused(shell: Shell, topics: Topics, kafka: KafkaServer) -> None:
    (name,) = topics("purchases", partitions=1)
    topics("alerts", partitions=1)

    async def body() -> None:
        shell.send("purchases", customers(30))
        async with shell.worker():
            await eventually(lambda: shell.counted(1) == 30)
        kafka.delete_topics([name])
        kafka.create_topics([name], 1)
        shell.send("purchases", customers(5))
        with pytest.raises(LayoutRefused, match="created anew"):
            async with shell.worker() as worker:
                await asyncio.wait_for(worker.failed, 10)

    run(body())


def test_7_records_that_expired_unread_are_refused_with_their_number(shell: Shell, topics: Topics) -> None:
    (name,) = topics("purchases", partitions=1)
    topics("alerts", partitions=1)

    async def body() -> None:
        shell.send("purchases", customers(30))
        async with shell.worker():
            await eventually(lambda: shell.counted(1) == 30)
        shell.send("purchases", customers(30))
        admin = AdminClient({"bootstrap.servers": shell.brokers})
        for future in admin.delete_records([TopicPartition(name, 0, 42)]).values():
            future.result(10)
        said = (
            rf"{name}/0: offsets 30 to 41 \(12 records expired unread\), .*before 20.*churnwatch accept-loss"
        )
        with pytest.raises(LayoutRefused, match=said):
            async with shell.worker() as worker:
                await asyncio.wait_for(worker.failed, 10)
        assert shell.offsets(1) == {(name, 0): 30}, "nothing was passed over"

    run(body())


def test_7_the_ends_of_the_log_are_read_after_the_claim(shell: Shell, topics: Topics) -> None:
    """Before it the owner of then could still apply what lies beyond the end that we saw."""
    topics("purchases", "alerts", partitions=1)

    async def body() -> None:
        worker = Worker(shell.settings(), core=shell.core(), serve_http=False)
        claimed_then: list[bool] = []
        asked = transport.Consumer.log_ends

        async def log_ends(consumer: Any, partitions: Collection[tuple[str, int]]) -> Any:
            claimed_then.append(shell.meta(0).get(b"inc") == worker.store.incarnation.encode())
            return await asked(consumer, partitions)

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(transport.Consumer, "log_ends", log_ends)
            try:
                await asyncio.wait_for(worker.start(), 30)
            finally:
                await worker.stop()
        assert claimed_then
        assert all(claimed_then)

    run(body())


def test_7_a_position_that_kafka_does_not_have_ends_the_process_instead_of_hanging(
    shell: Shell, topics: Topics
) -> None:
    topics("purchases", "alerts", partitions=1)

    async def body() -> None:
        shell.send("purchases", customers(10))
        async with shell.worker() as worker:
            await eventually(lambda: shell.counted(1) == 10)
            await worker.app.consumer.seek_exact({(shell.prefix + "purchases", 0): 10_000})
            await asyncio.wait_for(asyncio.shield(worker.failed), 15)

    with pytest.raises(KafkaBroken, match="no longer in Kafka"):
        run(body())


@pytest.mark.parametrize("how", ["fails", "hangs"])
def test_8_the_commit_to_kafka_only_mirrors_and_never_stops_the_worker(
    shell: Shell, topics: Topics, how: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    topics("purchases", "alerts", partitions=1)
    monkeypatch.setattr(transport, "MIRROR_TIMEOUT", 0.3)

    async def body() -> None:
        async with shell.worker() as worker:
            await eventually(lambda: worker.ownership.get(0) is not None)
            kafka = worker.app.consumer._thread._consumer
            commit = kafka.commit

            async def broken(offsets: Any) -> None:
                if how == "hangs":
                    await asyncio.Event().wait()
                raise CommitFailedError("the group has gone on")

            kafka.commit = broken
            shell.send("purchases", customers(10))
            await eventually(lambda: total(worker.metrics.kafka_commit_failures) >= 1)
            shell.send("purchases", customers(10))
            await eventually(lambda: shell.counted(1) == 20)
            kafka.commit = commit
            shell.send("purchases", customers(10))
            plain = PlainConsumer({"bootstrap.servers": shell.brokers, "group.id": shell.application})
            at = TopicPartition(shell.prefix + "purchases", 0)
            await eventually(lambda: plain.committed([at], timeout=5)[0].offset == 30)
            plain.close()
            assert not worker.app.crashed

    run(body())


def test_9_after_a_reset_of_the_group_a_higher_stored_generation_is_taken_over_by_proof(
    shell: Shell, topics: Topics
) -> None:
    topics("purchases", "alerts", partitions=1)
    shell.send("purchases", customers(25))
    with shell.redis() as client:
        client.hset(f"{{{shell.application}:p0}}:meta", mapping={"gen": 99, "inc": "of-before"})

    async def body() -> None:
        async with shell.worker() as worker:
            await eventually(lambda: shell.counted(1) == 25)
            assert int(shell.meta(0)[b"gen"]) == worker.app.consumer_generation_id < 99

    run(body())


def test_9_without_kafkas_proof_a_higher_stored_generation_keeps_the_partition(
    shell: Shell, topics: Topics
) -> None:
    topics("purchases", "alerts", partitions=1)

    async def body() -> None:
        async with shell.worker() as worker:
            await eventually(lambda: worker.ownership.get(0) is not None)
            consumer = worker.app.consumer
            async with consumer.claiming:
                with shell.redis() as client:
                    client.hset(f"{{{shell.application}:p0}}:meta", mapping={"gen": 99, "inc": "newer"})
                # A worker that lost its place believes in a generation that Kafka knows no more.
                of_before = consumer.app.consumer_generation_id - 1
                assert await worker.ownership.claim(consumer, consumer.assigned(), of_before) == {}
                assert shell.meta(0)[b"inc"] == b"newer"
                assert worker.ownership.get(0) is None

    run(body())


def test_10_partition_n_of_every_topic_goes_to_one_worker(shell: Shell, topics: Topics) -> None:
    shell.inputs = ("purchases", "browses", "complaints")
    topics(*shell.inputs, "alerts", partitions=3)  # not even: round robin would split them

    async def body() -> None:
        async with shell.worker() as one:
            async with shell.worker() as two:
                workers = one, two
                await eventually(lambda: sorted(len(w.ownership.numbers()) for w in workers) == [1, 2])
                assert not set(one.ownership.numbers()) & set(two.ownership.numbers())
                sent = sum(shell.send(topic, customers(200)) for topic in shell.inputs)
                await eventually(lambda: shell.counted(3) == sent)
            await eventually(lambda: one.ownership.numbers() == [0, 1, 2])
            sent += shell.send("browses", customers(200))
            await eventually(lambda: shell.counted(3) == sent)

    run(body())
    assert shell.seen(3) == shell.right()


def test_10_unequal_numbers_of_partitions_are_refused(
    shell: Shell, topics: Topics, kafka: KafkaServer
) -> None:
    shell.inputs = ("purchases", "browses")
    topics("purchases", partitions=2)
    topics("browses", partitions=3)

    async def body() -> None:
        with pytest.raises(LayoutRefused, match="the same number of partitions"):
            async with shell.worker():
                pass

    run(body())


@pytest.mark.parametrize(
    ("stored", "said"),
    [
        ('{"partitions":3,"clock":"record"}', "built with 3 partitions, Kafka has 1"),
        ('{"partitions":1,"clock":"wall"}', r"clock\.mode = wall"),
    ],
)
def test_10_a_state_that_was_built_otherwise_is_refused(
    shell: Shell, topics: Topics, stored: str, said: str
) -> None:
    topics("purchases", "alerts", partitions=1)
    with shell.redis() as client:
        client.set(f"{shell.application}:layout", stored)

    async def body() -> None:
        with pytest.raises(LayoutRefused, match=said):
            async with shell.worker() as worker:
                await asyncio.wait_for(asyncio.shield(worker.failed), 10)

    run(body())


def test_10_another_worker_in_the_same_generation_is_refused(shell: Shell, topics: Topics) -> None:
    topics("purchases", "alerts", partitions=1)
    with shell.redis() as client:
        client.hset(f"{{{shell.application}:p0}}:meta", mapping={"gen": 1, "inc": "a-twin"})

    async def body() -> None:
        with pytest.raises(LayoutRefused, match="in the same generation"):
            async with shell.worker() as worker:
                await asyncio.wait_for(asyncio.shield(worker.failed), 10)

    run(body())


def test_10_a_number_without_all_its_topics_is_refused(shell: Shell, topics: Topics) -> None:
    shell.inputs = ("purchases", "browses")
    topics(*shell.inputs, "alerts", partitions=1)

    async def body() -> None:
        async with shell.worker() as worker:
            consumer = worker.app.consumer
            await eventually(lambda: worker.ownership.get(0) is not None)
            async with consumer.claiming:
                with pytest.raises(LayoutRefused, match=r"without .*purchases"):
                    await worker.ownership.claim(
                        consumer, {(shell.prefix + "browses", 0)}, consumer.app.consumer_generation_id
                    )

    run(body())


def test_11_batches_of_all_topics_and_the_sweep_share_one_lock_for_each_partition_number(
    shell: Shell, topics: Topics
) -> None:
    """So there is nothing to conflict with; compare-and-set is the net, not the way."""
    shell.inputs, shell.clock, shell.batch, shell.sweep = ("purchases", "browses"), "wall", 20, 0.01
    topics(*shell.inputs, "alerts", partitions=1)
    core = shell.core(silence=1)

    async def body() -> None:
        async with shell.worker(core) as worker:
            await eventually(lambda: worker.ownership.get(0) is not None)
            loaded = worker.store.load_all

            async def slow_load(wanted: Any) -> Any:
                answer = await loaded(wanted)
                await asyncio.sleep(0.02)
                return answer

            worker.store.load_all = slow_load  # type: ignore[method-assign]
            for _ in range(10):
                for topic in shell.inputs:
                    shell.send(topic, customers(40))
                await asyncio.sleep(0.1)
            await eventually(lambda: shell.counted(1) == 800)
            await eventually(lambda: len(core.fired) >= 20)
            assert total(worker.metrics.conflicts) == 0
            assert total(worker.metrics.resyncs) == 0

    run(body())
    assert shell.seen(1) == shell.right()


def test_12_a_customer_in_the_wrong_partition_is_refused_before_anything_is_written(
    shell: Shell, topics: Topics
) -> None:
    topics("purchases", "alerts", partitions=2)
    wrong = next(f"c{i}" for i in range(100) if transport.partition_of(b"c%d" % i, 2) == 1)
    shell.send("purchases", [wrong], partition=0)

    async def body() -> None:
        with pytest.raises(LayoutRefused, match="murmur2"):
            async with shell.worker() as worker:
                await asyncio.wait_for(asyncio.shield(worker.failed), 10)

    run(body())
    assert shell.counted(2) == 0


def test_12_a_customer_that_is_known_is_not_asked_where_it_belongs(shell: Shell, topics: Topics) -> None:
    topics("purchases", "alerts", partitions=2)
    wrong = next(f"c{i}" for i in range(100) if transport.partition_of(b"c%d" % i, 2) == 1)
    with shell.redis() as client:
        client.hset(f"{{{shell.application}:p0}}:hot", wrong, counting.Count().pack())
    shell.send("purchases", [wrong], partition=0)

    async def body() -> None:
        async with shell.worker():
            await eventually(lambda: shell.counted(2) == 1)

    run(body())
