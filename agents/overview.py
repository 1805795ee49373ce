"""One look at a whole group: who is in it, how far each partition is, what waits. Read-only, owns nothing.

Kafka tells of members, logs and dead letters, Redis of what was applied, of clocks, timers and the outbox. Either
may be away: then its half is missing, and the overview says why.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from contextlib import contextmanager
from typing import Any, NamedTuple, Self, TypeVar, cast

import msgspec
from confluent_kafka import (
    Consumer,
    ConsumerGroupState,
    KafkaError,
    KafkaException,
    Message,
    TopicPartition,
)
from confluent_kafka.admin import (  # type: ignore[attr-defined]  # it does export them
    AdminClient,
    OffsetSpec,
)
from redis.exceptions import NoPermissionError, RedisClusterException, RedisError, ResponseError

from agents import reach
from agents.commands.alerts import decided, decode
from agents.commands.kafka import Broker, headers
from agents.commands.shell import Failure
from agents.core import engine_of
from agents.failure import Code, Unrecoverable
from agents.learned import Models, kept
from agents.losses import GivenUp, Loss, given_up
from agents.privileges import READING_GROUP
from agents.settings import Settings, redacted
from agents.store import Layout, Store, StoreAway, connect
from alerts.brakes import Board, Brakes
from alerts.engine import ClockMode, Engine
from alerts.partition import Partition, unpack
from models.snapshot import Known, Snapshot
from streams.codec import PREFIX
from streams.topics import ALERTS, BRAKES, DEAD_LETTERS, DECISIONS, MODELS

PATIENCE = 4.0
"""Seconds until a server that does not answer is called away."""
PAUSE = 0.3  # seconds before a coordinator that has just started is asked again
NEWEST = 2.0  # seconds that reading the newest record of a topic may take

Micros = int
T = TypeVar("T")


class Member(NamedTuple):
    """A worker as Kafka sees it. ``partial``: numbers of which it was not given every input topic."""

    id: str
    client: str
    host: str
    numbers: tuple[int, ...]
    partial: tuple[int, ...] = ()


class Group(NamedTuple):
    """The consumer group. ``state`` is Kafka's word: stable, empty, dead, preparing_rebalancing ..."""

    state: str
    assignor: str
    members: tuple[Member, ...]


class Newest(NamedTuple):
    """The newest record of an output topic. ``what`` is its kind or reason, ``who`` the customer, ``withheld`` why
    it was not delivered."""

    at: Micros
    what: str
    who: str
    versions: Mapping[str, str]
    source: str = ""
    withheld: str = ""


class Logs(NamedTuple):
    """What Kafka tells. ``counts``: partitions of every topic by Kafka name; ``begins`` and ``ends`` by
    (logical input topic, partition); ``group``: None where the broker does not tell, then ``no_group``
    says why; ``letters``: dead letters that are kept; ``hidden``: topics whose logs this user may not see;
    ``brakes``: what keeps alerts from being delivered; ``learned``: the snapshots in ``models``."""

    counts: Mapping[str, int]
    begins: Mapping[tuple[str, int], int]
    ends: Mapping[tuple[str, int], int]
    group: Group | None
    no_group: str
    letters: int
    newest_letter: Newest | None
    newest_alert: Newest | None
    hidden: tuple[str, ...] = ()
    brakes: Brakes = Brakes()
    newest_withheld: Newest | None = None
    learned: Known = Known()


class Stored(NamedTuple):
    """What Redis holds of one partition number. ``applied``: the next offset by logical topic; ``state``:
    None where there is none or it cannot be read, then ``unreadable`` says why; ``due``: timers whose
    instant has come on the clock that counts; ``waiting_since``: when the oldest message entered the outbox
    (0: none waits); ``quiet``: seconds for which this watcher has seen no commit (0: at its first look);
    ``given_up``: records that somebody has decided to go on without."""

    number: int
    generation: int
    worker: str
    commit: str
    applied: Mapping[str, int]
    state: Partition | None
    unreadable: str
    customers: int
    timers: int
    due: int
    oldest_due: Micros
    waiting: int
    waiting_since: Micros
    parked: int
    silent: tuple[str, ...] = ()
    quiet: float = 0.0
    given_up: tuple[GivenUp, ...] = ()


