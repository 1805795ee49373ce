"""How fast a history is played: a clock that a person can stop, speed up and slow down."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable

from features.shop import DAY

WHOLE_IN = 60.0
"""Seconds in which a history is played unless asked otherwise."""
LEAST = 1.0
"""Days a second that it is played with at least."""
LEAD = 14.0
"""Days a second until there is something to see: nobody is missed on the first days."""
FASTEST = 256.0
"""Days a second beyond which it is as fast as it goes."""
SLOWEST = 1 / 16
_BEHIND = 0.25
_ASK_EVERY = 0.1


def comfortable(first: int, last: int) -> float:
    """Days a second that a person can follow."""
    return max((last - first) / DAY / WHOLE_IN, LEAST)


class Tempo:
    """A clock of simulated time (microseconds), shared by who plays and who presses keys.

    ``speed`` is in days a second; ``math.inf`` is as fast as it goes.
    """

    def __init__(self, speed: float = math.inf, now: Callable[[], float] = time.monotonic) -> None:
        self._speed = speed
        self._now = now
        self._paused = False
        self._at: float | None = None  # simulated time at _since; None before the first event
        self._since = 0.0
        self._then: float | None = None
        self._changed = threading.Condition()

    @property
    def speed(self) -> float:
        """Days a second, also while paused."""
        return self._speed

    @property
    def paused(self) -> bool:
        """Whether time stands still."""
        return self._paused

    def set(self, speed: float, then: float | None = None) -> None:
        """From now on; ``then`` is for when it is time to :meth:`settle`."""
        with self._changed:
            self._anchor(self._position())
            self._speed = speed
            self._then = then
            self._changed.notify_all()

    def settle(self) -> None:
        """The lead is over, unless somebody has chosen a speed since."""
        if self._then is not None:
            self.set(self._then)

    def pause(self) -> None:
        """Stands still, or goes on."""
        with self._changed:
            self._anchor(self._position())
            self._paused = not self._paused
            self._changed.notify_all()

    def faster(self) -> None:
        """Twice as fast."""
        doubled = self._speed * 2
        self.set(math.inf if doubled > FASTEST else doubled)

    def slower(self, measured: float) -> None:
        """Half as fast; ``measured`` is how fast it goes when it goes as fast as it can."""
        now = self._speed if self._speed < math.inf else min(measured, FASTEST)
        self.set(max(now / 2, SLOWEST))

    def wait(self, at: int, stopped: Callable[[], bool]) -> None:
        """Returns when simulated time has come to ``at``, or when it was ``stopped``.

        Whoever plays may be slower than the clock: then the clock waits for them and does not make up
        for it later.
        """
        with self._changed:
            if self._at is None:
                self._anchor(at)
            while not stopped():
                seconds = self._missing(at)
                if seconds <= 0:
                    if seconds < -_BEHIND:
                        self._anchor(at)
                    return
                self._changed.wait(min(seconds, _ASK_EVERY))

    def _missing(self, at: int) -> float:
        if self._paused:
            return math.inf
        if self._speed == math.inf:
            return -math.inf
        return (at - self._position()) / DAY / self._speed

    def _position(self) -> float:
        if self._at is None:
            return 0.0
        if self._paused or self._speed == math.inf:
            return self._at
        return self._at + (self._now() - self._since) * self._speed * DAY

    def _anchor(self, at: float) -> None:
        if at:
            self._at = at
            self._since = self._now()
