"""The command line of the benchmark: all sections, or one."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from bench import engines as comparison
from bench import environment, results
from bench import latency as waiting
from bench import memory as remembering
from bench import profile as sampling
from bench import sweep as sweeping
from bench import takeover as taking
from bench.events import KINDS, Kind
from bench.page import page
from bench.stage import Stage
from tests.servers import ROOT, Missing

EPILOG = """Examples:

\b
python -m bench                                            everything; a quarter of an hour on two cores
python -m bench --quick                                    a little of everything: proves that it works
python -m bench engines --only churnwatch --kinds uniform  one engine on one kind of events
python -m bench engines --only churnwatch,faust_empty --repetitions 1 --events 100000
python -m bench latency                                    one section; its figures replace those of before
python -m bench plot                                       the page and the picture again from speed.json

Figures go to bench/results (speed.json, speed.md, speed.svg) unless --results says otherwise. Needs Java 17, Maven
and redis-server; the peers are installed into .venv-bench once. What it all means: docs/speed.md.
"""

app = typer.Typer(add_completion=False, rich_markup_mode=None, pretty_exceptions_enable=False)

Step = Callable[[str], None]
Section = tuple[str, int, Callable[[Stage, Step], Any]]
"""A name, how many steps it has, and how it is measured."""
Quick = Annotated[
    bool, typer.Option("--quick", help="A little of it: proves that it works, figures mean nothing.")
]
Folder = Annotated[Path, typer.Option("--results", help="Where figures are kept.", show_default=False)]
Only = Annotated[str, typer.Option(help="Engines, separated by commas.", metavar="NAMES")]
Kinds = Annotated[str, typer.Option(help="Of events: uniform, zipf, mix.", metavar="KINDS")]


@app.callback(invoke_without_command=True, epilog=EPILOG)
def everything(
    context: typer.Context,
    only: Only = "",
    kinds: Kinds = "",
    quick: Quick = False,
    folder: Folder = results.FOLDER,
) -> None:
    """Speed, measured: churnwatch and its peers on the same events, the same broker, in the same run."""
    if context.invoked_subcommand is not None:
        return
    plan = comparison.QUICK if quick else comparison.FULL
    names, sorts = _chosen(only, comparison.NAMES, "--only"), _chosen(kinds, KINDS, "--kinds")
    sections = [
        _engines(plan, names, sorts),
        *(_section(name, quick) for name in ("latency", "memory", "sweep", "takeover", "profile")),
    ]
    _run(sections, folder, peers=True)


@app.command()
def engines(
    only: Only = "",
    kinds: Kinds = "",
    repetitions: Annotated[int, typer.Option(help="Of each engine on each kind; 0: as planned.")] = 0,
    events: Annotated[int, typer.Option(help="Of each kind; 0: as planned. A quarter warms up.")] = 0,
    quick: Quick = False,
    folder: Folder = results.FOLDER,
) -> None:
    """Processor seconds per million events, each engine on the same topic."""
    plan = comparison.QUICK if quick else comparison.FULL
    if repetitions:
        plan = plan._replace(repetitions=repetitions)
    if events:
        plan = plan.of(events)
    names, sorts = _chosen(only, comparison.NAMES, "--only"), _chosen(kinds, KINDS, "--kinds")
    found = _run([_engines(plan, names, sorts)], folder, peers=names != ["churnwatch"])
    for name in names:
        for kind in sorts:
            figures = found["engines"][name][kind]
            print(f"{name:12} {kind:8} " + "  ".join(f"{key} {value}" for key, value in figures.items()))


@app.command()
def latency(quick: Quick = False, folder: Folder = results.FOLDER) -> None:
    """From the producer to the durable outbox and to a consumer of alerts, at 1,000 events a second."""
    _one("latency", quick, folder)


@app.command()
def memory(quick: Quick = False, folder: Folder = results.FOLDER) -> None:
    """Bytes of Redis per customer, on CDNOW and on the mix."""
    _one("memory", quick, folder)


@app.command()
def sweep(quick: Quick = False, folder: Folder = results.FOLDER) -> None:
    """Firing the same number of deadlines among few customers and among many."""
    _one("sweep", quick, folder)


@app.command()
def takeover(quick: Quick = False, folder: Folder = results.FOLDER) -> None:
    """From the end of one of two workers until its partitions are worked on again."""
    _one("takeover", quick, folder)


@app.command()
def profile(quick: Quick = False, folder: Folder = results.FOLDER) -> None:
    """Where the worker's processor time goes."""
    _one("profile", quick, folder)


