"""The core of an application, made from its settings: the same for the worker and for whoever looks at its state."""

from __future__ import annotations

import logging

from agents.language import spoken
from agents.settings import Settings
from alerts.engine import ClockMode, Engine, Usable
from alerts.forgotten import Forgotten, Retention
from features.shop import DAY
from models.deciding import deciding
from models.learned import UnknownModel
from models.snapshot import Known

log = logging.getLogger(__name__)


def engine_of(
    settings: Settings, clock: ClockMode | None = None, forgotten: Forgotten | None = None
) -> Engine:
    """The engine. ``clock``: that of a stored layout, where it is not the one of the settings; ``forgotten``: the list
    of those who were, where it has been read."""
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
        forgotten_of(settings) if forgotten is None else forgotten,
        retention_of(settings),
    )


def forgotten_of(settings: Settings) -> Forgotten | None:
    """The list of those who were forgotten, empty; None without the secret that it is made with."""
    secret = settings.privacy.key
    return None if secret is None else Forgotten(secret.reveal())


def retention_of(settings: Settings) -> Retention:
    """For how long nobody has to be heard of."""
    privacy = settings.privacy
    return Retention(
        round((privacy.keep_prospects_days or 0) * DAY), round((privacy.keep_lapsed_days or 0) * DAY)
    )


def usable(settings: Settings, known: Known) -> list[Usable]:
    """The models that may decide by the snapshots that are known: all of them, each from its own instant on, so that
    a replay decides by the same; or the one that is pinned. One that this release cannot score is passed over."""
    unit = 10.0**settings.shop.minor_units
    found = []
    for snapshot in (known.pinned,) if known.pinned else known.snapshots:
        try:
            model = deciding(snapshot, settings.prior, unit)
        except UnknownModel as error:
            log.warning("The model snapshot %s is passed over: %s", snapshot.version, error)
            continue
        found.append(Usable(0 if known.pinned else snapshot.effective, model))
    return found


def accepted(settings: Settings) -> dict[tuple[str, int], int]:
    """Up to which offset an operator accepts invalid records, by (logical topic, partition)."""
    found: dict[tuple[str, int], int] = {}
    for text in settings.worker.accept_invalid_until:
        topic, partition, offset = text.rsplit(":", 2)
        at = topic.removeprefix(settings.kafka.prefix), int(partition)
        found[at] = max(int(offset), found.get(at, -1))
    return found
