"""Taking one customer's letters out of ``dead-letters``, of which Kafka can only drop the beginning.

A partition that holds some is written anew: the letters of all others are sent to its end, as they are and with their
times, and when the brokers have acknowledged them everything up to the former end is dropped. Whoever is killed in
between has left the others' letters twice and lost none; to do it again does it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Final, NamedTuple

from confluent_kafka import KafkaError, KafkaException, Message, Producer, TopicPartition

from agents.commands.kafka import Broker, pairs
from agents.commands.scan import Stretch, scan, stretches
from agents.commands.shell import Code, Failure
from streams.erasure import is_about

ROUNDS: Final = 5
"""How often a partition is looked at again: another command may have sent a letter on while this one was reading."""


class Denied(Exception):
    """We may not write to the topic, or not delete records of it. Nothing was removed."""


class Purged(NamedTuple):
    """``removed``: letters of the customer; ``moved``: letters of others, which lie at other offsets now."""

    removed: int
    moved: int


def concerns(customer: str, message: Message) -> bool:
    """Whether a letter is of this customer."""
    return is_about(customer, message.key(), message.value(), pairs(message))


def theirs(
    broker: Broker, topic: str, partitions: Iterable[int], customer: str, tell: Callable[[int], None]
) -> dict[int, int]:
    """How many letters of the customer each partition holds, where there are any."""
    wanted = stretches(broker, [(topic, number) for number in partitions])
    found: dict[int, int] = {}
    for message in scan(broker, wanted, tell):
        if concerns(customer, message):
            number = message.partition() or 0
            found[number] = found.get(number, 0) + 1
    return found


def purge(broker: Broker, topic: str, partitions: Sequence[int], customer: str) -> Purged:
    """Removes the customer's letters from these partitions. Raises :class:`Denied`, :class:`Failure`."""
    removed = moved = 0
    # Whether we may, before anything is written.
    _drop(
        broker,
        [each._replace(end=each.begin) for each in stretches(broker, [(topic, n) for n in partitions])],
    )
    for _ in range(ROUNDS):
        mine = theirs(broker, topic, partitions, customer, lambda _: None)
        if not mine:
            return Purged(removed, moved)
        wholes = stretches(broker, [(topic, number) for number in mine])
        moved += _sent_on(broker, customer, wholes)
        _drop(broker, wholes)
        removed += sum(mine.values())
    raise Failure(
        Code.KAFKA,
        f"{topic} still holds letters of {customer!r}.",
        "Something goes on writing them, or another command moves them.",
        "Give this command again when it has ended.",
    )


def _sent_on(broker: Broker, customer: str, wholes: Sequence[Stretch]) -> int:
    """Sends the others' letters to the ends of their partitions; how many, when all are acknowledged."""
    failed: list[KafkaError] = []
    count = 0
    producer = Producer({**broker.config(), "enable.idempotence": True, "compression.type": "lz4"})

    def delivered(error: KafkaError | None, _: Message) -> None:
        if error is not None:
            failed.append(error)

    for message in scan(broker, wholes):
        if concerns(customer, message):
            continue
        while True:
            try:
                producer.produce(
                    message.topic() or "",
                    key=message.key(),
                    value=message.value(),
                    partition=message.partition() or 0,
                    headers=list(pairs(message)),
                    timestamp=message.timestamp()[1],
                    on_delivery=delivered,
                )
                break
            except BufferError:
                producer.poll(0.1)
            except KafkaException as error:
                raise broker.failure(error.args[0]) from error
        producer.poll(0)
        count += 1
    late = producer.flush(broker.patience + 20)
    if any(error.code() == KafkaError.TOPIC_AUTHORIZATION_FAILED for error in failed):
        raise Denied("the right to write to it")
    if late or failed:
        raise Failure(
            Code.KAFKA,
            "The letters of other customers could not be sent on, so none was removed.",
            failed[0].str() if failed else "The brokers did not acknowledge them in time.",
            "Give this command again when Kafka takes writes.",
        )
    return count


def _drop(broker: Broker, wholes: Sequence[Stretch]) -> None:
    """Drops everything up to the ends. Raises :class:`Failure`."""
    wanted = [TopicPartition(each.topic, each.partition, each.end) for each in wholes]
    admin = broker.admin()  # its answers die with it
    for future in admin.delete_records(wanted, request_timeout=broker.patience).values():
        try:
            future.result(broker.patience + 5)
        except KafkaException as error:
            if error.args[0].code() == KafkaError.TOPIC_AUTHORIZATION_FAILED:
                raise Denied("the right to delete records of it") from error
            raise broker.failure(error.args[0]) from error
        except TimeoutError as error:
            raise broker.failure(None) from error
