"""When what Kafka holds of somebody is gone: what each topic's own settings say, and what they leave open."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import Any, Final, NamedTuple

from confluent_kafka import KafkaException
from confluent_kafka.admin import (  # type: ignore[attr-defined]  # it does export them
    ConfigResource,
    ResourceType,
)

from agents.commands.kafka import Broker
from streams.events import rfc3339

SLACK: Final = 15 * 60_000
"""Milliseconds within which a broker gets to work: it looks every five minutes, deletes a minute later, and is given
twice the time."""
UNLIMITED: Final = 2**62 // 1000


class Expiry(NamedTuple):
    """``topic``: Kafka's name. ``by``: the instant (microseconds) by which everything that is there now, or was there
    before a null value, is gone; None where nothing says so. ``why``: how that follows."""

    topic: str
    compacted: bool
    by: int | None
    why: str

    def as_dict(self) -> dict[str, Any]:
        """For ``--json``."""
        found: dict[str, Any] = {"topic": self.topic, "how": "compaction" if self.compacted else "retention"}
        if self.by is not None:
            found["by"] = rfc3339(self.by)
        return {**found, "why": self.why}


def expiries(broker: Broker, names: Sequence[str]) -> list[Expiry]:
    """Of topics that are there, in their order."""
    resources = [ConfigResource(ResourceType.TOPIC, name) for name in names]
    if not resources:
        return []
    admin = broker.admin()  # its answers die with it
    futures = admin.describe_configs(resources, request_timeout=broker.patience)
    found = []
    for resource, future in futures.items():
        try:
            entries = future.result(broker.patience + 5)
        except (KafkaException, TimeoutError) as error:
            said = error.args[0].str() if isinstance(error, KafkaException) else "no answer came in time"
            why = f"its settings cannot be read ({said})"
            found.append(Expiry(resource.name, False, None, why))
        else:
            found.append(expiry(resource.name, {name: entry.value or "" for name, entry in entries.items()}))
    order = {name: place for place, name in enumerate(names)}
    return sorted(found, key=lambda each: order[each.topic])


def expiry(topic: str, config: Mapping[str, str], now: int | None = None) -> Expiry:
    """What a topic's settings say. ``now``: milliseconds since the epoch."""
    now = round(time.time() * 1000) if now is None else now

    def number(name: str, otherwise: int = -1) -> int:
        try:
            return int(config.get(name, ""))
        except ValueError:
            return otherwise

    segment = number("segment.ms", UNLIMITED)
    if "delete" in config.get("cleanup.policy", "delete"):
        keep = number("retention.ms")
        if not 0 <= keep < UNLIMITED or segment >= UNLIMITED:
            return Expiry(
                topic,
                False,
                None,
                "retention.ms is unlimited: it stays until that is changed or the topic deleted",
            )
        why = f"retention.ms {_span(keep)}, counted from when its segment closes (segment.ms {_span(segment)} at most)"
        return Expiry(topic, False, (now + keep + segment + SLACK) * 1000, why)
    lag = number("max.compaction.lag.ms", UNLIMITED)
    if lag >= UNLIMITED:
        why = "Kafka compacts when enough is out of date: max.compaction.lag.ms is unlimited, so nothing says when"
        return Expiry(topic, True, None, why)
    # What is in the newest segment is compacted only when that has closed, which this setting sees to as well.
    why = f"max.compaction.lag.ms {_span(lag)}: by then Kafka has compacted what a null value has replaced"
    return Expiry(topic, True, (now + 2 * lag + SLACK) * 1000, why)


def _span(milliseconds: int) -> str:
    for unit, size in (("days", 86_400_000), ("hours", 3_600_000), ("minutes", 60_000), ("seconds", 1000)):
        if milliseconds >= 2 * size or (milliseconds and milliseconds % size == 0):
            return f"{milliseconds / size:g} {unit if milliseconds != size else unit[:-1]}"
    return f"{milliseconds} ms"
