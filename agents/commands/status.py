"""``churnwatch status``: the whole group on one screen, and what is wrong in words."""

from __future__ import annotations

import asyncio
import contextlib
import sys
from typing import TYPE_CHECKING, Annotated, Any

import msgspec
import typer
from rich.console import Group as Stack
from rich.console import RenderableType
from rich.live import Live
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from agents.commands.shell import Shell, examples, shell
from agents.failure import Code
from agents.findings import Finding, Level, lasting, numbered
from agents.settings import redacted
from streams.events import rfc3339

if TYPE_CHECKING:
    from agents.overview import Member, Overview, Stored

EPILOG = examples(
    "churnwatch status                     who reads what, how far, what waits, and what is wrong",
    "churnwatch status --watch             the same, every two seconds, until Ctrl-C",
    "churnwatch status --check && deploy   stop a script when something is wrong (exit code 1)",
    "churnwatch status --json | jq '.partitions[] | {partition, lag}'",
)
PAUSE = 1.2
"""Seconds between two looks where one does not tell whether unread records are being read."""
ROWS = 24
"""Partitions shown at most; of more, those that lag or wait most."""
MARKS = {
    Level.PROBLEM: "[bold red]✗[/]",
    Level.WARNING: "[yellow]![/]",
    Level.NOTE: "[cyan]·[/]",
    Level.UNKNOWN: "[dim]?[/]",
    Level.OK: "[green]✓[/]",
}
SECOND = 1_000_000


def status(
    context: typer.Context,
    as_json: Annotated[
        bool, typer.Option("--json", help="One object on one line; with --watch one at each look.")
    ] = False,
    watch: Annotated[bool, typer.Option("--watch", "-w", help="Look again and again, until Ctrl-C.")] = False,
    interval: Annotated[
        float, typer.Option(min=0.2, max=3600, metavar="SECONDS", help="Between two looks of --watch.")
    ] = 2.0,
    check: Annotated[
        bool, typer.Option("--check", help="Exit code 1 when a warning or a problem is shown.")
    ] = False,
) -> None:
    """Show the whole group: workers, partitions, lag, timers, outbox, dead letters, and what is wrong.

    Reads Kafka and Redis and changes nothing. The exit code is 0 also when something
    is wrong, unless --check is given.
    """
    call = shell(context)
    try:
        wrong = asyncio.run(_look(call, as_json=as_json, every=interval if watch else None))
    except KeyboardInterrupt:
        if not watch:
            raise
        return  # the way to end it
    if check and wrong:
        raise typer.Exit(Code.FAILED)


async def _look(call: Shell, *, as_json: bool, every: float | None) -> bool:
    """Looks once or for ever; whether something was wrong at the last look."""
    # Redis and the core take a second to import, which every other command does without.
    from agents.overview import Watcher, hushed  # noqa: PLC0415
    from agents.status import troubles  # noqa: PLC0415

    before: Overview | None = None
    live: Live | None = None
    async with Watcher(call.settings) as watcher:
        with hushed(), contextlib.ExitStack() as stack:
            while True:
                if every is None:
                    before, seen = await watcher.look_again(PAUSE)
                else:
                    seen = await watcher.look()
                found = troubles(seen)
                if as_json:
                    sys.stdout.write(msgspec.json.encode(described(seen, found)).decode() + "\n")
                    sys.stdout.flush()
                elif every is not None and call.out.is_terminal:
                    picture = screen(seen, found, before, _rows(call.out.height, seen, found))
                    if live is None:
                        live = stack.enter_context(
                            Live(picture, console=call.out, screen=True, auto_refresh=False)
                        )
                    live.update(picture, refresh=True)
                else:
                    call.out.print(screen(seen, found, before))
                if every is None:
                    return any(f.level in {Level.WARNING, Level.PROBLEM} for f in found)
                before = seen
                await asyncio.sleep(every)


# ---- for machines


