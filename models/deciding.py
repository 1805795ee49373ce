"""From a snapshot to the score that decides: whichever model it says is promoted."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Final

import numpy as np

from features.matrix import Floats, Inputs
from models.basis import usual_gap
from models.churn import ROUND, ChurnModel, RhythmScore, Scores
from models.learned import LearnedScore
from models.purchase_rate import Rates, alive, expected_wait, log_odds_of_none
from models.snapshot import Learned, Prior, Snapshot
from models.spend import Spend, predicted_clv
from streams.alerts import ScoreSource

RATE: Final = "purchase_rate"


class RateScore:
    """The buy-till-you-die score alone, which learns from no label; see ``models.purchase_rate``. ``learned``: the
    repair of its calibration; ``unit``: minor units of money in one unit."""

    name = RATE
    source: ScoreSource = "statistical"
    groups: tuple[str, ...] = ("silence",)
    needs = frozenset({"recency", "age", "gaps", "gap_mean", "order_value", "repeats"})

    def __init__(
        self,
        version: str,
        rates: Rates,
        horizon_days: float,
        *,
        learned: Learned | None = None,
        spend: Spend | None = None,
        usual: Mapping[str, float] | None = None,
        unit: float = 100.0,
    ) -> None:
        self.version = version
        self.usual: Mapping[str, float] = MappingProxyType(dict(usual or {}))
        self.tells_value = spend is not None
        self._rates, self._spend, self._horizon, self._unit = rates, spend, horizon_days, unit
        repair = (learned or Learned()).calibration
        self._scale, self._shift = repair.scale, repair.shift

    def score(self, x: Inputs) -> Scores:
        """See ``models.churn``; ``base`` is right after the last purchase, all else is silence."""
        t_x = np.maximum(x.age - x.recency, 0.0)
        now = t_x + x.recency
        logit = self._log_odds(x.gaps, t_x, now)
        base = self._log_odds(x.gaps, t_x, t_x)
        silence = logit - base
        return Scores(
            churn=np.round(1.0 / (1.0 + np.exp(-logit)), ROUND),
            alive=np.round(alive(self._rates, x.gaps, t_x, now), ROUND),
            base=base,
            logit=logit,
            rise=np.round(silence, ROUND),
            contributions=(silence,),
            usual_days=usual_gap(x, self._horizon),
        )

    def _log_odds(self, gaps: Floats, t_x: Floats, now: Floats) -> Floats:
        odds: Floats = (
            self._scale * log_odds_of_none(self._rates, gaps, t_x, now, self._horizon) + self._shift
        )
        return odds

    def expected(self, x: Inputs) -> tuple[float, float] | None:
        """See ``models.churn``."""
        if self._spend is None:
            return None
        t_x = np.maximum(x.age - x.recency, 0.0)
        history = x.gaps, t_x, t_x + x.recency
        days = expected_wait(self._rates, *history)
        value = predicted_clv(self._rates, self._spend, *history, x.repeats + 1.0, x.order_value)
        return float(days[0]), float(value[0]) / self._unit


def deciding(snapshot: Snapshot, prior: Prior, unit: float) -> ChurnModel:
    """The score that decides by a snapshot under its leading horizon. ``prior``: of the settings, which decides
    itself where that is still best; ``unit``: minor units of money in one unit.

    Raises ``models.learned.UnknownModel``.
    """
    leading = snapshot.leading
    name = leading.promoted.model
    usual = {of: each.middle for of, each in snapshot.usual.items()}
    learned = leading.models.get(name, Learned())
    if name == RATE:
        return RateScore(
            snapshot.version,
            snapshot.purchase_rate,
            leading.days,
            learned=learned,
            spend=snapshot.spend,
            usual=usual,
            unit=unit,
        )
    if name == RhythmScore.name:
        return RhythmScore(prior, leading.days)
    return LearnedScore(
        name,
        snapshot.version,
        learned.data,
        snapshot.purchase_rate,
        scale=learned.calibration.scale,
        shift=learned.calibration.shift,
        usual=usual,
        spend=snapshot.spend,
        unit=unit,
    )
