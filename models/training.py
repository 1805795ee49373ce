"""The trainer: what is learned from each label that has matured, and what is published of it.

Pure, and a function of the examples in their order: however they are cut into batches, however often the
trainer is stopped and restored, the same examples give the same snapshots under the same names. An example it
has learned already it knows by its partition and sequence, and passes over.

Every label is first a test, and an honest one: what counts is what each model would have stated **when the
customer was looked at**, a horizon before the label matured, by what had been learned until then (evaluation
under delayed labels: Grzenda, Gomes and Bifet, *Delayed labelling evaluation for data streams*, Data Mining and
Knowledge Discovery 34, 2020). Asked only when the label is there, a model that follows the season looks better
than it is: it knows by then how the season went. So a copy of what the models have learned is kept for each
twelfth of a horizon, and labels are foretold by the newest copy that is not younger than their snapshot.

Labels count in blocks of ``BLOCK``; the last ``BLOCKS`` of them are the window that figures are about. When a
block is full it is foretold and noted, the repair of calibration is fitted anew, drift is looked for, and it is
considered whether another model should decide.

The models: ``rhythm`` (``models.churn``, from the settings' prior) and ``purchase_rate`` (buy till you die) need
no label; ``additive`` is the champion; its challengers are ``recency`` (recency only), ``rfm`` (recency,
frequency, money) and ``tree`` (one of river's, which cannot be promoted, and is asked when the label is there).
"""

from __future__ import annotations

from array import array
from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final, Literal, NamedTuple, Protocol

import msgspec
import numpy as np
from numpy.typing import NDArray

from features.matrix import Inputs
from features.shop import DAY
from models.additive import ALONE, Additive
from models.basis import RECENCY, RFM
from models.calibration import NONE, Affine, Repair, losses, probability, reliability
from models.churn import RhythmScore
from models.drift import Watch
from models.evaluation import auc, brier, log_loss
from models.learned import LearnedScore
from models.learning import Learning
from models.purchase_rate import OnlineRates, Rates, log_odds_of_none
from models.snapshot import (
    CHAMPION,
    STATISTICAL,
    Calibration,
    Figures,
    Gate,
    Horizon,
    Learned,
    Prior,
    Promotion,
    Snapshot,
    Usual,
    named,
)
from models.spend import OnlineSpend
from models.tree import Tree
from streams.events import Micros, rfc3339
from streams.examples import Example

Floats = NDArray[np.float64]

VERSION: Final = 1
"""Of the trainer's own state."""
BLOCK: Final = 128
BLOCKS: Final = 32
SAMPLED: Final = 8
"""Of so many labels one is remembered with its inputs, to say what is usual."""
YARDSTICK: Final = "tree"
MARGIN: Final = 0.01
"""By what share of its log-loss a challenger must be better than the model that decides."""
CERTAIN: Final = 2.0
"""By how many standard errors of the difference, too."""
LEAST: Final = 4
"""Full blocks in the window before models are compared."""
AHEAD_DAYS: Final = 7.0
"""How long at least, and for a horizon, a challenger must have been ahead at every look by the labels' own clock, so
that a weekday, a campaign or a season promotes nothing."""
COPIES: Final = 16
PER_HORIZON: Final = 12
"""Copies of what was learned that are kept, and how many fall on a horizon."""
PROMOTIONS: Final = 20
"""Promotions that are remembered."""

INPUTS: Final = Inputs._fields
_RECENCY, _AGE, _GAPS, _REPEATS, _ORDER_VALUE = map(
    INPUTS.index, ("recency", "age", "gaps", "repeats", "order_value")
)
GROWING: Final = frozenset({"recency", "age", "repeats", "gaps", "gap_mean", "gap_variance", "last_gap"})
"""Inputs that grow as customers, and a young shop, grow older: that they move means nothing."""
_WATCHED: Final = [i for i, name in enumerate(INPUTS) if name not in GROWING]
_SIGNALS: Final = (*(f"input:{INPUTS[i]}" for i in _WATCHED), "score", "error")


