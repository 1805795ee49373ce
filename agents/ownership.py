"""Which partition numbers are ours, since which claim, and from where they are to be read."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from agents.clock import Fetches
from agents.failure import LayoutRefused, StoreBroken
from agents.lag import Lag
from agents.losses import Loss, refusal
from agents.metrics import Metrics
from agents.store import Claimed, Fenced, Layout, Lease, Lost, Split, Store
from alerts.partition import Partition

log = logging.getLogger(__name__)

Offsets = dict[tuple[str, int], int]
IMPORTING = "importing"
"""The clock of a layout while an archive is being imported: that of no worker."""
RESTORING = "restoring"
"""Likewise while a backup is being restored."""
UNDER_WAY = frozenset({IMPORTING, RESTORING})


class Log(Protocol):
    """What a claim asks of Kafka."""

    def partition_counts(self, topics: Sequence[str]) -> Mapping[str, int]:
        """Partitions of each topic, 0 for one that is missing."""
        ...

    async def log_ends(self, partitions: Collection[tuple[str, int]]) -> tuple[Offsets, Offsets]:
        """The first offset kept and the next to be written."""
        ...

    async def kept_since(self, partitions: Collection[tuple[str, int]]) -> Mapping[tuple[str, int], int]:
        """When the first record that is kept was written, in microseconds, where there is one."""
        ...

    async def proves(self, topic: str, partition: int, generation: int) -> bool:
        """Whether Kafka takes us for a member of its current generation."""
        ...


@dataclass(slots=True, eq=False)
class Owned:
    """One partition number that is ours. ``state`` is its own state as of the last commit.

    ``last`` is Kafka's time of the last record applied, by Kafka topic, in microseconds; ``lags`` by Kafka
    topic. ``caught_up``: whether all there was has been applied since the claim, once. ``reviewed``: nobody is in it
    who must not be, and everybody has the deadlines that the settings give.
    """

    lease: Lease
    state: Partition
    last: dict[str, int] = field(default_factory=dict)
    fetches: Fetches = field(default_factory=Fetches)
    caught_up: bool = False
    lags: dict[str, Lag] = field(default_factory=dict)
    reviewed: bool = False

    @property
    def number(self) -> int:
        """The partition number."""
        return self.lease.partition


class Ownership:
    """The partition numbers of this worker. ``topics`` are Kafka's names, all co-partitioned."""

    def __init__(
        self,
        store: Store,
        topics: Sequence[str],
        clock: str,
        opened: Callable[[bytes | None, int], Partition],
        metrics: Metrics,
    ) -> None:
        self.store = store
        self.topics = tuple(topics)
        self.clock = clock
        self.count = 0
        self._opened = opened
        self._metrics = metrics
        self._owned: dict[int, Owned] = {}
        self._locks: dict[int, asyncio.Lock] = {}

    # ---- what is ours

    def lock(self, number: int) -> asyncio.Lock:
        """One lock for each partition number, which batches and the sweep share."""
        return self._locks.setdefault(number, asyncio.Lock())

    def get(self, number: int) -> Owned | None:
        """A partition number that is ours now."""
        owned = self._owned.get(number)
        return None if owned is None or owned.lease.lost else owned

    def numbers(self) -> list[int]:
        """All that is ours now."""
        return sorted(number for number, owned in self._owned.items() if not owned.lease.lost)

    def caught_up(self) -> list[int]:
        """Those of :meth:`numbers` of which everything has been applied once."""
        return [number for number in self.numbers() if self._owned[number].caught_up]

    def applied(self, topic: str, number: int) -> int | None:
        """The next offset to apply of a partition that is ours."""
        owned = self.get(number)
        return None if owned is None else owned.lease.offsets.get(topic)

    def release(self, number: int) -> None:
        """Let go: whatever is being done under the lease is void."""
        owned = self._owned.pop(number, None)
        if owned is not None:
            owned.lease.lost = True
            self._metrics.forget_partition(number, self.topics)

    def drop(self, owned: Owned) -> bool:
        """Let go of one claim; False when there is another since."""
        if self._owned.get(owned.number) is not owned:
            return False
        self.release(owned.number)
        return True

    def release_all(self) -> None:
        """Let go of everything."""
        for number in list(self._owned):
            self.release(number)

    # ---- claiming

    async def claim(self, kafka: Log, assigned: Collection[tuple[str, int]], generation: int) -> Offsets:
        """Take over what the group has assigned; from where each partition is to be read.

        A number that a later generation holds is left out. Raises ``LayoutRefused`` when the topics and
        the stored state do not fit together, ``Lost`` outside a generation, ``StoreAway`` when Redis
        does not answer; then nothing of ``assigned`` is ours.
        """
        numbers: dict[int, set[str]] = {}
        for topic, number in assigned:
            numbers.setdefault(number, set()).add(topic)
        for number in numbers:
            self.release(number)
        if not numbers:
            return {}
        if generation < 0:
            raise Lost
        await self._check_layout(kafka)
        for number, topics in sorted(numbers.items()):
            if topics != set(self.topics):
                missing = ", ".join(sorted(set(self.topics) - topics))
                raise LayoutRefused(
                    f"Partition {number} was assigned without {missing}: does every worker of the consumer group "
                    f"run this release and read the same kafka.inputs?"
                )
        claims: dict[int, Claimed] = {}
        for number in sorted(numbers):
            claimed = await self._claim(kafka, number, generation)
            if claimed is not None:
                claims[number] = claimed
        if not claims:
            return {}
        # The ends of the log after the claim: before it the owner of then could still advance Redis.
        first, last = await kafka.log_ends([(topic, number) for number in claims for topic in self.topics])
        starts: Offsets = {}
        leases: list[Lease] = []
        for number in [number for number, claimed in claims.items() if claimed.torn]:
            begins = {topic: first[topic, number] for topic in self.topics}
            again = await self._from_the_beginning(kafka, number, generation, begins)
            if again is None:
                del claims[number]
            else:
                claims[number] = again
        await self._check_expired(kafka, claims, first)
        for number, claimed in claims.items():
            offsets = {}
            for topic in self.topics:
                at = topic, number
                if claimed.offsets.get(topic) is None and first[at]:
                    log.warning(
                        "%s/%d is read for the first time, from offset %d on: what came before has expired. Of an "
                        "application that has run before Redis has lost its state: stop, and restore a backup",
                        topic,
                        number,
                        first[at],
                    )
                offsets[topic] = starts[at] = _begin(claimed.offsets.get(topic), first[at], last[at], at)
            unwritten = set(self.topics) - set(claimed.offsets)
            leases.append(Lease(number, generation, claimed.version, offsets, unwritten, claimed.blob))
        for lease in leases:
            self.release(lease.partition)
            self._owned[lease.partition] = Owned(lease, self._opened(lease.blob, lease.partition))
        return starts

    async def _from_the_beginning(
        self, kafka: Log, number: int, generation: int, begins: Mapping[str, int]
    ) -> Claimed | None:
        """Forgets a partition number whose states do not belong together, where Kafka still holds all of it."""
        expired = [f"{topic}/{number} begins at offset {first}" for topic, first in begins.items() if first]
        if expired:
            keys = " ".join(f"'{key}'" for key in self.store.keys(number))
            raise StoreBroken(
                f"Partition {number}: Redis has brought half of a lost commit back to life (it was stopped hard in the "
                f"middle of writing its append-only file, and started twice since; docs/decisions/0005), so that states "
                f"and offsets do not belong together. They cannot be rebuilt: {', '.join(expired)}. Restore a backup of "
                f"Redis; or go on with what Kafka still holds: redis-cli UNLINK {keys}"
            )
        log.error(
            "Partition %d: Redis has brought half of a lost commit back to life: forgotten, and read again from the "
            "beginning of its topics (alerts keep their ids)",
            number,
        )
        self._metrics.resyncs.labels("torn").inc()
        if not await self.store.forget(number, generation):
            return None
        return await self._claim(kafka, number, generation)

    async def _check_expired(self, kafka: Log, claims: Mapping[int, Claimed], first: Offsets) -> None:
        """Raise ``LayoutRefused`` when Kafka no longer has what comes next; all of it is told at once."""
        gone = {
            (topic, number): offset
            for number, claimed in claims.items()
            for topic, offset in claimed.offsets.items()
            if offset < first.get((topic, number), 0)
        }
        if not gone:
            return
        since = await kafka.kept_since(gone.keys())
        clocks = {number: self._opened(claims[number].blob, number).clock for _, number in gone}
        raise LayoutRefused(
            refusal(
                [
                    Loss(
                        topic,
                        number,
                        offset,
                        first[topic, number],
                        clocks[number],
                        since.get((topic, number), 0),
                    )
                    for (topic, number), offset in sorted(gone.items())
                ]
            )
        )

    async def _check_layout(self, kafka: Log) -> None:
        counts = dict(kafka.partition_counts(self.topics))
        check_counts(counts)
        self.count = next(iter(counts.values()))
        wanted = Layout(self.count, self.clock)
        stored = await self.store.layout(wanted)
        if stored is None or stored == wanted:
            return
        application = self.store.application
        if stored.clock == IMPORTING:
            raise LayoutRefused(
                f"An archive is being imported into application {application}: start the workers when `churnwatch "
                f"import` has ended. If it was killed, its rest must go first: redis-cli --scan --pattern "
                f"'*{application}*' shows it; UNLINK it and import again."
            )
        if stored.clock == RESTORING:
            raise LayoutRefused(
                f"A backup is being restored into application {application}: start the workers when `churnwatch restore` "
                f"has ended. If it was killed, nothing of it counts: run it again, with the same file or another."
            )
        if stored.clock != self.clock:
            raise LayoutRefused(
                f"The state of application {application} was built with clock.mode = {stored.clock}, the settings say "
                f"{self.clock}: the two must not be mixed. Set clock.mode = {stored.clock}, or choose another "
                f"`application`."
            )
        raise LayoutRefused(
            f"The state of application {application} was built with {stored.partitions} partitions, Kafka has "
            f"{self.count}: customers would be looked for in the wrong partition. Choose another `application` (it "
            f"reads the topics from their beginning), or migrate: stop the producers, let the workers drain, stop "
            f"them, and move the state."
        )

    async def _claim(self, kafka: Log, number: int, generation: int) -> Claimed | None:
        self._metrics.claims.inc()
        answer = await self.store.claim(number, generation)
        if isinstance(answer, Fenced) and await kafka.proves(self.topics[0], number, generation):
            # A worker that lost its place, or a group that was deleted so that its generations began anew?
            # Kafka takes a commit from its current generation only, and it took ours.
            log.warning(
                "Partition %d: Redis knows generation %d, ours is %d and Kafka confirms it: the consumer group was "
                "reset, taking over",
                number,
                answer.generation,
                generation,
            )
            answer = await self.store.claim(number, generation, forced=answer)
        if isinstance(answer, Claimed):
            return answer
        self._metrics.claim_failures.inc()
        if isinstance(answer, Split):
            raise LayoutRefused(
                f"Partition {number} is claimed by another worker ({answer.incarnation}) in the same generation "
                f"{generation}: do two consumer groups share the application {self.store.application} (kafka.group)?"
            )
        log.warning("Partition %d belongs to a later generation (%d)", number, answer.generation)
        return None


