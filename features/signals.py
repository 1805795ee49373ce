"""Signals: what few shops send beside purchases and browsing, kept small.

Decayed counters stand at the newest instant of their kind and take events in any order.
"""

from __future__ import annotations

import msgspec

from features.decay import fade


class Signals(msgspec.Struct, array_like=True, frozen=True, gc=False):
    """Instants are microseconds (0: never).

    - ``returns_90``: returns, decayed with a half-life of 90 days, at ``returned_at``.
    - ``empty_30``: searches without a result (30 days), at ``empty_at``.
    - ``carts_30``: items put into a cart (30 days), at ``carted_at``.
    - ``rating``: newest review as a share of five stars, the lower of two at one instant, -1 before the
      first; ``rated_at``: its instant.
    - ``bad_90``: complaints reopened, or closed without a resolution (90 days), at ``bad_at``.
    - ``competitor_at``: newest time at which the customer named a competitor.
    """

    returns_90: float = 0.0
    returned_at: int = 0
    empty_30: float = 0.0
    empty_at: int = 0
    carts_30: float = 0.0
    carted_at: int = 0
    rating: float = -1.0
    rated_at: int = 0
    bad_90: float = 0.0
    bad_at: int = 0
    competitor_at: int = 0


def one_more(counter: float, ref: int, at: int, half_life: float) -> tuple[float, int]:
    """The counter, kept at ``ref``, after an event at ``at``, and its new ref: the later of both."""
    if at >= ref:
        return counter * fade(at - ref, half_life) + 1.0, at
    return counter + fade(ref - at, half_life), ref
