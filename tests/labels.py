"""Labels of a made-up shop, as workers write them: the truth is in what was bought, and in complaints."""

from __future__ import annotations

import math
import random
import struct

from alerts.engine import FEATURES_VERSION
from features.matrix import Inputs
from features.shop import DAY
from streams.examples import Example

START = 1_767_225_600_000_000
"""2026-01-01T00:00:00Z"""
PARTITIONS = 3
HORIZON = 7.0
"""Days; short, so that few labels are seen before the first of them has matured."""


def labels(
    n: int,
    *,
    seed: int = 1,
    first: int = 0,
    a_day: int = 100,
    horizon: float = HORIZON,
    complaint: float = 2.0,
    recency: float = 30.0,
    level: float = -1.0,
    value: float = 1.0,
) -> list[Example]:
    """``n`` labels from the ``first`` on, so many a day, in turn of ``PARTITIONS`` partitions. ``complaint``,
    ``level``: log-odds of churn; ``recency``: mean days of silence; ``value``: of orders, in
    usual ones."""
    dice = random.Random(seed)
    found = []
    for k in range(n):
        silent = dice.expovariate(1 / recency)
        gaps = dice.choice([0, 0, 1, 2, 5])
        complaints = float(dice.random() < 0.1)
        values = dict.fromkeys(Inputs._fields, 0.0)
        values |= {
            "recency": silent,
            "age": silent + gaps * 20.0,
            "repeats": float(gaps),
            "gaps": float(gaps),
            "gap_mean": 3.0 if gaps else 0.0,
            "bought_30": (1 + gaps) * math.exp(-silent / 43),
            "bought_90": (1 + gaps) * math.exp(-silent / 130),
            "order_value": value * dice.choice([1000.0, 2000.0, 5000.0]),
            "open_complaints": complaints,
            "satisfaction": 1.0,
        }
        odds = level + 0.04 * silent - 0.5 * gaps + complaint * complaints
        at = START + (first + k) * DAY // a_day
        found.append(
            Example(
                partition=(first + k) % PARTITIONS,
                sequence=(first + k) // PARTITIONS + 1,
                at=at,
                due=at + round(horizon * DAY),
                horizon_days=horizon,
                churned=dice.random() < 1 / (1 + math.exp(-odds)),
                inputs=tuple(_float32(value) for value in values.values()),
                features=FEATURES_VERSION,
            )
        )
    return found


def _float32(value: float) -> float:
    found: float = struct.unpack("<f", struct.pack("<f", value))[0]
    return found
