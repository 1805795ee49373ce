"""The trainer on a real Kafka and a real Redis: killed, rolled back, repeated, and followed."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import msgspec
import pytest
from prometheus_client import CollectorRegistry

from agents import trainer as shell_of_the_trainer
from agents.following import Following
from agents.metrics import Metrics
from agents.settings import Settings
from agents.store import SNAPSHOT
from agents.trainer import TrainerWorker
from alerts.engine import FEATURES_VERSION
from alerts.policy import Policy
from models.learning import Learning
from models.snapshot import PIN, Book, Known, Snapshot, decode, encode, encode_pin
from models.training import Trainer
from streams.examples import Example, example_message
from tests.agents.shell import Shell, eventually, producer_of, run
from tests.labels import HORIZON, labels
from tests.servers import KafkaServer, RedisServer, read_all, wait_until

ROOT = Path(__file__).parents[2]
Topics = Callable[..., list[str]]
# No snapshot but by count, so that which there are is a matter of the labels alone.
BY_COUNT = Learning(publish_labels=250, publish_seconds=86_400)


class Crash(Exception):
    """Where a test ends a trainer."""


class School(Shell):
    """A trainer of a test's own, and what came of it."""

    def examples(self, examples: list[Example]) -> None:
        self.raw("examples", [(None, example_message(e).value) for e in examples])

    def raw(self, topic: str, records: list[tuple[bytes | None, bytes | None]]) -> None:
        producer = producer_of(self.brokers)
        for key, value in records:
            producer.produce(self.prefix + topic, value, key, partition=0)
            producer.poll(0)
        assert producer.flush(20) == 0

    @contextlib.asynccontextmanager
    async def trainer(self, learning: Learning = BY_COUNT) -> AsyncIterator[TrainerWorker]:
        metrics = Metrics(CollectorRegistry(), strict=True)
        working = TrainerWorker(
            self.settings(learning=learning, policy=Policy(horizon_days=HORIZON)),
            metrics=metrics,
            serve_http=False,
        )
        try:
            await asyncio.wait_for(working.start(), 30)
            yield working
            if working.failed.done():
                raise working.failed.result()
        finally:
            await asyncio.wait_for(working.stop(), 15)

    def learned(self) -> int:
        """Examples that are behind what is committed."""
        return int(self.state_of().get(f"off:{self.prefix}examples".encode(), 0))

    def state_of(self) -> dict[bytes, bytes]:
        with self.redis() as client:
            found: dict[bytes, bytes] = client.hgetall(f"{{{self.application}:trainer:p0}}:meta")
            return found

    def kept(self) -> Any:
        """The trainer's state as it is stored."""
        return msgspec.msgpack.decode(self.state_of()[b"part"])

    def newest(self) -> bytes:
        """The newest snapshot as Redis has it."""
        with self.redis() as client:
            found: bytes = client.hget(f"{{{self.application}:trainer:p0}}:cold", SNAPSHOT)
            return found

    def settled(self) -> bool:
        """Nothing waits to leave."""
        with self.redis() as client:
            return bool(client.xlen(f"{{{self.application}:trainer:p0}}:out") == 0)

    def published(self) -> list[str]:
        """Versions in the order in which they first came."""
        records = read_all(self.brokers, [self.prefix + "models"])
        return list(dict.fromkeys(r.key().decode() for r in records if r.value() is not None))


def right(examples: list[Example], learning: Learning = BY_COUNT) -> tuple[Any, list[str]]:
    """What a trainer knows that has learned them one after the other, undisturbed, and what it published."""
    trainer = Trainer(learning, HORIZON, Settings().prior, FEATURES_VERSION)
    published = [p.snapshot.version for p in trainer.learn(examples).published]
    return msgspec.msgpack.decode(msgspec.msgpack.encode(trainer.state())), published


@pytest.fixture
def school(
    kafka: KafkaServer, redis_server: RedisServer, application: str, prefix: str, topics: Topics
) -> School:
    topics("examples", "models", "dead-letters", partitions=1)
    return School(kafka.brokers, redis_server.url, application, prefix)


@pytest.fixture(autouse=True)
def soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shell_of_the_trainer, "LINGER", 0.01)


MANY = labels(1_500)


