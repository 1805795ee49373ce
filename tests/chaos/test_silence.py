"""Under the wall clock silence is never invented: what has not been read yet is not missing.

Customers buy all the time. The thresholds are set so that the first look at a silent customer is a warning,
and each purchase carries a time some minutes back, so that this look is due a few seconds after it was sent.
A warning is true when the log holds no later purchase of the time before it, whenever that was read.
"""

from __future__ import annotations

import itertools
import json
import threading
import time
from collections.abc import Callable, Iterable
from random import Random

import pytest
from confluent_kafka import Producer

from alerts.looks import Grid
from features.customer import Customer
from features.matrix import inputs
from models.churn import RhythmScore
from models.snapshot import Prior
from streams import topics
from streams.alerts import Alert, decode_alert
from streams.codec import Decoded
from streams.events import rfc3339
from tests.chaos.harness import Application
from tests.chaos.history import Record
from tests.chaos.promises import Verdict
from tests.chaos.reference import codec_of
from tests.chaos.results import Book
from tests.servers import KafkaServer, wait_until

SECOND = 1_000_000
DAY = 86_400 * SECOND
HOUR = 3_600 * SECOND
WARNED_AFTER = 170.0
"""Seconds of silence that are a warning at a look; the score does not tell recencies below 86 apart."""
MARGIN = 3.0
"""When a purchase is sent, the look after it is only this many seconds away."""
EVERY = 0.5
GRACE = 4.0
PRIOR = Prior(gap_days=0.001, spread=0.5, strength=1e6, defect_a=1e-9, defect_b=1.0, browsing=0.0)
HORIZON = 0.01


def now() -> int:
    return time.time_ns() // 1000


def medium() -> float:
    """The probability that is reached after so many seconds of silence."""
    model = RhythmScore(PRIOR, HORIZON)
    customer = Customer(orders=1, last_purchase=DAY)
    at = DAY + round(WARNED_AFTER * SECOND)
    return float(model.score(inputs([customer], [at], 48.0)).churn[0])


def quick(look_days: float) -> dict[str, str]:
    """Settings under which seconds matter."""
    return {
        "policy.horizon_days": str(HORIZON),
        "policy.medium": str(medium()),
        "policy.high": "0.999",
        "policy.hysteresis": "0",
        "policy.rise": "0",
        "policy.look_days": str(look_days),
        "policy.look_max_days": str(look_days),
        "worker.silence_grace": str(GRACE),
        **{
            f"prior.{name}": str(getattr(PRIOR, name))
            for name in ("gap_days", "spread", "strength", "defect_a", "defect_b", "browsing")
        },
    }


class Customers(threading.Thread):
    """They buy twice a second, each purchase so late that it would be missed MARGIN seconds later."""

    def __init__(self, app: Application, names: Iterable[str]) -> None:
        super().__init__(daemon=True)
        self.names = list(names)
        self._app = app
        self._grid = Grid(app.name, app.settings.policy)
        self._done = threading.Event()
        self._producer = Producer(
            {
                "bootstrap.servers": app.kafka.brokers,
                "partitioner": "murmur2_random",
                "enable.idempotence": True,
                "reconnect.backoff.max.ms": 200,
                "log_level": 0,
            }
        )

    def run(self) -> None:
        number = 0
        while not self._done.is_set():
            for name in list(self.names):
                number += 1
                at = now() + round(MARGIN * SECOND) - self._grid.stagger(name)
                send(self._producer, self._app, name, at, f"{name}-{number}")
            self._producer.poll(0)
            self._done.wait(EVERY)

    def leave(self, name: str) -> None:
        """This one buys no more."""
        self.names.remove(name)

    def end(self) -> None:
        """Nobody buys any more; all has been delivered."""
        self._done.set()
        self.join()
        assert self._producer.flush(20) == 0


def send(
    producer: Producer, app: Application, customer: str, at: int, ident: str, kind: str = "purchase"
) -> None:
    event = {"id": ident, "type": kind, "customer": customer, "time": rfc3339(at)}
    if kind == "purchase":
        event["lines"] = [{"amount": 10}]  # type: ignore[assignment]
    producer.produce(app.topic(topics.PURCHASES), json.dumps(event), customer)


def warnings(app: Application) -> list[Alert]:
    """Every warning, delivered or withheld (what is before go-live counts as history)."""
    found = []
    for record in app.read((topics.ALERTS, topics.DECISIONS)):
        ident = dict(record.headers)["ce_id"]
        alert = decode_alert((ident or b"").decode(), record.value or b"")
        if alert.kind == "churn" and alert.transition == "raised":
            found.append(alert)
    return found


def false(raised: Iterable[Alert], log: Iterable[Record], app: Application) -> list[Alert]:
    """The warnings that the log contradicts: there was a purchase, read or not."""
    codec, grid = codec_of(app.settings), Grid(app.name, app.settings.policy)
    bought: dict[str, list[int]] = {}
    for record in log:
        item = codec.decode(record)
        assert isinstance(item, Decoded), item
        bought.setdefault(item.customer, []).append(item.at)
    wrong = []
    for alert in raised:
        last = max(at for at in bought[alert.customer] if at <= alert.decided_at)
        if alert.decided_at - last < grid.stagger(alert.customer):
            wrong.append(alert)
    return wrong


Trouble = Callable[[Application], None]


