"""The churn model that learns: a sum of curves, one for each derived input, learned one example at a time.

    log-odds of churn = level + curve_1(input_1) + ... + curve_n(input_n)

**Learner.** A river pipeline: the hats of :class:`Basis`, then river's logistic regression under
AdaGrad (Duchi, Hazan and Singer, *Adaptive subgradient methods*, Journal of Machine Learning Research 12, 2011).
Among the inputs is the buy-till-you-die score of :mod:`models.purchase_rate`. The curves do not begin at zero but
as a plain mix of that score with the customer's own rhythm, and are learned from there: with few labels the sum
is a sensible score, with many the start is forgotten.

**Level.** Labels come a horizon late, out of another season than the one they will be used in: what was learned of
who churns more stays true, by how much all churn less before Christmas does not. So while it learns, the
intercept follows the outcomes quickly and takes the season with it (``tide``); another follows what the purchase
rate says of the same customers (``anchor``). What is stated has the anchor's level, plus the mean distance of the
tide from it, times

    tau^2 / (tau^2 + v / m)

v: the variance of that distance over time, m: how many horizons the labels span, ``tau``: by how much (log-odds) the
purchase rate's level is expected to be wrong in the long run. It is the mean of a normal prior and m witnesses.
Where the distance is far beyond anything that such a prior and the seasons explain, the shop is none that the purchase
rate can describe, and a wide prior (``ASTRAY``) takes its place: a mixture of two normal priors, by Bayes' rule.

The challengers are the same learner with fewer inputs. One without an anchor has the tide as its intercept.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from itertools import repeat
from typing import Any, Final

import msgspec
import numpy as np
from river import base, compose, linear_model, optim
from river.utils import VectorDict

from features.matrix import Floats, Inputs
from models.basis import ALL, DERIVED, SMALLEST_VALUE, Shop, derive
from models.learned import AdditiveData, Curve
from models.purchase_rate import Rates

RATE: Final = 0.02
"""AdaGrad's learning rate, log-odds."""
ALONE: Final = 0.2
"""That of the challengers, who begin with nothing: the fastest that served them."""
TIDE: Final = 0.01
"""How fast the intercept follows the outcomes, and the anchor the purchase rate."""
TAU: Final = 0.05
ASTRAY: Final = 1.0
"""By how much the purchase rate's level is wrong where the shop is none that it can describe, log-odds."""
EVIDENCE: Final = 1e-5
"""Odds of that beforehand: so that a few seasons do not pass for it, only what is many standard errors away."""
SEASON: Final = 0.4
"""By how much the level of a shop moves from one season to another, log-odds, before it was seen."""
SEEN: Final = 3.0
"""Horizons for which that counts."""
FADE: Final = 2_000
"""Examples that what is usual is a mean over."""
SAMPLED: Final = 8
"""Of so many examples one tells what is usual."""
BLOCK: Final = 128
"""The usual order value is taken up after so many examples, so that it does not matter how they were cut."""


class _AdaGrad(optim.AdaGrad):  # type: ignore[misc]
    """river's AdaGrad at a constant rate, asked for once in a step instead of once for each weight."""

    def _step_with_dict(self, w: Any, g: Any) -> Any:
        rate, eps, squares = self.learning_rate, self.eps, self.g2
        for key, slope in g.items():
            squares[key] = square = squares[key] + slope * slope
            w[key] -= rate / (square + eps) ** 0.5 * slope
        return w


def start(name: str) -> tuple[float, ...]:
    """The weights of a curve's hats before anything was learned."""
    derived = DERIVED[name]
    return tuple(derived.slope * knot / derived.height for knot in derived.knots)


def feature(name: str, knot: int) -> str:
    """What the hat over a knot is called."""
    return f"{name}:{knot}"


