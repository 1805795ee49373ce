"""The laws of the trainer: nothing twice, nothing early, the same however it is cut, stopped and restored."""

from __future__ import annotations

import random
from typing import Any

import msgspec
import numpy as np
import pytest

from alerts.engine import FEATURES_VERSION
from features.matrix import Inputs
from features.shop import DAY
from models.additive import Additive
from models.calibration import NONE, Repair
from models.evaluation import auc, log_loss
from models.learned import LearnedScore
from models.learning import Learning
from models.purchase_rate import Rates
from models.snapshot import CHAMPION, Prior, Snapshot, decode, encode
from models.training import BLOCK, BLOCKS, Trainer, UnknownState, contenders, needed_blocks
from streams.examples import Example
from tests.labels import HORIZON, START, labels

SOON = Learning(publish_labels=1_000)


def trainer(learning: Learning = SOON, days: float = HORIZON, features: str = FEATURES_VERSION) -> Trainer:
    return Trainer(learning, days, Prior(), features)


def stopped(before: Trainer, learning: Learning = SOON, days: float = HORIZON) -> Trainer:
    """As it is after a restart: only what was packed goes on."""
    state = msgspec.msgpack.decode(msgspec.msgpack.encode(before.state()))
    blocks = before.blocks()
    assert set(needed_blocks(state)) == set(blocks)
    after = trainer(learning, days)
    assert after.restore(state, blocks)
    return after


@pytest.fixture(scope="module")
def many() -> list[Example]:
    return labels(4_600)


@pytest.fixture(scope="module")
def straight(many: list[Example]) -> tuple[Trainer, list[Snapshot]]:
    """One that has learned all at once, and what it published."""
    one = trainer()
    return one, [p.snapshot for p in one.learn(many).published]


def figures(snapshot: Snapshot) -> dict[str, Any]:
    return {f.model: f for f in snapshot.leading.figures}


def test_the_same_labels_give_the_same_snapshots_however_they_are_cut_and_whenever_it_is_stopped(
    many: list[Example], straight: tuple[Trainer, list[Snapshot]]
) -> None:
    dice = random.Random(5)
    other = trainer()
    published: list[Snapshot] = []
    at = 0
    while at < len(many):
        n = dice.choice([1, 2, 50, BLOCK, 900])
        again = max(0, at - dice.choice([0, 0, 30]))  # what was read already comes once more
        published += [p.snapshot for p in other.learn(many[again : at + n]).published]
        at += n
        if dice.random() < 0.2:
            other = stopped(other)
    one, right = straight
    assert [s.version for s in published] == [s.version for s in right]
    assert len(right) >= 4
    assert other.state() == one.state()
    assert other.blocks() == one.blocks()


def test_the_first_labels_too_teach_the_same_however_they_are_cut(many: list[Example]) -> None:
    """The rates are fitted at every doubling then, in the middle of a block."""
    one = trainer()
    one.learn(many[:700])
    dice = random.Random(7)
    for most in (1, 3, 40, 300):
        other = trainer()
        at = 0
        while at < 700:
            n = dice.randint(1, most)
            other.learn(many[at : min(at + n, 700)])
            at += n
        assert other.state() == one.state()


def test_an_example_is_not_learned_twice(many: list[Example]) -> None:
    one = trainer()
    one.learn(many[:500])
    before = one.state()
    lesson = one.learn(many[:500])
    assert set(lesson.what) == {"repeated"}
    assert lesson.published == ()
    assert one.state() == before


def test_after_its_own_state_was_rolled_back_it_learns_again_what_it_forgot_and_nothing_else(
    many: list[Example], straight: tuple[Trainer, list[Snapshot]]
) -> None:
    one = trainer()
    one.learn(many[:2_000])
    backup = stopped(one)
    one.learn(many[2_000:3_000])
    lesson = backup.learn(many[1_500:])  # the topic is read again from before the backup's end
    assert [what == "learned" for what in lesson.what] == [False] * 500 + [True] * 2_600
    assert backup.state() == straight[0].state()


def test_of_one_block_only_what_is_new_is_to_be_kept(many: list[Example]) -> None:
    one = trainer()
    one.learn(many[: 3 * BLOCK + 5])
    assert {name for name in one.unsaved() if ":c" not in name} == {"7.0:0", "7.0:1", "7.0:2"}
    one.saved()
    one.learn(many[3 * BLOCK + 5 : 4 * BLOCK])
    assert {name for name in one.unsaved() if ":c" not in name} == {"7.0:3"}
    assert one.unsaved().items() <= one.blocks().items()
    head = msgspec.msgpack.encode(one.state())
    assert len(head) < 64_000


