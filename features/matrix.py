"""The score's inputs for many customers at once: one contiguous row per input."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from features.customer import RECENT_DAYS, Customer
from features.shop import DAY, HOUR

Floats = NDArray[np.float64]


class Inputs(NamedTuple):
    """One value per customer and instant.

    - ``recency``: days since the last purchase; ``repeats``: purchases after the first.
    - ``gaps``, ``gap_mean``, ``gap_variance``: the rhythm (logarithm of days between purchase days).
    - ``browsing``: views and searches, decayed with a half-life of 30 days, since the last purchase
      or not.
    - ``open_complaints``, ``overdue_complaints``: counts; ``recent_complaint``: 1 if one ended within
      30 days; ``satisfaction``: newest survey answer as a share of its scale, 1 before the first;
      ``said_lost``: 1 if the customer was said to be lost after the last purchase.
    """

    recency: Floats
    repeats: Floats
    gaps: Floats
    gap_mean: Floats
    gap_variance: Floats
    browsing: Floats
    open_complaints: Floats
    overdue_complaints: Floats
    recent_complaint: Floats
    satisfaction: Floats
    said_lost: Floats


_BROWSING = np.log(2.0) / (30 * DAY)


def inputs(customers: Sequence[Customer], at: Sequence[int], overdue_hours: float) -> Inputs:
    """The inputs of each customer at its instant (microseconds). A row of one customer is the same
    whatever stands beside it."""
    overdue = overdue_hours * HOUR
    raw = np.array(
        [
            (
                instant - c.last_purchase,
                c.orders - 1,
                c.rhythm.now.gaps,
                c.rhythm.now.mean,
                c.rhythm.now.variance,
                c.browsed[1],
                instant - c.last_browse,
                len(c.open_since),
                sum(1 for opened in c.open_since if instant - opened >= overdue) if c.open_since else 0,
                c.closed_at and instant - c.closed_at < RECENT_DAYS * DAY,
                c.satisfaction if c.satisfaction >= 0 else 1.0,
                c.lost_at > c.last_purchase,
            )
            for c, instant in zip(customers, at, strict=True)
        ],
        dtype=np.float64,
    ).T.copy()
    return Inputs(
        recency=np.maximum(raw[0], 0.0) / DAY,
        repeats=np.maximum(raw[1], 0.0),
        gaps=raw[2],
        gap_mean=raw[3],
        gap_variance=raw[4],
        browsing=raw[5] * np.exp(-_BROWSING * np.maximum(raw[6], 0.0)),
        open_complaints=raw[7],
        overdue_complaints=raw[8],
        recent_complaint=raw[9],
        satisfaction=raw[10],
        said_lost=raw[11],
    )
