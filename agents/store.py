"""The state in Redis: who owns a partition number, what is stored of its customers, and the atomic commit.

Redis is the authority on offsets; Kafka's committed offsets only mirror it. For partition number n of an
application there are five keys with one hash tag, so that they lie on one node of a cluster:

- ``{app:pN}:meta``  hash: ``gen`` and ``inc`` (the fence), ``ver`` (a nonce per commit), ``off:<topic>``
  (the next offset to apply), ``part`` (the partition's own state), ``begun`` and ``done`` (commits, counted
  relatively and absolutely: docs/decisions/0005);
- ``{app:pN}:hot`` and ``:cold``  hashes: customer to state;
- ``{app:pN}:due``  sorted set: customer by its next deadline (microseconds since the epoch);
- ``{app:pN}:out``  stream: messages that wait for the relay.

Beside them ``{app:pN}:parked`` (a stream: messages that no broker takes), ``{app:pN}:gone`` (a hash: who was
forgotten, by a keyed hash: ``agents.suppression``) and, while a backup is being taken, ``{app:pN}:aside`` (a hash:
what commits have overwritten since it began; it expires by itself).

``app:layout`` says with how many partitions and under which clock the state was built. The trainer keeps what it has
learned in the same way, under the application's name and ``:trainer``.
"""

from __future__ import annotations

import asyncio
import enum
import functools
import importlib.resources
import itertools
import logging
import random
import ssl
import time
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Protocol, TypeAlias, TypeVar, cast

import hiredis
import msgspec
from redis.asyncio import ConnectionPool, Redis, RedisCluster
from redis.asyncio.connection import Connection, SSLConnection, UnixDomainSocketConnection
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import (
    AuthenticationError,
    AuthenticationWrongNumberOfArgsError,
    AuthorizationError,
    BusyLoadingError,
    ClusterDownError,
    InvalidResponse,
    NoPermissionError,
    NoScriptError,
    OutOfMemoryError,
    ReadOnlyError,
    RedisClusterException,
    RedisError,
    ResponseError,
    TryAgainError,
)
from redis.exceptions import (
    ConnectionError as Unreachable,
)
from redis.exceptions import (
    TimeoutError as Unanswered,
)

from agents import reach
from agents.failure import LayoutRefused, StoreBroken
from agents.metrics import Metrics
from streams.message import Message, unpack

log = logging.getLogger(__name__)

T = TypeVar("T")
Micros = int

# The first pause between two attempts and the longest, in seconds; each is drawn from half to whole.
FIRST_PAUSE = 0.05
LONGEST_PAUSE = 1.0
# How long Redis may refuse writes (a replica before its promotion, a disk that is full) before a person
# has to look. A failover takes seconds, a restart of a large instance a minute.
REFUSING_LIMIT = 120.0
# The calls that write: that reading goes on says nothing about a disk that is full.
WRITING = frozenset({"claim", "commit", "forget", "park", "trim"})
# A warning for the first failed attempt of a row and then for each so-manieth.
WARN_EVERY = 20
# Customers a read of the whole state asks for at a time.
SCAN_COUNT = 500
# Under which name the trainer keeps its newest snapshot (JSON), in ``{app:trainer:p0}:cold``.
SNAPSHOT = b"snapshot"


class RedisSettings(Protocol):
    """What ``connect`` reads of the settings."""

    @property
    def url(self) -> str:
        """``redis://``, ``rediss://`` or ``unix://``."""
        ...

    @property
    def cluster(self) -> bool:
        """Whether the url is a node of a Redis Cluster."""
        ...

    def options(self) -> dict[str, Any]:
        """Time-outs, user and certificates as redis-py's ``from_url`` takes them."""
        ...


class _FastPacking:
    """Packs commands in C. redis-py's asyncio connections do it in Python, about 2 µs for each event."""

    async def exchange(self: Any, commands: Sequence[tuple[Any, ...]]) -> list[Any]:
        """The answers to commands that travel together in their order; what Redis
        refuses is an answer too.

        redis-py's own pipeline takes several tasks and time-outs, which at a thousand events a second cost a tenth
        of the path.
        """
        try:
            async with asyncio.timeout(self.socket_timeout):
                self._writer.writelines([hiredis.pack_command(command) for command in commands])
                await self._writer.drain()
                return [await self._parser.read_response() for _ in commands]
        except TimeoutError:
            await self.disconnect(nowait=True)
            raise Unanswered(f"no answer within {self.socket_timeout:g} s") from None
        except OSError as error:
            await self.disconnect(nowait=True)
            raise Unreachable(f"the connection broke: {error}") from error
        except BaseException:
            # Whatever is still to come must not be taken for the answer to something else.
            await self.disconnect(nowait=True)
            raise

    def pack_command(self, *args: Any) -> list[bytes]:
        if " " in args[0]:  # SCRIPT LOAD and the like travel as two words
            return cast(list[bytes], super().pack_command(*args))  # type: ignore[misc]
        return [hiredis.pack_command(args)]