class Learner(Protocol):
    """A model that learns one label at a time. ``rates``: of the shop, by which it may read what it is given."""

    rates: Rates

    def learn_many(
        self, inputs: Sequence[Sequence[float]], churned: Sequence[bool], due_days: Sequence[float]
    ) -> Sequence[float]:
        """The log-odds of churn it states for each example (inputs in the order of ``INPUTS``, float32), before it
        learns its label and after it has learned those before; the same however examples are cut into calls.
        ``due_days``: when the labels matured, in days since the epoch."""
        ...

    def state(self) -> dict[str, Any]:
        """Plain data to go on from."""
        ...

    def restore(self, state: dict[str, Any]) -> None:
        """Go on from what ``state`` gave."""
        ...


def contenders(days: float) -> dict[str, Additive]:
    """The models that learn and may be promoted, for a horizon in days: the champion and its challengers."""
    return {
        CHAMPION: Additive(days),
        "recency": Additive(days, RECENCY, rate=ALONE),
        "rfm": Additive(days, RFM, rate=ALONE),
    }


What = Literal["learned", "repeated", "other_horizon", "other_features"]


class Publication(NamedTuple):
    """A snapshot to be published, and the versions that are to be deleted."""

    snapshot: Snapshot
    deleted: tuple[str, ...]


class News(NamedTuple):
    """Something to be told: the gate has opened, a model was promoted, something has moved (``what``: ``input``,
    ``score`` or ``error``)."""

    kind: Literal["gate", "promotion", "drift"]
    text: str
    what: str = ""


class Lesson(NamedTuple):
    """What became of some examples, in their order; the snapshots that fell due on the way; what is to be told."""

    what: tuple[What, ...]
    published: tuple[Publication, ...]
    told: tuple[News, ...]


class UnknownState(ValueError):
    """A trainer's state was written by another release; the message says what to do."""


class _Block(NamedTuple):
    """A full block. ``since``: when its first label matured; ``own``: what each model itself would have said, and
    ``stated``: the champion after its repair, in log-odds; ``sample``: inputs of some who came again, a row each."""

    since: Micros
    churned: Floats
    own: dict[str, Floats]
    stated: Floats
    sample: NDArray[np.float32]
    loss: dict[str, Floats]


class _Copy:
    """What had been learned by an instant, to foretell what was looked at after it. ``data`` by model."""

    def __init__(self, at: Micros, data: dict[str, dict[str, Any]], rates: Rates, repair: Affine) -> None:
        self.at, self.data, self.rates, self.repair = at, data, rates, repair
        self._scores = {name: LearnedScore(name, "", learned, rates) for name, learned in data.items()}

    def said(self, x: Inputs, days: float) -> dict[str, Floats]:
        """The log-odds of each model."""
        found = {name: score.score(x).logit for name, score in self._scores.items()}
        found["purchase_rate"] = purchase_rate(self.rates, x, days)
        return found

    def packed(self) -> bytes:
        """To be kept."""
        return _pack([self.at, self.data, msgspec.to_builtins(self.rates), list(self.repair)])

    @classmethod
    def unpacked(cls, raw: bytes) -> _Copy:
        """As it was kept."""
        at, data, rates, repair = msgspec.msgpack.decode(raw)
        return cls(at, data, msgspec.convert(rates, Rates), Affine(*repair))


