"""Nothing is lost and nothing is doubled, whatever befalls the workers, the broker or Redis."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

import pytest

from agents import datasets
from agents.send import Outgoing
from streams import topics
from tests.chaos import faults
from tests.chaos.faults import Fault
from tests.chaos.harness import Application, Run
from tests.chaos.history import cdnow, simulated
from tests.chaos.promises import Verdict, check
from tests.chaos.reference import codec_of
from tests.chaos.results import Book
from tests.servers import KafkaServer

ONE = (topics.PURCHASES,)
THREE = (topics.PURCHASES, topics.BROWSES, topics.COMPLAINTS)


def prove(
    application: Application,
    book: Book,
    fault: Fault,
    count: int,
    seed: int,
    size: tuple[int, int],
    workers: int = 1,
    history: Sequence[Outgoing] | None = None,
    note: str = "",
) -> Verdict:
    """One run with a fault that strikes ``count`` times, and everything that is promised of it.

    ``size``: customers and days of the simulated shop, unless there is a ``history``.
    """
    sent = simulated(seed, application.route, *size) if history is None else history
    run = Run(application, sent, seed)
    verdict = None
    try:
        with run.under_way(workers):
            fault(run, count)
        try:
            verdict = check(application, rollback=run.rollback)
        except AssertionError as error:
            error.add_note(f"seed {seed}; what was done:\n" + "\n".join(run.log))
            raise
    finally:
        name = (fault.__name__).replace("_", " ")
        seconds = time.monotonic() - run.began
        row = book.write(name, len(application.inputs), seed, run.kills, seconds, verdict, note)
        print(row, *run.log, sep="\n")
    return verdict


SHORT = 30, 45
"""Customers and days of the short runs: about a thousand events."""


@pytest.mark.parametrize(
    ("fault", "count", "inputs", "workers"),
    [
        (faults.worker_killed, 2, ONE, 1),
        (faults.workers_come_and_go, 4, THREE, 1),
        (faults.worker_frozen, 1, THREE, 2),
        (faults.redis_killed, 2, THREE, 1),
        (faults.redis_tail_cut, 3, ONE, 1),
        (faults.redis_restored, 1, ONE, 1),
        (faults.killed_before_trim, 1, ONE, 1),
        (faults.redis_frozen, 1, ONE, 1),
    ],
)
def test_states_and_alerts_are_exact_after(
    fault: Fault,
    count: int,
    inputs: tuple[str, ...],
    workers: int,
    application: Callable[..., Application],
    book: Book,
) -> None:
    app = application(inputs=inputs, session=2.0, batch=20)
    prove(app, book, fault, count, seed=11, size=SHORT, workers=workers)


def test_states_and_alerts_are_exact_after_the_broker_was_killed(
    application: Callable[..., Application], own_kafka: Callable[..., KafkaServer], book: Book
) -> None:
    app = application(own_kafka(), inputs=ONE, session=3.0, batch=20)
    prove(app, book, faults.broker_killed, 1, seed=12, size=SHORT)


# ---- the full counts

FULL = 60, 90
"""About three thousand events."""


@pytest.mark.chaos
@pytest.mark.parametrize("inputs", [ONE, THREE], ids=["one-topic", "three-topics"])
@pytest.mark.parametrize(
    ("fault", "count", "workers"),
    [
        (faults.worker_killed, 20, 1),
        (faults.workers_come_and_go, 12, 1),
        (faults.worker_frozen, 4, 2),
        (faults.redis_killed, 6, 2),
        (faults.redis_tail_cut, 8, 2),
        (faults.redis_restored, 2, 1),
        (faults.killed_before_trim, 8, 1),
        (faults.redis_frozen, 3, 2),
    ],
)
def test_states_and_alerts_are_exact_after_many(
    fault: Fault,
    count: int,
    workers: int,
    inputs: tuple[str, ...],
    application: Callable[..., Application],
    book: Book,
) -> None:
    app = application(inputs=inputs)
    verdict = prove(app, book, fault, count, seed=100 + len(inputs), size=FULL, workers=workers)
    if fault is faults.killed_before_trim:
        assert verdict.repeated >= count, "no worker was caught between produce and trim"


@pytest.mark.chaos
@pytest.mark.parametrize("inputs", [ONE, THREE], ids=["one-topic", "three-topics"])
def test_states_and_alerts_are_exact_after_the_broker_was_killed_four_times(
    inputs: tuple[str, ...],
    application: Callable[..., Application],
    own_kafka: Callable[..., KafkaServer],
    book: Book,
) -> None:
    app = application(own_kafka(), inputs=inputs)
    prove(app, book, faults.broker_killed, 4, seed=110 + len(inputs), size=FULL, workers=2)


@pytest.mark.chaos
def test_alerts_for_real_customers_are_exact_after_twenty_kills(
    application: Callable[..., Application], book: Book
) -> None:
    app = application(inputs=ONE)
    try:
        file = datasets.cdnow()
    except datasets.DatasetError as error:
        pytest.skip(str(error))
    history = cdnow(121, file, app.route, codec_of(app.settings), 700)
    prove(app, book, faults.worker_killed, 20, 121, (700, 546), history=history, note="CDNOW")