def described(seen: Overview, found: list[Finding]) -> dict[str, Any]:
    """An overview as one object. What is not known is absent."""
    said: dict[str, Any] = {
        "as_of": rfc3339(seen.at),
        "application": seen.settings.application,
        "group": seen.settings.group,
        "healthy": not any(f.level in {Level.WARNING, Level.PROBLEM} for f in found),
        "findings": [f.as_dict() for f in found],
    }
    logs, states = seen.logs, seen.states
    if logs is not None and logs.group is not None:
        said["group_state"] = logs.group.state
        said["workers"] = [
            {"id": m.id, "client": m.client, "host": m.host, "partitions": list(m.numbers)}
            for m in logs.group.members
        ]
    if states is not None and states.layout is not None:
        said["clock_mode"] = states.layout.clock
        said["model"] = _model(seen)
        said["partitions"] = [_partition(seen, stored) for stored in states.partitions]
    if logs is not None:
        said["paused"] = [
            {"kind": p.kind, "paused_at": rfc3339(p.paused_at)} | ({"reason": p.reason} if p.reason else {})
            for p in logs.brakes.open()
        ]
        said["dead_letters"] = {"kept": logs.letters}
        if logs.newest_letter is not None:
            newest = logs.newest_letter
            said["dead_letters"] |= {"newest": rfc3339(newest.at), "newest_reason": newest.what}
        if logs.newest_alert is not None:
            alert = logs.newest_alert
            said["newest_alert"] = {
                "time": rfc3339(alert.at),
                "what": alert.what,
                "customer": alert.who,
                "score_source": alert.source,
                "versions": dict(alert.versions),
            }
    return said


def _model(seen: Overview) -> dict[str, Any]:
    """What decides, and how far labels have come."""
    deciding = seen.deciding
    if deciding is None:
        return {"version": seen.settings.prior.version, "score_source": "statistical"}
    gate = deciding.leading.gate
    told: dict[str, object] = {
        "open": gate.open,
        "needed": gate.needed,
        "churned": gate.churned,
        "stayed": gate.stayed,
    }
    if gate.until is not None:
        told["until"] = rfc3339(gate.until)
    return {
        "version": deciding.version,
        "score_source": deciding.source,
        "model": deciding.promoted,
        "pinned": seen.logs is not None and seen.logs.learned.pinned is deciding,
        "labels": deciding.leading.labels,
        "gate": told,
    }


def _partition(seen: Overview, stored: Stored) -> dict[str, Any]:
    said: dict[str, Any] = {
        "partition": stored.number,
        "lag": seen.lag(stored),
        "applied": dict(stored.applied),
        "customers": stored.customers,
        "timers": stored.timers,
        "timers_due": stored.due,
        "outbox": stored.waiting,
        "parked": stored.parked,
        "silent_feeds": list(stored.silent),
    }
    if stored.worker:
        said |= {"claimed_by": stored.worker, "generation": stored.generation}
    if stored.state is not None and stored.state.clock:
        said["clock"] = rfc3339(stored.state.clock)
    if stored.state is not None and stored.state.live_since:
        said["live_since"] = rfc3339(stored.state.live_since)
    if stored.oldest_due:
        said["next_timer"] = rfc3339(stored.oldest_due)
    if stored.waiting_since:
        said["outbox_since"] = rfc3339(stored.waiting_since)
    return said


# ---- for people


def _rows(height: int, seen: Overview, found: list[Finding]) -> int:
    """How many partitions fit on a terminal beside everything else."""
    group = seen.logs.group if seen.logs is not None else None
    workers = 2 + len(group.members) if group is not None else 0
    words = sum(1 + bool(f.why) + bool(f.do) for f in found)
    return max(3, min(ROWS, height - 12 - workers - words))


