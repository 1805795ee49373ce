"""``churnwatch simulate``: a made-up shop as a file, and its truth as another."""

from __future__ import annotations

import gzip
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from datetime import UTC, datetime
from pathlib import Path
from typing import IO, Annotated, Any

import msgspec
import typer
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn

from agents.commands.shell import Shell, examples, instant, shell
from agents.commands.write import new_file
from agents.files import STDIN
from streams.codec import encode
from streams.events import rfc3339, to_datetime, to_micros

EPILOG = examples(
    "churnwatch simulate shop.ndjson --truth truth.ndjson      2,000 customers over half a year, and who left",
    "churnwatch simulate shop.ndjson.gz --customers 50000 --days 365 --seed 7   more of them, gzipped",
    "churnwatch simulate --customers 100 | churnwatch send -   straight to Kafka",
    "churnwatch simulate --start 2026-06-01 --days 90 shop.ndjson   from another day on",
    "churnwatch simulate --live --start 90d --days 365 | churnwatch send --clock none -   a shop that is open now",
)


def simulate(
    context: typer.Context,
    file: Annotated[
        Path, typer.Argument(help="NDJSON, gzipped if it ends in .gz; - is standard output.", allow_dash=True)
    ] = STDIN,
    truth: Annotated[
        Path | None,
        typer.Option(help="Write there who leaves, when and why: one object a line.", show_default=False),
    ] = None,
    customers: Annotated[int, typer.Option(min=1, max=10_000_000, help="How many.")] = 2000,
    days: Annotated[int, typer.Option(min=1, max=36_500, help="How long.")] = 180,
    seed: Annotated[int, typer.Option(min=0, help="Another number, another shop.")] = 1,
    start: Annotated[str, typer.Option(metavar="TIME", help="The first day.")] = "2026-01-05",
    live: Annotated[
        bool,
        typer.Option("--live", help="Write what has happened by now at once, and the rest as it happens."),
    ] = False,
    force: Annotated[bool, typer.Option("--force", help="Write over files that are there.")] = False,
) -> None:
    """Write the events of a made-up shop whose truth is known.

    Purchases, browsing, carts, complaints, surveys and more, in order of time;
    some customers leave, most of them showing it before. The same arguments
    give the same bytes. What is assumed: docs/simulator.md.
    """
    call = shell(context)
    if truth is not None and file.resolve() == truth.resolve():
        raise typer.BadParameter(f"--truth {truth}: the events are written there; name another file")
    from agents import simulator  # noqa: PLC0415 -- numpy takes its time, and no other command needs it

    began = instant(start)
    shop = simulator.simulate(seed, customers, days, to_datetime(began))
    with _output(file, force=force) as stream, _optional(truth, force=force) as second:
        number = 0
        with _progress(call, shop.start, shop.end) as tell:
            for number, event in enumerate(shop, 1):
                if live:
                    _await(to_micros(event.time), stream)
                stream.write(encode(event) + b"\n")
                if number % 500 == 0:
                    tell(to_micros(event.time), number)
        if second is not None:
            for departure in shop.truth.values():
                second.write(_line(departure))
    name = "standard output" if file == STDIN else str(file)
    call.err.print(
        f"Wrote {number:,} events of {customers:,} customers over {days:,} days to {name}.", markup=False
    )
    if truth is not None:
        call.err.print(f"Wrote to {truth} when and why {len(shop.truth):,} of them leave.", markup=False)
    if not live and shop.end > time.time_ns() // 1000:
        call.err.print(
            f"They end on {rfc3339(shop.end)[:10]}, which is still to come: `churnwatch send` refuses what lies in "
            "the future. Set an earlier --start or fewer --days, or let --live write them when their time comes."
        )


def _await(at: int, stream: IO[bytes]) -> None:
    """Until an instant (microseconds), with everything before it handed on."""
    while (ahead := at - time.time_ns() // 1000) > 0:
        stream.flush()
        time.sleep(ahead / 1e6)


def _line(departure: Any) -> bytes:
    """A departure as JSON, with times as in events; the signs are absent where there were none."""
    told = {
        "customer": departure.customer,
        "at": rfc3339(departure.at),
        "why": departure.why,
        "last_purchase": rfc3339(departure.last_purchase),
    }
    if departure.signs_from is not None:
        told["signs_from"] = rfc3339(departure.signs_from)
    return msgspec.json.encode(told) + b"\n"


@contextmanager
def _output(path: Path, *, force: bool) -> Iterator[IO[bytes]]:
    if path == STDIN:
        yield sys.stdout.buffer
        sys.stdout.buffer.flush()
        return
    with new_file(path, force=force) as stream:
        if path.suffix != ".gz":
            yield stream
            return
        # Without name and time, so that equal content gives equal bytes.
        with gzip.GzipFile("", "wb", 6, stream, mtime=0) as zipped:
            yield zipped  # type: ignore[misc]  # it writes bytes; typeshed does not call it an IO


def _optional(path: Path | None, *, force: bool) -> Any:
    return nullcontext(None) if path is None else _output(path, force=force)


@contextmanager
def _progress(call: Shell, start: int, end: int) -> Iterator[Any]:
    """A bar on a terminal, nothing elsewhere; on standard error."""
    if not call.err.is_terminal:
        yield lambda _at, _number: None
        return
    columns = (
        TextColumn("{task.description}"), BarColumn(), TaskProgressColumn(),
        TextColumn("{task.fields[events]:,} events"), TimeRemainingColumn(),
    )  # fmt: skip
    with Progress(*columns, console=call.err, transient=True) as bar:
        task = bar.add_task("Simulating", total=end - start, events=0)
        yield lambda at, number: bar.update(
            task,
            completed=at - start,
            events=number,
            description=f"{datetime.fromtimestamp(at / 1e6, UTC):%Y-%m-%d}",
        )
