"""An application without servers: the real engine, driven as the worker drives it, over a log in memory.

`Log` is what Kafka would hold (one partition of each topic, in the order in which it is read).
`Application` reads it in batches that are cut where the topic changes and, under the record clock, at
clock records; keeps states, deadlines and messages as the store would; and can die at any commit and
go on from what was committed.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from copy import copy
from typing import Literal, NamedTuple

import msgspec

from alerts.brakes import Brakes
from alerts.engine import ClockMode, Engine, Missing, Turn
from alerts.forgotten import Entry, Forgotten, Retention, entry
from alerts.partition import Partition
from alerts.policy import Feeds, Policy
from features.cold import Cold
from features.customer import Customer, unpack_cold, unpack_hot
from features.shop import DAY, HOUR, MICROS, Shop
from models.learning import Learning
from models.snapshot import Prior
from streams import events as ev
from streams.alerts import Alert, Score, decode_alert, decode_score
from streams.codec import CLOCK_KEY, Codec, Decoded, Item, Tick, encode, encode_clock
from streams.erasure import Forgetting, is_about
from streams.examples import Example, decode_example
from streams.message import Message, pack, unpack
from streams.topics import ALERTS as ALERTS_TOPIC
from streams.topics import (
    COMPACTED,
    CUSTOMER_SCORES,
    CUSTOMERS,
    DEAD_LETTERS,
    DECISIONS,
    EXAMPLES,
    PURCHASES,
    TOPIC_OF,
)

MINUTE = 60 * MICROS
START = 1_767_225_600_000_000
"""2026-01-01T00:00:00Z, a Thursday."""
_WRITTEN_AT = START // 1000 + 3_650 * 86_400_000
"""Kafka's timestamp of every record that does not say: late enough that no event is from the future."""


class Row(NamedTuple):
    """A record as it lies in Kafka."""

    topic: str
    partition: int
    offset: int
    timestamp: int
    key: bytes | None
    value: bytes | None
    headers: Sequence[tuple[str, bytes | None]] = ()


class Log:
    """Records of one partition of several topics, in the order in which they are read.

    With ``only``, everything goes to that one topic. Offsets count per topic.
    """

    def __init__(self, only: str | None = None) -> None:
        self.rows: list[Row] = []
        self.next: Counter[str] = Counter()
        self._only = only
        self._ids = 0

    def raw(
        self,
        topic: str,
        key: bytes | None,
        value: bytes | None,
        headers: Sequence[tuple[str, bytes | None]] = (),
        timestamp: int = _WRITTEN_AT,
    ) -> Row:
        topic = self._only or topic
        row = Row(topic, 0, self.next[topic], timestamp, key, value, headers)
        self.next[topic] += 1
        self.rows.append(row)
        return row

    def add(self, event: ev.Event, topic: str | None = None) -> Row:
        """An event, on the topic where its kind usually travels."""
        topic = topic or TOPIC_OF[ev.type_name(event)]
        return self.raw(topic, event.customer.encode(), encode(event))

    def tick(self, at: int, topics: Iterable[str] = (PURCHASES,), *, history: bool = False) -> None:
        """A clock record, on one topic or on several."""
        for topic in dict.fromkeys(self._only or name for name in topics):
            self.raw(topic, CLOCK_KEY, encode_clock(at, history))

    # What customers do, briefly: `at` in microseconds.

    def identity(self) -> str:
        self._ids += 1
        return f"e{self._ids}"

    def purchase(
        self,
        customer: str,
        at: int,
        amount: float = 10.0,
        *,
        category: str | None = None,
        identity: str | None = None,
        order: str | None = None,
        history: bool = False,
        topic: str | None = None,
    ) -> Row:
        line = ev.Line(amount=amount, category=category)
        event = ev.Purchase(
            id=identity or self.identity(),
            customer=customer,
            time=ev.to_datetime(at),
            lines=(line,),
            order=order,
            history=history,
        )
        return self.add(event, topic)

    def view(self, customer: str, at: int, category: str | None = None, *, history: bool = False) -> Row:
        return self.add(
            ev.View(
                id=self.identity(),
                customer=customer,
                time=ev.to_datetime(at),
                category=category,
                history=history,
            )
        )

    def cart(self, customer: str, at: int, sku: str, action: Literal["add", "remove"] = "add") -> Row:
        return self.add(
            ev.Cart(
                id=self.identity(),
                customer=customer,
                time=ev.to_datetime(at),
                action=action,
                sku=sku,
                amount=5.0,
            )
        )

    def complaint(self, customer: str, at: int, name: str = "c1") -> Row:
        return self.add(
            ev.Complaint(
                id=self.identity(),
                customer=customer,
                time=ev.to_datetime(at),
                complaint=name,
                kind="service",
            )
        )

    def complaint_update(
        self,
        customer: str,
        at: int,
        status: Literal["answered", "resolved", "reopened", "closed"],
        name: str = "c1",
    ) -> Row:
        return self.add(
            ev.ComplaintUpdate(
                id=self.identity(),
                customer=customer,
                time=ev.to_datetime(at),
                complaint=name,
                status=status,
            )
        )

    def lost(self, customer: str, at: int, *, history: bool = False) -> Row:
        return self.add(
            ev.CustomerLost(id=self.identity(), customer=customer, time=ev.to_datetime(at), history=history)
        )

    def forget(self, customer: str, at: int, *, identity: str | None = None, topic: str | None = None) -> Row:
        event = ev.Forget(id=identity or self.identity(), customer=customer, time=ev.to_datetime(at))
        return self.add(event, topic)

    def profile(
        self,
        customer: str,
        at: int,
        tier: str | None,
        *,
        identity: str | None = None,
        topic: str | None = None,
    ) -> Row:
        event = ev.Profile(
            id=identity or self.identity(), customer=customer, time=ev.to_datetime(at), tier=tier
        )
        return self.add(event, topic)

    def tombstone(self, customer: str) -> Row:
        return self.raw(CUSTOMERS, customer.encode(), None)

    def survey(self, customer: str, at: int, score: float, scale: float = 10.0) -> Row:
        return self.add(
            ev.Survey(
                id=self.identity(), customer=customer, time=ev.to_datetime(at), score=score, scale=scale
            )
        )


