"""The churn model that learns: a sum of curves, one for each input, learned one example at a time.

    log-odds of churn = level + curve_1(input_1) + ... + curve_n(input_n)

This is what is published of it (``Learned.data`` of a snapshot, by ``msgspec.to_builtins``) and what
``models.learned.LearnedScore`` scores from.
"""

from __future__ import annotations

import msgspec


class Curve(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What one input adds: linear between ``knots`` (ascending, in the unit of the input as
    ``models.basis`` derives it), constant beyond them; ``effects`` in log-odds of churn at each knot.

    ``group``: the group of evidence it counts for; ``usual``: its mean effect over the examples learned, which
    belongs to the base of a score, so that contributions say what is unusual.
    """

    group: str
    knots: tuple[float, ...]
    effects: tuple[float, ...]
    usual: float = 0.0


class AdditiveData(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """An additive model as it may be scored.

    ``curves`` by the name of the derived input (``models.basis.DERIVED``); ``level``: log-odds where all curves
    are zero; ``horizon_days``: what it was learned for; ``value_scale``: logarithm of the usual order value, in
    which order values are measured; ``examples``: labels learned.
    """

    horizon_days: float
    level: float
    value_scale: float
    examples: int
    curves: dict[str, Curve]
    format: int = 1
