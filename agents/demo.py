"""The demo: a history played through the real worker, warnings printed as they are raised.

Servers run inside this process (or are given by the settings), the worker runs as a process of its
own, and the history is sent on the record clock, held back by what the worker has applied.
"""

from __future__ import annotations

import math
import os
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
import uuid
from bisect import bisect_right
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, tzinfo
from pathlib import Path
from typing import cast
from zoneinfo import ZoneInfo

import msgspec
import redis
from confluent_kafka import Consumer, KafkaException, TopicPartition
from confluent_kafka.admin import AdminClient
from confluent_kafka.cimpl import NewTopic

from agents.datasets import DatasetError, cdnow
from agents.embedded import PARTITIONS, Embedded, die_with_parent
from agents.files import Entry, FileError, Reading, Refusal, count, entry, read
from agents.send import Outgoing, Route, Sender, feed
from agents.settings import Clock, Settings
from agents.simulator import Departure, simulate
from streams import topics
from streams.alerts import Alert, decode_alert
from streams.codec import Codec
from streams.events import rfc3339

DAY = 86_400_000_000
AHEAD = 8_000
"""Records that the producer may be ahead of the worker: the embedded Kafka keeps little."""
LINES_A_SECOND = 6
READY_WITHIN = 60.0
QUIET = 1.5
"""Seconds without an alert after which all are printed, once the worker has relayed everything."""
PARTS = ("meta", "hot", "cold", "due", "out")
STILL_FOR = 120.0
"""Seconds without any progress after which the demo gives up and says so."""


class DemoError(Exception):
    """The demo cannot go on; the message says why and what to do."""


@dataclass
class History:
    """What is played. ``entries`` in order of time; ``truth``: who left, where it is known."""

    title: str
    entries: Iterable[Entry]
    inputs: tuple[str, ...]
    truth: dict[str, Departure] | None = None
    purchases: dict[str, list[int]] = field(default_factory=dict)
    refused: int = 0
    last: int = 0

    def watched(self) -> Iterator[Entry]:
        """The entries, while purchases are noted, to say in the end which warnings were right."""
        for event in self.entries:
            if event.kind == "purchase":
                self.purchases.setdefault(event.customer, []).append(event.at)
            self.last = max(self.last, event.at)
            yield event


def history(data: str, codec: Codec, zone: tzinfo = UTC, seed: int = 1) -> History:
    """The history that ``data`` names: ``cdnow`` (a tenth of it), ``cdnow-all``, ``simulated`` or a file.

    Raises DemoError.
    """
    if data == "simulated":
        shop = simulate(seed=seed, customers=1000, days=150)
        events = (entry(event) for event in shop)
        title = f"a simulated shop: {shop.customers:,} customers over {shop.days} days, seed {seed}"
        three = (topics.PURCHASES, topics.BROWSES, topics.COMPLAINTS)
        return History(title, events, three, dict(shop.truth))
    real = data in ("cdnow", "cdnow-all")
    try:
        path = cdnow() if real else Path(data)
    except DatasetError as error:
        raise DemoError(f"{error}\nWithout it: make demo DATA=simulated, or DATA=path/to/your.csv") from error
    if not path.is_file():
        raise DemoError(
            f"There is no file {data!r}. DATA is cdnow, cdnow-all, simulated, or the path of a CSV, NDJSON or "
            "Parquet file."
        )
    title = str(path)
    if real:
        who = "every tenth customer" if data == "cdnow" else "all customers"
        title = f"CDNOW: {who} who first bought at an online music shop in early 1997, until June 1998"
    result = History(title, (), (topics.PURCHASES,))

    def refuse(refusal: Refusal) -> None:
        result.refused += refusal.rows
        if result.refused <= 5:
            say(f"  line {refusal.line} refused: {refusal.reason}")

    reading = Reading(codec, zone)
    if not real:
        count(path, reading)  # a file that is not sorted is refused before anything of it is played
    entries: Iterable[Entry] = read(path, reading, refuse)
    # The whole of it takes minutes: about ninety looks at each of 23,570 customers.
    result.entries = (one for one in entries if one.customer.endswith("0")) if data == "cdnow" else entries
    return result


def say(text: str) -> None:
    """One line, at once."""
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


