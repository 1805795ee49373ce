"""Whether what is stated comes true, and a repair where it does not.

The repair is affine in log-odds (Platt, *Probabilistic outputs for support vector machines*, 1999, as
Niculescu-Mizil and Caruana, *Predicting good probabilities with supervised learning*, 2005, use it for any
score): stated = scale * own + shift. It is fitted on the last labels, and judged on those that came after: a
repair that would not have lowered their log-loss is not applied. Being affine it keeps the order of customers,
and the contributions still add up to the score, which steps (isotonic) or other curves (beta) would not.

Only how sure a model is gets repaired, not by how much all churn more or less than it said: the mean probability
stays. Labels come a horizon late and share a season, and so do those that judge. With the level repaired too, the
log-loss on Online Retail II was .526 instead of .496 (``docs/decisions/0008-the-churn-model.md``).
"""

from __future__ import annotations

from typing import Any, Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from models.snapshot import Calibration, Reliability

Floats = NDArray[np.float64]

BANDS: Final = 10
LEAST: Final = 512
"""Labels in the window before a repair is fitted."""
RIDGE: Final = 10.0
"""How strongly the fit is held at no repair: as strongly as some 50 labels speak."""
STEEPEST: Final = 4.0
"""The scale lies between this and one in this."""
FADE: Final = 0.9
"""What a block of labels weighs of the one after it, when the gain is told."""
WORTH: Final = 0.001
"""Nats a label that a repair must have gained to be applied; it stays while it gains anything."""
_STEPS: Final = 8


def losses(log_odds: Floats, churned: Floats) -> Floats:
    """The log-loss of each label in nats."""
    away = np.where(churned > 0, -log_odds, log_odds)
    loss: Floats = np.logaddexp(0.0, away)
    return loss


def probability(log_odds: Floats) -> Floats:
    """The probabilities of log-odds."""
    p: Floats = 1.0 / (1.0 + np.exp(-np.clip(log_odds, -700.0, 700.0)))
    return p


class Affine(NamedTuple):
    """A repair: stated log-odds = ``scale`` * own + ``shift``."""

    scale: float = 1.0
    shift: float = 0.0

    def of(self, log_odds: Floats) -> Floats:
        """What is stated for the model's own log-odds."""
        return self.scale * log_odds + self.shift


NONE: Final = Affine()


def fit(log_odds: Floats, churned: Floats) -> Affine:
    """The repair with the lowest log-loss on these labels, held at none (``RIDGE``), by Newton's method."""
    scale, shift = NONE
    for _ in range(_STEPS):
        p = probability(scale * log_odds + shift)
        error, weight = p - churned, p * (1.0 - p)
        g0 = float(np.sum(error * log_odds)) + RIDGE * (scale - 1.0)
        g1 = float(np.sum(error)) + RIDGE * shift
        h00 = float(np.sum(weight * log_odds * log_odds)) + RIDGE
        h01 = float(np.sum(weight * log_odds))
        h11 = float(np.sum(weight)) + RIDGE
        det = h00 * h11 - h01 * h01
        step0, step1 = (h11 * g0 - h01 * g1) / det, (h00 * g1 - h01 * g0) / det
        scale, shift = scale - step0, shift - step1
        if not (abs(scale) < 1e3 and abs(shift) < 1e3):
            return NONE
        if abs(step0) + abs(step1) < 1e-9:
            break
    return Affine(min(max(scale, 1.0 / STEEPEST), STEEPEST), shift)


def level_kept(repair: Affine, log_odds: Floats) -> Affine:
    """The repair with the shift that leaves the mean probability of these as it was, by Newton's method."""
    scale, shift = repair
    if scale == 1.0:
        return NONE
    wanted = float(np.mean(probability(log_odds)))
    shift = (1.0 - scale) * float(np.mean(log_odds))
    for _ in range(_STEPS):
        p = probability(scale * log_odds + shift)
        step = (float(np.mean(p)) - wanted) / max(float(np.mean(p * (1.0 - p))), 1e-9)
        shift -= min(max(step, -1.0), 1.0)
        if abs(step) < 1e-9:
            break
    return Affine(scale, shift)


class Repair:
    """A repair that is fitted anew after each block of labels, and applied only while it pays."""

    __slots__ = ("affine", "applied", "gain")

    def __init__(self) -> None:
        self.affine = NONE
        self.gain = 0.0
        self.applied = False

    @property
    def holds(self) -> Affine:
        """What is applied to the model's own log-odds now."""
        return self.affine if self.applied else NONE

    def after(self, block: tuple[Floats, Floats], window: tuple[Floats, Floats]) -> None:
        """A block of labels is full: own log-odds and outcomes of it alone, then of the whole window.

        First what the repair of before would have gained on the block, which it has not seen; then a new fit.
        """
        if self.affine != NONE:
            own, churned = block
            gained = float(np.mean(losses(own, churned) - losses(self.affine.of(own), churned)))
            self.gain = FADE * self.gain + (1.0 - FADE) * gained
            self.applied = self.gain > (0.0 if self.applied else WORTH)
        if len(window[0]) >= LEAST:
            self.affine = level_kept(fit(*window), window[0])

    def published(self) -> Calibration:
        """For the snapshot."""
        return Calibration(scale=self.holds.scale, shift=self.holds.shift, gain=self.gain)

    def state(self) -> list[Any]:
        """Plain data to go on from."""
        return [self.affine.scale, self.affine.shift, self.gain, self.applied]

    @classmethod
    def restored(cls, state: list[Any]) -> Repair:
        """As it was when ``state`` was taken."""
        found = cls()
        found.affine = Affine(state[0], state[1])
        found.gain = state[2]
        found.applied = state[3]
        return found


def reliability(p: Floats, churned: Floats) -> tuple[Reliability, ...]:
    """For each tenth of the probabilities that were stated: how many, their mean, the share that churned."""
    place = np.minimum((p * BANDS).astype(np.int64), BANDS - 1)
    count = np.bincount(place, minlength=BANDS)
    stated = np.bincount(place, weights=p, minlength=BANDS)
    happened = np.bincount(place, weights=churned, minlength=BANDS)
    return tuple(
        Reliability(
            above=i / BANDS,
            labels=int(n),
            stated=round(float(s) / n, 6) if n else None,
            churned=round(float(h) / n, 6) if n else None,
        )
        for i, (n, s, h) in enumerate(zip(count.tolist(), stated, happened, strict=True))
    )