class _Course:
    """What is learned for one horizon."""

    def __init__(self, days: float, prior: Prior, needed: int, *, yardstick: bool) -> None:
        self.days = days
        self.rhythm = RhythmScore(prior, days)
        self.promotable = contenders(days)
        self.learners: dict[str, Learner] = {**self.promotable}
        if yardstick:
            self.learners[YARDSTICK] = Tree()
        self.models = (*STATISTICAL, *self.learners)
        self.needed = needed
        self.labels = 0
        self.churned = 0
        self.repair = Repair()
        self.watch = Watch()
        self.promoted = Promotion(model=STATISTICAL[0], since=0, why="before anything was learned")
        self.promotions: tuple[Promotion, ...] = ()
        self.open = False
        self.ahead: dict[str, Micros] = {}
        self.full = 0
        self.blocks: deque[_Block] = deque(maxlen=BLOCKS)
        self.unsaved: dict[str, bytes] = {}
        untaught = {name: model.published() for name, model in self.promotable.items()}
        self.copies: deque[_Copy] = deque([_Copy(0, untaught, Rates(), NONE)], maxlen=COPIES)
        self.copied = 0
        self.empty()

    # ---- the block that fills

    def empty(self) -> None:
        """Begin a block."""
        self.since: Micros = 0
        self.outcomes = array("f")
        self.ats = array("q")
        self.rows = array("f")
        self.asked = array("f")

    @property
    def room(self) -> int:
        """Labels until the block is full."""
        return BLOCK - len(self.outcomes)

    def take(self, examples: Sequence[Example], rates: Rates) -> None:
        """Test, note, learn. There is room for all of them."""
        if not self.since:
            self.since = examples[0].due
        rows = np.array([e.inputs for e in examples], dtype=np.float32)
        outcomes = [e.churned for e in examples]
        self.labels += len(outcomes)
        self.churned += sum(outcomes)
        self.outcomes.extend(outcomes)
        self.ats.extend([e.at for e in examples])
        self.rows.frombytes(rows.tobytes())
        due = [e.due / DAY for e in examples]
        given: Any = rows  # an array is a sequence of sequences, to all but a checker of types
        for name, learner in self.learners.items():
            learner.rates = rates
            said = learner.learn_many(given, outcomes, due)
            if name == YARDSTICK:
                self.asked.extend(said)

    def _foretold(self, rows: NDArray[np.float32]) -> tuple[dict[str, Floats], Floats]:
        """What each model would have said of the rows of a block when they were looked at, and what the champion
        would have stated."""
        x = _inputs(rows)
        own = {"rhythm": self.rhythm.score(x).logit}
        if self.asked:
            own[YARDSTICK] = _floats(self.asked)
        stated = np.empty(len(rows))
        made = np.array([copy.at for copy in self.copies])
        newest = np.maximum(np.searchsorted(made, np.frombuffer(self.ats, np.int64), side="right") - 1, 0)
        for number in np.unique(newest).tolist():
            here = np.flatnonzero(newest == number)
            copy = self.copies[number]
            for model, said in copy.said(Inputs(*(values[here] for values in x)), self.days).items():
                own.setdefault(model, np.empty(len(rows)))[here] = said
                if model == CHAMPION:
                    stated[here] = copy.repair.of(said)
        # As they will be read again after a restart.
        return {model: _rounded(own[model]) for model in self.models}, _rounded(stated)

    def _copy(self, at: Micros, rates: Rates) -> None:
        """Keep what has been learned by now, for what is looked at from now on."""
        if self.copied and at - self.copies[-1].at < self.days * DAY / PER_HORIZON:
            return
        data = {name: model.published() for name, model in self.promotable.items()}
        copy = _Copy(at, data, rates, self.repair.holds)
        self.unsaved[f"c{self.copied % COPIES}"] = copy.packed()
        self.copies.append(copy)
        self.copied += 1

    def close(self, at: Micros, rates: Rates) -> list[News]:
        """The block is full. What is to be told."""
        rows = np.frombuffer(self.rows, dtype=np.float32).reshape(BLOCK, len(INPUTS))
        churned = _floats(self.outcomes)
        sample = rows[::SAMPLED][churned[::SAMPLED] == 0].copy()
        own, stated = self._foretold(rows)
        block = _block(self.since, churned, own, stated, sample)
        self.unsaved[str(self.full % BLOCKS)] = _packed(block)
        self.blocks.append(block)
        self.full += 1
        whole = self._window(CHAMPION, own=True), np.concatenate([b.churned for b in self.blocks])
        self.repair.after((own[CHAMPION], churned), whole)
        model = self.promoted.model
        said = probability(block.stated if model == CHAMPION else own[model])
        signals = np.vstack([rows.T[_WATCHED].astype(np.float64), said, block.loss[model]])
        moved = self.watch.after(_SIGNALS, signals, at)
        told: list[News] = [
            News(
                "drift",
                f"{d.what} has moved: {d.before:.4g} before, now {d.after:.4g} (horizon {self.days:g} days)",
                d.what.partition(":")[0],
            )
            for d in moved
        ]
        told += self._consider(at)
        self._copy(at, rates)
        self.empty()
        return told

    def _window(self, model: str, *, own: bool = False) -> Floats:
        """Log-odds that a model said (``own``), or stated, over the window of full blocks."""
        if model == CHAMPION and not own:
            return np.concatenate([np.empty(0), *(b.stated for b in self.blocks)])
        return np.concatenate([np.empty(0), *(b.own[model] for b in self.blocks)])

    # ---- who decides

    def _consider(self, at: Micros) -> list[News]:
        """Whether another model should decide from now on."""
        told: list[News] = []
        stayed = self.labels - self.churned
        if not self.open and min(self.churned, stayed) >= self.needed:
            self.open = True
            text = f"The gate is open: {self.churned} churned, {stayed} stayed (horizon {self.days:g} days)"
            told.append(News("gate", text))
        if len(self.blocks) < LEAST:
            return told
        loss = {model: np.concatenate([b.loss[model] for b in self.blocks]) for model in self.models}
        held = loss[self.promoted.model]
        best = min(float(loss[model].mean()) for model in STATISTICAL)
        found: tuple[float, str] | None = None
        for model in self.models:
            if model in {self.promoted.model, YARDSTICK} or (model not in STATISTICAL and not self.open):
                continue
            gained = held - loss[model]
            gain = float(gained.mean())
            # Labels are there for the champion: it takes over from the statistical scores when it is no worse.
            first = model == CHAMPION and all(p.model != CHAMPION for p in self.promotions)
            if first:
                better = float(loss[model].mean()) <= best
            else:
                error = float(gained.std()) / len(gained) ** 0.5
                better = gain > max(MARGIN * float(held.mean()), CERTAIN * error)
            if not better:
                self.ahead.pop(model, None)
                continue
            since = self.ahead.setdefault(model, at)
            if (first or at - since >= max(AHEAD_DAYS, self.days) * DAY) and (
                found is None or gain > found[0]
            ):
                found = gain, model
        if found is not None:
            told.append(self._promote(found[1], found[0], held, at))
        return told

    def _promote(self, model: str, gain: float, held: Floats, at: Micros) -> News:
        loss = float(held.mean())
        why = (
            f"log-loss {loss - gain:.4f} against {loss:.4f} of {self.promoted.model} over the last {len(held)} labels"
            f", ahead since {rfc3339(self.ahead[model])[:10]}"
        )
        self.promoted = Promotion(model=model, since=at, why=why)
        self.promotions = (*self.promotions, self.promoted)[-PROMOTIONS:]
        self.ahead = {}
        return News("promotion", f"{model} decides now: {why} (horizon {self.days:g} days)")

    # ---- what is published

    def published(self, effective: Micros) -> Horizon:
        """What a snapshot says of this horizon."""
        models = {
            name: Learned(
                calibration=self.repair.published() if name == CHAMPION else Calibration(),
                data=model.published(),
            )
            for name, model in self.promotable.items()
            if name in {CHAMPION, self.promoted.model}
        }
        churned = np.concatenate([np.empty(0), *(b.churned for b in self.blocks)])
        stated = {model: self._window(model) for model in self.models}
        since = self.blocks[0].since if self.blocks else self.since
        return Horizon(
            days=self.days,
            labels=self.labels,
            promoted=self.promoted,
            promotions=self.promotions,
            gate=self._gate(effective, since, np.concatenate([churned, _floats(self.outcomes)])),
            models=models,
            figures=tuple(_figures(model, since, churned, said) for model, said in stated.items()),
            reliability=reliability(probability(stated[self.promoted.model]), churned),
            drift=self.watch.moved,
        )

    def _gate(self, effective: Micros, since: Micros, churned: Floats) -> Gate:
        stayed = self.labels - self.churned
        until: Micros | None = None
        churners = int(churned.sum())
        # Of each outcome: how many are missing, and how many came lately.
        lacking = (self.needed - self.churned, churners), (self.needed - stayed, len(churned) - churners)
        if not self.open and effective > since and all(lately or missing <= 0 for missing, lately in lacking):
            waits = [missing / lately for missing, lately in lacking if missing > 0]
            until = effective + round(max(waits, default=0.0) * (effective - since))
        return Gate(open=self.open, needed=self.needed, churned=self.churned, stayed=stayed, until=until)

    def usual(self) -> dict[str, Usual]:
        """What is usual among customers who came again."""
        samples = [b.sample for b in self.blocks if len(b.sample)]
        if not samples:
            return {}
        quartiles = np.quantile(np.concatenate(samples).astype(np.float64), [0.25, 0.5, 0.75], axis=0)
        return {
            name: Usual(low=round(low, 6), middle=round(middle, 6), high=round(high, 6))
            for name, low, middle, high in zip(INPUTS, *quartiles.tolist(), strict=True)
        }

    # ---- what is kept

    def state(self) -> dict[str, Any]:
        """All but the full blocks."""
        return {
            "labels": self.labels,
            "churned": self.churned,
            "learners": {name: learner.state() for name, learner in self.learners.items()},
            "repair": self.repair.state(),
            "watch": self.watch.state(),
            "promoted": msgspec.to_builtins(self.promoted),
            "promotions": msgspec.to_builtins(self.promotions),
            "open": self.open,
            "ahead": self.ahead,
            "full": self.full,
            "since": self.since,
            "outcomes": self.outcomes.tobytes(),
            "ats": self.ats.tobytes(),
            "rows": self.rows.tobytes(),
            "asked": self.asked.tobytes(),
            "copied": self.copied,
        }

    def restore(self, state: Mapping[str, Any], blocks: Mapping[str, bytes]) -> None:
        """Go on from ``state`` and the full blocks that belong to it, by slot."""
        for name, learner in self.learners.items():
            if name in state["learners"]:
                learner.restore(state["learners"][name])
        self.labels, self.churned = state["labels"], state["churned"]
        self.repair = Repair.restored(state["repair"])
        self.watch = Watch.restored(state["watch"])
        self.promoted = msgspec.convert(state["promoted"], Promotion)
        self.promotions = msgspec.convert(state["promotions"], tuple[Promotion, ...])
        self.open, self.ahead, self.full = state["open"], dict(state["ahead"]), state["full"]
        self.since = state["since"]
        self.outcomes.frombytes(state["outcomes"])
        self.ats.frombytes(state["ats"])
        self.rows.frombytes(state["rows"])
        self.asked.frombytes(state["asked"])
        for number in range(max(0, self.full - BLOCKS), self.full):
            self.blocks.append(_unpacked(blocks[str(number % BLOCKS)]))
        self.copied = state["copied"]
        for number in range(max(0, self.copied - COPIES), self.copied):
            self.copies.append(_Copy.unpacked(blocks[f"c{number % COPIES}"]))

    def kept(self) -> dict[str, bytes]:
        """The full blocks and the copies, by slot."""
        blocks = {
            str(number % BLOCKS): _packed(block)
            for number, block in enumerate(self.blocks, self.full - len(self.blocks))
        }
        copies = list(self.copies)[-self.copied :] if self.copied else []
        return blocks | {
            f"c{number % COPIES}": copy.packed()
            for number, copy in enumerate(copies, self.copied - len(copies))
        }


