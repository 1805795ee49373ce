"""``churnwatch forget``: a customer is forgotten, and what was done is said."""

from __future__ import annotations

import asyncio
import sys
import time
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated, Any, Final, NamedTuple

import msgspec
import typer
from confluent_kafka import TopicPartition
from rich.markup import escape

from agents.commands.expiry import Expiry, expiries
from agents.commands.kafka import Broker
from agents.commands.letters import Denied, Purged, purge, theirs
from agents.commands.scan import progress, whole
from agents.commands.shell import Code, Failure, Shell, examples, shell
from agents.core import forgotten_of
from agents.send import Outgoing, Route, Sender, SendError
from streams import topics
from streams.codec import encode
from streams.erasure import Erasure, UnknownErasure, decode_erasure, is_about
from streams.events import Forget, rfc3339, to_micros
from streams.message import Message

if TYPE_CHECKING:
    from agents.commands.states import Reader

WAIT: Final = 60.0
"""Seconds in which a worker carries out a request, unless said otherwise."""
LOOK: Final = 0.1
REWRITE: Final = 600.0
"""Seconds that Redis may take to rewrite its file."""

EPILOG = examples(
    "churnwatch forget 12346              everything that was read of the customer goes, and stays away",
    "churnwatch forget 12346 --json       the answer for a program: what was removed, what ages out and when",
    "churnwatch forget 12346 --rewrite    and Redis writes its file anew, so that nothing is left in it either",
    "churnwatch forget 12346 --force      of whom nothing is known: so that what may still be read is passed over",
)


def forget(
    context: typer.Context,
    customer: Annotated[
        str, typer.Argument(metavar="CUSTOMER", help="The customer, as in the events.", show_default=False)
    ],
    as_json: Annotated[bool, typer.Option("--json", help="The answer as one object on one line.")] = False,
    force: Annotated[
        bool, typer.Option("--force", help="Also a customer of whom nothing is known: events may come yet.")
    ] = False,
    rewrite: Annotated[
        bool, typer.Option("--rewrite", help="Have Redis rewrite its files, and wait for it.")
    ] = False,
    wait: Annotated[
        float, typer.Option(min=1, metavar="SECONDS", help="How long to wait for a worker.")
    ] = WAIT,
) -> None:
    """Forget a customer: state, timers, labels, messages, dead letters.

    Writes a forget event to an input topic and waits until a worker has carried it
    out. Says what was removed, and what Kafka holds until when. Needs privacy.key,
    and a worker that runs with the same.
    """
    call = shell(context)
    asked = _Asked(call, customer)
    with _step(call, "Looking what is held"):
        number, known = asked.held()
    letters = asked.letters()
    if not (known or letters or force):
        raise Failure(
            Code.NOT_FOUND,
            f"No customer {customer!r} in application {call.settings.application}.",
            "No event of theirs has been applied, or they have been forgotten (ids are compared to the letter).",
            "Topics may still hold records of them: churnwatch export CUSTOMER --topics looks, and --force has them "
            "passed over when they are read again.",
        )
    with _step(call, "Waiting for a worker"):
        answer = asked.carried_out(wait)
    with _step(call, "Waiting until all of it has left"):
        asked.gone(number, wait)
    purged = Purged(0, 0)
    left: dict[str, Any] = {}
    if letters:
        with _step(call, "Taking dead letters out"):
            try:
                purged = purge(asked.broker, asked.dead_letters, list(letters), customer)
            except Denied as denied:
                left = {"count": sum(letters.values()), "why": f"{denied} is missing"}
    files: Mapping[str, Any] = {}
    with _step(call, "Waiting for Redis to rewrite its files" if rewrite else "Asking Redis"):
        files = asked.files(rewrite=rewrite)
    result = _result(asked, answer, purged, files)
    if left:
        result["dead_letters_left"] = left
    if as_json:
        sys.stdout.write(msgspec.json.encode(result).decode(errors="surrogatepass") + "\n")
    else:
        _show(call, customer, result)


