"""What is wrong with a group, in words, and what to do: a function of one overview."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Final

from agents.findings import Finding, Level, counted, lasting, note, numbered, problem, warning
from agents.overview import Group, Logs, Overview, States
from agents.ownership import RESTORING, UNDER_WAY
from alerts.brakes import KINDS
from alerts.partition import WINDOW
from streams.events import rfc3339
from streams.topics import DEAD_LETTERS, DECISIONS

SECOND: Final = 1_000_000
OUTBOX_SECONDS: Final = 60
"""A message that waits longer for the brokers than this is worth a word."""
TIMER_SECONDS: Final = 300
"""So is a timer that is due for longer, and a wall clock that stands for longer, while somebody reads."""
INVALID_SHARE: Final = 0.2
"""Of the last records of a topic's partition; at half of them the worker stops."""

QUIET_SECONDS: Final = 1.0
"""A partition with unread records is committed many times a second."""

START = "Start one with: churnwatch worker."
LOG = "Look at the log of its worker; churnwatch doctor checks what it needs."


def troubles(seen: Overview) -> list[Finding]:
    """What is wrong, the worst first; empty when all is well."""
    found: list[Finding] = []
    for check, away in (("kafka", seen.kafka_away), ("redis", seen.redis_away)):
        if away is not None:
            found.append(problem(check, away.what, away.why, away.todo))
    if seen.logs is not None:
        found += _topics(seen, seen.logs)
        found += _hidden(seen, seen.logs)
    if seen.states is not None:
        found += _layout(seen, seen.states)
    found += _group(seen)
    if seen.states is not None:
        found += _offsets(seen, seen.states)
        for look in (_stuck, _unreadable, _outboxes, _parked, _clocks, _timers, _invalid, _feeds):
            found += look(seen, seen.states)
    if seen.logs is not None:
        found += _letters(seen, seen.logs)
        found += _brakes(seen, seen.logs)
    order = list(Level)
    return sorted(found, key=lambda f: -order.index(f.level))


def _topics(seen: Overview, logs: Logs) -> Iterator[Finding]:
    kafka = seen.settings.kafka
    counts = {t: logs.counts.get(kafka.topic(t), 0) for t in kafka.inputs}
    missing = [kafka.topic(t) for t, n in counts.items() if not n]
    if missing:
        yield problem(
            "topics",
            f"Kafka has no topic {', '.join(missing)}.",
            "A worker does not start without every topic of kafka.inputs.",
            "Run: churnwatch topics create. If they have a prefix, set kafka.prefix; if not all are used, set "
            "kafka.inputs.",
        )
    if len(set(counts.values()) - {0}) > 1:
        shown = ", ".join(f"{kafka.topic(t)} has {n}" for t, n in counts.items() if n)
        yield problem(
            "partitions",
            f"The input topics have different numbers of partitions: {shown}.",
            "A customer would be in one partition here and in another there; a worker refuses to start.",
            "Create those that differ anew, with producers and workers stopped: see churnwatch topics create --help.",
        )


def _hidden(seen: Overview, logs: Logs) -> Iterator[Finding]:
    if logs.hidden:
        yield warning(
            "rights",
            f"Kafka does not show the logs of {', '.join(map(seen.settings.kafka.topic, logs.hidden))} to this user.",
            "How far they are read, or what they hold, is not known here; a worker with this user could not either.",
            "Grant it DESCRIBE (and READ on inputs) on them: churnwatch doctor says what is missing.",
        )


