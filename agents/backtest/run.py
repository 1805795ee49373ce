"""A backtest: one pass over a history, on which everything is fixed in its time and judged at the end.

Day by day the events go through the engine, the clock moves to midnight (UTC), the labels that have matured
are learned, and what was learned decides from the next day on. At the end of a cut-off's day every model
states its probabilities; from the first cut-off on, the champion's are also noted along each silence, so that
any threshold can be judged.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Final, NamedTuple, Protocol

import msgspec
import numpy as np
import xxhash
from numpy.typing import NDArray

from agents.backtest.board import Board
from agents.backtest.cutoffs import Settled, Stated, days, settle
from agents.backtest.replay import Replay
from agents.backtest.silences import Heights, Judge, Silences, silences
from agents.core import engine_of
from agents.files import Entry
from agents.settings import Settings
from alerts.engine import Usable
from alerts.looks import Grid
from features.matrix import Floats, Inputs
from features.shop import DAY
from streams import topics
from streams.alerts import Alert, decode_alert
from streams.codec import Codec, Decoded
from streams.message import Message

Ints = NDArray[np.int64]

CHAMPION: Final = "champion"
RISES: Final = (0.0, 0.2, 0.4, 0.6)
"""Rises in log-odds since the last purchase that are tried beside the policy's."""
LEAST_CUSTOMERS: Final = 100
"""Customers who must have bought by the first cut-off."""
_LONG: Final = 3650.0
"""Days, longer than any history."""
_SAMPLED: Final = 2_000
"""Customers whose scores are kept along their silences, as examples to show."""


class NotEnough(Exception):
    """A history that says too little. ``missing`` names each thing, what there is of it and what it takes."""

    def __init__(self, missing: list[str]) -> None:
        super().__init__("; ".join(missing))
        self.missing = missing


class Learner(Protocol):
    """What learns from the labels that have matured, and what it has made of them."""

    names: tuple[str, ...]
    """The models beside the champion, in the order in which they are shown."""

    def learn(self, message: Message) -> None:
        """One message of ``examples``."""
        ...

    def models(self) -> list[Usable] | None:
        """What may decide from now on; None when nothing has changed."""
        ...

    def stated(self, inputs: Inputs) -> dict[str, Floats]:
        """The probability of churn that each of ``names`` states, from what was learned so far."""
        ...

    def report(self) -> dict[str, object]:
        """What was learned, as plain data."""
        ...


class Asked(NamedTuple):
    """What is asked of a backtest: the horizon in days, days between cut-offs, the day of the first one (None:
    the middle of the span)."""

    horizon: int
    every: int
    start: int | None = None


def replayed(settings: Settings, horizon: int) -> Settings:
    """The settings of an application as a history is replayed under them: one input on the record clock, with
    this horizon. Warnings are what is judged, so offers pause, and ``customer-scores`` hears of bands only: a test
    sees to it that no warning is another for that."""
    policy = msgspec.structs.replace(
        settings.policy,
        horizon_days=float(horizon),
        offer_pause_days=_LONG,
        offer_repeat_days=_LONG,
        score_change=1.0,
    )
    kafka = msgspec.structs.replace(settings.kafka, inputs=(topics.PURCHASES,))
    return msgspec.structs.replace(settings, kafka=kafka, policy=policy)


class Warned(NamedTuple):
    """A warning that would have been delivered: of a customer (a place) on a day; ``step`` is ``raised`` or
    ``worsened``, ``revenue`` what is at risk, in units of the base currency."""

    customer: int
    day: int
    at: int
    band: str
    step: str
    probability: float
    revenue: float
    alert: Alert


class Reached(NamedTuple):
    """How far a backtest is: the day, and the events so far."""

    day: int
    events: int


@dataclass
class Found:
    """All that a backtest has found. ``first`` and ``last``: the days of the history; ``cutoffs``: settled, by
    time; ``judge``: of the silences from the first cut-off on; ``warned``: every delivered warning since then;
    ``names``: the customers by place; ``heights``: how high the champion's scores came along the silences, by the
    rise that they were asked for; ``traces``: of some customers (places) its probabilities as (day, probability);
    ``counts``: what the engine counted; ``learned``: as the learner tells it; ``replay``: the states at the end."""

    asked: Asked
    settings: Settings
    first: int
    last: int
    events: int
    seconds: float
    names: list[bytes]
    models: tuple[str, ...]
    cutoffs: list[Settled]
    judge: Judge
    warned: list[Warned]
    heights: dict[float, Heights]
    traces: dict[int, list[tuple[int, float]]]
    counts: dict[str, int]
    learned: dict[str, object]
    replay: Replay

    @property
    def silences(self) -> Silences:
        """All silences of the history."""
        return self.judge.silences