def test_what_was_learned_and_published_is_a_matter_of_the_labels_alone_wherever_the_trainer_dies(
    school: School,
) -> None:
    """Before a commit, after one whose answer was lost, and between sending and clearing the outbox."""
    school.examples(MANY)

    async def dies(where: str, after: int) -> None:
        async with school.trainer() as working:
            store: Any = working.store
            app: Any = working.app
            commit, produce = store.commit_all, app.produce
            seen = 0

            async def broken_commit(steps: Any) -> Any:
                nonlocal seen
                seen += 1
                if seen == after and where == "before":
                    raise Crash
                found = await commit(steps)
                if seen == after and where == "after":
                    raise Crash
                return found

            async def broken_produce(*arguments: Any) -> int:
                count: int = await produce(*arguments)
                if where == "sent":
                    working.fail(Crash())
                    await asyncio.Event().wait()
                return count

            store.commit_all, app.produce = broken_commit, broken_produce
            await asyncio.wait_for(working.failed, 20)

    async def body() -> None:
        for where, after in (("before", 2), ("after", 1), ("sent", 0)):
            with pytest.raises(Crash):
                await dies(where, after)
        async with school.trainer():
            await eventually(lambda: school.learned() == len(MANY) and school.settled())

    run(body())
    state, published = right(MANY)
    assert school.kept() == state
    assert school.published() == published
    assert len(published) >= 3
    assert decode(school.newest()).version == published[-1]


def test_a_redis_that_was_rolled_back_is_read_again_from_where_it_stands(school: School) -> None:
    school.examples(MANY[:600])

    async def body() -> None:
        async with school.trainer() as working:
            await eventually(lambda: school.learned() == 600 and school.settled())
            before = _dumped(school)
            school.examples(MANY[600:1_100])
            await eventually(lambda: school.learned() == 1_100 and school.settled())
            _restored(school, before)
            school.examples(MANY[1_100:])
            await eventually(lambda: school.learned() == len(MANY) and school.settled())
            resyncs = working.metrics.registry.get_sample_value
            assert any(resyncs("churnwatch_resyncs_total", {"reason": r}) for r in ("conflict", "restored"))

    run(body())
    state, published = right(MANY)
    assert school.kept() == state
    assert school.published() == published


def test_an_example_that_comes_again_is_not_learned_again_and_what_is_none_is_kept_in_dead_letters(
    school: School,
) -> None:
    school.examples(MANY[:400])
    school.raw("examples", [(None, b"{}"), (None, None), (None, msgspec.json.encode({"version": 9}))])
    school.examples(MANY[300:500])

    async def body() -> None:
        async with school.trainer() as working:
            await eventually(lambda: school.learned() == 603 and school.settled())
            value = working.metrics.registry.get_sample_value
            assert value("churnwatch_lessons_total", {"outcome": "learned"}) == 500
            assert value("churnwatch_lessons_total", {"outcome": "repeated"}) == 100

    run(body())
    state, _ = right(MANY[:500])
    assert school.kept() == state
    letters = read_all(school.brokers, [school.prefix + "dead-letters"])
    assert [dict(r.headers())["churnwatch-topic"] for r in letters] == [b"examples"] * 3


def test_labels_that_trickle_in_are_published_after_so_many_seconds_also_by_who_comes_after_a_kill(
    school: School,
) -> None:
    school.examples(MANY[:200])

    async def body() -> None:
        async with school.trainer():
            await eventually(lambda: school.learned() == 200)
        assert school.published() == []
        async with school.trainer(Learning(publish_seconds=0.2)) as working:
            await eventually(lambda: len(school.published()) == 1)
            value = working.metrics.registry.get_sample_value
            learned = [value("churnwatch_model_labels", {"outcome": of}) for of in ("churned", "stayed")]
            assert None not in learned
            assert sum(n or 0 for n in learned) == 200
            school.examples(MANY[200:210])
            await eventually(lambda: len(school.published()) == 2)

    run(body())
    records = read_all(school.brokers, [school.prefix + "models"])
    snapshots = [decode(r.value()) for r in records]
    assert [s.leading.labels for s in snapshots] == [200, 210]
    assert [r.key().decode() for r in records] == [s.version for s in snapshots]


