"""What a customer costs in Redis: its memory with the customers less that without, once everything has left."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from agents.datasets import DatasetError, cdnow
from agents.files import Entry, Reading, read
from bench.engines import COUNTED
from bench.events import Events, Row
from bench.stage import PARTITIONS, Stage
from features.shop import DAY
from streams.codec import CLOCK_KEY, Codec, encode_clock

PARTS = ("hot", "cold", "due")


def measure(stage: Stage, share: int, days: int, mix: int, step: Callable[[str], None]) -> dict[str, Any]:
    """Bytes per customer on CDNOW (each ``share``-th customer, the first ``days`` of the data) and on ``mix`` events
    of the mix."""
    step("memory: CDNOW")
    found: dict[str, Any] = {}
    try:
        found["cdnow"] = _measured(stage, "memory-cdnow.", lambda: _cdnow(share, days))
    except DatasetError as error:
        found["cdnow"] = {"missing": str(error)}
    step("memory: the mix")
    found["mix"] = _measured(stage, "memory-mix.", lambda: Events("mix", mix).with_clock())
    return found


def _measured(stage: Stage, prefix: str, rows: Callable[[], Iterator[Row]]) -> dict[str, Any]:
    total = stage.load(prefix, rows())
    with stage.application(prefix) as measured:
        before = measured.info("memory")["used_memory"]
        worker = measured.start()
        measured.until_applied(total)
        measured.until_left()
        looks = measured.metrics(worker, *COUNTED)["looks_total"]
        # Buffers of its connections are no customers.
        measured.application.stop(worker)
        measured.client.execute_command("MEMORY", "PURGE")
        after = measured.info("memory")["used_memory"]
        key, client = measured.application.key, measured.client
        customers = sum(client.hlen(key(n, "hot")) for n in range(PARTITIONS))
        parts = {
            part: sum(client.memory_usage(key(n, part), samples=0) or 0 for n in range(PARTITIONS))
            for part in PARTS
        }
        return {
            "bytes_per_customer": round((after - before) / customers),
            "customers": customers,
            "records": total,
            "looks": round(looks),
            **{f"{part}_bytes_per_customer": round(size / customers) for part, size in parts.items()},
        }


def _cdnow(share: int, days: int) -> Iterator[Row]:
    """Each so-manieth customer's purchases, a clock record at each midnight, in the order of time."""
    codec = Codec("USD", 2, {}, frozenset())
    midnight = until = 0
    entry: Entry | None = None
    for entry in read(cdnow(), Reading(codec), lambda _: None):
        midnight = midnight or (entry.at // DAY + 1) * DAY
        until = until or entry.at + days * DAY
        if entry.at > until:
            break
        while entry.at >= midnight:
            yield Row(midnight, CLOCK_KEY, encode_clock(midnight, history=False))
            midnight += DAY
        if int(entry.customer) % share == 0:
            yield Row(entry.at, entry.customer.encode(), entry.value)
    if entry is not None:
        last = min(entry.at, until)
        yield Row(last, CLOCK_KEY, encode_clock(last, history=False))
