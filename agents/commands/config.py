"""``churnwatch config``: what holds and where it comes from, and a file to begin with."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

import msgspec
import typer
from rich.markup import escape

from agents.commands.completion import sections_of_settings
from agents.commands.shell import DEFAULT_FILE, examples, shell
from agents.commands.write import write_file
from agents.configuration import Effective, commented, effective
from agents.files import STDIN
from agents.settings import keys

EPILOG_SHOW = examples(
    "churnwatch config show                      every setting, its value, and where that comes from",
    "churnwatch config show kafka redis          of two sections",
    "churnwatch config show --changed            only what is not the default",
    "churnwatch --set policy.high=0.9 config show policy.high   what a flag would do",
    "churnwatch config show --json | jq -r 'select(.from != \"default\") | .key'",
)
EPILOG_INIT = examples(
    "churnwatch config init                      writes churnwatch.toml, which is read from this folder by itself",
    "churnwatch config init shop1.toml           another name: churnwatch --config shop1.toml ...",
    "churnwatch config init -                    to standard output",
    "churnwatch config init --force              anew, over the one that is there",
)


def show(
    context: typer.Context,
    wanted: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[SECTION|KEY]...",
            help="Only of these: kafka, policy.high.",
            show_default=False,
            autocompletion=sections_of_settings,
        ),
    ] = None,
    changed: Annotated[bool, typer.Option("--changed", help="Only what is not left at its default.")] = False,
    as_json: Annotated[
        bool, typer.Option("--json", help="One object a line: key, value, default, from, where, line.")
    ] = False,
) -> None:
    """Show the settings that hold, and where each comes from.

    Written as TOML, so that it can be pasted into a file. Secrets are never
    shown. Nothing is connected to.
    """
    call = shell(context)
    _known(wanted or [])
    found = [
        each
        for each in effective(call.settings)
        if (not wanted or any(f"{each.name}.".startswith(f"{name}.") for name in wanted))
        and (not changed or each.origin.layer != "default")
    ]
    if as_json:
        for each in found:
            sys.stdout.write(msgspec.json.encode(each.plain()).decode() + "\n")
        return
    if not found:
        call.err.print("Everything is left at its default.")
        return
    for line in _toml(found):
        call.out.print(line)


def _known(wanted: list[str]) -> None:
    names = list(keys())
    for name in wanted:
        if not any(f"{key}.".startswith(f"{name}.") or f"{name}.".startswith(f"{key}.") for key in names):
            sections = ", ".join(dict.fromkeys(key.split(".")[0] for key in names))
            raise typer.BadParameter(
                f"{name!r} is no section and no key. There are: {sections}, or a key such as policy.high"
            )


def _toml(found: list[Effective]) -> Iterator[str]:
    """Lines with rich markup, by section; what cannot stand in a file is commented out."""
    header = ""
    lines: list[tuple[str, str, Effective]] = []
    for each in found:
        mine = each.key.name if each.entry is not None else each.section
        before = ""
        if mine != header:
            before, header = mine, mine
        name = each.key.name.rpartition(".")[2] if each.entry is None else f'"{each.entry}"'
        text = f"{name} = {each.shown}"
        if each.value is None:
            text = f"# {name} is unset"
        elif each.key.secret:
            text = f"# {text}"
        lines.append((before, text, each))
    width = min(max(len(text) for _, text, _ in lines), 60)
    for number, (before, text, each) in enumerate(lines):
        if before:
            if number:
                yield ""
            yield escape(f"[{before}]")
        where = "default" if each.origin.layer == "default" else each.origin.where
        dim = each.origin.layer == "default"
        shown = f"{text:<{width}}  # {where}"
        yield (
            f"[dim]{escape(shown)}[/]" if dim else f"{escape(f'{text:<{width}}')}  [dim]# {escape(where)}[/]"
        )


def init(
    file: Annotated[
        Path, typer.Argument(help="Where to; - is standard output.", allow_dash=True)
    ] = DEFAULT_FILE,
    force: Annotated[bool, typer.Option("--force", help="Write over a file that is there.")] = False,
) -> None:
    """Write a settings file with every key, its meaning, its default and what is allowed.

    All values are commented out, so that the file changes nothing until you
    change it.
    """
    text = commented()
    if file == STDIN:
        sys.stdout.write(text)
        return
    write_file(file, text.encode(), force=force)
    print(f"Wrote {file}. See what holds with: churnwatch config show")