def screen(
    seen: Overview, found: list[Finding], before: Overview | None = None, rows: int = ROWS
) -> RenderableType:
    """One screen. ``before``: the look before, for speeds; ``rows``: partitions shown at most."""
    parts: list[RenderableType] = [_head(seen, before), Text("")]
    wrong = [f for f in found if f.level in {Level.WARNING, Level.PROBLEM}]
    if not wrong:
        parts.append(Text.from_markup(f"{MARKS[Level.OK]} [green]Nothing is wrong.[/]"))
    parts += [sentence(f) for f in found]
    parts.append(Text(""))
    if seen.logs is not None and seen.logs.group is not None and seen.logs.group.members:
        parts += [_workers(seen), Text("")]
    if seen.states is not None and seen.states.layout is not None:
        parts += [_partitions(seen, rows), Text("")]
    parts.append(_foot(seen, rows))
    return Stack(*parts)


def sentence(finding: Finding) -> Text:
    """What was found, why it matters and what to do, under each other."""
    text = f"{MARKS[finding.level]} {escape(finding.found)}"
    if finding.why:
        text += "\n  [dim]" + escape(finding.why).replace("\n", "\n  ") + "[/]"
    if finding.do:
        text += "\n  → " + escape(finding.do).replace("\n", "\n  ")
    return Text.from_markup(text)


def _head(seen: Overview, before: Overview | None) -> Text:
    settings = seen.settings
    clock: str = settings.clock.mode
    if seen.states is not None and seen.states.layout is not None:
        clock = seen.states.layout.clock
    first = f"[bold]{escape(settings.application)}[/]  {clock} clock  {rfc3339(seen.at)[:19].replace('T', ' ')} UTC"
    applied, behind = _applied(seen), _behind(seen)
    if before is not None and seen.at > before.at:
        speed = (applied - _applied(before)) / ((seen.at - before.at) / SECOND)
        first += f"  {max(0.0, speed):,.0f} records a second"
        if behind and speed > 0:
            first += f", caught up in {lasting(behind / speed + 1)} or so"
    where = f"Kafka {', '.join(settings.kafka.brokers)}  Redis {redacted(settings.redis.url)}"
    return Text.from_markup(f"{first}\n[dim]{escape(where)}[/]")


def _applied(seen: Overview) -> int:
    return 0 if seen.states is None else sum(sum(s.applied.values()) for s in seen.states.partitions)


def _behind(seen: Overview) -> int:
    return 0 if seen.states is None else sum(sum(seen.lag(s).values()) for s in seen.states.partitions)


def _name(member: Member) -> str:
    """What tells a member from the others: what Kafka has put behind the name of its client."""
    return member.id.removeprefix(member.client + "-")[:8]


def _workers(seen: Overview) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold")
    for title in ("worker", "host", "client", "reads"):
        table.add_column(title)
    assert seen.logs is not None
    assert seen.logs.group is not None
    for member in seen.logs.group.members:
        reads = numbered(member.numbers) if member.numbers else "[dim]nothing[/]"
        table.add_row(_name(member), escape(member.host), escape(member.client), reads)
    return table


def _partitions(seen: Overview, rows: int) -> Table:
    assert seen.states is not None
    inputs = seen.settings.kafka.inputs
    stored = seen.states.partitions
    group = seen.logs.group if seen.logs is not None else None
    readers = {n: _name(m) for m in group.members for n in m.numbers} if group is not None else {}
    lags = {s.number: seen.lag(s) for s in stored}
    columns: list[tuple[str, Any]] = [
        ("partition", lambda s: str(s.number)),
        ("worker", lambda s: readers.get(s.number, "[red]nobody[/]") if group is not None else "?"),
        ("clock", _clock),
    ]
    if seen.logs is not None:
        columns.append(("behind", lambda s: _many(sum(lags[s.number].values()))))
        if len(inputs) > 1 and any(any(lag.values()) for lag in lags.values()):
            columns.append(("on", lambda s: ", ".join(f"{t} {n:,}" for t, n in lags[s.number].items() if n)))
    columns += [
        ("customers", lambda s: f"{s.customers:,}"),
        ("timers", lambda s: f"{s.timers:,}"),
        ("due", lambda s: _many(s.due)),
        ("outbox", lambda s: _many(s.waiting)),
    ]
    if any(s.due for s in stored):
        columns.append(("overdue", lambda s: _since(seen.reference(s), s.oldest_due) if s.due else ""))
    if any(s.waiting for s in stored):
        columns.append(("waits", lambda s: _since(seen.at, s.waiting_since) if s.waiting else ""))
    if any(s.parked for s in stored):
        columns.append(("parked", lambda s: _many(s.parked)))
    table = Table(box=None, pad_edge=False, header_style="bold", show_footer=len(stored) > 1)
    totals = {
        "partition": "all",
        "behind": f"{sum(sum(lag.values()) for lag in lags.values()):,}",
        "customers": f"{sum(s.customers for s in stored):,}",
        "timers": f"{sum(s.timers for s in stored):,}",
        "due": f"{sum(s.due for s in stored):,}",
        "outbox": f"{sum(s.waiting for s in stored):,}",
        "parked": f"{sum(s.parked for s in stored):,}",
    }
    for title, _ in columns:
        left = title in {"worker", "clock", "on"}
        table.add_column(
            title,
            totals.get(title, ""),
            justify="left" if left else "right",
            no_wrap=True,
            footer_style="bold",
        )
    shown = sorted(stored, key=lambda s: (-sum(lags[s.number].values()) - s.waiting - s.due, s.number))[:rows]
    for s in sorted(shown, key=lambda s: s.number):
        table.add_row(*(cell(s) for _, cell in columns))
    return table


