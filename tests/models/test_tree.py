from __future__ import annotations

from typing import Any

import msgspec
import numpy as np

from features.matrix import Inputs
from models.evaluation import auc
from models.tree import Tree


def customers(n: int, seed: int = 1) -> tuple[Any, Any]:
    """Whose recency and complaints together decide: additive in neither."""
    random = np.random.default_rng(seed)
    rows = np.zeros((n, len(Inputs._fields)))
    recency = random.exponential(30.0, n)
    complaint = (random.random(n) < 0.5).astype(float)
    p = np.where((recency > 25.0) ^ (complaint > 0), 0.9, 0.1)
    rows[:, Inputs._fields.index("recency")] = recency
    rows[:, Inputs._fields.index("open_complaints")] = complaint
    return rows, random.random(n) < p


def test_it_learns_what_an_additive_score_cannot_see() -> None:
    x, churned = customers(12_000)
    said = np.array(Tree().learn_many(x, churned.tolist(), [0.0] * 12_000))
    assert auc(churned[8_000:], said[8_000:]) > 0.8


def test_it_says_what_it_expects_before_it_learns_and_is_never_certain() -> None:
    x, churned = customers(500)
    said = Tree().learn_many(x, [True] * 500, [0.0] * 500)
    assert said[0] == 0.0
    assert max(said) < 6.0
    assert churned.any()


def test_it_goes_on_after_a_restart_as_if_there_had_been_none_however_labels_are_cut() -> None:
    """Leans on how river's tree is built: an upgrade that changes it fails here."""
    x, churned = customers(12_000)
    straight, stopped = Tree(), Tree()
    whole = straight.learn_many(x, churned.tolist(), [0.0] * 12_000)
    parts: list[float] = []
    for first in range(0, 12_000, 731):
        some = x[first : first + 731], churned[first : first + 731].tolist()
        parts += stopped.learn_many(*some, [0.0] * len(some[1]))
        state = msgspec.msgpack.decode(msgspec.msgpack.encode(stopped.state()))
        stopped = Tree()
        stopped.restore(state)
    assert parts == whole
    assert stopped.state() == straight.state()
    assert len(msgspec.msgpack.encode(stopped.state())) < 40_000
