"""The command line of the benchmark."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

from bench import engines as comparison
from bench import results
from bench.events import KINDS
from bench.stage import Stage

app = typer.Typer(add_completion=False, rich_markup_mode=None, pretty_exceptions_enable=False)
console = Console(stderr=True)


@app.callback()
def main() -> None:
    """Speed, measured: churnwatch and its peers on the same events and the same broker."""


def chosen(text: str, allowed: tuple[Any, ...], what: str) -> list[Any]:
    """What was asked for, in the order of the house."""
    asked = set(text.split(",")) if text else set(allowed)
    if asked - set(allowed):
        raise typer.BadParameter(
            f"{', '.join(sorted(asked - set(allowed)))}; allowed are {', '.join(allowed)}", param_hint=what
        )
    return [name for name in allowed if name in asked]


@app.command()
def engines(
    only: Annotated[str, typer.Option(help="Engines, separated by commas.")] = "",
    kinds: Annotated[str, typer.Option(help="Kinds of events: uniform, zipf, mix.")] = "",
    quick: Annotated[bool, typer.Option("--quick", help="Few events: proves that it works.")] = False,
    repetitions: Annotated[int, typer.Option(help="Of each engine on each kind; 0: as planned.")] = 0,
    folder: Annotated[Path, typer.Option("--results", help="Where results are kept.")] = results.FOLDER,
) -> None:
    """Processor seconds per million events of each engine."""
    plan = comparison.QUICK if quick else comparison.FULL
    if repetitions:
        plan = plan._replace(repetitions=repetitions)
    names, sorts = chosen(only, comparison.NAMES, "--only"), chosen(kinds, KINDS, "--kinds")
    total = len(sorts) * (1 + plan.repetitions * len(names))
    with (
        Progress(
            TextColumn("{task.description:40}"),
            BarColumn(),
            TimeElapsedColumn(),
            console=console,
            disable=not console.is_terminal,
        ) as bar,
        Stage.open() as stage,
    ):
        task = bar.add_task("starting", total=total)

        def step(what: str) -> None:
            bar.update(task, advance=1, description=what)

        found = comparison.measure(stage, plan, names, sorts, step)
    results.keep("engines", found, folder)
    for name, by_kind in found.items():
        for kind, figures in by_kind.items():
            print(name, kind, figures)


if __name__ == "__main__":
    app(prog_name="python -m bench")
