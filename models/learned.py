"""The learned churn score: a published additive model, for many customers at once.

It states what river's own ``predict_proba_one`` does of the model that was published, curve by curve as linear
interpolation, and says of what it is made:

- ``silence``: by how much the curves of purchase history have changed since right after the last purchase,
  only because nothing was bought since;
- every other group: its curves, those of purchase history as they were right after the last purchase, less what
  is usual in this shop;
- ``base``: what is usual in this shop, right after a purchase.

They add up to the log-odds. The ``rise`` is the silence, with all that the customer does and says beside buying
(browsing, use, complaints, surveys, ...) against none of it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from itertools import pairwise
from types import MappingProxyType
from typing import Any, Final, NamedTuple

import msgspec
import numpy as np

from features.matrix import Floats, Inputs
from models.basis import DERIVED, Shop, derive, usual_gap
from models.churn import ROUND, Scores
from models.purchase_rate import Rates, alive, expected_wait
from models.spend import Spend, predicted_clv
from streams.alerts import ScoreSource

GROUPS: Final = (
    "silence", "frequency", "spend", "discount", "browsing", "search", "cart", "use", "complaint", "satisfaction",
    "returns", "category", "said_lost",
)  # fmt: skip
"""The groups of evidence, in the order of ``Scores.contributions``."""
BESIDE: Final = ("browsing", "search", "cart", "use", "complaint", "satisfaction", "said_lost")
"""The groups of what a customer does and says beside buying."""
FORMAT: Final = 1
_ALWAYS: Final = ("recency", "age", "gaps", "gap_mean", "order_value", "repeats")
"""Inputs that are read for ``alive``, ``usual_days`` and ``expected``."""


class Curve(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What one input adds: linear between ``knots`` (ascending, in the unit of the input as
    ``models.basis`` derives it), constant beyond them; ``effects`` in log-odds of churn at each knot.

    ``group``: the group of evidence it counts for; ``usual``: its mean effect over the examples learned (of what
    changes with silence: right after the last purchase), which belongs to the base of a score, so that
    contributions say what is unusual.
    """

    group: str
    knots: tuple[float, ...]
    effects: tuple[float, ...]
    usual: float = 0.0


