"""``churnwatch backtest``: a shop's own history, and what churnwatch would have said about it."""

from __future__ import annotations

import gc
import re
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import date
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal
from zoneinfo import ZoneInfo

import msgspec
import typer
from rich.box import SIMPLE_HEAD
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn
from rich.table import Table

from agents.commands.shell import Code, Failure, Shell, examples, shell
from agents.commands.write import write_file
from agents.files import FileError, Reading, Refusal, extent, read
from agents.settings import Settings
from features.shop import DAY, Calendar

if TYPE_CHECKING:
    from agents.backtest.horizon import Suggestion
    from agents.backtest.run import Asked, Found

EPILOG = examples(
    "churnwatch backtest orders.csv                         28 days, a cut-off every 28, into ./backtest",
    "churnwatch backtest orders.csv --suggest-horizon       which horizon fits this shop",
    "churnwatch backtest orders.csv --horizon 12w --from 2026-01-01 --out last-year",
    "churnwatch backtest shop.ndjson.gz --json              the figures only, to standard output",
    "churnwatch backtest orders.parquet --compare lightgbm  beside a model refitted at every cut-off",
    "churnwatch --set policy.medium=0.5 backtest orders.csv   with other thresholds",
)
SHOWN = 3
"""Refusals that are shown."""
GC_THRESHOLDS = 200_000, 20, 100
"""As the worker has them: a quarter of the time goes into collecting garbage at Python's own."""
_LONG = re.compile(r"(\d+)\s*([dw]?)")


def backtest(
    context: typer.Context,
    events: Annotated[
        Path, typer.Argument(help="The history: CSV, NDJSON or Parquet, also gzipped.", show_default=False)
    ],
    horizon: Annotated[
        str | None,
        typer.Option(
            metavar="DAYS",
            help="28d, 12w: churned is who buys nothing for so long; else policy.horizon_days.",
        ),
    ] = None,
    every: Annotated[str, typer.Option(metavar="DAYS", help="Between two cut-offs.")] = "28d",
    start: Annotated[
        str | None,
        typer.Option(
            "--from",
            metavar="DATE",
            help="The first cut-off; else the middle of the file.",
            show_default=False,
        ),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(help="A folder for report.json and report.html; else ./backtest.", show_default=False),
    ] = None,
    compare: Annotated[
        Literal["lightgbm"] | None,
        typer.Option(help="Beside a LightGBM that is refitted at every cut-off; takes minutes."),
    ] = None,
    suggest_horizon: Annotated[
        bool,
        typer.Option(
            "--suggest-horizon", help="Only look at the gaps between purchases, and propose a horizon."
        ),
    ] = False,
    as_json: Annotated[
        bool, typer.Option("--json", help="report.json to standard output; no folder unless --out names one.")
    ] = False,
    force: Annotated[bool, typer.Option("--force", help="Write over reports that are there.")] = False,
) -> None:
    """Replay your own history, and see what churnwatch would have said, and how often it was right.

    No servers: the same engine as the worker's reads the file day by day, learns
    from each label when its horizon has passed, and states what it expects at
    every cut-off. Nothing is known at a cut-off that came after it. How to read
    the report: docs/backtest.md.
    """
    call = shell(context)
    days, step = whole_days(horizon, call.settings.policy.horizon_days), whole_days(every, 28)
    first = None if start is None else _date(start)
    codec = call.codec()
    reading = Reading(codec, ZoneInfo(call.settings.shop.time_zone))
    if suggest_horizon:
        _suggest(call, events, reading, as_json=as_json)
        return
    folder = out or (None if as_json else Path("backtest"))
    files = [] if folder is None else [folder / "report.json", folder / "report.html"]
    taken = [path for path in files if path.exists()]
    if taken and not force:
        raise Failure(
            Code.USAGE, f"{taken[0]} is there already.", "It was left as it is.", "Choose another --out, or add --force."
        )  # fmt: skip
    from agents.backtest.page import page  # noqa: PLC0415 -- numpy, river and the plots take their time
    from agents.backtest.report import report  # noqa: PLC0415
    from agents.backtest.run import Asked, replayed  # noqa: PLC0415

    found = history(call, events, reading, replayed(call.settings, days), Asked(days, step, first), compare)
    document = report(found, events.name)
    encoded = msgspec.json.format(msgspec.json.encode(document), indent=2) + b"\n"
    if folder is not None:
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as e:
            raise Failure(
                Code.INPUT,
                f"Cannot make the folder {folder}.",
                f"{e.strerror or e}.",
                "Name another with --out.",
            ) from e
        write_file(files[0], encoded, force=force)
        write_file(files[1], page(found, document).encode(), force=force)
    if as_json:
        sys.stdout.buffer.write(encoded)
        sys.stdout.flush()
        return
    _show(call, document)
    call.out.print(f"\nWrote {files[0]} and {files[1]}: open the second in a browser.", markup=False)


