"""Events from files: NDJSON, CSV and Parquet, plain or gzipped, and the text file of CDNOW.

CSV and Parquet hold purchases and returns, one row a line item. The rows of one order become one event, at
the time of its first row; rows are gathered over a look-back of 1,000 rows, so that a file of any size is
read in one pass. Events leave in the order of their time. Whatever is refused is reported with its line.
"""

from __future__ import annotations

import csv
import gzip
import hashlib
import io
import json
import math
import re
import sys
import time
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from datetime import UTC, date, datetime, tzinfo
from functools import lru_cache
from pathlib import Path
from typing import IO, Any, Final, NamedTuple, TypeAlias, cast

import msgspec
import xxhash

from streams.codec import CLOCK_KEY, MAX_FUTURE, MIN_AT, Codec, Decoded, Tick, encode
from streams.events import CONTROL, Event, Line, Purchase, Return, rfc3339, to_micros, type_name

LOOK_BACK: Final = 1000
"""Rows over which the rows of one order are gathered, its first one included."""
ID_MAX: Final = 64
REQUIRED: Final = ("event_type", "customer_id", "ts", "amount")
OPTIONAL: Final = ("order_id", "sku", "category", "quantity", "extra")
KINDS: Final = ("purchase", "return")
STDIN: Final = Path("-")

_is_control = re.compile(CONTROL).search
CDNOW_HEADER: Final = [b"customer_id", b"date", b"number_of_cds", b"dollar_value"]
_is_cdnow_row = re.compile(rb"\s*\d+\s+(19|20)\d{6}\s+\d+\s+\d*\.?\d+\s*$").match
_decode_fields = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode


class FileError(Exception):
    """A file that cannot be read as a whole: what is wrong with it and where, and what to do."""

    def __init__(self, why: str, todo: str) -> None:
        super().__init__(f"{why} {todo}")
        self.why = why
        self.todo = todo


class Entry(NamedTuple):
    """One event of a file, ready to be sent. ``line`` is where it begins; ``at`` is in microseconds.

    For a ``clock`` record of an NDJSON file ``kind`` is ``clock`` and ``customer`` is empty. ``item`` is what
    the codec made of it when it was judged, for whoever needs no record; its offset says nothing.
    """

    line: int
    at: int
    kind: str
    customer: str
    value: bytes
    item: Decoded | Tick | None = None


class Refusal(NamedTuple):
    """Something that was not sent: the line, why, and how many rows it concerns."""

    line: int
    reason: str
    rows: int = 1


Refuse: TypeAlias = Callable[[Refusal], None]


class Reading(NamedTuple):
    """How a file is to be read.

    ``codec`` judges what an event may hold. ``zone`` is for times without an offset, the shop's own.
    ``ordered`` demands that the file is sorted by time; ``history`` marks every event as an archive's.
    """

    codec: Codec
    zone: tzinfo = UTC
    ordered: bool = True
    history: bool = False


class Span(NamedTuple):
    """How many rows a file has, and from when to when (microseconds; None without a row)."""

    rows: int
    first: int | None
    last: int | None


def count(path: Path, reading: Reading) -> int | None:
    """How many rows a file has, having checked their order; None for standard input, which is read once.

    Raises :class:`FileError`, so that a file that is not sorted is refused before anything of it is sent.
    """
    return None if path == STDIN else span(path, reading).rows


def span(path: Path, reading: Reading) -> Span:
    """As :func:`count`, with the time that the rows span; not for standard input."""
    rows = 0
    first: int | None = None
    latest = _Latest(path, reading.ordered)
    for row in _rows(path, reading, lambda _refusal: None):
        rows += 1
        first = row.at if first is None else min(first, row.at)
        latest.see(row.line, row.at)
    return Span(rows, first, None if first is None else latest.at)