class _Asked:
    """One request."""

    def __init__(self, call: Shell, customer: str) -> None:
        self.call, self.customer = call, customer
        self.settings = call.settings
        forgotten = forgotten_of(self.settings)
        if forgotten is None:
            raise Failure(
                Code.USAGE,
                "Nobody can be forgotten without a secret.",
                "privacy.key is not set. With it, who was forgotten is remembered by a hash, so that nobody comes back "
                "when Kafka is read again or Redis restored.",
                "Set CHURNWATCH_PRIVACY__KEY or privacy.key_file, here and on every worker, and never change it: "
                "docs/privacy.md.",
            )
        self.forgotten = forgotten
        try:
            self.key = customer.encode()
        except UnicodeEncodeError as error:
            raise Failure(Code.USAGE, f"{customer!r} is no customer id.", "It is not UTF-8.") from error
        kafka = self.settings.kafka
        self.broker = Broker(kafka)
        self.route = Route(self.broker.inputs(kafka.inputs), kafka.prefix)
        self.there = self.broker.partitions()
        self.register = kafka.topic(topics.FORGOTTEN)
        self.dead_letters = kafka.topic(topics.DEAD_LETTERS)
        if self.register not in self.there:
            raise Failure(
                Code.KAFKA,
                f"Kafka ({self.broker.name}) has no topic {self.register}.",
                "It is where it is remembered who was forgotten.",
                "Run: churnwatch topics create; then start the workers again.",
            )

    def _read(self, ask: Any) -> Any:
        from agents.commands.states import read  # noqa: PLC0415 -- a second that a wrong call does without

        return read(self.settings, ask, scores=False)

    def concerns(self, message: Message) -> bool:
        """Whether a message that waits is of the customer."""
        return is_about(self.customer, message.key, message.value, message.headers)

    def held(self) -> tuple[int, bool]:
        """The partition number that the customer is in, and whether anything is held there."""

        async def ask(reader: Reader) -> tuple[int, bool]:
            from agents.transport import partition_of  # noqa: PLC0415 -- likewise

            count = reader.layout.partitions
            number = partition_of(self.key, count)
            hot, _ = await reader.store.customer(number, self.key)
            messages, parked = await reader.store.waiting(number, self.concerns)
            return number, bool(hot or messages or parked)

        found: tuple[int, bool] = self._read(ask)
        return found

    def letters(self) -> dict[int, int]:
        """How many dead letters of theirs each partition holds."""
        wanted = whole(self.broker, self.there, [self.dead_letters])
        with progress(self.call, "Looking through dead letters", wanted) as tell:
            return theirs(
                self.broker,
                self.dead_letters,
                range(self.there.get(self.dead_letters, 0)),
                self.customer,
                tell,
            )

    def carried_out(self, wait: float) -> Erasure:
        """Sends the request; the answer of the worker that has carried it out. Raises :class:`Failure`."""
        event = Forget(id=uuid.uuid4().hex, customer=self.customer, time=datetime.now(UTC))
        topic = self.route.topic("forget")
        if topic is None:
            raise Failure(
                Code.USAGE,
                "No input topic carries events.",
                f"kafka.inputs has only {', '.join(self.settings.kafka.inputs)}.",
                "Add one of purchases, browses, complaints, contacts.",
            )
        digest = self.forgotten.digest(self.key).hex().encode()
        request = self.forgotten.request(event.id).hex()
        kafka = self.settings.kafka
        with self.broker.explained(), self.broker.consumer() as consumer:
            _, end = consumer.get_watermark_offsets(TopicPartition(self.register, 0), self.broker.patience)
            consumer.assign([TopicPartition(self.register, 0, end)])
            try:
                Sender(kafka).run([Outgoing(kafka.topic(topic), None, self.key, encode(event))])
            except SendError as error:
                raise Failure(
                    Code.KAFKA, "The request could not be written.", str(error), "Nothing was removed."
                ) from error
            until = time.monotonic() + wait
            while time.monotonic() < until:
                for message in consumer.consume(100, LOOK):
                    if message.error() is not None or message.key() != digest:
                        continue
                    try:
                        _, said = decode_erasure(message.key(), message.value())
                    except UnknownErasure:
                        continue
                    if said.request == request:
                        return said
        raise Failure(
            Code.FAILED,
            f"No worker has carried it out within {wait:g} seconds.",
            f"The request is on {kafka.topic(topic)} and will be, by the first worker that reads it. Does one run, with "
            "the same privacy.key? Without it the request is among the dead letters.",
            "See churnwatch status; then give this command again for the answer, with --force.",
        )

    def gone(self, number: int, wait: float) -> None:
        """Waits until nothing of the customer is in Redis: the null values have left as well."""

        async def ask(reader: Reader) -> bool:
            until = time.monotonic() + wait
            while time.monotonic() < until:
                if not any(await reader.store.waiting(number, self.concerns)):
                    return True
                await asyncio.sleep(LOOK)
            return False

        if not self._read(ask):
            raise Failure(
                Code.KAFKA,
                f"The customer is forgotten, but null values still wait to leave after {wait:g} seconds.",
                "The worker cannot write to Kafka, or has ended.",
                "They leave as soon as it can: churnwatch status.",
            )

    def files(self, *, rewrite: bool) -> dict[str, Any]:
        """What Redis's own files may still hold. Asking for more than one may leaves it unknown."""

        async def ask(reader: Reader) -> dict[str, Any]:
            redis: Any = reader.store.redis
            try:
                if rewrite:
                    before = await redis.info("persistence")
                    if before.get("aof_enabled"):
                        await redis.execute_command("BGREWRITEAOF")
                    await redis.execute_command("BGSAVE", "SCHEDULE")
                    await asyncio.sleep(LOOK)
                    until = time.monotonic() + REWRITE
                    while time.monotonic() < until:
                        now = await redis.info("persistence")
                        if not any(
                            now.get(name)
                            for name in (
                                *("aof_rewrite_in_progress", "aof_rewrite_scheduled"),
                                *("rdb_bgsave_in_progress", "rdb_bgsave_scheduled"),
                            )
                        ):
                            break
                        await asyncio.sleep(LOOK)
                now = await redis.info("persistence")
            except Exception as error:  # noqa: BLE001 -- whatever keeps us from it is what is said
                return {"rewritten": False, "why": str(error) or type(error).__name__}
            return {
                "rewritten": rewrite,
                "append_only_file": bool(now.get("aof_enabled")),
                "snapshot": rfc3339(int(now.get("rdb_last_save_time", 0)) * 1_000_000),
            }

        found: dict[str, Any] = self._read(ask)
        return found

    def expiries(self) -> list[Expiry]:
        """Of every topic that may hold records of the customer, as far as it is there."""
        kafka = self.settings.kafka
        names = [
            kafka.topic(name)
            for name in dict.fromkeys((*kafka.inputs, *topics.OUTPUTS))
            if name != topics.EXAMPLES and kafka.topic(name) in self.there
        ]
        return expiries(self.broker, names)


