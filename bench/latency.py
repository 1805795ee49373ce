"""Latency at a steady rate under the wall clock: from the producer to the durable outbox, and to a consumer of alerts.

Purchases of 201 bytes by 50,000 customers arrive evenly; one in twenty events is a customer who bought a moment ago
and says that they leave, which raises a warning at once. An event is *durable* when Redis says that its offset is
applied: state, deadline and outbox are written in that same commit. An alert is *there* when a consumer has it.
"""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import hiredis
import msgspec
import numpy as np
from confluent_kafka import Consumer, Message, Producer

from alerts.partition import unpack
from bench.events import CUSTOMERS
from bench.stage import PARTITIONS, PRODUCER, Measured, Stage
from streams.events import rfc3339
from streams.topics import ALERTS, PURCHASES
from tests.servers import wait_until

RATE = 1000
LEAVES_EVERY = 20
LEAVES_AFTER = 1_000
"""So many events after their purchase the customer says that they leave."""
COMMITS = "churnwatch_commits_total"
WARM_SECONDS = 8.0
POLL = 0.002
"""Seconds between two looks at Redis: so much later than it was, at most, an event is seen to be durable."""


@dataclass
class Seen:
    """When each event was produced (seconds), which offset it got, and when its alert was there."""

    produced: list[float] = field(default_factory=list)
    place: dict[int, tuple[int, int]] = field(default_factory=dict)
    alerted: dict[int, float] = field(default_factory=dict)
    failures: list[str] = field(default_factory=list)


def measure(stage: Stage, seconds: float, step: Callable[[str], None]) -> dict[str, Any]:
    """Percentiles in milliseconds, and the share of one core that it took."""
    prefix = "latency."
    stage.create_topics(prefix)
    with stage.application(prefix, clock__mode="wall") as measured:
        worker = measured.start()
        worker.await_answer()
        step("latency: going live")
        wait_until(lambda: live(measured), 60, "the application is live", every=0.1)
        seen = Seen()
        over = threading.Event()
        steps: list[tuple[float, list[int]]] = []
        watchers = [
            threading.Thread(target=follow, args=(measured, over, steps), daemon=True),
            threading.Thread(
                target=consume, args=(stage.kafka.brokers, prefix + ALERTS, over, seen), daemon=True
            ),
        ]
        for watcher in watchers:
            watcher.start()
        step(f"latency: {RATE:,} events a second")
        warm = round(min(WARM_SECONDS, seconds) * RATE)
        total = warm + round(seconds * RATE)
        produce(stage.kafka.brokers, prefix + PURCHASES, warm, seen)
        before, own = measured.used(), time.process_time()
        commits = worker.metric(COMMITS)
        produce(stage.kafka.brokers, prefix + PURCHASES, total, seen)
        used = measured.used().since(before)
        commits = worker.metric(COMMITS) - commits
        harness = (time.process_time() - own) / used.wall
        measured.until_applied(total, 60)
        measured.until_left()
        expected = sum(leaves(i) for i in range(total))
        wait_until(lambda: len(seen.alerted) == expected, 30, f"{expected} alerts are there")
        over.set()
        for watcher in watchers:
            watcher.join()
    if seen.failures:
        raise RuntimeError(f"the broker did not take an event: {seen.failures[0]}")
    durable = [moment - seen.produced[i] for i, moment in applied(seen, steps).items() if i >= warm]
    there = [moment - seen.produced[i] for i, moment in seen.alerted.items() if i >= warm]
    return {
        "events_per_second": round((total - warm) / used.wall),
        "to_outbox_ms": percentiles(durable),
        "to_alert_ms": percentiles(there),
        "worker_cores": round(used.worker / used.wall, 3),
        "redis_cores": round(used.redis / used.wall, 3),
        "broker_cores": round(used.broker / used.wall, 3),
        "harness_cores": round(harness, 3),
        "events_per_commit": round((total - warm) / commits, 1),
        "events": total - warm,
        "alerts": len(there),
    }


def leaves(i: int) -> bool:
    """Whether event ``i`` is a customer who leaves."""
    return i % LEAVES_EVERY == 0 and i >= LEAVES_AFTER


