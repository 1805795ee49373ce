"""Runs the worker in the test's own process against real servers, and asks what has become of the records."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import functools
import json
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Iterable
from datetime import UTC, datetime
from typing import Any

import msgspec
import redis as sync_redis
from confluent_kafka import Producer

from agents.settings import Clock, Kafka, Redis, Settings
from agents.settings import Worker as WorkerSettings
from agents.worker import Core, Worker
from tests.agents import counting
from tests.servers import read_all

START = datetime(2026, 3, 1, tzinfo=UTC)


def run(body: Coroutine[Any, Any, Any]) -> Any:
    return asyncio.run(body)


async def eventually(true: Callable[[], Any], seconds: float = 20.0, what: str = "") -> None:
    """Wait until something is true, letting the loop turn."""
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end, f"not within {seconds:g} s: {what or true}"
        await asyncio.sleep(0.02)


@functools.cache
def producer_of(brokers: str) -> Producer:
    """One producer for all that is sent to a broker."""
    config = {"bootstrap.servers": brokers, "partitioner": "murmur2_random", "log_level": 0, "linger.ms": 1}
    return Producer(config)


@dataclasses.dataclass
class Shell:
    """An application of a test's own on given servers."""

    brokers: str
    redis_url: str
    application: str
    prefix: str
    inputs: tuple[str, ...] = ("purchases",)
    clock: str = "record"
    batch: int = 500
    session: float = 6.0
    patience: float = 10.0
    timeout: float = 1.0
    grace: float = 0.0
    sweep: float = 0.1

    def settings(self, **changes: Any) -> Settings:
        settings = Settings(
            application=self.application,
            kafka=Kafka(
                brokers=(self.brokers,),
                prefix=self.prefix,
                inputs=self.inputs,  # type: ignore[arg-type]
                session_timeout=self.session,
                request_timeout=self.session + 14,
            ),
            redis=Redis(url=self.redis_url, timeout=self.timeout, patience=self.patience),
            clock=Clock(mode=self.clock),  # type: ignore[arg-type]
            worker=WorkerSettings(
                batch=self.batch, http_port=0, sweep_interval=self.sweep, silence_grace=self.grace
            ),
        )
        return msgspec.structs.replace(settings, **changes)

    def core(self, silence: int | None = None) -> counting.Counting:
        return counting.Counting(self.inputs, self.clock, silence)

    @contextlib.asynccontextmanager
    async def worker(self, core: Core | None = None, **changes: Any) -> AsyncIterator[Worker]:
        """A worker in its group; it must not fail before the end of the block."""
        worker = Worker(self.settings(**changes), core=core or self.core(), serve_http=False)
        try:
            await asyncio.wait_for(worker.start(), 30)
            yield worker
            if worker.failed.done():
                raise worker.failed.result()
        finally:
            await asyncio.wait_for(worker.stop(), 15)

    # ---- what goes in

    def producer(self) -> Producer:
        return producer_of(self.brokers)

    def send(
        self,
        topic: str,
        customers: Iterable[str],
        *,
        partition: int | None = None,
        at: datetime = START,
        tag: str = "",
    ) -> int:
        """One `view` of each customer in turn, on their partition; how many were sent."""
        producer = producer_of(self.brokers)
        n = 0
        for n, customer in enumerate(customers, 1):
            event = {
                "id": f"{tag}{topic}-{time.monotonic_ns()}-{n}",
                "type": "view",
                "customer": customer,
                "time": at.isoformat(),
            }
            where = -1 if partition is None else partition  # -1: by the key
            producer.produce(self.prefix + topic, json.dumps(event), customer, partition=where)
            producer.poll(0)
        assert producer.flush(20) == 0
        return n

    def tick(self, topic: str, at: datetime, partitions: int) -> None:
        producer = producer_of(self.brokers)
        for partition in range(partitions):
            event = {"id": f"clock-{at.isoformat()}", "type": "clock", "time": at.isoformat()}
            producer.produce(self.prefix + topic, json.dumps(event), "clock", partition=partition)
        assert producer.flush(20) == 0

    # ---- what came of it

    def redis(self) -> Any:
        return sync_redis.Redis.from_url(self.redis_url)

    def meta(self, partition: int) -> dict[bytes, bytes]:
        with self.redis() as client:
            found: dict[bytes, bytes] = client.hgetall(f"{{{self.application}:p{partition}}}:meta")
            return found

    def snapshot(self, partition: int) -> dict[bytes, bytes]:
        """All of a partition number as it is stored now, to go back to."""
        with self.redis() as client:
            keys = client.keys(f"{{{self.application}:p{partition}}}:*")
            return {key: client.dump(key) for key in keys}

    def roll_back(self, partition: int, snapshot: dict[bytes, bytes]) -> None:
        """What a Redis that lost its tail, or came back from a backup, looks like."""
        with self.redis() as client, client.pipeline(transaction=True) as pipeline:
            for key in client.keys(f"{{{self.application}:p{partition}}}:*"):
                pipeline.delete(key)
            for key, value in snapshot.items():
                pipeline.restore(key, 0, value)
            pipeline.execute()

    def offsets(self, partitions: int) -> dict[tuple[str, int], int]:
        """The next offset to apply, by (Kafka topic, partition), of all that were ever committed."""
        return {
            (name[4:].decode(), partition): int(value)
            for partition in range(partitions)
            for name, value in self.meta(partition).items()
            if name.startswith(b"off:")
        }

    def states(self, partitions: int) -> dict[bytes, counting.Count]:
        found: dict[bytes, counting.Count] = {}
        with self.redis() as client:
            for partition in range(partitions):
                for key, value in client.hgetall(f"{{{self.application}:p{partition}}}:hot").items():
                    found[key] = counting.read(value)
        return found

    def counted(self, partitions: int) -> int:
        """Events applied so far."""
        return sum(n for count in self.states(partitions).values() for n, _ in count.seen.values())

    def seen(self, partitions: int) -> dict[bytes, dict[str, tuple[int, int]]]:
        return {key: count.seen for key, count in self.states(partitions).items()}

    def right(self) -> dict[bytes, dict[str, tuple[int, int]]]:
        """What the states must be, from the log alone."""
        records = read_all(self.brokers, [self.prefix + topic for topic in self.inputs])
        return counting.recomputed(records, self.prefix)

    def alerts(self) -> list[str]:
        """The ids that left, as often as they left."""
        return [
            json.loads(record.value())["id"] for record in read_all(self.brokers, [self.prefix + "alerts"])
        ]

    def waiting(self, partitions: int) -> int:
        """Messages in the outbox."""
        with self.redis() as client:
            return sum(client.xlen(f"{{{self.application}:p{p}}}:out") for p in range(partitions))