class Basis(base.Transformer):  # type: ignore[misc]
    """A river transformer: derived inputs by name to the hats that are not zero there."""

    def __init__(self, names: Sequence[str]) -> None:
        self.names = tuple(names)
        self._inputs = {
            name: (
                np.array(DERIVED[name].knots),
                np.array([feature(name, k) for k in range(len(DERIVED[name].knots))], dtype=object),
            )
            for name in names
        }
        # A sparse input has no hat over its neutral knot.
        self._neutral = frozenset(
            feature(name, DERIVED[name].knots.index(0.0)) for name in names if DERIVED[name].sparse
        )

    def transform_one(self, x: Mapping[str, float]) -> dict[str, float]:
        """The hats over the knots beside each value, as high as they are there. ``x`` has every input of ``names``."""
        return next(self.transform_all({name: np.array([x[name]]) for name in self.names}))

    def transform_all(self, x: Mapping[str, Floats]) -> Iterator[dict[str, float]]:
        """The same of each of many: arrays (n,) by name."""
        keys: list[list[str]] = []
        hats: list[list[float]] = []
        seldom: list[tuple[int, str, float]] = []
        for name, (knots, features) in self._inputs.items():
            value = x[name]
            sparse = DERIVED[name].sparse
            if sparse:
                rows = np.flatnonzero(value)
                if not len(rows):
                    continue
                value = value[rows]
            right = np.clip(np.searchsorted(knots, value, side="right"), 1, len(knots) - 1)
            left = right - 1
            share = np.clip((value - knots[left]) / (knots[right] - knots[left]), 0.0, 1.0)
            columns = (
                (features[left].tolist(), ((1.0 - share) * DERIVED[name].height).tolist()),
                (features[right].tolist(), (share * DERIVED[name].height).tolist()),
            )
            if sparse:
                for key, hat in columns:
                    seldom += zip(rows.tolist(), key, hat, strict=True)
            else:
                for key, hat in columns:
                    keys.append(key)
                    hats.append(hat)
        beside: dict[int, list[tuple[str, float]]] = {}
        for row, key, hat in seldom:
            if hat and key not in self._neutral:
                beside.setdefault(row, []).append((key, hat))
        # A row of each column; where all inputs are sparse there are no columns, but rows all the same.
        count = len(next(iter(x.values())))
        features_of = zip(*keys, strict=True) if keys else repeat((), count)
        hats_of = zip(*hats, strict=True) if hats else repeat((), count)
        for row, (names, shares) in enumerate(zip(features_of, hats_of, strict=True)):
            found = {key: hat for key, hat in zip(names, shares, strict=True) if hat}
            if row in beside:
                found.update(beside[row])
            yield found