def _score(seen: Overview) -> str:
    """What decides, in words; while labels are few, how many there are and until when."""
    from agents.snapshots import gate  # noqa: PLC0415 -- as above

    deciding = seen.deciding
    if deciding is None:
        version = escape(seen.settings.prior.version)
        if not seen.settings.learning.enabled:
            return f"statistical, by the prior {version}: learning is off"
        days, minutes = seen.settings.policy.horizon_days, seen.settings.learning.publish_seconds / 60
        return (
            f"statistical, by the prior {version}: not enough data to have learned from yet. Labels mature {days:g} days "
            f"after a customer was looked at; the first snapshot is there {minutes:g} minutes later, where a trainer runs"
        )
    said = f"{deciding.source}, {escape(deciding.promoted)} of snapshot {escape(deciding.version)}"
    if seen.logs is not None and seen.logs.learned.pinned is deciding:
        said += ", which is pinned"
    if not deciding.leading.gate.open:
        said += f"; not enough labels for a learned one: the gate is {gate(deciding.leading.gate)}"
    return said


def _clock(stored: Stored) -> str:
    if stored.unreadable:
        return "[red]unreadable[/]"
    if stored.state is None or not stored.state.clock:
        return "[dim]not yet[/]"
    return rfc3339(stored.state.clock)[:19].replace("T", " ")


def _many(number: int) -> str:
    return f"[yellow]{number:,}[/]" if number else "[dim]0[/]"


def _since(now: int, then: int) -> str:
    return lasting(max(0, now - then) / SECOND)


def _foot(seen: Overview, rows: int) -> Text:
    lines = []
    states, logs = seen.states, seen.logs
    if states is not None and len(states.partitions) > rows:
        lines.append(
            f"[dim]{len(states.partitions) - rows} partitions with less to do are not shown; --json has all.[/]"
        )
    if states is not None and states.layout is not None:
        score = f"score  {_score(seen)}"
        if logs is not None and logs.newest_alert is not None:
            alert = logs.newest_alert
            versions = alert.versions
            score += f"; the newest alert was decided by policy {escape(versions.get('policy', '?'))}"
            model = versions.get("model", "?")
            if model not in {seen.settings.prior.version, *(s.version for s in logs.learned.snapshots)}:
                score += (
                    f" and model {escape(model)}: other settings than these, or a snapshot that is deleted"
                )
        lines.append(score)
    if logs is not None and logs.newest_alert is not None:
        alert = logs.newest_alert
        when = rfc3339(alert.at)[:19].replace("T", " ")
        lines.append(f"alerts  the newest is {escape(alert.what)} of {escape(alert.who)}, decided {when}")
    if logs is not None and not logs.letters:
        lines.append("dead letters  none")
    return Text.from_markup("\n".join(lines))
