"""How long the customers of a worker wait when it is stopped or killed and another takes over.

Two workers share four partitions of a steady feed under the wall clock. One ends, by SIGTERM or by SIGKILL; its
partitions are worked on again when the other has committed an event in each of them.
"""

from __future__ import annotations

import signal
import statistics
import threading
import time
from collections.abc import Callable
from typing import Any

from confluent_kafka import Producer

from bench.latency import event
from bench.stage import PARTITIONS, PRODUCER, Measured, Stage
from streams.topics import PURCHASES
from tests.chaos.harness import WorkerProcess
from tests.servers import wait_until

RATE = 400
SESSION = 6.0
"""Seconds of ``kafka.session_timeout``: after a SIGKILL the brokers wait for that long. The product's own is 30."""
SIGNALS = {"sigterm": signal.SIGTERM, "sigkill": signal.SIGKILL}


def measure(stage: Stage, repetitions: int, step: Callable[[str], None]) -> dict[str, Any]:
    """Seconds by signal: medians, each repetition beside, and how long any partition stood still."""
    prefix = "takeover."
    stage.create_topics(prefix)
    laps: dict[str, list[tuple[float, float]]] = {name: [] for name in SIGNALS}
    over = threading.Event()
    feeder = threading.Thread(target=_feed, args=(stage.kafka.brokers, prefix + PURCHASES, over), daemon=True)
    with stage.application(prefix, clock__mode="wall", kafka__session_timeout=str(SESSION)) as measured:
        workers = [measured.start()]
        workers[0].await_answer()
        feeder.start()
        try:
            for repetition in range(repetitions):
                for name, number in SIGNALS.items():
                    step(f"takeover: {name}, {repetition + 1} of {repetitions}")
                    workers.append(measured.start())
                    _until_shared(measured, workers)
                    victim = workers.pop(0)
                    laps[name].append(_taken_over(measured, victim, number))
        finally:
            over.set()
            feeder.join()
    return {"session_timeout_seconds": SESSION, "events_per_second": RATE} | {
        name: {
            "seconds": round(statistics.median(took for took, _ in all_of), 2),
            "longest_standstill_seconds": round(max(still for _, still in all_of), 2),
            "repetitions": [round(took, 2) for took, _ in all_of],
        }
        for name, all_of in laps.items()
    }


def _until_shared(measured: Measured, workers: list[WorkerProcess]) -> None:
    """Each of the two has half of the partitions and all of them are worked on."""
    half = PARTITIONS // 2
    wait_until(
        lambda: all(w.claimed() == half for w in workers), 90, "the workers share the partitions", every=0.1
    )
    before = measured.offsets()
    wait_until(
        lambda: all(now > then for now, then in zip(measured.offsets(), before, strict=True)),
        60,
        "all are worked on",
    )


def _taken_over(measured: Measured, victim: WorkerProcess, number: int) -> tuple[float, float]:
    """Seconds from the signal until all of the victim's partitions are worked on by the other, and the longest
    that any partition stood still."""
    owners = measured.application.owners()
    began = time.monotonic()
    assert victim.process is not None
    victim.process.send_signal(number)
    moved = [began] * PARTITIONS
    last = measured.offsets()
    again: dict[int, float] = {}
    longest = 0.0

    def back() -> bool:
        nonlocal last, longest
        # The owner first: who has claimed it when an offset has moved has moved it.
        now_owned = measured.application.owners()
        offsets, now = measured.offsets(), time.monotonic()
        for partition in range(PARTITIONS):
            if offsets[partition] > last[partition]:
                longest = max(longest, now - moved[partition])
                moved[partition] = now
                if now_owned[partition] != owners[partition]:
                    again.setdefault(partition, now - began)
        last = offsets
        return len(again) == PARTITIONS // 2 and len(set(now_owned.values())) == 1

    wait_until(back, SESSION + 90, "the other worker works on all partitions", every=0.01)
    victim.kill()
    return max(again.values()), longest


def _feed(brokers: str, topic: str, over: threading.Event) -> None:
    """A steady feed until it is over."""
    producer = Producer({"bootstrap.servers": brokers, **PRODUCER, "linger.ms": 0})
    began, i = time.time(), 0
    while not over.is_set():
        now = time.time()
        while i < (now - began) * RATE:
            key, value = event(i, int(now * 1e6))
            producer.produce(topic, value, key)
            i += 1
        producer.poll(0.002)
    producer.flush(10)
