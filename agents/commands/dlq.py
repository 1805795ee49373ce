"""``churnwatch dlq``: what could not be processed, why, and trying it again."""

from __future__ import annotations

import hashlib
import sys
from collections import Counter
from collections.abc import Iterable, Iterator
from typing import Annotated, Any, NamedTuple

import msgspec
import typer
from confluent_kafka import Message
from rich.markup import escape
from rich.table import Table

from agents.commands.kafka import Broker, headers, pairs
from agents.commands.shell import Code, Failure, Shell, examples, shell, visible
from agents.send import Outgoing, Sender, SendError
from streams.codec import CLOCK_KEY, PREFIX, REASONS
from streams.events import rfc3339
from streams.topics import DEAD_LETTERS

MOST_ATTEMPTS = 5
"""Attempts after which a record is not replayed any more."""
SHOWN = 20

EPILOG_LIST = examples(
    "churnwatch dlq list                          how many for which reason, and the newest",
    "churnwatch dlq list --reason invalid         only these",
    "churnwatch dlq list --json | jq .message     for a program, all of them",
)
EPILOG_SHOW = examples("churnwatch dlq show 3:17    the record at offset 17 of partition 3, whole")
EPILOG_REPLAY = examples(
    "churnwatch dlq replay --reason unknown_currency --dry-run    what would be sent again",
    "churnwatch dlq replay --reason unknown_currency              after the rate was added and workers restarted",
    "churnwatch dlq replay 3:17 3:18                              these two",
    "churnwatch dlq replay --customer 12346 --limit 10            the oldest ten of one customer",
)

Reason = Annotated[str | None, typer.Option(help="One of: " + ", ".join(REASONS) + ".", show_default=False)]
Customer = Annotated[str | None, typer.Option(help="Of this customer.", show_default=False)]
Topic = Annotated[str | None, typer.Option(help="Read from this input topic.", show_default=False)]


class Letter(NamedTuple):
    """A dead letter: where it lies, and where and why it was refused."""

    partition: int
    offset: int
    written: int  # microseconds
    topic: str  # logical
    source_partition: int
    source_offset: int
    stage: str
    reason: str
    message: str
    attempts: int
    key: bytes | None
    value: bytes | None
    headers: tuple[tuple[str, bytes], ...]  # as they were sent at first

    @property
    def place(self) -> str:
        """What ``show`` and ``replay`` take."""
        return f"{self.partition}:{self.offset}"

    @property
    def customer(self) -> str:
        """Whom it concerns, as far as can be told."""
        try:
            found = msgspec.json.decode(self.value or b"", type=_Whose).customer
        except (msgspec.DecodeError, UnicodeDecodeError):
            found = None
        return found or (self.key or b"").decode(errors="replace")

    def as_dict(self) -> dict[str, Any]:
        """For ``--json``."""
        return {
            "place": self.place,
            "written": rfc3339(self.written),
            "reason": self.reason,
            "message": self.message,
            "stage": self.stage,
            "attempts": self.attempts,
            "topic": self.topic,
            "partition": self.source_partition,
            "offset": self.source_offset,
            "customer": self.customer,
            "key": None if self.key is None else self.key.decode(errors="backslashreplace"),
            "value": None if self.value is None else self.value.decode(errors="backslashreplace"),
            "headers": {n: v.decode(errors="backslashreplace") for n, v in self.headers},
        }


class _Whose(msgspec.Struct):
    customer: str | None = None


