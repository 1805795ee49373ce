"""The ledger of pending labels: snapshots of a customer that wait for what becomes of it.

A label is judged by the times of events, not by their arrival, and only once its horizon has passed:
churned means no activity in (at, at + H], or said to be lost in that span before any.
"""

from __future__ import annotations

from array import array

import msgspec

MOST = 8
"""Snapshots that may wait at once."""


class Pending(msgspec.Struct, array_like=True, frozen=True, gc=False):
    """``at``: instant of the snapshot; ``active``: of the earliest activity after it, ``lost``: the earliest at
    which the customer was said to be lost after it (0: none so far); ``inputs``: float32."""

    at: int
    active: int
    lost: int
    inputs: bytes

    def churned(self, horizon: int) -> bool:
        """The label for a horizon of so many microseconds that has passed."""
        until = self.at + horizon
        said = 0 < self.lost <= until and (not self.active or self.lost < self.active)
        return said or not 0 < self.active <= until


def waiting(pending: tuple[Pending, ...], horizons: tuple[int, ...], after: int) -> int:
    """The first instant later than ``after`` at which a label matures; 0 for none."""
    return min((p.at + h for p in pending for h in horizons if p.at + h > after), default=0)


def unpacked(raw: bytes) -> tuple[float, ...]:
    """The inputs of a snapshot."""
    values = array("f")
    values.frombytes(raw)
    return tuple(values)


def marked(pending: tuple[Pending, ...], at: int) -> tuple[Pending, ...]:
    """With activity at ``at``, in any order."""
    if not any(p.at < at and (not p.active or at < p.active) for p in pending):
        return pending
    return tuple(
        Pending(p.at, at, p.lost, p.inputs) if p.at < at and (not p.active or at < p.active) else p
        for p in pending
    )


def settled(pending: tuple[Pending, ...], at: int) -> tuple[Pending, ...]:
    """With the customer said to be lost at ``at``, in any order."""
    return tuple(
        Pending(p.at, p.active, at, p.inputs) if p.at < at and (not p.lost or at < p.lost) else p
        for p in pending
    )


def step(horizon: int, longest: int, most: int) -> int:
    """Microseconds between a customer's snapshots: at most ``most``, a whole part of the horizon, so that a label
    matures just when another snapshot is taken; further apart where more than ``MOST`` would wait for the
    ``longest`` horizon."""
    return max(horizon // -(-horizon // most), -(-longest // (MOST - 1)))


def following(after: int, stagger: int, step: int) -> int:
    """The first snapshot later than ``after`` on the clock of a customer: ``stagger``, which lies within one
    step, plus whole steps since the epoch."""
    return after + step - (after - stagger) % step
