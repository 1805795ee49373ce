"""Stretches of Kafka's logs, read to their ends without a group and without a trace."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import NamedTuple

from confluent_kafka import KafkaError, Message, TopicPartition
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn

from agents.commands.kafka import Broker
from agents.commands.shell import Shell


class Stretch(NamedTuple):
    """Offsets ``begin`` to ``end`` (exclusive) of a topic's (Kafka name) partition."""

    topic: str
    partition: int
    begin: int
    end: int


def stretches(broker: Broker, partitions: Iterable[tuple[str, int]]) -> list[Stretch]:
    """What each of these partitions (Kafka name, number) holds now. Raises Failure."""
    found = []
    with broker.explained(), broker.consumer() as consumer:
        for topic, number in partitions:
            begin, end = consumer.get_watermark_offsets(TopicPartition(topic, number), broker.patience)
            found.append(Stretch(topic, number, begin, end))
    return found


def scan(
    broker: Broker, wanted: Sequence[Stretch], tell: Callable[[int], None] = lambda _: None
) -> Iterator[Message]:
    """The records of these stretches; of each in order. ``tell`` hears how many offsets have been passed.

    Raises Failure when the broker falls silent.
    """
    ends = {(s.topic, s.partition): s.end for s in wanted if s.begin < s.end}
    at: dict[tuple[str | None, int | None], int] = {(s.topic, s.partition): s.begin for s in wanted}
    passed, begun = 0, sum(at.values())
    with broker.explained(), broker.consumer() as consumer:
        consumer.assign([TopicPartition(s.topic, s.partition, s.begin) for s in wanted if s.begin < s.end])
        heard = time.monotonic()
        while ends:
            for message in consumer.consume(2000, 0.2):
                heard = time.monotonic()
                error = message.error()
                place = message.topic() or "", message.partition() or 0
                if error is not None:
                    if error.code() == KafkaError._PARTITION_EOF:  # noqa: SLF001 -- its public name
                        ends.pop(place, None)
                    elif not error.retriable():
                        raise broker.failure(error)
                    continue
                offset, end = message.offset() or 0, ends.get(place)
                if end is None:
                    continue
                if offset < end:
                    yield message
                    at[place] = offset + 1
                if offset + 1 >= end:
                    del ends[place]
                    consumer.pause([TopicPartition(*place)])
            if sum(at.values()) - begun > passed:
                passed = sum(at.values()) - begun
                tell(passed)
            if time.monotonic() - heard > broker.patience + 20:
                raise broker.failure(None)


@contextmanager
def progress(call: Shell, what: str, wanted: Sequence[Stretch]) -> Iterator[Callable[[int], None]]:
    """A bar on a terminal, nothing elsewhere; on standard error."""
    if not call.err.is_terminal:
        yield lambda _: None
        return
    columns = (TextColumn("{task.description}"), BarColumn(), TaskProgressColumn(), TimeRemainingColumn())
    with Progress(*columns, console=call.err, transient=True) as bar:
        task = bar.add_task(what, total=sum(s.end - s.begin for s in wanted))
        yield lambda passed: bar.update(task, completed=passed)


def whole(broker: Broker, there: Mapping[str, int], topics: Iterable[str]) -> list[Stretch]:
    """All of these topics (Kafka names) that are there; ``there`` has their numbers of partitions."""
    return stretches(broker, [(topic, n) for topic in topics if topic in there for n in range(there[topic])])