def _layout(seen: Overview, states: States) -> Iterator[Finding]:
    application = seen.settings.application
    if states.layout is None:
        yield warning(
            "layout",
            f"Redis knows no application {application}.",
            "No worker of that name has run on it yet, or Redis was wiped: then everything that Kafka still has is "
            "read again.",
            f"{START} If it has run elsewhere: is redis.url right, and --application?",
        )
        return
    if states.layout.clock in UNDER_WAY:
        what = (
            "A backup is being restored"
            if states.layout.clock == RESTORING
            else "An archive is being imported"
        )
        yield problem(
            "layout",
            f"{what} into {application}, or was until somebody stopped it.",
            "Until it has ended nothing of it counts, and no worker starts.",
            "Let it end. If it was stopped, run the same restore again."
            if states.layout.clock == RESTORING
            else "Let it end. If it was stopped, remove its rest (redis-cli --scan --pattern shows it) and import again.",
        )
        return
    mode = seen.settings.clock.mode
    if states.layout.clock != mode:
        yield problem(
            "clock_mode",
            f"The state was built with clock.mode = {states.layout.clock}, the settings say {mode}.",
            "The two must not be mixed; a worker with these settings refuses to start.",
            f"Set clock.mode = {states.layout.clock}, or choose another application.",
        )
    if seen.logs is None:
        return
    kafka = seen.settings.kafka
    counts = {n for t in kafka.inputs if (n := seen.logs.counts.get(kafka.topic(t), 0))}
    if len(counts) == 1 and counts != {states.layout.partitions}:
        yield problem(
            "layout",
            f"The state was built with {counted(states.layout.partitions, 'partition')}, Kafka has {counts.pop()}.",
            "Customers would be looked for in the wrong partition; a worker refuses to start.",
            "Choose another application (it reads the topics from their beginning), or migrate: docs/operations.md.",
        )


def _group(seen: Overview) -> Iterator[Finding]:
    if seen.logs is None:
        return
    group = seen.logs.group
    behind = sum(sum(seen.lag(s).values()) for s in seen.states.partitions) if seen.states is not None else 0
    if group is None:
        if behind:
            yield note(
                "group",
                f"{counted(behind, 'record')} are not applied yet; who reads is not known.",
                f"Kafka does not tell: {seen.logs.no_group}.",
            )
        return
    if group.state in {"preparing_rebalancing", "completing_rebalancing"}:
        yield note(
            "group",
            f"The group is rebalancing ({counted(len(group.members), 'member')}).",
            "Nothing is read meanwhile. It takes a second when a worker comes or is stopped, and kafka.session_timeout "
            f"({seen.settings.kafka.session_timeout:g} s) when one died.",
        )
        return
    if not group.members:
        if seen.states is not None and seen.states.layout is None:
            return  # none has ever run here, which is said of the layout
        yield problem(
            "group",
            (
                f"Redis is {counted(behind, 'record')} behind and no worker is in the group {seen.settings.group}."
                if behind
                else f"No worker is in the group {seen.settings.group}."
            ),
            "Nobody reads events, nobody hears silences, nothing leaves the outbox.",
            START,
        )
        return
    yield from _members(seen, group)


def _members(seen: Overview, group: Group) -> Iterator[Finding]:
    reading = {n: m for m in group.members for n in m.numbers}
    unread = set(range(seen.partitions)) - set(reading)
    if unread:
        yield problem(
            "group",
            f"Nobody reads {numbered(unread)}, although {counted(len(group.members), 'worker')} "
            f"{'is' if len(group.members) == 1 else 'are'} in the group.",
            "Kafka has given them to nobody: was the topic changed while workers ran, or do they read different "
            "kafka.inputs?",
            "Restart the workers, all with the same settings.",
        )
    partial = {n for m in group.members for n in m.partial}
    if partial:
        yield problem(
            "group",
            f"Of {numbered(partial)} one worker has not every input topic.",
            "A customer's events would be applied by two workers; they refuse.",
            "Every worker of the group must run the same release with the same kafka.inputs. Does something else use "
            f"the group {seen.settings.group}?",
        )
    idle = [m for m in group.members if not m.numbers]
    if idle:
        yield note(
            "group",
            f"{counted(len(idle), 'worker')} {'has' if len(idle) == 1 else 'have'} no partition.",
            f"There are {seen.partitions} partitions; more workers than that stand by.",
        )
    if seen.states is not None and seen.states.layout is not None:
        # Every rebalance claims all partitions anew, under the group's new generation.
        newest = max((s.generation for s in seen.states.partitions), default=-1)
        unclaimed = [
            s.number
            for s in seen.states.partitions
            if (s.generation < newest or s.generation < 0) and s.number in reading
        ]
        if unclaimed:
            yield warning(
                "lease",
                f"{numbered(unclaimed).capitalize()} {'are' if len(unclaimed) > 1 else 'is'} assigned, and not claimed "
                "in Redis since.",
                "A worker that has just started needs a second; one that cannot reach Redis says so in its log.",
                LOG,
            )


