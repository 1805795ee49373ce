"""Without the lock of a partition number compare-and-set alone keeps states exact."""

from __future__ import annotations

import time
from collections.abc import Callable

import pytest

from tests.chaos.harness import Application, Run
from tests.chaos.history import simulated
from tests.chaos.promises import check
from tests.chaos.results import Book
from tests.chaos.test_faults import SHORT, THREE


def prove(app: Application, book: Book, seed: int, size: tuple[int, int]) -> None:
    run = Run(app, simulated(seed, app.route, *size), seed, ahead=1000)
    verdict, conflicts = None, 0.0
    try:
        with run.under_way():
            run.settle()
            conflicts = app.workers[0].metric("churnwatch_commit_conflicts_total")
        verdict = check(app)
    finally:
        said = f"{conflicts:.0f} conflicts"
        book.write("lock taken away", 3, seed, 1, time.monotonic() - run.began, verdict, said)
    assert conflicts > 0, "topics never met: nothing was shown"


def test_without_the_lock_states_stay_exact_and_conflicts_are_reported(
    application: Callable[..., Application], book: Book
) -> None:
    app = application(inputs=THREE, arguments=("-m", "tests.chaos.unlocked"), batch=20, session=3.0)
    prove(app, book, 21, SHORT)


@pytest.mark.chaos
def test_without_the_lock_states_stay_exact_over_a_long_history(
    application: Callable[..., Application], book: Book
) -> None:
    app = application(inputs=THREE, arguments=("-m", "tests.chaos.unlocked"), batch=20)
    prove(app, book, 22, (150, 120))
