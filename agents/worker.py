"""The worker: decode, group, load, apply, score, decide, commit.

One lot at a time: what was fetched together, at most one batch of each partition, under the locks of their
numbers, which the sweep shares. What the core decides is data; here it is loaded for and committed, for several
partitions in one round trip, each by itself. Whatever goes wrong between loading and committing has changed
nothing: the batch is read again from where Redis stands.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import logging
import os
import random
import signal
import sys
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Collection, Coroutine, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from types import FrameType
from typing import Any, NamedTuple, Protocol, TypeVar

import mode.loop
import msgspec
from prometheus_client import CollectorRegistry

from agents import clock, memory, reach, transport
from agents.core import engine_of, usable
from agents.failure import Code, LayoutRefused, StoreBroken, Unrecoverable
from agents.following import Following
from agents.health import Health
from agents.lag import Lag
from agents.metrics import Metrics
from agents.ownership import Offsets, Owned, Ownership, check_counts
from agents.relay import Relay
from agents.settings import Settings, redacted
from agents.store import Lost, Outcome, States, Step, Store, StoreAway, Wanted, Write, connect
from agents.suppression import Carried, Suppression, Waiting
from agents.tracing import LINKS, tracing_of
from alerts.brakes import Board, Brakes
from alerts.engine import FEATURES_VERSION, Engine, Missing, Turn
from alerts.forgotten import Entry
from alerts.partition import Partition, Poisoned
from alerts.tally import together
from features.shop import DAY
from models.snapshot import Book, Known
from streams import topics
from streams.codec import Codec, Item, Record, Tick, traceparent
from streams.message import pack

log = logging.getLogger(__name__)

T = TypeVar("T")

# Deadlines fired in one commit: about as long a step as a batch of records.
DUE_LIMIT = 2000
# Under the wall clock a partition where nothing is due still notes its clock, this seldom (microseconds).
CLOCK_STEP = 60 * clock.SECOND
# From when on a deadline that fires under the wall clock counts as late (microseconds).
LATE = 60 * clock.SECOND
# The relay is woken by a commit that leaves something, and looks by itself this often.
RELAY_INTERVAL = 1.0
# Between two rounds of the relay, so that at low rates it does not go for each message (seconds).
RELAY_PACE = 0.025
# What was dropped is claimed again after this pause, drawn from half to whole, in seconds.
RECLAIM_PAUSE = 1.0
# Of Faust's time-out for the whole of a seek after an assignment, the part that our claim may take. Were it
# longer, Faust's recovery would end silently and the worker would read nothing for ever.
CLAIM_SHARE = 0.6
# How long brokers may be silent at the start before the process gives up.
BROKER_PATIENCE = 60.0
# From the first signal until the process ends, come what may: a frozen broker or Redis keeps Faust from
# stopping, and the commit is atomic.
STOP_DEADLINE = 10.0
# A quarter of the CPU of the path goes into collecting garbage at Python's thresholds.
GC_THRESHOLDS = 200_000, 20, 100

# Seconds between two looks at the memory of Redis.
MEMORY_INTERVAL = 15.0
# Seconds without another alert withheld after which those that were are summed up in the log.
FLOOD_REST = 3.0

EXIT_POISONED = Code.POISONED
EXIT_KILLED = Code.CUT_SHORT
EXIT_INTERRUPTED = Code.INTERRUPTED


class PoisonedStop(Unrecoverable):
    """Nearly everything of a partition is invalid: the code or a producer is wrong."""

    code = EXIT_POISONED


class Core(Protocol):
    """The pure core as the worker asks it; see :class:`alerts.engine.Engine`."""

    def open(self, blob: bytes | None, number: int) -> Partition:
        """The partition as stored, or a new one."""
        ...

    def touches(self, items: Sequence[Item]) -> tuple[list[bytes], list[bytes]]:
        """Whose hot and whose cold part is needed."""
        ...

    def begin(
        self,
        partition: Partition,
        topic: str,
        records: Sequence[Record],
        items: Sequence[Item],
        hot: Mapping[bytes, bytes | None],
        cold: Mapping[bytes, bytes | None],
        read_to: int,
    ) -> Any:
        """Makes ready the turn of consecutive records."""
        ...

    def turns(self, begun: Sequence[Any]) -> list[Turn]:
        """The turns of different partitions that were begun."""
        ...

    def tick(self, partition: Partition, topic: str, tick: Tick) -> int | None:
        """Where a clock record moves the clock to."""
        ...

    def timers(
        self,
        partition: Partition,
        due: Sequence[tuple[bytes, int]],
        complete: bool,
        until: int,
        hot: Mapping[bytes, bytes | None],
        cold: Mapping[bytes, bytes | None],
        cause: tuple[str, Tick] | None,
    ) -> Turn:
        """Fires what is due."""
        ...

    def moved(self, partition: Partition, topic: str, tick: Tick) -> Turn:
        """Closes a clock record."""
        ...

    def silent_feeds(self, partition: Partition, at: int) -> list[str]:
        """Input topics whose traffic is far below what is usual."""
        ...

    def traffic(self, partition: Partition, at: int) -> dict[str, tuple[float, float]]:
        """Events of each input topic in the window by which its feed is judged, and how many are usual."""
        ...

    def went_live(self, partition: Partition, at: int) -> Turn:
        """Everything was read for the first time."""
        ...


class OneByOne:
    """A core whose partitions have nothing to ask together: ``events`` gives the turn of one."""

    def events(
        self,
        partition: Partition,
        topic: str,
        records: Sequence[Record],
        items: Sequence[Any],
        hot: Mapping[bytes, bytes | None],
        cold: Mapping[bytes, bytes | None],
        read_to: int,
    ) -> Turn:
        """The turn of consecutive records."""
        raise NotImplementedError

    def begin(self, *asked: Any) -> Turn:
        """``events``, at once."""
        return self.events(*asked)

    def turns(self, begun: Sequence[Turn]) -> list[Turn]:
        """What there is already."""
        return list(begun)


class _Piece(NamedTuple):
    """Consecutive records of one partition, which are one commit."""

    owned: Owned
    topic: str
    records: Sequence[Record]
    items: Sequence[Item]


@dataclass(slots=True)
class _Task:
    """A piece on its way, with the customers whose parts it needs. ``waiting``: what waits to leave of those whom it
    forgets; None while nobody has looked."""

    piece: _Piece
    hot: Sequence[bytes]
    cold: Sequence[bytes]
    read_to: int
    waiting: Waiting | None = None

    @property
    def next_offset(self) -> int:
        """Of the record behind it."""
        return self.piece.records[-1].offset + 1


class Proposal(NamedTuple):
    """A turn to be committed; see ``Store.commit``. ``carried``: what goes with it where somebody is forgotten."""

    owned: Owned
    version: str
    topic: str | None
    next_offset: int | None
    turn: Turn
    carried: Carried = Carried()


class Decoder(Protocol):
    """What makes an item of a record; see :class:`streams.codec.Codec`."""

    def decode(self, record: Record) -> Any:
        """What the core takes for the record."""
        ...


class Worker:
    """One member of the consumer group, in the running event loop.

    ``start`` returns when the worker is in its group; ``failed`` ends with the exception that stopped it.
    ``core`` and ``codec`` replace the engine and what it reads.
    """

    def __init__(
        self,
        settings: Settings,
        *,
        metrics: Metrics | None = None,
        core: Core | None = None,
        codec: Decoder | None = None,
        serve_http: bool = True,
    ) -> None:
        self.settings = settings
        self.metrics = metrics or Metrics(CollectorRegistry())
        self.tracing = tracing_of(settings, "churnwatch-" + type(self).__name__.lower())
        kafka = settings.kafka
        self.logical = {kafka.topic(name): name for name in kafka.inputs}
        self._following: list[Following[Any]] = []
        self._engine: Engine | None = None
        if core is None:
            self._engine = engine_of(settings)
            self.core: Core = self._engine
            self._follow(self._engine)
        else:
            self.core = core
        self.codec: Decoder = codec or Codec(
            settings.shop.currency,
            settings.shop.minor_units,
            settings.shop.rates,
            frozenset(kafka.topic(name) for name in kafka.inputs if name in topics.COMPACTED),
        )
        self.store = Store(
            connect(settings.redis), settings.application, settings.redis.patience, self.metrics
        )
        self.suppression = Suppression(
            kafka, settings.application, self.store, self._engine.forgotten if self._engine else None
        )
        self._claims = self._read_at = 0
        self.ownership = Ownership(
            self.store, tuple(self.logical), settings.clock.mode, self.core.open, self.metrics
        )
        self.app = transport.App(kafka, settings.group, settings.worker.batch, self)
        self.relay = Relay(
            self.store,
            self.app,
            kafka.topic,
            transport.is_too_large,
            self.metrics,
            partitions=lambda: self.ownership.count,
            live=settings.clock.mode == "wall",
            delivered=self.tracing.delivered if self.tracing.on else None,
        )
        self.health = Health(
            self.metrics,
            assigned=self.assigned,
            claimed=self.ownership.numbers,
            caught_up=self.ownership.caught_up,
            rebalancing=lambda: bool(self.app.rebalancing),
            startup_deadline=settings.worker.startup_deadline,
        )
        learning = settings.learning
        longest = max(settings.policy.horizon_days, *learning.horizons, 0.0) if learning.enabled else 0.0
        self.metrics.label_horizon.set(longest * DAY / clock.SECOND)
        self.metrics.memory_limit.set(memory.limit())
        self.metrics.before_scrape(self._refresh)
        self.http_port: int | None = None
        self.failed: asyncio.Future[BaseException] = asyncio.get_running_loop().create_future()
        self._serve_http = serve_http
        self._record_clock = settings.clock.mode == "record"
        self._stopping = False
        self._silent: dict[tuple[str, int], bool] = {}
        self._rebalancing_since: float | None = None
        self._memory_at = -MEMORY_INTERVAL
        self._withheld: Counter[str] = Counter()
        # What was committed for each (number, topic) of the lot under way, where the log wants to know it.
        self._done: dict[tuple[int, str | None], Counter[str]] = {}
        self._withheld_at = 0.0
        self._outgoing = asyncio.Event()
        self._left_something: set[int] = set()
        self._dropped = asyncio.Event()
        self._tasks: list[asyncio.Task[None]] = []

    def _follow(self, engine: Engine) -> None:
        """What comes to the engine from beside its inputs: brakes, and what was learned."""
        settings = self.settings

        def braked(brakes: Brakes) -> None:
            engine.brake(brakes)
            self.metrics.braked(brakes)

        def adopted(known: Known) -> None:
            engine.adopt(usable(settings, known))
            newest = known.newest()
            self.metrics.model_effective.set(newest.effective / 1e6 if newest else 0)

        braked(Brakes(shadow=settings.worker.shadow))
        self._following.append(
            Following(settings.kafka, topics.BRAKES, partial(Board, settings.worker.shadow), braked)
        )
        if settings.learning.enabled:
            self._following.append(
                Following(
                    settings.kafka,
                    topics.MODELS,
                    partial(Book, settings.policy.horizon_days, FEATURES_VERSION),
                    adopted,
                    self.metrics.model_refused.inc,
                    "nothing learned is known",
                )
            )

    # ---- life

    async def start(self) -> None:
        """Start serving, check what must be there, join the group. Raises ``Unrecoverable``."""
        if self._serve_http:
            worker = self.settings.worker
            self.http_port = await self.health.start(worker.http_host, worker.http_port)
        patience = min(BROKER_PATIENCE, self.settings.worker.startup_deadline)
        found = await transport.topic_partitions(self.settings.kafka, patience, tuple(self.logical))
        check_counts({topic: found.get(topic, 0) for topic in self.logical})
        await self._check_redis(patience)
        await asyncio.gather(
            self.suppression.read_topic(), *(following.start() for following in self._following)
        )
        if not transport.running_loop_is_fast():
            log.info("The event loop is not uvloop's: an eighth slower")
        for run in (self._keep_relaying, self._keep_sweeping, self._keep_claiming):
            self._tasks.append(asyncio.create_task(self._guarded(run()), name=run.__name__))
        starting = asyncio.create_task(self.app.start_here(), name="start")
        self._tasks.append(asyncio.create_task(self._watch(), name="watch"))
        both: set[asyncio.Future[Any]] = {starting, self.failed}
        await asyncio.wait(both, return_when=asyncio.FIRST_COMPLETED)
        if self.failed.done():
            starting.cancel()
            raise self.failed.result()
        starting.result()

    async def _check_redis(self, patience: float) -> None:
        """Before others stand still for our joining: a Redis that is not there at the start is hardly an outage."""
        redis = self.settings.redis
        end = time.monotonic() + patience
        while True:
            try:
                await self.store.layout()
            except StoreAway as error:
                advice = await asyncio.to_thread(reach.redis, redis)
                left = end - time.monotonic()
                if left <= 0 or (advice and advice.final):
                    said = f"{advice.why} {advice.todo}" if advice else str(error)
                    what = (advice and advice.what) or f"Redis does not answer at {redacted(redis.url)}"
                    raise StoreBroken(f"{what}. {said}") from error
                log.warning(
                    "Redis does not answer at %s yet: %s Trying again for %.0f s",
                    redacted(redis.url),
                    advice.why if advice else f"{error}.",
                    left,
                )
                await asyncio.sleep(min(RECLAIM_PAUSE, left))
            else:
                return

    async def stop(self) -> None:
        """Leave the group and close what is open. What is being done is void or committed."""
        # redis-py sends through wait_for, which in Python 3.11 may swallow a cancellation: the flag ends the loops.
        self._stopping = True
        if self._withheld:
            self._sum_up()
        self.ownership.release_all()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await asyncio.gather(*(following.stop() for following in self._following))
        if self.app.started:
            await self.app.stop()
        await self.health.stop()
        await self.store.close()
        if self.tracing.on:
            await asyncio.to_thread(self.tracing.close)

    def fail(self, error: BaseException) -> None:
        """End the worker; the first reason stands."""
        if not self.failed.done():
            self.health.fail(str(error))
            self.failed.set_result(error)

    def assigned(self) -> set[int]:
        """Partition numbers that the group has given us."""
        if not self.app.started or self.app.consumer is None:
            return set()
        return {number for _, number in self.app.consumer.assigned()}

    async def _watch(self) -> None:
        """Faust ends itself without a word to its caller; hand on why."""
        await self.app.wait_until_stopped()
        if not self._stopping:
            self.fail(self.app.crash_reason or RuntimeError("Faust stopped by itself"))

    async def _guarded(self, run: Coroutine[Any, Any, None]) -> None:
        try:
            await run
        except Exception as error:  # noqa: BLE001 - whatever it is ends the worker, not the task alone
            self.fail(error)

    # ---- what the transport asks (transport.Owner)

    async def claim(self, assigned: Collection[tuple[str, int]], generation: int) -> Offsets:
        """After an assignment: claim all of it. What cannot be claimed now is tried again later."""
        self.ownership.release_all()
        self._claims += 1
        self.health.started()
        self.metrics.assigned.set(len({number for _, number in assigned}))
        try:
            async with asyncio.timeout(self.settings.kafka.request_timeout * CLAIM_SHARE):
                starts = await self.ownership.claim(self.app.consumer, assigned, generation)
        except (StoreAway, Lost, transport.LogAway, TimeoutError) as error:
            log.warning("Nothing could be claimed; trying again: %r", error)
            self._dropped.set()
            return {}
        self._claimed(generation)
        return starts

    def revoked(self) -> None:
        """The group is rebalancing."""
        self.metrics.rebalances.inc()
        self._rebalancing_since = self._rebalancing_since or time.monotonic()
        self.ownership.release_all()
        self.metrics.claimed.set(0)

    def applied(self, topic: str, partition: int) -> int | None:
        """The next offset to apply, for the mirror."""
        return self.ownership.applied(topic, partition)

    def mirrored(self, accepted: bool) -> None:
        """Offsets were mirrored to Kafka, or not. Called from the consumer's thread."""
        self.metrics.kafka_commits.inc()
        if not accepted:
            self.metrics.kafka_commit_failures.inc()

    async def lot(self, lot: transport.Lot) -> None:
        """Apply the batches of a lot, or find out that they are void."""
        began = time.monotonic()
        records = sum(len(batch.records) for batch in lot.batches.values())
        with self.tracing.span("lot", _traces(lot) if self.tracing.on else (), records=records):
            await self._lot(lot)
        self.metrics.batch_duration.observe(time.monotonic() - began)
        if log.isEnabledFor(logging.DEBUG):
            self._tell(lot, time.monotonic() - began)

    async def _lot(self, lot: transport.Lot) -> None:
        async with contextlib.AsyncExitStack() as locks:
            # In the order of the numbers: two that wait for each other's locks would wait for ever.
            for number in sorted({batch.partition for batch in lot.batches.values()}):
                await locks.enter_async_context(self.ownership.lock(number))
            lot.taken = True
            waiting = []
            for batch in lot.batches.values():
                logical = self.logical[batch.topic]
                self.metrics.batches.labels(logical).inc()
                owned = self.ownership.get(batch.partition)
                if owned is None or self.app.consumer.void(batch) or not await self._reviewed(owned):
                    self.metrics.stale_batches.labels(logical).inc()
                elif pieces := self._pieces(owned, batch):
                    waiting.append(pieces)
                    self.metrics.batch_records.observe(len(batch.records))
            while waiting:
                # The next piece of each partition number, in the order in which the batches came.
                turn: dict[int, deque[_Piece]] = {}
                for pieces in waiting:
                    turn.setdefault(pieces[0].owned.number, pieces)
                gone = await self._apply([pieces.popleft() for pieces in turn.values()])
                waiting = [pieces for pieces in waiting if pieces and pieces[0].owned not in gone]

    def _tell(self, lot: transport.Lot, seconds: float) -> None:
        """One line for each batch of a lot. ``seconds``: of all of them together."""
        for batch in lot.batches.values():
            number = batch.partition
            done = self._done.pop((number, batch.topic), Counter()) + self._done.pop(
                (number, None), Counter()
            )
            log.debug(
                "Batch applied" if done["commits"] else "Batch dropped",
                extra={
                    "topic": batch.topic,
                    "partition": number,
                    "first_offset": batch.records[0].offset,
                    "last_offset": batch.records[-1].offset,
                    "records": len(batch.records),
                    **{name: n for name, n in sorted(done.items()) if n},
                    "lot_seconds": round(seconds, 6),
                },
            )
        self._done.clear()

    # ---- the path

    def _pieces(self, owned: Owned, batch: transport.Batch) -> deque[_Piece]:
        """Decode a batch and cut it at clock records; each piece is one commit. None when the claim is gone, or
        all of it is applied already."""
        topic, logical = batch.topic, self.logical[batch.topic]
        records = batch.records
        expected = owned.lease.offsets[topic]
        if batch.prev > expected:
            self.metrics.gaps.labels(logical).inc()
            self._drop(owned, "gap")
            return deque()
        if records[0].offset < batch.prev:
            raise LayoutRefused(
                f"{topic}/{batch.partition}: read up to offset {batch.prev}, then came {records[0].offset}: the log was "
                f"truncated or the topic created anew."
            )
        if records[0].offset < expected:
            # What was read again after a seek back and is applied already.
            records = [record for record in records if record.offset >= expected]
            if not records:
                return deque()
        self.metrics.records.labels(logical).inc(len(records))
        with self.metrics.stage("decode", len(records)):
            items = [self.codec.decode(record) for record in records]
        self.metrics.decoded.inc(len(items))
        self.metrics.left("decode", len(items), time.time())
        return deque(
            _Piece(owned, topic, records[first:last], items[first:last]) for first, last in self._cuts(items)
        )

    def _cuts(self, items: Sequence[Item]) -> list[tuple[int, int]]:
        """Where a batch is cut: under the record clock each clock record stands alone."""
        if not self._record_clock:
            return [(0, len(items))]
        cuts = []
        first = 0
        for i, item in enumerate(items):
            if isinstance(item, Tick):
                if first < i:
                    cuts.append((first, i))
                cuts.append((i, i + 1))
                first = i + 1
        if first < len(items):
            cuts.append((first, len(items)))
        return cuts

    async def _apply(self, pieces: Sequence[_Piece]) -> list[Owned]:
        """Apply pieces of different partition numbers; those of which the claim is gone."""
        gone: list[Owned] = []
        events = []
        for piece in pieces:
            if self._record_clock and isinstance(piece.items[0], Tick):
                if not await self._safely(piece.owned, self._move(piece.owned, piece.topic, piece.items[0])):
                    gone.append(piece.owned)
            else:
                events.append(piece)
        if events:
            try:
                with self.metrics.stage("apply", sum(len(piece.items) for piece in events)):
                    gone += await self._events(events)
            except Lost:
                gone += [piece.owned for piece in events]
            except StoreAway as error:
                for piece in events:
                    self._let_go(piece.owned, error)
                    gone.append(piece.owned)
        for piece in pieces:
            if piece.owned not in gone:
                piece.owned.last[piece.topic] = piece.records[-1].timestamp * 1000
        return gone

    async def _events(self, pieces: Sequence[_Piece]) -> list[Owned]:
        """Group by customer, load, apply, score, decide, commit; those of which the claim is gone."""
        gone: list[Owned] = []
        tasks = [
            _Task(piece, *self.core.touches(piece.items), self._others_read_to(piece.owned, piece.topic))
            for piece in pieces
        ]
        while tasks:
            versions = [task.piece.owned.lease.version for task in tasks]  # before the states are read
            loaded = await self._load([Wanted(task.piece.owned.lease, task.hot, task.cold) for task in tasks])
            begun: list[tuple[_Task, str, Any]] = []
            again = []
            for task, version, states in zip(tasks, versions, loaded, strict=True):
                if states is None:
                    gone.append(task.piece.owned)
                    continue
                one = self._begun(task, *states)
                if one is None:
                    again.append(task)
                else:
                    begun.append((task, version, one))
            with self.tracing.span("decide"):
                turns = self.core.turns([one for _, _, one in begun])
            ready, unlooked = [], []
            for (task, version, _), turn in zip(begun, turns, strict=True):
                if not turn.forgotten:
                    carried = Carried()
                elif task.waiting is not None:
                    carried = self.suppression.carried(turn, task.waiting)
                else:
                    unlooked.append((task, [each.key for each in turn.forgotten]))
                    continue
                proposal = Proposal(
                    task.piece.owned, version, task.piece.topic, task.next_offset, turn, carried
                )
                ready.append((task, proposal))
            outcomes = await self._commit([proposal for _, proposal in ready])
            for task, forgotten in unlooked:
                task.waiting = await self.suppression.waiting(task.piece.owned.number, forgotten)
                again.append(task)
            for (task, _), outcome in zip(ready, outcomes, strict=True):
                if outcome is Outcome.RACE:
                    again.append(task)
                elif outcome is None or not self._settled(task.piece.owned, outcome):
                    gone.append(task.piece.owned)
            tasks = again
        applied = sum(len(piece.items) for piece in pieces if piece.owned not in gone)
        self.metrics.left("apply", applied, time.time())
        return gone

    def _begun(self, task: _Task, hot: States, cold: States) -> Any:
        """The turn of a piece, begun; None where cold parts are needed that were not loaded."""
        piece = task.piece
        for key, state in hot.items():
            if state is None:
                self._check_partitioner(key, piece.owned.number, piece.topic)
        try:
            return self.core.begin(
                piece.owned.state,
                self.logical[piece.topic],
                piece.records,
                piece.items,
                hot,
                cold,
                task.read_to,
            )
        except Missing as missing:
            task.cold = [*task.cold, *missing.keys]
            return None
        except Poisoned as poisoned:
            raise _explained(poisoned) from poisoned

    async def _move(self, owned: Owned, topic: str, tick: Tick) -> bool:
        """A clock record: all that is due by then, oldest first, then the offset moves past it."""
        logical = self.logical[topic]
        until = self.core.tick(owned.state, logical, tick)
        if until is not None and not await self._fire(owned, until, (logical, tick)):
            return False
        while True:
            version = owned.lease.version
            turn = self.core.moved(owned.state, logical, tick)
            proposal = Proposal(owned, version, topic, tick.offset + 1, turn)
            (outcome,) = _all_of(await self._commit([proposal]))
            if outcome is not Outcome.RACE:
                break
        if until is not None:
            self.metrics.partition_clock.labels(str(owned.number)).set(until / 1e6)
        return self._settled(owned, outcome)

    async def _fire(self, owned: Owned, until: int, cause: tuple[str, Tick] | None) -> bool:
        """Fire all deadlines that have come by ``until``, in commits that leave the offset where it is."""
        lease = owned.lease
        before: list[tuple[bytes, int]] = []
        while True:
            version = lease.version
            due = await self.store.due(lease, until, DUE_LIMIT)
            if not due and (cause is not None or until < owned.state.clock + CLOCK_STEP):
                return True
            if due and due == before:
                raise RuntimeError(
                    f"partition {owned.number}: firing {self.settings.worker.shown(due[0][0])!r} changed nothing"
                )
            keys = [key for key, _ in due]
            ((hot, cold),) = _all_of(await self._load([Wanted(lease, keys, keys)]))
            complete = len(due) < DUE_LIMIT
            turn = self.core.timers(owned.state, due, complete, until, hot, cold, cause)
            (outcome,) = _all_of(await self._commit([Proposal(owned, version, None, None, turn)]))
            if outcome is Outcome.RACE:
                continue
            if outcome is not Outcome.COMMITTED:
                return self._settled(owned, outcome)
            if cause is None:
                late = _now() - LATE
                self.metrics.timers_late.inc(sum(instant < late for _, instant in due))
            if complete and _all_fired(keys, turn, until):
                return True
            before = due

    async def _load(self, wanted: Sequence[Wanted]) -> list[tuple[States, States] | None]:
        began = time.monotonic()
        with self.tracing.span("load"):
            loaded = await self.store.load_all(wanted)
        self.metrics.load_duration.observe(time.monotonic() - began)
        return loaded

    async def _commit(self, proposals: Sequence[Proposal]) -> list[Outcome | None]:
        """Write turns of different partition numbers; None where the lease was lost. No await lies between the
        core's reading of the states and the packing here."""
        steps = [
            Step(
                proposal.owned.lease,
                proposal.version,
                proposal.topic,
                proposal.next_offset,
                Write(
                    partition=proposal.turn.partition.pack(),
                    hot=proposal.turn.hot,
                    cold=proposal.turn.cold,
                    deadlines=proposal.turn.deadlines,
                    cleared=proposal.turn.cleared,
                    out=[pack(message) for message in (*proposal.turn.out, *proposal.carried.out)],
                    erased=proposal.turn.erased,
                    unsent=proposal.carried.unsent,
                    unparked=proposal.carried.unparked,
                    gone=proposal.carried.gone,
                ),
            )
            for proposal in proposals
        ]
        if not steps:
            return []
        began = time.monotonic()
        self.metrics.commits.inc(len(steps))
        with self.metrics.stage("commit", len(steps)), self.tracing.span("commit", commits=len(steps)):
            outcomes = await self.store.commit_all(steps)
        self.metrics.commit_duration.observe(time.monotonic() - began)
        tells = log.isEnabledFor(logging.DEBUG)
        for proposal, step, outcome in zip(proposals, steps, outcomes, strict=True):
            if outcome is Outcome.COMMITTED:
                self._committed(proposal.owned, proposal.turn)
                if tells:
                    self._done.setdefault((proposal.owned.number, proposal.topic), Counter()).update(
                        _done(proposal.turn)
                    )
                if step.write.out:
                    self._left_something.add(proposal.owned.number)
                    self._outgoing.set()
            elif outcome is Outcome.LOST:
                self.metrics.fenced.inc()
            elif outcome is not None:
                self.metrics.conflicts.inc()
        return outcomes

    def _committed(self, owned: Owned, turn: Turn) -> None:
        """A turn is in Redis."""
        owned.state = turn.partition
        if turn.forgotten:
            self.suppression.learn(turn)
        self.metrics.count(turn.counts)
        for what, n in turn.counts.items():
            if what[0] == "alert" and what[3] != "delivered":
                self._withheld[what[3]] += n
                self._withheld_at = time.monotonic()
        self.metrics.state_written.labels("hot").inc(sum(map(len, turn.hot.values())))
        self.metrics.state_written.labels("cold").inc(sum(map(len, turn.cold.values())))
        self.metrics.left("commit", 1, time.time())

    def _check_partitioner(self, key: bytes, number: int, topic: str) -> None:
        """Customers never seen before only: it is free for the others, and finds what it is meant to."""
        count = self.ownership.count
        right = transport.partition_of(key, count)
        if right != number:
            shown = self.settings.worker.shown(key)
            raise LayoutRefused(
                f"{topic}/{number}: customer {shown!r} belongs to partition {right} of {count} by Kafka's own "
                f"partitioner (murmur2). A producer uses another one (librdkafka: set partitioner=murmur2_random), or "
                f"partitions were added to the topic."
            )

    # ---- those who were forgotten, and those of whom nothing is heard

    async def _reviewed(self, owned: Owned) -> bool:
        """Before anything is done under a claim: Redis may have been restored to when somebody was still known, or
        the settings say otherwise how long who is silent is kept. False when the claim has gone on the way."""
        if owned.reviewed or self._engine is None:
            return True
        try:
            if self._read_at != self._claims:
                claims = self._claims
                await self.suppression.read_topic()
                self._read_at = claims
            missing = await self.suppression.missing(owned.number)
        except transport.LogAway as error:
            log.warning("Partition %d is let go: %s", owned.number, error)
            return self._drop(owned, "forgotten")
        except StoreAway as error:
            return self._let_go(owned, error)
        if (missing or owned.state.retention != str(self._engine.retention)) and not await self._safely(
            owned, self._review(owned, self._engine, missing)
        ):
            return False
        owned.reviewed = True
        return True

    async def _review(self, owned: Owned, engine: Engine, missing: Mapping[bytes, Entry]) -> bool:
        """Goes through all customers of a partition number, in commits that leave the offsets where they are."""
        cursor = 0
        while True:
            cursor, keys = await self.store.scanned(owned.lease, cursor)
            waiting = await self.suppression.waiting(owned.number, engine.returned(keys))
            version = owned.lease.version
            ((hot, cold),) = _all_of(await self._load([Wanted(owned.lease, keys, keys)]))
            turn = engine.review(owned.state, hot, cold)
            if turn.hot or turn.erased or turn.deadlines:
                carried = self.suppression.carried(turn, waiting)
                proposal = Proposal(owned, version, None, None, turn, carried)
                (outcome,) = _all_of(await self._commit([proposal]))
                if outcome is not Outcome.COMMITTED:
                    return self._settled(owned, outcome)
            if cursor == 0:
                break
        after = msgspec.structs.replace(owned.state, retention=str(engine.retention))
        proposal = Proposal(
            owned, owned.lease.version, None, None, Turn(after), self.suppression.written(missing)
        )
        (outcome,) = _all_of(await self._commit([proposal]))
        log.info("Partition %d was gone through: %d were forgotten before", owned.number, len(missing))
        return self._settled(owned, outcome)

    # ---- when it does not go straight

    async def _safely(self, owned: Owned, step: Coroutine[Any, Any, bool]) -> bool:
        """What a step returns; False when the claim has gone, for whatever reason, on the way."""
        try:
            return await step
        except Lost:
            return False
        except StoreAway as error:
            return self._let_go(owned, error)

    def _let_go(self, owned: Owned, error: StoreAway) -> bool:
        log.warning("Partition %d is let go until Redis answers: %s", owned.number, error)
        return self._drop(owned, "redis")

    def _settled(self, owned: Owned, outcome: Outcome) -> bool:
        """Whether a commit was made. After one that was refused: let go, and ask Redis again where it stands."""
        return outcome is Outcome.COMMITTED or self._drop(
            owned, "fenced" if outcome is Outcome.LOST else "conflict"
        )

    def _drop(self, owned: Owned, reason: str) -> bool:
        """Let go of a partition number; it is claimed again and read from where Redis stands."""
        if self.ownership.drop(owned):
            self.metrics.resyncs.labels(reason).inc()
            self.app.consumer.stop_reading(owned.number)
        self._dropped.set()
        return False

    async def _keep_claiming(self) -> None:
        """Claim again what was let go: Redis came back, or does not stand where we thought."""
        while not self._stopping:
            await _set_within(self._dropped, RECLAIM_PAUSE)
            if self.assigned() - set(self.ownership.numbers()) and not await self._reclaim():
                await asyncio.sleep(RECLAIM_PAUSE * (0.5 + random.random() / 2))

    async def _reclaim(self) -> bool:
        """Claim what is assigned and not ours; whether nothing is left. Not while the group rebalances."""
        consumer = self.app.consumer
        async with consumer.claiming:
            if self.app.rebalancing or self.app.should_stop:
                return False
            ours = set(self.ownership.numbers())
            self._claims += 1
            missing = {at for at in consumer.assigned() if at[1] not in ours}
            generation = self.app.consumer_generation_id
            try:
                starts = await self.ownership.claim(consumer, missing, generation)
            except (StoreAway, Lost, transport.LogAway) as error:
                log.warning("Nothing could be claimed again yet: %r", error)
                return False
            if self.app.rebalancing:
                self.ownership.release_all()
                return False
            await consumer.seek_exact(starts)
        self._claimed(generation)
        return len(starts) == len(missing)

    def _claimed(self, generation: int) -> None:
        if self._rebalancing_since is not None:
            self.metrics.rebalance_duration.observe(time.monotonic() - self._rebalancing_since)
            self._rebalancing_since = None
        numbers = self.ownership.numbers()
        self.metrics.claimed.set(len(numbers))
        log.info("Generation %d: claimed partitions %s", generation, ", ".join(map(str, numbers)) or "none")
        self._left_something.update(numbers)
        self._outgoing.set()

    # ---- silence

    async def _keep_sweeping(self) -> None:
        while not self._stopping:
            await asyncio.sleep(self.settings.worker.sweep_interval)
            await self._look_at_memory()
            if self._withheld and time.monotonic() - self._withheld_at > FLOOD_REST:
                self._sum_up()
            for number in self.ownership.numbers():
                if self.app.rebalancing:
                    break
                owned = self.ownership.get(number)
                if owned is None:
                    continue
                async with self.ownership.lock(number):
                    if self.ownership.get(number) is not owned:
                        continue
                    if not await self._safely(owned, self._measure(owned)):
                        continue
                    if not await self._reviewed(owned) or self._record_clock:
                        continue
                    began = time.monotonic()
                    await self._safely(owned, self._sweep(owned))
                self.metrics.sweep_duration.observe(time.monotonic() - began)

    def _sum_up(self) -> None:
        """One line for all that was withheld since the last one, when a flood has come to rest."""
        why = {
            "history": "from an archive or of before go-live",
            "silent": "known before the archive's end, the new policy or the new model",
            "ceiling": "above policy.deliver_per_minute",
            "paused": "paused (churnwatch alerts resume ends it)",
            "shadow": "in shadow mode (worker.shadow)",
        }
        counted = ", ".join(f"{n} {why[decision]}" for decision, n in sorted(self._withheld.items()))
        log.warning(
            "Alerts withheld and kept in %s: %s", self.settings.kafka.topic(topics.DECISIONS), counted
        )
        self._withheld.clear()

    async def _sweep(self, owned: Owned) -> bool:
        """Fire what is due by the partition's wall clock, and note when it first had read everything."""
        now = _now()
        views = self._views(owned)
        if not owned.state.live_since:
            at = clock.everything_read(views)
            if at is not None:
                turn = self.core.went_live(owned.state, at)
                proposal = Proposal(owned, owned.lease.version, None, None, turn)
                (outcome,) = _all_of(await self._commit([proposal]))
                if outcome is not Outcome.COMMITTED:
                    return outcome is Outcome.RACE or self._settled(owned, outcome)
        until = clock.clock(views, owned.fetches, now)
        if until <= 0:
            return True
        self.metrics.partition_clock.labels(str(owned.number)).set(until / 1e6)
        return await self._fire(owned, until, None)

    def _views(self, owned: Owned) -> dict[str, clock.View]:
        """How far each topic has been read; what was observed is remembered with the claim."""
        views = {}
        for topic in self.logical:
            applied = owned.lease.offsets[topic]
            seen = self.app.consumer.seen(topic, owned.number)
            last = owned.last.get(topic, 0)
            if seen is None:
                views[topic] = clock.View(applied, applied, False, 0, last)
            else:
                views[topic] = clock.View(applied, seen.popped, seen.at_end, seen.at, last)
        grace = round(self.settings.worker.silence_grace * clock.SECOND)
        owned.fetches = owned.fetches.after(views, grace)
        return views

    def _others_read_to(self, owned: Owned, topic: str) -> int:
        if self._record_clock:
            return 0
        return clock.others_read_to(self._views(owned), topic, owned.fetches, _now())

    async def _measure(self, owned: Owned) -> bool:
        """What only a look from outside the path tells: lag, what waits to leave, feeds that fell silent,
        and a Redis that was wiped or restored while nothing arrived that would have found out."""
        number = str(owned.number)
        now = _now()
        reference = owned.state.clock if self._record_clock else now
        glance = await self.store.glance(owned.lease, reference)
        if glance.version != owned.lease.version:
            return self._drop(owned, "restored")
        if not owned.caught_up:
            owned.caught_up = clock.caught_up(self._views(owned), now)
        self.metrics.outbox_depth.labels(number).set(glance.waiting)
        age = max(0, now - glance.waiting_since) if glance.waiting_since else 0
        self.metrics.outbox_age.labels(number).set(age / 1e6)
        self.metrics.timers.labels(number).set(glance.timers)
        self.metrics.timers_due.labels(number).set(glance.due)
        overdue = max(0, reference - glance.first_due) if glance.timers else 0
        self.metrics.timers_overdue.labels(number).set(overdue / 1e6)
        for logical, (events, usual) in self.core.traffic(owned.state, owned.state.clock).items():
            self.metrics.feed_window.labels(logical, number).set(events)
            self.metrics.feed_usual.labels(logical, number).set(usual)
        silent = self.core.silent_feeds(owned.state, owned.state.clock)
        for logical in self.logical.values():
            was = self._silent.get((logical, owned.number), False)
            held = logical in silent
            if held != was:
                self._silent[logical, owned.number] = held
                log.log(
                    logging.WARNING if held else logging.INFO,
                    "%s/%d: traffic %s; looks at silent customers are %s",
                    logical,
                    owned.number,
                    "is far below what is usual" if held else "is back to what is usual",
                    "held" if held else "taken again",
                )
            self.metrics.feeds_silent.labels(logical, number).set(held)
        self._show_lag(owned)
        return True

    def _show_lag(self, owned: Owned) -> None:
        """How far behind a partition is."""
        number, now = str(owned.number), time.time()
        for topic, logical in self.logical.items():
            seen = self.app.consumer.seen(topic, owned.number)
            if seen is None:
                continue
            applied = owned.lease.offsets[topic]
            # The last offsets of a log may be transaction markers, which are never applied.
            caught_up = seen.at_end and seen.popped <= applied
            end = applied if caught_up else max(applied, seen.end)
            self.metrics.lag.labels(logical, number).set(end - applied)
            lag = owned.lags.setdefault(topic, Lag())
            behind = lag.seconds(applied, end, owned.last.get(topic, 0) / 1e6, now)
            self.metrics.lag_seconds.labels(logical, number).set(behind)

    async def _look_at_memory(self) -> None:
        """How full Redis is. Where it does not let us ask, nothing is said."""
        if time.monotonic() - self._memory_at < MEMORY_INTERVAL:
            return
        self._memory_at = time.monotonic()
        used, most = memory.fullest(await self.store.memory())
        self.metrics.redis_memory.set(used)
        self.metrics.redis_memory_limit.set(most)

    def _refresh(self) -> None:
        """What is said of what is held at the moment of a scrape."""
        owned = [found for n in self.ownership.numbers() if (found := self.ownership.get(n)) is not None]
        self.metrics.claimed.set(len(owned))
        population = together((one.state.tally, one.state.clock) for one in owned)
        self.metrics.show_population(population, 10.0**self.settings.shop.minor_units)
        for one in owned:
            self._show_lag(one)  # a sweep that waits for a lock does not look
        if self._engine is not None:
            model = self._engine.model
            self.metrics.model.info({"model": model.name, "version": model.version, "source": model.source})

    # ---- what leaves

    async def _keep_relaying(self) -> None:
        looked = began = 0.0
        while not self._stopping:
            await _set_within(self._outgoing, RELAY_INTERVAL)
            await asyncio.sleep(began + RELAY_PACE - time.monotonic())
            began = time.monotonic()
            self._outgoing.clear()
            numbers = self.ownership.numbers()
            if time.monotonic() < looked + RELAY_INTERVAL:
                # At a low rate nearly every commit leaves something: a look at all outboxes each time costs more
                # than what is carried.
                numbers = [number for number in numbers if number in self._left_something]
            else:
                looked = time.monotonic()
            self._left_something.clear()
            owned = [found for number in numbers if (found := self.ownership.get(number)) is not None]
            try:
                await self.relay.carry([one.lease for one in owned])
            except Lost:
                continue
            except Unrecoverable:
                raise
            except Exception as error:  # noqa: BLE001 - it stays in the outbox and is sent again
                log.warning("Messages wait in the outbox: %r", error)
                self._left_something.update(numbers)
                await asyncio.sleep(RELAY_INTERVAL * (0.5 + random.random() / 2))