class Trainer:
    """What has been learned of one shop.

    ``horizon_days`` leads; ``features`` is the version of the inputs: an example of another one is passed over;
    ``yardstick``: whether the tree is among the challengers.
    """

    def __init__(
        self,
        learning: Learning,
        horizon_days: float,
        prior: Prior,
        features: str,
        *,
        yardstick: bool = True,
    ) -> None:
        self.learning = learning
        self.features = features
        self.effective: Micros = 0
        self.unpublished = 0
        self.published: tuple[str, ...] = ()
        self.sequences: dict[int, int] = {}
        self.rates = OnlineRates()
        self.spend = OnlineSpend()
        self._courses = {
            days: _Course(days, prior, learning.gate, yardstick=yardstick)
            for days in dict.fromkeys((horizon_days, *learning.horizons))
        }
        self._leading = self._courses[horizon_days]

    @property
    def labels(self) -> int:
        """Labels learned so far under the leading horizon."""
        return self._leading.labels

    def model(self, name: str) -> dict[str, Any]:
        """What the champion or a challenger (``contenders``) has learned for the leading horizon so far, as it
        would be published: ``Learned.data``."""
        return self._leading.promotable[name].published()

    # ---- learning

    def learn(self, examples: Iterable[Example]) -> Lesson:
        """Learn examples in their order, each that was not learned before."""
        what: list[What] = []
        published: list[Publication] = []
        told: list[News] = []
        run: list[Example] = []
        course = self._leading
        for example in examples:
            found = self._judged(example)
            what.append(found)
            if found != "learned":
                continue
            of = self._courses[example.horizon_days]
            if of is not course:
                self._take(course, run, published, told)
                run, course = [], of
            run.append(example)
            # What is learned together is read by the same rates, wherever a batch ends.
            fit = self.rates.until_fit if course is self._leading else BLOCK
            if len(run) == min(course.room, fit):
                self._take(course, run, published, told)
                run = []
        self._take(course, run, published, told)
        return Lesson(tuple(what), tuple(published), tuple(told))

    def _judged(self, example: Example) -> What:
        if example.sequence <= self.sequences.get(example.partition, 0):
            return "repeated"
        self.sequences[example.partition] = example.sequence
        if example.features != self.features or len(example.inputs) != len(INPUTS):
            return "other_features"
        return "learned" if example.horizon_days in self._courses else "other_horizon"

    def _take(
        self, course: _Course, run: list[Example], published: list[Publication], told: list[News]
    ) -> None:
        if not run:
            return
        course.take(run, self.rates.rates)
        if course is self._leading:  # other horizons tell of the same customers again
            for e in run:
                recency, age, gaps = e.inputs[_RECENCY], e.inputs[_AGE], e.inputs[_GAPS]
                t_x = max(age - recency, 0.0)
                self.rates.learn_one(gaps, t_x, t_x + recency, e.horizon_days, e.churned, e.due / DAY)
                self.spend.learn_one(e.inputs[_REPEATS] + 1.0, e.inputs[_ORDER_VALUE], e.due / DAY)
        self.effective = max(self.effective, *(e.due for e in run))
        self.unpublished += len(run)
        if course.room:
            return
        promoted = course.promoted
        told += course.close(self.effective, self.rates.rates)
        if self.unpublished >= self.learning.publish_labels or course.promoted is not promoted:
            published.append(self.publish())

    # ---- publishing

    def snapshot(self) -> Snapshot:
        """What is known now, under its name."""
        leading = self._leading
        others = [course for course in self._courses.values() if course is not leading]
        return named(
            Snapshot(
                effective=self.effective,
                made_at=self.effective,
                source="statistical" if leading.promoted.model in STATISTICAL else "learned",
                features=self.features,
                inputs=INPUTS,
                horizons=tuple(course.published(self.effective) for course in (leading, *others)),
                purchase_rate=self.rates.rates,
                spend=self.spend.spend,
                usual=leading.usual(),
            )
        )

    def publish(self) -> Publication:
        """A snapshot to be published now; those that are to be deleted, as more than ``keep`` are there."""
        snapshot = self.snapshot()
        self.unpublished = 0
        there = (*(version for version in self.published if version != snapshot.version), snapshot.version)
        self.published = there[-self.learning.keep :]
        return Publication(snapshot, there[: -self.learning.keep])

    # ---- what is kept

    def state(self) -> dict[str, Any]:
        """Plain data to go on from, together with ``blocks``: sequences, weights and windows are one state."""
        return {
            "version": VERSION,
            "features": self.features,
            "effective": self.effective,
            "unpublished": self.unpublished,
            "published": self.published,
            "sequences": self.sequences,
            "rates": self.rates.state(),
            "spend": self.spend.state(),
            "courses": {repr(days): course.state() for days, course in self._courses.items()},
        }

    def restore(self, state: Mapping[str, Any], blocks: Mapping[str, bytes]) -> bool:
        """Go on from ``state`` and its blocks (``needed_blocks``), as if nothing had been between.

        False when the inputs have another version since, so that learning begins anew; what was learned of which
        sequence is kept. A horizon that is no longer wanted is dropped. Raises :class:`UnknownState`.
        """
        if state.get("version") != VERSION:
            raise UnknownState(
                f"The trainer's state has version {state.get('version')}, this churnwatch knows {VERSION}: run the "
                f"release that wrote it."
            )
        self.sequences = dict(state["sequences"])
        self.published = tuple(state["published"])
        if state["features"] != self.features:
            return False
        self.effective, self.unpublished = state["effective"], state["unpublished"]
        self.rates.restore(state["rates"])
        self.spend.restore(state["spend"])
        for days, course in self._courses.items():
            kept = state["courses"].get(repr(days))
            if kept is not None:
                prefix = f"{days!r}:"
                course.restore(
                    kept,
                    {k.removeprefix(prefix): b for k, b in blocks.items() if k.startswith(prefix)},
                )
        return True

    def blocks(self) -> dict[str, bytes]:
        """What belongs to the state and seldom changes, by name: full blocks of the windows, and copies."""
        return {
            f"{days!r}:{slot}": kept
            for days, course in self._courses.items()
            for slot, kept in course.kept().items()
        }

    def unsaved(self) -> dict[str, bytes]:
        """Of these, what is new or changed since :meth:`saved`."""
        return {
            f"{days!r}:{slot}": b
            for days, course in self._courses.items()
            for slot, b in course.unsaved.items()
        }

    def saved(self) -> None:
        """What was unsaved is kept now."""
        for course in self._courses.values():
            course.unsaved.clear()