class States(NamedTuple):
    """What Redis tells; ``layout`` None: no worker of this application has ever run on it. ``newest``: the
    trainer's newest snapshot."""

    layout: Layout | None
    partitions: tuple[Stored, ...]
    newest: Snapshot | None = None


class Overview(NamedTuple):
    """Both halves at ``at``; where one is None, its ``…_away`` says why and what to do. ``kept_since``: when the first
    record that Kafka still has was written, by (logical topic, partition), where records have expired unread."""

    at: Micros
    settings: Settings
    logs: Logs | None
    states: States | None
    kafka_away: Failure | None = None
    redis_away: Failure | None = None
    kept_since: Mapping[tuple[str, int], Micros] = {}

    def lag(self, stored: Stored) -> dict[str, int]:
        """Records of each input topic that are not applied yet, where Kafka tells; never negative."""
        if self.logs is None:
            return {}
        found: dict[str, int] = {}
        for topic in self.settings.kafka.inputs:
            end = self.logs.ends.get((topic, stored.number))
            if end is not None:
                begin = self.logs.begins.get((topic, stored.number), 0)
                found[topic] = max(0, end - stored.applied.get(topic, begin))
        return found

    @property
    def lost(self) -> list[Loss]:
        """Records that expired before they were applied."""
        if self.logs is None or self.states is None:
            return []
        kafka = self.settings.kafka
        return [
            Loss(
                kafka.topic(topic),
                stored.number,
                applied,
                begin,
                stored.state.clock if stored.state is not None else 0,
                self.kept_since.get((topic, stored.number), 0),
            )
            for stored in self.states.partitions
            for topic, applied in sorted(stored.applied.items())
            if applied < (begin := self.logs.begins.get((topic, stored.number), 0))
        ]

    @property
    def deciding(self) -> Snapshot | None:
        """The snapshot that decides, by Kafka and else by Redis; None: the prior of the settings does."""
        states = self.states
        if self.logs is None:
            return None if states is None else states.newest
        if states is None or states.layout is None or states.layout.clock != "record":
            return self.logs.learned.newest()
        clocks = (stored.state.clock for stored in states.partitions if stored.state is not None)
        return self.logs.learned.at(max(clocks, default=0))

    def reference(self, stored: Stored) -> Micros:
        """The instant that timers of a partition are compared with: its clock, or the wall's."""
        layout = None if self.states is None else self.states.layout
        if layout is None or layout.clock != "record":
            return self.at
        return stored.state.clock if stored.state is not None else 0

    @property
    def partitions(self) -> int:
        """Partition numbers there are: by the stored layout, else by Kafka."""
        if self.states is not None and self.states.layout is not None:
            return self.states.layout.partitions
        if self.logs is None:
            return 0
        kafka = self.settings.kafka
        return max((self.logs.counts.get(kafka.topic(t), 0) for t in kafka.inputs), default=0)


class Watcher:
    """Looks again and again with the same connections. Close it."""

    def __init__(self, settings: Settings, patience: float = PATIENCE) -> None:
        self.settings = settings
        self.redis = _Redis(settings, patience)
        self.kafka = _Kafka(settings, patience)
        self._commits: dict[int, tuple[str, float]] = {}

    async def look_again(self, pause: float) -> tuple[Overview | None, Overview]:
        """One look; a second one after ``pause`` seconds where something is unread that somebody should read,
        because only then it shows whether they do. The first of two, and the last."""
        first = await self.look()
        group = first.logs.group if first.logs is not None else None
        if group is None or not group.members or first.states is None:
            return None, first
        if not any(any(first.lag(s).values()) for s in first.states.partitions):
            return None, first
        await asyncio.sleep(pause)
        return first, await self.look()

    async def look(self, *, kafka: bool = True, redis: bool = True) -> Overview:
        """Both servers at once, or one of them."""
        states, logs = await asyncio.gather(
            _or_failure(self.redis.look() if redis else _nothing()),
            _or_failure(asyncio.to_thread(self.kafka.look) if kafka else _nothing()),
        )
        seen = Overview(
            time.time_ns() // 1000,
            self.settings,
            None if isinstance(logs, Failure) else logs,
            self._timed(states) if isinstance(states, States) else None,
            logs if isinstance(logs, Failure) else None,
            states if isinstance(states, Failure) else None,
        )
        if seen.lost:
            places = [(each.topic, each.partition) for each in seen.lost]
            since = await _or_failure(asyncio.to_thread(self.kafka.kept_since, places))
            if not isinstance(since, Failure):
                seen = seen._replace(kept_since=since)
        return seen

    def _timed(self, states: States) -> States:
        """With how long each partition has been without a commit."""
        now = time.monotonic()
        timed = []
        for stored in states.partitions:
            commit, since = self._commits.get(stored.number, ("", now))
            if commit != stored.commit:
                since = now
            self._commits[stored.number] = stored.commit, since
            timed.append(stored._replace(quiet=now - since))
        return states._replace(partitions=tuple(timed))

    async def close(self) -> None:
        """Close all connections."""
        await self.redis.store.close()
        self.kafka.close()

    async def __aenter__(self) -> Self:
        """Itself."""
        return self

    async def __aexit__(self, *_: object) -> None:
        """Closed."""
        await self.close()