def run(settings: Settings, *, data: str, embedded: bool) -> int:
    """Plays ``data``, on servers inside this process or those of the settings, and returns the exit code: 0 when all of it was applied, 1 when it could not be,
    130 after Ctrl-C."""
    # SIGTERM ends it as Ctrl-C does, so that nothing stays behind.
    signal.signal(signal.SIGTERM, lambda *_: os.kill(os.getpid(), signal.SIGINT))
    try:
        if not embedded:
            play(data, settings, None)
        else:
            say("Starting Kafka and Redis inside this process (nothing is installed, nothing is kept).")
            with Embedded() as servers:
                chosen = msgspec.structs.replace(
                    settings,
                    kafka=msgspec.structs.replace(settings.kafka, brokers=(servers.brokers,)),
                    redis=msgspec.structs.replace(settings.redis, url=servers.redis_url),
                )
                play(data, chosen, servers)
    except KeyboardInterrupt:
        say("\nStopped.")
        return 130
    except (DemoError, FileError) as error:
        sys.stderr.write(f"{error}\n")
        return 1
    return 0


def play(data: str, settings: Settings, embedded: Embedded | None) -> None:
    """Plays the history against servers that answer. Raises DemoError."""
    shop = settings.shop
    codec = Codec(shop.currency, shop.minor_units, shop.rates, frozenset())
    played = history(data, codec, ZoneInfo(shop.time_zone))
    run_id = uuid.uuid4().hex[:8]
    settings = msgspec.structs.replace(
        settings,
        application=f"demo-{run_id}",
        kafka=msgspec.structs.replace(
            settings.kafka, prefix=f"demo-{run_id}.", inputs=played.inputs, group=None
        ),
        clock=Clock(mode="record"),
        worker=msgspec.structs.replace(settings.worker, http_port=_free_port(), http_host="127.0.0.1"),
    )
    names = [settings.kafka.topic(name) for name in (*played.inputs, *topics.OUTPUTS)]
    if embedded is not None:
        embedded.touch(names)
        partitions = PARTITIONS
    else:
        partitions = _create(settings, names)
    say(f"Playing {played.title}.")
    try:
        with WorkerProcess(settings) as worker:
            worker.until_ready(READY_WITHIN)
            _Play(settings, played, partitions, worker).run()
    finally:
        if embedded is None:
            _remove(settings, names, partitions)


def _create(settings: Settings, names: list[str]) -> int:
    """The demo's own topics on a real broker."""
    admin = AdminClient(settings.kafka.librdkafka())
    wanted = [NewTopic(name, num_partitions=PARTITIONS, replication_factor=1) for name in names]
    for name, future in admin.create_topics(wanted).items():
        try:
            future.result(30)
        except KafkaException as error:
            raise DemoError(f"Cannot create the topic {name}: {error.args[0].str()}") from error
    return PARTITIONS


def _remove(settings: Settings, names: list[str], partitions: int) -> None:
    """What the demo has made on servers that are not its own."""
    application = settings.application
    states = [f"{{{application}:p{number}}}:{part}" for number in range(partitions) for part in PARTS]
    with redis.Redis.from_url(settings.redis.url, **settings.redis.options()) as client:
        for key in (*states, f"{application}:layout"):
            client.delete(key)
    admin = AdminClient(settings.kafka.librdkafka())
    for name, future in admin.delete_topics(names).items():
        try:
            future.result(30)
        except KafkaException as error:
            say(f"The topic {name} is left behind: {error.args[0].str()}")


def _free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port: int = free.getsockname()[1]
        return port