class _Line(NamedTuple):
    title: str
    text: str


def _result(asked: _Asked, answer: Erasure, purged: Purged, files: Mapping[str, Any]) -> dict[str, Any]:
    kafka = asked.settings.kafka
    cleared = [topics.CUSTOMER_SCORES] + [topics.CUSTOMERS] * (topics.CUSTOMERS in kafka.inputs)
    return {
        "customer": asked.customer,
        "forgotten_until": rfc3339(to_micros(answer.until)),
        "request": {
            "topic": kafka.topic(answer.topic),
            "partition": answer.partition,
            "offset": answer.offset,
        },
        "recorded": asked.register,
        "removed": {**answer.removed, "dead_letters": purged.removed},
        "moved_letters": purged.moved,
        "null_values": [kafka.topic(name) for name in cleared],
        "ages_out": [each.as_dict() for each in asked.expiries()],
        "redis": dict(files),
    }


_REMOVED: Final = {
    "states": ("state", "states"),
    "timers": ("deadline", "deadlines"),
    "labels": ("label that had not matured", "labels that had not matured"),
    "episodes": ("open episode", "open episodes"),
    "messages": ("message that had not left", "messages that had not left"),
    "parked": ("parked message", "parked messages"),
    "dead_letters": ("dead letter", "dead letters"),
}


def _show(call: Shell, customer: str, result: Mapping[str, Any]) -> None:
    removed = [f"{count} {_REMOVED[name][count != 1]}" for name, count in result["removed"].items() if count]
    call.out.print(
        f"[bold]{escape(customer)}[/] is forgotten, with everything up to {result['forgotten_until']}."
    )
    lines = [_Line("removed", ", ".join(removed) or "nothing was held")]
    lines.append(_Line("null values", "written to " + ", ".join(result["null_values"])))
    if result["moved_letters"]:
        moved = f"{result['moved_letters']} of others were sent to the end of their partition to make that possible"
        lines.append(_Line("dead letters", moved))
    if "dead_letters_left" in result:
        left = result["dead_letters_left"]
        lines.append(_Line("dead letters", f"{left['count']} stay until they age out: {left['why']}"))
    place = result["request"]
    lines.append(
        _Line("recorded", f"{result['recorded']}; {place['topic']}/{place['partition']} at {place['offset']}")
    )
    for line in lines:
        call.out.print(f"[dim]{line.title:<13}[/]{escape(line.text)}")
    call.out.print("\nWhat Kafka holds of them goes by itself:")
    for each in result["ages_out"]:
        by = f"by {each['by'][:10]}" if "by" in each else "no date"
        call.out.print(f"  {escape(each['topic'])}: [bold]{by}[/] ({escape(each['why'])})")
    call.out.print("\n" + escape(_of_files(result["redis"])))


def _of_files(files: Mapping[str, Any]) -> str:
    if "why" in files:
        return f"Whether Redis's files still hold something cannot be asked ({files['why']}): have BGREWRITEAOF and BGSAVE run."
    if files["rewritten"]:
        return "Redis has written its files anew: nothing of the customer is left in them."
    kept = ["its append-only file"] * files["append_only_file"] + [f"its snapshot of {files['snapshot']}"]
    return (
        f"Redis's own files may hold what was before until it writes them anew ({' and '.join(kept)}): --rewrite has it "
        "done at once. Backups that were taken before hold it too; when one is restored, the customer is removed again."
    )


@contextmanager
def _step(call: Shell, what: str) -> Iterator[None]:
    """Says what is being waited for, on a terminal."""
    if not call.err.is_terminal:
        yield
        return
    with call.err.status(f"{what} ..."):
        yield
