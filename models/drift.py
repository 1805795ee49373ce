"""Whether something has moved: the inputs, the scores, the error. It is told, and changes nothing by itself.

Each signal is watched as means over blocks of labels, in units of what such means usually scatter by, with
river's Page-Hinkley test (Page, *Continuous inspection schemes*, Biometrika 41, 1954), both ways. Of river's
detectors it is the one whose whole memory is a few numbers, so that it goes on after a restart as if there had
been none. A signal that has moved is watched anew from there.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from river.drift import PageHinkley

from models.snapshot import Drift
from streams.events import Micros

Floats = NDArray[np.float64]

WARM: Final = 12
"""Blocks from which it is learned by how much the means of a signal scatter."""
MATERIAL: Final = 0.2
"""Of the standard deviation between customers: what the means of a signal are at least taken to scatter by. What is
less than that tells nobody anything, however sure it is."""
TOLERATED: Final = 1.0
"""By how many times their scatter means may stay away from the one before without being told."""
ALARM: Final = 20.0
"""How much beyond it may gather, summed over blocks."""
RECENT: Final = 6
"""Blocks over which the mean after a change is told."""
KEPT: Final = 20
"""Changes that are remembered, the newest last."""

_MEMORY: Final = ("_sum_increase", "_sum_decrease", "_min_increase", "_max_decrease", "_drift_detected")


class _Signal:
    """One row of block means."""

    __slots__ = ("blocks", "detector", "mean", "recent", "scale", "squares", "within")

    def __init__(self) -> None:
        self.restart()

    def restart(self) -> None:
        self.blocks = 0
        self.mean = self.squares = self.within = self.scale = 0.0
        self.recent: list[float] = []
        self.detector = PageHinkley(min_instances=RECENT, delta=TOLERATED, threshold=ALARM)

    def after(self, mean: float, deviation: float) -> tuple[float, float] | None:
        """Takes one block: mean and standard deviation. The means before and after, when it moved."""
        self.blocks += 1
        if self.blocks <= WARM:
            step = mean - self.mean
            self.mean += step / self.blocks
            self.squares += step * (mean - self.mean)
            self.within += (deviation - self.within) / self.blocks
            if self.blocks == WARM:
                self.scale = max(math.sqrt(self.squares / (WARM - 1)), MATERIAL * self.within)
            return None
        if self.scale <= 0.0:  # a shop that sends nothing of the kind, until it does
            if mean == self.mean:
                return None
            self.restart()
            return None
        self.recent = [*self.recent[1 - RECENT :], mean]
        self.detector.update((mean - self.mean) / self.scale)
        if not self.detector.drift_detected:
            return None
        moved = self.mean, sum(self.recent) / len(self.recent)
        self.restart()
        return moved

    def state(self) -> list[Any]:
        memory = vars(self.detector)
        mean = vars(memory["_x_mean"])
        return [
            self.blocks, self.mean, self.squares, self.within, self.scale, self.recent,
            mean["n"], mean["_mean"], *(memory[name] for name in _MEMORY),
        ]  # fmt: skip

    @classmethod
    def restored(cls, state: list[Any]) -> _Signal:
        found = cls()
        found.blocks, found.mean, found.squares, found.within, found.scale, recent, n, mean = state[:8]
        found.recent = list(recent)
        memory = vars(found.detector)
        vars(memory["_x_mean"]).update(n=n, _mean=mean)
        memory.update(zip(_MEMORY, state[8:], strict=True))
        return found


class Watch:
    """All signals of one horizon, and what has moved."""

    def __init__(self) -> None:
        self.moved: tuple[Drift, ...] = ()
        self._signals: dict[str, _Signal] = {}

    def after(self, signals: Sequence[str], block: Floats, at: Micros) -> tuple[Drift, ...]:
        """Takes one block of labels, a row for each signal; ``at`` is when its last label matured. What has moved."""
        means = block.mean(axis=1)
        deviations = block.std(axis=1)
        found = []
        for what, mean, deviation in zip(signals, means.tolist(), deviations.tolist(), strict=True):
            signal = self._signals.get(what)
            if signal is None:
                signal = self._signals[what] = _Signal()
            moved = signal.after(mean, deviation)
            if moved is not None:
                found.append(Drift(what=what, at=at, before=moved[0], after=moved[1]))
        if found:
            self.moved = (*self.moved, *found)[-KEPT:]
        return tuple(found)

    def state(self) -> list[Any]:
        """Plain data to go on from."""
        told = [[d.what, d.at, d.before, d.after] for d in self.moved]
        return [told, {what: signal.state() for what, signal in self._signals.items()}]

    @classmethod
    def restored(cls, state: list[Any]) -> Watch:
        """As it was when ``state`` was taken."""
        found = cls()
        told, signals = state
        found.moved = tuple(Drift(what=w, at=at, before=b, after=a) for w, at, b, a in told)
        found._signals = {what: _Signal.restored(s) for what, s in signals.items()}
        return found