@app.command()
def plot(folder: Folder = results.FOLDER) -> None:
    """The page and the picture, from the figures that are there."""
    found = results.read(folder)
    if not found:
        _fail(f"There are no figures in {folder}: measure first, python -m bench --help says how.")
    _show(found, folder)


def _section(name: str, quick: bool) -> Section:
    """One of the sections beside the engines."""
    plan = comparison.QUICK if quick else comparison.FULL
    match name:
        case "latency":
            return name, 2, lambda stage, step: waiting.measure(stage, 3.0 if quick else 30.0, step)
        case "memory":
            share, days, mix = (50, 60, 6_000) if quick else (5, 546, 120_000)
            return name, 2, lambda stage, step: remembering.measure(stage, share, days, mix, step)
        case "sweep":
            sizes = (10_000, 20_000) if quick else (10_000, 1_000_000)
            rounds = 2 if quick else 8
            return name, 2, lambda stage, step: sweeping.measure(stage, sizes, rounds, step)
        case "takeover":
            times = 1 if quick else 3
            return name, 2 * times, lambda stage, step: taking.measure(stage, times, step)
        case _:
            return name, 1, lambda stage, step: sampling.measure(stage, "uniform", plan, 120, step)


def _engines(plan: comparison.Plan, names: list[comparison.Name], kinds: list[Kind]) -> Section:
    """The engines side by side."""
    steps = len(kinds) * (1 + plan.repetitions * len(names))
    return "engines", steps, lambda stage, step: comparison.measure(stage, plan, names, kinds, step)


def _one(name: str, quick: bool, folder: Path) -> None:
    found = _run([_section(name, quick)], folder, peers=name == "profile")
    for key, value in found[name].items():
        print(f"{key:22} {value}")


def _run(sections: list[Section], folder: Path, *, peers: bool) -> dict[str, Any]:
    """Measure sections on one stage, keep each as soon as it is there, and write the page and the picture.

    ``peers``: whether it takes their environment.
    """
    found: dict[str, Any] = {}
    load = os.getloadavg()[0]  # before anything of ours runs: what others do on this machine
    try:
        if peers:
            environment.make()  # before anything is measured: it takes a core for half a minute
        with _progress(sum(steps for _, steps, _ in sections)) as step, Stage.open() as stage:
            for name, _, measure in sections:
                found = results.keep(name, measure(stage, step), load, folder)
    except (Missing, environment.CannotMake) as error:
        _fail(str(error))
    _show(found, folder)
    return found


def _show(found: dict[str, Any], folder: Path) -> None:
    (folder / "speed.md").write_text(page(found))
    try:
        python = environment.make()
    except environment.CannotMake as error:
        print(f"No picture is drawn. {error}", file=sys.stderr)
        return
    # Its first run on a machine collects the fonts and says so.
    command = [str(python), "-m", "bench.plot", str(folder / "speed.json"), str(folder / "speed.svg")]
    ran = subprocess.run(
        command, cwd=ROOT, env=environment.clean({}), capture_output=True, text=True, check=False
    )
    if ran.returncode:
        _fail(f"The picture could not be drawn: {ran.stderr.strip()[-500:]}")
    print(f"Kept in {folder}: speed.json, speed.md, speed.svg", file=sys.stderr)


@contextmanager
def _progress(total: int) -> Iterator[Step]:
    """Tells what is being measured: a bar on a terminal, lines elsewhere."""
    console = Console(stderr=True)
    if not console.is_terminal:
        yield lambda what: print(what, file=sys.stderr, flush=True)
        return
    columns = (TextColumn("{task.description:34}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=console) as bar:
        task = bar.add_task("starting the broker", total=total)
        begun = False

        def step(what: str) -> None:
            nonlocal begun
            bar.update(task, advance=int(begun), description=what)
            begun = True

        yield step
        bar.update(task, completed=total, description="done")


def _chosen(text: str, allowed: tuple[Any, ...], option: str) -> list[Any]:
    """What was asked for, in the order of the house; all of it when nothing was."""
    asked = {name.strip() for name in text.split(",")} if text else set(allowed)
    wrong = sorted(asked - set(allowed))
    if wrong:
        raise typer.BadParameter(f"{', '.join(wrong)}: there is {', '.join(allowed)}", param_hint=option)
    return [name for name in allowed if name in asked]


def _fail(why: str) -> None:
    print(f"bench: {why}", file=sys.stderr)
    raise typer.Exit(1)


if __name__ == "__main__":
    app(prog_name="python -m bench")