class _FastConnection(_FastPacking, Connection):
    pass


class _FastSSLConnection(_FastPacking, SSLConnection):
    pass


class _FastUnixConnection(_FastPacking, UnixDomainSocketConnection):
    pass


_FAST: dict[type, type] = {
    Connection: _FastConnection,
    SSLConnection: _FastSSLConnection,
    UnixDomainSocketConnection: _FastUnixConnection,
}


def connect(settings: RedisSettings) -> Redis | RedisCluster:
    """A client for the settings; it connects at its first command.

    Its own retries are switched off: ours know the lease and the time that is left.
    """
    options = {**settings.options(), "protocol": 2}
    if settings.cluster:
        return RedisCluster.from_url(settings.url, **options)
    pool = ConnectionPool.from_url(settings.url, retry=Retry(NoBackoff(), 0), **options)
    pool.connection_class = _FAST.get(pool.connection_class, pool.connection_class)
    return Redis.from_pool(pool)


class Lost(Exception):
    """We no longer own the partition: what was being done is void, and somebody else will do it."""


class StoreAway(Exception):
    """Redis could not be asked for as long as our patience lasts. It may come back."""


class Outcome(enum.Enum):
    """What became of a commit."""

    COMMITTED = enum.auto()
    RACE = enum.auto()  # another task of this worker committed since the version was read: load again
    STALE = enum.auto()  # Redis does not stand where we thought (rolled back, restored): claim again
    LOST = enum.auto()  # a newer owner: let go


class Claimed(NamedTuple):
    """What is stored of a partition number that is now ours; an offset that is absent was never written.

    ``torn``: Redis has brought half of a lost commit back to life, so that the states do not belong together.
    """

    version: str
    offsets: dict[str, int]
    blob: bytes | None
    torn: bool = False


class Fenced(NamedTuple):
    """A claim that was refused: a later generation holds the partition."""

    generation: int
    incarnation: str


class Split(NamedTuple):
    """A claim that was refused: another worker claimed the partition in the same generation."""

    incarnation: str


@dataclass(slots=True, eq=False)
class Lease:
    """What this worker knows of one partition number since one claim. Never used again after the next.

    ``offsets`` is the next offset to apply by topic; of the topics in ``unwritten`` Redis holds none yet.
    """

    partition: int
    generation: int
    version: str
    offsets: dict[str, int]
    unwritten: set[str]
    blob: bytes | None
    lost: bool = False


@dataclass(slots=True)
class Write:
    """Everything one step has changed. ``deadlines`` are microseconds, ``out`` packed messages.

    ``erased``: customers of whom all that is stored goes before the rest is written; ``unsent`` and ``unparked``: ids
    of what waits of them; ``gone``: what the list of those who were forgotten says of them.
    """

    partition: bytes
    hot: Mapping[bytes, bytes] = field(default_factory=dict)
    cold: Mapping[bytes, bytes] = field(default_factory=dict)
    deadlines: Mapping[bytes, Micros] = field(default_factory=dict)
    cleared: Sequence[bytes] = ()
    out: Sequence[bytes] = ()
    erased: Sequence[bytes] = ()
    unsent: Sequence[bytes] = ()
    unparked: Sequence[bytes] = ()
    gone: Mapping[bytes, bytes] = field(default_factory=dict)


class Glance(NamedTuple):
    """A partition number as it is stored: its ``version``; messages ``waiting`` to leave and when the oldest came
    (microseconds, Redis's clock; 0: none waits); customers with a deadline, of how many it is ``due``, and the
    earliest (0: none)."""

    version: str
    waiting: int
    waiting_since: Micros
    timers: int
    due: int
    first_due: Micros


class Wanted(NamedTuple):
    """The customers of one partition number whose hot and whose cold parts are needed."""

    lease: Lease
    hot: Sequence[bytes]
    cold: Sequence[bytes]


