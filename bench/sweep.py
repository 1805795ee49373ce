"""Firing the same number of deadlines among few customers and among many.

The customers who will be due bought at one instant, all others most of a year later. Clock records move the time on,
each to the instant by which every one of the first is due once more: the real worker reads what is due, loads,
scores, decides and commits. The many are copies, byte for byte and under other names, of those who are not due:
state, deadline and all, written into Redis directly.
"""

from __future__ import annotations

import os
import statistics
import time
from collections.abc import Callable, Iterator
from typing import Any

from confluent_kafka import Producer

from bench.events import DAY, START, Row, small_order
from bench.stage import PARTITIONS, PRODUCER, Measured, Stage
from streams.codec import CLOCK_KEY, encode_clock
from streams.events import rfc3339
from streams.topics import PURCHASES

DUE = 7_600
"""A little less than what four partitions fire in one step each."""
FIRST_BUY = START - 400 * DAY
OTHERS_BUY = FIRST_BUY + 300 * DAY
LOOKS = "churnwatch_looks_total"


def measure(stage: Stage, sizes: tuple[int, ...], rounds: int, step: Callable[[str], None]) -> dict[str, Any]:
    """By number of customers: how long one round of looks took, in all and for each; medians of ``rounds``."""
    found: dict[str, Any] = {"due": DUE}
    for size in sizes:
        step(f"sweep: {DUE:,} due among {size:,}")
        found[str(size)] = _measured(stage, f"sweep-{size}.", size, min(sizes), rounds)
    return found


def _measured(stage: Stage, prefix: str, size: int, loaded: int, rounds: int) -> dict[str, Any]:
    total = stage.load(prefix, _purchases(loaded))
    with stage.application(prefix, feeds__enabled="false") as measured:
        worker = measured.start()
        measured.until_applied(total)
        copied = 0
        for number in range(PARTITIONS):
            copied += _copy(measured, number, (size - loaded) // PARTITIONS)
        measured.until_left()
        os.sync()  # Redis' log of the copies is on the disk before anything is measured
        producer = Producer({"bootstrap.servers": stage.kafka.brokers, **PRODUCER, "linger.ms": 0})
        idle, busy, each, cpu = [], [], [], []
        measured.client.config_resetstat()
        for _ in range(rounds):
            until = _all_due(measured)
            looked, used = worker.metric(LOOKS), measured.used()
            total, took = _tick(measured, producer, until, total)
            measured.until_left()
            looks = worker.metric(LOOKS) - looked
            busy.append(took)
            each.append(looks)
            cpu.append(measured.used().since(used).worker / looks)
            # A moment later nothing is due: what the way to the worker and the clock itself cost.
            total, took = _tick(measured, producer, until + 1, total)
            idle.append(took)
        way = statistics.median(idle)
        per_look = statistics.median((took - way) / looks for took, looks in zip(busy, each, strict=True))
        query = measured.info("commandstats").get("cmdstat_zrangebyscore", {})
        return {
            "customers": loaded + copied,
            "looks": round(statistics.median(each)),
            "milliseconds": round((statistics.median(busy) - way) * 1000, 1),
            "microseconds_per_look": round(per_look * 1e6, 2),
            "worker_cpu_microseconds_per_look": round(statistics.median(cpu) * 1e6, 2),
            "redis_query_microseconds": round(float(query.get("usec_per_call", 0.0)), 1),
        }


def _purchases(size: int) -> Iterator[Row]:
    for i in range(size):
        at = FIRST_BUY if i < DUE else OTHERS_BUY
        customer = b"c%d" % (100_000 + i)
        yield Row(at, customer, small_order(i, customer, rfc3339(at).encode(), 0, 1_250))


def _all_due(measured: Measured) -> int:
    """The instant by which each of those who bought first is due."""
    last = 0
    for number in range(PARTITIONS):
        found = measured.client.zrange(
            measured.application.key(number, "due"),
            f"({OTHERS_BUY}",
            0,
            desc=True,
            byscore=True,
            offset=0,
            num=1,
            withscores=True,
        )
        last = max(last, *(int(instant) for _, instant in found))
    return last


def _tick(measured: Measured, producer: Producer, at: int, before: int) -> tuple[int, float]:
    """Move the time to an instant; how many records there are then, and seconds until all is fired and committed."""
    value = encode_clock(at, history=False)
    began = time.perf_counter()
    for number in range(PARTITIONS):
        producer.produce(measured.application.topic(PURCHASES), value, CLOCK_KEY, partition=number)
    assert producer.flush(30) == 0, "the broker did not take a clock record"
    measured.until_applied(before + PARTITIONS, every=0.0005)
    return before + PARTITIONS, time.perf_counter() - began


def _copy(measured: Measured, number: int, copies: int) -> int:
    """Copies of a partition's customers who are not due yet, under other names; how many were made."""
    client = measured.client
    key = measured.application.key
    due = client.zrangebyscore(key(number, "due"), OTHERS_BUY, "+inf", withscores=True)
    hot = client.hmget(key(number, "hot"), [name for name, _ in due])
    cold = client.hmget(key(number, "cold"), [name for name, _ in due])
    made = 0
    while made < copies:
        chunk = range(made, min(made + 5_000, copies))
        pipeline = client.pipeline(transaction=False)
        names = [b"x%d-%d" % (number, i) for i in chunk]
        pipeline.hset(
            key(number, "hot"), mapping={n: hot[i % len(due)] for n, i in zip(names, chunk, strict=True)}
        )
        colds = {
            n: cold[i % len(due)] for n, i in zip(names, chunk, strict=True) if cold[i % len(due)] is not None
        }
        if colds:
            pipeline.hset(key(number, "cold"), mapping=colds)
        pipeline.zadd(
            key(number, "due"), {n: due[i % len(due)][1] for n, i in zip(names, chunk, strict=True)}
        )
        pipeline.execute()
        made += len(chunk)
    return made
