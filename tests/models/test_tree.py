from __future__ import annotations

import msgspec
import numpy as np

from features.matrix import Inputs
from models.evaluation import auc
from models.purchase_rate import Rates
from models.tree import Tree

RATES = Rates()


def customers(n: int, seed: int = 1) -> tuple[Inputs, np.ndarray]:
    """Whose recency and complaints together decide: additive in neither."""
    random = np.random.default_rng(seed)
    zero = np.zeros(n)
    x = Inputs(**dict.fromkeys(Inputs._fields, zero))
    recency = random.exponential(30.0, n)
    complaint = (random.random(n) < 0.5).astype(float)
    p = np.where((recency > 25.0) ^ (complaint > 0), 0.9, 0.1)
    return x._replace(recency=recency, open_complaints=complaint), random.random(n) < p


def part(x: Inputs, first: int, last: int) -> Inputs:
    return Inputs(*(values[first:last] for values in x))


def test_it_learns_what_an_additive_score_cannot_see() -> None:
    x, churned = customers(12_000)
    said = np.array(Tree().learn(x, churned.tolist(), RATES))
    assert auc(churned[8_000:], said[8_000:]) > 0.8


def test_it_says_what_it_expects_before_it_learns_and_is_never_certain() -> None:
    x, churned = customers(500)
    said = Tree().learn(x, [True] * 500, RATES)
    assert said[0] == 0.0
    assert max(said) < 6.0
    assert churned.any()


def test_it_goes_on_after_a_restart_as_if_there_had_been_none_however_labels_are_cut() -> None:
    """Leans on how river's tree is built: an upgrade that changes it fails here."""
    x, churned = customers(12_000)
    straight, stopped = Tree(), Tree()
    whole = straight.learn(x, churned.tolist(), RATES)
    parts: list[float] = []
    for first in range(0, 12_000, 731):
        parts += stopped.learn(part(x, first, first + 731), churned[first : first + 731].tolist(), RATES)
        state = msgspec.msgpack.decode(msgspec.msgpack.encode(stopped.state()))
        stopped = Tree()
        stopped.restore(state)
    assert parts == whole
    assert stopped.state() == straight.state()
    assert len(msgspec.msgpack.encode(stopped.state())) < 40_000
