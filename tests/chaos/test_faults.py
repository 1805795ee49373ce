"""Nothing is lost and nothing is doubled, whatever befalls the workers, the broker or Redis."""

from __future__ import annotations

import os
import statistics
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
from tests.chaos.taught import taught
from tests.servers import KafkaServer

ONE = (topics.PURCHASES,)
THREE = (topics.PURCHASES, topics.BROWSES, topics.COMPLAINTS)


def prove(
    application: Application,
    book: Book,
    strikes: Sequence[tuple[Fault, int]],
    seed: int,
    size: tuple[int, int],
    workers: int = 1,
    history: Sequence[Outgoing] | None = None,
    note: str = "",
) -> tuple[Run, Verdict]:
    """One run in which each fault strikes so often, and everything that is promised of it.

    ``size``: customers and days of the simulated shop, unless there is a ``history``.
    """
    sent = simulated(seed, application.route, *size) if history is None else history
    models = taught(application.settings, sent, application.partitions)
    run = Run(application, sent, seed, models=models)
    verdict = None
    try:
        with run.under_way(workers):
            faults.one_after_the_other(run, strikes)
        try:
            verdict = check(application, rollback=run.rollback, models=models)
            assert verdict.examples > 0, "no label matured"
            assert verdict.learned > 0, "nothing was decided by a learned model"
        except AssertionError as error:
            error.add_note(f"seed {seed}; what was done:\n" + "\n".join(run.log))
            raise
    finally:
        name = ", ".join(fault.__name__.replace("_", " ") for fault, _ in strikes)
        if run.stops:
            slowest = f"slowest stop {max(run.stops):.1f} s"
            note = f"{note}; {slowest}" if note else slowest
        seconds = time.monotonic() - run.began
        row = book.write(name, len(application.inputs), seed, run.struck, seconds, verdict, note)
        print(row, *run.log, sep="\n")
    return run, verdict


# ---- one short run of each fault

SHORT = 30, 45
"""Customers and days of the short runs: about a thousand events."""


def test_states_and_alerts_are_exact_after_workers_were_killed(
    application: Callable[..., Application], book: Book
) -> None:
    app = application(inputs=ONE, session=2.0, batch=20)
    _, verdict = prove(app, book, [(faults.worker_killed, 2), (faults.killed_before_trim, 1)], 11, SHORT)
    assert verdict.repeated > 0, "no worker was caught between produce and trim"


def test_states_and_alerts_are_exact_while_workers_come_and_go_and_freeze(
    application: Callable[..., Application], book: Book
) -> None:
    app = application(inputs=THREE, session=2.0, batch=20)
    run, _ = prove(app, book, [(faults.workers_come_and_go, 3), (faults.worker_frozen, 1)], 12, SHORT)
    # Two seconds where there is a processor for it; ten hold always.
    busy = os.getloadavg()[0] > 1.5 * (os.cpu_count() or 1)
    assert statistics.median(run.stops) < (10.0 if busy else 2.0), run.stops


def test_states_and_alerts_are_exact_after_redis_was_killed_cut_restored_wiped_and_frozen(
    application: Callable[..., Application], book: Book
) -> None:
    app = application(inputs=ONE, session=3.0, batch=20)
    strikes = [
        (faults.redis_killed, 1),
        (faults.redis_tail_cut, 2),
        (faults.redis_restored, 1),
        (faults.redis_frozen, 1),
    ]
    prove(app, book, strikes, 13, SHORT)


def test_states_and_alerts_are_exact_after_the_broker_was_killed(
    application: Callable[..., Application], own_kafka: Callable[..., KafkaServer], book: Book
) -> None:
    app = application(own_kafka(), inputs=THREE, session=3.0, batch=20)
    prove(app, book, [(faults.broker_killed, 1)], 14, SHORT)


def test_states_and_alerts_are_exact_after_redis_was_lost_and_a_backup_that_was_taken_under_load_restored(
    application: Callable[..., Application], book: Book
) -> None:
    app = application(inputs=ONE, session=2.0, batch=20)
    prove(app, book, [(faults.redis_lost_and_restored, 1)], 15, SHORT)


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
        (faults.redis_lost_and_restored, 4, 2),
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
    _, verdict = prove(app, book, [(fault, count)], 100 + len(inputs), FULL, workers)
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
    prove(app, book, [(faults.broker_killed, 4)], 110 + len(inputs), FULL, 2)


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
    prove(app, book, [(faults.worker_killed, 20)], 121, (700, 546), history=history, note="CDNOW")