def extent(path: Path, reading: Reading) -> tuple[int, int] | None:
    """From when to when (microseconds) a file goes that is sorted by time, without reading the rows in between.

    None for one without a row. Raises :class:`FileError`, also for standard input, which is read once.
    """
    if path == STDIN:
        raise FileError(
            "Standard input is read once, and here its end must be known first.", "Give the file's name."
        )
    first = next(_rows(path, reading, lambda _refusal: None), None)
    if first is None:
        return None
    last = _last(path, reading)
    if last is None or last < first.at:
        # It is no text that is sorted, or ends in many rows that are refused.
        whole = span(path, reading)
        assert whole.last is not None
        return first.at if whole.first is None else whole.first, whole.last
    return first.at, last


_TAIL: Final = 1 << 18
"""Bytes at the end of a file among which its last row is looked for."""


def _last(path: Path, reading: Reading) -> int | None:
    """The time of the last line that can be read; None where that takes a look at all of them."""
    try:
        with _opened(path) as stream:
            head = stream.peek(4096)
            if head[:4] == b"PAR1" or _is_cdnow(head):
                return None
            names = (
                None if _first(head) == b"{" else next(csv.reader([stream.readline().decode("utf-8-sig")]))
            )
            tail = b""
            while block := stream.read(_TAIL):
                tail = (tail + block)[-2 * _TAIL :]
    except (OSError, EOFError, zlib.error, UnicodeDecodeError):
        return None  # whoever reads all of it says what is wrong
    for line in reversed(tail.splitlines()):
        at = _instant_of(line, names, reading)
        if at is not None:
            return at
    return None


def _instant_of(line: bytes, names: list[str] | None, reading: Reading) -> int | None:
    """The time of one line, CSV where ``names`` has its columns; None for one that is refused."""
    if names is None:
        found = next(iter(_ndjson(io.BytesIO(line), reading, lambda _refusal: None)), None)
        return found.at if found else None
    try:
        fields = next(csv.reader([line.decode()]), [])
        if len(fields) != len(names):
            return None
        return _row(_Raw(0, 0, dict(zip(names, fields, strict=True))), reading.zone).at
    except (csv.Error, UnicodeDecodeError, _NoRowError):
        return None


def read(path: Path, reading: Reading, refuse: Refuse) -> Iterator[Entry]:
    """The events of a file (``-`` is standard input) in the order of time.

    Raises :class:`FileError` when the file cannot be read, or is not sorted although it should be.
    """
    latest = _Latest(path, reading.ordered)
    lines: dict[str, _Open] = {}
    closed: set[int] = set()
    for row in _rows(path, reading, refuse):
        latest.see(row.line, row.at)
        if isinstance(row, _Whole):
            yield row.entry
            continue
        while lines:
            key, oldest = next(iter(lines.items()))
            if row.place - oldest.row.place < LOOK_BACK:
                break
            del lines[key]
            closed.add(_hash(key))
            yield from oldest.finish(reading, refuse)
        key = row.key
        if key in lines:
            lines[key].add(row)
        elif _hash(key) in closed:
            what = f"order {row.order!r}" if row.order else f"the {row.kind} of that time"
            refuse(
                Refusal(
                    row.line,
                    f"comes too late: {what} of customer {row.customer!r} began more than "
                    f"{LOOK_BACK} rows before and has been sent",
                )
            )
        else:
            lines[key] = _Open(row)
    for oldest in lines.values():
        yield from oldest.finish(reading, refuse)


class _Latest:
    """Sees to it that times do not go back."""

    def __init__(self, path: Path, ordered: bool) -> None:
        self.path = path
        self.ordered = ordered
        self.at = -(2**63)

    def see(self, line: int, at: int) -> None:
        if at >= self.at:
            self.at = at
        elif self.ordered:
            raise FileError(
                f"{_name(self.path)} is not sorted by time: line {line} ({rfc3339(at)}) is earlier than a line "
                f"before it ({rfc3339(self.at)}).",
                "Sort the file by time, or send it with --clock none.",
            )


class _Row(NamedTuple):
    """A row of CSV, Parquet or CDNOW, checked as far as a row can be. ``place`` counts rows, bad ones too."""

    line: int
    place: int
    at: int
    kind: str
    customer: str
    order: str
    item: Line

    @property
    def key(self) -> str:
        return "\0".join((self.customer, self.kind, self.order, "" if self.order else str(self.at)))


class _Whole(NamedTuple):
    """A line that is an event by itself."""

    line: int
    at: int
    entry: Entry


