"""Records that Kafka threw away before they were applied: what is lost, in words, and going on without them.

Nothing goes on over such a gap by itself: a worker refuses, and only ``churnwatch accept-loss`` moves the offset. What
was given up stays written down with the partition, for ``status`` and ``doctor``.
"""

from __future__ import annotations

import importlib.resources
import secrets
import time
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from agents.findings import counted
from agents.store import Store
from streams.events import rfc3339

Micros = int
PREFIX = b"lost:"
"""Of the fields of a partition's meta key that say what was given up: ``lost:<topic>:<first>``."""


class Loss(NamedTuple):
    """Records of one topic (Kafka's name) and partition, ``first`` to the one before ``kept``, the first that Kafka
    still has. ``clock``: up to when everything had been read (0: not known); ``since``: when the record at ``kept``
    was written (0: there is none, or it is not known)."""

    topic: str
    partition: int
    first: int
    kept: int
    clock: Micros = 0
    since: Micros = 0

    @property
    def records(self) -> int:
        """How many, at most: a compacted topic has gaps."""
        return self.kept - self.first

    def __str__(self) -> str:
        text = (
            f"{self.topic}/{self.partition}: offsets {self.first} to {self.kept - 1} "
            f"({counted(self.records, 'record')} expired unread)"
        )
        if self.clock:
            text += f", after {_second(self.clock)} on the partition's clock"
        if self.since:
            text += f"{' and' if self.clock else ','} before {_second(self.since)}, when the first that is kept was written"
        return text


class GivenUp(NamedTuple):
    """Records that somebody has decided to go on without, ``first`` to the one before ``kept``."""

    topic: str
    partition: int
    first: int
    kept: int
    at: Micros


def refusal(lost: Sequence[Loss]) -> str:
    """Why a worker does not go on, and what can be done."""
    many = len(lost) > 1
    return (
        f"{'; '.join(map(str, lost))}. Kafka threw {'these records' if many else 'them'} away before they were applied, and "
        f"no worker passes over them by itself. Restore a newer backup of Redis, if there is one; or go on without them, "
        f"which is written down: churnwatch accept-loss. And raise the topic's retention."
    )


def given_up(partition: int, meta: Mapping[bytes, bytes]) -> list[GivenUp]:
    """What a partition's meta key says was given up."""
    found = []
    for field, value in meta.items():
        if field.startswith(PREFIX):
            topic, _, first = field[len(PREFIX) :].decode().rpartition(":")
            kept, _, at = value.decode().partition(" ")
            found.append(GivenUp(topic, partition, int(first), int(kept), int(at)))
    return sorted(found)


async def give_up(store: Store, loss: Loss) -> bool:
    """Goes on without these records and writes it down, in one step; False when the offset is another by now."""
    script = store.redis.register_script((importlib.resources.files("agents") / "give_up.lua").read_text())
    field = PREFIX + f"{loss.topic}:{loss.first}".encode()
    value = f"{loss.kept} {time.time_ns() // 1000}"
    args = [loss.topic, loss.first, loss.kept, f"given-up.{secrets.token_hex(8)}", field, value]
    answer = await store.ask("give up", lambda: script(keys=store.keys(loss.partition)[:1], args=args))
    return bool(answer == b"OK")


def _second(at: Micros) -> str:
    return rfc3339(at // 1_000_000 * 1_000_000)
