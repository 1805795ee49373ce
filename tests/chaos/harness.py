"""An application on real servers: its history, its workers as processes of their own, and what befalls them.

A run sends a seeded history little by little, disturbs the servers and the workers at seeded moments, waits
until all of it is applied and has left, and hands everything that was written to ``tests.chaos.promises``.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import Any

import msgspec
import redis
from confluent_kafka import Consumer, KafkaException, TopicPartition

from agents.send import Outgoing, Route, Sender
from agents.settings import Settings
from models.snapshot import Known
from streams import topics
from tests.chaos.history import Record, as_record
from tests.chaos.taught import publish
from tests.servers import ROOT, KafkaServer, RedisServer, _Server, free_port, read_all, wait_until

WRITTEN = (topics.ALERTS, topics.CUSTOMER_SCORES, topics.DECISIONS, topics.DEAD_LETTERS, topics.EXAMPLES)
"""The topics that this release writes."""
QUICK: Mapping[str, Any] = {"socket_timeout": 0.5, "socket_connect_timeout": 0.5, "retry": None}
UNREACHABLE = (redis.ConnectionError, redis.TimeoutError, redis.BusyLoadingError)


class WorkerProcess(_Server):
    """``churnwatch worker``. It answers when every partition that it was given is claimed."""

    name = "worker"
    start_seconds = 60.0

    def __init__(
        self, folder: Path, number: int, environment: Mapping[str, str], arguments: Sequence[str]
    ) -> None:
        self.name = f"worker-{number}"
        super().__init__(folder)
        self.port = free_port()
        self.environment = {**environment, "CHURNWATCH_WORKER__HTTP_PORT": str(self.port)}
        self.arguments = list(arguments)

    def command(self) -> list[str]:
        set_to = (f"{name}={value}" for name, value in self.environment.items())
        return ["env", f"PYTHONPATH={ROOT}", *set_to, sys.executable, *self.arguments]

    def answers(self) -> bool:
        return self._get("readyz") is not None

    def claimed(self) -> int:
        """Partition numbers that it holds."""
        return round(self.metric("churnwatch_partitions_claimed"))

    def metric(self, name: str) -> float:
        """The sum of a metric over its labels; 0 while it does not answer."""
        found = 0.0
        for line in (self._get("metrics") or "").splitlines():
            if line.startswith((f"{name} ", f"{name}{{")):
                found += float(line.rpartition(" ")[2])
        return found

    def said(self, lines: int = 25) -> str:
        """The end of its log."""
        return "\n".join(self.log.read_text(errors="replace").splitlines()[-lines:])

    def _get(self, path: str) -> str | None:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self.port}/{path}", timeout=1) as answer:
                body: bytes = answer.read()
                return body.decode()
        except (urllib.error.URLError, OSError):
            return None


@dataclass
class Application:
    """One application with topics and a Redis of its own. ``more`` are further settings by dotted key."""

    kafka: KafkaServer
    redis: RedisServer
    folder: Path
    name: str
    prefix: str
    inputs: tuple[str, ...] = (topics.PURCHASES,)
    partitions: int = 4
    clock: str = "record"
    session: float = 6.0
    batch: int = 50
    patience: float = 10.0
    arguments: Sequence[str] = ("-m", "agents.cli", "worker")
    more: Mapping[str, str] = field(default_factory=dict)
    workers: list[WorkerProcess] = field(default_factory=list)

    @property
    def environment(self) -> dict[str, str]:
        """The settings as variables."""
        given = {
            "application": self.name,
            "kafka.brokers": self.kafka.brokers,
            "kafka.prefix": self.prefix,
            "kafka.inputs": ",".join(self.inputs),
            "kafka.session_timeout": str(self.session),
            "kafka.request_timeout": str(self.session + 14),
            "redis.url": self.redis.url,
            "redis.timeout": "1",
            "redis.patience": str(self.patience),
            "clock.mode": self.clock,
            "worker.batch": str(self.batch),
            "worker.sweep_interval": "0.1",
            # Enough labels in a history of weeks.
            "learning.snapshot_days": "7",
            **self.more,
        }
        return {f"CHURNWATCH_{name.upper().replace('.', '__')}": value for name, value in given.items()}

    @property
    def settings(self) -> Settings:
        """The settings as the worker has them."""
        return Settings.load(None, self.environment)

    @property
    def route(self) -> Route:
        """Where the product's sender sends."""
        return Route(dict.fromkeys(self.inputs, self.partitions), self.prefix)

    def topic(self, logical: str) -> str:
        """The name on Kafka."""
        return self.prefix + logical

    def create_topics(self) -> None:
        """All that is read and written, deletion by time off: the history is years old."""
        names = [self.topic(name) for name in (*self.inputs, *topics.OUTPUTS)]
        self.kafka.create_topics(names, self.partitions, {"retention.ms": "-1"})
        self.kafka.create_topics([self.topic(topics.MODELS)], 1, {"retention.ms": "-1"})

    def broker_back(self) -> None:
        """Start the broker that was killed; returns when every topic has a leader again."""
        self.kafka.start()
        names = [self.topic(name) for name in (*self.inputs, *topics.OUTPUTS)]
        self.kafka._await_leaders(self.kafka.admin(), dict.fromkeys(names, self.partitions))

    # ---- workers

    def launch(self, arguments: Sequence[str] = ()) -> WorkerProcess:
        """One more worker, which is not waited for; ``arguments``: others than usual for Python."""
        worker = WorkerProcess(self.folder, len(self.workers), self.environment, arguments or self.arguments)
        self.workers.append(worker)
        worker.launch()
        return worker

    @property
    def running(self) -> list[WorkerProcess]:
        """The workers that have not been ended."""
        return [worker for worker in self.workers if worker.process is not None]

    def check_workers(self) -> None:
        """A worker must not end unless it is made to."""
        for worker in self.running:
            assert worker.running, (
                f"{worker.name} ended by itself with {worker.process and worker.process.returncode}:\n{worker.said()}"
            )

    def stop(self, worker: WorkerProcess, seconds: float = 11.0) -> float:
        """SIGTERM; how long it took. It must end of itself, with code 0."""
        assert worker.process is not None
        began = time.monotonic()
        worker.process.terminate()
        code = worker.process.wait(seconds)
        took = time.monotonic() - began
        worker.kill()
        assert code == 0, f"{worker.name} ended with {code}:\n{worker.said()}"
        return took

    def command(self, *arguments: str) -> str:
        """``churnwatch`` with the settings of the workers; what it printed. It must end well."""
        done = subprocess.run(
            [sys.executable, "-m", "agents.cli", *arguments],
            env={**os.environ, "PYTHONPATH": str(ROOT), **self.environment},
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, (
            f"churnwatch {' '.join(arguments)} ended with {done.returncode}: {done.stderr}"
        )
        return done.stdout

    def end(self) -> None:
        """Whatever still runs is killed."""
        for worker in self.running:
            worker.kill()

    # ---- what Redis holds

    def key(self, partition: int, part: str) -> str:
        """A key of a partition number."""
        return f"{{{self.name}:p{partition}}}:{part}"

    def offsets(self) -> dict[tuple[str, int], int]:
        """The next offset to apply by (Kafka topic, partition)."""
        found = {}
        with self.redis.client(**QUICK) as client:
            for number in range(self.partitions):
                meta: Any = client.hgetall(self.key(number, "meta"))
                for name, value in meta.items():
                    if name.startswith(b"off:"):
                        found[name[4:].decode(), number] = int(value)
        return found

    def applied(self) -> int | None:
        """How many records are applied; None while Redis does not say."""
        try:
            return sum(self.offsets().values())
        except UNREACHABLE:
            return None

    def owners(self) -> dict[int, str]:
        """The incarnation of the worker that claimed each partition number last."""
        with self.redis.client(**QUICK) as client:
            metas: list[Any] = [client.hget(self.key(n, "meta"), "inc") for n in range(self.partitions)]
        return {number: inc.decode() for number, inc in enumerate(metas) if inc is not None}

    def waiting(self) -> int | None:
        """Messages in the outbox; None while Redis does not say."""
        try:
            with self.redis.client(**QUICK) as client:
                lengths: list[Any] = [client.xlen(self.key(n, "out")) for n in range(self.partitions)]
            return int(sum(lengths))
        except UNREACHABLE:
            return None

    # ---- what Kafka holds

    def ends(self) -> dict[tuple[str, int], int]:
        """The next offset to be written by (Kafka topic, partition), of partitions that hold anything."""
        consumer = Consumer({"bootstrap.servers": self.kafka.brokers, "group.id": "ends", "log_level": 3})
        try:
            places = [(self.topic(name), n) for name in self.inputs for n in range(self.partitions)]
            found = {at: consumer.get_watermark_offsets(TopicPartition(*at), timeout=20)[1] for at in places}
        finally:
            consumer.close()
        return {at: end for at, end in found.items() if end}

    def log(self) -> list[Record]:
        """Every record of the input topics, per partition in order."""
        return self.read(self.inputs)

    def read(self, names: Sequence[str]) -> list[Record]:
        """Every record of some topics, per partition in order."""
        until = time.monotonic() + 20
        while True:
            try:
                return [as_record(m) for m in read_all(self.kafka.brokers, [self.topic(n) for n in names])]
            except KafkaException:
                # A broker that has just come back may name itself the leader before it acts as one.
                if time.monotonic() > until:
                    raise
                time.sleep(0.2)


class Feeder(threading.Thread):
    """Sends a history while the workers keep up with it: never more than ``ahead`` records before them, and
    none from number ``limit`` on."""

    def __init__(self, application: Application, records: Sequence[Outgoing], ahead: int) -> None:
        super().__init__(daemon=True)
        self._application = application
        self._records = records
        self._ahead = ahead
        self._given_up = threading.Event()
        self.limit = ahead
        self.produced = 0
        self.failure: Exception | None = None

    def run(self) -> None:
        """Sends all of it; what keeps it from that is kept in ``failure``."""
        # A sender gives up where a broker is away for longer than a request may take; this one has to wait.
        kafka = msgspec.structs.replace(self._application.settings.kafka, request_timeout=120.0)
        try:
            Sender(kafka, pace=self._pace).run(self._records)
        except Exception as error:  # noqa: BLE001 - whoever waits for the run raises it
            self.failure = error

    def give_up(self) -> None:
        """Wait no longer for the workers."""
        self._given_up.set()

    def _pace(self, _: Outgoing) -> None:
        while self.produced >= self.limit and not self._given_up.wait(0.002):
            pass
        self.produced += 1
        if self.produced % (self._ahead // 4) == 0:
            while not self._given_up.wait(0.005):
                applied = self._application.applied()
                if applied is not None and self.produced - applied < self._ahead:
                    return


@dataclass
class Run:
    """One disturbed run. ``log`` says what was done to it, for whoever has to repeat it.

    ``struck``: how often a fault did; ``rollback``: whether Redis went back in time; ``stops``: seconds from
    SIGTERM to the end of a worker; ``part``: the part of the history in which faults strike; ``models``: what was learned before.
    """

    application: Application
    history: Sequence[Outgoing]
    seed: int
    ahead: int = 200
    patience: float = 90.0
    log: list[str] = field(default_factory=list)
    began: float = field(default_factory=time.monotonic)
    struck: int = 0
    rollback: bool = False
    stops: list[float] = field(default_factory=list)
    part: tuple[float, float] = (0.05, 0.95)
    models: Known = field(default_factory=Known)

    def __post_init__(self) -> None:
        self.random = Random(self.seed)
        self.feeder = Feeder(self.application, self.history, self.ahead)

    def note(self, text: str) -> None:
        """Write down what is done."""
        self.log.append(f"{time.monotonic() - self.began:7.2f} s  {text}")

    @contextlib.contextmanager
    def under_way(self, workers: int = 1) -> Iterator[None]:
        """Workers run and the history is being sent; in the end all of it is applied and has left."""
        application = self.application
        application.create_topics()
        publish(application.settings, self.models)
        try:
            with self._explained():
                for _ in range(workers):
                    application.launch()
                self.feeder.start()
                yield
                self.settle()
        finally:
            self.feeder.give_up()
            application.end()

    @contextlib.contextmanager
    def _explained(self) -> Iterator[None]:
        try:
            yield
        except Exception as error:
            told = "\n".join(self.log)
            logs = "\n".join(f"--- {w.name}\n{w.said()}" for w in self.application.workers[-3:])
            error.add_note(f"seed {self.seed}; what was done:\n{told}\n{logs}")
            raise

    def until(self, true: Callable[[], object], what: str, *, drip: int = 0) -> None:
        """Wait for something while nothing that should run has ended, and ``drip`` records more are sent each
        hundredth of a second."""

        def checked() -> object:
            self.application.check_workers()
            if self.feeder.failure is not None:
                raise self.feeder.failure
            self.feeder.limit += drip
            return true()

        wait_until(checked, self.patience, what, every=0.01)

    def moments(self, count: int) -> Iterator[int]:
        """Moments at which the workers are at work: as often as asked, spread at random over the history."""
        first, last = (round(len(self.history) * share) for share in self.part)
        points = sorted(self.random.sample(range(first, last), count))
        for number, point in enumerate(points):
            # Some are always waiting, and what comes after is kept for the later moments.
            self.feeder.limit = max(self.feeder.limit, point + self.ahead)

            def reached(point: int = point) -> bool:
                return (self.application.applied() or 0) >= point

            self.until(reached, f"{point} records are applied")
            time.sleep(self.random.uniform(0, 0.02))  # anywhere within a batch, not always after a commit
            yield number

    def settle(self) -> None:
        """Wait until all that was sent is applied and has left."""
        if not self.application.running:
            self.application.launch()
        self.feeder.limit = len(self.history)
        self.until(lambda: not self.feeder.is_alive(), "all was sent")
        total = len(self.history)
        self.until(lambda: self.application.applied() == total, f"all {total} records are applied")
        self.until(lambda: self.application.waiting() == 0, "all that waits has left")
        self.note("all was applied and has left")

    def kill(self, worker: WorkerProcess) -> None:
        """SIGKILL."""
        self.note(f"SIGKILL {worker.name}")
        worker.kill()
        self.struck += 1