def event(i: int, at: int) -> tuple[bytes, bytes]:
    """Key and value of event ``i`` at an instant in microseconds.

    Of each row of ``LEAVES_EVERY`` events the one after the leaver is by a customer who will leave: no other event is
    theirs.
    """
    time_ = rfc3339(at).encode()
    if leaves(i):
        customer = b"c%d" % (900_000 + i - LEAVES_AFTER)
        return customer, (
            b'{"type":"customer_lost","id":"%d","customer":"%b","time":"%b","reason":"too dear"}'
            % (i, customer, time_)
        )
    if i % LEAVES_EVERY == 1:
        customer = b"c%d" % (900_000 + i - 1)
    else:
        customer = b"c%d" % (100_000 + i * 7919 % CUSTOMERS)
    return customer, (
        b'{"type":"purchase","id":"%d","customer":"%b","time":"%b","order":"o-%d","channel":"web",'
        b'"lines":[{"sku":"sku-%04d","category":"cat-%02d","quantity":1,"amount":12.50}]}'
        % (i, customer, time_, i, i % 5000, i % 40)
    )


def produce(brokers: str, topic: str, until: int, seen: Seen) -> None:
    """Events one by one, evenly, up to number ``until``; none waits for company in the producer."""
    producer = Producer({"bootstrap.servers": brokers, **PRODUCER, "linger.ms": 0})

    def delivered(i: int, error: object, message: Message) -> None:
        partition, offset = message.partition(), message.offset()
        if error is not None or partition is None or offset is None:
            seen.failures.append(str(error))
        else:
            seen.place[i] = partition, offset

    first = len(seen.produced)
    began = time.time()
    for i in range(first, until):
        wait = began + (i - first) / RATE - time.time()
        if wait > 0:
            time.sleep(wait)
        now = time.time()
        key, value = event(i, int(now * 1e6))
        seen.produced.append(now)
        producer.produce(topic, value, key, on_delivery=partial(delivered, i))
        producer.poll(0)
    assert producer.flush(30) == 0, "the broker did not take all events"


def follow(measured: Measured, over: threading.Event, steps: list[tuple[float, list[int]]]) -> None:
    """What is applied, at each moment at which that had changed.

    Asked a thousand times in two seconds, so the question is packed once and the way to Redis is bare: a client that
    packs anew would take a third of a core from what is measured.
    """
    field = "off:" + measured.application.topic(PURCHASES)
    keys = [measured.application.key(number, "meta") for number in range(PARTITIONS)]
    asked: list[Any] = [("HGET", key, field) for key in keys]
    question = b"".join(map(hiredis.pack_command, asked))
    last: list[int] = []
    with socket.socket(socket.AF_UNIX) as line:
        line.connect(str(measured.application.redis.socket))
        line.settimeout(10)
        while not over.is_set():
            line.sendall(question)
            reader = hiredis.Reader()
            offsets: list[int] = []
            while len(offsets) < PARTITIONS:
                reader.feed(line.recv(4096))
                while (answer := reader.gets()) is not False:
                    offsets.append(int(answer or 0))
            if offsets != last:
                steps.append((time.time(), offsets))
                last = offsets
            time.sleep(POLL)


def applied(seen: Seen, steps: Sequence[tuple[float, list[int]]]) -> dict[int, float]:
    """When each event was first seen to be applied."""
    found: dict[int, float] = {}
    for partition in range(PARTITIONS):
        waiting = sorted((offset, i) for i, (where, offset) in seen.place.items() if where == partition)
        at = 0
        for moment, offsets in steps:
            while at < len(waiting) and waiting[at][0] < offsets[partition]:
                found[waiting[at][1]] = moment
                at += 1
    return found


def consume(brokers: str, topic: str, over: threading.Event, seen: Seen) -> None:
    """A plain consumer of alerts that takes each as soon as the broker has it."""
    consumer = Consumer(
        {
            "bootstrap.servers": brokers,
            "group.id": "bench-alerts",
            "auto.offset.reset": "earliest",
            "fetch.wait.max.ms": 10,
            "fetch.queue.backoff.ms": 10,
            "log_level": 3,
        }
    )
    consumer.subscribe([topic])
    try:
        while not over.is_set():
            for message in consumer.consume(100, 0.01):
                now = time.time()
                if message.error() is None:
                    cause = msgspec.json.decode(message.value() or b"").get("cause_event")
                    if cause is not None:
                        seen.alerted.setdefault(int(cause), now)
    finally:
        consumer.close()


def live(measured: Measured) -> bool:
    """Whether every partition has read everything once: only what comes after is delivered."""
    client = measured.client
    for number in range(PARTITIONS):
        blob = client.hget(measured.application.key(number, "meta"), "part")
        if not blob or not unpack(blob, number).live_since:
            return False
    return True


def percentiles(seconds: Sequence[float]) -> dict[str, float]:
    """p50, p99 and the worst, in milliseconds."""
    values = np.array(seconds) * 1000
    p50, p99 = np.percentile(values, [50, 99])
    return {"p50": round(float(p50), 1), "p99": round(float(p99), 1), "max": round(float(values.max()), 1)}