class _Open:
    """An order whose rows are still being gathered."""

    __slots__ = ("items", "row")

    def __init__(self, row: _Row) -> None:
        self.row = row
        self.items = [row.item]

    def add(self, row: _Row) -> None:
        self.items.append(row.item)

    def finish(self, reading: Reading, refuse: Refuse) -> Iterator[Entry]:
        row = self.row
        made = Purchase if row.kind == "purchase" else Return
        when = datetime.fromtimestamp(row.at // 1_000_000, UTC).replace(microsecond=row.at % 1_000_000)
        event = made(
            id=event_id(row.kind, row.customer, row.order, row.at),
            customer=row.customer,
            time=when,
            order=row.order or None,
            lines=tuple(self.items),
            history=reading.history,
        )
        value = encode(event)
        item = reading.codec.decode(_Candidate(row.customer, value))
        if isinstance(item, Decoded):
            yield Entry(row.line, row.at, row.kind, row.customer, value, item)
        else:
            refuse(Refusal(row.line, getattr(item, "message", "is no event"), len(self.items)))


def event_id(kind: str, customer: str, order: str, at: int) -> str:
    """``kind:order``, or ``kind:customer:time``; the SHA-256 in hexadecimal of what is longer than an id may be."""
    name = f"{kind}:{order}" if order else f"{kind}:{customer}:{rfc3339(at)}"
    return name if len(name) <= ID_MAX else hashlib.sha256(name.encode()).hexdigest()


# ---- the forms of a file


def _rows(path: Path, reading: Reading, refuse: Refuse) -> Iterator[_Row | _Whole]:
    try:
        with _opened(path) as stream:
            head = stream.peek(4096)
            if head[:4] == b"PAR1":
                if path == STDIN:
                    raise FileError("Parquet cannot be read from standard input.", "Give the file's name.")
                yield from _checked(_parquet(path), reading, refuse)
            elif _first(head) == b"{":
                yield from _ndjson(stream, reading, refuse)
            elif _is_cdnow(head):
                yield from _cdnow(stream, reading, refuse)
            else:
                _check_text(_name(path), head)
                yield from _checked(_csv(path, stream, refuse), reading, refuse)
    except (gzip.BadGzipFile, EOFError, zlib.error) as e:
        raise FileError(
            f"{_name(path)} is gzipped, and damaged or cut off: {e}.",
            "Copy it again from where it came; gzip -t checks it.",
        ) from e
    except OSError as e:
        raise FileError(f"{_name(path)} cannot be read: {e.strerror or e}.", _repair(e)) from e


def _repair(error: OSError) -> str:
    match error:
        case FileNotFoundError():
            return "Check the path."
        case PermissionError():
            return "Ask its owner for the right to read it, or send it as a user who has it."
        case IsADirectoryError():
            return "Give the name of a file in that folder."
        case _:
            return "Check the file, and the disk that it is on."


OTHER_FORMATS: Final = (
    (
        b"PK\x03\x04",
        "a spreadsheet (xlsx) or a zip archive",
        "Save the sheet as CSV (UTF-8), or unzip the file.",
    ),
    (b"\xff\xfe", "UTF-16 text", "Make it UTF-8: iconv -f UTF-16 -t UTF-8 FILE."),
    (b"\xfe\xff", "UTF-16 text", "Make it UTF-8: iconv -f UTF-16 -t UTF-8 FILE."),
    (b"BZh", "compressed by bzip2", "Unpack it: bzcat FILE | churnwatch send -"),
    (b"\xfd7zXZ", "compressed by xz", "Unpack it: xzcat FILE | churnwatch send -"),
    (b"\x28\xb5\x2f\xfd", "compressed by zstd", "Unpack it: zstdcat FILE | churnwatch send -"),
    (b"[", "a JSON array", "Put one object on a line: jq -c '.[]' FILE | churnwatch send -"),
)


def _check_text(name: str, head: bytes) -> None:
    """Raises :class:`FileError` for what is neither CSV nor anything else that is read here."""
    if not head:
        raise FileError(
            f"{name} is empty.", "Was it written to its end? CSV begins with the names of its columns, NDJSON with {."
        )  # fmt: skip
    for magic, what, todo in OTHER_FORMATS:
        if head.lstrip().startswith(magic):
            raise FileError(f"{name} is {what}; CSV, NDJSON and Parquet are read, also gzipped.", todo)
    if b"\0" in head:
        raise FileError(
            f"{name} is no text; CSV, NDJSON and Parquet are read, also gzipped.", "Check the file."
        )


@contextmanager
def _opened(path: Path) -> Iterator[io.BufferedReader]:
    """The bytes of the file, unzipped where it is gzipped, whatever it is called."""
    with ExitStack() as stack:
        stream = cast(
            io.BufferedReader,
            sys.stdin.buffer if path == STDIN else stack.enter_context(path.open("rb")),
        )
        if stream.peek(2)[:2] == b"\x1f\x8b":
            unzipped = stack.enter_context(gzip.GzipFile(fileobj=stream))
            stream = stack.enter_context(io.BufferedReader(cast(io.RawIOBase, unzipped)))
        yield stream


class _Raw(NamedTuple):
    """A row as it stands in the file."""

    line: int
    place: int
    values: Mapping[str, Any]


def _csv(path: Path, stream: IO[bytes], refuse: Refuse) -> Iterator[_Raw]:
    text = io.TextIOWrapper(stream, encoding="utf-8-sig", errors="surrogateescape", newline="")
    reader = csv.reader(text)
    try:
        header = next(reader)
        _check_columns(path, header)
        wanted = [(header.index(c), c) for c in (*REQUIRED, *OPTIONAL) if c in header]
        line = reader.line_num + 1
        for place, fields in enumerate(reader):
            if len(fields) == len(header):
                yield _Raw(line, place, {c: fields[i] for i, c in wanted})
            elif fields:
                refuse(Refusal(line, f"has {len(fields)} fields where the header has {len(header)}"))
            line = reader.line_num + 1
    except csv.Error as e:
        raise FileError(
            f"{_name(path)}, line {reader.line_num}: {e}.", "Is a quotation mark not closed before it?"
        ) from e
    finally:
        text.detach()  # whoever opened the stream closes it


def _parquet(path: Path) -> Iterator[_Raw]:
    import pyarrow.parquet as pq  # noqa: PLC0415 -- takes a quarter of a second, and few files are Parquet
    from pyarrow.lib import ArrowException  # noqa: PLC0415

    try:
        with pq.ParquetFile(path) as file:
            names = file.schema_arrow.names
            _check_columns(path, names)
            place = 0
            columns = [c for c in (*REQUIRED, *OPTIONAL) if c in names]
            for batch in file.iter_batches(batch_size=10_000, columns=columns):
                for values in batch.to_pylist():
                    yield _Raw(place + 1, place, values)
                    place += 1
    except ArrowException as e:
        raise FileError(
            f"{_name(path)} is damaged or no Parquet: {str(e).rstrip('.')}.",
            "Copy it again from where it came.",
        ) from e


def _check_columns(path: Path, names: Iterable[str]) -> None:
    names = list(names)
    missing = [c for c in REQUIRED if c not in set(names)]
    if not missing:
        return
    needs = f"It needs the columns {', '.join(REQUIRED)}, and may have {', '.join(OPTIONAL)}."
    for sign, called in ((";", "semicolons"), ("\t", "tabs"), ("|", "bars")):
        if len(names) == 1 and names[0].count(sign) >= len(REQUIRED) - 1:
            raise FileError(
                f"{_name(path)} separates its columns by {called}, not commas.",
                f"Export it with commas. {needs}",
            )
    shown = ", ".join(name[:40] for name in names[:12]) + (", ..." if len(names) > 12 else "")
    raise FileError(
        f"{_name(path)} has no column {', '.join(missing)}. Its first line names: {shown}.",
        f"{needs} A line of NDJSON begins with {{.",
    )


def _checked(rows: Iterable[_Raw], reading: Reading, refuse: Refuse) -> Iterator[_Row]:
    latest = int(time.time() * 1e6) + MAX_FUTURE
    for raw in rows:
        try:
            row = _row(raw, reading.zone)
            if not MIN_AT <= row.at <= latest:
                # Here, and not when the event is judged: the rows after it would seem to go back in time.
                raise _NoRowError(f"ts: {raw.values['ts']} is before 1970 or lies in the future")
            yield row
        except _NoRowError as no:
            refuse(Refusal(raw.line, str(no)))


class _NoRowError(Exception):
    """Why a row is refused."""


def _row(raw: _Raw, zone: tzinfo) -> _Row:
    values = raw.values
    kind = _text(values, "event_type")
    if kind not in KINDS:
        raise _NoRowError(f"event_type: {kind!r} is not allowed; allowed are purchase and return")
    customer = _text(values, "customer_id")
    if not customer:
        raise _NoRowError("customer_id: missing; it is required")
    if len(customer) > 128 or _is_control(customer):
        raise _NoRowError("customer_id: at most 128 characters and no control characters are allowed")
    at = _instant(values.get("ts"), zone)
    amount = _number(values, "amount")
    if amount is None:
        raise _NoRowError("amount: missing; it is required")
    quantity = _number(values, "quantity")
    if kind == "purchase":
        if amount < 0:
            raise _NoRowError(f"amount: {amount:g} is negative; that of a purchase must not be")
        if quantity is not None and quantity < 0:
            raise _NoRowError(f"quantity: {quantity:g} is negative; that of a purchase must not be")
    else:
        if amount > 0:
            raise _NoRowError(f"amount: {amount:g} is positive; that of a return is negative in files")
        quantity = None if quantity is None else abs(quantity)
    nonproduct = _is_nonproduct(values)
    item = Line(
        amount=abs(amount),
        sku=None if nonproduct else _text(values, "sku") or None,
        category=None if nonproduct else _text(values, "category") or None,
        quantity=quantity,
    )
    return _Row(raw.line, raw.place, at, kind, customer, _text(values, "order_id"), item)


def _text(values: Mapping[str, Any], column: str) -> str:
    value = values.get(column)
    if not value and value != 0:
        return ""
    if isinstance(value, float) and value.is_integer():
        value = int(value)  # ids with gaps become floats in tables
    text = value.strip() if isinstance(value, str) else str(value)
    if not text.isascii():
        try:
            text.encode()
        except UnicodeEncodeError:
            raise _NoRowError(f"{column}: is not UTF-8 (was the file written as Latin-1?)") from None
    return text


def _number(values: Mapping[str, Any], column: str) -> float | None:
    value = values.get(column)
    if value is None or value == "":
        return None
    try:
        number = float(value)
    except (TypeError, ValueError):
        if isinstance(value, str) and not value.strip():
            return None
        raise _NoRowError(f"{column}: {value!r} is not a number") from None
    if not math.isfinite(number):
        raise _NoRowError(f"{column}: {value!r} is not a number that counts")
    return number


def _instant(value: Any, zone: tzinfo) -> int:
    if value is None or value == "":
        raise _NoRowError("ts: missing; it is required")
    if isinstance(value, datetime):
        return to_micros(value if value.tzinfo else value.replace(tzinfo=zone))
    if isinstance(value, date):
        return to_micros(datetime(value.year, value.month, value.day, tzinfo=zone))
    try:
        return _written(str(value), zone)
    except ValueError:
        raise _NoRowError(f"ts: {value!r} is not a time; one is 2026-01-31T09:30:00Z") from None


@lru_cache(maxsize=1024)  # the rows of one order have one time
def _written(text: str, zone: tzinfo) -> int:
    moment = datetime.fromisoformat(text.strip())
    return to_micros(moment if moment.tzinfo else moment.replace(tzinfo=zone))


def _is_nonproduct(values: Mapping[str, Any]) -> bool:
    """Whether ``extra`` says that the row is postage, a discount or the like."""
    extra = values.get("extra")
    if not extra:
        return False
    if isinstance(extra, str):
        if "nonproduct" not in extra:
            return False
        try:
            extra = json.loads(extra)
        except ValueError:
            raise _NoRowError("extra: is not JSON") from None
    return isinstance(extra, dict) and extra.get("nonproduct") in {1, "1"}


def _ndjson(stream: IO[bytes], reading: Reading, refuse: Refuse) -> Iterator[_Whole]:
    for number, line in enumerate(stream, 1):
        value = line.strip()
        if not value:
            continue
        try:
            fields = _decode_fields(value)
            customer = msgspec.json.decode(fields["customer"], type=str) if "customer" in fields else ""
        except (msgspec.DecodeError, ValueError, RecursionError):
            fields, customer = {}, ""
        if reading.history and fields:
            value = msgspec.json.encode({**fields, "history": True})
        item = reading.codec.decode(_Candidate(customer, value, fields))
        if isinstance(item, Decoded):
            kind = type_name(item.event)
            yield _Whole(number, item.at, Entry(number, item.at, kind, item.customer, value, item))
        elif isinstance(item, Tick):
            yield _Whole(number, item.at, Entry(number, item.at, "clock", "", value, item))
        else:
            kept = _kept(item, number, value, customer, fields)
            if kept is not None:
                yield kept
            else:
                refuse(Refusal(number, getattr(item, "message", "is no event")))


def _kept(
    item: object, number: int, value: bytes, customer: str, fields: Mapping[str, msgspec.Raw]
) -> _Whole | None:
    """What is valid and only not supported yet travels all the same: it is kept, to be replayed."""
    if getattr(item, "reason", None) != "not_yet_supported":
        return None
    at = to_micros(msgspec.json.decode(fields["time"], type=datetime))
    kind = msgspec.json.decode(fields["type"], type=str)
    return _Whole(number, at, Entry(number, at, kind, customer, value))


def _cdnow(stream: IO[bytes], reading: Reading, refuse: Refuse) -> Iterator[_Row]:
    """Customer, date, CDs, dollars; sorted by customer, so it is sorted here (70,000 lines)."""
    rows: list[_Row] = []
    for number, line in enumerate(stream, 1):
        fields = line.split()
        if not fields or fields == CDNOW_HEADER:
            continue
        try:
            customer, day, pieces, dollars = (f.decode() for f in fields)
            at = _written(day, reading.zone)
            amount, quantity = float(dollars), float(pieces)
        except ValueError:
            refuse(Refusal(number, "is not: customer, date (YYYYMMDD), number of CDs, dollars"))
            continue
        if not (math.isfinite(amount) and amount >= 0 and quantity >= 0):
            refuse(Refusal(number, "has a negative number"))
            continue
        rows.append(_Row(number, 0, at, "purchase", customer, "", Line(amount=amount, quantity=quantity)))
    rows.sort(key=lambda row: (row.at, row.line))
    for place, row in enumerate(rows):
        yield row._replace(place=place)


# ---- judging an event as the worker would


class _Candidate:
    """A record as it would arrive, sent now."""

    __slots__ = ("headers", "key", "offset", "partition", "timestamp", "topic", "value")

    def __init__(self, customer: str, value: bytes, fields: Mapping[str, msgspec.Raw] | None = None) -> None:
        self.topic = ""
        self.partition = 0
        self.offset = 0
        self.timestamp = int(time.time() * 1000)
        self.key: bytes | None = customer.encode(errors="replace")
        if fields and bytes(fields.get("type", b"")) == b'"clock"':
            self.key = CLOCK_KEY
        self.value: bytes | None = value
        self.headers: tuple[tuple[str, bytes | None], ...] = ()


def _hash(key: str) -> int:
    return xxhash.xxh3_64_intdigest(key.encode(errors="surrogateescape"))


def _first(head: bytes) -> bytes:
    return head.removeprefix(b"\xef\xbb\xbf").lstrip()[:1]


def _is_cdnow(head: bytes) -> bool:
    line = head.partition(b"\n")[0]
    return line.split() == CDNOW_HEADER or _is_cdnow_row(line) is not None


def _name(path: Path) -> str:
    return "standard input" if path == STDIN else str(path)


def entry(event: Event) -> Entry:
    """An event that comes from no file (a simulator's), as an entry to be sent."""
    return Entry(0, to_micros(event.time), type_name(event), event.customer, encode(event))
