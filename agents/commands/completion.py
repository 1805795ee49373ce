"""``churnwatch completion``: what a shell needs to complete our commands and flags."""

from __future__ import annotations

import os
from typing import Annotated, Literal

import typer

from agents.commands.shell import examples
from agents.settings import keys

PROGRAM = "churnwatch"
VARIABLE = "_CHURNWATCH_COMPLETE"
"""Set by the script in the shell when it asks; its value says what it wants to know."""

EPILOG = examples(
    'eval "$(churnwatch completion bash)"    bash: for this shell; as a line in ~/.bashrc for all',
    'eval "$(churnwatch completion zsh)"    zsh: likewise in ~/.zshrc, below a line: autoload -Uz compinit && compinit',
    "churnwatch completion fish > ~/.config/fish/completions/churnwatch.fish    fish: for all shells",
)


def prepare() -> None:
    """Makes ready to answer when it is the shell that calls; otherwise does nothing."""
    if VARIABLE in os.environ:
        # Typer's own, which its scripts ask for; it registers them only with flags that install them by themselves.
        from typer._completion_classes import completion_init  # noqa: PLC0415

        completion_init()


def keys_of_settings(incomplete: str) -> list[str]:
    """What could follow ``--set``."""
    return [f"{name}=" for name in keys() if name.startswith(incomplete)]


def sections_of_settings(incomplete: str) -> list[str]:
    """Sections and keys of the settings."""
    names = dict.fromkeys(name.split(".")[0] for name in keys())
    found = names if "." not in incomplete else keys()
    return [name for name in found if name.startswith(incomplete)]


def completion(
    shell: Annotated[Literal["bash", "zsh", "fish"], typer.Argument(help="Which shell.", show_default=False)],
) -> None:
    """Print a script that teaches a shell to complete commands, flags and values with Tab.

    It only prints; the examples say where it goes. The script asks churnwatch
    itself, so it stays right when commands change.
    """
    from typer._completion_shared import get_completion_script  # noqa: PLC0415

    print(get_completion_script(prog_name=PROGRAM, complete_var=VARIABLE, shell=shell))