def test_a_label_is_foretold_by_what_had_been_learned_when_the_customer_was_looked_at(
    many: list[Example],
) -> None:
    """Of the first labels nothing had matured yet at their snapshots: only what is known before all labels counts."""
    early = [e for e in many if e.at < many[0].due][: 5 * BLOCK]
    assert len(early) == 5 * BLOCK
    one = trainer()
    one.learn(early)
    rows = np.array([e.inputs for e in early], dtype=np.float32).T.astype(float)
    churned = np.array([e.churned for e in early], dtype=float)
    found = figures(one.snapshot())
    for name, untaught in contenders(HORIZON).items():
        logit = LearnedScore(name, "", untaught.published(), Rates()).score(Inputs(*rows)).logit
        p = 1 / (1 + np.exp(-logit))
        assert found[name].log_loss == pytest.approx(log_loss(churned, p), abs=2e-6)
        assert found[name].auc == pytest.approx(auc(churned, p), abs=2e-6)


def test_what_was_learned_shows_a_horizon_later(straight: tuple[Trainer, list[Snapshot]]) -> None:
    first, last = figures(straight[1][0]), figures(straight[1][-1])
    assert last["rfm"].log_loss < first["rfm"].log_loss - 0.05


def test_figures_are_about_the_last_full_blocks_and_say_since_when(
    straight: tuple[Trainer, list[Snapshot]], many: list[Example]
) -> None:
    found = figures(straight[0].snapshot())
    first = (len(many) // BLOCK - BLOCKS) * BLOCK
    assert {f.labels for f in found.values()} == {BLOCKS * BLOCK}
    assert {f.since for f in found.values()} == {many[first].due}


def test_a_snapshot_knows_nothing_later_than_its_newest_label_and_has_no_clock_of_its_own(
    straight: tuple[Trainer, list[Snapshot]],
) -> None:
    for snapshot in straight[1]:
        assert snapshot.effective == snapshot.made_at
        assert all(p.since <= snapshot.effective for p in snapshot.leading.promotions)
        assert decode(encode(snapshot)) == snapshot
    assert [s.effective for s in straight[1]] == sorted(s.effective for s in straight[1])


def test_the_prior_decides_until_the_gate_opens_and_the_gate_says_until_when(many: list[Example]) -> None:
    one = trainer(Learning(gate=1_000))
    one.learn(many[:1_200])
    before = one.snapshot()
    gate = before.leading.gate
    assert before.source == "statistical"
    assert before.promoted == "rhythm"
    assert (gate.open, gate.needed, gate.churned + gate.stayed) == (False, 1_000, 1_200)
    assert gate.until is not None
    one.learn(many[1_200:])
    after = one.snapshot().leading
    assert after.gate.open
    assert after.gate.until is None
    # It opened at the first full block at which both outcomes were there.
    rarer = [e.due for e in many if e.churned][999], [e.due for e in many if not e.churned][999]
    assert abs(max(rarer) - gate.until) < 3 * DAY
    assert after.promoted.model == CHAMPION
    assert after.promoted.since >= max(rarer)


def test_with_labels_of_one_outcome_only_nothing_learned_decides_and_nothing_fails() -> None:
    one = trainer(Learning(gate=10))
    one.learn(labels(1_000, level=-40.0, complaint=0.0))
    snapshot = one.snapshot()
    assert snapshot.source == "statistical"
    assert (snapshot.leading.gate.churned, snapshot.leading.gate.until) == (0, None)
    assert figures(snapshot)[CHAMPION].auc is None


def test_before_anything_was_learned_there_is_a_snapshot_that_says_so() -> None:
    snapshot = trainer().snapshot()
    assert (snapshot.effective, snapshot.leading.labels, snapshot.source) == (0, 0, "statistical")
    assert snapshot.usual == {}


def test_a_promotion_says_why_and_is_published_at_once(straight: tuple[Trainer, list[Snapshot]]) -> None:
    first = next(s for s in straight[1] if s.promoted == CHAMPION)
    assert first.source == "learned"
    (promotion,) = first.leading.promotions
    assert promotion.since == first.effective
    assert promotion.why.startswith("log-loss 0.")
    assert " of rhythm over the last " in promotion.why


def test_a_challenger_is_promoted_when_it_has_been_better_by_a_margin_for_days_not_at_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A champion that is made worse than its challenger loses, but not to a lucky block."""
    published = Additive.published

    def worse(self: Any) -> dict[str, Any]:
        data = published(self)
        if self.names == contenders(HORIZON)[CHAMPION].names and self._until > START / DAY + 20:
            data["level"] += 4.0
        return data

    monkeypatch.setattr(Additive, "published", worse)
    monkeypatch.setattr(Repair, "holds", NONE)
    one = trainer()
    one.learn(labels(5_000))
    found = one.snapshot().leading
    assert found.promotions[0].model == CHAMPION
    assert found.promoted.model in {"rfm", "purchase_rate", "recency"}
    fell = START + round((20 + HORIZON) * DAY)
    assert found.promotions[1].since > fell + HORIZON * DAY
    assert f"of {CHAMPION} over the last" in found.promotions[1].why
    assert found.models.keys() == {CHAMPION, found.promoted.model} - {"purchase_rate"}


def test_the_tree_is_compared_and_never_promoted(straight: tuple[Trainer, list[Snapshot]]) -> None:
    found = figures(straight[0].snapshot())
    assert found["tree"].log_loss is not None
    assert "tree" not in straight[0].snapshot().leading.models
    bare = Trainer(SOON, HORIZON, Prior(), FEATURES_VERSION, yardstick=False)
    bare.learn(labels(200))
    assert "tree" not in figures(bare.snapshot())


def test_what_has_moved_is_told_and_published() -> None:
    one = trainer()
    told = list(one.learn(labels(4_000)).told)
    assert not [news for news in told if news.kind == "drift"]
    told += one.learn(labels(4_000, first=4_000, seed=2, value=4.0)).told
    moved = {d.what for d in one.snapshot().leading.drift}
    assert "input:order_value" in moved
    assert any(news.kind == "drift" and "input:order_value" in news.text for news in told)


def test_what_is_usual_is_that_of_customers_who_came_again(
    straight: tuple[Trainer, list[Snapshot]], many: list[Example]
) -> None:
    usual = straight[0].snapshot().usual["recency"]
    right = np.quantile([e.inputs[0] for e in many if not e.churned], [0.25, 0.5, 0.75])
    assert (usual.low, usual.middle, usual.high) == pytest.approx(tuple(right), rel=0.2)


def test_several_horizons_are_learned_beside_each_other_and_one_leads() -> None:
    learning = Learning(horizons=(84.0,))
    one = trainer(learning)
    short, long = labels(1_500), labels(1_500, horizon=84.0, level=-2.0, seed=3)
    mixed = [e for pair in zip(short, long, strict=True) for e in pair]
    mixed = [
        msgspec.structs.replace(e, partition=0, sequence=k)
        for k, e in enumerate(sorted(mixed, key=lambda e: e.due), 1)
    ]
    one.learn(mixed[:1_700])
    one = stopped(one, learning)
    one.learn(mixed[1_700:])
    snapshot = one.snapshot()
    assert [h.days for h in snapshot.horizons] == [HORIZON, 84.0]
    assert [h.labels for h in snapshot.horizons] == [1_500, 1_500]
    assert snapshot.horizon_days == HORIZON
    only = trainer()
    only.learn(short)
    assert only.snapshot().leading.figures == snapshot.leading.figures


def test_labels_of_a_horizon_nobody_wants_and_of_other_inputs_are_passed_over_for_good() -> None:
    one = trainer()
    first, second, third = labels(3)
    odd = [
        msgspec.structs.replace(first, horizon_days=9.0),
        msgspec.structs.replace(second, features="0"),
        msgspec.structs.replace(third, inputs=third.inputs[:-1]),
    ]
    assert one.learn(odd).what == ("other_horizon", "other_features", "other_features")
    assert one.learn([first, second, third]).what == ("repeated",) * 3
    assert one.labels == 0


def test_with_other_inputs_learning_begins_anew_and_what_was_learned_stays_known(many: list[Example]) -> None:
    one = trainer()
    one.learn(many[:1_000])
    state, blocks = one.state(), one.blocks()
    other = trainer(features="another")
    assert not other.restore(state, blocks)
    assert other.labels == 0
    renewed = [msgspec.structs.replace(e, features="another") for e in many[:1_200]]
    assert other.learn(renewed).what.count("repeated") == 1_000


def test_a_state_of_another_release_is_refused_with_what_to_do(many: list[Example]) -> None:
    state = trainer().state() | {"version": 99}
    with pytest.raises(
        UnknownState, match="has version 99, this churnwatch knows 1: run the release that wrote it"
    ):
        trainer().restore(state, {})


def test_old_snapshots_are_deleted_so_that_only_so_many_stay(many: list[Example]) -> None:
    one = trainer(Learning(publish_labels=256, keep=3))
    published = one.learn(many[:3_000]).published
    names = [p.snapshot.version for p in published]
    deleted = [version for p in published for version in p.deleted]
    assert deleted == names[: len(names) - 3]
    assert stopped(one, Learning(publish_labels=256, keep=3)).publish().deleted == (names[-3],)