async def _set_within(event: asyncio.Event, seconds: float) -> None:
    """Until an event is set, but not longer; it is cleared. (``wait_for`` may swallow a cancellation.)"""
    try:
        async with asyncio.timeout(seconds):
            await event.wait()
    except TimeoutError:
        pass
    event.clear()


def _done(turn: Turn) -> Counter[str]:
    """What a turn has come to, in the words of the log."""
    found = Counter({"commits": 1, "customers": len(turn.hot)})
    for what, n in turn.counts.items():
        name = {
            "event": "events",
            "refused": "dead_letters",
            "fired": "timers",
            "duplicate": "duplicates",
        }.get(what[0])
        if what[0] == "alert":
            name = "alerts" if what[3] == "delivered" else "withheld"
        if name is not None:
            found[name] += n
    return found


def _traces(lot: transport.Lot) -> list[str]:
    """The traces that the records of a lot belong to, as many as a span names."""
    found: dict[str, None] = {}
    for batch in lot.batches.values():
        for record in batch.records:
            trace = traceparent(record) if record.headers else None
            if trace is not None:
                found[trace] = None
                if len(found) >= LINKS:
                    return list(found)
    return list(found)


def _all_fired(keys: Sequence[bytes], turn: Turn, until: int) -> bool:
    """Whether nothing that was read is still due: then there is no need to look again."""
    cleared = {*turn.cleared, *turn.erased}
    return all(key in cleared or turn.deadlines.get(key, 0) > until for key in keys)