@contextmanager
def hushed() -> Iterator[None]:
    """Within it the store logs no attempts: whoever asks is told once, at the end."""
    logger = logging.getLogger("agents.store")
    before = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(before)


async def _nothing() -> None:
    return None


async def _or_failure(asked: Any) -> Any:
    try:
        return await asked
    except Failure as failure:
        return failure


# ---- Redis


class _Redis:
    def __init__(self, settings: Settings, patience: float) -> None:
        self.settings = settings
        self._patience = patience
        self.store = open_store(settings, patience)
        self.engine: Engine | None = None

    async def look(self) -> States:
        """What Redis holds. Raises :class:`Failure`."""
        with explained(self.settings):
            layout = await self.store.layout()
            if layout is None:
                return States(None, ())
            if self.engine is None:
                mode: ClockMode = "record" if layout.clock == "record" else "wall"
                self.engine = engine_of(self.settings, mode)
            try:
                partitions = [await self._stored(n, layout) for n in range(layout.partitions)]
                newest = await kept(self.settings, self._patience)
            except ResponseError:
                raise
            except (RedisError, RedisClusterException, OSError, TimeoutError) as error:
                raise StoreAway(str(error)) from error
        return States(layout, tuple(partitions), newest)

    async def _stored(self, number: int, layout: Layout) -> Stored:
        meta_key, hot, _, due, out = self.store.keys(number)
        parked = out.removesuffix(":out") + ":parked"
        first = self.store.redis.pipeline(transaction=False)
        first.hgetall(meta_key)
        first.hlen(hot)
        first.zcard(due)
        first.zrange(due, 0, 0, withscores=True)
        first.xlen(out)
        first.xrange(out, "-", "+", count=1)
        first.xlen(parked)
        meta, customers, timers, oldest, waiting, head, set_aside = await first.execute()
        state, unreadable = _unpacked(meta.get(b"part"), number)
        now = time.time_ns() // 1000
        reference = now if layout.clock != "record" else state.clock if state is not None else 0
        come = await self.store.redis.zcount(due, "-inf", reference) if timers else 0
        prefix = self.settings.kafka.prefix
        silent: Sequence[str] = ()
        if state is not None and self.engine is not None:
            silent = self.engine.silent_feeds(state, state.clock)
        return Stored(
            number=number,
            generation=int(meta.get(b"gen", b"-1")),
            worker=meta.get(b"inc", b"").decode(),
            commit=meta.get(b"ver", b"").decode(),
            applied={
                name[4:].decode().removeprefix(prefix): int(value)
                for name, value in meta.items()
                if name.startswith(b"off:")
            },
            state=state,
            unreadable=unreadable,
            customers=int(customers),
            timers=int(timers),
            due=int(come),
            oldest_due=int(oldest[0][1]) if oldest else 0,
            waiting=int(waiting),
            # A stream's ids begin with Redis's own time, in milliseconds.
            waiting_since=int(head[0][0].partition(b"-")[0]) * 1000 if head else 0,
            parked=int(set_aside),
            silent=tuple(silent),
            given_up=tuple(given_up(number, meta)),
        )


