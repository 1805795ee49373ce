"""``churnwatch demo``: real customers going silent, on servers of its own."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from agents.commands.shell import Code, Failure, examples, shell
from agents.files import FileError

EPILOG = (
    examples(
        "churnwatch demo                              a tenth of the customers of CDNOW, 1997 and 1998",
        "churnwatch demo --data cdnow-all             all of them; takes minutes",
        "churnwatch demo --data groceries             a tenth of the households of a grocery chain's panel",
        "churnwatch demo --data simulated             a made-up shop with complaints, and a known truth",
        "churnwatch demo --data orders.csv            your own",
        "churnwatch demo --plain                      no screen: lines, as fast as it goes",
        "churnwatch demo --screenshot demo.svg        a picture of the screen, as in docs/demo.md",
        "churnwatch demo --servers given              on the Kafka and Redis of your settings",
    )
    + "\n\nKeys:\n\n  space pause, + faster, - slower, n next customer, q quit"
)


def demo(
    context: typer.Context,
    data: Annotated[
        str,
        typer.Option(
            help="cdnow, cdnow-all, groceries, groceries-all, simulated, or a CSV, NDJSON or Parquet file."
        ),
    ] = "cdnow",
    servers: Annotated[
        Literal["embedded", "given"],
        typer.Option(help="embedded: in this process, kept nowhere. given: those of your settings."),
    ] = "embedded",
    plain: Annotated[
        bool, typer.Option("--plain", help="Lines instead of a screen; without a terminal always.")
    ] = False,
    screenshot: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE", help="Needs no terminal: play up to --moment, save the screen as SVG, and end."
        ),
    ] = None,
    moment: Annotated[
        float, typer.Option(min=0, max=1, help="For --screenshot: this share of the period; 1: the end.")
    ] = 0.7,
) -> None:
    """Play history through a real worker and show warnings as they are raised.

    On a terminal a screen to watch and to steer, elsewhere lines. It ends with q or
    Ctrl-C, and without a screen also by itself.
    """
    call = shell(context)
    # Brings Faust, servers and the screen along, which no other command needs.
    from agents.demo import DemoError, Picture, run  # noqa: PLC0415

    picture = None if screenshot is None else Picture(screenshot, moment)
    try:
        code = run(call.settings, data=data, embedded=servers == "embedded", lines=plain, picture=picture)
    except DemoError as error:
        what, _, rest = str(error).partition("\n")
        raise Failure(error.code, what, rest) from error
    except FileError as error:
        raise Failure(Code.INPUT, "The file cannot be played.", str(error)) from error
    if code:
        raise typer.Exit(code)