def _offsets(seen: Overview, states: States) -> Iterator[Finding]:
    if seen.logs is None:
        return
    beyond = []
    for stored in states.partitions:
        for topic, applied in stored.applied.items():
            at = topic, stored.number
            if at not in seen.logs.ends:
                continue
            name = f"{seen.settings.kafka.topic(topic)}/{stored.number}"
            if applied > seen.logs.ends[at]:
                beyond.append(f"{name} (applied up to {applied:,}, Kafka ends at {seen.logs.ends[at]:,})")
    if beyond:
        yield problem(
            "offsets",
            f"Redis stands beyond the end of {_few(beyond)}.",
            "The topic was created anew, or Kafka lost its tail; a worker refuses to go on.",
            "Start under a new application, or restore the topic.",
        )
    if seen.lost:
        yield problem(
            "offsets",
            f"{counted(sum(each.records for each in seen.lost), 'record')} expired unread. {_few(seen.lost, '; ')}.",
            "Retention was shorter than the time nobody read, or than the age of the backup that Redis was restored from. "
            "A worker refuses to go on without them.",
            "Restore a newer backup, if there is one; or go on without them, which is written down: churnwatch "
            "accept-loss. Raise retention.ms of the topic.",
        )
    for given_up in sorted(each for stored in states.partitions for each in stored.given_up):
        yield note(
            "given_up",
            f"{counted(given_up.kept - given_up.first, 'record')} of {given_up.topic}/{given_up.partition} (offsets "
            f"{given_up.first} to {given_up.kept - 1}) were given up {lasting((seen.at - given_up.at) / SECOND)} ago.",
            "They had expired before they were applied, and somebody ran churnwatch accept-loss.",
        )


def _stuck(seen: Overview, states: States) -> Iterator[Finding]:
    group = seen.logs.group if seen.logs is not None else None
    if group is None or group.state != "stable":
        return
    read = {n for m in group.members for n in m.numbers}
    stuck = [
        s
        for s in states.partitions
        if s.number in read and s.quiet >= QUIET_SECONDS and any(seen.lag(s).values())
    ]
    if stuck:
        behind = sum(sum(seen.lag(s).values()) for s in stuck)
        yield warning(
            "moving",
            f"{counted(behind, 'record')} of {numbered(s.number for s in stuck)} "
            f"{'is' if behind == 1 else 'are'} unread, and for {lasting(min(s.quiet for s in stuck))} nothing was committed.",
            "Kafka counts a worker that died as a member until kafka.session_timeout has passed "
            f"({seen.settings.kafka.session_timeout:g} s). One that lives may have just started, or wait for Redis.",
            "Look again in half a minute; then at the log of its worker. churnwatch doctor checks what it needs.",
        )


def _unreadable(_: Overview, states: States) -> Iterator[Finding]:
    for stored in states.partitions:
        if stored.unreadable:
            yield problem(
                "versions",
                f"The state of partition {stored.number} cannot be read: {stored.unreadable}.",
                "It was written by another release than this one.",
                "Run the release that wrote it, or a newer one.",
            )


