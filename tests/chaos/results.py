"""The figures of the full counts, kept in ``bench/results`` for whoever wants to know."""

from __future__ import annotations

import os
import platform
import re
import subprocess
from importlib import metadata
from pathlib import Path
from typing import Any

import msgspec

from tests.chaos.promises import Verdict
from tests.servers import ROOT, kafka_jars, redis_executable

FOLDER = ROOT / "bench" / "results"
PACKAGES = (
    "faust-streaming",
    "aiokafka",
    "confluent-kafka",
    "redis",
    "hiredis",
    "uvloop",
    "msgspec",
    "numpy",
)


class Row(msgspec.Struct):
    """One run. ``done``: how often the fault struck; ``equal``: whether all promises held."""

    fault: str
    inputs: int
    seed: int
    done: int
    equal: bool
    records: int = 0
    customers: int = 0
    alerts: int = 0
    learned: int = 0
    labels: int = 0
    repeated: int = 0
    repeated_alerts: int = 0
    dead_letters: int = 0
    seconds: float = 0.0
    note: str = ""


class Book:
    """The rows of one session."""

    def __init__(self) -> None:
        self.rows: list[Row] = []

    def write(
        self,
        fault: str,
        inputs: int,
        seed: int,
        done: int,
        seconds: float,
        verdict: Verdict | None,
        note: str = "",
    ) -> Row:
        """A run that has ended; without a verdict it broke a promise."""
        row = Row(fault, inputs, seed, done, verdict is not None, seconds=round(seconds, 1), note=note)
        if verdict is not None:
            row.records, row.customers, row.alerts = verdict.records, verdict.customers, verdict.alerts
            row.repeated, row.repeated_alerts = verdict.repeated, verdict.repeated_alerts
            row.dead_letters = verdict.dead_letters
            row.learned, row.labels = verdict.learned, verdict.examples
        self.rows.append(row)
        return row

    def keep(self, folder: Path = FOLDER) -> None:
        """Write the figures; rows of faults that were not run now stay as they were."""
        if not self.rows:
            return
        folder.mkdir(parents=True, exist_ok=True)
        file = folder / "chaos.json"
        before: list[Row] = []
        if file.exists():
            before = msgspec.convert(msgspec.json.decode(file.read_bytes())["runs"], list[Row])
        now = {(row.fault, row.inputs, row.seed) for row in self.rows}
        rows = [row for row in before if (row.fault, row.inputs, row.seed) not in now] + self.rows
        rows.sort(key=lambda row: (row.fault, row.inputs, row.seed))
        content: dict[str, Any] = {"machine": machine(), "runs": msgspec.to_builtins(rows)}
        file.write_bytes(msgspec.json.format(msgspec.json.encode(content), indent=1) + b"\n")
        (folder / "chaos.md").write_text(page(rows))


def machine() -> dict[str, str]:
    """What it ran on, without a name."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    found = {"cores": str(os.cpu_count()), "memory": f"{memory:.0f} GiB", "system": platform.system()}
    found["python"] = platform.python_version()
    jar = next(kafka_jars().glob("kafka-clients-*.jar"), None)
    if jar is not None:
        found["kafka"] = jar.stem.removeprefix("kafka-clients-")
    said = subprocess.run(
        [redis_executable() or "", "--version"], capture_output=True, text=True, check=False
    )
    version = re.search(r"v=(\S+)", said.stdout)
    found["redis-server"] = version[1] if version else "unknown"
    return found | {package: metadata.version(package) for package in PACKAGES}


def page(rows: list[Row]) -> str:
    """The table for people."""
    lines = [
        "# What befell the workers and servers, and what came of it",
        "",
        "Written by `make chaos`: the real worker on a real Kafka and Redis, disturbed at seeded moments while the",
        "history is being sent. *Equal*: every customer's state equals a naive recomputation of the log to 1e-9, no",
        "timer and no message is left behind, offsets stand at the log's end, and of all that left, de-duplicated by",
        "id: with one input topic on the record clock it equals byte for byte an undisturbed run, with three topics",
        "every probability equals that of an oracle that applies exactly the records up to the alert's `position`.",
        "Models take effect as they do in a replay, from snapshots that were learned before: *learned* is how many of",
        "the decisions were a learned model's, *labels* how many matured and left.",
        "*Repeated*: records that were sent more than once (of which alerts).",
        "",
        "| fault | topics | seed | struck | equal | records | customers | alerts | learned | labels | repeated | dead letters | seconds | |",
        "| --- | --- | --- | --- | --- | --- | --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    for r in rows:
        cells: list[object] = [
            r.fault, r.inputs, r.seed, r.done, "yes" if r.equal else "**no**", f"{r.records:,}", f"{r.customers:,}",
            f"{r.alerts:,}", f"{r.learned:,}", f"{r.labels:,}", f"{r.repeated:,} ({r.repeated_alerts:,})", r.dead_letters, f"{r.seconds:g}", r.note,
        ]  # fmt: skip
        lines.append("| " + " | ".join(map(str, cells)) + " |")
    lines += ["", "Machine: " + ", ".join(f"{name} {value}" for name, value in machine().items()) + ".", ""]
    return "\n".join(lines)
