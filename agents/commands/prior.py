"""``churnwatch prior``: snapshot 0 out of a file of orders."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import date, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Annotated
from zoneinfo import ZoneInfo

import msgspec
import typer
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

from agents.commands.shell import Code, Failure, Shell, examples, instant, shell
from agents.commands.write import new_file
from agents.files import Entry, FileError, Reading, Refusal
from features.shop import Calendar
from models.snapshot import Prior

if TYPE_CHECKING:
    from agents.prior import Backtest, Estimate

EPILOG = examples(
    "churnwatch prior orders.csv                        estimate, and print the section",
    "churnwatch prior orders.csv >> churnwatch.toml     into the settings, if they have no [prior] yet",
    "churnwatch prior orders.csv --output prior.toml    into a file of its own",
    "churnwatch --set policy.horizon_days=90 prior orders.csv   how well it would foretell 90 days",
    "churnwatch prior archive.ndjson.gz --until 2026-06-30      if the silence after the last order counts to then",
)
SHOWN = 3
"""Refusals that are shown."""
UNTOLD = tuple(
    name
    for name in Prior.__struct_fields__
    if name not in {"version", "gap_days", "spread", "strength", "defect_a", "defect_b"}
)
"""What orders say nothing about."""


def prior(
    context: typer.Context,
    file: Annotated[
        Path,
        typer.Argument(
            help="Orders: CSV, NDJSON or Parquet, also gzipped.", show_default=False, allow_dash=True
        ),
    ],
    output: Annotated[
        Path | None, typer.Option(help="Write the section there, not to standard output.", show_default=False)
    ] = None,
    until: Annotated[
        str | None, typer.Option(metavar="TIME", help="The file is complete to then; else to its last event.")
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Write over a file that is there.")] = False,
    as_json: Annotated[
        bool, typer.Option("--json", help="One object with all that was found, no section.")
    ] = False,
) -> None:
    """Estimate the rhythm of your customers from your own orders, as settings.

    What is usual in your shop: how long customers who come again let pass, how
    that varies, how many leave after a purchase. Every customer's score begins
    from it. It tells what it found, checks itself on the end of the file, and
    refuses where there is too little. What is estimated and how: docs/score.md.
    """
    call = shell(context)
    settings = call.settings
    from agents import prior as estimation  # noqa: PLC0415 -- numpy takes its time

    calendar = Calendar(settings.shop)
    reading = Reading(call.codec(), ZoneInfo(settings.shop.time_zone), ordered=False)
    refused: list[Refusal] = []
    try:
        with _progress(call, file) as tell:
            purchases = estimation.gather(file, reading, calendar, refused.append, tell)
    except FileError as e:
        raise Failure(Code.INPUT, "The file cannot be read.", str(e)) from e
    for refusal in refused[:SHOWN]:
        call.err.print(f"line {refusal.line}: {refusal.reason}", markup=False)
    if len(refused) > SHOWN:
        rows = sum(refusal.rows for refusal in refused)
        call.err.print(
            f"and more: {rows:,} rows refused. See them with: churnwatch send --dry-run {file}", markup=False
        )
    if until is not None:
        end = calendar.day(instant(until))
        if end < purchases.last:
            raise typer.BadParameter(f"--until {until}: the file goes on to {_day(purchases.last)}")
        purchases = purchases._replace(last=end)
    try:
        with call.err.status("Estimating ..."):
            found = estimation.estimate(purchases)
            check = estimation.backtest(purchases, settings.policy.horizon_days)
    except estimation.TooLittle as e:
        raise Failure(
            Code.INPUT,
            "The file holds too little to estimate from:",
            "\n".join(f"  {line}" for line in e.missing),
            "Take a longer one, or one with more customers; until then the defaults hold.",
        ) from e
    if as_json:
        sys.stdout.write(msgspec.json.encode(_plain(found, check)).decode() + "\n")
        return
    for line in _report(found, check, settings.policy.horizon_days):
        call.err.print(line, markup=False)
    section = _section(found)
    if output is None:
        sys.stdout.write(section)
        return
    with new_file(output, force=force) as stream:
        stream.write(section.encode())
    call.err.print(f"Wrote {output}: a section to put into your settings file.", markup=False)


def _report(found: Estimate, check: Backtest | None, horizon: float) -> Iterator[str]:
    basis, prior = found.basis, found.prior
    drawn = (
        f"; {basis.used:,} purchase days of customers drawn from them were used"
        if basis.used < _days(found)
        else ""
    )
    yield (
        f"{basis.customers:,} customers bought from {_day(basis.first)} to {_day(basis.last)}, {basis.once:,} of them "
        f"({basis.once / basis.customers:.0%}) on one day only; {basis.gaps:,} gaps between purchase days{drawn}."
    )
    yield ""
    for name, value, meaning in (
        (
            "gap_days",
            prior.gap_days,
            f"median days to the next purchase; of the gaps seen so far it is {basis.seen_median:g}",
        ),
        ("spread", prior.spread, "deviation of their logarithm"),
        ("strength", prior.strength, "gaps of a customer's own that weigh as much as the shop's"),
        (
            "leaves",
            found.leaves,
            "leave for good after their first purchase: defect_a / (defect_a + defect_b)",
        ),
    ):
        low, high = found.intervals[name]
        shown = (
            f"{value:.1%}  ({low:.1%} to {high:.1%})"
            if name == "leaves"
            else f"{value:.4g}  ({low:.3g} to {high:.3g})"
        )
        yield f"  {name:<9} {shown:<28} {meaning}"
    yield "  (in brackets the 95 % interval)"
    yield ""
    if check is None:
        yield f"Not checked: the file is too short to hold back {horizon:g} days of it."
    else:
        yield (
            f"Checked: estimated from the file up to {_day(check.day)} only, it expects {check.expected[1]:.1%} of the "
            f"{check.customers:,} customers to buy nothing in the next {check.horizon} days; the defaults expect "
            f"{check.expected[0]:.1%}; {check.happened:.1%} did. Log-loss {check.log_loss[1]:.4f}, of the defaults "
            f"{check.log_loss[0]:.4f} (less is better)."
        )
        if check.log_loss[1] >= check.log_loss[0]:
            yield "That is no better than the defaults: keep them, or give it more of your history."
    if prior.gap_days > 1.5 * horizon:
        yield (
            f"Half of those who come again take longer than {prior.gap_days:.0f} days. Warnings for the next "
            f"{horizon:g} days (policy.horizon_days) will mostly be about customers who are only slow; "
            f"{round(prior.gap_days, -1):.0f} days or more would fit this shop."
        )
    yield "Orders say nothing about complaints, browsing, surveys and goodbyes: those weights stay at their defaults."
    yield ""


def _days(found: Estimate) -> int:
    return found.basis.gaps + found.basis.customers


def _section(found: Estimate) -> str:
    basis, prior = found.basis, found.prior
    told = f"{basis.customers:,} customers and {basis.gaps:,} gaps, {_day(basis.first)} to {_day(basis.last)}"
    lines = [
        f"# Estimated by `churnwatch prior` from {told}.",
        "[prior]",
        f'version = "{prior.version}"',
        f"gap_days = {prior.gap_days}",
        f"spread = {prior.spread}",
        f"strength = {prior.strength}",
        f"defect_a = {prior.defect_a}",
        f"defect_b = {prior.defect_b}",
        "# Orders say nothing about these; their defaults hold:",
        *(f"# {name} = {getattr(prior, name)}" for name in UNTOLD),
    ]
    return "\n".join(lines) + "\n"


def _plain(found: Estimate, check: Backtest | None) -> dict[str, object]:
    basis, prior = found.basis, found.prior
    told: dict[str, object] = {
        "prior": {name: value for name, value in msgspec.to_builtins(prior).items() if name not in UNTOLD},
        "leaves": round(found.leaves, 6),
        "intervals": {name: [round(low, 6), round(high, 6)] for name, (low, high) in found.intervals.items()},
        "defaults": list(UNTOLD),
        "customers": basis.customers,
        "bought_once": basis.once,
        "gaps": basis.gaps,
        "used": basis.used,
        "from": _day(basis.first),
        "to": _day(basis.last),
    }
    if check is not None:
        told["check"] = {
            "day": _day(check.day),
            "horizon_days": check.horizon,
            "customers": check.customers,
            "happened": round(check.happened, 6),
            "expected": {"defaults": round(check.expected[0], 6), "estimate": round(check.expected[1], 6)},
            "log_loss": {"defaults": round(check.log_loss[0], 6), "estimate": round(check.log_loss[1], 6)},
        }
    return told


def _day(day: int) -> str:
    return (date(1970, 1, 1) + timedelta(days=day)).isoformat()


@contextmanager
def _progress(call: Shell, file: Path) -> Iterator[Callable[[Entry], None]]:
    """How much has been read, on a terminal; on standard error."""
    if not call.err.is_terminal:
        yield lambda _: None
        return
    columns = (
        TextColumn(f"Reading {file.name}"),
        BarColumn(),
        TextColumn("{task.completed:,} events"),
        TimeElapsedColumn(),
    )
    with Progress(*columns, console=call.err, transient=True) as bar:
        task = bar.add_task("", total=None)
        read = 0

        def tell(_: Entry) -> None:
            nonlocal read
            read += 1
            if read % 1000 == 0:
                bar.update(task, completed=read)

        yield tell
