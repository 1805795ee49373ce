"""``churnwatch import``: a shop's archive into an empty application, which then starts warm."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated
from zoneinfo import ZoneInfo

import msgspec
import typer
from confluent_kafka import TopicPartition
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn

from agents.commands.kafka import Broker
from agents.commands.shell import Code, Failure, Shell, examples, shell
from agents.files import FileError, Reading, Refusal, extent, read
from agents.send import Outgoing, Sender, SendError
from features.shop import DAY
from streams import topics

if TYPE_CHECKING:
    from agents.loading import Archive, Ends
    from alerts.forgotten import Forgotten

EPILOG = examples(
    "churnwatch topics create                       first: the archive is sharded as these topics are",
    "churnwatch import archive.csv.gz               replay it here, and load what comes of it",
    "churnwatch worker                              then start the workers: they begin warm, and quietly",
    "churnwatch --application shop2 import archive.ndjson   into another application",
)
SHOWN = 3
"""Refusals that are shown."""
GC_THRESHOLDS = 200_000, 20, 100
KEYS_SHOWN = 3
SLOWLY = 10.0
"""Seconds that Kafka may take to say where a log ends."""


def import_(
    context: typer.Context,
    file: Annotated[
        Path, typer.Argument(help="The archive: CSV, NDJSON or Parquet, also gzipped.", show_default=False)
    ],
) -> None:
    """Bring a shop's archive into an empty application, at full speed.

    The file is replayed in this process by the workers' engine; then states,
    deadlines and what was learned are loaded into Redis at once, and the offsets
    set to the ends of the logs: what is in Kafka already counts as part of the
    archive. All of it is history: no alert is sent of what was known before.
    Start the workers afterwards. An application that is not empty is refused.
    """
    call = shell(context)
    settings = call.settings
    from agents import loading  # noqa: PLC0415 -- numpy, river and Faust take their time
    from agents.core import forgotten_of  # noqa: PLC0415
    from agents.overview import explained, open_store  # noqa: PLC0415
    from agents.store import trainer_of  # noqa: PLC0415
    from agents.suppression import Suppression  # noqa: PLC0415
    from agents.transport import LogAway  # noqa: PLC0415

    broker = Broker(settings.kafka)
    counts = broker.inputs(settings.kafka.inputs)
    count = next(iter(counts.values()))
    ends = _ends(broker, call, count)
    apart = msgspec.structs.replace(settings, application=trainer_of(settings.application))

    forgotten = forgotten_of(settings)

    async def check() -> None:
        store = open_store(settings, settings.redis.patience)
        try:
            await loading.check_empty(store, count)
            await Suppression(settings.kafka, settings.application, store, forgotten).read_topic()
        finally:
            await store.close()

    async def load(archive: Archive, tell: Callable[[int], None]) -> None:
        store, trainer = (
            open_store(settings, settings.redis.patience),
            open_store(apart, settings.redis.patience),
        )
        try:
            await loading.load(store, trainer, settings, archive, ends, lambda: _publish(call, archive), tell)
        finally:
            await store.close()
            await trainer.close()

    try:
        with explained(settings):
            asyncio.run(check())
            archive = _replayed(call, file, count, forgotten)
            with _loading(call, archive.replay.customers()) as tell:
                asyncio.run(load(archive, tell))
    except loading.NotEmpty as e:
        shown = ", ".join(e.keys[:KEYS_SHOWN]) + (", ..." if len(e.keys) > KEYS_SHOWN else "")
        raise Failure(
            Code.USAGE,
            f"Application {settings.application} is not empty: nothing was imported.",
            f"Redis holds {shown}. An archive cannot be mixed into what is known already.",
            "Choose another --application, or stop its workers and remove its keys: redis-cli --scan --pattern "
            f"'*{settings.application}*' shows them.",
        ) from e
    except loading.Interrupted as e:
        raise Failure(
            Code.USAGE,
            "The import was given up, and what it had loaded is removed.",
            f"{str(e).capitalize()}.",
            "Stop the workers and the trainer, and import again.",
        ) from e
    except LogAway as e:
        raise Failure(
            Code.KAFKA,
            "Nothing was imported.",
            f"Who was forgotten could not be read: {e}.",
            "Try again when Kafka is well.",
        ) from e
    except SendError as e:
        raise Failure(
            Code.KAFKA,
            "The import was given up, and what it had loaded is removed.",
            str(e),
            "Try again when Kafka is well.",
        ) from e
    _tell(call, archive)


def _ends(broker: Broker, call: Shell, count: int) -> Ends:
    """Where the logs end."""
    from agents.loading import Ends  # noqa: PLC0415

    kafka = call.settings.kafka
    there = broker.partitions()
    examples_, models = kafka.topic(topics.EXAMPLES), kafka.topic(topics.MODELS)
    missing = [name for name in (examples_, models) if name not in there]
    if missing:
        raise Failure(
            Code.KAFKA,
            f"Kafka ({broker.name}) has no topic {', '.join(missing)}.",
            "Labels travel on the first and what was learned on the second.",
            "Run: churnwatch topics create.",
        )
    with broker.consumer() as consumer, broker.explained():

        def end(name: str, number: int) -> int:
            return int(consumer.get_watermark_offsets(TopicPartition(name, number), timeout=SLOWLY)[1])

        inputs = {(kafka.topic(n), p): end(kafka.topic(n), p) for n in kafka.inputs for p in range(count)}
        return Ends(inputs, {(examples_, p): end(examples_, p) for p in range(there[examples_])})


def _replayed(call: Shell, file: Path, count: int, forgotten: Forgotten | None) -> Archive:
    from agents.loading import replayed  # noqa: PLC0415

    reading = Reading(call.codec(), ZoneInfo(call.settings.shop.time_zone), history=True)
    refused: list[Refusal] = []
    before = gc.get_threshold()
    gc.set_threshold(*GC_THRESHOLDS)
    try:
        span = extent(file, reading)
        with _progress(call, span or (0, 0)) as tell:
            entries = read(file, reading, refused.append)
            archive = replayed(call.settings, entries, count, tell, forgotten)
    except FileError as e:
        raise Failure(Code.INPUT, "The file cannot be imported.", str(e)) from e
    except ValueError as e:
        raise Failure(
            Code.INPUT, "Nothing was imported.", f"{str(e).capitalize()}.", "Check the file."
        ) from e
    finally:
        gc.set_threshold(*before)
        for refusal in refused[:SHOWN]:
            call.err.print(f"line {refusal.line}: {refusal.reason}", markup=False)
        if len(refused) > SHOWN:
            rows = sum(refusal.rows for refusal in refused)
            call.err.print(
                f"and more: {rows:,} rows refused. See them with: churnwatch send --dry-run {file}",
                markup=False,
            )
    return archive


def _publish(call: Shell, archive: Archive) -> None:
    """The newest snapshot to ``models``, where workers will find it. Raises SendError."""
    kafka = call.settings.kafka
    Sender(kafka).run(
        Outgoing(kafka.topic(topics.MODELS), None, message.key, message.value, message.headers)
        for message in archive.models
    )


def _tell(call: Shell, archive: Archive) -> None:
    snapshot = archive.snapshot
    call.out.print(
        f"Imported {archive.replay.events:,} events of {archive.replay.customers():,} customers, {_day(archive.first)} to "
        f"{_day(archive.last)}, into {call.settings.application}.",
        markup=False,
    )
    if snapshot is None:
        call.out.print("No label has matured within it: the score begins statistical.", markup=False)
    else:
        leading = snapshot.leading
        call.out.print(
            f"{leading.labels:,} labels were learned; {leading.promoted.model} decides ({snapshot.source}), snapshot "
            f"{snapshot.version}.",
            markup=False,
        )
    call.out.print("Start the workers: churnwatch worker", markup=False)


def _day(at: int) -> str:
    return datetime.fromtimestamp(at / 1e6, UTC).date().isoformat()


@contextmanager
def _progress(call: Shell, span: tuple[int, int]) -> Iterator[Callable[[int, int], None]]:
    """A bar on a terminal, nothing elsewhere; on standard error."""
    if not call.err.is_terminal:
        yield lambda _day, _events: None
        return
    columns = (
        TextColumn("{task.description}"), BarColumn(), TaskProgressColumn(), TextColumn("{task.fields[events]:,} events"),
        TimeRemainingColumn(),
    )  # fmt: skip
    first, last = span[0] // DAY, span[1] // DAY
    with Progress(*columns, console=call.err, transient=True) as bar:
        task = bar.add_task("Replaying", total=last - first + 1, events=0)

        def tell(day: int, events: int) -> None:
            bar.update(task, completed=day - first + 1, events=events, description=_day(day * DAY))

        yield tell


@contextmanager
def _loading(call: Shell, customers: int) -> Iterator[Callable[[int], None]]:
    if not call.err.is_terminal:
        yield lambda _: None
        return
    columns = TextColumn("Loading"), BarColumn(), TaskProgressColumn(), TimeRemainingColumn()
    with Progress(*columns, console=call.err, transient=True) as bar:
        task = bar.add_task("Loading", total=customers)
        yield lambda more: bar.advance(task, more)
