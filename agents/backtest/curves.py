"""Learned curves for readers: of each input what it adds, over the values that customers really have."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Final, NamedTuple

import msgspec
import numpy as np

from features.matrix import Floats, Inputs
from models.basis import Shop, derive
from models.learned import AdditiveData
from models.snapshot import Snapshot

_POINTS: Final = 60


def _plain(v: Floats) -> Floats:
    return v


def _share(v: Floats) -> Floats:
    share: Floats = 100.0 / (1.0 + np.exp(-v))
    return share


_Scale = Callable[[Floats], Floats]
_UNITS: Final[Mapping[str, tuple[str, _Scale]]] = {
    "purchase_rate": ("expected to stay away, %", _share),
    "still_customer": ("still a customer, %", _share),
    "rhythm": ("late by own rhythm, %", _share),
    "gap_if_silent": ("gap, if nothing came", _plain),
    "silence_in_gaps": ("silence, in own gaps", np.exp),
    "purchases_missed": ("purchases missed", _plain),
    "bought_7": ("purchases, last week", np.expm1),
    "bought_30": ("purchases, last month", np.expm1),
    "bought_90": ("purchases, last quarter", np.expm1),
    "gaps": ("purchase days after the first", np.expm1),
    "last_gap": ("last gap, days", lambda v: np.exp(np.maximum(v - 1.0, 0.0))),
    "order_value": ("order value, by the usual", np.exp),
    "paid_90": ("paid lately, by the usual", np.exp),
    "value_trend": ("order value, lately by before", np.exp),
    "discount_share": ("bought at a discount, %", lambda v: 100.0 * v),
    "returned_90": ("returns, last quarter", np.expm1),
    "abandoned": ("categories given up, %", lambda v: 100.0 * v),
    "browsed_7": ("visits, last week", np.expm1),
    "browsed_30": ("visits, last month", np.expm1),
    "browsed_90": ("visits, last quarter", np.expm1),
    "browse_recency": ("days since the last visit", np.expm1),
    "browsing_trend": ("visits, lately by before", np.exp),
    "empty_searches_30": ("searches without a result", np.expm1),
    "carts_30": ("put into the cart", np.expm1),
    "used_30": ("uses, last month", np.expm1),
    "used_90": ("uses, last quarter", np.expm1),
    "use_trend": ("uses, lately by before", np.exp),
    "dissatisfaction": ("dissatisfaction, %", lambda v: 100.0 * v),
    "rating": ("review below three stars", _plain),
}
"""How a derived input is called and turned into a unit that needs no explanation; others keep name and value."""


class Drawn(NamedTuple):
    """A curve: what the input is called, its values ascending, what each adds to the log-odds against what is
    usual, and by how much the input tells customers apart (standard deviation of its effect)."""

    name: str
    title: str
    values: list[float]
    effects: list[float]
    weight: float


def drawn(snapshot: Snapshot, model: str, inputs: Inputs) -> list[Drawn]:
    """The curves of a model of the snapshot over these customers, those that tell most first."""
    learned = snapshot.leading.models[model]
    data = msgspec.convert(learned.data, AdditiveData)
    shop = Shop(snapshot.purchase_rate, data.horizon_days, data.value_scale)
    values = derive(inputs, shop, data.curves, then=False).now
    found = []
    for name, curve in data.curves.items():
        mine = values[name]
        effects = learned.calibration.scale * np.array(curve.effects)
        here = np.interp(mine, curve.knots, effects)
        low, high = np.quantile(mine, [0.005, 0.995])
        weight = float(here.std())
        if high - low < 1e-6 or weight < 1e-3:
            continue
        title, scale = _UNITS.get(name, (name.replace("_", " "), _plain))
        # Evenly in the unit that is shown: a curve that is bent there is drawn bent.
        fine = np.linspace(low, high, 4 * _POINTS)
        x = scale(fine)
        even = np.interp(np.linspace(x[0], x[-1], _POINTS), x, fine)
        y = np.interp(even, curve.knots, effects) - float(here.mean())
        found.append(
            Drawn(
                name,
                title,
                [round(float(value), 6) for value in scale(even)],
                [round(float(value), 6) for value in y],
                round(weight, 6),
            )
        )
    return sorted(found, key=lambda each: (-each.weight, each.name))
