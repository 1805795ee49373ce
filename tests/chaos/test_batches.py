"""The size of a batch makes no difference to anything that leaves."""

from __future__ import annotations

import time
from collections.abc import Callable

import pytest

from agents.send import Sender
from streams import topics
from tests.chaos.harness import Application, Run
from tests.chaos.history import simulated
from tests.chaos.promises import _by_customer, check, deduplicated, found
from tests.chaos.results import Book
from tests.servers import wait_until

SIZES = 1, 7, 500, 2000


def prove(make: Callable[..., Application], book: Book, seed: int, size: tuple[int, int]) -> None:
    began = time.monotonic()
    runs = []
    for batch in SIZES:
        app = make(batch=batch)
        run = Run(app, simulated(seed, app.route, *size), seed, patience=300)  # one by one takes its time
        app.create_topics()
        # All of it before the worker starts, so that batches are as large as they may be.
        Sender(app.settings.kafka).run(run.history)
        runs.append(run)
        app.launch()
    for run in runs:
        app, total = run.application, len(run.history)
        run.until(lambda app=app, total=total: app.applied() == total, "all is applied")  # type: ignore[misc]
        wait_until(lambda app=app: app.waiting() == 0, 30, "all has left")  # type: ignore[misc]
        app.end()
    verdict = None
    try:
        left = []
        for run in runs:
            verdict = check(run.application)
            first, repeated = deduplicated(found(run.application).left[topics.ALERTS])
            assert not repeated
            left.append(_by_customer(first.values()))
        assert left[0], "there are no alerts to compare"
        assert all(each == left[0] for each in left)
    finally:
        said = "batches of " + ", ".join(map(str, SIZES))
        book.write("batch sizes", 1, seed, len(SIZES), time.monotonic() - began, verdict, said)


def test_batches_of_1_7_500_and_2000_give_the_same_alerts(
    application: Callable[..., Application], book: Book
) -> None:
    prove(application, book, 31, (15, 30))


@pytest.mark.chaos
def test_batches_of_1_7_500_and_2000_give_the_same_alerts_over_a_long_history(
    application: Callable[..., Application], book: Book
) -> None:
    prove(application, book, 32, (80, 100))