def redis_frozen(app: Application) -> None:
    with app.redis.frozen():
        time.sleep(2 * MARGIN)


def broker_away(app: Application) -> None:
    app.kafka.kill()
    time.sleep(2 * MARGIN)
    app.broker_back()


def worker_away(app: Application) -> None:
    app.stop(app.running[0])
    time.sleep(1.5 * MARGIN)
    app.launch()


def worker_frozen(app: Application) -> None:
    with app.running[0].frozen():
        time.sleep(1.5 * MARGIN)


TROUBLES: tuple[Trouble, ...] = redis_frozen, broker_away, worker_away, worker_frozen


def prove(app: Application, book: Book, seed: int, troubles: Iterable[Trouble]) -> None:
    """During all of it customers buy; after each trouble one leaves, whose warning shows that the clock runs."""
    app.create_topics()
    app.launch()
    # Those whose first look comes so late that it is a warning.
    grid = Grid(app.name, app.settings.policy)
    every = (f"regular-{number}" for number in itertools.count())
    late = (name for name in every if grid.stagger(name) > 1.2 * WARNED_AFTER * SECOND)
    names = list(itertools.islice(late, 12))
    leavers = Random(seed).sample(names, 6)
    customers = Customers(app, names)
    customers.start()
    began, done = time.monotonic(), 0
    equal = None
    wrong: list[Alert] = []
    raised: list[Alert] = []
    try:

        def read() -> bool:
            app.check_workers()
            return (app.applied() or 0) >= 2 * len(names)

        wait_until(read, 60, "the worker reads")
        for trouble in troubles:
            trouble(app)
            done += 1
            gone = leavers.pop()
            customers.leave(gone)

            def missed(gone: str = gone) -> bool:
                app.check_workers()
                return any(alert.customer == gone for alert in warnings(app))

            wait_until(missed, 60, f"after {trouble.__name__} {gone} is missed", every=0.3)
        customers.end()
        raised = warnings(app)
        log = app.log()
        wrong = false(raised, log, app)
        assert not wrong, f"{len(wrong)} of {len(raised)} warnings are false, such as {wrong[0]}"
        equal = Verdict(records=len(log), customers=len(names), alerts=len(raised))
    finally:
        customers.end()
        app.end()
        said = f"{len(wrong)} false of {len(raised)} warnings"
        book.write("silence, wall clock", 1, seed, done, time.monotonic() - began, equal, said)


LOOKS = 0.01


def test_no_warning_is_false_while_events_lie_unread(
    application: Callable[..., Application], own_kafka: Callable[..., KafkaServer], book: Book
) -> None:
    app = application(own_kafka(), clock="wall", session=30.0, batch=500, more=quick(LOOKS))
    prove(app, book, 51, TROUBLES[:2])


@pytest.mark.chaos
def test_no_warning_is_false_whatever_stands_still(
    application: Callable[..., Application], own_kafka: Callable[..., KafkaServer], book: Book
) -> None:
    app = application(own_kafka(), clock="wall", batch=500, more=quick(LOOKS))
    prove(app, book, 52, (*TROUBLES, TROUBLES[0], TROUBLES[1]))


# ---- a feed that stops


def visited(app: Application, producer: Producer, end: int) -> None:
    """Two weeks of traffic, and a worker that reads it."""
    app.create_topics()
    for number, at in enumerate(range((end // DAY - 13) * DAY, end, HOUR // 12)):
        send(producer, app, f"visitor-{number % 50}", at, f"v-{number}", "view")
    assert producer.flush(20) == 0
    app.launch()


def bought(app: Application, producer: Producer, end: int) -> None:
    """Customers who bought after the traffic had ended."""

    def clock() -> float:
        app.check_workers()
        return app.workers[0].metric("churnwatch_partition_clock_timestamp_seconds")

    wait_until(lambda: clock() > (end + HOUR) / 1e6, 60, "the clock has reached the present", every=0.1)
    # What is usual is folded with the next record.
    send(producer, app, "visitor-0", end, "last view", "view")
    grid = Grid(app.name, app.settings.policy)
    for number in range(4):
        # Their third look is due in a moment.
        name = f"buyer-{number}"
        send(producer, app, name, now() + 3 * SECOND - grid.stagger(name) - 2 * HOUR, f"p-{number}")
    assert producer.flush(20) == 0


def test_when_a_feed_stops_its_customers_are_not_missed(application: Callable[..., Application]) -> None:
    watched = quick(1 / 24) | {
        "feeds.min_expected": "5",
        "feeds.silent_below": "0.5",
        "feeds.window_hours": "1",
        "feeds.learn_days": "7",
        "worker.silence_grace": "0.5",
    }
    app = application(clock="wall", partitions=1, batch=2000, more=watched)
    control = application(clock="wall", partitions=1, batch=2000, more=watched | {"feeds.enabled": "false"})
    producer = Producer({"bootstrap.servers": app.kafka.brokers, "partitioner": "murmur2_random"})
    end = (now() // HOUR - 5) * HOUR
    for step in (visited, bought):
        for each in (app, control):
            step(each, producer, end)
    wait_until(
        lambda: len(warnings(control)) == 4, 60, "all would be missed if nobody watched the feed", every=0.3
    )
    wait_until(lambda: app.workers[0].metric("churnwatch_looks_held_total") >= 4, 60, "their looks are held")
    assert app.waiting() == 0
    assert not warnings(app)
