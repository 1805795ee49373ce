"""``churnwatch backup`` and ``restore``: what is known of the customers into a file, and back."""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, BinaryIO

import msgspec
import typer
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn

from agents.commands.shell import Code, Failure, Shell, examples, shell
from agents.findings import bytes_of, counted
from agents.settings import Settings, redacted

if TYPE_CHECKING:
    from agents.backup import Frame, Header
    from agents.restoring import Restored
    from agents.store import Store
    from agents.suppression import ErasedSince

EPILOG_BACKUP = examples(
    "churnwatch backup shop-2026-06-30.backup               workers go on meanwhile",
    "churnwatch backup - | age -r age1... > shop.backup.age  encrypted on its way: it holds what is known of customers",
    "churnwatch restore --check shop-2026-06-30.backup      is it whole, what is in it",
)
EPILOG_RESTORE = examples(
    "churnwatch restore --check shop.backup             is it whole, what is in it; changes nothing",
    "churnwatch restore shop.backup                     into an application that Redis does not know",
    "age -d shop.backup.age | churnwatch restore -      from a pipe",
    "churnwatch restore --replace shop.backup           instead of what is there; its workers are stopped first",
)
KEYS_SHOWN = 3


def backup(
    context: typer.Context,
    file: Annotated[
        str, typer.Argument(help="The file, which must not be there yet; - for standard output.")
    ],
) -> None:
    """Keep all that Redis knows of an application in one file, while workers go on.

    Each partition is kept as it stood at one commit, with its offsets: from there
    Kafka is read again after a restore, so keep the input topics for longer than
    your oldest backup. The file is compressed, has checksums, and is there whole
    or not at all. It holds personal data: only you may read it (mode 0600).
    """
    call = shell(context)
    settings = call.settings
    from agents.backup import BackupFailed, whole  # noqa: PLC0415 -- what Faust imports takes its time
    from agents.overview import explained  # noqa: PLC0415

    path = None if file == "-" else Path(file)
    if path is None and sys.stdout.isatty():
        raise Failure(
            Code.USAGE,
            "A backup is not for a terminal.",
            "",
            "Give it a file, or a pipe: churnwatch backup - | age ...",
        )
    if path is not None and path.exists():
        raise Failure(
            Code.INPUT,
            f"{path} is there already: nothing was written.",
            "A backup never takes the place of another one.",
            "Give it another name, such as one with the day in it, or remove that file first.",
        )
    try:
        with explained(settings):
            if path is None:
                told = asyncio.run(_take(call, sys.stdout.buffer))
                sys.stdout.buffer.flush()
            else:
                with whole(path) as out:
                    told = asyncio.run(_take(call, out))
    except BackupFailed as e:
        raise Failure(Code.REDIS, "No backup was taken.", str(e)) from e
    except OSError as e:
        if isinstance(e, BrokenPipeError):
            raise
        raise Failure(
            Code.INPUT,
            f"The backup could not be written to {file}.",
            f"{e.strerror or e}.",
            "Is the folder there, may you write to it, is there room?",
        ) from e
    where = "standard output" if path is None else f"{path} ({bytes_of(path.stat().st_size)})"
    call.err.print(f"{told} Written to {where}.", markup=False)


async def _take(call: Shell, out: BinaryIO) -> str:
    from agents import backup as taking  # noqa: PLC0415

    stores = _stores(call.settings)
    try:
        layouts = [(store, await store.layout()) for store in stores]
        known = [(store, layout) for store, layout in layouts if layout is not None]
        if not known or known[0][0] is not stores[0]:
            raise Failure(
                Code.NOT_FOUND,
                f"Redis ({redacted(call.settings.redis.url)}) knows no application {call.settings.application}.",
                "There is nothing to be kept.",
                "Name the right one with --application or --redis.",
            )
        header = taking.header(
            call.settings.application, {store.application: layout for store, layout in known}
        )
        writer = taking.Writer(out, header)
        with _bar(call, "Reading", await taking.size(known)) as tell:
            await taking.take(known, writer.write, tell)
        writer.close()
        return f"{counted(known[0][1].partitions, 'partition')} of {call.settings.application}."
    finally:
        for store in stores:
            await store.close()