def _outboxes(seen: Overview, states: States) -> Iterator[Finding]:
    old = [s for s in states.partitions if s.waiting and seen.at - s.waiting_since > OUTBOX_SECONDS * SECOND]
    if not old:
        return
    age = lasting((seen.at - min(s.waiting_since for s in old)) / SECOND)
    messages = counted(sum(s.waiting for s in old), "message")
    where = numbered(s.number for s in old)
    found = (
        f"The outbox of {where} has waited {age} ({messages})."
        if len(old) == 1
        else f"The outboxes of {where} have waited, the oldest {age} ({messages})."
    )
    if _is_read(seen):
        yield warning(
            "outbox",
            found,
            "A worker carries it to Kafka, and the brokers do not acknowledge.",
            "Do all output topics exist, have their partitions a leader and min.insync.replicas copies, may this user "
            "write? churnwatch doctor looks; the worker's log says what Kafka answers.",
        )
    else:
        yield warning("outbox", found, "No worker is there to carry it to Kafka.", START)


def _parked(_: Overview, states: States) -> Iterator[Finding]:
    held = {s.number: s.parked for s in states.partitions if s.parked}
    if held:
        yield warning(
            "parked",
            f"{counted(sum(held.values()), 'message')} of {numbered(held)} "
            f"{'is' if sum(held.values()) == 1 else 'are'} set aside.",
            "They are larger than the brokers allow, so they never left.",
            "Raise max.message.bytes of the topic. They lie in the Redis streams {application:pN}:parked.",
        )


def _clocks(seen: Overview, states: States) -> Iterator[Finding]:
    if states.layout is None or not _is_read(seen):
        return
    inputs = seen.settings.kafka.inputs
    if states.layout.clock == "record":
        lacking: dict[str, list[int]] = {}
        for stored in states.partitions:
            if stored.state is not None and stored.state.applied and not stored.state.clock:
                for topic in inputs:
                    if topic not in stored.state.ticks:
                        lacking.setdefault(topic, []).append(stored.number)
        for name, numbers in lacking.items():
            yield warning(
                "clock",
                f"The clock of {numbered(numbers)} has not begun: no clock record has come on {name}.",
                "On the record clock, time is what clock records on every input topic say; without one nothing is due.",
                "churnwatch send writes them (not with --clock none); take topics that nobody feeds out of kafka.inputs.",
            )
        return
    standing = {
        s.number: s.state.clock
        for s in states.partitions
        if s.state is not None and s.state.clock and seen.at - s.state.clock > TIMER_SECONDS * SECOND
    }
    if standing:
        age = lasting((seen.at - min(standing.values())) / SECOND)
        yield warning(
            "clock",
            (
                f"The clock of {numbered(standing)} stands {age} in the past."
                if len(standing) == 1
                else f"The clocks of {numbered(standing)} stand in the past, the last by {age}."
            ),
            "A clock runs only as far as everything has been read: something lies unread, or Redis or Kafka do not answer "
            "the worker. Nobody is warned of silence meanwhile. After a start it stands for worker.silence_grace "
            f"({seen.settings.worker.silence_grace:g} s) in any case.",
            LOG,
        )


def _timers(seen: Overview, states: States) -> Iterator[Finding]:
    if states.layout is None or states.layout.clock == "record" or not _is_read(seen):
        return
    late = [s for s in states.partitions if s.due and seen.at - s.oldest_due > TIMER_SECONDS * SECOND]
    if late:
        oldest = min(s.oldest_due for s in late)
        yield warning(
            "timers",
            f"{counted(sum(s.due for s in late), 'timer')} of {numbered(s.number for s in late)} "
            f"{'is' if sum(s.due for s in late) == 1 else 'are'} due, the oldest for {lasting((seen.at - oldest) / SECOND)}.",
            "Silences and overdue complaints are noticed late.",
            LOG,
        )


