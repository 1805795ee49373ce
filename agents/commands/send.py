"""``churnwatch send``: a file to Kafka."""

from __future__ import annotations

import contextlib
import re
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Annotated, Literal, TextIO
from zoneinfo import ZoneInfo

import typer
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from agents import reach
from agents.commands.kafka import Broker
from agents.commands.shell import Code, Failure, Shell, examples, instant, shell
from agents.files import STDIN, Entry, FileError, Reading, Refusal, Refuse, count, read
from agents.send import Outgoing, Route, Sender, SendError, feed
from agents.settings import Settings
from streams.codec import CLOCK_KEY
from streams.events import rfc3339

EPILOG = examples(
    "churnwatch send orders.csv                                a file of purchases and returns, as a replay",
    "churnwatch send --history archive.ndjson.gz               from an archive: teaches, never warns",
    "zcat orders.csv.gz | churnwatch send -                    from standard input",
    "churnwatch send --clock none --rate 500/s today.ndjson    as if it happened now, 500 events a second",
    "churnwatch send --until 2026-03-31 orders.csv             and then silence until the end of March",
    "churnwatch send --dry-run --refused bad.txt orders.csv    only look what would be refused",
)
TELL_EVERY = 5.0

_RATE = re.compile(r"(\d+(?:\.\d+)?)(?:/(s|m|h))?")


def rate(text: str) -> float:
    """Events a second of ``500``, ``500/s``, ``100/m``."""
    found = _RATE.fullmatch(text)
    if found is None or float(found[1]) <= 0:
        raise typer.BadParameter(f"{text!r} is no rate: write 500/s, 100/m or 2000/h")
    return float(found[1]) / {"s": 1, "m": 60, "h": 3600, None: 1}[found[2]]


def send(
    context: typer.Context,
    file: Annotated[
        Path,
        typer.Argument(
            help="CSV, NDJSON or Parquet, also gzipped; - is standard input.",
            show_default=False,
            allow_dash=True,
        ),
    ],
    clock: Annotated[
        Literal["record", "none"],
        typer.Option(
            help="record: tell the clock with the events; the file must be sorted by time. none: only events."
        ),
    ] = "record",
    history: Annotated[
        bool,
        typer.Option(
            "--history", help="Mark everything as history: it is learned from, nothing is delivered."
        ),
    ] = False,
    speed: Annotated[
        float | None,
        typer.Option("--rate", metavar="N/s", parser=rate, help="At most so many events a second."),
    ] = None,
    topic: Annotated[
        str | None, typer.Option(help="Send all events to this input topic, not each to its own.")
    ] = None,
    until: Annotated[
        str | None, typer.Option(metavar="TIME", help="After the last event, tell the clock on to this time.")
    ] = None,
    refused: Annotated[
        Path | None, typer.Option(help="Write what was refused there, not to standard error.")
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Read and check the file, send nothing; needs no Kafka.")
    ] = False,
) -> None:
    """Send the events of a file to Kafka, in the order of time.

    The rows of one order become one event. What cannot be sent is reported with
    its line and the reason; the rest is sent. If the application reads one input
    topic, everything goes there, else each event to its own.
    """
    call = shell(context)
    settings = call.settings
    end = None if until is None else instant(until)
    if end is not None and clock == "none":
        raise typer.BadParameter("--until needs --clock record")
    reading = Reading(
        call.codec(), ZoneInfo(settings.shop.time_zone), ordered=clock == "record", history=history
    )
    tally = Tally()
    sender: Sender | None = None
    with _to(call, refused) as write:
        refuse = tally.refusing(write)
        try:
            if file != STDIN:
                _show(call, f"Reading {file} ...")
            total = count(file, reading)
            entries = tally.reading(read(file, reading, refuse))
            if dry_run:
                for _ in entries:
                    pass
            else:
                route = _route(settings, topic)
                records = feed(
                    entries, route, clock=clock == "record", history=history, until=end, refuse=refuse
                )
                sender = Sender(settings.kafka, pace=tally.pace(speed))
                with _progress(call, tally, total, sender) as tell:
                    _send(sender, records, tell)
        except FileError as e:
            sent = f" {_events(tally.events)} before it had been sent already." if tally.events else ""
            raise Failure(Code.INPUT, "The file cannot be sent.", e.why, e.todo + sent) from e
        except SendError as e:
            advice = reach.kafka(settings.kafka)
            why = f"{e} {advice.why}" if advice else str(e)
            raise Failure(
                Code.KAFKA, "Sending stopped.", why, "What was sent is not taken back; send the file again: "
                "what the workers know already changes nothing."
            ) from e  # fmt: skip
        except KeyboardInterrupt:
            left = 0 if sender is None else sender.leave()
            doubt = f" {left:,} records of them were not acknowledged." if left else ""
            raise Failure(
                Code.INTERRUPTED, f"Stopped: {_events(tally.events)} had been sent of {file}.{doubt}"
            ) from None
    call.out.print(tally.summary(dry_run=dry_run), markup=False)
    if tally.entries == 0 and tally.refused:
        where = "above" if refused is None else f"in {refused}"
        raise Failure(
            Code.INPUT,
            "Nothing was sent." if not dry_run else "Nothing could be sent.",
            f"Every row was refused; the reasons are {where}.",
            "Repair what wrote the file, and try again with --dry-run.",
        )