class AdditiveData(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """An additive model as it may be scored (``Learned.data`` of a snapshot, by ``msgspec.to_builtins``).

    ``curves`` by the name of the derived input (``models.basis.DERIVED``), without those that add nothing;
    ``level``: log-odds where all curves are zero; ``horizon_days``: what it was learned for; ``value_scale``:
    logarithm of the usual order value, in which order values are measured; ``examples``: labels learned.
    """

    horizon_days: float
    level: float
    value_scale: float
    examples: int
    curves: dict[str, Curve]
    format: int = 1


class UnknownModel(ValueError):
    """What was published of a model cannot be scored; the message says why and what to do."""


class _Part(NamedTuple):
    name: str
    group: int
    timed: bool
    sparse: bool
    knots: Floats
    effects: Floats
    usual: float


class LearnedScore:
    """The score of one snapshot. ``data``: what ``models.additive.Additive.published`` gave, ``rates`` and ``spend``
    (None: nothing is known of value yet) of the same snapshot; ``scale`` and ``shift``: the repair of its
    calibration; ``usual``: usual values of the inputs, for reasons; ``unit``: minor units of money in one unit.
    """

    groups: tuple[str, ...] = GROUPS
    source: ScoreSource = "learned"

    def __init__(
        self,
        name: str,
        version: str,
        data: AdditiveData | Mapping[str, Any],
        rates: Rates,
        *,
        scale: float = 1.0,
        shift: float = 0.0,
        usual: Mapping[str, float] | None = None,
        spend: Spend | None = None,
        unit: float = 100.0,
    ) -> None:
        """Raises :class:`UnknownModel`."""
        if not isinstance(data, AdditiveData):
            data = _decoded(data)
        self.name = name
        self.version = version
        self.usual: Mapping[str, float] = MappingProxyType(dict(usual or {}))
        self.data = data
        self._rates = rates
        self._spend = spend
        self._unit = unit
        self._horizon = data.horizon_days
        self._shop = Shop(rates, data.horizon_days, data.value_scale)
        self._parts = [
            _Part(
                name=curve,
                group=GROUPS.index(found.group),
                timed=DERIVED[curve].timed,
                sparse=DERIVED[curve].sparse,
                knots=np.array(found.knots),
                effects=scale * np.array(found.effects),
                usual=scale * found.usual,
            )
            for curve, found in data.curves.items()
        ]
        self._names = tuple(part.name for part in self._parts)
        self.needs: frozenset[str] = frozenset(_ALWAYS).union(*(DERIVED[name].reads for name in self._names))
        self.tells_value = spend is not None
        self._base = scale * data.level + shift + math.fsum(part.usual for part in self._parts)
        # The rise is against none of it, not against what is usual.
        beside = {GROUPS.index(group) for group in BESIDE}
        self._beside = tuple(sorted(beside & {part.group for part in self._parts}))
        self._usual_beside = math.fsum(part.usual for part in self._parts if part.group in beside)

    def score(self, x: Inputs) -> Scores:
        """See ``models.churn``: of each customer (n,), or of each at several instants (k, n), where contributions
        that no time changes stay (n,)."""
        values = derive(x, self._shop, self._names)
        silence: Floats = np.zeros_like(x.recency)
        nothing = np.zeros_like(x.gaps)
        contributions = [nothing] * len(GROUPS)
        for name, group, timed, sparse, knots, effects, usual in self._parts:
            value = values.now[name]
            if sparse and not value.any():  # as of most evidence in most batches: no effect, exactly
                contributions[group] = contributions[group] - usual
                continue
            effect: Floats = np.interp(value, knots, effects)
            if timed:
                before: Floats = np.interp(values.then[name], knots, effects)
                silence = silence + (effect - before)
                effect = before
            contributions[group] = contributions[group] + (effect - usual)
        contributions[_SILENCE] = contributions[_SILENCE] + silence
        base = np.full_like(x.gaps, self._base)
        logit = base
        for contribution in contributions:
            if contribution is not nothing:
                logit = logit + contribution
        rise = silence
        for group in self._beside:
            rise = rise + contributions[group]
        t_x = np.maximum(x.age - x.recency, 0.0)
        return Scores(
            churn=np.round(1.0 / (1.0 + np.exp(-logit)), ROUND),
            alive=np.round(alive(self._rates, x.gaps, t_x, t_x + x.recency), ROUND),
            base=base,
            logit=logit,
            rise=np.round(rise + self._usual_beside, ROUND),
            contributions=tuple(contributions),
            usual_days=usual_gap(x, self._horizon),
        )

    def expected(self, x: Inputs) -> tuple[float, float] | None:
        """See ``models.churn``."""
        if self._spend is None:
            return None
        t_x = np.maximum(x.age - x.recency, 0.0)
        history = x.gaps, t_x, t_x + x.recency
        days = expected_wait(self._rates, *history)
        value = predicted_clv(self._rates, self._spend, *history, x.repeats + 1.0, x.order_value)
        return float(days[0]), float(value[0]) / self._unit


_SILENCE: Final = GROUPS.index("silence")


def _decoded(data: Mapping[str, Any]) -> AdditiveData:
    if data.get("format") != FORMAT:
        raise UnknownModel(
            f"the model has format {data.get('format')}, this churnwatch knows {FORMAT}: run the release that wrote it"
        )
    try:
        found = msgspec.convert(data, AdditiveData)
    except msgspec.ValidationError as error:
        raise UnknownModel(f"this is no additive model: {error}") from error
    for name, curve in found.curves.items():
        known = DERIVED.get(name)
        if known is None or curve.group not in GROUPS:
            raise UnknownModel(
                f"the model reads {name!r} ({curve.group}), which this churnwatch does not know: run the release "
                "that wrote it"
            )
        if len(curve.knots) != len(curve.effects) or any(a >= b for a, b in pairwise(curve.knots)):
            raise UnknownModel(f"the curve of {name!r} needs ascending knots and as many effects")
    return found
