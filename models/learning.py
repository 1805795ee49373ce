"""What an operator may set of learning."""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec
from msgspec import Meta

Days = Annotated[float, Meta(gt=0, le=3650)]


class Learning(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Labels, gate and snapshots; ``docs/learning.md`` tells what each is for.

    ``enabled``: snapshots are taken and their labels leave to ``examples``. ``activity``: what ends a silence.
    ``snapshot_days``: at most so many days between two snapshots of one customer that become examples;
    ``horizons``: further horizons in days that are learned beside ``policy.horizon_days``, which leads;
    ``gate``: labels of each outcome that must be there before a learned model may decide; ``publish_labels`` and
    ``publish_seconds``: a model snapshot leaves after so many labels, and so many seconds after the one before
    when there is anything new; ``keep``: snapshots that stay in ``models``, older ones are deleted.
    """

    enabled: bool = True
    activity: Literal["purchase", "purchase_or_use"] = "purchase"
    snapshot_days: Days = 21.0
    horizons: tuple[Days, ...] = ()
    gate: Annotated[int, Meta(ge=1, le=1_000_000)] = 200
    publish_labels: Annotated[int, Meta(ge=1, le=10_000_000)] = 2_000
    publish_seconds: Annotated[float, Meta(gt=0, le=86_400)] = 900.0
    keep: Annotated[int, Meta(ge=2, le=10_000)] = 200