def check_counts(counts: Mapping[str, int]) -> None:
    """Raise ``LayoutRefused`` unless all topics are there with the same number of partitions."""
    missing = sorted(topic for topic, count in counts.items() if not count)
    if missing:
        raise LayoutRefused(
            f"Topics are missing: {', '.join(missing)}. Create them with `churnwatch topics create`, or take them out "
            f"of kafka.inputs. (An embedded broker makes a topic when it is first asked for.)"
        )
    if len(set(counts.values())) != 1:
        shown = ", ".join(f"{topic} {count}" for topic, count in sorted(counts.items()))
        raise LayoutRefused(
            f"The input topics must have the same number of partitions, or a customer's events would lie in "
            f"partitions of different numbers: {shown}. Create those that differ anew."
        )


def _begin(stored: int | None, first: int, last: int, at: tuple[str, int]) -> int:
    """Where to read from. Nothing stored means the beginning of the log, never Kafka's committed offset."""
    if stored is None:
        return first
    name = f"{at[0]}/{at[1]}"
    if stored > last:
        raise LayoutRefused(
            f"{name}: everything up to offset {stored} was applied, but Kafka ends at {last}: the topic was created "
            f"anew, or Kafka lost its tail. Choose another `application`, or restore the topic."
        )
    return stored