def list_(
    context: typer.Context,
    reason: Reason = None,
    customer: Customer = None,
    topic: Topic = None,
    limit: Annotated[int, typer.Option(min=0, help="The newest so many.")] = SHOWN,
    as_json: Annotated[bool, typer.Option("--json", help="All of them, one object a line.")] = False,
) -> None:
    """Count dead letters by reason and show the newest."""
    call = shell(context)
    counts: Counter[str] = Counter()
    newest: list[Letter] = []
    for letter in _chosen(_letters(call), reason, customer, topic):
        if as_json:
            sys.stdout.write(msgspec.json.encode(letter.as_dict()).decode() + "\n")
            continue
        counts[letter.reason] += 1
        newest.append(letter)
        if len(newest) > 2 * limit + 1000:
            newest = sorted(newest, key=_age)[-limit:] if limit else []
    if as_json:
        return
    if not counts:
        call.out.print("No dead letters" + (" like that." if reason or customer or topic else "."))
        return
    for name, n in counts.most_common():
        call.out.print(f"{n:>9,}  {visible(name)}", markup=False)
    newest.sort(key=_age)
    shown = newest[-limit:] if limit else []
    if shown:
        table = Table(box=None, pad_edge=False, header_style="bold")
        for title in ("place", "written", "reason", "customer", "tries", "message"):
            table.add_column(title, no_wrap=title != "message")
        for x in shown:
            row = (x.place, rfc3339(x.written)[:16], x.reason, x.customer, str(x.attempts), x.message)
            table.add_row(*(escape(visible(cell)) for cell in row))
        call.out.print()
        call.out.print(table)


def show(
    context: typer.Context,
    place: Annotated[
        str, typer.Argument(metavar="PARTITION:OFFSET", help="From dlq list.", show_default=False)
    ],
) -> None:
    """Show one dead letter whole: why it was refused, where it came from, headers and value."""
    call = shell(context)
    partition, offset = _place(place)
    for letter in _letters(call):
        if (letter.partition, letter.offset) == (partition, offset):
            break
    else:
        raise _no_letter(place)
    for title, value in letter.as_dict().items():
        if title not in {"headers", "value"}:
            call.out.print(f"[dim]{title:<11}[/]{escape(visible(str(value)))}")
    for name, content in letter.headers:
        call.out.print(
            f"[dim]{'header':<11}[/]{escape(visible(name))}: "
            f"{escape(visible(content.decode(errors='backslashreplace')))}"
        )
    call.out.print("[dim]value[/]")
    call.out.print(visible(_pretty(letter.value)), markup=False)


def replay(
    context: typer.Context,
    places: Annotated[
        list[str] | None,
        typer.Argument(metavar="[PARTITION:OFFSET]...", help="These letters.", show_default=False),
    ] = None,
    reason: Reason = None,
    customer: Customer = None,
    topic: Topic = None,
    everything: Annotated[bool, typer.Option("--all", help="All of them.")] = False,
    limit: Annotated[int | None, typer.Option(min=1, help="The oldest so many.", show_default=False)] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what would be sent.")] = False,
) -> None:
    """Send dead letters to their topic again, once what refused them has been repaired.

    They are sent as they were. A record that is refused again comes back with one
    attempt more; after five it is not replayed. The same record is sent once
    however many letters it has left, and an event that was applied changes nothing.
    """
    call = shell(context)
    if not (places or reason or customer or topic or everything):
        raise typer.BadParameter("say which: PARTITION:OFFSET, --reason, --customer, --topic, or --all")
    wanted = {_place(p): p for p in places or []}
    chosen = [
        letter
        for letter in _chosen(_letters(call), reason, customer, topic)
        if not wanted or (letter.partition, letter.offset) in wanted
    ]
    found = {(letter.partition, letter.offset) for letter in chosen}
    for place, text in wanted.items():
        if place not in found:
            raise _no_letter(text)
    last = _last_attempts(chosen)
    tired = [letter for letter in last if letter.attempts >= MOST_ATTEMPTS]
    todo = [letter for letter in last if letter.attempts < MOST_ATTEMPTS][:limit]
    for letter in tired:
        call.err.print(
            f"{letter.place}: not replayed, it was tried {letter.attempts} times ({letter.reason})",
            markup=False,
        )
    if dry_run:
        for letter in todo:
            call.out.print(
                f"{letter.place}: {letter.reason}, customer {letter.customer}, to {call.settings.kafka.topic(letter.topic)}",
                markup=False,
            )
        call.out.print(f"{len(todo):,} would be replayed; nothing was.")
        return
    _send(call, todo)
    call.out.print(f"{len(todo):,} replayed." + (f" {len(tired):,} were tried too often." if tired else ""))


