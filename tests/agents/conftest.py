from __future__ import annotations

import os
from pathlib import Path

import pytest

from agents import cli
from tests.agents.command_line import CommandLine, Said


@pytest.fixture
def churnwatch(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> CommandLine:
    """The command line, in a folder of the test's own and with no settings but those it is given."""
    for name in os.environ:
        if name.startswith("CHURNWATCH_"):
            monkeypatch.delenv(name)
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.setenv("NO_COLOR", "1")
    monkeypatch.chdir(tmp_path)

    def call(*arguments: str) -> Said:
        capsys.readouterr()
        code = cli.main(list(arguments))
        out, err = capsys.readouterr()
        return Said(code, out, err)

    return call