def run(
    entries: Iterable[Entry],
    span: tuple[int, int],
    codec: Codec,
    settings: Settings,
    asked: Asked,
    learner: Learner | None = None,
    tell: Callable[[Reached], None] = lambda _: None,
) -> Found:
    """The backtest of a history in order of time that goes from and to the instants of ``span``.

    Raises :class:`NotEnough`, and what reading the entries raises.
    """
    first, last = span[0] // DAY, span[1] // DAY
    cutoffs = days(first, last, asked.horizon, asked.every, asked.start)
    _check_span(first, last, asked, cutoffs)
    return _Pass(codec, settings, asked, first, last, cutoffs, learner).over(entries, tell)


def _check_span(first: int, last: int, asked: Asked, cutoffs: list[int]) -> None:
    if cutoffs and cutoffs[0] > first:
        return
    span, horizon = last - first, asked.horizon
    if asked.start is not None:
        day, end = np.datetime64(asked.start, "D"), np.datetime64(last, "D")
        if asked.start <= first:
            begin = np.datetime64(first, "D")
            raise NotEnough(
                [
                    f"nothing by the first cut-off ({day}): it begins on {begin}; name a day after that, or none"
                ]
            )
        days_left = f"{max(last - asked.start, 0):,} days from {day} to the end of the file ({end})"
        raise NotEnough([f"{days_left}; it takes {horizon}, so that there is a cut-off whose horizon passes"])
    raise NotEnough(
        [
            f"{span:,} days from the first to the last event; it takes {2 * horizon}: twice the horizon of {horizon} days"
        ]
    )


