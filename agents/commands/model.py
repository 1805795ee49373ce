"""``churnwatch model``: what was learned, what decides, and deciding otherwise."""

from __future__ import annotations

import sys
import time
from typing import Annotated, Any

import msgspec
import typer
from rich.markup import escape
from rich.table import Table

from agents import snapshots
from agents.commands.kafka import Broker
from agents.commands.shell import Code, Failure, Shell, examples, instant, shell
from agents.send import Outgoing, Sender, SendError
from features.customer import FEATURES
from models.snapshot import CHAMPION, PIN, Book, Horizon, Known, Snapshot, encode_pin
from streams.topics import MODELS

SHOWN = 20

EPILOG_LIST = examples(
    "churnwatch model list               the newest snapshots, and which one decides",
    "churnwatch model list --json        all of them, one object a line",
)
EPILOG_SHOW = examples(
    "churnwatch model show                                    the one that decides",
    "churnwatch model show 20260301T0930                      the one whose name begins so",
    "churnwatch model show --json | jq .horizons[0].figures   the document itself",
)
EPILOG_DIFF = examples("churnwatch model diff 20260301T093000-6b1f 20260308T093000-02ac    what has changed")
EPILOG_PIN = examples("churnwatch model pin 20260301T093000-6b1f    this one decides, whatever is learned")
EPILOG_UNPIN = examples("churnwatch model unpin    the newest decides again")
EPILOG_ROLLBACK = examples(
    "churnwatch model rollback                      to the one before the one that decides",
    "churnwatch model rollback --before 2026-03-01  to the newest of labels until then",
    "churnwatch model rollback --before 7d --dry-run",
)

Version = Annotated[
    str, typer.Argument(metavar="VERSION", help="Its name, or how its name begins.", show_default=False)
]
AsJson = Annotated[bool, typer.Option("--json", help="For a program.")]


def list_(
    context: typer.Context,
    limit: Annotated[int, typer.Option(min=1, help="The newest so many.")] = SHOWN,
    as_json: Annotated[bool, typer.Option("--json", help="All of them, one object a line.")] = False,
) -> None:
    """List the snapshots in the topic models, newest first."""
    call = shell(context)
    book = _read(call)
    known = book.known()
    deciding = known.newest()
    rows = [
        {
            **snapshots.summary(snapshot),
            "decides": snapshot is deciding,
            "pinned": snapshot is known.pinned,
            "usable": _usable(call, snapshot) is None,
        }
        for snapshot in _all(known)
    ]
    if as_json:
        for row in rows:
            sys.stdout.write(msgspec.json.encode(row).decode() + "\n")
        return
    if not rows:
        call.out.print("Nothing was learned yet: the prior of the settings decides.")
    else:
        table = Table(box=None, header_style="dim", pad_edge=False)
        for title in ("version", "newest label", "decides by", "labels", "log-loss", "AUC", ""):
            table.add_column(title, justify="right" if title in {"labels", "log-loss", "AUC"} else "left")
        for row in rows[:limit]:
            marks = [
                "pinned" if row["pinned"] else "",
                "decides" if row["decides"] else "",
                "" if row["usable"] else "not for these settings",
            ]
            table.add_row(
                row["version"],
                row["effective"][:16].replace("T", " "),
                f"{row['model']} ({row['source']})",
                f"{row['labels']:,}",
                _figure(row.get("log_loss")),
                _figure(row.get("auc")),
                ", ".join(mark for mark in marks if mark),
            )
        call.out.print(table)
        if len(rows) > limit:
            call.out.print(f"[dim]{len(rows) - limit:,} more: --limit {len(rows)}[/]")
    for why, n in book.refused.items():
        call.err.print(f"Not listed, {n}: {why}", markup=False)


