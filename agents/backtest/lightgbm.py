"""The comparison that analysts know: gradient-boosted trees, refitted at every cut-off on all labels matured by then."""

from __future__ import annotations

import time
from array import array
from collections.abc import Sequence
from typing import Any, Final

import numpy as np

from features.matrix import Floats, Inputs
from streams.examples import Example

SETTINGS: Final = {
    "objective": "binary",
    "learning_rate": 0.05,
    "num_leaves": 15,
    "min_data_in_leaf": 100,
    "bagging_fraction": 0.8,
    "bagging_freq": 1,
    "feature_fraction": 0.8,
    "lambda_l2": 5.0,
    "seed": 1,
    "deterministic": True,
    "force_row_wise": True,
    "num_threads": 1,
    "verbosity": -1,
}
"""One setting for every shop, cautious as analysts would set it for some ten thousand labels."""
ROUNDS: Final = 200
LEAST: Final = 200
"""Labels of each outcome below which nothing is fitted: it states the share that churned."""


class MissingPackage(Exception):
    """An optional package is not there."""


class Refitted:
    """Keeps all labels and fits anew whenever it is asked. Raises :class:`MissingPackage`."""

    def __init__(self) -> None:
        try:
            import lightgbm  # noqa: PLC0415 -- an optional package
        except ImportError as error:
            raise MissingPackage("lightgbm is not installed.") from error
        self._lightgbm: Any = lightgbm
        self.seconds = 0.0
        """Processor time of the fits so far."""
        self._rows = array("f")
        self._churned = array("b")

    def take(self, examples: Sequence[Example]) -> None:
        """Labels that have matured."""
        for each in examples:
            self._rows.extend(each.inputs)
            self._churned.append(each.churned)

    def stated(self, inputs: Inputs) -> Floats:
        """The probabilities of a model fitted to all labels taken so far."""
        churned = np.frombuffer(self._churned, dtype=np.int8) if self._churned else np.zeros(0, dtype=np.int8)
        right = int(churned.sum())
        if min(right, len(churned) - right) < LEAST:
            share = (right + 1.0) / (len(churned) + 2.0)
            return np.full(len(inputs.recency), share)
        began = time.process_time()
        # A copy: what is looked into cannot grow.
        rows = np.frombuffer(self._rows, dtype=np.float32).reshape(len(churned), -1).copy()
        data = self._lightgbm.Dataset(rows, label=churned.astype(np.float32))
        model = self._lightgbm.train(dict(SETTINGS), data, num_boost_round=ROUNDS)
        stated: Floats = model.predict(np.array(inputs).T.astype(np.float32))
        self.seconds += time.process_time() - began
        return np.round(stated, 6)
