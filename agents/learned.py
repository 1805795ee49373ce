"""What was learned, for whoever only looks at it.

Workers decide by the topic ``models``, where a pin stands too. The trainer keeps a copy of its newest snapshot in
Redis, in the commit that publishes it, for whoever cannot ask Kafka.
"""

from __future__ import annotations

from typing import Final

import msgspec

from agents.commands.kafka import Broker
from agents.commands.scan import scan, whole
from agents.settings import Settings
from agents.store import SNAPSHOT, Store, connect, trainer_of
from features.customer import FEATURES
from models.snapshot import Book, Known, Snapshot
from streams.topics import MODELS

PATIENCE: Final = 2.0
"""Seconds until Kafka is called away: Redis may tell, too."""


class Models:
    """The topic ``models``, read on from where the last look ended."""

    def __init__(self, settings: Settings, patience: float = PATIENCE) -> None:
        self._settings = settings
        self._broker = Broker(settings.kafka)
        self._broker.patience = min(patience, self._broker.patience)
        self._begin()

    def _begin(self) -> None:
        self._book = Book(self._settings.policy.horizon_days, FEATURES)
        self._read: dict[int, int] = {}

    def look(self) -> Known:
        """What there is now that these settings can use. Raises :class:`Failure`."""
        broker, read = self._broker, self._read
        parts = whole(broker, broker.partitions(), [self._settings.kafka.topic(MODELS)])
        if any(part.end < read.get(part.partition, 0) for part in parts):  # it was made anew
            self._begin()
            read = self._read
        fresh = [part._replace(begin=max(part.begin, read.get(part.partition, 0))) for part in parts]
        for message in scan(broker, fresh):
            self._book.take(message.key(), message.value())
        read.update((part.partition, part.end) for part in parts)
        return self._book.known()


async def kept(settings: Settings, patience: float = PATIENCE) -> Snapshot | None:
    """The trainer's newest snapshot by Redis, if there is one that these settings can use. Raises what the store
    raises."""
    redis = msgspec.structs.replace(
        settings.redis, timeout=min(settings.redis.timeout, patience), patience=patience
    )
    store = Store(connect(redis), trainer_of(settings.application), patience)
    try:
        _, found = await store.customer(0, SNAPSHOT)
    finally:
        await store.close()
    book = Book(settings.policy.horizon_days, FEATURES)
    if found is not None:
        book.take(None, found)
    return book.known().newest()