def open_store(settings: Settings, patience: float) -> Store:
    """A store that gives up after ``patience`` seconds."""
    redis = msgspec.structs.replace(
        settings.redis, timeout=min(settings.redis.timeout, patience / 2), patience=patience
    )
    return Store(connect(redis), settings.application, patience)


@contextmanager
def explained(settings: Settings) -> Iterator[None]:
    """Turns what the store raises into a :class:`Failure` that says why."""
    url = redacted(settings.redis.url)
    try:
        yield
    except StoreAway as error:
        advice = reach.certificates(settings.redis)
        if advice is not None:
            raise Failure(Code.REDIS, f"{advice.what}.", advice.why, advice.todo) from error
        raise Failure(
            Code.REDIS,
            f"Redis does not answer at {url}.",
            str(error.__cause__ or error),
            "Is it running there? Set --redis, CHURNWATCH_REDIS__URL or redis.url.",
        ) from error
    except Unrecoverable as error:
        # What Redis said stands in brackets; what to do follows.
        what, closed, todo = str(error).partition("): ")
        raise Failure(error.code, f"Redis ({url}) cannot be read.", what + closed[:1], todo) from error
    except NoPermissionError as error:
        raise Failure(
            Code.REDIS,
            f"Redis ({url}) does not allow this user what is asked of it.",
            f"It says: {error}.",
            "churnwatch doctor names what is missing, churnwatch acl redis prints what each role needs (docs/security.md).",
        ) from error
    except ResponseError as error:
        raise Failure(
            Code.REDIS,
            f"Redis ({url}) refuses to be read.",
            str(error),
            "May this user read all keys of the application? Does another program use keys of its name?",
        ) from error


def _unpacked(blob: bytes | None, number: int) -> tuple[Partition | None, str]:
    if blob is None:
        return None, ""
    try:
        return unpack(blob, number), ""
    except (ValueError, msgspec.DecodeError) as error:
        return None, str(error)


# ---- Kafka


