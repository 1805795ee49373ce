"""``churnwatch trainer``: the process that learns from what became of customers."""

from __future__ import annotations

from typing import Annotated, Literal

import typer

from agents import logs
from agents.commands.shell import Shell, examples, shell
from agents.commands.worker import starting

EPILOG = examples(
    "churnwatch trainer                       beside the workers, with the same settings",
    "churnwatch trainer --http-port 0         its metrics on any free port",
    "churnwatch --set worker.trainer=true worker  in the process of a worker instead",
)


def trainer(
    context: typer.Context,
    http_host: Annotated[
        str | None, typer.Option(help="Address of /metrics, /healthz, /readyz.", show_default=False)
    ] = None,
    http_port: Annotated[
        int | None,
        typer.Option(help="Its port; the worker's and one. 0: any that is free.", show_default=False),
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
    """Run the trainer until it is told to stop.

    It learns from the labels that workers write to examples, and publishes model
    snapshots to models, which workers take up without a restart. One learns; a
    second one stands by. What cannot heal ends the process with a message.
    """
    call = shell(context)
    if http_port is None and call.settings.worker.http_port:
        http_port = call.settings.worker.http_port + 1
    flags = {
        "worker.http_host": http_host,
        "worker.http_port": http_port,
        "worker.log_level": log_level,
        "worker.log_format": log_format,
    }
    more = {key: value for key, value in flags.items() if value is not None}
    settings = Shell(call.config, call.flags | more, call.env, debug=call.debug).settings
    logs.configure(settings.worker.log_level, settings.worker.log_format, debug=call.debug)
    with starting("trainer"):
        # Faust and river take a second each to import, and every other command does without them.
        from agents.trainer import TrainerWorker  # noqa: PLC0415
        from agents.worker import run  # noqa: PLC0415

        code = run(settings, (TrainerWorker,))
    if code:
        raise typer.Exit(code)
