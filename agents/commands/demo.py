"""``churnwatch demo``: real customers going silent, on servers of its own."""

from __future__ import annotations

from typing import Annotated, Literal

import typer

from agents.commands.shell import examples, shell

EPILOG = examples(
    "churnwatch demo                              a tenth of the customers of CDNOW, 1997 and 1998",
    "churnwatch demo --data cdnow-all             all of them; takes minutes",
    "churnwatch demo --data simulated             a made-up shop with complaints, and a known truth",
    "churnwatch demo --data orders.csv            your own",
    "churnwatch demo --servers given              on the Kafka and Redis of your settings",
)


def demo(
    context: typer.Context,
    data: Annotated[
        str, typer.Option(help="cdnow, cdnow-all, simulated, or a CSV, NDJSON or Parquet file.")
    ] = "cdnow",
    servers: Annotated[
        Literal["embedded", "given"],
        typer.Option(help="embedded: in this process, kept nowhere. given: those of your settings."),
    ] = "embedded",
) -> None:
    """Play history through a real worker and show warnings as they are raised.

    It ends by itself, or with Ctrl-C.
    """
    call = shell(context)
    from agents.demo import run  # noqa: PLC0415 -- brings Faust and servers along, which no other command needs

    code = run(call.settings, data=data, embedded=servers == "embedded")
    if code:
        raise typer.Exit(code)
