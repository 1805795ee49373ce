"""What was learned before a run: snapshots of the champion, which the run's workers decide by as they take effect.

They lie in ``models`` when the workers start, as they do when a log is replayed; so what is decided is a function
of the log again, with other models at other times.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Sequence

from confluent_kafka import Producer
from msgspec.structs import replace

from agents.send import Outgoing
from agents.settings import Settings
from agents.transport import partition_of
from alerts.engine import FEATURES_VERSION
from models.snapshot import Known, Promotion, Snapshot, encode, known, named
from models.training import Trainer
from streams import topics
from streams.examples import decode_example
from tests.chaos.history import Record
from tests.chaos.reference import undisturbed

SNAPSHOTS = 6


def taught(settings: Settings, sent: Sequence[Outgoing], partitions: int) -> Known:
    """What is learned of a history, read as if it came by one topic: a snapshot after each part of its labels."""
    one = replace(settings, kafka=replace(settings.kafka, inputs=(topics.PURCHASES,)))
    name = one.kafka.topic(topics.PURCHASES)
    offsets: Counter[int] = Counter()
    records = []
    for each in sent:
        number = partition_of(each.key or b"", partitions) if each.partition is None else each.partition
        offset = offsets[number]
        offsets[number] += 1
        records.append(
            Record(name, number, offset, time.time_ns() // 1_000_000, each.key, each.value, each.headers)
        )
    held = undisturbed(one, records)
    examples = [
        decode_example(message.value)
        for part in held.values()
        for message in part.out
        if message.topic == topics.EXAMPLES
    ]
    examples.sort(key=lambda example: (example.due, example.partition, example.sequence))
    trainer = Trainer(settings.learning, settings.policy.horizon_days, settings.prior, FEATURES_VERSION)
    snapshots = []
    step = max(len(examples) // SNAPSHOTS, 1)
    for first in range(0, len(examples), step):
        trainer.learn(examples[first : first + step])
        snapshots.append(_deciding(trainer.snapshot()))
    assert len(snapshots) >= SNAPSHOTS, "too few labels mature for anything to be learned"
    return known(snapshots, None)


def _deciding(snapshot: Snapshot) -> Snapshot:
    """The same, where the champion decides: a short history has too few labels to promote it."""
    champion = Promotion(model="additive", since=snapshot.effective, why="a test")
    leading = replace(snapshot.leading, promoted=champion)
    return named(replace(snapshot, source="learned", horizons=(leading, *snapshot.horizons[1:])))


def publish(settings: Settings, what: Known) -> None:
    """Puts the snapshots where workers read them."""
    producer = Producer({**settings.kafka.librdkafka(), "log_level": 0})
    topic = settings.kafka.topic(topics.MODELS)
    for snapshot in what.snapshots:
        producer.produce(topic, encode(snapshot), snapshot.version.encode())
    assert producer.flush(30) == 0, "the broker did not take the snapshots"
