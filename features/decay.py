"""Decayed counters: activity that fades with a half-life.

A counter holds the sum of 2^(-(ref - t_i) / half_life) over its events, where ``ref`` is the
newest of them. It takes events in any order and has a value at every later instant, so silence
changes it without an event.
"""

from __future__ import annotations

from math import exp, log

from features.shop import DAY

HALF_LIVES = (7, 30, 90)
"""Days after which an event counts half."""

_RATES = tuple(log(2) / (days * DAY) for days in HALF_LIVES)
Trio = tuple[float, float, float]
NONE: Trio = (0.0, 0.0, 0.0)


def fade(micros: int, half_life_days: float) -> float:
    """What one event is worth ``micros`` after it happened; 1 at once, never more."""
    return exp(-log(2) * micros / (half_life_days * DAY)) if micros > 0 else 1.0


def add(counters: Trio, ref: int, at: int) -> Trio:
    """The three counters, kept at ``ref``, after an event at ``at``; their new ref is the later one."""
    a, b, c = counters
    if at >= ref:
        dt = ref - at
        return a * exp(dt * _RATES[0]) + 1.0, b * exp(dt * _RATES[1]) + 1.0, c * exp(dt * _RATES[2]) + 1.0
    dt = at - ref
    return a + exp(dt * _RATES[0]), b + exp(dt * _RATES[1]), c + exp(dt * _RATES[2])


def value(counters: Trio, ref: int, at: int) -> Trio:
    """The counters at ``at``; an instant before ``ref`` reads as ``ref``."""
    dt = ref - at
    if dt >= 0:
        return counters
    a, b, c = counters
    return a * exp(dt * _RATES[0]), b * exp(dt * _RATES[1]), c * exp(dt * _RATES[2])
