"""``churnwatch customers`` and ``churnwatch customer``: who stands where, read from Redis."""

from __future__ import annotations

import asyncio
import heapq
import sys
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Mapping
from datetime import datetime
from typing import Annotated, Any, Literal, TypeVar, cast

import msgspec
import typer
from rich.markup import escape
from rich.table import Table

from agents.commands.shell import Code, Failure, Shell, examples, shell
from agents.failure import Unrecoverable
from agents.settings import Settings, redacted
from agents.store import Layout, Store, StoreAway, connect
from alerts.engine import Engine
from alerts.partition import unpack
from streams.events import to_micros

PATIENCE = 5.0
"""Seconds until Redis is called away: a person waits for the answer."""
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


class Reader:
    """Customers' states of one application, described as of now (or of the record clock)."""

    def __init__(self, settings: Settings, store: Store, layout: Layout) -> None:
        self.store = store
        self.layout = layout
        self.engine = Engine(
            settings.application,
            settings.kafka.inputs,
            "record" if layout.clock == "record" else "wall",
            settings.shop,
            settings.policy,
            settings.feeds,
            settings.prior,
        )

    async def all(self) -> AsyncIterator[dict[str, Any]]:
        """Each customer once."""
        for partition in range(self.layout.partitions):
            at = await self._now(partition)
            async for key, hot, cold in self.store.customers(partition):
                yield self._described(key.decode(errors="surrogatepass"), hot, cold, at)

    async def one(self, name: str) -> dict[str, Any] | None:
        """One customer, wherever a producer has put them; None when unknown."""
        key = name.encode(errors="surrogateescape")
        for partition in range(self.layout.partitions):
            hot, cold = await self.store.customer(partition, key)
            if hot is not None:
                return self._described(name, hot, cold, await self._now(partition))
        return None

    async def _now(self, partition: int) -> int:
        """The instant a customer is described at: the partition's clock, or the wall's. 0: not known yet."""
        if self.layout.clock != "record":
            return time.time_ns() // 1000
        _, blob = await self.store.applied(partition)
        return unpack(blob, partition).clock

    def _described(self, name: str, hot: bytes, cold: bytes | None, at: int) -> dict[str, Any]:
        described = self.engine.describe(name, hot, cold, at)
        if at == 0 and "last_purchase" in described:  # no clock record has come: as of what is known
            last = to_micros(datetime.fromisoformat(str(described["last_purchase"])))
            described = self.engine.describe(name, hot, cold, last)
        return described


def _read(call: Shell, ask: Callable[[Reader], Coroutine[Any, Any, T]]) -> T:
    """Runs a question against Redis. Raises :class:`Failure` with what to do when it cannot be answered."""
    settings = call.settings
    url = redacted(settings.redis.url)

    async def run() -> T:
        redis = msgspec.structs.replace(
            settings.redis, timeout=min(settings.redis.timeout, PATIENCE), patience=PATIENCE
        )
        store = Store(connect(redis), settings.application, PATIENCE)
        try:
            layout = await store.layout()
            if layout is None:
                raise Failure(
                    Code.NOT_FOUND,
                    f"Redis ({url}) knows no application {settings.application}.",
                    "No worker of that name has run on it.",
                    "Start one with: churnwatch worker; or name the right one with --application or --redis.",
                )
            return await ask(Reader(settings, store, layout))
        finally:
            await store.close()

    try:
        return asyncio.run(run())
    except StoreAway as e:
        raise Failure(
            Code.REDIS,
            f"Redis does not answer at {url}.",
            str(e.__cause__ or e),
            "Is it running there? Set --redis, CHURNWATCH_REDIS__URL or redis.url.",
        ) from e
    except Unrecoverable as e:
        raise Failure(e.code, f"Redis ({url}) cannot be read.", str(e)) from e


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
