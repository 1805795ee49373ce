"""``churnwatch topics create``: what Kafka must have before a worker can run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated

import typer
from confluent_kafka import KafkaError, KafkaException
from confluent_kafka.admin import (  # type: ignore[attr-defined]  # it does export them
    AdminClient,
    ConfigResource,
    NewTopic,
    ResourceType,
)

from agents.commands.kafka import Broker
from agents.commands.shell import Code, Failure, Shell, examples, shell
from agents.settings import Kafka
from streams.topics import COMPACTED, CUSTOMER_SCORES, CUSTOMERS, INTERNAL, OUTPUTS, SINGLE

DEFAULT_PARTITIONS = 6
OF_CUSTOMERS = frozenset({CUSTOMERS, CUSTOMER_SCORES})
"""Compacted topics that are keyed by customer."""
LAG = 7 * 86_400_000
"""Milliseconds after which Kafka has to compact them: it would otherwise wait until enough is out of date."""

EPILOG = examples(
    "churnwatch topics create                                   what is missing, with 6 partitions",
    "churnwatch topics create --partitions 24 --replication 3   for production: partitions bound the workers",
    "churnwatch --prefix shop1. topics create                   a set of its own for another shop",
    "churnwatch topics create --dry-run                         only say what would be done",
)


def create(
    context: typer.Context,
    partitions: Annotated[
        int | None,
        typer.Option(
            min=1,
            max=10_000,
            help=f"Of each input topic; the same as those that exist, else {DEFAULT_PARTITIONS}. Not easily changed later.",
            show_default=False,
        ),
    ] = None,
    replication: Annotated[
        int | None,
        typer.Option(
            min=1, max=32_767, help="Copies of each record; the broker's default.", show_default=False
        ),
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Change nothing.")] = False,
) -> None:
    """Create the topics that are missing; those that exist stay as they are.

    All input topics must have the same number of partitions: a customer's events
    meet in one partition number.
    """
    call = shell(context)
    kafka = call.settings.kafka
    broker = Broker(kafka)
    there = broker.partitions()
    inputs: dict[str, int] = {t: there[kafka.topic(t)] for t in kafka.inputs if kafka.topic(t) in there}
    count = _count(kafka, inputs, partitions)
    wanted = dict.fromkeys((*kafka.inputs, *OUTPUTS, *INTERNAL), count) | dict.fromkeys(sorted(SINGLE), 1)
    missing = {t: n for t, n in wanted.items() if kafka.topic(t) not in there}
    existing = [t for t in wanted if t not in missing]
    has_admin = broker.has_admin()
    if missing and not dry_run:
        if not has_admin:
            _touch(call, broker, list(missing), count)
            return
        _create(broker, missing, replication)
    verb = "would be created" if dry_run else "created"
    for topic, n in missing.items():
        compacted = ", compacted" if topic in COMPACTED else ""
        call.out.print(f"{kafka.topic(topic)}: {verb}, {n} partition{'s' * (n > 1)}{compacted}", markup=False)
    for topic in existing:
        call.out.print(f"{kafka.topic(topic)}: exists, {there[kafka.topic(topic)]} partitions", markup=False)
    wrong = _wrongly_kept(broker, existing) if has_admin else []
    if wrong:
        lines = "\n".join(
            f"  {kafka.topic(t)}: cleanup.policy is {is_}, must be {must}" for t, is_, must in wrong
        )
        raise Failure(
            Code.USAGE,
            "Topics that exist keep their records in another way than churnwatch needs.",
            lines,
            "Change it with Kafka's tools (kafka-configs --alter --add-config cleanup.policy=...): with compaction "
            "events of a customer vanish, without it the newest profile may.",
        )


def _count(kafka: Kafka, inputs: Mapping[str, int], partitions: int | None) -> int:
    """How many partitions input topics get. Raises :class:`Failure` where those that exist do not allow it."""
    counts = ", ".join(f"{kafka.topic(t)} has {n}" for t, n in inputs.items())
    if len(set(inputs.values())) > 1:
        raise Failure(
            Code.USAGE,
            "The input topics that exist have different numbers of partitions.",
            f"{counts}. A customer would be in one partition here and in another there. Nothing was created.",
            "Delete what is empty and create it again, or take another --prefix. Topics that hold events are moved "
            "into new ones, with producers and workers stopped.",
        )
    exist = next(iter(inputs.values()), None)
    if exist is not None and partitions is not None and exist != partitions:
        raise Failure(
            Code.USAGE,
            f"Input topics exist already, with {exist} partitions, not {partitions}.",
            f"{counts}. Nothing was created.",
            f"Leave --partitions away to create the missing ones with {exist}, or take another --prefix.",
        )
    return exist or partitions or DEFAULT_PARTITIONS


def _config(topic: str) -> dict[str, str]:
    """How a topic keeps its records. Of customers, what a null value has replaced goes within days."""
    if topic not in COMPACTED:
        return {"cleanup.policy": "delete"}
    lag = {"max.compaction.lag.ms": str(LAG)} if topic in OF_CUSTOMERS else {}
    return {"cleanup.policy": "compact", **lag}


def _create(broker: Broker, missing: Mapping[str, int], replication: int | None) -> None:
    """Creates topics. Raises :class:`Failure`."""
    admin = broker.admin()
    new = [
        NewTopic(
            broker.kafka.topic(topic),
            n,
            replication or -1,
            config=_config(topic),
        )
        for topic, n in missing.items()
    ]
    for name, future in admin.create_topics(new, request_timeout=broker.patience).items():
        try:
            future.result(broker.patience + 5)
        except KafkaException as e:
            error: KafkaError = e.args[0]
            if error.code() == KafkaError.TOPIC_ALREADY_EXISTS:
                continue  # somebody else was faster
            if error.code() in {KafkaError.INVALID_REPLICATION_FACTOR, KafkaError.INVALID_PARTITIONS}:
                raise Failure(
                    Code.USAGE,
                    f"Kafka does not create {name} so.",
                    error.str() or error.name(),
                    "Replication can be at most the number of brokers: set --replication.",
                ) from e
            admin.poll(0)
            raise broker.failure(error) from e


def _touch(call: Shell, broker: Broker, missing: Sequence[str], count: int) -> None:
    """Without an admin API: some brokers make a topic when one asks for it. Says what came of it."""
    kafka = broker.kafka
    there = broker.partitions(touch=[kafka.topic(t) for t in missing])
    call.err.print(
        f"Kafka ({broker.name}) has no admin API: topics were asked for, and it made them its own way, without "
        "compaction and with as many partitions as it likes.",
        markup=False,
    )
    for topic in missing:
        name = kafka.topic(topic)
        if name not in there:
            raise Failure(
                Code.KAFKA,
                f"{name} could not be created.",
                f"Kafka ({broker.name}) has no admin API and makes no topics by itself.",
                "Create it with the tools of that broker.",
            )
        call.out.print(f"{name}: created, {there[name]} partitions", markup=False)
    broker.inputs(kafka.inputs)
    if count != DEFAULT_PARTITIONS and any(there[kafka.topic(t)] != count for t in kafka.inputs):
        call.err.print(f"It does not have the {count} partitions that were asked for.", markup=False)


def _wrongly_kept(broker: Broker, existing: Sequence[str]) -> list[tuple[str, str, str]]:
    """Topics whose cleanup policy loses what must be kept: (topic, what it is, what it must be)."""
    admin: AdminClient = broker.admin()
    names = {broker.kafka.topic(t): t for t in existing}
    if not names:
        return []
    wrong = []
    resources = [ConfigResource(ResourceType.TOPIC, name) for name in names]
    for resource, future in admin.describe_configs(resources, request_timeout=broker.patience).items():
        try:
            policy = future.result(broker.patience + 5)["cleanup.policy"].value or ""
        except (KafkaException, KeyError):
            continue  # the right to read settings is not needed to run
        topic = names[resource.name]
        must = "compact" if topic in COMPACTED else "delete"
        if ("compact" in policy) != (must == "compact"):
            wrong.append((topic, policy, must))
    return wrong