class Step(NamedTuple):
    """One commit; see ``Store.commit``."""

    lease: Lease
    version: str
    topic: str | None
    next_offset: int | None
    write: Write


States: TypeAlias = dict[bytes, bytes | None]


class Layout(msgspec.Struct, frozen=True):
    """With how many partitions and under which clock the state was built."""

    partitions: int
    clock: str


def trainer_of(application: str) -> str:
    """Under which name an application's trainer keeps its state: no application can bear it."""
    return f"{application}:trainer"


class Store:
    """One worker's way to Redis. ``patience`` is how long one call is repeated, in seconds."""

    def __init__(
        self,
        redis: Redis | RedisCluster,
        application: str,
        patience: float,
        metrics: Metrics | None = None,
    ) -> None:
        self.redis: Any = redis
        self.application = application
        self.patience = patience
        self.incarnation = uuid.uuid4().hex[:12]
        self._commits = itertools.count()
        self.metrics = metrics
        self._refusing_since: float | None = None
        self._keys: dict[int, list[str]] = {}
        self._with_aside: dict[int, list[str]] = {}
        self._clustered = isinstance(redis, RedisCluster)
        scripts = importlib.resources.files("agents")
        self._claim = self.redis.register_script((scripts / "claim.lua").read_text())
        self._commit = self.redis.register_script((scripts / "commit.lua").read_text())
        self._forget = self.redis.register_script((scripts / "forget.lua").read_text())

    async def close(self) -> None:
        """Close the connections."""
        await self.redis.aclose()

    def keys(self, partition: int) -> list[str]:
        """The keys of a partition number: meta, hot, cold, due, out."""
        known = self._keys.get(partition)
        if known is None:
            tag = f"{{{self.application}:p{partition}}}"
            known = self._keys[partition] = [
                f"{tag}:{name}" for name in ("meta", "hot", "cold", "due", "out")
            ]
        return known

    def aside(self, partition: int) -> str:
        """The key of what is put aside for a backup."""
        return self.keys(partition)[0].removesuffix("meta") + "aside"

    def parked(self, partition: int) -> str:
        """The key of messages that no broker takes."""
        return self.keys(partition)[0].removesuffix("meta") + "parked"

    def _all(self, partition: int) -> list[str]:
        """The keys of a partition number and the one that commits put aside to."""
        known = self._with_aside.get(partition)
        if known is None:
            known = self._with_aside[partition] = [*self.keys(partition), self.aside(partition)]
        return known

    def gone(self, partition: int) -> str:
        """The key of the list of those who were forgotten."""
        return self.keys(partition)[0].removesuffix("meta") + "gone"

    def _keys_of(self, step: Step) -> list[str]:
        """The keys that a commit writes to."""
        number = step.lease.partition
        if step.write.erased or step.write.gone:
            return [*self._all(number), self.parked(number), self.gone(number)]
        return self._all(number)

    # ---- ownership

    async def layout(self, wanted: Layout | None = None) -> Layout | None:
        """What the state was built with; ``wanted`` is stored where there is none yet."""
        key = f"{self.application}:layout"
        if wanted is not None:
            await self._patiently("layout", lambda: self.redis.set(key, msgspec.json.encode(wanted), nx=True))
        raw = await self._patiently("layout", lambda: self.redis.get(key))
        if raw is None:
            return None
        try:
            return msgspec.json.decode(raw, type=Layout)
        except msgspec.MsgspecError as error:
            raise LayoutRefused(
                f"Redis key {key} holds {raw!r}, which is no layout of churnwatch ({error}): is another program "
                f"using this key? Choose another `application` name or another Redis database."
            ) from error

    async def claim(
        self, partition: int, generation: int, forced: Fenced | None = None
    ) -> Claimed | Fenced | Split:
        """Take over a partition number in a generation of the consumer group.

        ``forced`` takes it from a later generation that Kafka has been proved not to know (the group was
        deleted, so that its generations began anew).
        """
        over = f"{forced.generation}/{forced.incarnation}" if forced else ""
        answer = await self._patiently(
            "claim", lambda: self._claim(keys=self.keys(partition), args=[generation, self.incarnation, over])
        )
        match answer[0]:
            case b"OK":
                pairs = iter(answer[1])
                found = dict(zip(pairs, pairs, strict=True))
                offsets = {k[4:].decode(): int(v) for k, v in found.items() if k.startswith(b"off:")}
                torn = found.get(b"begun") != found.get(b"done")
                return Claimed(found.get(b"ver", b"").decode(), offsets, found.get(b"part"), torn)
            case b"FENCED":
                return Fenced(int(answer[1]), answer[2].decode())
            case b"SPLIT":
                return Split(answer[2].decode())
            case _:
                raise StoreBroken(
                    f"Redis key {answer[1].decode()} is a {answer[2].decode()}, which churnwatch did not write: "
                    f"is another program using this database? Choose another `application` name or database."
                )

    async def forget(self, partition: int, generation: int) -> bool:
        """Remove all that is stored of a partition number that we have claimed in ``generation``, what was set
        aside excepted; False when somebody else has claimed it since."""
        answer = await self._patiently(
            "forget",
            lambda: self._forget(keys=self._all(partition), args=[generation, self.incarnation]),
        )
        return bool(answer[0] == b"OK")

    # ---- the path

    async def load(self, lease: Lease, hot: Sequence[bytes], cold: Sequence[bytes]) -> tuple[States, States]:
        """The stored states of customers, None for those that have none, in one round trip."""
        (loaded,) = await self.load_all([Wanted(lease, hot, cold)])
        if loaded is None:
            raise Lost
        return loaded

    async def load_all(self, wanted: Sequence[Wanted]) -> list[tuple[States, States] | None]:
        """As ``load`` for several partition numbers in one round trip; None where the lease was lost."""
        if not any(one.hot or one.cold for one in wanted):
            return [({}, {}) for _ in wanted]

        async def once() -> list[tuple[States, States] | None]:
            commands: list[tuple[Any, ...]] = []
            live = [not one.lease.lost for one in wanted]
            for one in itertools.compress(wanted, live):
                _, hot_key, cold_key, _, _ = self.keys(one.lease.partition)
                if one.hot:
                    commands.append(("HMGET", hot_key, *one.hot))
                if one.cold:
                    commands.append(("HMGET", cold_key, *one.cold))
            answers = iter(_accepted(await self._ask(commands)))
            return [
                (
                    dict(zip(one.hot, next(answers), strict=True)) if one.hot else {},
                    dict(zip(one.cold, next(answers), strict=True)) if one.cold else {},
                )
                if is_live
                else None
                for one, is_live in zip(wanted, live, strict=True)
            ]

        return await self._patiently("load", once, *(one.lease for one in wanted))

    async def due(self, lease: Lease, until: Micros, limit: int) -> list[tuple[bytes, Micros]]:
        """At most ``limit`` customers whose deadline has come by ``until``, by (instant, customer)."""
        key = self.keys(lease.partition)[3]
        found = await self._patiently(
            "due",
            lambda: self.redis.zrangebyscore(key, "-inf", until, start=0, num=limit, withscores=True),
            lease,
        )
        return [(customer, int(instant)) for customer, instant in found]

    async def commit(
        self, lease: Lease, version: str, topic: str | None, next_offset: int | None, write: Write
    ) -> Outcome:
        """Write one step, if Redis still stands where ``version`` was read.

        ``version`` is ``lease.version`` as it was **before** the states were loaded. ``topic`` and
        ``next_offset`` move the offset; without them (timers) it stays. The arguments are packed before
        the first await.
        """
        (outcome,) = await self.commit_all([Step(lease, version, topic, next_offset, write)])
        if outcome is None:
            raise Lost
        return outcome

    async def commit_all(self, steps: Sequence[Step]) -> list[Outcome | None]:
        """As ``commit`` for several partition numbers in one round trip, each atomic for itself; None where the
        lease was lost before it was sent."""
        new = [f"{self.incarnation}.{next(self._commits)}" for _ in steps]
        packed = [self._arguments(step, version) for step, version in zip(steps, new, strict=True)]
        answers: list[Any] = [None] * len(steps)

        async def once() -> list[Any]:
            live = [i for i, step in enumerate(steps) if not step.lease.lost]
            found = await self._scripted(self._commit, [(self._keys_of(steps[i]), packed[i]) for i in live])
            for i, answer in zip(live, found, strict=True):
                answers[i] = None if isinstance(answer, ResponseError) else answer
            _accepted(found)
            return answers

        await self._patiently("commit", once, *(step.lease for step in steps))
        return [
            None if answer is None else self._outcome(step, version, answer)
            for step, version, answer in zip(steps, new, answers, strict=True)
        ]

    def _arguments(self, step: Step, new: str) -> list[Any]:
        """What ``commit.lua`` takes."""
        lease, topic, write = step.lease, step.topic, step.write
        expected: str | int = ""
        if topic is not None and topic not in lease.unwritten:
            expected = lease.offsets[topic]
        chain = itertools.chain.from_iterable
        args: list[Any] = [
            lease.generation,
            self.incarnation,
            step.version,
            new,
            topic or "",
            expected,
            "" if step.next_offset is None else step.next_offset,
            write.partition,
            2 * len(write.hot),
            2 * len(write.cold),
            len(write.cleared),
            2 * len(write.deadlines),
            len(write.out),
        ]
        args += chain(write.hot.items())
        args += chain(write.cold.items())
        args += write.cleared
        args += chain((instant, customer) for customer, instant in write.deadlines.items())
        args += write.out
        if write.erased or write.gone:
            pairs = list(chain(write.gone.items()))
            for some in (write.erased, write.unsent, write.unparked, pairs):
                args.append(len(some))
                args += some
        return args

    def _outcome(self, step: Step, new: str, answer: Sequence[bytes]) -> Outcome:
        """What ``commit.lua`` answered; the lease learns of it."""
        lease, topic = step.lease, step.topic
        match answer[0]:
            case b"OK":
                if answer[1] and self.metrics is not None:
                    self.metrics.races.inc()
                lease.version = new
                lease.blob = step.write.partition
                if topic is not None and step.next_offset is not None:
                    lease.offsets[topic] = step.next_offset
                    lease.unwritten.discard(topic)
                return Outcome.COMMITTED
            case b"CONFLICT" if step.version != lease.version:
                return Outcome.RACE
            case b"FENCED" if int(answer[1]) >= lease.generation:
                lease.lost = True
                return Outcome.LOST
            case _:
                log.warning(
                    "Partition %d: commit refused (%s %s): Redis was rolled back or restored",
                    lease.partition,
                    answer[0].decode(),
                    answer[1].decode(),
                )
                return Outcome.STALE

    # ---- the outbox

    async def outbox(self, lease: Lease, count: int) -> list[tuple[bytes, Message]]:
        """The oldest messages that wait, with the ids to ``trim`` them by."""
        (waiting,) = await self.outboxes([lease], count)
        return waiting

    async def outboxes(self, leases: Sequence[Lease], count: int) -> list[list[tuple[bytes, Message]]]:
        """As ``outbox`` for several partition numbers in one round trip; nothing where the lease was lost."""

        async def once() -> list[list[tuple[bytes, Message]]]:
            live = [lease for lease in leases if not lease.lost]
            commands = [("XRANGE", self.keys(lease.partition)[4], "-", "+", "COUNT", count) for lease in live]
            found = dict(zip(live, _accepted(await self._ask(commands)), strict=True))
            return [list(map(_waiting, found.get(lease) or ())) for lease in leases]

        return await self._patiently("outbox", once, *leases)

    async def trim(self, lease: Lease, ids: Iterable[bytes]) -> None:
        """Remove messages that the brokers have acknowledged."""
        await self.trim_all([(lease, list(ids))])

    async def trim_all(self, acknowledged: Sequence[tuple[Lease, Sequence[bytes]]]) -> None:
        """As ``trim`` for several partition numbers in one round trip."""
        some = [(lease, ids) for lease, ids in acknowledged if ids]
        if not some:
            return

        async def once() -> None:
            commands = [
                ("XDEL", self.keys(lease.partition)[4], *ids) for lease, ids in some if not lease.lost
            ]
            _accepted(await self._ask(commands))

        await self._patiently("trim", once, *(lease for lease, _ in some))

    async def park(self, lease: Lease, ident: bytes, message: bytes) -> None:
        """Set aside, in a stream of its own, a message that no broker will ever take."""
        out = self.keys(lease.partition)[4]

        async def once() -> None:
            pipeline = self.redis.pipeline(transaction=True)
            pipeline.xadd(self.parked(lease.partition), {"m": message})
            pipeline.xdel(out, ident)
            await pipeline.execute()

        await self._patiently("park", once, lease)

    async def glance(self, lease: Lease, until: Micros) -> Glance:
        """What is stored now of a partition number; ``until``: the instant up to which deadlines count as due."""
        meta, _, _, due, out = self.keys(lease.partition)

        async def once() -> Glance:
            version, waiting, head, timers, come, first = _accepted(
                await self._ask(
                    [
                        ("HGET", meta, "ver"),
                        ("XLEN", out),
                        ("XRANGE", out, "-", "+", "COUNT", 1),
                        ("ZCARD", due),
                        ("ZCOUNT", due, "-inf", until),
                        ("ZRANGE", due, 0, 0, "WITHSCORES"),
                    ]
                )
            )
            # A stream's ids begin with Redis's own time, in milliseconds.
            since = int(bytes(head[0][0]).partition(b"-")[0]) * 1000 if head else 0
            return Glance(
                (version or b"").decode(), int(waiting), since, int(timers), int(come), _first_score(first)
            )

        return await self._patiently("glance", once, lease)

    async def memory(self) -> list[Mapping[str, Any]]:
        """``INFO memory`` of every node; nothing where we may not ask, or Redis does not answer at once."""
        try:
            if not self._clustered:
                return [await self.redis.info("memory")]
            return [await self.redis.info("memory", target_nodes=node) for node in self.redis.get_primaries()]
        except (TimeoutError, RedisError, RedisClusterException, OSError) as error:
            log.debug("Redis does not tell of its memory: %s", error)
            return []

    # ---- those who were forgotten, and all who are known

    async def scanned(self, lease: Lease, cursor: int) -> tuple[int, list[bytes]]:
        """Some customers, from ``cursor`` on (0: the first), and where the next are (0: there are no more). Who is
        there from the first to the last is among them once or more."""
        key = self.keys(lease.partition)[1]

        async def once() -> tuple[int, list[bytes]]:
            after, found = await self.redis.hscan(key, cursor, count=SCAN_COUNT)
            return int(after), list(found)

        return await self._patiently("read", once, lease)

    async def forgotten(self, partition: int) -> dict[bytes, bytes]:
        """The list of those who were forgotten, as it is stored."""
        key = self.gone(partition)
        found = await self._patiently("read", lambda: self.redis.hgetall(key))
        return cast(dict[bytes, bytes], found)

    async def waiting(
        self, partition: int, wanted: Callable[[Message], bool]
    ) -> tuple[list[bytes], list[bytes]]:
        """The ids of messages in the outbox, and of those that no broker takes."""
        out, parked = self.keys(partition)[4], self.parked(partition)
        return (
            [ident async for ident, message in self._entries(out) if wanted(message)],
            [ident async for ident, message in self._entries(parked) if wanted(message)],
        )

    async def messages(
        self, partition: int, wanted: Callable[[Message], bool]
    ) -> tuple[list[Message], list[Message]]:
        """The messages in the outbox, and those that no broker takes."""
        out, parked = self.keys(partition)[4], self.parked(partition)
        return (
            [message async for _, message in self._entries(out) if wanted(message)],
            [message async for _, message in self._entries(parked) if wanted(message)],
        )

    async def _entries(self, stream: str) -> AsyncIterator[tuple[bytes, Message]]:
        """All of a stream of messages, little by little."""
        after = b"-"
        while True:
            read = functools.partial(self.redis.xrange, stream, after, b"+", SCAN_COUNT)
            found = await self._patiently("read", read)
            for entry in found:
                yield _waiting(entry)
            if len(found) < SCAN_COUNT:
                return
            after = b"(" + found[-1][0]

    # ---- reading, without owning

    async def customer(self, partition: int, key: bytes) -> tuple[bytes | None, bytes | None]:
        """The hot and the cold part of one customer."""
        _, hot, cold, _, _ = self.keys(partition)
        pipeline = self.redis.pipeline(transaction=False)
        pipeline.hget(hot, key)
        pipeline.hget(cold, key)
        answer = await self._patiently("read", pipeline.execute)
        return answer[0], answer[1]

    async def customers(self, partition: int) -> AsyncIterator[tuple[bytes, bytes, bytes | None]]:
        """Each customer of a partition number once: key, hot part, cold part; in no order.

        Redis's scan may name a customer again while the hash grows; those are left out, for which the
        keys seen are remembered.
        """
        _, hot, cold, _, _ = self.keys(partition)
        seen: set[bytes] = set()
        cursor = 0

        async def scanned() -> tuple[int, dict[bytes, bytes]]:
            return cast(tuple[int, dict[bytes, bytes]], await self.redis.hscan(hot, cursor, count=SCAN_COUNT))

        async def parts(customers: list[bytes]) -> list[bytes | None]:
            return cast(list[bytes | None], await self.redis.hmget(cold, customers))

        while True:
            cursor, found = await self._patiently("read", scanned)
            fresh = {customer: value for customer, value in found.items() if customer not in seen}
            if fresh:
                seen.update(fresh)
                rest = await self._patiently("read", functools.partial(parts, list(fresh)))
                for (customer, value), part in zip(fresh.items(), rest, strict=True):
                    yield customer, value, part
            if cursor == 0:
                return

    async def applied(self, partition: int) -> tuple[dict[str, int], bytes | None]:
        """Next offset by topic and the partition's own state, as last committed."""
        found = await self._patiently("read", lambda: self.redis.hgetall(self.keys(partition)[0]))
        return {k[4:].decode(): int(v) for k, v in found.items() if k.startswith(b"off:")}, found.get(b"part")

    async def ask(self, name: str, call: Callable[[], Awaitable[T]]) -> T:
        """The answer to a call that changes nothing when it is made twice, asked for with our patience.

        Raises ``StoreAway`` when patience ends, ``StoreBroken`` when asking again will not change the answer.
        """
        return await self._patiently(name, call)

    # ---- round trips

    async def _ask(self, commands: Sequence[tuple[Any, ...]]) -> list[Any]:
        """The answers to commands that travel together, in their order; what Redis refuses is an answer too."""
        if not commands:
            return []
        if self._clustered:
            # They lie on several nodes, of which redis-py knows.
            calls = (self.redis.execute_command(*command) for command in commands)
            found = await asyncio.gather(*calls, return_exceptions=True)
            for answer in found:
                if isinstance(answer, BaseException) and not isinstance(answer, ResponseError):
                    raise answer
            return found
        pool = self.redis.connection_pool
        connection = await pool.get_connection()
        try:
            return cast(list[Any], await connection.exchange(commands))
        finally:
            await pool.release(connection)

    async def _scripted(self, script: Any, calls: Sequence[tuple[list[str], Sequence[Any]]]) -> list[Any]:
        """The answers of a script to calls with keys and arguments, in one round trip where it is known."""
        commands = [("EVALSHA", script.sha, len(keys), *keys, *args) for keys, args in calls]
        answers = await self._ask(commands)
        unknown = [i for i, answer in enumerate(answers) if isinstance(answer, NoScriptError)]
        if unknown:
            await self.redis.script_load(script.script)
            again = await self._ask([commands[i] for i in unknown])
            for i, answer in zip(unknown, again, strict=True):
                answers[i] = answer
        return answers

    # ---- patience

    async def _patiently(self, name: str, call: Callable[[], Awaitable[T]], *leases: Lease) -> T:
        """The answer to a call that may be repeated, within our patience.

        Raises ``Lost`` when the leases it is made under end meanwhile, ``StoreAway`` when patience does, ``StoreBroken``
        when Redis says what asking again will not change.
        """
        end = time.monotonic() + self.patience
        pause = FIRST_PAUSE
        for attempt in itertools.count():
            if leases and all(lease.lost for lease in leases):
                raise Lost
            if self.metrics is not None:
                self.metrics.redis_calls.labels(name).inc()
                if attempt:
                    self.metrics.redis_retries.labels(name).inc()
            try:
                answer = await call()
            except (TimeoutError, RedisError, RedisClusterException, OSError) as error:
                if self.metrics is not None:
                    self.metrics.redis_failures.labels(name).inc()
                self._judge(name, error)
                left = end - time.monotonic()
                if left < pause:
                    raise StoreAway(
                        f"Redis could not be reached for {self.patience:g} s: {_said(error)}"
                    ) from error
                if attempt % WARN_EVERY == 0:
                    log.warning("Redis, %s: %s; trying again for %.0f s", name, _said(error), left)
            else:
                if name in WRITING:
                    self._refusing_since = None
                return answer
            await asyncio.sleep(pause * (0.5 + random.random() / 2))
            pause = min(LONGEST_PAUSE, pause * 2)
        raise AssertionError("unreachable")

    def _judge(self, name: str, error: Exception) -> None:
        """Raise ``StoreBroken`` for what will not heal by itself."""
        said = str(error)
        refuses = isinstance(error, ReadOnlyError) or any(
            word in said for word in ("READONLY", "MISCONF", "NOREPLICAS")
        )
        if refuses:
            now = time.monotonic()
            if self._refusing_since is None:
                self._refusing_since = now
            if now - self._refusing_since > REFUSING_LIMIT:
                raise StoreBroken(
                    f"Redis has refused to write for {REFUSING_LIMIT:.0f} s ({_said(error)}). Nothing is lost: is redis.url "
                    f"the master, was a replica promoted, is its disk full? Repair it, then start the worker again."
                ) from error
            return
        if _cause(error, (NoPermissionError,)) or "NOPERM" in said:
            raise StoreBroken(
                f"Redis does not allow this user what is asked of it, {name} ({_said(error)}): churnwatch doctor names all "
                f"that is missing, churnwatch acl redis prints what each role needs."
            ) from error
        unknown = (AuthenticationError, AuthenticationWrongNumberOfArgsError, AuthorizationError)
        refusals = ("NOAUTH", "WRONGPASS", "invalid username-password", "invalid password")
        if _cause(error, unknown) or any(word in said for word in refusals):
            raise StoreBroken(
                f"Redis does not let us in ({said}): check redis.username and redis.password (or password_file), and that "
                f"the user is on."
            ) from error
        distrusted = _cause(error, (ssl.SSLCertVerificationError,))
        if isinstance(distrusted, ssl.SSLCertVerificationError):
            advice = reach.distrust(distrusted, "redis")
            raise StoreBroken(f"{advice.what} ({advice.why.rstrip('.')}): {advice.todo}") from error
        if "DB index" in said:
            raise StoreBroken(
                f"Redis has no database of that number ({said}): check the number at the end of redis.url; a Redis has "
                f"16 unless it says otherwise, a cluster has only 0."
            ) from error
        if isinstance(error, OutOfMemoryError) or "OOM" in said or "maxmemory" in said:
            raise StoreBroken(
                f"Redis has reached its maxmemory ({said.partition(' script:')[0].rstrip('.')}): nothing is lost. Give it "
                f"more (maxmemory in redis.conf, or redis-cli CONFIG SET maxmemory 2gb), then start the worker again. "
                f"Its maxmemory-policy must stay noeviction, or it would forget customers."
            ) from error
        if "WRONGTYPE" in said:
            raise StoreBroken(
                f"A Redis key of {self.application} has a type that churnwatch did not give it ({said}): is another "
                f"program using this database? Choose another `application` name or database."
            ) from error
        if isinstance(error, InvalidResponse):
            raise StoreBroken(
                f"Something else than Redis listens at redis.url ({said}): check its host and port."
            ) from error
        transient = (
            Unreachable, Unanswered, BusyLoadingError, TryAgainError, ClusterDownError, RedisClusterException,
            OSError, asyncio.TimeoutError,
        )  # fmt: skip
        if not isinstance(error, transient) and isinstance(error, ResponseError):
            if any(word in said for word in ("LOADING", "MASTERDOWN", "BUSY", "UNBLOCKED")):
                return
            raise StoreBroken(
                f"Redis refuses what churnwatch asks of it ({said}): it needs Redis 6.2 or later."
            ) from error