def _route(settings: Settings, topic: str | None) -> Route:
    inputs = settings.kafka.inputs
    only: str | None = None
    if topic is not None:
        only = next((t for t in inputs if topic in {t, settings.kafka.topic(t)}), None)
        if only is None:
            raise typer.BadParameter(
                f"{topic!r} is no input topic of {settings.application}: {', '.join(inputs)}"
            )
    return Route(Broker(settings.kafka).inputs(inputs), settings.kafka.prefix, only)


def _send(sender: Sender, records: Iterator[Outgoing], tell: Callable[[], None]) -> None:
    for number, record in enumerate(records):
        sender.send(record)
        if number % 500 == 0:
            tell()
    sender.flush(tell)
    tell()


class Tally:
    """What a send has done so far."""

    def __init__(self) -> None:
        self.began = time.monotonic()
        self.entries = 0
        self.line = 0
        self.events = 0
        self.clocks = 0
        self.refused = 0
        self.first: int | None = None
        self.last: int | None = None

    def reading(self, entries: Iterator[Entry]) -> Iterator[Entry]:
        """Counts what is read."""
        for entry in entries:
            self.entries += 1
            self.line = max(self.line, entry.line)
            self.first = entry.at if self.first is None else min(self.first, entry.at)
            self.last = entry.at if self.last is None else max(self.last, entry.at)
            yield entry

    def pace(self, speed: float | None) -> Callable[[Outgoing], None]:
        """Counts what is sent, and waits where there is a rate: clock records do not count for it."""
        begin: float | None = None

        def pace(record: Outgoing) -> None:
            nonlocal begin
            if record.key == CLOCK_KEY:
                self.clocks += 1
                return
            if speed is not None:
                now = time.monotonic()
                begin = now if begin is None else begin
                time.sleep(max(0.0, begin + self.events / speed - now))
            self.events += 1

        return pace

    def refusing(self, write: Callable[[str], None]) -> Refuse:
        """Counts what is refused, and says it."""

        def refuse(refusal: Refusal) -> None:
            self.refused += refusal.rows
            rows = f" ({refusal.rows} rows)" if refusal.rows > 1 else ""
            write(f"line {refusal.line}{rows}: {refusal.reason}")

        return refuse

    def summary(self, *, dry_run: bool) -> str:
        """One or two lines for people."""
        seconds = time.monotonic() - self.began
        span = (
            ""
            if self.first is None or self.last is None
            else f", {rfc3339(self.first)} to {rfc3339(self.last)}"
        )
        if dry_run:
            said = f"{_events(self.entries)} could be sent{span}; nothing was."
        else:
            rate = f" ({self.events / seconds:,.0f} a second)" if seconds > 0 else ""
            clocks = f" and {self.clocks:,} clock records" if self.clocks else ""
            said = f"Sent {_events(self.events)}{clocks} in {seconds:.1f} s{rate}{span}."
        rows = "row" if self.refused == 1 else "rows"
        return said + (f" {self.refused:,} {rows} refused." if self.refused else "")


def _events(n: int) -> str:
    return "1 event" if n == 1 else f"{n:,} events"


@contextlib.contextmanager
def _to(call: Shell, path: Path | None) -> Iterator[Callable[[str], None]]:
    """Where refusals go."""
    if path is None:
        yield lambda line: call.err.print(line, markup=False)
        return
    try:
        file: TextIO = path.open("w", encoding="utf-8", errors="backslashreplace")
    except OSError as e:
        raise Failure(
            Code.INPUT, f"Cannot write {path}.", str(e.strerror), "Choose another file for --refused."
        ) from e
    try:
        with file:
            yield lambda line: print(line, file=file)
    except OSError as e:
        e.filename = e.filename or str(path)  # a write does not know whereto
        raise


def _show(call: Shell, text: str) -> None:
    if call.err.is_terminal:
        call.err.print(text, markup=False)


@contextlib.contextmanager
def _progress(call: Shell, tally: Tally, total: int | None, sender: Sender) -> Iterator[Callable[[], None]]:
    """A bar on a terminal, plain lines elsewhere; both on standard error."""
    shown = time.monotonic()
    acknowledged = 0

    def stalled() -> str:
        """What to add when Kafka has acknowledged nothing since the last time: what is sent then only waits."""
        nonlocal acknowledged
        before, acknowledged = acknowledged, sender.acknowledged
        if before < acknowledged or sender.sent == acknowledged:
            return ""
        return f"Kafka acknowledges nothing, {sender.sent - acknowledged:,} records wait"

    if not call.err.is_terminal:

        def line() -> None:
            nonlocal shown
            if time.monotonic() - shown >= TELL_EVERY:
                shown = time.monotonic()
                at = f", at {rfc3339(tally.last)}" if tally.last is not None else ""
                of = f" of {total:,}" if total else ""
                stall = stalled()
                call.err.print(
                    f"{tally.events:,} events sent, line {tally.line:,}{of}{at}{stall and '; ' + stall}",
                    markup=False,
                )

        yield line
        return
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=call.err, transient=True) as bar:
        task = bar.add_task("Sending", total=total)

        def update() -> None:
            nonlocal shown
            bar.update(task, completed=min(tally.line, total or tally.line))
            if time.monotonic() - shown >= TELL_EVERY:
                shown = time.monotonic()
                bar.update(task, description=stalled() or "Sending")

        yield update
