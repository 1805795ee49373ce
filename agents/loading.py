"""A shop's archive into an empty application: replayed in memory, then loaded as a whole.

The archive goes through the same engine as live events do, on the record clock, with customers sharded as Kafka's
partitioner shards them, everything marked as history. What comes of it (states, deadlines, ledgers, what the
trainer has learned) is written as workers and trainer would have written it, with offsets at the ends of the logs:
what is in Kafka already counts as part of the archive. Until all of it is there, the stored layout says that an
import is under way, and no worker begins.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Mapping
from typing import Final, NamedTuple

import msgspec

from agents.backtest.replay import Replay
from agents.core import engine_of, usable
from agents.files import Entry
from agents.ownership import IMPORTING
from agents.send import Route
from agents.settings import Settings
from agents.store import Claimed, Layout, Lease, Outcome, Step, Store, Write, trainer_of
from agents.suppression import packed
from agents.trainer import Lessons
from agents.transport import partition_of
from alerts.forgotten import Forgotten
from alerts.forgotten import entry as entry_of
from alerts.partition import Partition
from features.shop import DAY
from models.snapshot import Known, Snapshot
from streams import topics
from streams.codec import Decoded
from streams.erasure import erasure_message
from streams.events import Forget
from streams.examples import decode_example
from streams.message import Message, pack

CHUNK: Final = 1_000
"""Customers in one commit."""
GENERATION: Final = 0
"""In which an import claims: Kafka's own begin with 1."""


class NotEmpty(Exception):
    """The application has a state already. ``keys``: some of those that hold it."""

    def __init__(self, keys: list[str]) -> None:
        super().__init__(f"{', '.join(keys)}")
        self.keys = keys


class Interrupted(Exception):
    """Somebody else has begun to write while the import was loading; what it had written is removed."""


class Archive(NamedTuple):
    """What an archive has become. ``replay`` holds states and deadlines; ``trainer`` and ``blocks`` are what the
    trainer has learned, ``snapshot`` the newest of it (None: too little for one); ``scores`` are the newest message
    of ``customer-scores`` of each customer; ``first`` and ``last``: instants of the first and last event."""

    replay: Replay
    trainer: Partition
    blocks: dict[bytes, bytes]
    snapshot: Snapshot | None
    models: list[Message]
    scores: dict[bytes, Message]
    first: int
    last: int


class Ends(NamedTuple):
    """The next offset to be written, by Kafka topic and partition; ``examples``: the number of its partitions."""

    inputs: Mapping[tuple[str, int], int]
    examples: Mapping[tuple[str, int], int]


def replayed(
    settings: Settings,
    entries: Iterable[Entry],
    partitions: int,
    tell: Callable[[int, int], None] = lambda _day, _events: None,
    forgotten: Forgotten | None = None,
) -> Archive:
    """The archive in memory, without those who are ``forgotten``. ``entries`` come in the order of time, marked as history; ``tell`` hears of the day
    and the events so far. Raises what reading the entries raises, and ValueError where there is none."""
    route = Route(dict.fromkeys(settings.kafka.inputs, partitions))
    engine = engine_of(settings, "record", forgotten)
    replay = Replay(
        engine,
        partitions,
        lambda key: partition_of(key, partitions),
        lambda kind: route.topic(kind) or settings.kafka.inputs[0],
    )
    lessons = Lessons(settings)
    learning = _Learning(settings, lessons)
    scores: dict[bytes, Message] = {}
    first = last = 0
    today: list[Decoded] = []
    day = 0

    def close(end: int) -> None:
        examples = []
        for message in replay.day(today, end * DAY, history=True).out:
            if message.topic == topics.EXAMPLES:
                examples.append(message)
            elif message.topic == topics.CUSTOMER_SCORES and message.key is not None:
                scores[message.key] = message
        if examples and learning.learn(examples):
            engine.adopt(usable(settings, learning.known()))
        tell(end - 1, replay.events)

    for entry in entries:
        item = entry.item
        if not isinstance(item, Decoded):
            continue
        if isinstance(item.event, Forget) and engine.forgotten is None:
            raise ValueError(
                f"line {entry.line} asks to forget a customer, for which privacy.key must be set, the same as of the workers"
            )
        if not first:
            first, day = item.at, item.at // DAY
        last = max(last, item.at)
        while item.at // DAY > day:
            close(day + 1)
            today = []
            day += 1
        today.append(item)
    if not first:
        raise ValueError("the archive holds no event")
    close(day + 1)
    snapshot = learning.end()
    return Archive(replay, learning.held, learning.blocks, snapshot, learning.models, scores, first, last)


class _Learning:
    """The trainer's own core, fed day by day."""

    def __init__(self, settings: Settings, lessons: Lessons) -> None:
        self._settings = settings
        self._lessons = lessons
        self.held = lessons.open(None, 0)
        self.blocks: dict[bytes, bytes] = {}
        self.models: list[Message] = []

    def learn(self, messages: list[Message]) -> bool:
        """Whether there is another snapshot since."""
        before = self._lessons.newest
        examples = [decode_example(message.value) for message in messages]
        turn = self._lessons.events(self.held, topics.EXAMPLES, (), examples, {}, {}, 0)
        self._keep(turn.partition, turn.cold, turn.out)
        return self._lessons.newest is not before

    def known(self) -> Known:
        newest = self._lessons.newest
        return Known(() if newest is None else (newest,))

    def end(self) -> Snapshot | None:
        """All that was learned, as one last snapshot."""
        if getattr(self.held, "unpublished", 0):
            turn = self._lessons.publish(self.held, {})
            self._keep(turn.partition, turn.cold, turn.out)
        return self._lessons.newest

    def _keep(self, held: Partition, blocks: Mapping[bytes, bytes], out: list[Message]) -> None:
        self.held = held
        self.blocks.update(blocks)
        # Only the newest is of use to anybody: no worker has read an earlier one.
        self.models = [message for message in out if message.value is not None][-1:] or self.models


