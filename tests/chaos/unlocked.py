"""A worker without the lock of a partition number, whose topics are read side by side.

Run as ``python -m tests.chaos.unlocked``; what is left to keep states exact is the compare-and-set.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import sys
from typing import Any

from agents import transport, worker
from agents.ownership import Ownership
from agents.settings import Settings


def unlocked(_self: Ownership, _number: int) -> contextlib.nullcontext[None]:
    """Instead of the lock."""
    return contextlib.nullcontext()


async def side_by_side(app: transport.App, stream: Any) -> None:
    """Instead of one batch after the other: each topic has a task of its own."""
    lanes: dict[str, asyncio.Queue[transport.Lot]] = {}
    tasks: set[asyncio.Task[None]] = set()

    async def lane(queue: asyncio.Queue[transport.Lot]) -> None:
        while True:
            try:
                await app.owner.lot(await queue.get())
            except Exception as error:  # noqa: BLE001 - as the worker's own loop does
                await app.crash(error)
                return

    async for event in stream.events():
        lot: transport.Lot = event.value
        lot.taken = True
        for tp, batch in lot.batches.items():
            if batch.topic not in lanes:
                lanes[batch.topic] = asyncio.Queue(16)
                tasks.add(asyncio.create_task(lane(lanes[batch.topic])))
            await lanes[batch.topic].put(transport.Lot(tp, batch))


if __name__ == "__main__":
    Ownership.lock = unlocked  # type: ignore[method-assign,assignment]
    transport.App._read = side_by_side  # type: ignore[method-assign,assignment]
    sys.exit(worker.run(Settings.load(None, os.environ)))
