"""Kafka as commands see it: is it there, what topics has it, what do they hold."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, cast

from confluent_kafka import Consumer, KafkaError, KafkaException, Message, TopicPartition
from confluent_kafka.admin import (  # type: ignore[attr-defined]  # it does export them
    AdminClient,
    ClusterMetadata,
)

from agents import reach
from agents.commands.shell import Code, Failure
from agents.privileges import READING_GROUP, RIGHTS
from agents.settings import Kafka

PATIENCE = 10.0
"""Seconds until a broker that does not answer is called away."""
SLICE = 1.0
"""Seconds for one attempt: between two of them Ctrl-C is heard."""
DOUBT = 2.0
"""Seconds without an answer after which it is looked what is there; what waiting does not heal is said at once."""


DENIED = (
    KafkaError.TOPIC_AUTHORIZATION_FAILED,
    KafkaError.CLUSTER_AUTHORIZATION_FAILED,
    KafkaError.GROUP_AUTHORIZATION_FAILED,
)


class Broker:
    """One Kafka, asked by a command. Remembers what its clients complained of, to say it when they give up."""

    def __init__(self, kafka: Kafka) -> None:
        self.kafka = kafka
        self.patience = min(PATIENCE, kafka.request_timeout)
        self._complaints: list[KafkaError] = []
        self._advice: reach.Advice | None = None

    @property
    def name(self) -> str:
        """The addresses, as a person wrote them."""
        return ", ".join(self.kafka.brokers)

    def config(self) -> dict[str, Any]:
        """For a client whose complaints we explain ourselves."""
        return {**self.kafka.librdkafka(), "log_level": 0, "error_cb": self._complaints.append}

    def admin(self) -> AdminClient:
        """A client for topics."""
        return AdminClient(self.config())

    def partitions(self, *, touch: Iterable[str] = ()) -> dict[str, int]:
        """The number of partitions of every topic there is, by Kafka name.

        ``touch`` names topics to ask for one by one: some brokers make a topic when it is asked for.
        """
        admin = self.admin()
        for name in touch:
            self._metadata(admin, name)
        found = self._metadata(admin).topics
        return {name: len(topic.partitions) for name, topic in found.items() if topic.error is None}

    def has_admin(self) -> bool:
        """Whether topics can be created: the embedded broker names a controller that is not there."""
        metadata = self._metadata(self.admin())
        return metadata.controller_id in metadata.brokers

    def _metadata(self, admin: AdminClient, topic: str | None = None) -> ClusterMetadata:
        """What the brokers say of topics. Raises :class:`Failure`."""
        began = time.monotonic()
        doubted = False
        while True:
            slice_ = min(SLICE, self.patience)
            try:
                return (
                    admin.list_topics(timeout=slice_)
                    if topic is None
                    else admin.list_topics(topic, timeout=slice_)
                )
            except KafkaException as e:
                admin.poll(0)  # serves the complaints that are waiting
                error: KafkaError = e.args[0]
                waited = time.monotonic() - began
                if not doubted and (self._refused() or waited >= min(DOUBT, self.patience)):
                    doubted = True
                    self._advice = reach.kafka(self.kafka)
                healing = error.code() in {KafkaError._TRANSPORT, KafkaError._TIMED_OUT}  # noqa: SLF001 -- public names
                if not healing or waited + slice_ > self.patience or self._refused() or self._advice:
                    raise self.failure(error) from e

    def denied(self, why: str) -> Failure:
        """The failure of a user who lacks a right; ``why`` says which, as well as it is known."""
        return Failure(Code.KAFKA, f"Kafka ({self.name}) does not allow this {self.who}.", why, RIGHTS)

    @property
    def who(self) -> str:
        """Whom the brokers take us for, as well as we know."""
        return f"to the user {self.kafka.username}" if self.kafka.username else "to this user"

    def absent(self, name: str) -> bool:
        """Whether there is no topic of a name, of one that is not among those that Kafka lists for us.

        Raises :class:`Failure` when this user may not see it: Kafka does not list those.
        """
        if reach.hidden(self.kafka, [name]):
            raise self.denied(
                f"The topic {name}: this user may not see it (DESCRIBE, READ or WRITE is missing)."
            )
        return True

    def _refused(self) -> bool:
        """Whether a client was told what asking again does not change."""
        final = {KafkaError._AUTHENTICATION, KafkaError.SASL_AUTHENTICATION_FAILED, KafkaError._SSL}  # noqa: SLF001
        return any(complaint.code() in final for complaint in self._complaints)

    def inputs(self, logical: Iterable[str]) -> dict[str, int]:
        """The number of partitions of input topics by logical name.

        Raises :class:`Failure` when one is missing, or when they are not equal.
        """
        there = self.partitions()
        names = {name: self.kafka.topic(name) for name in logical}
        missing = [kafka for kafka in names.values() if kafka not in there]
        if missing and all(self.absent(kafka) for kafka in missing):
            raise Failure(
                Code.KAFKA,
                f"Kafka ({self.name}) has no topic {', '.join(missing)}.",
                "Topics are not made by themselves, so that all inputs get the same number of partitions.",
                "Run: churnwatch topics create. If they have a prefix, set --prefix; if not all are used, set kafka.inputs.",
            )
        found = {name: there[kafka] for name, kafka in names.items()}
        if len(set(found.values())) > 1:
            counts = ", ".join(f"{names[n]} has {c}" for n, c in found.items())
            raise Failure(
                Code.USAGE,
                "The input topics have different numbers of partitions.",
                f"{counts}. A customer would be in one partition here and in another there.",
                "Make them equal: see churnwatch topics create --help.",
            )
        return found

    @contextmanager
    def consumer(self, **more: Any) -> Iterator[Consumer]:
        """A consumer that belongs to no group and leaves no trace."""
        consumer = Consumer(
            {
                **self.config(),
                "group.id": READING_GROUP,
                "enable.auto.commit": False,
                "enable.auto.offset.store": False,
                "auto.offset.reset": "earliest",
                "enable.partition.eof": True,
                "fetch.queue.backoff.ms": 10,
                **more,
            }
        )
        try:
            yield consumer
        finally:
            consumer.close()

    def read(
        self, topic: str, *, follow: bool = False, tell: Callable[[str], None] = lambda _: None
    ) -> Iterator[Message]:
        """What a topic (Kafka name) holds, from its beginning to its present end, or on and on.

        ``tell`` hears once of an outage while it is followed. Raises :class:`Failure` when there is no such topic.
        """
        there = self.partitions()
        if topic not in there and self.absent(topic):
            raise Failure(
                Code.KAFKA,
                f"Kafka ({self.name}) has no topic {topic}.",
                "It is made by: churnwatch topics create.",
                "If topics have a prefix, set --prefix or kafka.prefix.",
            )
        with self.consumer() as consumer:
            consumer.assign([TopicPartition(topic, n, 0) for n in range(there[topic])])
            left = set(range(there[topic]))
            heard = time.monotonic()
            told = False
            self._complaints.clear()
            while left or follow:
                found = consumer.consume(1000, 0.2)
                away = any(c.code() == KafkaError._ALL_BROKERS_DOWN for c in self._complaints)  # noqa: SLF001
                if found:
                    told = False
                    self._complaints.clear()
                elif away and follow and not told:
                    told = True
                    tell(f"Kafka ({self.name}) does not answer any more. Waiting for it; Ctrl-C ends this.")
                for message in found:
                    heard = time.monotonic()
                    error = message.error()
                    if error is None:
                        yield message
                    elif error.code() == KafkaError._PARTITION_EOF:  # noqa: SLF001 -- its public name
                        left.discard(message.partition() or 0)
                    elif not error.retriable():
                        raise self.failure(error)
                if not follow and time.monotonic() - heard > self.patience + 20:
                    raise self.failure(None)

    @contextmanager
    def explained(self, poll: Callable[[float], Any] | None = None) -> Iterator[None]:
        """Turns what clients raise into a :class:`Failure` that says why."""
        try:
            yield
        except KafkaException as e:
            if poll is not None:
                poll(0)  # serves the complaints that are waiting
            error = e.args[0] if e.args and isinstance(e.args[0], KafkaError) else None
            raise self.failure(error) from e

    def failure(self, error: KafkaError | None) -> Failure:
        """The failure for an error, with the reason that a client gave before it, where it is a better one."""
        if self._advice is not None:
            what = self._advice.what or f"Kafka does not answer at {self.name}"
            return Failure(Code.KAFKA, f"{what}.", *self._advice[:2])
        codes: Mapping[int, KafkaError] = {c.code(): c for c in self._complaints}
        sasl = codes.get(KafkaError._AUTHENTICATION) or codes.get(KafkaError.SASL_AUTHENTICATION_FAILED)  # noqa: SLF001
        if sasl is not None:
            return Failure(
                Code.KAFKA,
                f"Kafka ({self.name}) does not let us in.",
                _said(sasl),
                "Check kafka.sasl, kafka.username and the password (kafka.password_file or CHURNWATCH_KAFKA__PASSWORD).",
            )
        tls = codes.get(KafkaError._SSL)  # noqa: SLF001
        if tls is not None and (advice := reach.kafka(self.kafka)) is not None:
            self._advice = advice
            return self.failure(error)
        if tls is not None:
            return Failure(
                Code.KAFKA,
                f"Kafka ({self.name}) and we do not agree on TLS.",
                _said(tls),
                "Check kafka.tls, kafka.ca and the host names in kafka.brokers.",
            )
        if error is not None and error.code() in DENIED:
            return self.denied(_said(error))
        resolve = codes.get(KafkaError._RESOLVE)  # noqa: SLF001
        why = _said(resolve or next(iter(self._complaints), None) or error)
        return Failure(
            Code.KAFKA,
            f"Kafka does not answer at {self.name}.",
            why,
            "Is it running there? Set --brokers, CHURNWATCH_KAFKA__BROKERS or kafka.brokers; a broker that wants TLS or "
            "a password says nothing to a client without (kafka.tls, kafka.sasl).",
        )


def _said(error: KafkaError | None) -> str:
    return "No answer came in time." if error is None else (error.str() or error.name())


def pairs(message: Message) -> list[tuple[str, bytes]]:
    """The headers, in their order."""
    found = cast("list[tuple[str, bytes | None]]", message.headers() or [])
    return [(name, value or b"") for name, value in found]


def headers(message: Message) -> dict[str, str]:
    """The headers as text, the last of each name."""
    return {name: value.decode(errors="replace") for name, value in pairs(message)}