class _State(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """All it takes to go on. ``weights`` and ``squares`` (of gradients) by the names of hats; ``since`` and ``until``:
    the first and the newest label, in days; ``drift`` and ``swing``: mean and sum of squared deviations of tide from
    anchor; ``values``: number and sum of the logarithms of order values that are not taken up yet, and the number of
    all; ``usual``: mean hats."""

    horizon_days: float
    names: tuple[str, ...]
    examples: int
    steps: int
    weights: dict[str, float]
    squares: dict[str, float]
    tide: float
    anchor: float
    drift: float
    swing: float
    since: float
    until: float
    value_scale: float
    values: tuple[int, float, int]
    sampled: int
    usual: dict[str, float]


class Additive:
    """The learner for one horizon (days) over the derived inputs ``names``; ``anchored``: see the module.
    ``rate`` and ``tau``: other than ``RATE`` (``ALONE`` where nothing anchors it) and ``TAU``."""

    def __init__(
        self,
        horizon_days: float,
        names: Sequence[str] = ALL,
        *,
        anchored: bool = True,
        rate: float | None = None,
        tau: float = TAU,
    ) -> None:
        self.horizon_days = horizon_days
        self.names = tuple(names)
        self.rates = Rates()
        """The shop's purchase rate, by which examples are read; it is for the owner to keep up."""
        self._anchored = anchored
        self._tau = tau
        self._basis = Basis(self.names)
        self._glm: Any = linear_model.LogisticRegression(
            optimizer=_AdaGrad(rate or (RATE if anchored else ALONE)),
            intercept_lr=TIDE,
            initializer=optim.initializers.Zeros(),
        )
        self.pipeline = compose.Pipeline(self._basis, self._glm)
        """river's own, over derived inputs by name."""
        self._weigh({feature(name, k): e for name in names for k, e in enumerate(start(name)) if e})
        # The anchor reads the purchase rate, whether or not it is an input.
        self._read = tuple(dict.fromkeys((*self.names, "purchase_rate")))
        self.examples = 0
        self._tide = self._anchor = 0.0
        self._drift = self._swing = 0.0
        self._since = self._until = 0.0
        self._value_scale = 0.0
        self._values = (0, 0.0, 0)
        self._sampled = 0
        self._usual: dict[str, float] = {}

    # ---- river's protocol

    def predict_proba_one(self, inputs: Sequence[float]) -> dict[bool, float]:
        """P(churn) of one example's inputs (in the order of ``Inputs``)."""
        x = _inputs(np.array([inputs], dtype=np.float64))
        values = derive(x, self._shop(), self.names, then=False).now
        one = {name: float(value[0]) for name, value in values.items()}
        found: dict[bool, float] = self.pipeline.predict_proba_one(one)
        return found

    def learn_one(self, inputs: Sequence[float], churned: bool, due_days: float) -> None:
        """Learn one example; ``due_days``: when its label matured, in days since any fixed instant."""
        self.learn_many([inputs], [churned], [due_days])

    # ---- many at once, each on its own

    def learn_many(
        self, inputs: Sequence[Sequence[float]], churned: Sequence[bool], due_days: Sequence[float]
    ) -> list[float]:
        """Learn examples in their order, one at a time. The log-odds stated of each before it was learned.

        How they are cut into calls does not matter, as long as ``rates`` are the same.
        """
        stated: list[float] = []
        at = 0
        while at < len(churned):
            end = min(at + BLOCK - self.examples % BLOCK, len(churned))
            stated += self._learn(inputs[at:end], churned[at:end], due_days[at:end])
            at = end
        return stated

    def _learn(
        self, inputs: Sequence[Sequence[float]], churned: Sequence[bool], due_days: Sequence[float]
    ) -> list[float]:
        """Learn examples that all belong to one block."""
        rows = np.asarray(inputs, dtype=np.float64)
        if not self.examples:
            self._since = self._until = due_days[0]
            self._value_scale = float(_log_values(rows)[0])
        self._take_usual(rows[-self.examples % SAMPLED :: SAMPLED])
        glm = self._glm
        derived = derive(_inputs(rows), self._shop(), self._read, then=False).now
        scores = derived["purchase_rate"].tolist()
        stated = []
        for hats, said, outcome, due in zip(
            self._basis.transform_all(derived), scores, churned, due_days, strict=True
        ):
            curves = vars(glm)["_weights"].dot(hats)
            stated.append(curves + glm.intercept)
            # While river learns the intercept is the tide; between examples it is the level that is stated.
            glm.intercept = self._tide
            glm.learn_one(hats, outcome)
            self._tide = glm.intercept
            self.examples += 1
            self._until = max(self._until, due)
            if self._anchored:
                self._anchor -= TIDE * (_sigmoid(curves + self._anchor) - _sigmoid(said))
                distance = self._tide - self._anchor
                away = distance - self._drift
                self._drift += away / self.examples
                self._swing += away * (distance - self._drift)
            glm.intercept = self.level
        self._take_values(rows)
        return stated

    @property
    def level(self) -> float:
        """The intercept that is stated."""
        if not self._anchored or not self.examples:
            return self._tide
        horizons = (self._until - self._since) / self.horizon_days
        noise = self._swing / self.examples / max(horizons, 0.1)
        # A few horizons of one season are steady, and no proof: they vary as seasons do until enough were seen.
        varied = (self._swing / self.examples * horizons + SEASON**2 * SEEN) / (horizons + SEEN)
        doubt = varied / max(horizons, 0.1)
        near, far = self._tau**2 + doubt, ASTRAY**2 + doubt
        squared = self._drift * self._drift
        astray = _sigmoid(
            math.log(EVIDENCE * math.sqrt(near / far)) + 0.5 * squared * (1.0 / near - 1.0 / far)
        )
        sure = (1.0 - astray) * self._tau**2 / (self._tau**2 + noise) + astray * ASTRAY**2 / far
        return self._anchor + sure * self._drift

    def _shop(self) -> Shop:
        return Shop(self.rates, self.horizon_days, self._value_scale)

    def _take_usual(self, rows: Floats) -> None:
        """What is usual, after rows that were sampled."""
        if not len(rows):
            return
        values = derive(_inputs(rows), self._shop(), self.names)
        mean = self._usual
        for hats in self._basis.transform_all({**values.now, **values.then}):
            self._sampled += 1
            share = 1.0 / min(self._sampled, FADE / SAMPLED)
            for key in mean.keys() - hats.keys():
                mean[key] *= 1.0 - share
            for key, hat in hats.items():
                known = mean.get(key, 0.0)
                mean[key] = known + share * (hat - known)

    def _take_values(self, rows: Floats) -> None:
        """The usual order value; it is taken up where a block ends."""
        waiting, total, known = self._values
        for value in _log_values(rows).tolist():
            waiting, total = waiting + 1, total + value
        if self.examples % BLOCK == 0:
            known += waiting
            self._value_scale += (total / waiting - self._value_scale) * waiting / known
            waiting, total = 0, 0.0
        self._values = (waiting, total, known)

    # ---- what is published and what is kept

    def published(self) -> dict[str, Any]:
        """What ``models.learned.LearnedScore`` scores from: :class:`AdditiveData` as plain data."""
        weights: dict[str, float] = self._glm.weights
        curves = {}
        for name in self.names:
            derived = DERIVED[name]
            keys = [feature(name, k) for k in range(len(derived.knots))]
            effects = tuple(weights.get(key, 0.0) * derived.height for key in keys)
            if any(effects):
                usual = math.fsum(self._usual.get(key, 0.0) * weights.get(key, 0.0) for key in keys)
                curves[name] = Curve(group=derived.group, knots=derived.knots, effects=effects, usual=usual)
        data = AdditiveData(
            horizon_days=self.horizon_days,
            level=self._glm.intercept,
            value_scale=self._value_scale,
            examples=self.examples,
            curves=curves,
        )
        return _plain(data)

    def state(self) -> dict[str, Any]:
        """All it takes to go on elsewhere: numbers, lists and dictionaries, as JSON has them."""
        kept = _State(
            horizon_days=self.horizon_days,
            names=self.names,
            examples=self.examples,
            steps=self._glm.optimizer.n_iterations,
            weights=dict(self._glm.weights),
            squares=dict(self._glm.optimizer.g2),
            tide=self._tide,
            anchor=self._anchor,
            drift=self._drift,
            swing=self._swing,
            since=self._since,
            until=self._until,
            value_scale=self._value_scale,
            values=self._values,
            sampled=self._sampled,
            usual=dict(self._usual),
        )
        return _plain(kept)

    def restore(self, state: object) -> None:
        """Go on from what ``state`` gave, as if nothing had been between. Raises ValueError for anything else, and
        then nothing has changed."""
        try:
            kept = msgspec.convert(state, _State)
        except msgspec.ValidationError as error:
            raise ValueError(f"no state of an additive model: {error}") from error
        if (kept.horizon_days, kept.names) != (self.horizon_days, self.names):
            raise ValueError(
                f"the state is of another model: horizon {kept.horizon_days:g} days with {len(kept.names)} inputs, "
                f"not {self.horizon_days:g} days with {len(self.names)}"
            )
        self.examples = kept.examples
        self._weigh(kept.weights)
        self._glm.optimizer.n_iterations = kept.steps
        self._glm.optimizer.g2.clear()
        self._glm.optimizer.g2.update(kept.squares)
        self._tide, self._anchor = kept.tide, kept.anchor
        self._drift, self._swing = kept.drift, kept.swing
        self._since, self._until = kept.since, kept.until
        self._value_scale, self._values = kept.value_scale, kept.values
        self._sampled, self._usual = kept.sampled, dict(kept.usual)
        self._glm.intercept = self.level

    def _weigh(self, weights: dict[str, float]) -> None:
        # river gives its weights out only as copies.
        vars(self._glm)["_weights"] = VectorDict(dict(weights), self._glm.initializer)


def _plain(struct: msgspec.Struct) -> dict[str, Any]:
    """As JSON has it: the same before and after it was written."""
    found: dict[str, Any] = msgspec.json.decode(msgspec.json.encode(struct))
    return found


def _inputs(rows: Floats) -> Inputs:
    return Inputs(*np.ascontiguousarray(rows.T))


def _log_values(rows: Floats) -> Floats:
    values: Floats = np.log(np.maximum(rows[:, _VALUE], SMALLEST_VALUE))
    return values


def _sigmoid(z: float) -> float:
    return 1.0 / (1.0 + math.exp(-z)) if z > -700.0 else 0.0


_VALUE: Final = Inputs._fields.index("order_value")
