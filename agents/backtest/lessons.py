"""What learns during a backtest: the trainer, fed with the labels as they mature, and what it has made of them.

Day by day the labels that left the engine are learned in their order, as the trainer's process would; what was
learned by the end of a day decides on the next.
"""

from __future__ import annotations

from typing import Final

from agents.backtest.lightgbm import Refitted
from agents.settings import Settings
from alerts.engine import FEATURES_VERSION, Known
from features.matrix import Floats, Inputs
from models.calibration import probability
from models.learned import LearnedScore
from models.snapshot import Snapshot
from models.training import Trainer, purchase_rate
from streams.examples import decode_example
from streams.message import Message

BESIDE: Final = {"recency": "recency", "rfm_logistic": "rfm"}
"""The challengers that are shown, and what the trainer calls them."""


class Lessons:
    """The trainer of a backtest (see ``agents.backtest.run.Learner``). ``compare``: ``lightgbm``, or nothing.

    Raises :class:`agents.backtest.lightgbm.MissingPackage`.
    """

    def __init__(self, settings: Settings, compare: str | None = None) -> None:
        self._settings = settings
        self._days = settings.policy.horizon_days
        self._trainer = Trainer(
            settings.learning, self._days, settings.prior, FEATURES_VERSION, yardstick=False
        )
        self._refitted = Refitted() if compare else None
        self.names = ("recency", "btyd", "rfm_logistic", *(("lightgbm",) if compare else ()))
        self._waiting: list[Message] = []
        self._snapshot: Snapshot | None = None
        self.told: list[str] = []

    # ---- what a backtest asks

    def learn(self, message: Message) -> None:
        """One message of ``examples``; it is learned when next asked."""
        self._waiting.append(message)

    def models(self) -> list[Known] | None:
        """What may decide from now on; None when nothing has changed."""
        if not self._waiting:
            return None
        examples = [decode_example(message.value) for message in self._waiting]
        self._waiting = []
        lesson = self._trainer.learn(examples)
        self.told += [each.text for each in lesson.told]
        if self._refitted is not None:
            self._refitted.take(examples)
        before = self._snapshot
        snapshot = self._snapshot = self._trainer.snapshot()
        if snapshot.source != "learned" and (before is None or before.source != "learned"):
            return None
        return [Known(snapshot.effective, self._scored(snapshot))]

    def stated(self, inputs: Inputs) -> dict[str, Floats]:
        """What each model beside the champion states."""
        rates = self._trainer.rates.rates
        found = {"btyd": probability(purchase_rate(rates, inputs, self._days))}
        for shown, name in BESIDE.items():
            found[shown] = LearnedScore(name, "", self._trainer.model(name), rates).score(inputs).churn
        if self._refitted is not None:
            found["lightgbm"] = self._refitted.stated(inputs)
        return {name: found[name] for name in self.names}

    def _scored(self, snapshot: Snapshot) -> LearnedScore:
        leading = snapshot.leading
        learned = leading.models[leading.promoted.model]
        usual = {name: each.middle for name, each in snapshot.usual.items()}
        return LearnedScore(
            leading.promoted.model,
            snapshot.version,
            learned.data,
            snapshot.purchase_rate,
            scale=learned.calibration.scale,
            shift=learned.calibration.shift,
            usual=usual,
            unit=10.0**self._settings.shop.minor_units,
        )

    def report(self) -> dict[str, object]:
        """What was learned by the end."""
        if self._snapshot is None:
            return {"labels": 0, "curves": []}
        return {"labels": self._trainer.labels, "told": self.told, "curves": []}
