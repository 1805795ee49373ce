"""What all commands share: the settings of this call, and how to say that something went wrong."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from functools import cached_property
from pathlib import Path

import typer
from rich.console import Console
from rich.markup import escape

from agents.failure import Code
from agents.settings import Settings, SettingsError
from streams.codec import Codec
from streams.events import to_micros
from streams.topics import COMPACTED

__all__ = ["DEFAULT_FILE", "Code", "Failure", "Shell", "examples", "instant", "shell", "visible"]

DEFAULT_FILE = Path("churnwatch.toml")


class Failure(Exception):
    """What happened, why, and what to do; ends the command with ``code``."""

    def __init__(self, code: int, what: str, why: str = "", todo: str = "") -> None:
        super().__init__(what)
        self.code = code
        self.what = what
        self.why = why
        self.todo = todo

    def __str__(self) -> str:
        return "\n".join(part for part in (self.what, self.why, self.todo) if part)


class Shell:
    """One call of the command line: global flags, environment, and the two streams to write to."""

    def __init__(
        self,
        config: Path | None = None,
        flags: Mapping[str, object] | None = None,
        env: Mapping[str, str] | None = None,
        *,
        debug: bool = False,
    ) -> None:
        self.config = config
        self.flags = dict(flags or {})
        self.env = os.environ if env is None else env
        self.debug = debug
        self.out = Console(highlight=False, soft_wrap=True)
        self.err = Console(highlight=False, soft_wrap=True, stderr=True)

    @cached_property
    def settings(self) -> Settings:
        """The settings, read when first asked for. Raises :class:`Failure`."""
        path = self.config or self.default()
        try:
            return Settings.load(path, self.env, self.flags)
        except SettingsError as e:
            lines = "\n".join(f"  {p.text}" for p in e.problems)
            what = "A setting is wrong:" if len(e.problems) == 1 else "Some settings are wrong:"
            raise Failure(Code.USAGE, what, lines, "All keys: docs/configuration.md.") from e

    @staticmethod
    def default() -> Path | None:
        """The settings file of this folder, where there is one."""
        try:
            return DEFAULT_FILE if DEFAULT_FILE.is_file() else None
        except (
            OSError
        ) as e:  # there may be one, and to go on without it would be to go on with other settings
            raise Failure(
                Code.USAGE,
                f"It cannot be seen whether there is a {DEFAULT_FILE} in this folder.",
                f"{e.strerror}.",
                "Go to another folder, or name a settings file with --config.",
            ) from e

    def codec(self) -> Codec:
        """What judges events as the worker will. Raises :class:`Failure`."""
        shop = self.settings.shop
        try:
            return Codec(shop.currency, shop.minor_units, shop.rates, frozenset(COMPACTED))
        except ValueError as e:
            raise Failure(Code.USAGE, "A setting is wrong:", f"  shop.{e}.") from e


def shell(context: typer.Context) -> Shell:
    """The call that a command belongs to."""
    found = context.find_object(Shell)
    if found is None:
        found = context.obj = Shell()
    return found


_AGO = re.compile(r"(\d+(?:\.\d+)?)\s*(s|m|h|d|w)")
_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400, "w": 604800}


def instant(text: str, now: datetime | None = None) -> int:
    """Microseconds of ``2026-01-31``, ``2026-01-31T09:30:00Z`` or ``7d`` (ago). Raises BadParameter."""
    ago = _AGO.fullmatch(text.strip())
    if ago is not None:
        return to_micros((now or datetime.now(UTC)) - timedelta(seconds=float(ago[1]) * _UNITS[ago[2]]))
    try:
        moment = datetime.fromisoformat(text.strip())
    except ValueError:
        raise typer.BadParameter(
            f"{text!r} is no time: write 2026-01-31, 2026-01-31T09:30:00Z, or 7d, 12h, 30m for so long ago"
        ) from None
    return to_micros(moment if moment.tzinfo else moment.replace(tzinfo=UTC))


# Signs that a terminal obeys, and those that turn the direction of writing: all but the tab and the end of a line.
_OBEYED = re.compile("[\\x00-\\x08\\x0b-\\x1f\\x7f-\\x9f\\u202a-\\u202e\\u2066-\\u2069]")


def visible(text: str) -> str:
    """What somebody else has written, for a terminal: signs that it would obey are spelled out."""
    return _OBEYED.sub(lambda found: found[0].encode("unicode_escape").decode(), text)


def examples(*lines: str) -> str:
    """An epilog of examples. Each line is a command and, after two spaces or more, what it does."""
    shown = ["Examples:", ""]
    for line in lines:
        command, _, what = line.partition("  ")
        shown.append(f"  [bold]{escape(command)}[/]")
        if what:
            shown.append(f"    {escape(what.strip())}")
    return "\n".join(shown)
