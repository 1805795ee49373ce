"""``churnwatch export``: everything that is held of one customer, for an access request."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated, Any, Final

import msgspec
import typer
from confluent_kafka import Message
from rich.markup import escape

from agents.commands.kafka import Broker, pairs
from agents.commands.scan import progress, scan, stretches
from agents.commands.shell import Code, Failure, Shell, examples, shell
from streams import topics
from streams.erasure import is_about
from streams.events import rfc3339, to_micros

if TYPE_CHECKING:
    from agents.commands.states import Reader

EPILOG = examples(
    "churnwatch export 12346                          what Redis holds of the customer, in words",
    "churnwatch export 12346 --json > 12346.json      for a program, or to be handed over",
    "churnwatch export 12346 --topics --json          and every record on the topics that is theirs",
)
SHOWN: Final = 5
"""Records of a topic that are shown to a person, the newest."""


def export(
    context: typer.Context,
    customer: Annotated[
        str, typer.Argument(metavar="ID", help="The customer, as in the events.", show_default=False)
    ],
    as_json: Annotated[
        bool, typer.Option("--json", help="One object on one line, with everything in it.")
    ] = False,
    with_topics: Annotated[
        bool,
        typer.Option("--topics", help="Also the records on the topics; reads their partitions to the end."),
    ] = False,
) -> None:
    """Export all that is held of a customer: state, deadlines, labels, messages.

    With --topics also what lies in Kafka: events, alerts, scores, decisions and dead
    letters. Nothing is changed. (docs/privacy.md)
    """
    from agents.commands.states import read  # noqa: PLC0415 -- a second that a wrong call does without

    call = shell(context)
    held: dict[str, Any] = read(call.settings, lambda reader: _held(reader, customer))
    if with_topics:
        held["topics"] = _records(call, customer)
    if not any(held.get(name) for name in ("state", "waiting", "parked", "topics")):
        also = "" if with_topics else " Topics may: --topics looks."
        raise Failure(
            Code.NOT_FOUND,
            f"Nothing is held of {customer!r} in application {call.settings.application}.{also}",
            "No event of theirs has been applied, or they have been forgotten (ids are compared to the letter)."
            + (f" They were forgotten until {held['forgotten_until']}." if "forgotten_until" in held else ""),
        )
    if as_json:
        sys.stdout.write(msgspec.json.encode(held).decode(errors="surrogatepass") + "\n")
    else:
        _show(call, held)


# ---- what Redis holds


async def _held(reader: Reader, customer: str) -> dict[str, Any]:
    from agents.held import decoded  # noqa: PLC0415 -- it brings numpy
    from agents.transport import partition_of  # noqa: PLC0415 -- it brings Faust

    key = customer.encode(errors="surrogateescape")
    unit = 10**reader.engine.minor_units
    held: dict[str, Any] = {
        "customer": customer,
        "application": reader.store.application,
        "exported": rfc3339(to_micros(datetime.now(UTC))),
    }
    for number in range(reader.layout.partitions):
        hot, cold = await reader.store.customer(number, key)
        if hot is not None:
            held["partition"] = number
            held["now"] = await reader.one(customer)
            held.update(decoded(hot, cold, unit))
            break
    number = held.get("partition", partition_of(key, reader.layout.partitions))
    waiting, parked = await reader.store.messages(
        number, lambda message: is_about(customer, message.key, message.value, message.headers)
    )
    for name, messages in (("waiting", waiting), ("parked", parked)):
        if messages:
            held[name] = [
                {"topic": m.topic, "headers": _texts(m.headers), "value": _readable(m.value)}
                for m in messages
            ]
    forgotten = reader.engine.forgotten
    if forgotten is not None:
        from agents.suppression import unpacked  # noqa: PLC0415 -- it brings Faust

        entry = unpacked(await reader.store.forgotten(number)).get(forgotten.digest(key))
        if entry is not None:
            held["forgotten_until"] = rfc3339(entry.until)
    return held


# ---- what Kafka holds


def _records(call: Shell, customer: str) -> dict[str, list[dict[str, Any]]]:
    """The records that are theirs, by Kafka topic, where there are any; oldest first."""
    from agents.transport import partition_of  # noqa: PLC0415 -- it brings Faust

    kafka = call.settings.kafka
    broker = Broker(kafka)
    there = broker.partitions()
    key = customer.encode(errors="surrogateescape")
    places: list[tuple[str, int]] = []
    for logical in dict.fromkeys((*kafka.inputs, *topics.OUTPUTS)):
        name = kafka.topic(logical)
        if logical == topics.EXAMPLES or name not in there:
            continue
        # A letter may lie anywhere: it has the key it came with. All else lies where its key belongs.
        numbers = range(there[name]) if logical == topics.DEAD_LETTERS else (partition_of(key, there[name]),)
        places += [(name, number) for number in numbers]
    found: dict[str, list[dict[str, Any]]] = {}
    wanted = stretches(broker, places)
    with progress(call, "Reading topics", wanted) as tell:
        for message in scan(broker, wanted, tell):
            if is_about(customer, message.key(), message.value(), pairs(message)):
                found.setdefault(message.topic() or "", []).append(_record(message))
    for records in found.values():
        records.sort(key=lambda record: (record["written"], record["partition"], record["offset"]))
    return found


def _record(message: Message) -> dict[str, Any]:
    return {
        "partition": message.partition(),
        "offset": message.offset(),
        "written": rfc3339(message.timestamp()[1] * 1000),
        "headers": _texts(pairs(message)),
        "value": _readable(message.value()),
    }


def _texts(headers: Any) -> dict[str, str]:
    return {name: value.decode(errors="backslashreplace") for name, value in headers}


def _readable(value: bytes | None) -> Any:
    """The value as JSON where it is that; else as text."""
    if value is None:
        return None
    try:
        return msgspec.json.decode(value)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return value.decode(errors="backslashreplace")


# ---- in words


def _show(call: Shell, held: Mapping[str, Any]) -> None:
    call.out.print(f"[bold]{escape(held['customer'])}[/], application {escape(held['application'])}")
    if "forgotten_until" in held:
        call.out.print(f"forgotten until {held['forgotten_until']}; what follows came after")
    titles = {
        "now": "Today",
        "state": "What is known",
        "habits": "Habits, cart, complaints",
        "deadlines": "Deadlines",
        "episodes": "Open episodes",
        "labels": "Snapshots that wait for their label",
        "waiting": "Messages that wait to leave",
        "parked": "Messages that no broker takes",
    }
    for name, title in titles.items():
        if held.get(name):
            call.out.print(f"\n[bold]{title}[/]")
            for line in _lines(held[name]):
                call.out.print(f"  {escape(line)}")
    for topic, records in held.get("topics", {}).items():
        call.out.print(f"\n[bold]{escape(topic)}[/]: {len(records):,} record{'s' * (len(records) != 1)}")
        for record in records[-SHOWN:]:
            text = msgspec.json.encode(record["value"]).decode(errors="replace")
            short = text if len(text) <= 120 else text[:119] + "…"
            call.out.print(f"  {record['written']}  {escape(short)}")
        if len(records) > SHOWN:
            call.out.print("  (the newest; --json has all)")


def _lines(value: Any, name: str = "") -> Iterator[str]:
    """A value as lines of words: names with spaces, what is inside a name indented below it."""
    title = name.replace("_", " ")
    if isinstance(value, Mapping):
        if name:
            yield f"{title}:"
        for inner, deep in value.items():
            for line in _lines(deep, inner):
                yield f"  {line}" if name else line
    elif isinstance(value, list) and value and isinstance(value[0], Mapping):
        for place, each in enumerate(value, 1):
            yield from _lines(each, f"{title} {place}".strip())
    elif isinstance(value, list):
        yield f"{title}: " + (", ".join(map(str, value)) or "none")
    else:
        yield f"{title}: {value}"