def show(
    context: typer.Context,
    version: Annotated[
        str | None,
        typer.Argument(
            metavar="[VERSION]", help="Its name, or how it begins; the one that decides.", show_default=False
        ),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Show one snapshot: who decides and why, the gate, figures, calibration, drift, what was learned."""
    call = shell(context)
    known = _read(call).known()
    snapshot = known.newest() if version is None else _one(known, version)
    if snapshot is None:
        raise Failure(
            Code.NOT_FOUND,
            "Not enough data to have learned anything: the prior of the settings decides.",
            f"A label matures {call.settings.policy.horizon_days:g} days after a customer was looked at; of each outcome "
            f"{call.settings.learning.gate:,} are needed before a learned score decides (learning.gate).",
            "Does a trainer run (churnwatch trainer)? docs/learning.md says what to look at.",
        )
    if as_json:
        sys.stdout.write(msgspec.json.encode(snapshot).decode() + "\n")
        return
    out = call.out
    out.print(f"[bold]{escape(snapshot.version)}[/]", soft_wrap=True)
    if known.pinned is snapshot:
        out.print("pinned: it decides until churnwatch model unpin")
    elif known.newest() is snapshot:
        out.print("decides")
    why = _usable(call, snapshot)
    if why is not None:
        out.print(f"[yellow]not for these settings: {escape(why)}[/]")
    out.print(f"[dim]newest label[/]  {snapshots.minute(snapshot.effective)} UTC")
    out.print(f"[dim]score source[/]  {snapshot.source}")
    rates = snapshot.purchase_rate
    out.print(
        f"[dim]purchase rate[/] r {rates.r:.4g}, alpha {rates.alpha:.4g} days, a {rates.a:.4g}, b {rates.b:.4g}"
    )
    for horizon in snapshot.horizons:
        _show_horizon(call, horizon, leading=horizon is snapshot.leading)


def _show_horizon(call: Shell, horizon: Horizon, *, leading: bool) -> None:
    out = call.out
    out.print()
    out.print(
        f"[bold]Horizon {horizon.days:g} days[/]{', leading' if leading else ''}: {horizon.labels:,} labels learned"
    )
    promoted = horizon.promoted
    since = f", since {snapshots.day(promoted.since)}" if promoted.since else ""
    out.print(f"[dim]decides[/]  {promoted.model}{since}: {escape(promoted.why)}")
    out.print(f"[dim]gate[/]     {snapshots.gate(horizon.gate)}")
    table = Table(box=None, header_style="dim", pad_edge=False)
    for title in ("model", "log-loss", "AUC", "Brier", "expected", "happened", "labels", "since"):
        table.add_column(title, justify="left" if title in {"model", "since"} else "right")
    best = min((f.log_loss for f in horizon.figures if f.log_loss is not None), default=None)
    for f in horizon.figures:
        mark = " *" if f.model == promoted.model else ""
        loss = _figure(f.log_loss)
        table.add_row(
            f.model + mark,
            f"[bold]{loss}[/]" if f.log_loss is not None and f.log_loss == best else loss,
            _figure(f.auc),
            _figure(f.brier),
            _figure(f.expected, 3),
            _figure(f.happened, 3),
            f"{f.labels:,}",
            snapshots.day(f.since),
        )
    out.print(table)
    out.print("[dim]* decides; each label was foretold before it was learned[/]")
    _show_reliability(call, horizon)
    for drift in horizon.drift:
        out.print(
            f"[yellow]moved[/] {snapshots.day(drift.at)}  {drift.what}: {drift.before:.4g} before, {drift.after:.4g} after"
        )
    for promotion in horizon.promotions:
        out.print(
            f"[dim]promoted {snapshots.day(promotion.since)}[/]  {promotion.model}: {escape(promotion.why)}"
        )
    _show_curves(call, horizon)


def _show_reliability(call: Shell, horizon: Horizon) -> None:
    if not any(band.labels for band in horizon.reliability):
        return
    table = Table(box=None, header_style="dim", pad_edge=False)
    for title in ("stated from", "labels", "mean stated", "churned"):
        table.add_column(title, justify="right")
    for band in horizon.reliability:
        if band.labels:
            table.add_row(
                f"{band.above:.1f}", f"{band.labels:,}", _figure(band.stated, 3), _figure(band.churned, 3)
            )
    call.out.print(table)
    learned = horizon.models.get(CHAMPION)
    if learned is not None:
        c = learned.calibration
        applied = (c.scale, c.shift) != (1.0, 0.0)
        said = (
            f"log-odds times {c.scale:.3f} {c.shift:+.3f}, which gains {c.gain:.4f} a label"
            if applied
            else "none: it would not lower the log-loss"
        )
        call.out.print(f"[dim]repair of {CHAMPION}[/]  {said}")


def _show_curves(call: Shell, horizon: Horizon) -> None:
    found = snapshots.curves(horizon)
    if not found:
        return
    table = Table(box=None, header_style="dim", pad_edge=False)
    for title in ("what was learned of", "group", "from", "log-odds of churn", "to", "lowest", "highest"):
        table.add_column(title, justify="right" if title in {"from", "lowest", "highest"} else "left")
    for curve in found:
        table.add_row(
            curve.name,
            curve.group,
            f"{curve.low:.4g}",
            curve.drawn,
            f"{curve.high:.4g}",
            f"{curve.lowest:+.2f}",
            f"{curve.highest:+.2f}",
        )
    call.out.print(table)


def diff(context: typer.Context, one: Version, other: Version, as_json: AsJson = False) -> None:
    """Show in what two snapshots differ."""
    call = shell(context)
    known = _read(call).known()
    found = snapshots.differences(_one(known, one), _one(known, other))
    if as_json:
        for change in found:
            sys.stdout.write(msgspec.json.encode(change._asdict()).decode() + "\n")
        return
    if not found:
        call.out.print("No difference.")
        return
    table = Table(box=None, header_style="dim", pad_edge=False)
    for title in ("", one, other):
        table.add_column(title, justify="left" if not title else "right")
    for change in found:
        table.add_row(escape(change.what), escape(change.before), escape(change.after))
    call.out.print(table)


def pin(context: typer.Context, version: Version) -> None:
    """Let one snapshot decide, in every worker and without a restart, until it is unpinned.

    The trainer goes on learning and publishing.
    """
    call = shell(context)
    known = _read(call).known()
    _pin(call, _one(known, version))


def unpin(context: typer.Context) -> None:
    """Let the newest snapshot decide again."""
    call = shell(context)
    known = _read(call).known()
    if known.pinned is None:
        call.out.print("Nothing is pinned: the newest snapshot decides.")
        return
    _write(call, None)
    call.out.print(f"{known.pinned.version} is pinned no more: the newest snapshot decides.", markup=False)


def rollback(
    context: typer.Context,
    before: Annotated[
        str | None,
        typer.Option(help="The newest with labels until then: 2026-01-31, 7d, 12h.", show_default=False),
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say which it would be.")] = False,
) -> None:
    """Pin the snapshot before the one that decides; again, the one before that."""
    call = shell(context)
    known = _read(call).known()
    deciding = known.newest()
    until = None if before is None else instant(before)
    found = None
    if deciding is not None:
        usable = [s for s in known.snapshots if _usable(call, s) is None]
        found = snapshots.before(usable, deciding, until)
    if found is None:
        raise Failure(
            Code.NOT_FOUND,
            "There is no snapshot to go back to.",
            "None is older than the one that decides."
            if before is None
            else f"None has only labels until {before}.",
            "churnwatch model list shows which there are; learning.keep says how many stay.",
        )
    if dry_run:
        call.out.print(f"{found.version} would be pinned; nothing was.", markup=False)
        return
    _pin(call, found)


def _pin(call: Shell, snapshot: Snapshot) -> None:
    why = _usable(call, snapshot)
    if why is not None:
        raise Failure(
            Code.USAGE,
            f"{snapshot.version} cannot decide here.",
            why,
            "Choose another (churnwatch model list).",
        )
    _write(call, encode_pin(snapshot, time.time_ns() // 1000))
    call.out.print(
        f"{snapshot.version} is pinned: it decides in every worker until churnwatch model unpin.",
        markup=False,
    )


def _write(call: Shell, value: bytes | None) -> None:
    kafka = call.settings.kafka
    try:
        sender = Sender(kafka)
        sender.send(Outgoing(kafka.topic(MODELS), None, PIN, value))
        sender.flush()
    except SendError as e:
        raise Failure(
            Code.KAFKA, "The pin was not written.", str(e), "Nothing has changed; try again."
        ) from e


def _read(call: Shell) -> Book:
    """What ``models`` holds. Raises :class:`Failure`."""
    broker = Broker(call.settings.kafka)
    book = Book()
    with broker.explained():
        for message in broker.read(call.settings.kafka.topic(MODELS)):
            book.take(message.key(), message.value())
    return book


def _all(known: Known) -> list[Snapshot]:
    """Newest first, a pinned one that was deleted meanwhile included."""
    found = list(known.snapshots)
    if known.pinned is not None:
        found = [known.pinned if s.version == known.pinned.version else s for s in found]
        if known.pinned not in found:
            found.append(known.pinned)
    return found[::-1]


def _one(known: Known, version: str) -> Snapshot:
    """The one whose name begins so. Raises :class:`Failure`."""
    found = [s for s in _all(known) if s.version.startswith(version)]
    exact = [s for s in found if s.version == version]
    if len(found) == 1 or exact:
        return (exact or found)[0]
    if not found:
        raise Failure(
            Code.NOT_FOUND,
            f"There is no snapshot {version}.",
            "It may have been deleted: learning.keep says how many stay.",
            "churnwatch model list shows which there are.",
        )
    some = ", ".join(s.version for s in found[:3])
    raise Failure(
        Code.USAGE, f"{len(found)} snapshots begin with {version}.", f"{some}, ...", "Write more of its name."
    )


def _usable(call: Shell, snapshot: Snapshot) -> str | None:
    """Why the workers of these settings cannot use it, or None."""
    book = Book(call.settings.policy.horizon_days, FEATURES)
    return book.refusal(snapshot)


def _figure(value: Any, digits: int = 4) -> str:
    return "-" if value is None else f"{value:.{digits}f}"
