"""The peers' own environment, ``.venv-bench``: made once from a list of versions and hashes."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from pathlib import Path

from tests.servers import ROOT

FOLDER = ROOT / ".venv-bench"
PYTHON = FOLDER / "bin" / "python"
REQUIREMENTS = ROOT / "bench" / "requirements.txt"
PATIENCE = 600.0


class CannotMake(Exception):
    """The environment of the peers cannot be made; the message says why and what to do."""


def make() -> Path:
    """The interpreter of the peers' environment, made where it is not there or its list has changed.

    Raises :class:`CannotMake`.
    """
    made = FOLDER / ".made"
    wanted = hashlib.sha256(REQUIREMENTS.read_bytes()).hexdigest()
    if made.exists() and made.read_text() == wanted:
        return PYTHON
    print(f"Installing the peers into {FOLDER.name} (once; about 300 MB)", file=sys.stderr, flush=True)
    pip = [
        str(PYTHON),
        "-m",
        "pip",
        "install",
        "--disable-pip-version-check",
        "--quiet",
        "--progress-bar",
        "off",
    ]
    for command in (
        [sys.executable, "-m", "venv", "--clear", str(FOLDER)],
        [*pip, "--require-hashes", "--no-deps", "-r", str(REQUIREMENTS)],
    ):
        try:
            ran = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE, check=False)
        except (OSError, subprocess.TimeoutExpired) as error:
            raise CannotMake(_why(str(error))) from error
        if ran.returncode:
            said = (ran.stderr or ran.stdout).strip().splitlines()
            raise CannotMake(_why(said[-1] if said else f"{command[0]} ended with {ran.returncode}"))
    made.write_text(wanted)
    return PYTHON


def clean(more: dict[str, str]) -> dict[str, str]:
    """This process' variables for a peer's, without those that would show it our own packages."""
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("PYTHON", "VIRTUAL_ENV", "CHURNWATCH_"))}
    return kept | more


def _why(reason: str) -> str:
    return (
        f"Cannot make {FOLDER.name}, the environment of the peers: {reason}. It takes the network once. Without it, "
        f"churnwatch alone can be measured: python -m bench engines --only churnwatch"
    )
