"""Customers' states, read from Redis without owning them, and described by the core as a worker would decide.

What was learned is told by the topic ``models``; where Kafka does not answer, by the trainer's copy in Redis.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from contextlib import contextmanager
from datetime import datetime
from typing import Any, TypeVar

import msgspec

from agents import reach
from agents.commands.shell import Code, Failure
from agents.core import engine_of, usable
from agents.failure import Unrecoverable
from agents.learned import Models, kept
from agents.settings import Settings, redacted
from agents.store import Layout, Store, StoreAway, connect
from alerts.partition import unpack
from models.snapshot import Known, Snapshot
from streams.events import to_micros

PATIENCE = 5.0
"""Seconds until Redis is called away: a person waits for the answer."""
T = TypeVar("T")


class Reader:
    """Customers' states of one application, described as of now (or of the record clock)."""

    def __init__(self, settings: Settings, store: Store, layout: Layout, known: Known) -> None:
        self.store = store
        self.layout = layout
        self.engine = engine_of(settings, "record" if layout.clock == "record" else "wall")
        self._settings, self._known = settings, known
        self._decides: Snapshot | None = None

    async def all(self) -> AsyncIterator[dict[str, Any]]:
        """Each customer once."""
        for partition in range(self.layout.partitions):
            at = await self._now(partition)
            async for key, hot, cold in self.store.customers(partition):
                yield self._described(key.decode(errors="surrogatepass"), hot, cold, at)

    async def one(self, name: str) -> dict[str, Any] | None:
        """One customer, wherever a producer has put them; None when unknown."""
        key = name.encode(errors="surrogateescape")
        for partition in range(self.layout.partitions):
            hot, cold = await self.store.customer(partition, key)
            if hot is not None:
                return self._described(name, hot, cold, await self._now(partition))
        return None

    async def _now(self, partition: int) -> int:
        """The instant a customer is described at: the partition's clock, or the wall's. 0: not known yet."""
        if self.layout.clock != "record":
            return time.time_ns() // 1000
        _, blob = await self.store.applied(partition)
        return unpack(blob, partition).clock

    def _decide(self, at: int) -> None:
        """Lets decide what decides in a partition whose clock is at ``at``."""
        found = self._known.at(at) if self.layout.clock == "record" else self._known.newest()
        if found is not self._decides:
            self.engine.adopt(() if found is None else usable(self._settings, Known((), found)))
            self._decides = found

    def _described(self, name: str, hot: bytes, cold: bytes | None, at: int) -> dict[str, Any]:
        self._decide(at)
        described = self.engine.describe(name, hot, cold, at)
        if at == 0 and "last_purchase" in described:  # no clock record has come: as of what is known
            last = to_micros(datetime.fromisoformat(str(described["last_purchase"])))
            described = self.engine.describe(name, hot, cold, last)
        return described


@contextmanager
def _unheard(log: logging.Logger) -> Iterator[None]:
    """What a worker logs of each attempt is, for a person who waits five seconds, said once at the end."""
    level = log.level
    log.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        log.setLevel(level)


async def _known(settings: Settings) -> Known:
    """What was learned, told by Kafka or else by Redis."""
    try:
        return await asyncio.to_thread(Models(settings).look)
    except Failure:
        newest = await kept(settings)
        return Known() if newest is None else Known((newest,))


def read(settings: Settings, ask: Callable[[Reader], Coroutine[Any, Any, T]], *, scores: bool = True) -> T:
    """Runs a question against Redis; with ``scores`` about who may leave, for which it is read what was learned.

    Raises :class:`Failure` with what to do when it cannot be answered.
    """
    url = redacted(settings.redis.url)
    # What the loop says of a connection that Ctrl-C has cut off in its making is a traceback and no news.
    logging.getLogger("asyncio").setLevel(logging.CRITICAL)

    async def run() -> T:
        redis = msgspec.structs.replace(
            settings.redis, timeout=min(settings.redis.timeout, PATIENCE), patience=PATIENCE
        )
        store = Store(connect(redis), settings.application, PATIENCE)
        try:
            layout = await store.layout()
            if layout is None:
                raise Failure(
                    Code.NOT_FOUND,
                    f"Redis ({url}) knows no application {settings.application}.",
                    "No worker of that name has run on it.",
                    "Start one with: churnwatch worker; or name the right one with --application or --redis.",
                )
            known = await _known(settings) if scores else Known()
            return await ask(Reader(settings, store, layout, known))
        except StoreAway:
            # redis-py sends through wait_for, which in Python 3.11 may swallow a cancellation: Ctrl-C came first.
            task = asyncio.current_task()
            if task is not None and task.cancelling():
                raise asyncio.CancelledError from None
            raise
        finally:
            await store.close()

    try:
        with _unheard(logging.getLogger("agents.store")):
            return asyncio.run(run())
    except StoreAway as e:
        advice = reach.redis(settings.redis) or reach.Advice(
            f"{str(e.__cause__ or e).rstrip('.')}.",
            "Is it overloaded or out of memory? See redis.timeout, and what its own log says.",
        )
        what = advice.what or f"Redis does not answer at {url}"
        raise Failure(Code.REDIS, f"{what}.", *advice[:2]) from e
    except Unrecoverable as e:
        # What Redis said stands in brackets; what to do follows.
        why, closed, todo = str(e).partition("): ")
        raise Failure(e.code, f"Redis ({url}) cannot be read.", why + closed[:1], todo) from e
