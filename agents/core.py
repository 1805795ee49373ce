"""The core of an application, made from its settings: the same for the worker and for whoever looks at its state."""

from __future__ import annotations

from agents.language import spoken
from agents.settings import Settings
from alerts.engine import ClockMode, Engine


def engine_of(settings: Settings, clock: ClockMode | None = None) -> Engine:
    """The engine. ``clock``: that of a stored layout, where it is not the one of the settings."""
    return Engine(
        settings.application,
        settings.kafka.inputs,
        clock or settings.clock.mode,
        settings.shop,
        settings.policy,
        settings.feeds,
        settings.prior,
        accepted(settings),
        settings.learning,
        spoken(settings.shop),
    )


def accepted(settings: Settings) -> dict[tuple[str, int], int]:
    """Up to which offset an operator accepts invalid records, by (logical topic, partition)."""
    found: dict[tuple[str, int], int] = {}
    for text in settings.worker.accept_invalid_until:
        topic, partition, offset = text.rsplit(":", 2)
        at = topic.removeprefix(settings.kafka.prefix), int(partition)
        found[at] = max(int(offset), found.get(at, -1))
    return found
