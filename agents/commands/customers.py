"""``churnwatch customers`` and ``churnwatch customer``: who stands where, read from Redis."""

from __future__ import annotations

import heapq
import sys
from collections.abc import Callable, Coroutine, Mapping
from datetime import datetime
from typing import TYPE_CHECKING, Annotated, Any, Literal, TypeVar, cast

import msgspec
import typer
from rich.markup import escape
from rich.table import Table

from agents.commands.shell import Code, Failure, Shell, examples, shell
from streams.events import to_micros

if TYPE_CHECKING:
    from agents.commands.states import Reader

SHOWN = 20
_COLOURS = {"high": "red", "medium": "yellow", "low": "green", "lapsed": "dim"}

Sort = Literal["churn_probability", "spend", "orders", "returns", "last_purchase", "customer"]
T = TypeVar("T")

EPILOG = examples(
    "churnwatch customers                                  those most likely to leave",
    "churnwatch customers --band high --sort spend         the most valuable of those at high risk",
    "churnwatch customers --json > customers.ndjson        all, one object a line",
    "churnwatch customer 12346                             one of them, with reasons",
)
EPILOG_ONE = examples(
    "churnwatch customer 12346           what is known of a customer, and why they may leave",
    "churnwatch customer 12346 --json    the same for a program",
)


def customers(
    context: typer.Context,
    as_json: Annotated[
        bool,
        typer.Option(
            "--json", help="All of them, one object a line; unsorted unless --sort or --limit is given."
        ),
    ] = False,
    band: Annotated[
        Literal["low", "medium", "high", "lapsed"] | None, typer.Option(help="Only of this risk band.")
    ] = None,
    limit: Annotated[
        int | None, typer.Option(min=1, help=f"At most so many; {SHOWN} unless --json.", show_default=False)
    ] = None,
    sort: Annotated[
        Sort | None,
        typer.Option(
            help="Largest first; customer: by name. Otherwise by churn_probability.", show_default=False
        ),
    ] = None,
) -> None:
    """Show customers: orders, spend, open complaints, risk of leaving."""
    call = shell(context)

    async def gather(reader: Reader) -> list[dict[str, Any]]:
        """All that are wanted, in order; with plain --json they are written as they come."""
        key = _by(sort or "churn_probability")
        most = limit if limit is not None or as_json else SHOWN
        kept: list[dict[str, Any]] = []
        async for described in reader.all():
            if band is not None and described.get("risk_band") != band:
                continue
            if as_json and sort is None and limit is None:
                _write(described)
                continue
            kept.append(described)
            if most is not None and len(kept) > 10_000 + 2 * most:
                kept = heapq.nsmallest(most, kept, key)
        kept.sort(key=key)
        return kept if most is None else kept[:most]

    found = _read(call, gather)
    if as_json:
        for described in found:
            _write(described)
    elif found:
        call.out.print(_table(found))
    else:
        call.err.print("No customers" + (f" in band {band}." if band else " yet."))


def customer(
    context: typer.Context,
    name: Annotated[
        str, typer.Argument(metavar="ID", help="The customer, as in the events.", show_default=False)
    ],
    as_json: Annotated[bool, typer.Option("--json", help="One object on one line.")] = False,
) -> None:
    """Show one customer, and why they may leave."""
    call = shell(context)
    described = _read(call, lambda reader: reader.one(name))
    if described is None:
        application = call.settings.application
        raise Failure(
            Code.NOT_FOUND,
            f"No customer {name!r} in application {application}.",
            "No event of theirs has been applied (ids are compared to the letter).",
            "List them with: churnwatch customers. What was refused is in: churnwatch dlq list.",
        )
    if as_json:
        _write(described)
    else:
        _show(call, described)


def _read(call: Shell, ask: Callable[[Reader], Coroutine[Any, Any, T]]) -> T:
    """Runs a question against Redis. Raises :class:`Failure` when it cannot be answered."""
    # Redis and the core take a second to import, which every other command does without.
    from agents.commands.states import read  # noqa: PLC0415

    return read(call.settings, ask)


def _by(sort: Sort) -> Callable[[Mapping[str, Any]], Any]:
    """The key that puts the largest first, who has none last, and equals by name."""
    if sort == "customer":
        return lambda d: d["customer"]
    if sort == "last_purchase":
        return lambda d: (-_instant(d.get(sort)), d["customer"])
    return lambda d: (-float(d.get(sort, -1e300)), d["customer"])


def _instant(text: str | None) -> int:
    return to_micros(datetime.fromisoformat(text)) if text else -(2**62)


def _write(described: Mapping[str, Any]) -> None:
    sys.stdout.write(msgspec.json.encode(described).decode(errors="surrogatepass") + "\n")


def _table(found: list[dict[str, Any]]) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold")
    for title in ("customer", "churn", "band", "orders", "returns", "spend", "last purchase", "complaints"):
        table.add_column(title, justify="left" if title in {"customer", "band", "last purchase"} else "right")
    for d in found:
        probability = d.get("churn_probability")
        band = str(d.get("risk_band", ""))
        table.add_row(
            escape(d["customer"]),
            "" if probability is None else f"{probability:.0%}",
            f"[{_COLOURS.get(band, 'default')}]{band}[/]",
            str(d.get("orders", "")),
            str(d.get("returns", "")),
            f"{d.get('spend', 0):,.2f}",
            str(d.get("last_purchase", ""))[:10],
            str(d.get("open_complaints", 0) or ""),
        )
    return table


def _show(call: Shell, d: Mapping[str, Any]) -> None:
    band = str(d.get("risk_band", ""))
    colour = _COLOURS.get(band, "default")
    rows = [("customer", f"[bold]{escape(str(d['customer']))}[/]")]
    if "churn_probability" in d:
        rows.append(("risk", f"[{colour}]{band}[/], {d['churn_probability']:.1%} likely to leave"))
    rows += [
        ("orders", f"{d['orders']}" + (f", {d['returns']} returns" if d["returns"] else "")),
        ("spend", f"{d['spend']:,.2f}"),
    ]
    if "last_purchase" in d:
        rows.append(("bought", f"first {d['first_purchase'][:10]}, last {d['last_purchase'][:10]}"))
    if d.get("open_complaints"):
        rows.append(("complaints", f"{d['open_complaints']} open"))
    rows.append(("as of", str(d["as_of"])))
    reasons = cast("list[Mapping[str, Any]]", d.get("reasons") or [])
    rows += [("why" if i == 0 else "", escape(str(r.get("text", "")))) for i, r in enumerate(reasons)]
    for title, value in rows:
        call.out.print(f"[dim]{title:<11}[/]{value}")
