"""A soak: an uneven load in bursts, everything that may go wrong going wrong, and at the end not one customer off.

    python -m bench.soak                     ten minutes
    python -m bench.soak --minutes 180       hours
    python -m bench.soak --seed 7            the same load and the same faults as another run with 7

First the capacity is measured, then 70 % of it is sent, in bursts, while faults strike one after the other at seeded
moments. What is reported: how long events and alerts took, memory over time, and that all that was stored and sent
equals an undisturbed run and the oracle. docs/soak.md says what each figure means.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import sys
import tempfile
import threading
import time
from array import array
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from random import Random
from typing import Annotated, Any, NamedTuple

import msgspec
import numpy as np
import psutil
import redis
import typer
from confluent_kafka import Consumer
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

from bench.bursts import HEAVY, SHARE, WEIGHTS, Load, Shop
from bench.results import FOLDER, processor
from bench.stage import PARTITIONS, Broker
from streams import topics
from tests.chaos import faults, large
from tests.chaos.harness import QUICK, UNREACHABLE, Application, Run
from tests.chaos.promises import Verdict
from tests.chaos.results import machine
from tests.servers import KafkaServer, Missing, RedisServer, wait_until

MEGA = 2**20


class Plan(NamedTuple):
    """How long, how much and how often. ``share``: of the measured capacity; ``measure`` seconds of it are measured;
    ``gap``: seconds between two faults at least; ``rounds``: how often every fault strikes at most; ``session``: of
    Kafka's group; ``sample``: customers whom the oracle is asked about; ``recovery``: seconds that are waited
    for at most until all is caught up; ``most``: events a second at most; ``quick``: with a broker that saves on its start."""

    seconds: float = 600.0
    share: float = 0.7
    measure: float = 20.0
    customers: int = 4_000
    gap: float = 12.0
    rounds: int = 1_000
    session: float = 6.0
    sample: int = 40
    recovery: float = 90.0
    ahead: int = 20_000
    most: float = float("inf")
    quick: bool = False


SHORT = Plan(
    seconds=12.0, measure=2.0, customers=200, gap=0.3, rounds=1, session=2.0, sample=10, ahead=1_000, most=200.0,
    quick=True,
)  # fmt: skip
"""Every fault once, in about 40 seconds: proves that it works; its figures mean nothing."""


class Fault(NamedTuple):
    """When one struck (seconds since the load began), how long it took, and until all was caught up again
    (None: not before the next)."""

    name: str
    at: float
    lasted: float
    caught_up: float | None


class Sample(NamedTuple):
    """What was measured once a second. ``workers``: resident bytes of each by its number; ``redis``: of the server;
    ``used``: what it says it uses; ``behind``: records that are not applied yet. Where
    Redis does not answer, ``used`` is 0 and ``behind`` says nothing."""

    at: float
    workers: dict[str, int]
    redis: int
    used: int
    behind: int


class Growth(NamedTuple):
    """Megabytes in the middle and at the end, and whether that is flat."""

    middle: float
    end: float
    flat: bool


TOLERANCE = 0.1
"""By so much of itself memory may be higher at the end than in the middle."""
SLACK = 8.0
"""And by so many megabytes, where it is small."""


def growth(values: Sequence[tuple[float, float]], seconds: float) -> Growth:
    """Of (second, bytes): the upper quarter of what was seen in the last third against that in the third before it.
    The first third is when customers are met for the first time."""

    def upper(first: float, last: float) -> float:
        some = [value for at, value in values if first * seconds <= at < last * seconds]
        return float(np.percentile(some, 75)) / MEGA if some else 0.0

    middle, end = upper(1 / 3, 2 / 3), upper(2 / 3, 1.01)
    return Growth(round(middle, 1), round(end, 1), end <= middle * (1 + TOLERANCE) + SLACK)


@dataclass
class Soak(Run):
    """One run: as those of the fault tests, with a load that does not wait for anybody."""

    load: Load = field(kw_only=True)
    patience: float = 1800.0

    def __post_init__(self) -> None:
        self.random = Random(self.seed)
        self.feeder: Any = self.load

    def moments(self, count: int) -> Iterator[int]:
        """At once: when faults strike is a matter of the plan."""
        yield from range(count)

    def settle(self) -> None:
        """Until all that was sent is applied and has left."""
        self.load.finish()
        self.until(lambda: not self.load.is_alive(), "all was sent")
        if not self.application.running:
            self.application.launch()
        self.until(lambda: self.application.applied() == self.load.sent, "all is applied")
        self.until(lambda: self.application.waiting() == 0, "all that waits has left")

    @contextlib.contextmanager
    def working(self, workers: int) -> Iterator[None]:
        """Workers run; at the end of the block nothing is left to be done."""
        try:
            with self._explained():
                for _ in range(workers):
                    self.application.launch().await_answer()
                yield
                self.settle()
        finally:
            self.load.give_up()
            self.application.end()


# ---- what goes wrong


def poison(run: Soak, count: int) -> None:
    """More broken records in a row than a worker takes: it stops, and is started again with what its message says."""
    application, quiet = run.application, PARTITIONS - 1
    assert quiet != HEAVY
    for _ in range(count):
        run.note("a flood of 1,200 records that nobody can read")
        run.load.flood(quiet, 1_200)
        wanted = ""

        def stopped() -> bool:
            nonlocal wanted
            for worker in application.running:
                assert worker.process is not None
                if worker.process.poll() == 7:
                    wanted = re.findall(r"--accept-invalid-until[ =](\S+:\d+:\d+)", worker.said(60))[-1]
                    worker.kill()
                    return True
            return False

        wait_until(stopped, run.patience, "a worker stops for the flood", every=0.05)
        run.note(f"a worker stopped with code 7 and names {wanted}")
        topic, number, offset = wanted.rstrip(".,)").rsplit(":", 2)
        # As an operator would: the whole of the flood, once it is known where it ends.
        end = max(int(offset), len(run.load.produced[quiet]) + 1_200)
        accepted = dict(application.more)
        known = [each for each in accepted.get("worker.accept_invalid_until", "").split(",") if each]
        accepted["worker.accept_invalid_until"] = ",".join([*known, f"{topic}:{number}:{end}"])
        application.more = accepted
        for worker in application.running:
            worker.stop()
        for _ in range(2):
            application.launch()
        run.until(lambda: sum(w.claimed() for w in application.running) == PARTITIONS, "all is claimed again")
        run.struck += 1


def killed(run: Run, count: int) -> None:
    """SIGKILL of a worker; another comes."""
    faults.worker_killed(run, count)


FAULTS: dict[str, Callable[[Any, int], None]] = {
    "a worker is killed": killed,
    "a worker is stopped, or one more comes": faults.workers_come_and_go,
    "a worker is frozen until another takes over": faults.worker_frozen,
    "the broker is killed": faults.broker_killed,
    "Redis is killed": faults.redis_killed,
    "Redis does not answer": faults.redis_frozen,
    "Redis is slow": faults.redis_slow,
    "a worker's clock is set": faults.clock_stepped,
    "a flood of poison": poison,
}


# ---- watching


@dataclass
class Watch:
    """Looks on until it is told to end: what is applied when, which alerts came when, who takes how much memory."""

    application: Application
    load: Load
    over: threading.Event = field(default_factory=threading.Event)
    began: float = field(default_factory=time.time)
    produced: array[float] = field(default_factory=lambda: array("d"))
    durable: array[float] = field(default_factory=lambda: array("f"))
    asked: array[float] = field(default_factory=lambda: array("d"))
    alerted: array[float] = field(default_factory=lambda: array("f"))
    samples: list[Sample] = field(default_factory=list)
    failures: list[Exception] = field(default_factory=list)

    def start(self) -> list[threading.Thread]:
        """Three threads that watch."""
        looks = self._follow, self._consume, self._measure
        found = [threading.Thread(target=self._kept, args=(look,), daemon=True) for look in looks]
        for thread in found:
            thread.start()
        return found

    def _kept(self, look: Callable[[], None]) -> None:
        try:
            look()
        except Exception as error:  # noqa: BLE001 -- raised by whoever ends the run
            self.failures.append(error)

    def _follow(self) -> None:
        """When the offset of each record was first seen to be applied."""
        reached = [0] * PARTITIONS
        while not self.over.wait(0.01):
            try:
                offsets = self.application.offsets()
            except UNREACHABLE:
                continue
            now = time.time()
            for (_, number), offset in offsets.items():
                moments = self.load.produced[number]
                # What is applied may be known here before its acknowledgement is.
                upto = min(offset, len(moments))
                for moment in moments[reached[number] : upto]:
                    self.produced.append(moment)
                    self.durable.append(now - moment)
                reached[number] = max(reached[number], upto)

    def _consume(self) -> None:
        """When the first alert that an event caused was there."""
        consumer = Consumer(
            {
                "bootstrap.servers": self.application.kafka.brokers, "group.id": "soak-alerts",
                "auto.offset.reset": "earliest", "enable.auto.commit": False, "fetch.wait.max.ms": 10,
                "fetch.queue.backoff.ms": 10, "log_level": 0,
            }
        )  # fmt: skip
        consumer.subscribe([self.application.topic(topics.ALERTS)])
        known: set[int] = set()
        try:
            while not self.over.is_set():
                for message in consumer.consume(500, 0.05):
                    now = time.time()
                    if message.error() is not None:
                        continue
                    cause = msgspec.json.decode(message.value() or b"{}").get("cause_event")
                    if cause is None or not cause.isdigit() or int(cause) in known:
                        continue
                    known.add(int(cause))
                    moment = self.load.numbered[int(cause)]
                    self.asked.append(moment)
                    self.alerted.append(now - moment)
        finally:
            consumer.close()

    def _measure(self) -> None:
        """Memory, once a second."""
        while not self.over.wait(1.0):
            application = self.application
            workers = {w.name: _resident(w.process) for w in list(application.running)}
            used, applied = 0, application.applied() or 0
            try:
                with application.redis.client(**QUICK) as client:
                    told: Any = client.info("memory")
                    used = int(told["used_memory"])
            except (*UNREACHABLE, redis.RedisError):
                pass
            server = _resident(application.redis.process)
            behind = max(0, sum(map(len, self.load.produced)) - applied)
            self.samples.append(Sample(round(time.time() - self.began, 1), workers, server, used, behind))


def _resident(process: Any) -> int:
    try:
        return int(psutil.Process(process.pid).memory_info().rss) if process is not None else 0
    except psutil.Error:
        return 0


# ---- the run


def soak(plan: Plan, seed: int, tell: Callable[[str, float], None]) -> dict[str, Any]:
    """One run on servers of its own. ``tell`` hears what is being done and how much of the load's time has passed.

    Raises AssertionError with what is broken.
    """
    before = os.getloadavg()[0]
    folder = Path(tempfile.mkdtemp(prefix="churnwatch-soak-"))
    try:
        tell("starting the servers", 0.0)
        broker = KafkaServer if plan.quick else Broker
        with broker(folder / "kafka") as kafka, RedisServer(folder / "redis") as server:
            application = Application(
                kafka=kafka, redis=server, folder=folder / "workers", name="soak", prefix="soak.",
                partitions=PARTITIONS, session=plan.session, batch=2_000, patience=60.0,
                more={"kafka.group": f"soak-{os.getpid()}", "redis.timeout": "2", "worker.sweep_interval": "0.5"},
            )  # fmt: skip
            application.create_topics()
            return _run(application, plan, seed, tell) | {"load_before": round(before, 2)}
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _run(
    application: Application, plan: Plan, seed: int, tell: Callable[[str, float], None]
) -> dict[str, Any]:
    shop = Shop(seed, plan.customers)

    def room(sent: int) -> bool:
        applied = application.applied()
        return applied is not None and sent - applied < plan.ahead

    load = Load(application.kafka.brokers, application.topic(topics.PURCHASES), shop, room)
    run = Soak(application, [], seed, load=load)
    struck: list[Fault] = []
    with run.working(2):
        load.start()
        tell("measuring the capacity", 0.0)
        capacity = _capacity(run, plan)
        load.rate = 1.0
        run.until(lambda: _behind(application, load) < plan.ahead / 10, "what was ahead is caught up")
        load.rate = min(plan.share * capacity, plan.most)
        watch = Watch(application, load)
        watchers = watch.start()
        run.began, offered = time.monotonic(), load.sent
        for name in _order(plan, seed):
            _pass(run, min(plan.gap, plan.seconds - (time.monotonic() - run.began)))
            passed = time.monotonic() - run.began
            if passed >= plan.seconds and not plan.quick:
                break
            tell(name, passed)
            FAULTS[name](run, 1)
            lasted = time.monotonic() - run.began - passed
            caught_up = _caught_up(run, plan.recovery)
            whole = None if caught_up is None else round(lasted + caught_up, 1)
            struck.append(Fault(name, round(passed, 1), round(lasted, 1), whole))
            _two(run)
        _pass(run, plan.seconds - (time.monotonic() - run.began))
        took, offered = time.monotonic() - run.began, load.sent - offered
        tell("settling", plan.seconds)
        run.settle()
        watch.over.set()
        for watcher in watchers:
            watcher.join()
        if watch.failures:
            raise watch.failures[0]
    tell("comparing with the undisturbed run and the oracle", plan.seconds)
    verdict = large.check(application, seed, plan.sample)
    return _results(plan, seed, capacity, offered / took, took, struck, watch, verdict)


def _capacity(run: Soak, plan: Plan) -> float:
    """Events a second that two workers apply while there is always more, after the first third of the time."""
    start = time.monotonic()
    run.until(
        lambda: time.monotonic() - start > plan.measure / 3 and run.application.applied(), "it is at work"
    )
    first, began = run.application.applied() or 0, time.monotonic()
    run.until(lambda: time.monotonic() - start > plan.measure, "the capacity is measured")
    found = ((run.application.applied() or 0) - first) / (time.monotonic() - began)
    assert found > 0
    return found


def _order(plan: Plan, seed: int) -> Iterator[str]:
    """All faults again and again, each time in another order."""
    random = Random(seed)
    for _ in range(plan.rounds):
        names = list(FAULTS)
        random.shuffle(names)
        yield from names


def _caught_up(run: Soak, patience: float) -> float | None:
    """Seconds until no more is unread than comes in a second; None where that is not within ``patience``."""
    began = time.monotonic()
    while time.monotonic() - began < patience:
        if _behind(run.application, run.load) < max(run.load.rate, 200.0):
            return time.monotonic() - began
        _pass(run, 0.1)
    return None


def _pass(run: Soak, seconds: float) -> None:
    """Let time pass while everything must go on."""
    end = time.monotonic() + max(0.0, seconds)
    while time.monotonic() < end:
        run.application.check_workers()
        if run.load.failure is not None:
            raise run.load.failure
        time.sleep(0.1)


def _two(run: Soak) -> None:
    """Two workers go into each fault."""
    application = run.application
    while len(application.running) > 2:
        run.stops.append(application.stop(application.running[-1]))
    while len(application.running) < 2:
        application.launch()
    run.until(lambda: sum(w.claimed() for w in application.running) == PARTITIONS, "all is claimed")


def _behind(application: Application, load: Load) -> float:
    applied = application.applied()
    return float("inf") if applied is None else load.sent - applied


# ---- what came of it


def percentiles(moments: array[float], seconds: array[float], struck: Sequence[Fault], began: float) -> Any:
    """p50, p99, p99.9 and the worst in milliseconds: of all, and of what came in while no fault was at work."""
    at, took = np.frombuffer(moments, dtype="f8") - began, np.frombuffer(seconds, dtype="f4") * 1000
    calm = np.ones(len(at), dtype=bool)
    nexts = [fault.at for fault in struck[1:]] + [float("inf")]
    for fault, following in zip(struck, nexts, strict=True):
        over = following if fault.caught_up is None else fault.at + fault.caught_up + 1.0
        calm &= (at < fault.at - 1.0) | (at > over)
    calm &= at >= 0

    def of(values: Any) -> dict[str, float]:
        if not len(values):
            return {"events": 0}
        found = np.percentile(values, [50, 99, 99.9, 100])
        names = "p50", "p99", "p99_9", "max"
        return {name: round(float(v), 1) for name, v in zip(names, found, strict=True)} | {
            "events": len(values)
        }

    return {"all": of(took[at >= 0]), "between_faults": of(took[calm])}


def _results(
    plan: Plan, seed: int, capacity: float, rate: float, took: float, struck: list[Fault], watch: Watch,
    verdict: Verdict,
) -> dict[str, Any]:  # fmt: skip
    seconds = watch.samples[-1].at if watch.samples else took
    workers = [(s.at, float(bytes_)) for s in watch.samples for bytes_ in s.workers.values() if bytes_]
    server = [(s.at, float(s.redis)) for s in watch.samples if s.redis]
    used = [(s.at, float(s.used)) for s in watch.samples if s.used]
    said = machine()
    hardware = {key: said.pop(key) for key in ("cores", "memory", "system")} | {"processor": processor()}
    return {
        "seed": seed,
        "when": datetime.now(UTC).isoformat(timespec="seconds"),
        "load_after": round(os.getloadavg()[0], 2),
        "seconds": round(took, 1),
        "workers": 2,
        "capacity": round(capacity),
        "offered": round(rate),
        "heaviest_customer": SHARE,
        "partition_weights": list(WEIGHTS),
        "to_outbox_ms": percentiles(watch.produced, watch.durable, struck, watch.began),
        "to_alert_ms": percentiles(watch.asked, watch.alerted, struck, watch.began),
        "faults": [fault._asdict() for fault in struck],
        "memory": {
            "worker_rss_mb": growth(workers, seconds)._asdict(),
            "redis_rss_mb": growth(server, seconds)._asdict(),
            "redis_used_mb": growth(used, seconds)._asdict(),
        },
        "equal": {
            "records": verdict.records,
            "customers": verdict.customers,
            "alerts": verdict.alerts,
            "scores_and_decisions": verdict.decisions,
            "labels": verdict.examples,
            "dead_letters": verdict.dead_letters,
            "sent_again": verdict.repeated,
            "asked_the_oracle": plan.sample,
        },
        "samples": [
            [
                s.at,
                round(sum(s.workers.values()) / MEGA, 1),
                round(s.redis / MEGA, 1),
                round(s.used / MEGA, 1),
                s.behind,
            ]
            for s in watch.samples
        ],
        "machine": hardware,
        "versions": said,
    }


app = typer.Typer(add_completion=False, rich_markup_mode=None, pretty_exceptions_enable=False)


@app.command()
def main(
    minutes: Annotated[float, typer.Option(help="How long the load lasts.")] = 10.0,
    seed: Annotated[int, typer.Option(help="Of the load and of the faults.")] = 1,
    short: Annotated[
        bool, typer.Option("--short", help="Every fault once, quickly: proves that it works.")
    ] = False,
    folder: Annotated[
        Path, typer.Option("--results", help="Where the report goes.", show_default=False)
    ] = FOLDER,
) -> None:
    """An uneven load in bursts while everything goes wrong that may; memory stays flat and nothing is lost."""
    from bench.soak_page import keep  # noqa: PLC0415 -- draws, which takes its time to import

    plan = SHORT if short else Plan(seconds=minutes * 60)
    try:
        with _progress(plan.seconds) as tell:
            found = soak(plan, seed, tell)
    except Missing as error:
        print(f"soak: {error}", file=sys.stderr)
        raise typer.Exit(1) from error
    keep(found, folder)
    growing = [name for name, one in found["memory"].items() if not one["flat"]]
    print(f"Kept in {folder}: soak.json, soak.md, soak.svg", file=sys.stderr)
    if growing and not short:
        print(f"soak: memory is not flat: {', '.join(growing)}", file=sys.stderr)
        raise typer.Exit(1)


@contextlib.contextmanager
def _progress(seconds: float) -> Iterator[Callable[[str, float], None]]:
    """A bar on a terminal, lines elsewhere."""
    console = Console(stderr=True)
    if not console.is_terminal:
        yield lambda what, passed: print(f"{passed:7.1f} s  {what}", file=sys.stderr, flush=True)
        return
    columns = TextColumn("{task.description:48}"), BarColumn(), TimeElapsedColumn()
    with Progress(*columns, console=console) as bar:
        task = bar.add_task("", total=seconds)
        yield lambda what, passed: bar.update(task, completed=passed, description=what)


if __name__ == "__main__":
    app(prog_name="python -m bench.soak")