def test_a_process_that_is_killed_at_work_is_gone_on_from(school: School, tmp_path: Path) -> None:
    school.examples(MANY)
    with _process(school, tmp_path / "trainer.log") as process:
        wait_until(lambda: school.learned() > 0, 60, "the process learns")
        process.send_signal(signal.SIGKILL)
        process.wait()

    async def body() -> None:
        async with school.trainer():
            await eventually(lambda: school.learned() == len(MANY) and school.settled(), 30)

    run(body())
    state, published = right(MANY)
    assert school.kept() == state
    assert school.published() == published


# ---- following


def snapshots_of(examples: list[Example]) -> list[Snapshot]:
    trainer = Trainer(
        Learning(publish_labels=128), HORIZON, Settings().prior, FEATURES_VERSION, yardstick=False
    )
    return [p.snapshot for p in trainer.learn(examples).published]


@contextlib.asynccontextmanager
async def following(school: School) -> AsyncIterator[tuple[list[Known], Metrics]]:
    told: list[Known] = []
    metrics = Metrics(CollectorRegistry(), strict=True)
    follower = Following(
        school.settings().kafka,
        "models",
        partial(Book, HORIZON, FEATURES_VERSION),
        told.append,
        metrics.model_refused.inc,
    )
    await follower.start()
    try:
        yield told, metrics
    finally:
        await follower.stop()


def test_a_worker_reads_all_there_is_and_takes_up_the_rest_without_a_restart(school: School) -> None:
    first, second, third, *_ = snapshots_of(MANY[:512])
    school.raw("models", [(s.version.encode(), encode(s)) for s in (first, second)])

    async def body() -> None:
        async with following(school) as (told, metrics):
            assert [k.newest() for k in told] == [second]
            assert told[0].at(first.effective) == first
            future = encode(third).replace(b'{"format":1,', b'{"format":2,', 1)
            school.raw("models", [(b"future", future), (third.version.encode(), encode(third))])
            await eventually(lambda: told[-1].newest() == third)
            refused = metrics.registry.get_sample_value("churnwatch_model_snapshots_refused_total")
            assert refused == 1
            school.raw("models", [(PIN, encode_pin(first, 1)), (first.version.encode(), None)])
            await eventually(lambda: told[-1].newest() == first and len(told[-1].snapshots) == 2)
            school.raw("models", [(PIN, None)])
            await eventually(lambda: told[-1].newest() == third)

    run(body())


def test_a_worker_goes_on_without_the_topic_and_finds_it_when_it_comes(
    kafka: KafkaServer, prefix: str, topics: Topics, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("agents.following.AGAIN", 0.2)
    school = School(kafka.brokers, "redis://localhost:1", "app", prefix)
    (only,) = snapshots_of(MANY[:128])

    async def body() -> None:
        async with following(school) as (told, _):
            assert told == [Known()]
            topics("models", partitions=1)
            school.raw("models", [(only.version.encode(), encode(only))])
            await eventually(lambda: told[-1].newest() == only)

    run(body())


# ---- helpers


def _keys(school: School) -> str:
    return f"{{{school.application}:trainer:p0}}:*"


def _dumped(school: School) -> dict[bytes, bytes]:
    with school.redis() as client:
        return {key: client.dump(key) for key in client.keys(_keys(school))}


def _restored(school: School, dump: dict[bytes, bytes]) -> None:
    with school.redis() as client, client.pipeline(transaction=True) as pipeline:
        for key in client.keys(_keys(school)):
            pipeline.delete(key)
        for key, value in dump.items():
            pipeline.restore(key, 0, value)
        pipeline.execute()


@contextlib.contextmanager
def _process(school: School, log: Path) -> Iterator[subprocess.Popen[bytes]]:
    """``churnwatch trainer`` as a process."""
    env = {k: v for k, v in os.environ.items() if not k.startswith("CHURNWATCH_")}
    settings = (
        "learning.publish_labels=250",
        "learning.publish_seconds=86400",
        "kafka.session_timeout=6",
        "policy.horizon_days=7",
    )
    with log.open("wb") as out:
        process = subprocess.Popen(
            [
                sys.executable, "-m", "agents.cli", "--brokers", school.brokers, "--redis", school.redis_url,
                "--prefix", school.prefix, "--application", school.application,
                *(word for key in settings for word in ("--set", key)), "trainer", "--http-port", "0",
            ],
            cwd=ROOT, env=env, stdin=subprocess.DEVNULL, stdout=out, stderr=out,
        )  # fmt: skip
    try:
        yield process
    finally:
        process.kill()
        process.wait()