class WorkerProcess:
    """``churnwatch worker`` as a process of its own, ended with the demo."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> WorkerProcess:
        """Started."""
        command = [sys.executable, "-m", "agents.cli", "worker"]
        self._process = subprocess.Popen(  # noqa: S603 -- ourselves
            command,
            env=self._environment(),
            start_new_session=True,
            preexec_fn=die_with_parent(),  # noqa: PLW1509 -- one system call
        )
        return self

    def __exit__(self, *_: object) -> None:
        """Ended: asked first, killed when it does not answer."""
        process = self._process
        if process is None or process.poll() is not None:
            return
        process.terminate()
        try:
            process.wait(4)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()

    def _environment(self) -> dict[str, str]:
        s = self._settings
        own = {
            "APPLICATION": s.application,
            "KAFKA__BROKERS": ",".join(s.kafka.brokers),
            "KAFKA__PREFIX": s.kafka.prefix,
            "KAFKA__INPUTS": ",".join(s.kafka.inputs),
            "KAFKA__SESSION_TIMEOUT": "10",
            "REDIS__URL": s.redis.url,
            "CLOCK__MODE": s.clock.mode,
            "WORKER__HTTP_PORT": str(s.worker.http_port),
            "WORKER__LOG_LEVEL": "warning",
        }
        return {**os.environ, **{f"CHURNWATCH_{name}": value for name, value in own.items()}}

    def check(self) -> None:
        """Raises DemoError when the worker has ended."""
        if self._process is not None and (code := self._process.poll()) is not None:
            raise DemoError(f"The worker ended with code {code}; what it said stands above.")

    def until_ready(self, seconds: float) -> None:
        """Waits until every partition is claimed. Raises DemoError."""
        url = f"http://127.0.0.1:{self._settings.worker.http_port}/readyz"
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            self.check()
            try:
                with urllib.request.urlopen(url, timeout=2) as answer:
                    if answer.status == 200:
                        return
            except (urllib.error.URLError, OSError):
                pass
            time.sleep(0.1)
        raise DemoError(f"The worker was not ready within {seconds:.0f} seconds.")


class _Play:
    """One history on its way through the worker."""

    def __init__(self, settings: Settings, played: History, partitions: int, worker: WorkerProcess) -> None:
        self._settings = settings
        self._history = played
        self._partitions = partitions
        self._worker = worker
        self._redis = redis.Redis.from_url(settings.redis.url, **settings.redis.options())
        self._produced = 0
        self._applied = 0
        self._next_check = 0
        self._moved = time.monotonic()
        self._stop = threading.Event()
        self._alerts = Printer(settings, partitions)

    def run(self) -> None:
        """Sends everything, waits until it has been applied and printed, and sums up."""
        began = time.monotonic()
        printing = threading.Thread(target=self._alerts.run, args=(self._stop,), daemon=True)
        printing.start()
        try:
            route = Route(dict.fromkeys(self._history.inputs, self._partitions), self._settings.kafka.prefix)
            sender = Sender(self._settings.kafka, pace=self._pace)
            sender.run(feed(self._history.watched(), route))
            self._until(lambda: self._lag() == 0 and self._outbox() == 0 and self._alerts.all_printed())
        finally:
            self._stop.set()
            printing.join(3)
        self._alerts.summary(self._history, self._customers(), time.monotonic() - began)

    def _pace(self, _: Outgoing) -> None:
        self._produced += 1
        if self._produced >= self._next_check:
            self._until(lambda: self._lag() < AHEAD)
            self._next_check = self._produced + AHEAD // 4

    def _until(self, done: Callable[[], bool]) -> None:
        self._moved = time.monotonic()
        while not done():
            self._worker.check()
            if time.monotonic() - self._moved > STILL_FOR:
                raise DemoError(
                    f"Nothing has moved for {STILL_FOR:.0f} seconds; see what the worker said above."
                )
            time.sleep(0.05)

    def _meta(self, number: int) -> str:
        return f"{{{self._settings.application}:p{number}}}"

    def _lag(self) -> int:
        names = ["off:" + self._settings.kafka.topic(name) for name in self._history.inputs]
        pipe = self._redis.pipeline(transaction=False)
        for number in range(self._partitions):
            pipe.hmget(self._meta(number) + ":meta", names)
        applied = sum(int(offset or 0) for row in pipe.execute() for offset in row)
        if applied != self._applied:
            self._applied = applied
            self._moved = time.monotonic()
        return self._produced - applied

    def _outbox(self) -> int:
        waiting = sum(
            int(self._redis.xlen(self._meta(number) + ":out")) for number in range(self._partitions)
        )
        if waiting:
            self._moved = time.monotonic()
        return waiting

    def _customers(self) -> int:
        return sum(int(self._redis.hlen(self._meta(number) + ":hot")) for number in range(self._partitions))


class Printer:
    """Reads ``alerts`` and prints warnings, a few a second, so that a person can follow."""

    def __init__(self, settings: Settings, partitions: int) -> None:
        self._topic = settings.kafka.topic(topics.ALERTS)
        self._partitions = partitions
        self._newest = time.monotonic()
        self._horizon = round(settings.policy.horizon_days * DAY)
        self._consumer = Consumer(
            {
                **settings.kafka.librdkafka(),
                "group.id": f"demo-{uuid.uuid4().hex[:8]}",
                "enable.auto.commit": False,
                "auto.offset.reset": "earliest",
                "enable.partition.eof": False,
                "log_level": 0,
            }
        )
        self.counts: Counter[tuple[str, str]] = Counter()
        self.raised: dict[str, tuple[str, int]] = {}
        self._seen: set[str] = set()
        self._skipped = 0
        self._window = (0, 0)

    def run(self, stop: threading.Event) -> None:
        """Until told to stop."""
        numbers = range(self._partitions)
        self._consumer.assign([TopicPartition(self._topic, number, 0) for number in numbers])
        try:
            while not stop.is_set():
                for message in self._consumer.consume(500, 0.2):
                    if message.error() is None:
                        self._newest = time.monotonic()
                        self._one(
                            dict(cast("list[tuple[str, bytes]]", message.headers())), message.value() or b""
                        )
        finally:
            self._consumer.close()

    def all_printed(self) -> bool:
        """Whether nothing has come for a while; asked when nothing waits to be relayed any more.

        The embedded Kafka does not answer when asked for the end of a topic.
        """
        return time.monotonic() - self._newest > QUIET

    def _one(self, headers: dict[str, bytes], value: bytes) -> None:
        identity = headers["ce_id"].decode()
        if identity in self._seen:
            return
        self._seen.add(identity)
        alert = decode_alert(identity, value)
        self.counts[alert.kind, alert.transition] += 1
        if alert.transition != "raised":
            return
        if alert.kind == "churn":
            self.raised[identity] = (alert.customer, alert.decided_at)
        second = int(time.monotonic())
        printed = self._window[1] if self._window[0] == second else 0
        if printed >= LINES_A_SECOND:
            self._skipped += 1
            return
        self._window = (second, printed + 1)
        if self._skipped:
            say(f"  … and {self._skipped:,} more")
            self._skipped = 0
        say(line(alert))

    def summary(self, played: History, customers: int, seconds: float) -> None:
        """What happened, and how many warnings turned out right."""
        say("")
        bought = sum(len(times) for times in played.purchases.values())
        say(f"Played in {seconds:.0f} seconds: {customers:,} customers, {bought:,} purchases.")
        if played.refused:
            say(f"Refused: {played.refused:,} rows of the file.")
        for kind in ("churn", "upsell"):
            steps = [f"{n:,} {step}" for (of, step), n in sorted(self.counts.items()) if of == kind]
            if steps:
                say(f"  {kind}: {', '.join(steps)}")
        judged = right = 0
        for customer, at in self.raised.values():
            if at + self._horizon > played.last:
                continue
            times = played.purchases.get(customer, [])
            following = bisect_right(times, at)
            judged += 1
            right += following == len(times) or times[following] > at + self._horizon
        days = self._horizon // DAY
        if judged:
            say(
                f"Of {judged:,} warnings old enough to judge, {right:,} ({right / judged:.0%}) were right: "
                f"no purchase in the {days} days that followed."
            )
        if played.truth is not None:
            self._against(played.truth)
        say("Next: churnwatch --help, and README.md for your own data.")

    def _against(self, truth: dict[str, Departure]) -> None:
        first: dict[str, int] = {}
        for customer, at in self.raised.values():
            if customer in truth and at >= truth[customer].at - 60 * DAY:
                first[customer] = min(at, first.get(customer, at))
        after = sorted((at - truth[customer].at) / DAY for customer, at in first.items())
        if truth:
            say(
                f"The simulator knows who left: {len(truth):,} customers; {len(first):,} of them were warned of."
            )
        if after:
            middle = after[len(after) // 2]
            when = f"{middle:.0f} days after" if middle >= 0 else f"{-middle:.0f} days before"
            say(
                f"Half of these warnings came no later than {when} the customer's last purchase or decision to go."
            )


def line(alert: Alert) -> str:
    """A warning as one line for people."""
    day = rfc3339(alert.decided_at)[:10]
    chance = "" if alert.churn_probability is None else f"{math.floor(alert.churn_probability * 100):3d} %"
    reasons = [reason.text for reason in alert.reasons[:2] if reason.text]
    reasons += [offer.reason for offer in alert.offers[:1] if offer.reason]
    action = f"  → {alert.action}" if alert.action else ""
    return f"{day}  {alert.customer:<14.14} {alert.kind:<6} {chance}  {' '.join(reasons)}{action}"