def restore(
    context: typer.Context,
    file: Annotated[str, typer.Argument(help="What backup wrote; - for standard input.")],
    replace: Annotated[
        bool, typer.Option("--replace", help="Instead of what is there. Its workers must be stopped.")
    ] = False,
    check: Annotated[
        bool, typer.Option("--check", help="Only read the file: is it whole, and what is in it?")
    ] = False,
) -> None:
    """Bring a backup back into Redis, into an application that is empty.

    The file is checked as a whole before anything changes. What it holds is
    loaded beside, and put in its place at the end; workers do not start before
    that. When they do, they read Kafka again from where the backup stands, and
    alerts that were sent since are repeated with their ids. Customers who have
    been erased since the backup are left out.
    """
    call = shell(context)
    if file == "-" and sys.stdin.isatty():
        raise Failure(Code.USAGE, "A backup does not come from a terminal.", "", "Give it a file or a pipe.")
    from agents.backup import Damaged  # noqa: PLC0415

    try:
        if file != "-" or check:
            with _opened(call, file, "Checking") as (header, frames):
                customers = _count(header, frames)
            call.err.print(_described(header, customers), markup=False)
        if not check:
            if replace:
                _check_stopped(call.settings)
            with _opened(call, file, "Restoring") as (header, frames):
                restored = _load(call, header, frames, replace)
            _tell(call, header, restored)
    except Damaged as e:
        raise Failure(
            Code.INPUT,
            f"{'Standard input' if file == '-' else file} cannot be used. Nothing was changed.",
            str(e),
            "Take another backup, or another copy of this one.",
        ) from e


@contextmanager
def _opened(call: Shell, file: str, what: str) -> Iterator[tuple[Header, Iterator[Frame]]]:
    from agents.backup import read  # noqa: PLC0415

    try:
        with sys.stdin.buffer if file == "-" else Path(file).open("rb") as raw:
            total = None if file == "-" else os.fstat(raw.fileno()).st_size
            header, frames = read(raw)
            with _bar(call, what, total) as tell:

                def told() -> Iterator[Frame]:
                    passed = 0
                    for frame in frames:
                        yield frame
                        if total is not None:
                            now = raw.tell()
                            tell(now - passed)
                            passed = now

                yield header, told()
    except OSError as e:
        raise Failure(Code.INPUT, f"{file} cannot be read.", f"{e.strerror or e}.") from e


def _count(header: Header, frames: Iterator[Frame]) -> int:
    """The customers in a file that is read to its end."""
    from agents.backup import Begin  # noqa: PLC0415

    found: dict[tuple[str, int], int] = {}
    for frame in frames:
        if isinstance(frame, Begin):
            found[frame.store, frame.partition] = frame.hot
    return sum(count for (store, _), count in found.items() if store == header.application)


def _described(header: Header, customers: int) -> str:
    layout = header.stores[header.application]
    return (
        f"A whole backup of {header.application}, taken {header.taken} by churnwatch {header.release}: "
        f"{counted(layout.partitions, 'partition')}, {layout.clock} clock, {counted(customers, 'customer')}"
        f"{', and the trainer' if len(header.stores) > 1 else ''}."
    )


def _check_stopped(settings: Settings) -> None:
    """Nobody may work on what is to be replaced. Raises :class:`Failure`."""
    from agents.overview import Watcher  # noqa: PLC0415
    from agents.trainer import settings_of_trainer  # noqa: PLC0415

    for each in (settings, settings_of_trainer(settings)):
        watcher = Watcher(each)
        group, why = watcher.kafka.group()
        if group is not None and group.members:
            raise Failure(
                Code.USAGE,
                f"{counted(len(group.members), 'member')} of the group {each.group} still "
                f"{'works' if len(group.members) == 1 else 'work'} on it: nothing was changed.",
                "What it holds is not to be replaced under the hands of a worker. One that was killed counts until "
                f"kafka.session_timeout has passed ({settings.kafka.session_timeout:g} s).",
                "Stop all workers and the trainer, and try again.",
            )
        if group is None:
            raise Failure(
                Code.KAFKA,
                "Whether workers still run cannot be seen: nothing was changed.",
                f"{why}.",
                "Make Kafka answer, or remove the application's keys by hand once nobody works on them.",
            )