class Seen(NamedTuple):
    """An alert that left: on ``alerts``, or on ``decisions`` with the reason why it was withheld."""

    alert: Alert
    withheld: str | None
    message: Message

    @property
    def step(self) -> str:
        """``churn.raised``."""
        return f"{self.alert.kind}.{self.alert.transition}"


class Crashed(Exception):
    """The worker died."""


Crash = Literal["before", "after"] | None
"""Whether the worker dies at a commit, and whether that was still written."""


class Stored(NamedTuple):
    """What the store holds; a backup of it, when copied. (``Application.gone``, the list of those who were
    forgotten, is also beside it.)"""

    blob: bytes | None
    hot: dict[bytes, bytes]
    cold: dict[bytes, bytes]
    due: dict[bytes, int]
    out: list[bytes]


class Application:
    """One partition of one application. ``batch``: records at most in a commit; ``limit``: deadlines at
    most in a step; ``crash``: asked at each commit, by its number, whether the worker dies."""

    def __init__(
        self,
        inputs: Sequence[str] = (PURCHASES,),
        *,
        clock: ClockMode = "record",
        batch: int = 2000,
        limit: int = 2000,
        name: str = "shop",
        shop: Shop | None = None,
        policy: Policy | None = None,
        feeds: Feeds | None = None,
        prior: Prior | None = None,
        learning: Learning | None = None,
        secret: str | None = None,
        retention: Retention | None = None,
        accepted: Mapping[tuple[str, int], int] | None = None,
        crash: Callable[[int], Crash] = lambda _: None,
    ) -> None:
        self.inputs, self.clock, self.batch, self.limit = tuple(inputs), clock, batch, limit
        self.shop = shop or Shop()
        # A clear rise: what these histories tell is told in few steps.
        self.policy = policy or Policy(rise=0.8)
        self.feeds = feeds or Feeds()
        self.prior = prior or Prior()
        self.learning = learning or Learning()
        self.name, self.accepted, self.crash = name, accepted, crash
        self.secret, self.retention = secret, retention or Retention()
        self.gone: dict[bytes, Entry] = {}
        self.codec = Codec(self.shop.currency, self.shop.minor_units, self.shop.rates, COMPACTED)
        self.hot: dict[bytes, bytes] = {}
        self.cold: dict[bytes, bytes] = {}
        self.due: dict[bytes, int] = {}
        self.out: list[bytes] = []
        self.counts: Counter[tuple[str, ...]] = Counter()
        self.turns: list[Turn] = []
        self.commits = 0
        self._blob: bytes | None = None
        self.brakes = Brakes()
        self.start()

    def start(self) -> None:
        """A new process: a new engine, and the partition as it was stored."""
        self.engine = Engine(
            self.name,
            self.inputs,
            self.clock,
            self.shop,
            self.policy,
            self.feeds,
            self.prior,
            self.accepted,
            self.learning,
            forgotten=None if self.secret is None else Forgotten(self.secret),
            retention=self.retention,
        )
        self.engine.brake(self.brakes)
        if self.engine.forgotten is not None:
            for digest, known in self.gone.items():
                self.engine.forgotten.learn(digest, known)
        self.partition: Partition = self.engine.open(self._blob, 0)

    def brake(self, brakes: Brakes) -> None:
        """The worker has heard of brakes; so will the next process."""
        self.brakes = brakes
        self.engine.brake(brakes)

    # ---- what the worker does

    def run(self, rows: Iterable[Row], read_to: int | None = None) -> Application:
        """Applies what is not applied yet. ``read_to``: wall clock, how far the other topics are read."""
        together: list[tuple[Row, Item]] = []
        for row in rows:
            if row.offset <= self.partition.applied.get(row.topic, -1):
                continue
            item = self.codec.decode(row)
            alone = self.clock == "record" and isinstance(item, Tick)
            if together and (alone or together[0][0].topic != row.topic or len(together) >= self.batch):
                self._events(together, read_to)
                together = []
            if alone:
                assert isinstance(item, Tick)
                self._move(row.topic, item)
            else:
                together.append((row, item))
        if together:
            self._events(together, read_to)
        return self

    def run_through_crashes(self, rows: Sequence[Row]) -> int:
        """Runs to the end, starting a new process after each crash; how many there were."""
        crashes = 0
        while True:
            try:
                self.run(rows)
            except Crashed:
                crashes += 1
                self.start()
            else:
                return crashes

    def sweep(self, until: int) -> None:
        """The wall clock has come to ``until``."""
        self._fire(until, None)

    def go_live(self, at: int) -> None:
        """Everything has been read for the first time."""
        self._commit(self.engine.went_live(self.partition, at))

    def _events(self, together: Sequence[tuple[Row, Item]], read_to: int | None) -> None:
        rows = [row for row, _ in together]
        items = [item for _, item in together]
        hot_keys, cold_keys = self.engine.touches(items)
        hot = {key: self.hot.get(key) for key in hot_keys}
        while True:
            cold = {key: self.cold.get(key) for key in cold_keys}
            try:
                turn = self.engine.events(
                    self.partition,
                    rows[0].topic,
                    rows,
                    items,
                    hot,
                    cold,
                    2**62 if read_to is None else read_to,
                )
            except Missing as missing:
                if set(missing.keys) & set(cold_keys):
                    raise AssertionError("asked twice for the same") from missing
                cold_keys = [*cold_keys, *missing.keys]
                continue
            self._commit(turn)
            return

    def _move(self, topic: str, tick: Tick) -> None:
        until = self.engine.tick(self.partition, topic, tick)
        if until is not None:
            self._fire(until, (topic, tick))
        self._commit(self.engine.moved(self.partition, topic, tick))

    def _fire(self, until: int, cause: tuple[str, Tick] | None) -> None:
        while True:
            ranked = sorted((at, key) for key, at in self.due.items() if at <= until)
            due = [(key, at) for at, key in ranked[: self.limit]]
            if not due and cause is not None:
                return
            complete = len(due) < self.limit
            hot = {key: self.hot.get(key) for key, _ in due}
            cold = {key: self.cold.get(key) for key, _ in due}
            before = {key: self.due.get(key) for key, _ in due}
            self._commit(self.engine.timers(self.partition, due, complete, until, hot, cold, cause))
            if complete and all(self.due.get(key, until + 1) > until for key, _ in due):
                return
            assert before != {key: self.due.get(key) for key, _ in due}, "a step changed nothing"

    def _commit(self, turn: Turn) -> None:
        """As the store writes: all of it or nothing."""
        self.commits += 1
        crash = self.crash(self.commits)
        if crash == "before":
            raise Crashed
        self.partition = turn.partition
        self._blob = turn.partition.pack()
        for key in turn.erased:
            for kept in (self.hot, self.cold, self.due):
                kept.pop(key, None)
        for each in turn.forgotten:
            self._forgotten(each)
        assert self.engine.open(self._blob, 0) == turn.partition, "a partition is what was stored"
        self.hot |= turn.hot
        self.cold |= turn.cold
        self.due |= turn.deadlines
        for key in turn.cleared:
            self.due.pop(key, None)
        self.out += [pack(message) for message in turn.out]
        self.counts.update(turn.counts)
        self.turns.append(turn)
        for key in {*turn.hot, *turn.deadlines, *turn.cleared, *turn.erased}:
            self._check_deadline(key)
        if crash == "after":
            raise Crashed

    def _forgotten(self, each: Forgetting) -> None:
        """As the worker does: what waits of them goes, and the list knows them."""
        self.gone[each.digest] = entry(each.erasure)
        if not each.erasure.again:
            name = each.key.decode()
            waiting = [(packed, unpack(packed)) for packed in self.out]
            self.out = [p for p, m in waiting if not is_about(name, m.key, m.value, m.headers)]
        if self.engine.forgotten is not None:
            self.engine.forgotten.learn(each.digest, entry(each.erasure))

    def _check_deadline(self, key: bytes) -> None:
        """A stored deadline may be too early, never too late."""
        standing = self.customer(key).standing
        deadline = standing.next_deadline()
        if deadline:
            stored = self.due.get(key)
            assert stored is not None, f"{key!r} has a deadline that nobody will read"
            assert stored <= deadline, f"{key!r} would be read {stored - deadline} microseconds late"
        assert standing.due == self.due.get(key, 0), f"{key!r} does not know what is stored"

    # ---- what can be seen

    def customer(self, key: bytes | str) -> Customer:
        return unpack_hot(self.hot.get(key.encode() if isinstance(key, str) else key))

    def habits(self, key: bytes | str) -> Cold:
        return unpack_cold(self.cold.get(key.encode() if isinstance(key, str) else key))

    @property
    def messages(self) -> Iterator[Message]:
        return (unpack(packed) for packed in self.out)

    def seen(self, customer: str | None = None, delivered: bool | None = None) -> list[Seen]:
        """The alerts in the order in which they left: all, or only those on (not on) ``alerts``."""
        found = []
        for message in self.messages:
            if message.topic not in (ALERTS_TOPIC, DECISIONS):
                continue
            assert message.value is not None
            data = msgspec.json.decode(message.value)
            alert = decode_alert(dict(message.headers)["ce_id"].decode(), message.value)
            seen = Seen(alert, data.get("withheld"), message)
            assert (seen.withheld is None) == (message.topic == ALERTS_TOPIC)
            if customer in (None, alert.customer) and delivered in (None, seen.withheld is None):
                found.append(seen)
        return found

    def steps(self, customer: str | None = None, delivered: bool | None = None) -> list[str]:
        return [seen.step for seen in self.seen(customer, delivered)]

    def scores(self) -> list[Score]:
        return [
            decode_score(message.value)
            for message in self.messages
            if message.topic == CUSTOMER_SCORES and message.value is not None
        ]

    def examples(self) -> list[Example]:
        return [decode_example(message.value) for message in self.messages if message.topic == EXAMPLES]

    def dead_letters(self) -> list[Message]:
        return [message for message in self.messages if message.topic == DEAD_LETTERS]

    def by_customer(self) -> dict[bytes | None, list[Message]]:
        """What left for each customer, byte for byte and in order, dead letters apart."""
        found: dict[bytes | None, list[Message]] = {}
        for message in self.messages:
            if message.topic != DEAD_LETTERS:
                found.setdefault(message.key, []).append(message)
        return found

    def stored(self) -> Stored:
        """A backup."""
        return Stored(self._blob, copy(self.hot), copy(self.cold), copy(self.due), copy(self.out))

    def restore(self, stored: Stored) -> None:
        """Goes back to a backup and starts again."""
        self._blob = stored.blob
        self.hot, self.cold, self.due = copy(stored.hot), copy(stored.cold), copy(stored.due)
        self.out = copy(stored.out)
        self.start()


def reread(
    read: Iterable[tuple[Row, Item]], position: Mapping[str, int], customer: str
) -> dict[str, list[Decoded]]:
    """What an oracle reads of a customer: exactly the records up to ``position``, by topic."""
    found: dict[str, list[Decoded]] = {}
    for row, item in read:
        if not isinstance(item, Decoded) or item.customer != customer:
            continue
        if row.offset <= position.get(row.topic, -1):
            found.setdefault(row.topic, []).append(item)
    return found


def day(number: float) -> int:
    """The instant so many days after START."""
    return START + round(number * DAY)


def hours(number: float) -> int:
    """So many hours in microseconds."""
    return round(number * HOUR)


def only(found: Collection[Seen]) -> Seen:
    """The one there is."""
    assert len(found) == 1, [seen.step for seen in found]
    return next(iter(found))
