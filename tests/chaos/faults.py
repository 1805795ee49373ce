"""What may befall servers and workers. Each fault takes a run that is under way, and how often to do it."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeAlias

from confluent_kafka import Consumer, TopicPartition

from streams import topics
from tests.chaos.harness import UNREACHABLE, Run
from tests.servers import wait_until

Fault: TypeAlias = Callable[[Run, int], None]


def nothing(run: Run, count: int) -> None:
    """The run is left alone."""


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
            run.note(f"{run.application.launch().name} comes")
        else:
            worker = run.random.choice(running)
            # One that is still starting has nothing to leave yet.
            run.until(lambda worker=worker: worker.answers(), f"{worker.name} is ready")  # type: ignore[misc]
            took = run.application.stop(worker)
            run.note(f"{worker.name} goes, {took:.1f} s after SIGTERM")
            run.kills += 1


def worker_frozen(run: Run, count: int) -> None:
    """SIGSTOP beyond the session, so that another takes over, then SIGCONT. Needs two workers."""
    application = run.application
    for _ in run.moments(count):
        run.until(lambda: all(0 < w.claimed() for w in application.running), "both workers hold partitions")
        frozen = run.random.choice(application.running)
        before = application.owners()
        run.note(f"SIGSTOP {frozen.name}")
        frozen.freeze()
        # Of the two owners one will be gone.
        run.until(
            lambda before=before: len(set(application.owners().values())) == 1  # type: ignore[misc]
            and application.owners() != before,
            "the other worker has taken over",
        )
        time.sleep(run.random.uniform(0, 0.3))
        run.note(f"SIGCONT {frozen.name}")
        frozen.thaw()
        run.kills += 1


def broker_killed(run: Run, count: int) -> None:
    """SIGKILL of the broker under load, down for a while."""
    for _ in run.moments(count):
        run.note("SIGKILL the broker")
        run.application.kafka.kill()
        time.sleep(run.random.uniform(0, 2.0))
        run.application.kafka.start()
        run.note("the broker is back")
        run.kills += 1


def redis_killed(run: Run, count: int) -> None:
    """SIGKILL of Redis under load, its append-only file as the disk has it."""
    for _ in run.moments(count):
        run.note("SIGKILL Redis")
        run.application.redis.kill()
        time.sleep(run.random.uniform(0, 1.0))
        run.application.redis.start()
        run.note("Redis is back")
        run.kills += 1
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
        run.kills += 1


def redis_restored(run: Run, count: int) -> None:
    """Redis is put back to an old copy, and in the end loses everything while it runs."""
    run.rollback = True
    application = run.application
    backup = None
    for number in run.moments(2 * count):
        if number % 2 == 0:
            backup = application.redis.backup()
            run.note(f"a copy of Redis at {application.applied()} records")
        else:
            assert backup is not None
            had = application.applied()
            application.redis.restore(backup)
            application.redis.start()
            run.note(f"Redis restored: from {had} back to {application.applied()} records")
            run.kills += 1
    run.settle()
    application.redis.wipe()
    run.note("Redis wiped: everything is read again")
    run.kills += 1


def killed_before_trim(run: Run, count: int) -> None:
    """SIGKILL as soon as a message is seen on Kafka while the outbox still holds some."""
    application = run.application
    consumer = Consumer(
        {
            "bootstrap.servers": application.kafka.brokers,
            "group.id": f"{application.name}-watch",
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
    try:
        with application.redis.client() as client:
            outboxes = [application.key(number, "out") for number in range(application.partitions)]
            for _ in run.moments(count):
                while consumer.consume(500, 0):  # what left before this moment
                    pass

                def caught() -> bool:
                    return bool(consumer.consume(1, 0.5)) and any(client.xlen(key) for key in outboxes)

                wait_until(caught, 30, "a message leaves while others wait", every=0)
                run.kill(application.running[0])
                run.note(f"{sum(int(client.xlen(key)) for key in outboxes)} messages waited")  # type: ignore[arg-type]
                application.launch()
    finally:
        consumer.close()


def redis_frozen(run: Run, count: int) -> None:
    """SIGSTOP of Redis for some seconds: calls time out and are made again."""
    for _ in run.moments(count):
        with run.application.redis.frozen():
            run.note("SIGSTOP Redis")
            time.sleep(run.random.uniform(1.5, 4.0))
        run.note("SIGCONT Redis")
        run.kills += 1


__all__ = ["UNREACHABLE", "Fault"]