def _load(call: Shell, header: Header, frames: Iterator[Frame], replace: bool) -> Restored:
    from agents import restoring  # noqa: PLC0415
    from agents.overview import explained  # noqa: PLC0415

    settings = call.settings
    if header.application != settings.application:
        raise Failure(
            Code.USAGE,
            f"It is a backup of {header.application}, not of {settings.application}: nothing was changed.",
            "The ids of alerts, and when a customer is looked at, depend on the name of the application.",
            f"Restore it as what it is: --application {header.application}.",
        )

    async def run() -> Restored:
        stores = _stores(settings)
        try:
            work = restoring.Restoring(header, stores, await _erased(call, stores[0]), replace=replace)
            return await work.run(frames, lambda: None)
        finally:
            for store in stores:
                await store.close()

    try:
        with explained(settings):
            return asyncio.run(run())
    except restoring.NotEmpty as e:
        shown = ", ".join(e.keys[:KEYS_SHOWN]) + (", ..." if len(e.keys) > KEYS_SHOWN else "")
        raise Failure(
            Code.USAGE,
            f"Application {settings.application} is not empty: nothing was changed.",
            f"Redis holds {shown}.",
            "If what is there may go: stop its workers and the trainer, and use --replace.",
        ) from e
    except restoring.Busy as e:
        raise Failure(
            Code.USAGE,
            "Another restore is under way: nothing was changed.",
            "Or one was killed less than a minute ago.",
            "Wait for it.",
        ) from e
    except restoring.Disturbed as e:
        raise Failure(
            Code.REDIS,
            "The restore was given up, and what was there before stays.",
            f"{str(e).capitalize()}.",
            "Stop the workers and the trainer, and try again.",
        ) from e
    except restoring.Unsettled as e:
        raise Failure(
            Code.REDIS,
            f"{settings.application} is NOT restored: it ended while partitions were put in their places.",
            f"{str(e).rstrip('.')}. No worker starts on it.",
            "Run the same restore again: it begins anew.",
        ) from e


async def _erased(call: Shell, store: Store) -> ErasedSince:
    """Who must not come back. Where Kafka does not tell, whoever claims the partitions removes them again."""
    from agents.core import forgotten_of  # noqa: PLC0415
    from agents.suppression import ErasedSince, Suppression  # noqa: PLC0415
    from agents.transport import LogAway  # noqa: PLC0415

    settings = call.settings
    forgotten = forgotten_of(settings)
    try:
        await Suppression(settings.kafka, settings.application, store, forgotten).read_topic()
    except LogAway as e:
        call.err.print(
            f"Who was erased since the backup is not known here ({e}): the workers will remove them when they start.",
            markup=False,
        )
    return ErasedSince(forgotten)


def _tell(call: Shell, header: Header, restored: Restored) -> None:
    erased = (
        f" {counted(restored.erased, 'customer')} who {'was' if restored.erased == 1 else 'were'} erased since "
        f"{'was' if restored.erased == 1 else 'were'} left out."
        if restored.erased
        else ""
    )
    call.out.print(
        f"Restored {header.application} as of {header.taken}: {counted(restored.customers, 'customer')} in "
        f"{counted(restored.partitions, 'partition')}, {counted(restored.waiting, 'message')} waiting to leave.{erased}",
        markup=False,
    )
    call.out.print(
        "Start the workers: they read Kafka again from where the backup stands. What Kafka no longer has of it they "
        "name, and do not pass over: churnwatch doctor tells beforehand.",
        markup=False,
    )


def _stores(settings: Settings) -> list[Store]:
    """The application's and its trainer's."""
    from agents.overview import open_store  # noqa: PLC0415
    from agents.store import trainer_of  # noqa: PLC0415

    apart = msgspec.structs.replace(settings, application=trainer_of(settings.application))
    return [open_store(each, settings.redis.patience) for each in (settings, apart)]


@contextmanager
def _bar(call: Shell, what: str, total: int | None) -> Iterator[Callable[[int], None]]:
    """A bar on a terminal, nothing elsewhere; on standard error."""
    if not call.err.is_terminal:
        yield lambda _: None
        return
    columns = TextColumn("{task.description}"), BarColumn(), TaskProgressColumn(), TimeRemainingColumn()
    with Progress(*columns, console=call.err, transient=True) as bar:
        task = bar.add_task(what, total=total)
        yield lambda more: bar.advance(task, more)