class _Pass:
    """The one pass over the history."""

    def __init__(
        self,
        codec: Codec,
        settings: Settings,
        asked: Asked,
        first: int,
        last: int,
        cutoffs: list[int],
        learner: Learner | None,
    ) -> None:
        self._codec, self._settings, self._asked, self._learner = codec, settings, asked, learner
        self._first, self._last, self._cutoffs = first, last, set(cutoffs)
        self._start = cutoffs[0]
        self._engine = engine_of(settings, "record")
        self._replay = Replay(self._engine)
        policy = settings.policy
        self._board = Board(
            policy.complaint_overdue_hours,
            lambda at: at // DAY,
            uses=settings.learning.activity == "purchase_or_use",
        )
        self._bought: list[tuple[Ints, int]] = []
        self._stated: list[Stated] = []
        self._warned: list[Warned] = []
        self._heights = {rise: Heights() for rise in sorted({*RISES, policy.rise})}
        self._grid = _days_of_looks(settings, asked.horizon)
        self._sample = np.zeros(0, dtype=np.bool_)
        self._share = 1.0
        self._traces: dict[int, list[tuple[int, float]]] = {}
        self._steps = tuple(f".churn.{step}.v1".encode() for step in ("raised", "worsened"))
        self._withheld = 0

    def over(self, entries: Iterable[Entry], tell: Callable[[Reached], None]) -> Found:
        began = time.monotonic()
        coming = _items(entries, self._codec)
        item = next(coming, None)
        for day in range(self._first, self._last + 1):
            end = (day + 1) * DAY
            today: list[Decoded] = []
            while item is not None and item.at < end:
                today.append(item)
                item = next(coming, None)
            self._day(day, today)
            if len(today) > 1000 or not day % 4:
                tell(Reached(day, self._replay.events))
        return self._found(time.monotonic() - began)

    # ---- a day

    def _day(self, day: int, today: list[Decoded]) -> None:
        board, replay = self._board, self._replay
        end = (day + 1) * DAY
        happened = replay.day(today, end)
        late = [board.names[place] for place in np.flatnonzero(board.opened)]
        board.refresh({*happened.touched, *late}, replay.hot, end)
        places = np.array([board.place[key] for key in happened.touched], dtype=np.int64)
        self._bought.append((places[board.bought[places] == day], day))
        self._take(happened.out, day, end)
        if self._learner is not None:
            models = self._learner.models()
            if models is not None:
                self._engine.adopt(models)
        if day in self._cutoffs:
            self._state(day, end)
        if day >= self._start:
            self._note(day, end)

    def _take(self, out: list[Message], day: int, end: int) -> None:
        raised: list[Alert] = []
        for message in out:
            if message.topic == topics.EXAMPLES:
                if self._learner is not None:
                    self._learner.learn(message)
            elif message.topic in {topics.ALERTS, topics.DECISIONS}:
                kind = message.headers[3][1]
                if not kind.endswith(self._steps) or day < self._start:
                    continue
                if message.topic == topics.DECISIONS:
                    self._withheld += 1
                    continue
                assert message.value is not None
                raised.append(decode_alert(message.headers[0][1].decode(), message.value))
        if not raised:
            return
        places = np.array([self._board.place[alert.customer.encode()] for alert in raised], dtype=np.int64)
        revenue = _yearly(self._board.inputs(places, end), 10**self._settings.shop.minor_units)
        for alert, place, year in zip(raised, places.tolist(), revenue.tolist(), strict=True):
            p = alert.churn_probability or 0.0
            risk = alert.revenue_at_risk if alert.revenue_at_risk is not None else p * year
            band = alert.risk_band or "medium"
            at = alert.decided_at
            self._warned.append(Warned(place, at // DAY, at, band, alert.transition, p, risk, alert))

    def _note(self, day: int, end: int) -> None:
        """The champion's scores of silences that began since the first cut-off, at the days when one looks."""
        silent = day - self._board.bought
        horizon = self._asked.horizon
        due = (self._board.bought >= self._start) & (silent < horizon)
        due[due] = self._grid[silent[due]]
        places = np.flatnonzero(due)
        if not len(places):
            return
        scores = self._engine.model.score(self._board.inputs(places, end))
        rise = scores.rise
        for least, heights in self._heights.items():
            risen = rise >= least
            heights.see(places[risen], self._board.bought[places[risen]], day, scores.churn[risen])
        for place, p in zip(places.tolist(), scores.churn.tolist(), strict=True):
            if self._sampled(place):
                self._traces.setdefault(place, []).append((day, p))

    def _sampled(self, place: int) -> bool:
        have = len(self._sample)
        if place >= have:
            names = self._board.names[have:]
            limit = int(2**64 * self._share) - 1
            fresh = [xxhash.xxh3_64_intdigest(name) <= limit for name in names]
            self._sample = np.concatenate([self._sample, np.array(fresh, dtype=np.bool_)])
        return bool(self._sample[place])

    def _state(self, day: int, end: int) -> None:
        bought = self._board.bought
        places = np.flatnonzero(bought >= 0)
        if not self._stated:
            if len(places) < LEAST_CUSTOMERS:
                by = f"by the first cut-off ({np.datetime64(day, 'D')})"
                raise NotEnough([f"{len(places):,} customers who bought {by}; it takes {LEAST_CUSTOMERS}"])
            self._share = min(1.0, _SAMPLED / len(places))
        inputs = self._board.inputs(places, end)
        model = self._engine.model
        stated = {CHAMPION: model.score(inputs).churn}
        if self._learner is not None:
            stated |= self._learner.stated(inputs)
        active = day - bought[places] < self._asked.horizon
        self._stated.append(Stated(day, places, active, stated, model.source))

    # ---- the end

    def _found(self, seconds: float) -> Found:
        horizon = self._asked.horizon
        customer = np.concatenate([places for places, _ in self._bought])
        day = np.concatenate([np.full(len(places), at, dtype=np.int64) for places, at in self._bought])
        purchases = silences(customer, day)
        others = self._learner.names if self._learner is not None else ()
        return Found(
            asked=self._asked,
            settings=self._settings,
            first=self._first,
            last=self._last,
            events=self._replay.events,
            seconds=seconds,
            names=self._board.names,
            models=(CHAMPION, *others),
            cutoffs=settle(self._stated, purchases, horizon),
            judge=Judge(purchases, horizon, self._start, self._last - horizon),
            warned=self._warned,
            heights=self._heights,
            traces=self._traces,
            counts={".".join(key): n for key, n in sorted(self._replay.counts.items())}
            | {"withheld": self._withheld},
            learned={} if self._learner is None else self._learner.report(),
            replay=self._replay,
        )


def _items(entries: Iterable[Entry], codec: Codec) -> Iterator[Decoded]:
    """The events among the entries. A ``clock`` record says nothing that the days do not."""
    for entry in entries:
        item = entry.item
        if item is None:
            found = codec.decode(_Row(entry))
            item = found if isinstance(found, Decoded) else None
        if isinstance(item, Decoded):
            yield item


class _Row:
    """An entry as a record, for the codec."""

    topic, partition, offset, timestamp = "", 0, 0, 2**45
    headers: tuple[tuple[str, bytes | None], ...] = ()

    def __init__(self, entry: Entry) -> None:
        self.key: bytes | None = entry.customer.encode()
        self.value: bytes | None = entry.value


def _days_of_looks(settings: Settings, horizon: int) -> NDArray[np.bool_]:
    """By day of silence whether the grid has a look on it."""
    grid = Grid(settings.application, settings.policy)
    found = np.zeros(horizon + 1, dtype=np.bool_)
    at = 0
    while at < horizon * DAY:
        at = grid.next(0, grid.step, at)
        if at < horizon * DAY:
            found[at // DAY] = True
    return found


def _yearly(x: Inputs, minor: int) -> Floats:
    """What a customer spends in a year at the pace so far, seen for a quarter at least."""
    pace: Floats = x.order_value / minor * (x.repeats + 1.0) / np.maximum(x.age, 90.0) * 365.0
    return pace
