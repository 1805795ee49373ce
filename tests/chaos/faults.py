"""What may befall servers and workers. Each fault takes a run that is under way, and how often to do it."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, TypeAlias

from confluent_kafka import Consumer, TopicPartition

from streams import topics
from streams.message import unpack
from tests.chaos.harness import Run, WorkerProcess
from tests.chaos.history import headers

Fault: TypeAlias = Callable[[Run, int], None]


def one_after_the_other(run: Run, faults: Sequence[tuple[Fault, int]]) -> None:
    """Each fault as often as it says, in a part of the history of its own."""
    width = 0.9 / len(faults)
    for place, (fault, count) in enumerate(faults):
        run.part = 0.05 + place * width, 0.05 + (place + 1) * width
        fault(run, count)


def worker_killed(run: Run, count: int) -> None:
    """SIGKILL at random moments; another worker takes over."""
    for _ in run.moments(count):
        run.kill(run.random.choice(run.application.running))
        run.application.launch()


def workers_come_and_go(run: Run, count: int) -> None:
    """One to three workers; at random moments one more comes or one is stopped as an operator stops it."""
    for _ in run.moments(count):
        running = run.application.running
        if len(running) == 1 or (len(running) == 2 and run.random.random() < 0.5):
            worker = run.application.launch()

            def shares(worker: WorkerProcess = worker) -> bool:
                return worker.claimed() > 0

            run.until(shares, f"{worker.name} has partitions", drip=1)
            run.note(f"{worker.name} has come")
        else:
            worker = run.random.choice(running)
            took = run.application.stop(worker)
            run.stops.append(took)
            run.note(f"{worker.name} has gone, {took:.2f} s after SIGTERM")
        run.struck += 1


def worker_frozen(run: Run, count: int) -> None:
    """SIGSTOP beyond the session, so that another takes over, then SIGCONT."""
    application = run.application
    while len(application.running) > 2:
        run.stops.append(application.stop(application.running[-1]))
    while len(application.running) < 2:
        application.launch()
    for _ in run.moments(count):
        run.until(lambda: all(w.claimed() > 0 for w in application.running), "both workers hold partitions")
        frozen = run.random.choice(application.running)
        run.note(f"SIGSTOP {frozen.name}")
        frozen.freeze()

        def taken_over() -> bool:
            return len(set(application.owners().values())) == 1

        run.until(taken_over, "the other worker has taken over", drip=1)
        time.sleep(run.random.uniform(0, 0.3))
        run.note(f"SIGCONT {frozen.name}")
        frozen.thaw()
        run.struck += 1


def broker_killed(run: Run, count: int) -> None:
    """SIGKILL of the broker under load, down for a while."""
    for _ in run.moments(count):
        run.note("SIGKILL the broker")
        run.application.kafka.kill()
        time.sleep(run.random.uniform(0, 2.0))
        run.application.broker_back()
        run.note("the broker is back")
        run.struck += 1


def redis_killed(run: Run, count: int) -> None:
    """SIGKILL of Redis under load, its append-only file as the disk has it."""
    for _ in run.moments(count):
        run.note("SIGKILL Redis")
        run.application.redis.kill()
        time.sleep(run.random.uniform(0, 1.0))
        run.application.redis.start()
        run.note("Redis is back")
        run.struck += 1
    run.rollback = True


def redis_tail_cut(run: Run, count: int) -> None:
    """SIGKILL of Redis, and what it wrote last is lost, while the worker runs."""
    run.rollback = True
    for _ in run.moments(count):
        had = run.application.applied()
        lost = run.application.redis.cut_tail(run.random.randrange(1_000, 400_000))
        run.application.redis.start()
        now = run.application.applied()
        run.note(f"Redis lost {lost} bytes: from {had} to {now} records applied")
        run.struck += 1


def redis_restored(run: Run, count: int) -> None:
    """Redis is put back to an old copy, then loses everything while it runs: all is read again."""
    run.rollback = True
    application = run.application
    copy: Path | None = None
    for number in run.moments(3 * count):
        had = application.applied()
        if number % 3 == 0:
            copy = application.redis.backup()
            run.note(f"a copy of Redis at {application.applied()} records")
        elif number % 3 == 1:
            assert copy is not None
            application.redis.restore(copy)
            application.redis.start()
            run.note(f"Redis restored: from {had} back to {application.applied()} records")
            run.struck += 1
        else:
            application.redis.wipe()
            run.note(f"Redis wiped at {had} records")
            run.struck += 1


def killed_before_trim(run: Run, count: int) -> None:
    """SIGKILL between produce and trim: while messages that are on Kafka still stand in the outbox."""
    application = run.application
    consumer = Consumer(
        {
            "bootstrap.servers": application.kafka.brokers,
            "group.id": f"{application.prefix}watch",
            "enable.auto.commit": False,
            "auto.offset.reset": "earliest",
            "fetch.wait.max.ms": 5,
            "fetch.queue.backoff.ms": 1,
            "log_level": 3,
        }
    )
    consumer.assign(
        [
            TopicPartition(application.topic(name), number, 0)
            for name in (topics.ALERTS, topics.CUSTOMER_SCORES)
            for number in range(application.partitions)
        ]
    )
    left: set[bytes] = set()

    def consume(seconds: float) -> None:
        while messages := consumer.consume(500, seconds):
            left.update(ident(headers(message)) for message in messages if message.error() is None)

    try:
        with application.redis.client() as client:

            def waiting() -> set[bytes]:
                found = set()
                for number in range(application.partitions):
                    entries: Any = client.xrange(application.key(number, "out"))
                    found |= {ident(unpack(fields[b"m"]).headers) for _, fields in entries}
                return found

            def caught() -> bool:
                """Stops the worker for a look; it stays stopped when the moment was right."""
                consume(0)
                if not waiting():
                    return False
                worker = application.running[0]
                worker.freeze()
                client.ping()  # what was under way to Redis has arrived
                consume(0.03)
                if (left - {b""}) & waiting():
                    return True
                worker.thaw()
                return False

            for _ in run.moments(count):
                run.until(caught, "a message that has left waits in the outbox", drip=2)
                run.note(f"{len(left & waiting())} of {len(waiting())} that wait have left")
                run.kill(application.running[0])
                application.launch()
    finally:
        consumer.close()


def ident(names: Iterable[tuple[str, bytes | None]]) -> bytes:
    """The id of a message; empty for a dead letter."""
    return dict(names).get("ce_id") or b""


def redis_frozen(run: Run, count: int) -> None:
    """SIGSTOP of Redis for some seconds: calls time out and are made again."""
    for _ in run.moments(count):
        with run.application.redis.frozen():
            run.note("SIGSTOP Redis")
            time.sleep(run.random.uniform(1.5, 4.0))
        run.note("SIGCONT Redis")
        run.struck += 1


def redis_slow(run: Run, count: int) -> None:
    """For some seconds Redis runs only now and then, so that every answer takes tens of milliseconds."""
    for _ in run.moments(count):
        run.note("Redis becomes slow")
        until = time.monotonic() + run.random.uniform(2.0, 4.0)
        while time.monotonic() < until:
            with run.application.redis.frozen():
                time.sleep(run.random.uniform(0.01, 0.08))
            time.sleep(0.005)
        run.note("Redis is as fast as before")
        run.struck += 1


def clock_stepped(run: Run, count: int) -> None:
    """The wall clock of a worker jumps by minutes, forward and back, as a machine's does that is set right."""
    application = run.application
    file = application.folder / "clock"
    for _ in run.moments(count):
        file.write_text("0")
        worker = application.launch(("-m", "tests.chaos.stepped", str(file), "worker"))

        def works(worker: WorkerProcess = worker) -> bool:
            return worker.claimed() > 0

        run.until(works, f"{worker.name} has partitions", drip=1)
        # Brokers refuse messages that are dated more than an hour ahead.
        minutes = run.random.randrange(10, 50)
        for offset in (60 * minutes, -60 * minutes, 0):
            file.write_text(str(offset))
            time.sleep(run.random.uniform(1.5, 2.5))
        run.note(f"the clock of {worker.name} jumped {minutes} minutes ahead, back, and right again")
        application.stop(worker)
        run.struck += 1


def redis_lost_and_restored(run: Run, count: int) -> None:
    """A backup is taken while the workers are at work; later Redis loses everything, and it is restored."""
    run.rollback = True
    application = run.application
    file = application.folder / "shop.backup"
    for number in run.moments(2 * count):
        if number % 2 == 0:
            file.unlink(missing_ok=True)
            before = application.applied()
            taking = threading.Thread(target=application.command, args=("backup", str(file)))
            taking.start()
            run.until(lambda taking=taking: not taking.is_alive(), "a backup is taken", drip=1)  # type: ignore[misc]
            assert file.exists()
            run.note(
                f"a backup of {file.stat().st_size:,} bytes while {before} to {application.applied()} were applied"
            )
        else:
            had = application.applied()
            for worker in list(application.running):
                worker.kill()
            application.redis.wipe()
            application.command("restore", str(file))
            now = application.applied()
            application.launch()
            run.note(f"Redis lost everything and was restored: from {had} back to {now} records applied")
            run.struck += 1