# ---- into Redis


async def check_empty(store: Store, partitions: int) -> None:
    """Raises :class:`NotEmpty`."""
    trainer = trainer_of(store.application)
    keys = [f"{store.application}:layout", f"{trainer}:layout"]
    for number in range(partitions):
        keys += store.keys(number)
    keys += [f"{{{trainer}:p0}}:{part}" for part in ("meta", "hot", "cold", "due", "out")]
    there = [key for key in keys if await store.redis.exists(key)]
    if there:
        raise NotEmpty(there)


async def load(
    store: Store,
    trainer: Store,
    settings: Settings,
    archive: Archive,
    ends: Ends,
    publish: Callable[[], None] = lambda: None,
    tell: Callable[[int], None] = lambda _: None,
) -> None:
    """Writes all of it. ``trainer``: a store under the trainer's name; ``publish`` is called before workers may
    begin, to let the snapshot be known to them; ``tell`` hears of customers written.

    Raises :class:`NotEmpty`, :class:`Interrupted`, and what the store raises; then nothing stays.
    """
    held = archive.replay.held
    await check_empty(store, len(held))
    layout = f"{store.application}:layout"
    await store.redis.set(layout, msgspec.json.encode(Layout(len(held), IMPORTING)))
    try:
        for number in range(len(held)):
            await _load_partition(store, settings, archive, number, ends, tell)
        if archive.trainer.pack():  # else it has learned nothing
            await _load_trainer(trainer, settings, archive, ends)
        await asyncio.to_thread(publish)
    except BaseException:
        for number in range(len(held)):
            await store.forget(number, GENERATION)
        await trainer.forget(0, GENERATION)
        await store.redis.delete(layout)
        raise
    if archive.trainer.pack():
        await trainer.layout(Layout(len(ends.examples), "record"))
    await store.redis.set(layout, msgspec.json.encode(Layout(len(held), settings.clock.mode)))


async def _load_partition(
    store: Store, settings: Settings, archive: Archive, number: int, ends: Ends, tell: Callable[[int], None]
) -> None:
    held = archive.replay.held[number]
    offsets = {
        settings.kafka.topic(name): ends.inputs[settings.kafka.topic(name), number]
        for name in settings.kafka.inputs
    }
    partition = msgspec.structs.replace(
        held.partition,
        applied={
            name: end - 1 for name in settings.kafka.inputs if (end := offsets[settings.kafka.topic(name)])
        },
        # The wall clock knows no clock records, and goes live when it has read everything.
        ticks=held.partition.ticks if settings.clock.mode == "record" else {},
    )
    lease = await _claimed(store, number, offsets)
    # Of requests in the archive it is remembered who, and no place where they could be read again.
    erased = [
        each._replace(erasure=msgspec.structs.replace(each.erasure, offset=-1)) for each in held.forgotten
    ]
    if erased:
        gone = packed({each.digest: entry_of(each.erasure) for each in erased}, erased[0].erasure.secret)
        said = [pack(erasure_message(each.digest, each.erasure)) for each in erased]
        await _commit(store, lease, None, None, Write(partition=partition.pack(), gone=gone, out=said))
    customers = list(held.hot)
    for first in range(0, len(customers), CHUNK):
        some = customers[first : first + CHUNK]
        write = Write(
            partition=partition.pack(),
            hot={key: held.hot[key] for key in some},
            cold={key: held.cold[key] for key in some if key in held.cold},
            deadlines={key: held.due[key] for key in some if key in held.due},
            out=[pack(archive.scores[key]) for key in some if key in archive.scores],
        )
        await _commit(store, lease, None, None, write)
        tell(len(some))
    for topic, end in offsets.items():
        await _commit(store, lease, topic, end, Write(partition=partition.pack()))


async def _load_trainer(store: Store, settings: Settings, archive: Archive, ends: Ends) -> None:
    topic = settings.kafka.topic(topics.EXAMPLES)
    end = ends.examples[topic, 0]
    lease = await _claimed(store, 0, {topic: end})
    await _commit(store, lease, topic, end, Write(partition=archive.trainer.pack(), cold=archive.blocks))


async def _claimed(store: Store, number: int, offsets: Mapping[str, int]) -> Lease:
    answer = await store.claim(number, GENERATION)
    if not isinstance(answer, Claimed):
        raise Interrupted(f"partition {number} has been claimed by a worker")
    return Lease(number, GENERATION, answer.version, dict(offsets), set(offsets), answer.blob)


async def _commit(store: Store, lease: Lease, topic: str | None, end: int | None, write: Write) -> None:
    (outcome,) = await store.commit_all([Step(lease, lease.version, topic, end, write)])
    if outcome is not Outcome.COMMITTED:
        raise Interrupted(f"partition {lease.partition} has been claimed by a worker")