def _letters(call: Shell) -> Iterator[Letter]:
    """All dead letters. Raises :class:`Failure`."""
    broker = Broker(call.settings.kafka)
    with broker.explained():
        for message in broker.read(call.settings.kafka.topic(DEAD_LETTERS)):
            yield _letter(message)


def _letter(message: Message) -> Letter:
    said = headers(message)

    def number(name: str, otherwise: int) -> int:
        text = said.get(PREFIX + name, "")
        return int(text) if text.isdecimal() else otherwise

    return Letter(
        partition=message.partition() or 0,
        offset=message.offset() or 0,
        written=message.timestamp()[1] * 1000,
        topic=said.get(PREFIX + "topic", ""),
        source_partition=number("partition", -1),
        source_offset=number("offset", -1),
        stage=said.get(PREFIX + "stage", ""),
        reason=said.get(PREFIX + "error", "unknown"),
        message=said.get(PREFIX + "message", ""),
        attempts=number("attempts", 1),
        key=message.key(),
        value=message.value(),
        headers=tuple((n, v) for n, v in pairs(message) if not n.startswith(PREFIX)),
    )


def _chosen(
    letters: Iterable[Letter], reason: str | None, customer: str | None, topic: str | None
) -> Iterator[Letter]:
    if reason is not None and reason not in REASONS:
        raise typer.BadParameter(f"{reason!r} is no reason: {', '.join(REASONS)}")
    for letter in letters:
        if (
            (reason is None or letter.reason == reason)
            and (topic is None or letter.topic == topic)
            and (customer is None or letter.customer == customer)
        ):
            yield letter


def _age(letter: Letter) -> tuple[int, int, int]:
    return letter.written, letter.partition, letter.offset


def _last_attempts(letters: Iterable[Letter]) -> list[Letter]:
    """Of each record its last attempt, oldest first: replays that failed have left letters of their own."""
    last: dict[bytes, Letter] = {}
    for letter in sorted(letters, key=_age):
        content = msgspec.msgpack.encode((letter.topic, letter.key, letter.value, letter.headers))
        last[hashlib.sha256(content).digest()] = letter
    return sorted(last.values(), key=_age)


def _send(call: Shell, letters: list[Letter]) -> None:
    """Produces the originals, with the number of attempts so far beside them. Raises :class:`Failure`."""
    kafka = call.settings.kafka
    there = Broker(kafka).partitions()
    for letter in letters:
        if kafka.topic(letter.topic) not in there or not letter.topic:
            raise Failure(
                Code.KAFKA,
                f"Nothing was replayed: {letter.place} came from {letter.topic or 'nowhere'}, and there is no such topic.",
                "",
                "Create it with churnwatch topics create, or choose others.",
            )
    try:
        sender = Sender(kafka)
        for letter in letters:
            name = kafka.topic(letter.topic)
            # A key decides where it belongs; what has none, or is a clock, goes back to where it was.
            pinned = not letter.key or letter.key == CLOCK_KEY
            partition = (
                letter.source_partition if pinned and 0 <= letter.source_partition < there[name] else None
            )
            again = (*letter.headers, (PREFIX + "attempts", str(letter.attempts).encode()))
            sender.send(Outgoing(name, partition, letter.key, letter.value, again))
        sender.flush()
    except SendError as e:
        raise Failure(Code.KAFKA, "Replaying stopped.", str(e)) from e


def _place(text: str) -> tuple[int, int]:
    partition, _, offset = text.partition(":")
    if not (partition.isdecimal() and offset.isdecimal()):
        raise typer.BadParameter(f"{text!r} is no place: write PARTITION:OFFSET, such as 3:17")
    return int(partition), int(offset)


def _no_letter(place: str) -> Failure:
    return Failure(
        Code.NOT_FOUND,
        f"There is no dead letter at {place}.",
        "It may have passed the topic's retention.",
        "List them with: churnwatch dlq list",
    )


def _pretty(value: bytes | None) -> str:
    if value is None:
        return "(null)"
    try:
        return msgspec.json.format(value, indent=2).decode()
    except (msgspec.DecodeError, UnicodeDecodeError):
        return value.decode(errors="backslashreplace")