def _all_of(loaded: Sequence[T | None]) -> list[T]:
    """All that was asked for. Raises ``Lost`` where a lease was lost on the way."""
    found = [one for one in loaded if one is not None]
    if len(found) < len(loaded):
        raise Lost
    return found


def _now() -> int:
    return time.time_ns() // 1000


def _explained(poisoned: Poisoned) -> PoisonedStop:
    return PoisonedStop(
        f"Stopped before the batch was committed: {poisoned}. That many at once are hardly customers' mistakes: was a "
        f"producer or the schema changed? Nothing is lost; start again when it is repaired. If these records are to be "
        f"kept in dead-letters and passed over, start with "
        f"--accept-invalid-until {poisoned.topic}:{poisoned.partition}:{poisoned.offset}"
    )


# ---- the process


def use_uvloop() -> None:
    """Every event loop made from now on is uvloop's, Faust's threads included."""
    mode.loop.use("uvloop")


def run(settings: Settings, makers: Sequence[Callable[[Settings], Worker]] = (Worker,)) -> int:
    """Run a worker, or several members of different groups, until a signal ends them or one fails. Returns the
    exit code."""
    use_uvloop()
    gc.set_threshold(*GC_THRESHOLDS)
    with _Deadline() as deadline:
        return asyncio.run(_serve(settings, makers, deadline))