def _invalid(seen: Overview, states: States) -> Iterator[Finding]:
    for stored in states.partitions:
        for topic, window in stored.state.windows.items() if stored.state is not None else ():
            if window.seen >= WINDOW / 10 and window.invalid >= INVALID_SHARE * window.seen:
                yield warning(
                    "invalid",
                    f"{window.invalid} of the last {counted(window.seen, 'record')} of "
                    f"{seen.settings.kafka.topic(topic)}/{stored.number} are invalid.",
                    "At more than half (and 200) the worker stops: then a producer or the code is wrong.",
                    "churnwatch dlq list says why they were refused.",
                )


def _feeds(seen: Overview, states: States) -> Iterator[Finding]:
    silent: dict[str, list[int]] = {}
    for stored in states.partitions:
        for topic in stored.silent:
            silent.setdefault(topic, []).append(stored.number)
    for name, numbers in silent.items():
        yield warning(
            "feeds",
            f"Traffic on {seen.settings.kafka.topic(name)} is far below what is usual ({numbered(numbers)}).",
            "A silent feed is not a silent customer: looks at silent customers are held until it is back.",
            "Is the producer well? If the shop was closed, add the day to shop.closing_days.",
        )


def _letters(seen: Overview, logs: Logs) -> Iterator[Finding]:
    if not logs.letters:
        return
    newest = logs.newest_letter
    age = (
        ""
        if newest is None
        else f", the newest {lasting((seen.at - newest.at) / SECOND)} ago ({newest.what})"
    )
    yield note(
        "dead_letters",
        f"{counted(logs.letters, 'record')} in {seen.settings.kafka.topic(DEAD_LETTERS)}{age}.",
        "Each is kept whole with its reason until the topic's retention removes it.",
        "churnwatch dlq list; once repaired: churnwatch dlq replay.",
    )


def _brakes(seen: Overview, logs: Logs) -> Iterator[Finding]:
    """What is decided and not delivered, because somebody wants it so."""
    decisions = seen.settings.kafka.topic(DECISIONS)
    kept = f"What is decided meanwhile is recorded on {decisions} and not delivered, also later."
    pauses: dict[tuple[int, str], list[str]] = {}
    for pause in logs.brakes.open():
        pauses.setdefault((pause.paused_at, pause.reason), []).append(pause.kind)
    for (paused_at, reason), kinds in pauses.items():
        which = "Alerts" if len(kinds) == len(KINDS) else f"Alerts of {', '.join(kinds)}"
        yield warning(
            "paused",
            f"{which} are paused since {rfc3339(paused_at)[:19].replace('T', ' ')} UTC"
            f"{f' ({reason})' if reason else ''}.",
            kept,
            f"churnwatch alerts resume{'' if len(kinds) == len(KINDS) else ' ' + kinds[0]} delivers again.",
        )
    withheld, alert = logs.newest_withheld, logs.newest_alert
    if seen.settings.worker.shadow:
        yield note(
            "shadow",
            "Shadow mode: by these settings (worker.shadow) no alert is delivered.",
            kept,
            "To deliver, set worker.shadow = false for all workers and start them again.",
        )
    elif (
        withheld is not None
        and withheld.withheld == "shadow"
        and (alert is None or alert.at < withheld.at)
        and not pauses
    ):
        yield note(
            "shadow",
            "The newest alert was withheld by a worker in shadow mode.",
            f"These settings say worker.shadow = false, that worker's do not. {kept}",
            "If it is not meant so, start the workers with the same settings as these.",
        )


def _is_read(seen: Overview) -> bool:
    """Whether somebody reads, as far as can be told: without a worker everything stands, which is said once."""
    return seen.logs is None or seen.logs.group is None or bool(seen.logs.group.members)


def _few(names: Sequence[object], between: str = ", ") -> str:
    """The first three of a list."""
    more = f" and {len(names) - 3} more" if len(names) > 3 else ""
    return between.join(map(str, names[:3])) + more
