"""One tree of river's among the challengers: a yardstick for what an additive score cannot see.

A Hoeffding tree (Domingos and Hulten, *Mining high-speed data streams*, KDD 2000) on the inputs that say most.
river has no way to write one down, so it is read and rebuilt here from its public parts, as plain numbers: a
restart changes nothing. It cannot be promoted: its reasons would not add up to its score.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Final

import numpy as np
from river import proba, stats
from river.tree import HoeffdingTreeClassifier
from river.tree.nodes.branch import NumericBinaryBranch
from river.tree.nodes.htc_nodes import LeafMajorityClass
from river.tree.splitter import GaussianSplitter

from features.matrix import Inputs
from models.purchase_rate import Rates

READS: Final = (
    "recency", "repeats", "gaps", "gap_mean", "bought_30", "bought_90", "order_value", "browsed_30",
    "open_complaints",
)  # fmt: skip
"""The inputs it splits on."""
_PLACES: Final = [Inputs._fields.index(name) for name in READS]
DEEPEST: Final = 5
GRACE: Final = 200
"""Labels a leaf sees between two attempts to split it."""
SMALLEST: Final = 0.005
"""No probability nearer to 0 or 1 is stated: a pure leaf has seen too little to be certain."""


class Tree:
    """A river Hoeffding tree that takes labels one at a time."""

    def __init__(self) -> None:
        self.rates = Rates()
        """It has no use for them."""
        self._tree: Any = HoeffdingTreeClassifier(
            grace_period=GRACE,
            max_depth=DEEPEST,
            leaf_prediction="mc",
            delta=1e-4,
            tau=0.1,
            # Its depth bounds it: no estimate of its size, which would be one more thing to remember.
            memory_estimate_period=1 << 62,
        )

    def learn_many(
        self,
        inputs: Sequence[Sequence[float]],
        churned: Sequence[bool],
        due_days: Sequence[float],  # noqa: ARG002
    ) -> list[float]:
        """The log-odds it gives for each example before it learns the label."""
        tree = self._tree
        found = []
        read = np.asarray(inputs, dtype=np.float64)[:, _PLACES].tolist()
        for values, label in zip(read, churned, strict=True):
            row = dict(zip(READS, values, strict=True))
            p = min(max(tree.predict_proba_one(row).get(True, 0.5), SMALLEST), 1.0 - SMALLEST)
            tree.learn_one(row, label)
            found.append(math.log(p / (1.0 - p)))
        return found

    def state(self) -> dict[str, Any]:
        """Plain data to go on from."""
        inside = vars(self._tree)
        root = inside["_root"]
        return {
            "classes": sorted(self._tree.classes),
            "weight": inside["_train_weight_seen_by_model"],
            "active": self._tree.n_active_leaves,
            "inactive": self._tree.n_inactive_leaves,
            "root": None if root is None else _written(root),
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Go on from what ``state`` gave, as if nothing had been between."""
        tree = self._tree
        tree.classes = set(state["classes"])
        root = state["root"]
        vars(tree).update(
            _train_weight_seen_by_model=state["weight"],
            _n_active_leaves=state["active"],
            _n_inactive_leaves=state["inactive"],
            _root=None if root is None else _rebuilt(root, tree.splitter),
        )


def _written(node: Any) -> list[Any]:
    seen = list(node.stats.items())
    if isinstance(node, NumericBinaryBranch):
        return [node.depth, seen, node.feature, node.threshold, *map(_written, node.children)]
    splitters = None
    if node.splitters is not None:
        splitters = [[name, _observed(splitter)] for name, splitter in node.splitters.items()]
    return [node.depth, seen, node.last_split_attempt_at, splitters]


def _observed(splitter: Any) -> list[list[Any]]:
    inside = vars(splitter)
    low, high = inside["_min_per_class"], inside["_max_per_class"]
    found = []
    for kind, distribution in inside["_att_dist_per_class"].items():
        spread = vars(distribution)["_var"]
        mean = vars(spread.mean)
        found.append([kind, low[kind], high[kind], mean["n"], mean["_mean"], vars(spread)["_S"]])
    return found


def _rebuilt(state: Sequence[Any], splitter: Any) -> Any:
    depth, seen = state[0], dict(state[1])
    if len(state) > 4:
        children = [_rebuilt(child, splitter) for child in state[4:]]
        return NumericBinaryBranch(seen, state[2], state[3], depth, *children)
    leaf = LeafMajorityClass(seen, depth, splitter)
    leaf.last_split_attempt_at = state[2]
    leaf.splitters = None if state[3] is None else {name: _splitter(found) for name, found in state[3]}
    return leaf


def _splitter(observed: Sequence[Sequence[Any]]) -> Any:
    found = GaussianSplitter()
    inside = vars(found)
    for kind, low, high, n, mean, squares in observed:
        spread = stats.Var(ddof=1)
        vars(spread.mean).update(n=n, _mean=mean)
        vars(spread)["_S"] = squares
        distribution = proba.Gaussian()
        vars(distribution)["_var"] = spread
        inside["_min_per_class"][kind] = low
        inside["_max_per_class"][kind] = high
        inside["_att_dist_per_class"][kind] = distribution
    return found