class _Kafka:
    def __init__(self, settings: Settings, patience: float) -> None:
        self.settings = settings
        self.broker = Broker(settings.kafka)
        self.broker.patience = patience
        self._admin: AdminClient | None = None
        self._consumer: Consumer | None = None
        self._hidden: set[str] = set()
        self._read: dict[str, tuple[tuple[tuple[int, int], ...], Newest | None]] = {}
        self._brakes: tuple[int, Brakes] = 0, Brakes()
        self._models = Models(settings, patience)
        self._learned: tuple[Mapping[int, int], Known] = {}, Known()

    @property
    def admin(self) -> AdminClient:
        if self._admin is None:
            self._admin = self.broker.admin()
        return self._admin

    def look(self) -> Logs:
        """What Kafka tells. Raises :class:`Failure`."""
        kafka = self.settings.kafka
        with self.broker.explained(self.admin.poll):
            metadata = self.admin.list_topics(timeout=self.broker.patience)
            counts = {name: len(t.partitions) for name, t in metadata.topics.items() if t.error is None}
            outputs = DEAD_LETTERS, ALERTS, DECISIONS, BRAKES, MODELS
            topics = [t for t in (*kafka.inputs, *outputs) if kafka.topic(t) in counts]
            places = [(t, n) for t in topics for n in range(counts[kafka.topic(t)])]
            begins = self.offsets(places, OffsetSpec.earliest())  # type: ignore[no-untyped-call]
            ends = self.offsets(places, OffsetSpec.latest())  # type: ignore[no-untyped-call]
            embedded = metadata.controller_id not in metadata.brokers
            group, no_group = (
                (None, "an embedded broker does not tell who reads") if embedded else self.group()
            )
        held = {t: [p for p in places if p[0] == t and ends.get(p, 0) > begins.get(p, 0)] for t in outputs}
        return Logs(
            counts,
            {at: offset for at, offset in begins.items() if at[0] in kafka.inputs},
            {at: offset for at, offset in ends.items() if at[0] in kafka.inputs},
            group,
            no_group,
            sum(ends[p] - begins.get(p, 0) for p in held[DEAD_LETTERS]),
            self.newest(DEAD_LETTERS, held[DEAD_LETTERS], ends),
            self.newest(ALERTS, held[ALERTS], ends),
            tuple(t for t in topics if t in self._hidden),
            self.brakes(begins.get((BRAKES, 0), 0), ends.get((BRAKES, 0), 0)),
            self.newest(DECISIONS, held[DECISIONS], ends),
            self.learned({n: end for (t, n), end in ends.items() if t == MODELS}),
        )

    def learned(self, ends: Mapping[int, int]) -> Known:
        """The snapshots in ``models``, whose partitions end there; read only where there is something new. Raises
        :class:`Failure`."""
        if ends != self._learned[0]:
            self._learned = ends, self._models.look() if ends else Known()
        return self._learned[1]

    def offsets(self, places: Iterable[tuple[str, int]], spec: OffsetSpec) -> dict[tuple[str, int], int]:
        """The offset of each (logical topic, partition) that ``spec`` means; without those that have no leader,
        and without topics that this user may not see, which are remembered.

        Raises KafkaException.
        """
        kafka = self.settings.kafka
        left = {TopicPartition(kafka.topic(t), n): spec for t, n in places}
        found: dict[tuple[str, int], int] = {}
        end = time.monotonic() + self.broker.patience
        while left:
            answers = self.admin.list_offsets(left, request_timeout=self.broker.patience)
            for at, future in answers.items():
                topic = at.topic.removeprefix(kafka.prefix)
                try:
                    offset = self.result(future).offset
                except KafkaException as e:
                    if e.args[0].code() == KafkaError.TOPIC_AUTHORIZATION_FAILED:
                        self._hidden.add(topic)
                        left.pop(at)
                    elif e.args[0].code() not in _LEADERLESS:
                        raise
                else:
                    self._hidden.discard(topic)
                    found[topic, at.partition] = offset
                    left.pop(at)
            if not left or time.monotonic() > end:
                break
            time.sleep(PAUSE)  # a new leader is being chosen
        return found

    def kept_since(self, places: Iterable[tuple[str, int]]) -> dict[tuple[str, int], Micros]:
        """When the first record that is kept was written, by (logical topic, partition); ``places`` have Kafka's
        names. Raises :class:`Failure`."""
        prefix = self.settings.kafka.prefix
        asked = {TopicPartition(*at): OffsetSpec.for_timestamp(0) for at in places}
        with self.broker.explained(self.admin.poll):
            answers = self.admin.list_offsets(asked, request_timeout=self.broker.patience)
            found = {at: self.result(future) for at, future in answers.items()}
        return {
            (at.topic.removeprefix(prefix), at.partition): first.timestamp * 1000
            for at, first in found.items()
            if first.timestamp >= 0
        }

    def group(self) -> tuple[Group | None, str]:
        """The group, or why it is not told."""
        end = time.monotonic() + self.broker.patience
        while True:
            asked = self.admin.describe_consumer_groups(
                [self.settings.group], request_timeout=self.broker.patience
            )
            try:
                found = self.result(asked[self.settings.group])
            except KafkaException as e:
                error: KafkaError = e.args[0]
                if error.code() in _NOT_YET and time.monotonic() < end:
                    time.sleep(PAUSE)
                    continue
                return None, error.str() or error.name()
            return self._described(found), ""

    def _described(self, found: Any) -> Group:
        kafka = self.settings.kafka
        members = []
        for member in found.members:
            given: dict[int, set[str]] = {}
            for at in member.assignment.topic_partitions if member.assignment else ():
                given.setdefault(at.partition, set()).add(at.topic)
            wanted = {kafka.topic(t) for t in kafka.inputs}
            partial = tuple(sorted(n for n, topics in given.items() if not wanted <= topics))
            host = (member.host or "").removeprefix("/")
            members.append(
                Member(member.member_id, member.client_id or "", host, tuple(sorted(given)), partial)
            )
        state = cast(ConsumerGroupState, found.state).name.lower()
        members.sort(key=lambda m: (m.numbers[:1] or (1 << 30,), m.id))
        return Group(state, found.partition_assignor or "", tuple(members))

    def newest(
        self, topic: str, held: Sequence[tuple[str, int]], ends: Mapping[tuple[str, int], int]
    ) -> Newest | None:
        """The newest record of an output topic; read only where there is one that was not seen before."""
        key = tuple((n, ends[t, n]) for t, n in held)
        known = self._read.get(topic)
        if known is not None and known[0] == key:
            return known[1]
        if not key:
            return None
        messages = self._last(
            [TopicPartition(self.settings.kafka.topic(topic), n, end - 1) for n, end in key]
        )
        found = max((n for n in map(_newest, messages) if n is not None), key=lambda n: n.at, default=None)
        self._read[topic] = key, found
        return found

    def brakes(self, begin: int, end: int) -> Brakes:
        """What the topic ``brakes`` holds, read again where it has grown."""
        if self._brakes[0] != end and begin < end:
            board = Board()
            at = TopicPartition(self.settings.kafka.topic(BRAKES), 0, begin)
            for message in self._up_to(at, end):
                board.take(message.key(), message.value())
            self._brakes = end, board.known()
        return self._brakes[1]

    def _up_to(self, at: TopicPartition, end: int) -> Iterator[Message]:
        """The records of a partition before an offset, as far as they come within the time of a look."""
        consumer = self._assigned([at])
        until = time.monotonic() + NEWEST
        while time.monotonic() < until:
            for message in consumer.consume(500, 0.1):
                if message.error() is None:
                    yield message
            (position,) = consumer.position([TopicPartition(at.topic, at.partition)])
            if position.offset >= end:
                break
        consumer.unassign()

    def _last(self, places: list[TopicPartition]) -> list[Message]:
        consumer = self._assigned(places)
        messages: dict[int, Message] = {}
        left = {at.partition for at in places}
        end = time.monotonic() + NEWEST
        while left and time.monotonic() < end:
            for message in consumer.consume(len(places), 0.1):
                error = message.error()
                if error is None:
                    messages.setdefault(message.partition() or 0, message)
                if error is None or error.code() == KafkaError.TOPIC_AUTHORIZATION_FAILED:
                    left.discard(message.partition() or 0)
        consumer.unassign()
        return list(messages.values())

    def _assigned(self, places: list[TopicPartition]) -> Consumer:
        if self._consumer is None:
            self._consumer = Consumer(
                {
                    **self.broker.config(),
                    "group.id": READING_GROUP,
                    "enable.auto.commit": False,
                    "enable.auto.offset.store": False,
                    "auto.offset.reset": "latest",
                    "fetch.queue.backoff.ms": 10,
                }
            )
        self._consumer.assign(places)
        return self._consumer

    def result(self, future: Future[Any]) -> Any:
        """What an admin call came to. Raises KafkaException, also when the client's own time-out failed to come."""
        try:
            return future.result(self.broker.patience + 1)
        except TimeoutError as error:
            raise KafkaException(KafkaError(KafkaError._TIMED_OUT)) from error  # noqa: SLF001 -- its public name

    def close(self) -> None:
        if self._consumer is not None:
            self._consumer.close()


_NOT_YET = (
    KafkaError.NOT_COORDINATOR,
    KafkaError.COORDINATOR_LOAD_IN_PROGRESS,
    KafkaError.COORDINATOR_NOT_AVAILABLE,
)
_LEADERLESS = (
    KafkaError.LEADER_NOT_AVAILABLE,
    KafkaError.NOT_LEADER_FOR_PARTITION,
    KafkaError.UNKNOWN_TOPIC_OR_PART,
)


def _newest(message: Message) -> Newest | None:
    said = headers(message)
    if PREFIX + "error" in said:
        return Newest(
            message.timestamp()[1] * 1000, said[PREFIX + "error"], said.get(PREFIX + "message", ""), {}
        )
    alert = decode(message)
    if alert is None:
        return None
    what = f"{alert.get('kind')}.{alert.get('transition')}"
    versions = {str(k): str(v) for k, v in (alert.get("versions") or {}).items()}
    return Newest(
        decided(alert),
        what,
        str(alert.get("customer")),
        versions,
        str(alert.get("score_source", "")),
        str(alert.get("withheld", "")),
    )
