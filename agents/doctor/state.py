"""Whether what is stored fits this release, these settings and these topics, and whether workers get on with it."""

from __future__ import annotations

from collections import Counter
from importlib import metadata
from typing import Final

from redis.exceptions import RedisError

from agents.findings import Finding, counted, ok, problem, unknown
from agents.overview import Overview, Watcher
from agents.settings import Settings
from agents.status import troubles
from features.customer import OLDEST, VERSION

PATIENCE: Final = 2.5
"""Seconds for one question."""
SAMPLE: Final = 20
"""Customers of each partition whose state is looked at."""
PAUSE: Final = 1.5
"""Seconds after which a partition with unread records should have got on."""


async def checks(settings: Settings, *, kafka: bool, redis: bool) -> list[Finding]:
    """Everything about the state and the workers, with what answers."""
    async with Watcher(settings, PATIENCE) as watcher:
        if kafka and redis:
            _, seen = await watcher.look_again(PAUSE)
        else:
            seen = await watcher.look(kafka=kafka, redis=redis)
        found = [
            finding._replace(check=f"state.{finding.check}")
            for finding in troubles(seen)
            if finding.check
            not in {"kafka", "redis", "topics", "partitions", "rights"}  # said of the brokers already
        ]
        if not kafka:
            found.append(
                unknown("state.group", "Workers and lag were not looked at.", "Kafka does not answer.")
            )
        if not redis:
            found.append(unknown("state.all", "State was not looked at.", "Redis does not answer."))
        elif seen.redis_away is not None:
            found.append(
                unknown(
                    "state.all",
                    "State was not looked at.",
                    seen.redis_away.why,
                    "Whoever may run churnwatch status may see it (docs/security.md: reader); a worker runs without.",
                )
            )
        said = {f.check for f in found}
        found += _fine(seen, said)
        if seen.states is not None and seen.states.layout is not None:
            found += await _versions(watcher, seen)
    return found


def _fine(seen: Overview, said: set[str]) -> list[Finding]:
    """What is as it should be."""
    found = []
    states, logs = seen.states, seen.logs
    if states is not None and states.layout is not None and not said & {"state.layout", "state.clock_mode"}:
        found.append(
            ok(
                "state.layout",
                f"The state fits: {counted(states.layout.partitions, 'partition')}, {states.layout.clock} clock, "
                f"{counted(sum(s.customers for s in states.partitions), 'customer')}.",
            )
        )
    if states is not None and logs is not None and states.partitions and "state.offsets" not in said:
        behind = sum(sum(seen.lag(s).values()) for s in states.partitions)
        found.append(
            ok(
                "state.offsets",
                "What was applied lies within Kafka's logs; "
                + (
                    f"{counted(behind, 'record')} still to be applied."
                    if behind
                    else "nothing is left to be applied."
                ),
            )
        )
    if logs is not None and "state.group" not in said:
        if logs.group is None:
            why = f"{logs.no_group[:1].upper()}{logs.no_group[1:]}."
            found.append(unknown("state.group", "Who reads was not found out.", why))
        elif "state.layout" not in said:
            found.append(
                ok(
                    "state.group",
                    f"{counted(len(logs.group.members), 'worker')} in the group {seen.settings.group} "
                    f"({logs.group.state}), all partitions are read{_generation(seen)}.",
                )
            )
    if states is not None and states.partitions and not said & {"state.outbox", "state.parked"}:
        found.append(ok("state.outbox", "Nothing waits for long to leave."))
    return found


def _generation(seen: Overview) -> str:
    """Under which generation of the group the partitions were claimed in Redis."""
    claimed = (
        max((s.generation for s in seen.states.partitions), default=-1) if seen.states is not None else -1
    )
    return f" and claimed in generation {claimed}" if claimed >= 0 else ""


async def _versions(watcher: Watcher, seen: Overview) -> list[Finding]:
    """Which versions a sample of the customers' states has."""
    assert seen.states is not None
    store = watcher.redis.store
    found: Counter[int] = Counter()
    try:
        for stored in seen.states.partitions:
            if not stored.customers:
                continue
            _, hot, cold, _, _ = store.keys(stored.number)
            for key in (hot, cold):
                _, sample = await store.redis.hscan(key, 0, count=SAMPLE)
                found.update(value[0] for value in list(sample.values())[:SAMPLE] if value)
    except RedisError as error:
        return [unknown("state.versions", "Versions of states were not looked at.", str(error))]
    code = f"{_release()} knows versions {OLDEST} to {VERSION}"
    other = sorted(version for version in found if not OLDEST <= version <= VERSION)
    if other:
        newer = other[-1] > VERSION
        return [
            problem(
                "state.versions",
                f"States of version {', '.join(map(str, other))} are stored, {code}.",
                "They were written by a newer release: a worker refuses to read them."
                if newer
                else "They are of another release, or another program writes to these keys.",
                "Run the release that wrote them, or a newer one."
                if newer
                else "Choose another application.",
            )
        ]
    if not found:
        return []
    return [
        ok(
            "state.versions",
            f"All of {counted(sum(found.values()), 'state')} looked at can be read ({code}).",
        )
    ]


def _release() -> str:
    try:
        return f"churnwatch {metadata.version('churnwatch')}"
    except metadata.PackageNotFoundError:
        return "this churnwatch"