def _accepted(answers: list[Any]) -> list[Any]:
    """The answers, none of which is a refusal: the first that is one is raised."""
    for answer in answers:
        if isinstance(answer, ResponseError):
            raise answer
    return answers


def _first_score(found: Sequence[Any]) -> int:
    """The score of the first member, as Redis tells it or as redis-py has rewritten it for a cluster; 0 for none."""
    if not found:
        return 0
    score = found[0][1] if isinstance(found[0], (tuple, list)) else found[1]
    return int(float(score))


def _waiting(entry: Any) -> tuple[bytes, Message]:
    """An entry of an outbox, as Redis tells it or as redis-py has rewritten it for a cluster."""
    ident, fields = entry
    return ident, unpack(fields[b"m"] if isinstance(fields, dict) else fields[1])


def _said(error: BaseException) -> str:
    text = str(error).partition(" script: ")[0].rstrip(".") or type(error).__name__
    if "MISCONF" in text:
        return f"it cannot write to its disk ({text}): make room there"
    return text


def _cause(error: BaseException, kinds: tuple[type[BaseException], ...]) -> BaseException | None:
    """The first of some kinds in the chain of what led to an error."""
    seen: BaseException | None = error
    while seen is not None and not isinstance(seen, kinds):
        seen = seen.__cause__ or seen.__context__
    return seen
