"""The trainer's shell: reads ``examples``, learns, and lets snapshots leave to ``models``.

It is a worker of another core, in a consumer group and under Redis keys of its own, so that all that makes a
worker exact holds for it too: what it has learned, how far it has read and what is to leave are one commit,
fenced by its claim; a kill at any line loses nothing; a Redis that was rolled back is read again from where it
stands. What is learned is in ``models.training``, which knows what it has learned already.

All examples travel on one partition, so one member of the group learns and any other stands by.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from agents import transport
from agents.failure import LayoutRefused
from agents.metrics import Metrics
from agents.ownership import Owned
from agents.settings import Settings
from agents.store import SNAPSHOT, Lost, Outcome, States, trainer_of
from agents.worker import OneByOne, Proposal, Worker
from alerts.engine import FEATURES_VERSION, Missing, Turn
from alerts.partition import Partition
from models.snapshot import Snapshot, encode
from models.training import Publication, Trainer, UnknownState, needed_blocks
from streams import topics
from streams.codec import Item, Record, Refused, Tick, dead_letter
from streams.examples import Example, UnknownExample, decode_example
from streams.message import Message

log = logging.getLogger(__name__)

# Examples learned in one commit: some ten milliseconds, for whoever shares the event loop.
BATCH = 250
# After a commit of fewer than that, so that a trickle of labels is not a commit each: a commit writes the weights
# whole. In seconds.
LINGER = 2.0


class Held(Partition, array_like=True, frozen=True, gc=False):
    """The trainer as of one commit, in the place of a partition: ``head`` is its packed state without the blocks,
    ``unpublished`` how many labels no snapshot has told of yet."""

    head: bytes = b""
    unpublished: int = 0

    def pack(self) -> bytes:
        """As it is stored."""
        return self.head


class Lessons(OneByOne):
    """What a worker asks of its core (:class:`agents.worker.Core`), answered by a trainer.

    The trainer lives on from turn to turn as long as each turn begins where the last one ended. After a commit
    that was refused, or a new claim, it is made anew from what is stored: the head, and the blocks that
    ``Missing`` asks for.
    """

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._trainer: Trainer | None = None
        self._last: Held | None = None
        self.newest: Snapshot | None = None

    # ---- what the worker asks

    def open(self, blob: bytes | None, number: int) -> Partition:
        """The state as stored, or none yet."""
        if blob is None:
            return Held(number=number)
        state = _state(blob)
        return Held(
            number=number, clock=state["effective"], live_since=1, head=blob, unpublished=state["unpublished"]
        )

    def touches(self, items: Sequence[Item]) -> tuple[list[bytes], list[bytes]]:  # noqa: ARG002
        """Nothing, but for what ``Missing`` asks for."""
        return [], []

    def events(
        self,
        partition: Partition,
        topic: str,
        records: Sequence[Record],  # noqa: ARG002
        items: Sequence[Any],
        hot: Mapping[bytes, bytes | None],  # noqa: ARG002
        cold: Mapping[bytes, bytes | None],
        read_to: int,  # noqa: ARG002
    ) -> Turn:
        """Learns consecutive examples. Raises ``Missing``."""
        trainer = self._of(partition, cold)
        refused = [item for item in items if isinstance(item, Refused)]
        out = [dead_letter(item, topic, "decode") for item in refused]
        lesson = trainer.learn(item for item in items if isinstance(item, Example))
        for told in lesson.told:
            log.log(logging.WARNING if told.kind == "drift" else logging.INFO, "%s", told.text)
        turn = self._turn(partition, trainer, out, lesson.published)
        turn.counts.update(("lesson", what) for what in lesson.what)
        turn.counts.update(("refused", item.reason) for item in refused)
        turn.counts.update(("promotion",) for told in lesson.told if told.kind == "promotion")
        turn.counts.update(("drift", told.what) for told in lesson.told if told.kind == "drift")
        return turn

    def publish(self, partition: Partition, cold: Mapping[bytes, bytes | None]) -> Turn:
        """A snapshot of all that was learned so far. Raises ``Missing``."""
        trainer = self._of(partition, cold)
        return self._turn(partition, trainer, [], [trainer.publish()])

    def recall(self, partition: Partition, cold: Mapping[bytes, bytes | None]) -> Snapshot:
        """What has been learned so far; nothing is published. Raises ``Missing``."""
        assert isinstance(partition, Held)  # ``open`` makes no other
        trainer = self._of(partition, cold)
        self._trainer, self._last = trainer, partition
        self.newest = trainer.snapshot()
        return self.newest

    def tick(self, partition: Partition, topic: str, tick: Tick) -> int | None:  # noqa: ARG002
        """No clock moves here."""
        return None

    def timers(
        self,
        partition: Partition,
        due: Sequence[tuple[bytes, int]],  # noqa: ARG002
        complete: bool,  # noqa: ARG002
        until: int,  # noqa: ARG002
        hot: Mapping[bytes, bytes | None],  # noqa: ARG002
        cold: Mapping[bytes, bytes | None],  # noqa: ARG002
        cause: tuple[str, Tick] | None,  # noqa: ARG002
    ) -> Turn:
        """Nothing is ever due."""
        return Turn(partition)

    def moved(self, partition: Partition, topic: str, tick: Tick) -> Turn:  # noqa: ARG002
        """A record that means nothing here."""
        return Turn(partition)

    def silent_feeds(self, partition: Partition, at: int) -> list[str]:  # noqa: ARG002
        """Examples come when they come."""
        return []

    def traffic(self, partition: Partition, at: int) -> dict[str, tuple[float, float]]:  # noqa: ARG002
        """Nothing is usual here."""
        return {}

    def went_live(self, partition: Partition, at: int) -> Turn:  # noqa: ARG002
        """It means nothing here."""
        return Turn(partition)

    # ---- the trainer

    def _of(self, partition: Partition, cold: Mapping[bytes, bytes | None]) -> Trainer:
        """The trainer as of a partition's state. From here on it may go on: it is ours again when the turn is
        committed."""
        assert isinstance(partition, Held)  # ``open`` makes no other
        trainer, last = self._trainer, self._last
        self._trainer = self._last = None
        if trainer is not None and last is partition:
            return trainer
        settings = self._settings
        trainer = Trainer(settings.learning, settings.policy.horizon_days, settings.prior, FEATURES_VERSION)
        if not partition.head:
            return trainer
        state = _state(partition.head)
        names = needed_blocks(state)
        blocks = {name: cold.get(name.encode()) for name in names}
        if missing := [name.encode() for name in names if name.encode() not in cold]:
            raise Missing(missing)
        try:
            same = trainer.restore(
                state, {name: block for name, block in blocks.items() if block is not None}
            )
        except (UnknownState, KeyError) as error:
            raise LayoutRefused(f"What the trainer has learned cannot be read: {error}") from error
        if not same:
            log.warning(
                "The inputs of examples have version %s now, before it was %s: learning begins anew",
                FEATURES_VERSION,
                state["features"],
            )
        return trainer

    def _turn(
        self, partition: Partition, trainer: Trainer, out: list[Message], published: Sequence[Publication]
    ) -> Turn:
        for publication in published:
            out += _messages(publication)
            self.newest = publication.snapshot
        unsaved = {name.encode(): block for name, block in trainer.unsaved().items()}
        if published:
            unsaved[SNAPSHOT] = encode(published[-1].snapshot)
        trainer.saved()
        held = Held(
            number=partition.number,
            clock=trainer.effective,
            live_since=1,
            head=_pack(trainer.state()),
            unpublished=trainer.unpublished,
        )
        self._trainer, self._last = trainer, held
        return Turn(held, cold=unsaved, out=out, counts=Counter({("snapshot",): len(published)}))


_pack = msgspec.msgpack.Encoder().encode
_unpack = msgspec.msgpack.Decoder(dict[str, Any]).decode


def _state(blob: bytes) -> dict[str, Any]:
    return _unpack(blob)


def _messages(publication: Publication) -> list[Message]:
    snapshot = publication.snapshot
    kind = ("content-type", b"application/json")
    news = Message(topics.MODELS, snapshot.version.encode(), encode(snapshot), (kind,))
    return [news, *(Message(topics.MODELS, version.encode(), None) for version in publication.deleted)]


class ExampleCodec:
    """Reads examples where a worker reads events."""

    def decode(self, record: Record) -> Example | Refused:
        """The example of a record; one that is none is refused."""
        try:
            return decode_example(record.value)
        except UnknownExample as error:
            return Refused(record.offset, "invalid", str(error), record)


class TrainerWorker(Worker):
    """The trainer as a member of its group, in the running event loop."""

    core: Lessons

    def __init__(
        self,
        settings: Settings,
        *,
        metrics: Metrics | None = None,
        serve_http: bool = True,
    ) -> None:
        core = Lessons(settings)
        super().__init__(
            settings_of_trainer(settings),
            metrics=metrics,
            core=core,
            codec=ExampleCodec(),
            serve_http=serve_http,
        )
        self._lessons = core
        self._published_at = time.monotonic()

    async def lot(self, lot: transport.Lot) -> None:
        """Learn what was read. When nothing more waits, let some gather for the next commit."""
        await super().lot(lot)
        read = sum(len(batch.records) for batch in lot.batches.values())
        if read < BATCH and not any(self._waits(topic, number) for topic, number in lot.batches):
            await asyncio.sleep(LINGER)

    def _waits(self, topic: str, number: int) -> bool:
        """Whether something was fetched that is not learned yet."""
        seen, applied = self.app.consumer.seen(topic, number), self.ownership.applied(topic, number)
        return seen is None or applied is None or seen.popped > applied

    async def _measure(self, owned: Owned) -> bool:
        """With the look from outside: whether a snapshot has fallen due while labels trickle in."""
        if not await super()._measure(owned):
            return False
        since = time.monotonic() - self._published_at
        cold: States = {}
        while isinstance(owned.state, Held):
            version = owned.lease.version
            try:
                if self._lessons.newest is None and owned.state.head:
                    self.metrics.show_snapshot(self._lessons.recall(owned.state, cold))
                if since < self.settings.learning.publish_seconds or not owned.state.unpublished:
                    return True
                turn = self._lessons.publish(owned.state, cold)
            except Missing as missing:
                _, cold = await self.store.load(owned.lease, [], missing.keys)
                continue
            (outcome,) = await self._commit([Proposal(owned, version, None, None, turn)])
            if outcome is None:
                raise Lost
            if outcome is not Outcome.COMMITTED and outcome is not Outcome.RACE:
                return self._settled(owned, outcome)
        return True

    def _committed(self, owned: Owned, turn: Turn) -> None:
        super()._committed(owned, turn)
        if turn.counts["snapshot",]:
            self._published_at = time.monotonic()
        if turn.counts["snapshot",] and self._lessons.newest is not None:
            self.metrics.show_snapshot(self._lessons.newest)


def settings_of_trainer(settings: Settings) -> Settings:
    """The same installation, under keys and in a group of the trainer's own."""
    replace = msgspec.structs.replace
    return replace(
        settings,
        application=trainer_of(settings.application),
        kafka=replace(settings.kafka, inputs=(topics.EXAMPLES,), group=settings.trainers_group),
        clock=replace(settings.clock, mode="record"),
        worker=replace(settings.worker, batch=min(settings.worker.batch, BATCH)),
    )