def history(
    call: Shell,
    events: Path,
    reading: Reading,
    settings: Settings,
    asked: Asked,
    compare: str | None = None,
    what: str = "",
) -> Found:
    """The backtest of a file under settings that were made for it (``run.replayed``), with a bar that says ``what``.

    Raises :class:`Failure`.
    """
    from agents.backtest.lessons import Lessons  # noqa: PLC0415
    from agents.backtest.lightgbm import MissingPackage  # noqa: PLC0415
    from agents.backtest.run import NotEnough, Reached, run  # noqa: PLC0415

    refused: list[Refusal] = []
    try:
        lessons = Lessons(settings, compare)
    except MissingPackage as e:
        raise Failure(
            Code.USAGE,
            str(e),
            "--compare fits it anew at every cut-off; nothing else needs it.",
            "Install it beside churnwatch: pip install 'lightgbm>=4.6,<5'; in a clone, make install brings it.",
        ) from e
    before = gc.get_threshold()
    gc.set_threshold(*GC_THRESHOLDS)
    try:
        span = extent(events, reading)
        if span is None:
            raise NotEnough(["no event; it takes some months of orders"])
        with _progress(call, span, what) as tell:

            def reached(now: Reached) -> None:
                tell(now.day, now.events)

            found = run(
                read(events, reading, refused.append),
                span,
                reading.codec,
                settings,
                asked,
                lessons,
                reached,
            )
    except FileError as e:
        raise Failure(Code.INPUT, "The file cannot be replayed.", str(e)) from e
    except NotEnough as e:
        _tell_refused(call, events, refused)
        raise Failure(
            Code.INPUT,
            "Not enough data. It has:",
            "\n".join(f"  {line}" for line in e.missing),
            "Take a longer history, or a shorter --horizon (churnwatch backtest FILE --suggest-horizon).",
        ) from e
    finally:
        gc.set_threshold(*before)
    _tell_refused(call, events, refused)
    return found


def _tell_refused(call: Shell, events: Path, refused: Sequence[Refusal]) -> None:
    for refusal in refused[:SHOWN]:
        call.err.print(f"line {refusal.line}: {refusal.reason}", markup=False)
    if len(refused) > SHOWN:
        rows = sum(refusal.rows for refusal in refused)
        call.err.print(
            f"and more: {rows:,} rows refused. See them with: churnwatch send --dry-run {events}",
            markup=False,
        )


def _suggest(call: Shell, events: Path, reading: Reading, *, as_json: bool) -> None:
    from agents import prior  # noqa: PLC0415
    from agents.backtest.horizon import suggest  # noqa: PLC0415

    refused: list[Refusal] = []
    try:
        with call.err.status("Reading ..."):
            bought = prior.gather(events, reading, Calendar(call.settings.shop), refused.append)
            found = suggest(bought)
    except FileError as e:
        raise Failure(Code.INPUT, "The file cannot be read.", str(e)) from e
    except prior.TooLittle as e:
        raise Failure(
            Code.INPUT,
            "Not enough data to propose a horizon. It has:",
            "\n".join(f"  {line}" for line in e.missing),
            "Take a longer history; until then choose a horizon yourself (docs/backtest.md).",
        ) from e
    _tell_refused(call, events, refused)
    if as_json:
        sys.stdout.write(msgspec.json.encode(_plain(found)).decode() + "\n")
        return
    for line in _suggested(found):
        call.out.print(line, markup=False)


def _plain(found: Suggestion) -> dict[str, object]:
    return {
        "horizon_days": found.days,
        "rule": found.rule,
        "gaps": found.gaps,
        "waiting": found.waiting,
        "returns": round(found.returns, 6),
        "within_days": {f"{share:g}": days for share, days in found.within.items()},
        "weeks": [round(share, 6) for share in found.weeks],
    }


def _suggested(found: Suggestion) -> Iterator[str]:
    yield f"Proposed horizon: {found.days} days ({found.days // 7} weeks)."
    yield ""
    yield (
        f"{found.gaps:,} gaps between purchase days were seen to their end, {found.waiting:,} silences are cut off by "
        f"the end of the file; sooner or later {found.returns:.0%} of purchase days are followed by another. Of these"
    )
    for share, days in found.within.items():
        yield f"  {share:>4.0%} within {days:>4} days"
    yield ""
    most = max(found.weeks)
    for week, share in enumerate(found.weeks[:-1], 1):
        bar = "█" * round(40 * share / most)
        mark = "  ◄ horizon" if week * 7 == found.days else ""
        yield f"  week {week:>2}  {share:>5.1%}  {bar}{mark}"
    yield f"  later    {found.weeks[-1]:>5.1%}  {'█' * round(40 * found.weeks[-1] / most)}"
    yield ""
    yield {
        "share": "The rule: three quarters of those who come again have done so within the horizon, in whole weeks.",
        "least": "The rule: three quarters of those who come again have done so within the horizon, in whole weeks, but "
        "at least four: less is a pause.",
        "span": "The rule: three quarters of those who come again have done so within the horizon; this file is too "
        "short for that, so it is a quarter of its span.",
    }[found.rule]
    yield f"churnwatch backtest FILE --horizon {found.days}d, and policy.horizon_days = {found.days} in the settings."


