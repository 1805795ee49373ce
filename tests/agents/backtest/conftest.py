"""A shop of purchases alone, small enough to be replayed in a second or two."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pytest

HEADER = "event_type,customer_id,ts,order_id,sku,category,quantity,amount,extra\n"
BEGIN = datetime(2025, 1, 1, 9, tzinfo=UTC)


def written(
    path: Path, customers: int = 130, days: int = 230, *, until: int | None = None, seed: int = 7
) -> Path:
    """Customers with a rhythm of their own, half of whom leave at some time, as CSV up to day ``until``."""
    dice = np.random.Generator(np.random.PCG64(seed))
    rows = []
    for number in range(customers):
        gap = float(dice.uniform(5, 25))
        at, order = float(dice.uniform(0, 60)), 0
        leaves = float(dice.uniform(40, 2 * days))
        while at < min(days, leaves):
            moment = BEGIN + timedelta(days=at)
            order += 1
            amount = round(float(dice.uniform(5, 50)), 2)
            rows.append(
                (
                    moment,
                    f"purchase,c{number},{moment:%Y-%m-%dT%H:%M:%SZ},o{number}-{order},,tea,1,{amount},\n",
                )
            )
            at += max(1.0, float(dice.gamma(3.0, gap / 3.0)))
    end = BEGIN + timedelta(days=days if until is None else until)
    path.write_text(HEADER + "".join(line for moment, line in sorted(rows) if moment < end))
    return path


@pytest.fixture(scope="session")
def orders(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return written(tmp_path_factory.mktemp("backtest") / "orders.csv")
