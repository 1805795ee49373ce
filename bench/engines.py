"""The engines side by side: processor seconds per million events, each reading the same topic from its beginning.

Start-up and the first events, in which every customer is new, are not measured: an engine is measured from the
moment at which it has done the warm-up events until it has done all that it is given. Repetitions alternate and the
order rotates, so that no engine always has the quiet minutes of the machine. A figure is the median.
"""

from __future__ import annotations

import json
import statistics
import subprocess
import time
import uuid
from collections.abc import Callable, Sequence
from typing import Any, Literal, NamedTuple, get_args

from bench import environment
from bench.events import Events, Kind
from bench.stage import Measured, Stage, Used, cpu_of
from streams.topics import PURCHASES
from tests.servers import ROOT

Name = Literal["churnwatch", "faust_empty", "faust_table", "quix", "bytewax"]
NAMES: tuple[Name, ...] = get_args(Name)
PATIENCE = 300.0
COUNTED = (
    "decision_points_total",
    "looks_total",
    "timers_fired_total",
    "alerts_total",
    "scores_written_total",
    "commits_total",
    "batches_total",
)


class Plan(NamedTuple):
    """How many events are loaded and, of these, warm an engine up and are given to it."""

    loaded: int
    warm: dict[Name, int]
    given: dict[Name, int]
    repetitions: int

    def of(self, events: int) -> Plan:
        """The same with another number of events; no engine is given more than before."""
        given: dict[Name, int] = {name: min(events, n) for name, n in self.given.items()}
        given["churnwatch"] = events
        warm: dict[Name, int] = {name: min(self.warm[name], n // 4) for name, n in given.items()}
        return self._replace(loaded=events, given=given, warm=warm | {"churnwatch": events // 4})


FULL = Plan(
    240_000,
    # The slow ones are given less; a figure per million has settled by then.
    {"churnwatch": 60_000, "faust_empty": 15_000, "faust_table": 8_000, "quix": 60_000, "bytewax": 60_000},
    {
        "churnwatch": 240_000,
        "faust_empty": 80_000,
        "faust_table": 40_000,
        "quix": 240_000,
        "bytewax": 240_000,
    },
    3,
)
QUICK = Plan(8_000, dict.fromkeys(NAMES, 2_000), dict.fromkeys(NAMES, 8_000), 1)


class Lap(NamedTuple):
    """One repetition: so many records, what they took, and what else was seen."""

    records: int
    used: Used
    more: dict[str, float]


def measure(
    stage: Stage,
    plan: Plan,
    engines: Sequence[Name],
    kinds: Sequence[Kind],
    step: Callable[[str], None],
) -> dict[str, Any]:
    """The figures by engine and kind. ``step`` is told what comes next."""
    laps: dict[tuple[Name, Kind], list[Lap]] = {}
    for kind in kinds:
        step(f"loading {kind}")
        load(stage, plan, kind)
    for repetition in range(plan.repetitions):
        for kind in kinds:
            turn = repetition % len(engines)
            for name in (*engines[turn:], *engines[:turn]):
                step(f"{name} on {kind}, {repetition + 1} of {plan.repetitions}")
                lap = churnwatch(stage, plan, kind) if name == "churnwatch" else peer(stage, plan, name, kind)
                laps.setdefault((name, kind), []).append(lap)
    found: dict[str, Any] = {}
    for (name, kind), all_of in laps.items():
        found.setdefault(name, {})[kind] = figures(all_of)
    return found


def load(stage: Stage, plan: Plan, kind: Kind) -> int:
    """Put a kind on its topic; how many records there are."""
    return stage.load(f"{kind}.", Events(kind, plan.loaded).with_clock())


def figures(laps: Sequence[Lap]) -> dict[str, Any]:
    """Medians over the repetitions; what each of them gave stands beside."""

    def median(of: Callable[[Lap], float], digits: int = 2) -> float:
        return round(statistics.median(map(of, laps)), digits)

    found: dict[str, Any] = {
        "cpu_seconds_per_million": median(lambda lap: lap.used.worker / lap.records * 1e6),
        "events_per_second": round(median(lambda lap: lap.records / lap.used.wall, 0)),
        "redis_cpu_seconds_per_million": median(lambda lap: lap.used.redis / lap.records * 1e6),
        "broker_cpu_seconds_per_million": median(lambda lap: lap.used.broker / lap.records * 1e6),
        "records": laps[0].records,
        "repetitions": [round(lap.used.worker / lap.records * 1e6, 2) for lap in laps],
    }
    for name in laps[0].more:
        found[name] = median(lambda lap, name=name: lap.more[name], 4)  # type: ignore[misc]
    return found


def churnwatch(stage: Stage, plan: Plan, kind: Kind) -> Lap:
    """The real worker on a fresh Redis, until all is applied and has left."""
    total = load(stage, plan, kind)
    with stage.application(f"{kind}.") as measured:
        worker = measured.start()
        at_start = measured.until_applied(plan.warm["churnwatch"], PATIENCE)
        before = measured.used()
        counted = measured.metrics(worker, *COUNTED)
        log = aof_size(measured)
        measured.client.config_resetstat()
        measured.until_applied(total, PATIENCE)
        measured.until_left()
        used = measured.used().since(before)
        records = total - at_start
        more = {
            name.removesuffix("_total") + "_per_event": (value - counted[name]) / records
            for name, value in measured.metrics(worker, *COUNTED).items()
        }
        more["aof_bytes_per_event"] = (aof_size(measured) - log) / records
        return Lap(records, used, more | lua(measured))


def aof_size(measured: Measured) -> int:
    """Bytes of Redis' append-only file."""
    return int(measured.info("persistence")["aof_current_size"])


def lua(measured: Measured) -> dict[str, float]:
    """How long Redis took for a script, in milliseconds (Redis 7 and later tell), and how many calls that were."""
    calls = measured.info("commandstats").get("cmdstat_evalsha", {})
    found = {}
    if calls:
        found["lua_mean_ms"] = float(calls["usec_per_call"]) / 1000
    percentiles = measured.info("latencystats").get("latency_percentiles_usec_evalsha")
    if percentiles:
        found["lua_p50_ms"] = float(percentiles["p50"]) / 1000
        found["lua_p99_ms"] = float(percentiles["p99"]) / 1000
    return found


def peer(stage: Stage, plan: Plan, name: Name, kind: Kind) -> Lap:
    """A peer's script in its own environment."""
    python = environment.make()
    total = load(stage, plan, kind)
    run = f"{name}-{uuid.uuid4().hex[:8]}"
    folder = stage.folder / run
    log = stage.folder / f"{run}.log"
    given = environment.clean(
        {
            "BROKERS": stage.kafka.brokers,
            "TOPIC": f"{kind}.{PURCHASES}",
            "RUN": run,
            "DATA": str(folder),
            "WARM": str(plan.warm[name]),
            "TOTAL": str(min(total, plan.given[name])),
        }
    )
    marks: list[tuple[int, Used]] = []
    with log.open("wb") as errors:
        process = subprocess.Popen(
            [str(python), "-m", f"bench.peers.{name}"],
            cwd=ROOT,
            env=given,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=errors,
        )
        try:
            until = time.monotonic() + PATIENCE
            assert process.stdout is not None
            for line in process.stdout:
                if line.startswith(b"MARK "):
                    mark = json.loads(line[5:])
                    broker = cpu_of(stage.kafka.pid)
                    marks.append((mark["records"], Used(mark["cpu"], 0.0, broker, mark["wall"])))
                if time.monotonic() > until:
                    break
            process.wait(10)
        finally:
            process.kill()
            process.wait()
    if len(marks) != 2:
        tail = "\n".join(log.read_text(errors="replace").splitlines()[-15:])
        raise RuntimeError(f"{name} ended before all was read; its log ends with\n{tail}")
    (warm, before), (done, after) = marks
    return Lap(done - warm, after.since(before), {})
