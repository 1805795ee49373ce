from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.agents.command_line import CommandLine

ROOT = Path(__file__).parents[2]
SHELLS = ("bash", "zsh", "fish")

# Each prints what the shell would offer for the words in ASK, as the shell itself asks for it.
ASK = {
    "bash": """
        eval "$(churnwatch completion bash)"
        COMP_WORDS=($ASK); [[ "$ASK" == *" " ]] && COMP_WORDS+=("")
        COMP_CWORD=$((${#COMP_WORDS[@]} - 1))
        function=$(complete -p churnwatch | sed 's/.*-F \\([^ ]*\\).*/\\1/')
        $function churnwatch
        printf '%s\\n' "${COMPREPLY[@]}"
    """,
    "zsh": """
        autoload -Uz compinit && compinit -D -u
        eval "$(churnwatch completion zsh)"
        # Outside the line editor nothing can be offered: what it would be is printed instead.
        _arguments() { print -r -- "$@" }
        _files() { print files }
        words=(${(z)ASK}); [[ "$ASK" == *" " ]] && words+=("")
        CURRENT=${#words}
        ${_comps[churnwatch]}
    """,
    "fish": """
        churnwatch completion fish | source
        complete --do-complete "$ASK"
    """,
}


def offered(shell: str, words: str, tmp_path: Path) -> str:
    """What a real shell offers after these words."""
    where = shutil.which(shell)
    if where is None:
        assert shell != "bash", "bash must be there"
        pytest.skip(f"{shell} is not installed here")
    program = tmp_path / "churnwatch"
    program.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m agents.cli "$@"\n')
    program.chmod(0o755)
    env = {
        "PATH": f"{tmp_path}:{os.environ['PATH']}",
        "PYTHONPATH": str(ROOT),
        "HOME": str(tmp_path),
        "LANG": "C.UTF-8",
        "TERM": "dumb",
        "ASK": words,
    }
    plain = {"bash": ["--noprofile", "--norc"], "zsh": ["-f"], "fish": ["--no-config"]}[shell]
    done = subprocess.run(
        [where, *plain, "-c", ASK[shell]], env=env, cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert not done.stderr.strip(), done.stderr
    return done.stdout


@pytest.mark.parametrize("shell", SHELLS)
def test_a_shell_completes_commands(shell: str, tmp_path: Path) -> None:
    said = offered(shell, "churnwatch c", tmp_path)
    for command in ("customers", "customer", "config", "completion"):
        assert command in said
    assert "worker" not in said


@pytest.mark.parametrize("shell", SHELLS)
def test_a_shell_completes_values_of_a_flag(shell: str, tmp_path: Path) -> None:
    said = offered(shell, "churnwatch customers --band ", tmp_path)
    assert all(band in said for band in ("low", "medium", "high", "lapsed"))
    assert "customers" not in said


def test_bash_completes_subcommands_and_flags(tmp_path: Path) -> None:
    assert set(offered("bash", "churnwatch config ", tmp_path).split()) == {"show", "init"}
    assert set(offered("bash", "churnwatch alerts --fo", tmp_path).split()) == {"--follow"}


def test_bash_completes_the_keys_of_settings(tmp_path: Path) -> None:
    said = offered("bash", "churnwatch --set policy.ho", tmp_path)
    assert said.split() == ["policy.horizon_days="]


def test_another_shell_is_refused_with_those_there_are(churnwatch: CommandLine) -> None:
    said = churnwatch("completion", "tcsh")
    assert said.code == 2
    assert all(shell in said.err for shell in SHELLS)


def test_help_says_where_the_script_goes(churnwatch: CommandLine) -> None:
    out = churnwatch("completion", "--help").out
    assert "~/.bashrc" in out
    assert "~/.zshrc" in out
    assert "~/.config/fish/completions/churnwatch.fish" in out