async def _serve(
    settings: Settings, makers: Sequence[Callable[[Settings], Worker]], deadline: _Deadline
) -> int:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    deadline.ask = lambda: loop.call_soon_threadsafe(stop.set)
    members = [make(settings) for make in makers]
    code = 0
    starts = [asyncio.create_task(member.start()) for member in members]
    starting = asyncio.gather(*starts)
    asked = asyncio.create_task(stop.wait())
    try:
        first: set[asyncio.Future[Any]] = {starting, asked}
        await asyncio.wait(first, return_when=asyncio.FIRST_COMPLETED)
        if not asked.done():
            starting.result()
            ends: set[asyncio.Future[Any]] = {asked, *(member.failed for member in members)}
            await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)
            for member in members:
                if member.failed.done():
                    raise member.failed.result()
    except Unrecoverable as error:
        log.critical("%s", error)
        code = error.code
    except Exception:
        log.exception("The worker failed")
        code = 1
    deadline.arm(code or EXIT_KILLED)
    for task in (*starts, asked):
        task.cancel()
    await asyncio.gather(*starts, asked, return_exceptions=True)
    await asyncio.gather(*(member.stop() for member in members))
    return code


class _Deadline:
    """Signals: the first asks to stop and ends the process after ten seconds, the second at once."""

    def __init__(self) -> None:
        self.ask: Callable[[], object] = lambda: None
        self._asked = False
        self._timer: threading.Timer | None = None
        self._handlers: dict[int, Any] = {}

    def __enter__(self) -> _Deadline:
        for number in (signal.SIGTERM, signal.SIGINT):
            self._handlers[number] = signal.signal(number, self._signalled)
        return self

    def __exit__(self, *_: object) -> None:
        if self._timer is not None:
            self._timer.cancel()
        for number, handler in self._handlers.items():
            signal.signal(number, handler)

    def arm(self, code: int = EXIT_KILLED) -> None:
        """End the process when stopping takes too long; what is atomic is atomic."""
        if self._timer is None:
            self._timer = threading.Timer(STOP_DEADLINE, _end, (code,))
            self._timer.daemon = True
            self._timer.start()

    def _signalled(self, _number: int, _frame: FrameType | None) -> None:
        if self._asked:
            os._exit(EXIT_INTERRUPTED)
        self._asked = True
        self.arm()
        self.ask()


def _end(code: int) -> None:
    sys.stderr.write("Stopping took too long (a server does not answer): ended\n")
    sys.stderr.flush()
    os._exit(code)