def _show(call: Shell, document: Mapping[str, Any]) -> None:
    """The figures in short, for a person."""
    history, churn, warnings = document["history"], document["churn"], document["alerts"]
    cutoffs = churn["all"]["cutoffs"]
    call.out.print(
        f"{history['events']:,} events of {history['customers']:,} customers, {history['from']} to {history['to']}; "
        f"{len(cutoffs)} cut-offs, {cutoffs[0]['time']} to {cutoffs[-1]['time']}, horizon {document['horizon_days']} days.",
        markup=False,
    )
    for population, who in (
        ("all", "everyone who has bought"),
        ("active", "who bought within the horizon before"),
    ):
        title = f"{population}: {who}; means over the cut-offs"
        table = Table(title=title, title_justify="left", box=SIMPLE_HEAD, title_style="", pad_edge=False)
        table.add_column("model", no_wrap=True)
        for name in ("AUC", "log-loss", "precision", "Brier", "calibr.", "top tenth"):
            table.add_column(name, justify="right", no_wrap=True)
        for model, of in churn[population]["mean"].items():
            names = (
                "auc",
                "log_loss",
                "average_precision",
                "brier",
                "calibration_error",
                "precision_top_decile",
            )
            table.add_row(model, *("-" if of[name] is None else f"{of[name]:.4f}" for name in names))
        call.out.print(table)
    if warnings["precision"] is None:
        call.out.print("No warning was raised on active customers.")
        return
    call.out.print(
        f"{warnings['warnings']:,} warnings ({warnings['per_1000_customers_a_week']:.1f} a week for 1,000 active "
        f"customers): {warnings['precision']:.0%} right, {warnings['recall']:.0%} of those who left were warned of, half "
        f"of the right ones {warnings['median_lead_days']:g} days or more before the horizon was over.",
        markup=False,
    )
    limit = warnings["silence_limit"]
    if limit is not None:
        call.out.print(
            f"A limit of {limit['days']} days of silence is right as often, {limit['median_lead_days']:g} days before.",
            markup=False,
        )


@contextmanager
def _progress(call: Shell, span: tuple[int, int], what: str) -> Iterator[Callable[[int, int], None]]:
    """A bar on a terminal, nothing elsewhere; on standard error."""
    if not call.err.is_terminal:
        yield lambda _day, _events: None
        return
    columns = (
        TextColumn("{task.description}"), BarColumn(), TaskProgressColumn(), TextColumn("{task.fields[events]:,} events"),
        TextColumn("{task.fields[rate]}"), TimeRemainingColumn(),
    )  # fmt: skip
    first, last = span[0] // DAY, span[1] // DAY
    with Progress(*columns, console=call.err, transient=True) as bar:
        task = bar.add_task(what or "Replaying", total=last - first + 1, events=0, rate="")

        def tell(day: int, events: int) -> None:
            seconds = bar.tasks[0].elapsed or 0.0
            rate = f"{events / seconds:,.0f}/s" if seconds > 1 else ""
            when = f"{what} {_iso(day)}".strip()
            bar.update(task, completed=day - first + 1, events=events, rate=rate, description=when)

        yield tell


def whole_days(text: str | None, default: float) -> int:
    """Whole days of ``28d``, ``12w`` or ``28``."""
    if text is None:
        return max(1, round(default))
    found = _LONG.fullmatch(text.strip())
    days = int(found[1]) * (7 if found[2] == "w" else 1) if found else 0
    if not 1 <= days <= 3650:
        raise typer.BadParameter(f"{text!r} is no number of days: write 28d or 4w, from 1 to 3650 days")
    return days


def _date(text: str) -> int:
    """Days since 1970 of ``2026-01-31``."""
    try:
        return date.fromisoformat(text.strip()).toordinal() - date(1970, 1, 1).toordinal()
    except ValueError:
        raise typer.BadParameter(f"{text!r} is no date: write 2026-01-31") from None


def _iso(day: int) -> str:
    return date.fromordinal(day + date(1970, 1, 1).toordinal()).isoformat()
