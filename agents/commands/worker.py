"""``churnwatch worker``: the process that reads, scores and warns."""

from __future__ import annotations

import ssl
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING, Annotated, Literal

import msgspec
import typer

from agents import logs
from agents.commands.shell import Code, Failure, examples, shell
from agents.failure import Unrecoverable
from agents.settings import Settings

if TYPE_CHECKING:
    from agents.worker import Worker

EPILOG = examples(
    "churnwatch worker                                          with the settings of the file and the environment",
    "churnwatch --brokers kafka1:9092 --redis redis://r:6379/0 worker",
    "churnwatch --set clock.mode=record worker                  time is what clock records say: replays and files",
    "churnwatch worker --http-port 0                            a second one on this machine, any free port",
    "churnwatch worker --accept-invalid-until purchases:3:1700  let broken records up to there go to dead-letters",
)


def worker(
    context: typer.Context,
    accept: Annotated[
        list[str] | None,
        typer.Option(
            "--accept-invalid-until",
            metavar="TOPIC:PARTITION:OFFSET",
            help="Do not stop for invalid records up to this offset; repeatable.",
            show_default=False,
        ),
    ] = None,
    http_host: Annotated[
        str | None, typer.Option(help="Address of /metrics, /healthz, /readyz.", show_default=False)
    ] = None,
    http_port: Annotated[
        int | None, typer.Option(help="Its port; 0: any that is free.", show_default=False)
    ] = None,
    log_level: Annotated[
        Literal["debug", "info", "warning", "error"] | None,
        typer.Option(help="What is logged.", show_default=False),
    ] = None,
    log_format: Annotated[
        Literal["auto", "console", "json"] | None,
        typer.Option(help="How: auto is console on a terminal, JSON elsewhere.", show_default=False),
    ] = None,
) -> None:
    """Run a worker until it is told to stop.

    Ctrl-C or SIGTERM stops it, a second one at once. Any number of workers share
    the partitions. What cannot heal ends the process with a message and a code.
    """
    call = shell(context)
    flags = {
        "worker.accept_invalid_until": accept or None,
        "worker.http_host": http_host,
        "worker.http_port": http_port,
        "worker.log_level": log_level,
        "worker.log_format": log_format,
    }
    call.flags |= {key: value for key, value in flags.items() if value is not None}
    settings = call.settings
    call.codec()
    logs.configure(settings.worker.log_level, settings.worker.log_format, debug=call.debug)
    with starting("worker"):
        # Faust takes a second to import, and every other command does without it.
        from agents.worker import Worker, run  # noqa: PLC0415

        members: tuple[Callable[[Settings], Worker], ...] = (Worker,)
        if settings.worker.trainer:
            from agents.trainer import TrainerWorker  # noqa: PLC0415

            members = Worker, partial(TrainerWorker, serve_http=False)
        code = run(settings, members)
    if code:
        raise typer.Exit(code)


@contextmanager
def starting(what: str) -> Iterator[None]:
    """Says in words what keeps a process of that name from starting."""
    try:
        yield
    except Unrecoverable as e:
        raise Failure(e.code, f"The {what} cannot start.", str(e)) from e
    except ssl.SSLError as e:
        raise Failure(
            Code.USAGE,
            f"The {what} cannot start.",
            f"A certificate or key of kafka.ca, kafka.cert or kafka.key cannot be used: {e.reason or e}.",
            "Each is a file in PEM; kafka.key fits kafka.cert, and kafka.key_password opens it.",
        ) from e
    except msgspec.ValidationError as e:
        raise Failure(Code.USAGE, f"The {what} cannot start.", str(e)) from e