def needed_blocks(state: Mapping[str, Any]) -> list[str]:
    """Which blocks and copies belong to a state, by name."""
    return [
        f"{days}:{mark}{number % most}"
        for days, course in state["courses"].items()
        for mark, most, made in (("", BLOCKS, course["full"]), ("c", COPIES, course["copied"]))
        for number in range(max(0, made - most), made)
    ]


def purchase_rate(rates: Rates, x: Inputs, days: float) -> Floats:
    """Log-odds of no purchase within so many days, of buy-till-you-die alone."""
    return log_odds_of_none(rates, x.gaps, np.maximum(x.age - x.recency, 0.0), x.age, days)


def _inputs(rows: NDArray[np.float32]) -> Inputs:
    return Inputs(*np.ascontiguousarray(rows.T, dtype=np.float64))


def _floats(values: array[float]) -> Floats:
    return np.frombuffer(values, dtype=np.float32).astype(np.float64) if values else np.empty(0)


def _rounded(values: Floats) -> Floats:
    return values.astype(np.float32).astype(np.float64)


def _figures(model: str, since: Micros, churned: Floats, said: Floats) -> Figures:
    if not len(churned):
        return Figures(model=model, labels=0, since=since)
    p = probability(said)
    both = 0.0 < churned.mean() < 1.0
    return Figures(
        model=model,
        labels=len(churned),
        since=since,
        log_loss=round(log_loss(churned, p), 6),
        auc=round(auc(churned, p), 6) if both else None,
        brier=round(brier(churned, p), 6),
        expected=round(float(p.mean()), 6),
        happened=round(float(churned.mean()), 6),
    )


