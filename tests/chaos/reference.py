"""The undisturbed run: the same core over the same log, in memory, with no server that could fail."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field

from agents.core import engine_of, usable
from agents.settings import Settings
from agents.worker import DUE_LIMIT
from alerts.engine import Engine, Missing, Turn
from alerts.partition import Partition
from models.snapshot import Known
from streams import topics
from streams.codec import Codec, Tick
from streams.message import Message
from tests.chaos.history import Record


@dataclass
class Held:
    """One partition number as Redis would hold it, and all that left."""

    state: Partition
    hot: dict[bytes, bytes] = field(default_factory=dict)
    cold: dict[bytes, bytes] = field(default_factory=dict)
    due: dict[bytes, int] = field(default_factory=dict)
    out: list[Message] = field(default_factory=list)
    sink: Callable[[Message], None] | None = None
    """Where messages go instead of being kept, when there are too many."""

    def take(self, turn: Turn) -> None:
        """What a commit does."""
        self.state = turn.partition
        for key in turn.erased:
            for kept in (self.hot, self.cold, self.due):
                kept.pop(key, None)
        self.hot.update(turn.hot)
        self.cold.update(turn.cold)
        for key in turn.cleared:
            self.due.pop(key, None)
        self.due.update(turn.deadlines)
        if self.sink is None:
            self.out += turn.out
        else:
            for message in turn.out:
                self.sink(message)


def codec_of(settings: Settings) -> Codec:
    """Decodes as the worker does."""
    kafka, shop = settings.kafka, settings.shop
    compacted = frozenset(kafka.topic(name) for name in kafka.inputs if name in topics.COMPACTED)
    return Codec(shop.currency, shop.minor_units, shop.rates, compacted)


def undisturbed(
    settings: Settings,
    records: Iterable[Record],
    batch: int = 500,
    models: Known | None = None,
    sink: Callable[[Message], None] | None = None,
) -> dict[int, Held]:
    """By partition number, what must be there after a log of one input topic on the record clock, with these
    snapshots in ``models`` from the beginning. Of the records, at most a batch of each partition is kept; with a
    ``sink`` no message is."""
    assert settings.clock.mode == "record"
    assert len(settings.kafka.inputs) == 1
    engine = engine_of(settings)
    engine.adopt(usable(settings, models or Known()))
    codec = codec_of(settings)
    topic = settings.kafka.inputs[0]
    held: dict[int, Held] = {}
    parts: dict[int, list[Record]] = {}
    for record in records:
        number = record.partition
        if number not in held:
            held[number] = Held(engine.open(None, number), sink=sink)
        part = parts.setdefault(number, [])
        part.append(record)
        if len(part) == batch:
            _apply(engine, codec, held[number], topic, part)
            part.clear()
    for number, part in parts.items():
        _apply(engine, codec, held[number], topic, part)
    return held


def _apply(engine: Engine, codec: Codec, here: Held, topic: str, records: Sequence[Record]) -> None:
    waiting: list[Record] = []
    for record in records:
        item = codec.decode(record)
        if isinstance(item, Tick):
            _events(engine, codec, here, topic, waiting)
            waiting = []
            _move(engine, here, topic, item)
        else:
            waiting.append(record)
    _events(engine, codec, here, topic, waiting)


def _events(engine: Engine, codec: Codec, here: Held, topic: str, records: Sequence[Record]) -> None:
    if not records:
        return
    items = [codec.decode(record) for record in records]
    hot_keys, cold_keys = engine.touches(items)
    while True:
        hot = {key: here.hot.get(key) for key in hot_keys}
        cold = {key: here.cold.get(key) for key in cold_keys}
        try:
            here.take(engine.events(here.state, topic, records, items, hot, cold, 0))
        except Missing as missing:
            cold_keys = [*cold_keys, *missing.keys]
        else:
            return


def _move(engine: Engine, here: Held, topic: str, tick: Tick) -> None:
    until = engine.tick(here.state, topic, tick)
    while until is not None:
        waiting = sorted((at, key) for key, at in here.due.items() if at <= until)
        if not waiting:
            break
        due = [(key, at) for at, key in waiting[:DUE_LIMIT]]
        hot = {key: here.hot.get(key) for key, _ in due}
        cold = {key: here.cold.get(key) for key, _ in due}
        complete = len(due) < DUE_LIMIT
        here.take(engine.timers(here.state, due, complete, until, hot, cold, (topic, tick)))
    here.take(engine.moved(here.state, topic, tick))
