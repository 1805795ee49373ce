"""What learns during a backtest: the trainer, fed with the labels as they mature, and what it has made of them.

Day by day the labels that left the engine are learned in their order, as the trainer's process would; what was
learned by the end of a day decides on the next.
"""

from __future__ import annotations

from typing import Final

from agents.backtest.curves import drawn
from agents.backtest.lightgbm import Refitted
from agents.settings import Settings
from alerts.engine import FEATURES_VERSION, Usable
from features.matrix import Floats, Inputs
from models.calibration import probability
from models.deciding import deciding
from models.learned import LearnedScore
from models.snapshot import CHAMPION, Snapshot
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
        self._seen: Inputs | None = None
        self.told: list[str] = []

    @property
    def compared_seconds(self) -> float:
        """Processor time that went into the comparison."""
        return 0.0 if self._refitted is None else self._refitted.seconds

    # ---- what a backtest asks

    def learn(self, message: Message) -> None:
        """One message of ``examples``; it is learned when next asked."""
        self._waiting.append(message)

    def models(self) -> list[Usable] | None:
        """What may decide from now on; None when nothing has changed."""
        if not self._waiting:
            return None
        examples = [decode_example(message.value) for message in self._waiting]
        self._waiting = []
        lesson = self._trainer.learn(examples)
        self.told += [each.text for each in lesson.told]
        if self._refitted is not None:
            self._refitted.take(examples)
        snapshot = self._snapshot = self._trainer.snapshot()
        unit = 10.0**self._settings.shop.minor_units
        return [Usable(snapshot.effective, deciding(snapshot, self._settings.prior, unit))]

    def stated(self, inputs: Inputs) -> dict[str, Floats]:
        """What each model beside the champion states."""
        self._seen = inputs
        rates = self._trainer.rates.rates
        found = {"btyd": probability(purchase_rate(rates, inputs, self._days))}
        for shown, name in BESIDE.items():
            found[shown] = LearnedScore(name, "", self._trainer.model(name), rates).score(inputs).churn
        if self._refitted is not None:
            found["lightgbm"] = self._refitted.stated(inputs)
        return {name: found[name] for name in self.names}

    def report(self) -> dict[str, object]:
        """What was learned by the end."""
        if self._snapshot is None:
            return {"labels": 0, "curves": []}
        leading = self._snapshot.leading
        curves = []
        if CHAMPION in leading.models and self._seen is not None:
            curves = [each._asdict() for each in drawn(self._snapshot, CHAMPION, self._seen)]
        return {
            "labels": self._trainer.labels,
            "churned": leading.gate.churned,
            "gate_open": leading.gate.open,
            "decides": leading.promoted.model,
            "snapshot": self._snapshot.version,
            "told": self.told,
            "curves": curves,
        }