def _block(
    since: Micros, churned: Floats, own: dict[str, Floats], stated: Floats, sample: NDArray[np.float32]
) -> _Block:
    loss = {model: losses(stated if model == CHAMPION else said, churned) for model, said in own.items()}
    return _Block(since, churned, own, stated, sample, loss)


class _Packed(msgspec.Struct, array_like=True):
    since: Micros
    churned: bytes
    own: dict[str, bytes]
    stated: bytes
    sample: bytes


_pack = msgspec.msgpack.Encoder().encode
_unpack = msgspec.msgpack.Decoder(_Packed).decode


def _packed(block: _Block) -> bytes:
    own = {model: said.astype(np.float32).tobytes() for model, said in block.own.items()}
    churned, stated = block.churned.astype(np.float32), block.stated.astype(np.float32)
    return _pack(_Packed(block.since, churned.tobytes(), own, stated.tobytes(), block.sample.tobytes()))


def _unpacked(raw: bytes) -> _Block:
    found = _unpack(raw)
    own = {model: _from_bytes(said) for model, said in found.own.items()}
    sample = np.frombuffer(found.sample, np.float32).reshape(-1, len(INPUTS))
    return _block(found.since, _from_bytes(found.churned), own, _from_bytes(found.stated), sample)


def _from_bytes(raw: bytes) -> Floats:
    return np.frombuffer(raw, np.float32).astype(np.float64)
