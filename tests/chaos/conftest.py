"""Applications on servers of their own, and the book in which what was proved is written."""

from __future__ import annotations

import re
import uuid
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import pytest

from tests.chaos.harness import Application
from tests.chaos.results import Book
from tests.servers import KafkaServer, RedisServer


@pytest.fixture
def application(
    request: pytest.FixtureRequest, tmp_path: Path, own_redis: Callable[..., RedisServer]
) -> Iterator[Callable[..., Application]]:
    """Makes an application with a Redis of its own: ``application(inputs=(...), session=6)``.

    It has the session's broker unless it is given another.
    """
    made: list[Application] = []

    def make(
        kafka: KafkaServer | None = None,
        name: str = "shop",
        more: Mapping[str, str] | None = None,
        **rest: object,
    ) -> Application:
        ident = re.sub(r"[^a-z0-9]+", "-", request.node.name.lower())[:30].strip("-")
        unique = f"{ident}-{uuid.uuid4().hex[:6]}"
        app = Application(
            kafka=kafka or request.getfixturevalue("kafka"),
            redis=own_redis(),
            folder=tmp_path / f"workers-{len(made)}",
            # Ids and looks depend on the name: it is the same in every repetition of a run, the group is not.
            name=name,
            prefix=f"{unique}.",
            more={"kafka.group": unique, **(more or {})},
            **rest,  # type: ignore[arg-type]
        )
        made.append(app)
        return app

    yield make
    for each in made:
        each.end()


@pytest.fixture(scope="session")
def book(request: pytest.FixtureRequest) -> Iterator[Book]:
    """What was proved; kept in bench/results when the full counts were asked for."""
    book = Book()
    yield book
    if "chaos" in (request.config.getoption("-m") or "").replace("not chaos", ""):
        book.keep()
