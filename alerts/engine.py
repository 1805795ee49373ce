"""The core as one machine: records of one partition in, states, deadlines and messages out.

Pure: a turn is a function of the partition, the stored states, the items and the settings. Each
customer's life runs as a generator that asks for a score wherever a decision is due; the engine
answers all customers' questions of one round together. A customer's own decisions follow each other
exactly as if it were alone, so batch boundaries make no difference.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Generator, Iterable, Mapping, Sequence
from typing import Final, Literal, NamedTuple, TypeAlias

import msgspec
import numpy as np

from alerts import bands, decide, feeds, offers
from alerts.ahead import Ahead, Quiet
from alerts.brakes import Brakes
from alerts.cause import cause as cause_of
from alerts.forgotten import Forgotten, Retention, erasure
from alerts.looks import Grid
from alerts.offers import Candidate
from alerts.outlook import Expected, outlook
from alerts.partition import Ceiling, Partition, Poisoned, Window, unpack
from alerts.policy import Feeds, Policy, fingerprint, tiers, version
from alerts.reasons import Evidence, reasons
from alerts.tally import SECOND, Change, Place, Warned
from alerts.usual import FEWEST, Chosen, Lived, Usual, usual
from alerts.words import ENGLISH, Words
from features import ledger, matrix
from features.cold import Cold, bounded_offers, tier, unprofiled
from features.customer import (
    DECISIVE,
    EMPTY_COLD,
    FEATURES,
    VERSION,
    Customer,
    apply,
    newest_cart,
    pack_cold,
    pack_hot,
    touches_cold,
    unpack_cold,
    unpack_hot,
)
from features.matrix import Inputs
from features.shop import DAY, HOUR, Calendar, Shop
from features.standing import Standing
from models.churn import ChurnModel, RhythmScore
from models.learning import Learning
from models.snapshot import Prior
from streams import events as ev
from streams.alerts import Alert, Offer, Score, Versions, alert_id, alert_message, score_message
from streams.codec import Decoded, Item, Record, Refused, Tick, Tombstone, dead_letter, traceparent
from streams.erasure import Erasure, Forgetting, is_about, whose
from streams.events import rfc3339, to_datetime, type_name
from streams.examples import Example, example_message
from streams.message import Message
from streams.topics import CUSTOMER_SCORES, CUSTOMERS, INPUTS

ClockMode = Literal["record", "wall"]
Delivery = Literal["live", "history", "silent"]
Counts = Counter[tuple[str, ...]]
FEATURES_VERSION: Final = FEATURES
_TIMER: Final = -1
_NEVER: Final = 2**62


class Missing(Exception):
    """A deadline of these customers falls before their events: load their cold parts and call again."""

    def __init__(self, keys: list[bytes]) -> None:
        super().__init__(f"the cold part of {len(keys)} customers is needed")
        self.keys = keys


class Turn(msgspec.Struct):
    """What a step changed, to be committed as one: packed states by key, deadlines to set
    (microseconds) and to clear, messages in order, counts for the metrics. ``erased``: customers of whom everything
    stored goes before anything is written; ``forgotten``: those of them who asked for it, of whom what waits to leave
    goes too."""

    partition: Partition
    hot: dict[bytes, bytes] = {}
    cold: dict[bytes, bytes] = {}
    deadlines: dict[bytes, int] = {}
    cleared: list[bytes] = []
    out: list[Message] = []
    counts: Counts = Counter()
    erased: list[bytes] = []
    forgotten: list[Forgetting] = []


class _Ask(NamedTuple):
    """A question of a life: the score of a customer (``facts``: see ``features.matrix``) at an instant, or
    (``inputs``) what it would follow from."""

    facts: bytes
    at: int
    inputs: bool = False


class Usable(NamedTuple):
    """A model, and the instant from which a partition may use it (microseconds; 0: always)."""

    effective: int
    model: ChurnModel


class _Use(NamedTuple):
    """What a model brings with it: the looks ahead, the versions that alerts carry, the fingerprint of what decides."""

    effective: int
    model: ChurnModel
    ahead: Ahead
    versions: Versions
    known: int
    usual: Usual


_Piece: TypeAlias = tuple[int, int, Decoded | Tombstone]
"""Of a customer in a turn: place of the record, offset of the one before it, and what it says."""


class _Gone(NamedTuple):
    """Of a customer nothing is true any more: a null value for a compacted topic."""

    topic: str


_Content: TypeAlias = Alert | Score | Example | _Gone | Forgetting


class _Draft(NamedTuple):
    """An alert or a score on its way out. ``order`` sorts drafts as their causes stand in the log:
    (place of the record or instant of the timer, customer, step). ``dropped``: it counts, and does not leave;
    ``trace``: that of the causing event."""

    order: tuple[int, str, int]
    at: int
    delivery: Delivery
    content: _Content
    dropped: bool = False
    trace: str | None = None


Placed = tuple[tuple[int, str, int], Message]
"""A message, and where it stands among the others; see ``_Draft.order``."""


class _Cause(NamedTuple):
    """What a decision rests on: the place of its record among those of the turn (a timer stands in the
    place of its instant), what was applied, the causing event, and whether history caused it; of an event the
    records it stands among."""

    order: int
    applied: dict[str, int]
    topic: str
    offset: int
    event: str | None
    history: bool
    records: Sequence[Record] = ()

    def traceparent(self) -> str | None:
        """The trace of the causing event."""
        return traceparent(self.records[self.order]) if self.event is not None and self.records else None

    def position(self) -> dict[str, int]:
        """Per input topic the offset of the last record that was applied; of ``topic`` up to ``offset`` (-1: as
        many as before)."""
        return dict(self.applied) if self.offset < 0 else {**self.applied, self.topic: self.offset}


class _Log(NamedTuple):
    """The records of a turn: where they stand, and how far deadlines may fire before them."""

    partition: Partition
    topic: str
    ring: int
    records: Sequence[Record]
    bound: int
    counts: Counts
    letters: list[tuple[int, Message]]


class _Life:
    """One customer during a turn."""

    __slots__ = (
        "cold", "cold_size", "customer", "drafts", "erased", "grown", "key", "known", "known_of", "name", "quiet", "raw", "stagger",
        "standing", "stored", "waited", "warnings", "was",
    )  # fmt: skip

    def __init__(self, key: bytes, raw: bytes | None, hot: Customer, cold: Cold, stagger: int) -> None:
        self.raw = raw
        self.key = key
        self.name = key.decode("utf-8", "surrogatepass")
        self.customer = hot
        self.standing = hot.standing
        self.cold = cold
        self.grown = False
        # Where the customer stood, for the tally: its place, the bytes of its cold part, the labels that waited.
        self.was = None if raw is None else Place.of(hot)
        self.cold_size = 0
        self.waited = cold.pending
        self.warnings: list[tuple[int, Warned]] = []
        self.erased = False
        self.stagger = stagger
        self.drafts: list[_Draft] = []
        # What scores follow from (see ``features.matrix``), and of which customer.
        self.known_of: Customer | None = None
        self.known = b""
        # What was known, and after which instant, when a look was set or brought forward: customer, cold part
        # (None: as it was before, so that offers are where they were), instant, the look beside the grid. Beside
        # them stands the look that was stored.
        self.quiet: list[tuple[Customer, Cold | None, int, int]] = []
        self.stored = hot.standing.look

    def look_after(self, at: int) -> None:
        """The next look comes after ``at``, with what is known now."""
        self.quiet = [(self.customer, self.cold, at, 0)]
        self.stored = 0

    def look_sooner(self, after: int, soon: int, cold: Cold | None) -> None:
        """What is known now may call for a look after ``after``, the first of them at ``soon`` (0: on the grid)."""
        self.quiet.append((self.customer, cold, after, soon))

    def erase(self) -> None:
        """All that is known of the customer goes; what comes after begins anew."""
        forgotten, request = self.standing.forgotten, self.standing.request
        self.customer = Customer()
        self.standing = self.customer.standing
        self.standing.forgotten, self.standing.request = forgotten, request
        self.cold = EMPTY_COLD
        self.grown = False
        self.erased = True
        self.known_of = None
        self.quiet = []
        self.stored = 0

    def leave(
        self, place: int, at: int, delivery: Delivery, content: _Content, trace: str | None = None
    ) -> None:
        """Drafts what goes out, in the place of its cause."""
        order = (place, self.name, len(self.drafts))
        self.drafts.append(_Draft(order, at, delivery, content, trace=trace))


_Steps = Generator[_Ask, decide.Score | bytes, None]


class Begun(NamedTuple):
    """The turn of one partition before anything of it has run; to be used once."""

    after: Partition
    use: _Use
    log: _Log
    work: dict[bytes, list[_Piece]]
    chosen: Chosen
    steps: list[_Steps]
    lives: dict[bytes, _Life]


class Engine:
    """The core of one application. ``inputs``: logical names of its input topics.

    ``accepted``: for (topic, partition), the offset up to which invalid records were accepted by the
    operator and do not count as poison. ``versions``: of what decides, as alerts carry them. ``forgotten``: who must
    not come back; without it nobody can be forgotten. ``retention``: for how long who is silent is kept.
    """

    def __init__(
        self,
        application: str,
        inputs: Sequence[str],
        clock: ClockMode,
        shop: Shop,
        policy: Policy,
        feed_settings: Feeds,
        prior: Prior,
        accepted: Mapping[tuple[str, int], int] | None = None,
        learning: Learning | None = None,
        words: Words = ENGLISH,
        forgotten: Forgotten | None = None,
        retention: Retention = Retention(),  # noqa: B008 - a tuple
    ) -> None:
        self.application = application
        self.forgotten = forgotten
        self.retention = retention
        self._lets_go = any(retention)
        self.inputs = tuple(inputs)
        self.clock = clock
        self.policy = policy
        self.calendar = Calendar(shop)
        self.minor_units = shop.minor_units
        self._feeds = feed_settings
        self._grid = Grid(application, policy)
        self._accepted = dict(accepted or {})
        self._overdue = round(policy.complaint_overdue_hours * HOUR)
        self._cart_wait = round(policy.cart_hours * HOUR)
        self._judged: tuple[dict[str, feeds.Feed] | None, dict[int, bool]] = (None, {})
        self._words = words
        self._actions: dict[tuple[object, ...], str | None] = {}
        self._tiers = tiers(policy)
        learning = learning or Learning()
        self._learns = learning.enabled
        self._use_counts = learning.activity == "purchase_or_use"
        horizon = max(round(policy.horizon_days * DAY), 1)
        self._horizon = horizon
        self._horizons = tuple(sorted({horizon, *(round(days * DAY) for days in learning.horizons)}))
        self._step = ledger.step(horizon, self._horizons[-1], max(round(learning.snapshot_days * DAY), 1))
        self._lapsed = round(policy.lapsed_days * DAY)
        self._first = Usable(0, RhythmScore(prior, policy.horizon_days))
        self._models: list[_Use] = []
        self._brakes = Brakes()
        # Whether, and for how many, customers are dealt with in arrays where nothing unusual happens to them; it
        # makes no difference to what is decided and stored.
        self.together = True
        self.fewest = FEWEST
        self.adopt(())

    # ---- what the shell asks

    def open(self, blob: bytes | None, number: int) -> Partition:
        """The partition as stored, or a new one."""
        return unpack(blob, number)

    @property
    def model(self) -> ChurnModel:
        """The model that decides: of the turn that runs, between turns of the last one."""
        return self._using.model

    @property
    def versions(self) -> Versions:
        """Of what decides, as alerts carry them."""
        return self._using.versions

    def adopt(self, usable: Sequence[Usable]) -> None:
        """From now on these models may decide, beside the statistical one that needs nothing: in a partition the
        one with the newest effective instant that its clock has reached (wall clock: the newest). A model that
        is known already stays as it is."""
        have = {(use.effective, use.model.version): use for use in self._models}
        self._models = [
            have.get((each.effective, each.model.version)) or self._used(each)
            for each in sorted([self._first, *usable], key=lambda each: each.effective)
        ]
        self._using = self._models[-1]

    def brake(self, brakes: Brakes) -> None:
        """From now on these keep alerts from being delivered. What is decided does not depend on them."""
        self._brakes = brakes

    def _used(self, usable: Usable) -> _Use:
        model = usable.model
        known = int.from_bytes(fingerprint(self.policy, model.name)[:4], "big") or 1
        ahead = Ahead(self.policy, self._grid, model)
        return _Use(
            usable.effective,
            model,
            ahead,
            Versions(policy=version(self.policy), model=model.version, features=FEATURES_VERSION),
            known,
            Usual(
                self.policy,
                self._grid,
                model,
                ahead,
                self.calendar,
                known,
                self._step if self._learns else 0,
                self._horizons,
                self.retention,
            ),
        )

    def _decided_by(self, partition: Partition) -> None:
        """Chooses the model of a turn."""
        models = self._models
        if self.clock == "wall" or models[-1].effective <= partition.clock:
            self._using = models[-1]
            return
        self._using = next(
            use for use in reversed(models) if use.effective <= partition.clock or use is models[0]
        )

    def touches(self, items: Iterable[Item]) -> tuple[list[bytes], list[bytes]]:
        """The customers whose hot part, and those whose cold part, these items need."""
        hot: dict[bytes, None] = {}
        cold: dict[bytes, None] = {}
        touches = self._touches
        for item in items:
            if type(item) is Decoded:
                key = item.key
                hot[key] = None
                if key not in cold and touches(item.event):
                    cold[key] = None
            elif isinstance(item, Tombstone):
                hot[item.key] = cold[item.key] = None
        return list(hot), list(cold)

    def events(
        self,
        partition: Partition,
        topic: str,
        records: Sequence[Record],
        items: Sequence[Item],
        hot: Mapping[bytes, bytes | None],
        cold: Mapping[bytes, bytes | None],
        read_to: int,
    ) -> Turn:
        """``begin`` and ``turns`` of one partition alone."""
        return self.turns([self.begin(partition, topic, records, items, hot, cold, read_to)])[0]

    def begin(
        self,
        partition: Partition,
        topic: str,
        records: Sequence[Record],
        items: Sequence[Item],
        hot: Mapping[bytes, bytes | None],
        cold: Mapping[bytes, bytes | None],
        read_to: int,
    ) -> Begun:
        """Makes ready the turn of consecutive records of ``topic``, with what they were decoded to.

        ``read_to`` (microseconds, wall clock only): how far every other input topic has been read.
        Under the record clock ``items`` holds no Tick: each is a step of its own, whether it moves the
        clock or not (``moved`` remembers it). Raises Missing and Poisoned; nothing has changed then.
        """
        self._decided_by(partition)
        bound = partition.clock if self.clock == "record" else read_to
        index = INPUTS.index(topic)
        counts: Counts = Counter()
        lives: dict[bytes, _Life] = {}
        work: dict[bytes, list[_Piece]] = {}
        missing: list[bytes] = []
        invalid = [False] * len(items)
        times: list[int] = []
        letters: list[tuple[int, Message]] = []
        accepted = self._accepted.get((topic, partition.number), -1)
        before = partition.applied.get(topic, -1)
        events: list[type[ev.Event]] = []
        for place, item in enumerate(items):
            if type(item) is Decoded:
                events.append(type(item.event))
                times.append(item.at)
                todo = work.get(item.key)
                if todo is None:
                    work[item.key] = [(place, before, item)]
                else:
                    todo.append((place, before, item))
            elif isinstance(item, Refused):
                invalid[place] = item.reason != "not_yet_supported" and item.offset > accepted
                if self._passed_over(topic, item.record):
                    counts["suppressed",] += 1
                else:
                    counts["refused", item.reason] += 1
                    letters.append((place, dead_letter(item, topic, "decode")))
            elif isinstance(item, Tombstone):
                counts["event", "tombstone"] += 1
                # Of who is not known there is nothing to clear, and nothing to remember.
                if item.key in work or hot[item.key] is not None:
                    work.setdefault(item.key, []).append((place, before, item))
            else:
                counts["event", "clock"] += 1
            before = item.offset
        for kind, count in Counter(events).items():
            counts["event", type_name(kind)] += count
        chosen = self._choose(partition, index, bound, work, hot, cold)
        usually = set(chosen.keys)
        for key, todo in work.items():
            if key in usually:
                continue
            life = lives[key] = self._life(key, hot[key], cold.get(key))
            if key not in cold and any(
                isinstance(item, Decoded) and self._may_fire(life, todo[:number], item.at, bound)
                for number, (_, _, item) in enumerate(todo)
            ):
                missing.append(key)
        if missing:
            raise Missing(missing)
        before_these = partition.windows.get(topic, Window())
        window, poisoned = before_these.after(invalid)
        if poisoned is not None:
            window, _ = before_these.after(invalid[: poisoned + 1])
            raise Poisoned(
                topic,
                partition.number,
                items[poisoned].offset,
                window.invalid,
                window.seen,
                {key[1]: n for key, n in counts.items() if key[0] == "refused"},
            )
        # These records are traffic already when a deadline between them asks whether their topic is silent.
        partition = msgspec.structs.replace(partition, feeds=self._fed(partition, topic, times))
        log = _Log(partition, topic, index, records, bound, counts, letters)
        steps = [self._follow(life, work[key], log) for key, life in lives.items()]
        after = msgspec.structs.replace(
            partition,
            applied={**partition.applied, topic: items[-1].offset},
            windows={**partition.windows, topic: window},
        )
        return Begun(after, self._using, log, work, chosen, steps, lives)

    def _choose(
        self,
        partition: Partition,
        ring: int,
        bound: int,
        work: Mapping[bytes, Sequence[_Piece]],
        hot: Mapping[bytes, bytes | None],
        cold: Mapping[bytes, bytes | None],
    ) -> Chosen:
        """The customers who may be dealt with in arrays."""
        chosen = Chosen(partition.clock, bound, ring, [], [], [], cold)
        live = 0 if self.clock == "record" else partition.live_since
        if not self.together or (self.clock == "wall" and not live):
            return chosen
        for key, todo in work.items():
            raw = hot[key]
            if (
                # Whose cold part was not loaded may yet need it.
                key in cold
                and not (raw is None and self.forgotten and self.forgotten.of(key))
                and (raw is None or raw[0] == VERSION)
                and usual(todo)
                and (not live or all(item.at >= live for _, _, item in todo))
            ):
                chosen.keys.append(key)
                chosen.todos.append(todo)
                chosen.hot.append(raw)
        return chosen

    def turns(self, begun: Sequence[Begun]) -> list[Turn]:
        """The turns of different partitions: what they ask of a model, they ask together. Each is what it would be
        alone."""
        uses: list[_Use] = []
        for one in begun:
            if not any(one.use is known for known in uses):
                uses.append(one.use)
        turns: list[Turn | None] = [None] * len(begun)
        for use in uses:
            self._using = use
            places = [place for place, one in enumerate(begun) if one.use is use]
            together = [begun[place] for place in places]
            lived = self._usually(use, together)
            self._run([step for one in together for step in one.steps])
            self._look_far([life for one in together for life in one.lives.values()])
            for place, one, each in zip(places, together, lived, strict=True):
                log = one.log
                scores = [] if each is None else self._scored(log.partition.applied, each, log.counts, log)
                turns[place] = self._turn(one.after, one.lives, log.counts, log.letters, each, scores)
        return [turn for turn in turns if turn is not None]

    def _usually(self, use: _Use, together: Sequence[Begun]) -> list[Lived | None]:
        """Deals with the chosen in arrays; who is left, or all where they are few, live turns of their own."""
        found: list[Lived | None] = [None] * len(together)
        some = [place for place, one in enumerate(together) if one.chosen.keys]
        if sum(len(together[place].chosen.keys) for place in some) >= self.fewest:
            lived = use.usual.turns([together[place].chosen for place in some], self.fewest)
            for place, each in zip(some, lived, strict=True):
                found[place] = each
        for place in some:
            one, taken = together[place], found[place]
            chosen = one.chosen
            for index in range(len(chosen.keys)) if taken is None else taken.left:
                key = chosen.keys[index]
                life = one.lives[key] = self._life(key, chosen.hot[index], chosen.cold[key])
                one.steps.append(self._follow(life, chosen.todos[index], one.log))
        return found

    def _fired(
        self,
        partition: Partition,
        keys: list[bytes],
        until: int,
        hot: Mapping[bytes, bytes | None],
        cold: Mapping[bytes, bytes | None],
        *,
        history: bool,
    ) -> tuple[Lived | None, list[bytes]]:
        """What is due of usual customers; who else is to fire."""
        live = 0 if self.clock == "record" else partition.live_since
        if not self.together or history or (self.clock == "wall" and not live):
            return None, keys
        some = [key for key in keys if (raw := hot[key]) is not None and raw[0] == VERSION]
        if len(some) < self.fewest:
            return None, keys
        chosen = Chosen(live, until, 0, some, [()] * len(some), [hot[key] for key in some], cold)
        lived = self._using.usual.timers(chosen, lambda at: at < live or self._feed_silent(partition, at))
        left = {some[place] for place in lived.left}
        return lived, [key for key in keys if key in left or key not in lived.hot]

    def _scored(
        self, applied: dict[str, int], lived: Lived, counts: Counts, log: _Log | None = None
    ) -> list[Placed]:
        """The scores of usual customers on their way out. ``log``: what caused them stands there."""
        counts["decision",] += lived.decisions
        if not lived.written:
            return []
        counts["score",] += len(lived.written)
        found = []
        position = applied
        for place, key, churn, band, at in lived.written:
            if log is not None:
                position = {**applied, log.topic: log.records[place].offset}
            score = Score(
                customer=key.decode("utf-8", "surrogatepass"),
                churn_probability=churn,
                risk_band=bands.NAMES[band],
                score_source=self.model.source,
                decided_at=at,
                position=position,
                versions=self.versions,
            )
            message = score_message(score, self.policy.type_prefix, self.application)
            found.append(((place, score.customer, 0), message))
        return found

    def tick(self, partition: Partition, topic: str, tick: Tick) -> int | None:
        """The instant to which this ``clock`` record moves the partition's clock; None if it does not."""
        newest = {**partition.ticks, topic: max(tick.at, partition.ticks.get(topic, 0))}
        if any(name not in newest for name in self.inputs):
            return None
        until = min(newest[name] for name in self.inputs)
        return until if until > partition.clock else None

    def timers(
        self,
        partition: Partition,
        due: Sequence[tuple[bytes, int]],
        complete: bool,
        until: int,
        hot: Mapping[bytes, bytes | None],
        cold: Mapping[bytes, bytes | None],
        cause: tuple[str, Tick] | None,
    ) -> Turn:
        """Fires what is due by ``until``, in order of (instant, customer).

        ``due``: customers with their stored deadlines, as read in order from the sorted set;
        ``complete``: there are no more. Otherwise everything before the last deadline read fires (all
        of it if they are equal), and the caller commits and asks again. ``cause``: the clock record.
        """
        self._decided_by(partition)
        limit = until
        if not complete and due:
            last = due[-1][1]
            limit = last if due[0][1] == last else last - 1
        counts: Counts = Counter()
        lives: dict[bytes, _Life] = {}
        if cause is None:
            because = _Cause(_TIMER, partition.applied, "", -1, None, False)
        else:
            because = _Cause(_TIMER, partition.applied, cause[0], cause[1].offset, None, cause[1].history)
        steps = []
        history = cause is not None and cause[1].history
        lived, rest = self._fired(partition, [key for key, _ in due], limit, hot, cold, history=history)
        for key in rest:
            raw = hot[key]
            if raw is None:
                continue
            life = lives[key] = self._life(key, raw, cold.get(key))
            # What the sorted set holds is read and rewritten below, early or not.
            life.standing.due = 0
            steps.append(self._fire(life, limit, because, partition, counts))
        self._run(steps)
        self._look_far(lives.values())
        after = partition
        if self.clock == "wall" and complete and until > partition.clock:
            tally = partition.tally.until(partition.clock, until)
            after = msgspec.structs.replace(partition, clock=until, tally=tally)
        scores: list[Placed] = []
        if lived is not None:
            counts.update({("fired",): lived.fired, ("look",): lived.looks})
            scores = self._scored(because.position(), lived, counts)
        turn = self._turn(after, lives, counts, [], lived, scores, swept=True)
        turn.cleared.extend(key for key, _ in due if hot[key] is None)
        return turn

    def returned(self, customers: Iterable[bytes]) -> list[bytes]:
        """Those of them who are on the list of the forgotten: they came back since, or Redis was restored."""
        return [key for key in customers if self.forgotten and self.forgotten.of(key)]

    def review(
        self, partition: Partition, hot: Mapping[bytes, bytes | None], cold: Mapping[bytes, bytes | None]
    ) -> Turn:
        """Customers as they are stored in a partition that was restored, or has another retention now: who is on the
        list goes, all others are given the deadline that holds."""
        counts: Counts = Counter()
        lives: dict[bytes, _Life] = {}
        again: list[Forgetting] = []
        for key, raw in hot.items():
            if raw is None:
                continue
            life = lives[key] = self._life(key, raw, cold.get(key))
            known = self.forgotten.of(key) if self.forgotten else None
            if self.forgotten is None or known is None or known.until <= life.standing.forgotten:
                self._keep_until(life, 1)
                continue
            life.erase()
            counts["erased", "forget"] += 1
            life.leave(_TIMER, known.until, "history", _Gone(CUSTOMER_SCORES))
            again.append(Forgetting(key, self.forgotten.digest(key), erasure(known, self.forgotten.secret)))
        turn = self._turn(partition, lives, counts, [], swept=False)
        turn.forgotten.extend(again)
        return turn

    def moved(self, partition: Partition, topic: str, tick: Tick) -> Turn:
        """Closes a ``clock`` record: its time is known, the clock stands where it moved it."""
        until = self.tick(partition, topic, tick)
        window, _ = partition.windows.get(topic, Window()).after([False])
        counts: Counts = Counter({("event", "clock"): 1})
        if tick.at < partition.ticks.get(topic, 0):
            counts["late",] += 1
        after = msgspec.structs.replace(
            partition,
            clock=until or partition.clock,
            ticks={**partition.ticks, topic: max(tick.at, partition.ticks.get(topic, 0))},
            applied={**partition.applied, topic: tick.offset},
            windows={**partition.windows, topic: window},
        )
        if until:
            after = msgspec.structs.replace(
                after,
                tally=partition.tally.until(partition.clock, until),
                feeds={
                    name: feeds.folded_to(feed, until, self.calendar, self._feeds)
                    for name, feed in after.feeds.items()
                },
            )
        return Turn(partition=after, counts=counts)

    def went_live(self, partition: Partition, at: int) -> Turn:
        """Wall clock: the partition has read everything for the first time, at ``at``."""
        return Turn(partition=msgspec.structs.replace(partition, live_since=at))

    def silent_feeds(self, partition: Partition, at: int) -> list[str]:
        """The input topics whose traffic is far below what is usual at ``at``."""
        return [
            name
            for name, feed in partition.feeds.items()
            if name in self.inputs and feeds.silent(feed, at, self.calendar, self._feeds)
        ]

    def traffic(self, partition: Partition, at: int) -> dict[str, tuple[float, float]]:
        """Of each input topic that has been read: events in the window by which its feed is judged at ``at``, and how
        many are usual in it (0: not known yet)."""
        return {
            name: feeds.window(feed, at, self.calendar, self._feeds)
            for name, feed in partition.feeds.items()
            if name in self.inputs
        }

    def describe(self, name: str, hot: bytes, cold: bytes | None, at: int) -> dict[str, object]:
        """A customer at ``at`` in the words of the command line and the API."""
        life = self._life(name.encode("utf-8", "surrogatepass"), hot, cold)
        customer = life.customer
        money = (customer.spend - customer.returned) / 10**self.minor_units
        result: dict[str, object] = {
            "customer": name,
            "orders": customer.orders,
            "returns": customer.returns,
            "spend": round(money, 2),
        }
        if customer.orders:
            result["first_purchase"] = rfc3339(customer.first_purchase)
            result["last_purchase"] = rfc3339(customer.last_purchase)
        result["open_complaints"] = len(customer.open_since)
        if customer.orders:
            score = self._score([_Ask(self._facts(life, at), at)])[0]
            held = life.standing.churn.band if life.standing.churn else bands.LOW
            silent_days = max(at - customer.last_purchase, 0) / DAY
            band = bands.band(score.churn, score.alive, silent_days, self.policy, held)
            result["churn_probability"] = score.churn
            result["risk_band"] = bands.NAMES[band]
        result["as_of"] = rfc3339(at)
        if customer.orders:
            result["reasons"] = msgspec.to_builtins(reasons(self._evidence(life, score, at), self._words))
        return result

    # ---- one customer

    def _may_fire(self, life: _Life, todo: Sequence[_Piece], at: int, bound: int) -> bool:
        """Whether a deadline may fall before an event at ``at``: one that stands, or one that the customer's
        earlier events of this turn may set. Under the record clock only a snapshot does: all else due has fired."""
        standing = life.standing
        deadline = standing.next_deadline()
        if 0 < deadline <= min(at, bound) or 0 < standing.snapshot_due < at:
            return True
        return self.clock == "wall" and bool(todo)

    def _passed_over(self, topic: str, record: Record) -> bool:
        """Whether a record that cannot be read is of somebody who asked to be forgotten when Kafka had it already: on
        the topic of the request as it stands there, on others by when they were written."""
        if not self.forgotten:
            return False
        for customer in whose(record.key, record.value, record.headers):
            known = self.forgotten.of(customer)
            if known is None:
                continue
            if (
                record.offset < known.offset
                if topic == known.topic
                else record.timestamp * 1000 <= known.written
            ):
                return True
        return False

    def _touches(self, event: ev.Event) -> bool:
        """Whether the cold part is needed for an event."""
        return touches_cold(event) or (self._use_counts and type(event) is ev.Use) or type(event) is ev.Forget

    def _feed_silent(self, partition: Partition, at: int) -> bool:
        """As ``silent_feeds``, asked once for all looks of an hour: the answer is the same within it."""
        hour = self.calendar.local(at) // HOUR
        if self._judged[0] is not partition.feeds:
            self._judged = (partition.feeds, {})
        known = self._judged[1].get(hour)
        if known is None:
            known = self._judged[1][hour] = bool(self.silent_feeds(partition, at))
        return known

    def _life(self, key: bytes, hot: bytes | None, cold: bytes | None) -> _Life:
        customer = unpack_hot(hot)
        if hot is None and self.forgotten and (known := self.forgotten.of(key)):
            customer.standing.forgotten, customer.standing.request = known.until, known.request
        name = key.decode("utf-8", "surrogatepass")
        life = _Life(key, hot, customer, unpack_cold(cold), self._grid.stagger(name))
        life.cold_size = len(cold or b"")
        return life

    def _follow(
        self,
        life: _Life,
        todo: Sequence[_Piece],
        log: _Log,
    ) -> _Steps:
        """Applies a customer's events in order; before each, deadlines up to its time fire."""
        partition, topic, counts = log.partition, log.topic, log.counts
        for place, before, item in todo:
            if isinstance(item, Tombstone):
                cleared = unprofiled(life.cold, log.ring)
                life.grown |= cleared is not life.cold
                life.cold = cleared
                continue
            event = item.event
            if type(event) is ev.Forget:
                self._forget(life, place, item, log)
                continue
            if item.at <= life.standing.forgotten:
                counts["suppressed",] += 1
                continue
            until = min(item.at, log.bound)
            if 0 < life.standing.next_deadline() <= until:
                earlier = _Cause(place, partition.applied, topic, before, None, event.history)
                yield from self._fire(life, until, earlier, partition, counts)
            while 0 < life.standing.snapshot_due < item.at:
                # What the event says was not known at that instant.
                yield from self._snapshot(life, life.standing.snapshot_due)
            try:
                applied = apply(life.customer, life.cold, item, log.ring, self.calendar)
            except ValueError as error:
                record = log.records[place]
                refused = Refused(item.offset, "not_applicable", str(error), record)
                counts["refused", "not_applicable"] += 1
                log.letters.append((place, dead_letter(refused, topic, "apply")))
                continue
            if applied.duplicate:
                counts["duplicate",] += 1
                continue
            if applied.late or (self.clock == "record" and item.at < partition.clock):
                counts["late",] += 1
            decisive = type(event) in DECISIVE
            at = max(item.at, life.standing.at) if decisive else item.at
            history = self._history(partition, at, event.history)
            if decisive and not history and self._unannounced(life.standing):
                # What was known before this event is no news: decide on it silently first.
                earlier = _Cause(place, partition.applied, topic, before, None, event.history)
                yield from self._decide(life, at, "silent", earlier, counts)
                applied = apply(life.customer, life.cold, item, log.ring, self.calendar)
            life.customer = applied.customer
            active = applied.bought or (self._use_counts and type(event) is ev.Use)
            if active and life.standing.followed:
                self._came_back(life, item.at, partition.clock)
            if applied.cold is not life.cold:
                life.cold = applied.cold
                life.grown = True
            if self._use_counts and type(event) is ev.Use:
                self._keep(life, ledger.marked(life.cold.pending, item.at))
            if decisive:
                cause = _Cause(
                    place, partition.applied, topic, item.offset, event.id, event.history, log.records
                )
                yield from self._decide(life, at, "history" if history else "live", cause, counts)
            elif history and not life.standing.at:
                # Nothing has been decided yet, but what an archive tells is no news at the first decision.
                life.standing.history = True
            self._look_ahead(life, item, partition, decisive)

    def _came_back(self, life: _Life, at: int, clock: int) -> None:
        """Activity of a customer who was warned of: within the horizon of the silence the warning was wrong."""
        standing = life.standing
        ends = standing.followed
        if ends - self._horizon < at <= ends:
            lead = (ends - standing.warned) // SECOND
            life.warnings.append((ends, Warned(wrong=1, wrong_lead=lead)))
            standing.followed = 0
        elif at > ends and clock > ends:
            standing.followed = 0

    def _look_ahead(self, life: _Life, item: Decoded, partition: Partition, decisive: bool) -> None:
        """Sets the deadlines that follow from an event."""
        customer, standing = life.customer, life.standing
        if self._lets_go:
            self._keep_until(life)
        after = max(standing.at, partition.clock)
        if decisive and customer.orders and not standing.snapshot_due and self._learns:
            standing.labelled = max(item.at, partition.clock)
            standing.snapshot_due = ledger.following(standing.labelled, self._apart(life), self._step)
        if not decisive:
            if customer.orders:
                after = max(after, item.at)
                soon = self._grid.next(item.at, life.stagger, after)
                if not standing.look:
                    # Nobody has looked ahead: what could be offered is not known without the cold part.
                    standing.look = life.stored = soon
                standing.look = min(standing.look, soon)
                life.look_sooner(after, soon, life.cold if self._touches(item.event) else None)
            return
        if customer.orders:
            standing.look = self._grid.next(customer.last_decisive, life.stagger, after)
            life.look_after(after)
        newest = newest_cart(life.cold, customer.last_purchase) if life.cold.cart else 0
        standing.cart_due = newest + self._cart_wait if newest and newest + self._cart_wait > after else 0
        if isinstance(item.event, ev.Complaint | ev.ComplaintUpdate):
            standing.complaint_due = self._complaint_due(customer, after)

    def _complaint_due(self, customer: Customer, after: int) -> int:
        due = [opened + self._overdue for opened in customer.open_since]
        return min((instant for instant in due if instant > after), default=0)

    def _fire(self, life: _Life, until: int, cause: _Cause, partition: Partition, counts: Counts) -> _Steps:
        """Fires the customer's deadlines up to ``until``, each at its own instant."""
        while True:
            standing = life.standing
            at = standing.next_deadline()
            if not at or at > until:
                return
            counts["fired",] += 1
            placed = cause._replace(order=at) if cause.order == _TIMER else cause
            if at == standing.expire_due and self._keep_until(life, at) <= at:
                yield from self._expire(life, at, placed, partition, counts)
                return
            if at == standing.label_due:
                self._mature(life, at, placed, counts)
            if at == standing.snapshot_due:
                yield from self._snapshot(life, at)
            held = False
            looked = at == standing.look
            if not looked and at not in (standing.cart_due, standing.complaint_due):
                continue
            if looked:
                counts["look",] += 1
                standing.look = self._grid.next(life.customer.last_decisive, life.stagger, at)
                held = self._feed_silent(partition, at)
            if at == standing.cart_due:
                standing.cart_due = 0
                held = False
            if at == standing.complaint_due:
                standing.complaint_due = self._complaint_due(life.customer, at)
                held = False
            if held:
                counts["held",] += 1
                life.look_after(at)
                continue
            if self._history(partition, at, cause.history):
                delivery: Delivery = "history"
            else:
                delivery = "silent" if self._unannounced(standing) else "live"
            yield from self._decide(life, max(at, standing.at), delivery, placed, counts, silent=True)
            if looked:
                life.look_after(at)
            else:
                # An episode may have opened, a complaint is overdue: what was seen ahead is no longer true.
                life.look_sooner(at, 0, life.cold)

    def _keep_until(self, life: _Life, passed: int = 0) -> int:
        """The instant until which a customer is kept if nothing more is heard; far off where it is for ever. It
        becomes a deadline where there is none, a later one, or the one that stood has ``passed``: each event puts it
        off, and only the deadline finds out."""
        keep = self.retention.of(life.customer.orders)
        standing = life.standing
        until = life.customer.last_seen + keep if keep else 0
        if not standing.expire_due or until < standing.expire_due or passed:
            standing.expire_due = until
        return until or _NEVER

    def _expire(self, life: _Life, at: int, cause: _Cause, partition: Partition, counts: Counts) -> _Steps:
        """Nothing was heard for so long that the customer is kept no longer. What is open ends first."""
        standing = life.standing
        if standing.churn or standing.upsell:
            history = self._history(partition, at, cause.history)
            yield from self._decide(
                life, max(at, standing.at), "history" if history else "live", cause, counts, silent=True
            )
        counts["erased", "retention"] += 1
        written = standing.written_band >= 0
        life.erase()
        if written:
            life.leave(cause.order, at, "history", _Gone(CUSTOMER_SCORES))

    def _forget(self, life: _Life, place: int, item: Decoded, log: _Log) -> None:
        """Everything that was read of a customer goes, and whatever is not later than the request and still to come
        is passed over, whichever way it comes."""
        if self.forgotten is None:
            why = (
                "forget: privacy.key is not set, and without it nobody can be kept from coming back;"
                " set it, then replay this"
            )
            refused = Refused(item.offset, "not_applicable", why, log.records[place])
            log.counts["refused", "not_applicable"] += 1
            log.letters.append((place, dead_letter(refused, log.topic, "apply")))
            return
        standing, customer = life.standing, life.customer
        known = self.forgotten.of(life.key)
        request = self.forgotten.request(item.event.id)
        # A request that was sent twice, or is read once more: who came back since stays.
        met = request == standing.request or (
            known is not None and known.topic == log.topic and item.offset <= known.offset
        )
        again = customer.events > 0 and item.at <= standing.forgotten and met
        removed: dict[str, int] = {}
        if not again:
            removed = {
                "states": int(customer.events > 0),
                "timers": int(standing.next_deadline() > 0),
                "labels": len(life.cold.pending),
                "episodes": (standing.churn is not None) + (standing.upsell is not None),
            }
            standing.forgotten = max(item.at, standing.forgotten, customer.last_seen)
            standing.request = request
            life.erase()
            life.drafts = [draft._replace(dropped=True) for draft in life.drafts]
            log.letters[:] = [
                (at, letter)
                for at, letter in log.letters
                if at > place or not is_about(life.name, letter.key, letter.value, letter.headers)
            ]
            log.counts["erased", "forget"] += 1
            life.leave(place, item.at, "history", _Gone(CUSTOMER_SCORES))
            if CUSTOMERS in self.inputs:
                life.leave(place, item.at, "history", _Gone(CUSTOMERS))
        here = self.application, log.partition.number, log.topic, item.offset
        said = Erasure(
            until=to_datetime(life.standing.forgotten),
            # A record may have no time.
            written=to_datetime(max(log.records[place].timestamp, 0) * 1000),
            secret=self.forgotten.secret,
            request=request.hex(),
            application=self.application,
            partition=log.partition.number,
            topic=log.topic,
            offset=item.offset,
            # Where it was read before, as many labels had left as then: the trainer knows them by their numbers.
            examples=known.examples if known is not None and known[1:5] == here else 0,
            again=again,
            removed=removed,
        )
        digest = self.forgotten.digest(life.key)
        life.leave(place, item.at, "history", Forgetting(life.key, digest, said))

    def _apart(self, life: _Life) -> int:
        """Where on the clock of snapshots a customer stands: customers are spread over one step."""
        return life.stagger * self._step // self._grid.step

    def _keep(self, life: _Life, pending: tuple[ledger.Pending, ...]) -> None:
        if pending is not life.cold.pending:
            life.cold = msgspec.structs.replace(life.cold, pending=pending)
            life.grown = True

    def _snapshot(self, life: _Life, at: int) -> _Steps:
        """Remembers what is known at ``at`` until its labels mature. Who lapsed by time is no example any more, until
        the next purchase."""
        if at - life.customer.last_purchase > self._lapsed:
            life.standing.snapshot_due = 0
            return
        if life.customer.last_seen > at:
            # The first purchase came after later events: the state knows what comes after this instant.
            life.standing.snapshot_due = ledger.following(at, self._apart(life), self._step)
            return
        inputs = yield _Ask(self._facts(life, at), at, True)
        assert isinstance(inputs, bytes)
        standing = life.standing
        # What was decided late may have made more wait than there is room for: the oldest has waited longest.
        pending = (*life.cold.pending[1 - ledger.MOST :], ledger.Pending(at, 0, 0, inputs))
        self._keep(life, pending)
        standing.snapshot_due = ledger.following(at, self._apart(life), self._step)
        standing.label_due = ledger.waiting(pending, self._horizons, standing.labelled)

    def _mature(self, life: _Life, at: int, cause: _Cause, counts: Counts) -> None:
        """The labels whose horizon has passed leave as examples; a snapshot without one that waits is forgotten."""
        standing, pending = life.standing, life.cold.pending
        for each in pending:
            for horizon in self._horizons:
                if standing.labelled < each.at + horizon <= at:
                    churned = each.churned(horizon)
                    counts["example", "churned" if churned else "stayed"] += 1
                    example = Example(
                        partition=0,
                        sequence=0,
                        at=each.at,
                        due=each.at + horizon,
                        horizon_days=horizon / DAY,
                        churned=churned,
                        inputs=ledger.unpacked(each.inputs),
                        features=FEATURES_VERSION,
                    )
                    life.leave(cause.order, at, "history", example)
        standing.labelled = at
        self._keep(life, tuple(each for each in pending if each.at + self._horizons[-1] > at))
        standing.label_due = ledger.waiting(life.cold.pending, self._horizons, at)

    def _history(self, partition: Partition, at: int, marked: bool) -> bool:
        """Whether a decision at ``at`` is history: marked so, or before go-live under the wall clock."""
        if marked or self.clock == "record":
            return marked
        return not partition.live_since or at < partition.live_since

    def _unannounced(self, standing: Standing) -> bool:
        """Whether this would be the first live decision after history, a new policy or another model."""
        return standing.history or (standing.at > 0 and standing.known != self._using.known)

    def _decide(
        self, life: _Life, at: int, delivery: Delivery, cause: _Cause, counts: Counts, *, silent: bool = False
    ) -> _Steps:
        """One decision point of one customer: score, episodes, drafts.

        ``silent``: no event, a deadline. Where it has nothing to say it leaves no trace either, so that it makes
        no difference whether it was taken (see ``alerts.ahead``).
        """
        customer = life.customer
        score: decide.Score | None = None
        band = bands.LOW
        standing = life.standing
        transitions: list[decide.Transition] = []
        if customer.orders:
            counts["decision",] += 1
            answer = yield _Ask(self._facts(life, at), at)
            assert isinstance(answer, decide.Score)
            score = answer
            standing.churn, band, step = decide.churn(standing, customer, score, at, self.policy)
            if step:
                standing.warned = step.episode.opened
                if step.name == "raised":
                    self._warned(life, at, delivery)
                transitions.append(step)
            if band == bands.LAPSED:
                standing.look = 0
        if band < bands.LAPSED or standing.upsell:
            standing.upsell, step = decide.upsell(
                standing, customer, life.cold, band, at, self.policy, self._words
            )
            if step:
                transitions.append(step)
                if step.name == "raised":
                    self._offered(life, step, at)
        writes = score is not None and (
            band != standing.written_band or abs(score.churn - standing.written) >= self.policy.score_change
        )
        # The first live look after history ends what is silent about it, and the first of a new policy likewise.
        known = standing.known == self._using.known and (delivery == "history" or not standing.history)
        if silent and known and not transitions and not writes:
            return
        for transition in transitions:
            standing.sequence += 1
            self._alert(life, transition, standing.sequence, score, at, delivery, cause)
        if score is not None and writes:
            standing.written, standing.written_band = score.churn, band
            counts["score",] += 1
            life.leave(cause.order, at, delivery, self._standing_score(life.name, score, band, at, cause))
        standing.at = at
        standing.known = self._using.known
        standing.history = delivery == "history"

    def _warned(self, life: _Life, at: int, delivery: Delivery) -> None:
        """Follows a live warning until the horizon of the customer's silence ends: what it was worth."""
        active = life.customer.last_purchase
        if self._use_counts:
            active = max(active, life.customer.last_use)
        ends = active + self._horizon
        life.standing.followed = 0
        if delivery == "live" and at < ends:
            life.standing.followed = ends
            life.warnings.append((ends, Warned(warnings=1, lead=(ends - at) // SECOND)))

    def _offered(self, life: _Life, step: decide.Transition, at: int) -> None:
        """Remembers what is offered, and what was within the time in which it is not offered again."""
        life.standing.offered = at
        repeat = round(self.policy.offer_repeat_days * DAY)
        kept = {name: when for name, when in life.cold.offered.items() if at - when <= repeat}
        offered = {**kept, **dict.fromkeys((c.key for c in step.offers), at)}
        life.cold = msgspec.structs.replace(life.cold, offered=bounded_offers(offered))
        life.grown = True

    def _alert(
        self,
        life: _Life,
        transition: decide.Transition,
        sequence: int,
        score: decide.Score | None,
        at: int,
        delivery: Delivery,
        cause: _Cause,
    ) -> None:
        """Drafts the alert of one transition, with what decided it."""
        kind, name, episode = transition.kind, transition.name, transition.episode
        known: dict[str, object] = {}
        if score is not None:
            known["churn_probability"] = score.churn
            known["horizon_days"] = self.policy.horizon_days
            known["risk_band"] = bands.NAMES[transition.band]
            known["score_source"] = self.model.source
        behind: str | None = None
        if score is not None and kind == "churn":
            evidence = self._evidence(life, score, at)
            known["reasons"] = reasons(evidence, self._words)
            if name != "resolved":
                known["cause"] = behind = cause_of(evidence)
        warned = life.standing.churn is not None
        probability = None if score is None else score.churn
        expected = None if score is None or not self.model.tells_value else self.model.expected(_alone(score))
        known |= outlook(
            at,
            life.customer.orders,
            transition.band,
            warned,
            probability,
            Expected(*expected) if expected else Expected(),
            self.minor_units,
        ).known()
        if kind == "churn":
            # What ends by a purchase or by lapsing stakes nothing any more.
            at_risk = known.get("revenue_at_risk", 0.0) if warned else 0.0
            assert isinstance(at_risk, float)
            life.standing.stake = round(at_risk * 10**self.minor_units)
        if transition.offers:
            known["offers"] = tuple(_offer(candidate) for candidate in transition.offers)
        action = self._action(transition, life, behind)
        if action is not None:
            known["action"] = action
        if cause.event is not None:
            known["cause_event"] = cause.event
        content = Alert(
            id=alert_id(self.application, life.name, kind, episode.opened, name, episode.ordinal),
            customer=life.name,
            kind=kind,
            transition=name,
            episode=episode.opened,
            sequence=sequence,
            decided_at=at,
            history=delivery == "history",
            position=cause.position(),
            versions=self.versions,
            **known,  # type: ignore[arg-type]  # optional fields, present only when known
        )
        life.leave(cause.order, at, delivery, content, cause.traceparent())

    def _action(self, transition: decide.Transition, life: _Life, cause: str | None) -> str | None:
        """The measure for a transition: a shop has few, so each is looked up once."""
        customer = life.customer
        # A tier that no measure names is none: a shop may have as many as it likes.
        told = tier(life.cold) if self._tiers else None
        named = told if told in self._tiers else None
        offered = transition.offers[0].type if transition.offers else ""
        key = (
            transition.kind,
            transition.name,
            transition.band,
            cause,
            customer.orders == 1,
            bool(customer.open_since),
            named,
            offered,
        )
        if key not in self._actions:
            self._actions[key] = decide.action(transition, customer, self.policy, cause, named)
        return self._actions[key]

    def _evidence(self, life: _Life, score: decide.Score, at: int) -> Evidence:
        return Evidence(
            customer=life.customer,
            cold=life.cold,
            at=at,
            x=_alone(score),
            groups=self.model.groups,
            contributions=score.contributions,
            base=score.base,
            usual=self.model.usual,
            source=self.model.source,
            overdue_hours=self.policy.complaint_overdue_hours,
            minor_units=self.minor_units,
        )

    def _standing_score(self, name: str, score: decide.Score, band: int, at: int, cause: _Cause) -> Score:
        return Score(
            customer=name,
            churn_probability=score.churn,
            risk_band=bands.NAMES[band],
            score_source=self.model.source,
            decided_at=at,
            position=cause.position(),
            versions=self.versions,
        )

    # ---- all customers of a turn

    def _run(self, steps: list[_Steps]) -> None:
        """Runs the lives side by side: one round scores the next decision point of each."""
        asks: list[_Ask] = []
        waiting: list[_Steps] = []
        for step in steps:
            ask = next(step, None)
            if ask is not None:
                asks.append(ask)
                waiting.append(step)
        while waiting:
            answers = self._answer(asks)
            asks, running = [], waiting
            waiting = []
            for step, answer in zip(running, answers, strict=True):
                try:
                    asks.append(step.send(answer))
                except StopIteration:
                    continue
                waiting.append(step)

    def _answer(self, asks: Sequence[_Ask]) -> Sequence[decide.Score | bytes]:
        snapshots = [ask for ask in asks if ask.inputs]
        if not snapshots:
            return self._score(asks)
        x = _inputs(snapshots, matrix.EVERY)
        kept = iter(np.array(x).T.astype("<f4"))
        scored = [ask for ask in asks if not ask.inputs]
        scores = iter(self._score(scored) if scored else ())
        return [next(kept).tobytes() if ask.inputs else next(scores) for ask in asks]

    def _facts(self, life: _Life, at: int, customer: Customer | None = None) -> bytes:
        """What a score at an instant follows from (``customer``: as it was, if not as it is now)."""
        customer = customer or life.customer
        if life.known_of is not customer:
            life.known_of, life.known = customer, matrix.facts(customer)
        return life.known + matrix.late(customer, at, self._overdue)

    def _score(self, asks: Sequence[_Ask]) -> list[decide.Score]:
        x = _inputs(asks, self.model.needs)
        scores = self.model.score(x)
        rows = zip(*(row.tolist() for row in scores.contributions), strict=True)
        return [
            decide.Score(churn, alive, rise, base, contributions, usual, x, row)
            for row, (churn, alive, rise, base, contributions, usual) in enumerate(
                zip(
                    scores.churn.tolist(),
                    scores.alive.tolist(),
                    scores.rise.tolist(),
                    scores.base.tolist(),
                    rows,
                    scores.usual_days.tolist(),
                    strict=True,
                )
            )
        ]

    def _fed(self, partition: Partition, topic: str, times: list[int]) -> dict[str, feeds.Feed]:
        if not times or not self._feeds.enabled:
            return partition.feeds
        feed = partition.feeds.get(topic, feeds.Feed())
        return {
            **partition.feeds,
            topic: feeds.counted(feed, times, partition.clock, self.calendar, self._feeds),
        }

    def _look_far(self, lives: Iterable[_Life]) -> None:
        """Puts each look that the turn has set to the first instant at which it may have something to say."""
        silent: list[_Life] = []
        asked: list[Quiet] = []
        for life in lives:
            standing = life.standing
            if not life.quiet or not standing.look:
                continue
            paused = standing.offered and round(standing.offered + self.policy.offer_pause_days * DAY)
            for customer, cold, after, soon in life.quiet:
                offer = 0
                if cold is not None and standing.upsell is None and not customer.open_since:
                    offer = offers.earliest(customer, cold, max(after, paused), self.policy)
                silent.append(life)
                facts = self._facts(life, after, customer)
                asked.append(Quiet(customer, facts, standing, life.stagger, after, soon, offer))
        if not asked:
            return
        looks: dict[_Life, int] = {}
        for life, look in zip(silent, self._using.ahead.next(asked), strict=True):
            known = looks.get(life, life.stored)
            looks[life] = min(look, known) if known else look
        for life, look in looks.items():
            life.standing.look = look

    def _turn(
        self,
        partition: Partition,
        lives: dict[bytes, _Life],
        counts: Counts,
        letters: list[tuple[int, Message]],
        lived: Lived | None = None,
        scores: Sequence[Placed] = (),
        *,
        swept: bool = False,
    ) -> Turn:
        turn = Turn(partition=partition, counts=counts)
        if lived is not None:
            turn.hot, turn.cold, turn.deadlines = lived.hot, lived.cold, lived.deadlines
        drafts: list[_Draft] = []
        change = Change() if lived is None else lived.change
        for key, life in lives.items():
            standing = life.standing
            if life.erased and life.raw is not None:
                turn.erased.append(key)
                change.hot -= len(life.raw)
                change.cold -= life.cold_size
                change.waits(life.waited, ())
                change.moved(life.was, None)
                life.raw, life.was, life.cold_size, life.waited = None, None, 0, ()
            if not life.customer.events and (life.erased or standing.forgotten):
                # Nobody, or nobody any more.
                for ends, some in life.warnings:
                    change.warns(ends, some)
                drafts.extend(life.drafts)
                continue
            deadline = standing.next_deadline()
            if deadline and deadline != standing.due:
                turn.deadlines[key] = standing.due = deadline
            elif swept and not deadline:
                turn.cleared.append(key)
            if life.grown:
                turn.cold[key] = cold = pack_cold(life.cold)
                change.cold += len(cold) - life.cold_size
                if life.cold.pending is not life.waited:
                    change.waits(life.waited, life.cold.pending)
            life.customer.standing = standing
            packed = pack_hot(life.customer)
            if packed != life.raw:
                turn.hot[key] = packed
                change.hot += len(packed) - len(life.raw or b"")
                now = Place.of(life.customer)
                if now != life.was:
                    change.moved(life.was, now)
                for ends, some in life.warnings:
                    change.warns(ends, some)
            drafts.extend(life.drafts)
        if turn.hot or turn.cold or turn.erased or change.warned:
            turn.partition = msgspec.structs.replace(turn.partition, tally=change.of(turn.partition.tally))
        if drafts or letters or scores:
            self._deliver(turn, drafts, letters, scores)
        return turn

    def _deliver(
        self, turn: Turn, drafts: list[_Draft], letters: list[tuple[int, Message]], scores: Sequence[Placed]
    ) -> None:
        """Messages in the order of their causes; brakes and the ceiling mark what is not delivered."""
        learned = turn.partition.examples
        ceiling = Ceiling(turn.partition.minutes, self.policy.deliver_per_minute)
        placed = [*scores, *(((place, "", -1), letter) for place, letter in letters)]
        for draft in sorted(drafts, key=lambda draft: draft.order):
            content = draft.content
            if isinstance(content, Forgetting):
                learned = max(learned, content.erasure.examples)
                said = msgspec.structs.replace(content.erasure, examples=learned)
                turn.forgotten.append(content._replace(erasure=said))
                continue
            if isinstance(content, _Gone):
                message = Message(content.topic, draft.order[1].encode("utf-8", "surrogatepass"), None)
            elif isinstance(content, Example):
                learned += 1
                message = example_message(
                    msgspec.structs.replace(content, partition=turn.partition.number, sequence=learned)
                )
            elif isinstance(content, Score):
                message = score_message(content, self.policy.type_prefix, self.application)
            else:
                decision: str = draft.delivery
                if decision == "live":
                    held = self._brakes.withhold(content.kind, turn.partition.number, draft.at)
                    decision = held or ("delivered" if ceiling.admits(draft.at) else "ceiling")
                turn.counts["alert", content.kind, content.transition, decision] += 1
                why = None if decision == "delivered" else decision
                message = alert_message(content, self.policy.type_prefix, self.application, why, draft.trace)
            if not draft.dropped or isinstance(content, Example):
                placed.append((draft.order, message))
        placed.sort(key=lambda pair: pair[0])
        turn.out.extend(message for _, message in placed)
        turn.partition = msgspec.structs.replace(turn.partition, minutes=ceiling.minutes, examples=learned)


def _inputs(asks: Sequence[_Ask], needed: frozenset[str]) -> Inputs:
    rows = matrix.table([ask.facts for ask in asks])
    return matrix.at_instants(rows, np.array([ask.at for ask in asks]), needed)


def _alone(score: decide.Score) -> Inputs:
    """The inputs of one score's customer."""
    row = slice(score.row, score.row + 1)
    return Inputs(*(column[row] for column in score.x))


def _offer(candidate: Candidate) -> Offer:
    if candidate.name.startswith("sku:") or candidate.type == "cart_abandoned":
        sku, category = candidate.name.removeprefix("sku:"), None
    else:
        sku, category = None, candidate.name
    return Offer(type=candidate.type, sku=sku, category=category, reason=candidate.text)
