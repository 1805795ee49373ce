"""The servers that everything is measured on, what is on their topics, and whose processor time it took."""

from __future__ import annotations

import os
import shutil
import tempfile
import time
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple, Self

from confluent_kafka import Producer

from bench.events import Row
from streams.codec import CLOCK_KEY
from streams.topics import OUTPUTS, PURCHASES
from tests.chaos.harness import Application, WorkerProcess
from tests.servers import KafkaServer, RedisServer, wait_until

PARTITIONS = 4
TICKS = os.sysconf("SC_CLK_TCK")
PRODUCER = {"partitioner": "murmur2_random", "linger.ms": 20, "queue.buffering.max.messages": 400_000}
# Rewriting the log would count as the path's own work now and then; how fast it grows is a figure of its own.
REDIS = {"auto-aof-rewrite-percentage": "0"}


class Broker(KafkaServer):
    """A Kafka that compiles as in production: the tests' own saves on its start instead."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder, heap="1g")

    def _java(self, *arguments: str) -> list[str]:
        return [word for word in super()._java(*arguments) if not word.startswith("-XX:TieredStopAtLevel")]


class Used(NamedTuple):
    """Seconds of the processor and of the wall clock since some beginning."""

    worker: float
    redis: float
    broker: float
    wall: float

    def since(self, before: Used) -> Used:
        """What was used from ``before`` until now."""
        return Used(*(now - then for now, then in zip(self, before, strict=True)))


def cpu_of(pid: int | None) -> float:
    """User and system seconds of a process and of the children that it has waited for; 0 for none."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    except OSError:
        return 0.0
    return sum(map(int, fields[11:15])) / TICKS


@dataclass
class Stage:
    """One broker for the whole run; each application on it has a Redis of its own, fresh at its start."""

    folder: Path
    kafka: Broker
    loaded: dict[str, int] = field(default_factory=dict)
    _made: int = 0

    @classmethod
    @contextmanager
    def open(cls) -> Iterator[Self]:
        """The broker runs until the end of the block; nothing of it is kept."""
        folder = Path(tempfile.mkdtemp(prefix="churnwatch-bench-"))
        try:
            with Broker(folder / "kafka") as kafka:
                yield cls(folder, kafka)
        finally:
            shutil.rmtree(folder, ignore_errors=True)

    def load(self, prefix: str, rows: Iterable[Row]) -> int:
        """Put events on the purchases topic of a prefix, once; how many records it then holds.

        Clock records go to every partition.
        """
        if prefix not in self.loaded:
            self.create_topics(prefix)
            topic = prefix + PURCHASES
            producer = Producer({"bootstrap.servers": self.kafka.brokers, **PRODUCER})
            sent = 0
            for row in rows:
                if row.key == CLOCK_KEY:
                    # What comes after it in time must not be before it in the log.
                    for partition in range(PARTITIONS):
                        producer.produce(topic, row.value, row.key, partition=partition)
                    sent += PARTITIONS
                else:
                    producer.produce(topic, row.value, row.key)
                    sent += 1
                if sent % 500 == 0:
                    producer.poll(0)
                    while len(producer) > 300_000:
                        producer.poll(0.01)
            assert producer.flush(120) == 0, "the broker did not take all events"
            self.loaded[prefix] = sent
        return self.loaded[prefix]

    def create_topics(self, prefix: str) -> None:
        """The topics of an application."""
        self.kafka.create_topics([prefix + name for name in (PURCHASES, *OUTPUTS)], PARTITIONS)

    @contextmanager
    def application(self, prefix: str, **more: str) -> Iterator[Measured]:
        """An application with the product's own settings, on the record clock unless ``more`` says otherwise.

        ``more`` are settings by dotted key, the dot written as two underscores.
        """
        self._made += 1
        name = f"bench-{self._made}"
        with ExitStack() as stack:
            redis = stack.enter_context(RedisServer(self.folder / name / "redis", settings=REDIS))
            given = {
                "kafka.group": f"{name}-{os.getpid()}",
                "redis.timeout": "5",
                "redis.patience": "40",
                "worker.sweep_interval": "1",
                **{key.replace("__", "."): value for key, value in more.items()},
            }
            application = Application(
                kafka=self.kafka,
                redis=redis,
                folder=self.folder / name,
                name="bench",
                prefix=prefix,
                partitions=PARTITIONS,
                session=float(given.pop("kafka.session_timeout", "30")),
                batch=2000,
                clock=given.pop("clock.mode", "record"),
                more=given,
            )
            stack.callback(application.end)
            yield Measured(application)


@dataclass
class Measured:
    """An application that is watched from outside: by Redis, ``/proc`` and its own ``/metrics``."""

    application: Application

    def __post_init__(self) -> None:
        self.client: Any = self.application.redis.client()

    def start(self) -> WorkerProcess:
        """One more worker; not waited for."""
        return self.application.launch()

    def used(self) -> Used:
        """By all workers, Redis and the broker."""
        workers = sum(cpu_of(w.pid) for w in self.application.running)
        redis, kafka = cpu_of(self.application.redis.pid), cpu_of(self.application.kafka.pid)
        return Used(workers, redis, kafka, time.perf_counter())

    def offsets(self) -> list[int]:
        """The next offset to apply of each partition, in one round trip; any thread may ask."""
        field = "off:" + self.application.topic(PURCHASES)
        pipeline = self.client.pipeline(transaction=False)
        for number in range(PARTITIONS):
            pipeline.hget(self.application.key(number, "meta"), field)
        return [int(found or 0) for found in pipeline.execute()]

    def until_applied(self, records: int, seconds: float = 300.0, every: float = 0.02) -> int:
        """Wait until so many records are applied; how many are then."""
        done = 0

        def reached() -> bool:
            nonlocal done
            self.application.check_workers()
            done = sum(self.offsets())
            return done >= records

        wait_until(reached, seconds, f"{records} records are applied", every=every)
        return done

    def until_left(self, seconds: float = 60.0) -> None:
        """Wait until the outbox is empty."""
        wait_until(lambda: self.application.waiting() == 0, seconds, "all that waits has left", every=0.02)

    def info(self, section: str) -> dict[str, Any]:
        """What Redis says of itself."""
        found: dict[str, Any] = self.client.info(section)
        return found

    def metrics(self, worker: WorkerProcess, *names: str) -> dict[str, float]:
        """Counters of a worker, each summed over its labels."""
        return {name: worker.metric(f"churnwatch_{name}") for name in names}
