"""The settings as text: a commented file of all of them, and the effective ones with where each comes from."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator, Mapping
from typing import Any, Final, NamedTuple

from agents.meanings import EXAMPLES, SECTIONS
from agents.settings import Key, Origin, Settings, keys, shown, written

WIDTH: Final = 96
HEAD: Final = """\
Settings of churnwatch, all of them. Where # stands right before a key, that is its default: take the # away to \
change it. Where a blank follows the #, the line explains, or shows how one would write what has no default.

Over this file stand variables (CHURNWATCH_KAFKA__BROKERS=a:9092,b:9092), over them flags (churnwatch --set \
kafka.brokers=a:9092). What holds, and where it comes from: churnwatch config show"""


class Effective(NamedTuple):
    """One setting as it holds: ``value`` may be shown. ``entry`` is one entry of the table ``key.name``."""

    key: Key
    entry: str | None
    value: Any
    default: Any
    origin: Origin

    @property
    def name(self) -> str:
        """The dotted name."""
        return self.key.name if self.entry is None else f"{self.key.name}.{self.entry}"

    @property
    def section(self) -> str:
        """The section that the key stands in; empty for those above all."""
        return self.key.name.rpartition(".")[0]

    @property
    def shown(self) -> str:
        """The value as TOML would have it, secrets masked."""
        return shown(self.key, self.value)

    def plain(self) -> dict[str, Any]:
        """For ``--json``."""
        told: dict[str, Any] = {"key": self.name, "value": self.value, "default": self.default}
        if self.key.secret:
            told["value"] = None if self.value is None else self.shown
        elif isinstance(self.value, str) and self.shown != written(self.value):
            told["value"] = self.shown.strip('"')
        told |= {"from": self.origin.layer, "where": self.origin.where}
        if self.origin.line is not None:
            told["line"] = self.origin.line
        return told


def effective(settings: Settings) -> Iterator[Effective]:
    """Every setting as it holds, in the order of the sections; at the end of each its tables, entry by entry."""
    places = {key.name.rpartition(".")[0]: place for place, key in reversed(list(enumerate(keys().values())))}
    for key in sorted(
        keys().values(), key=lambda k: (places[k.name.rpartition(".")[0]], bool(_held(settings, k)[1]))
    ):
        value, entries = _held(settings, key)
        if not entries:
            yield Effective(key, None, value, key.default, settings.origin(key.name))
        for entry, one in entries.items():
            default = key.default.get(entry)
            yield Effective(key, entry, one, default, settings.origin(f"{key.name}.{entry}"))


def _held(settings: Settings, key: Key) -> tuple[Any, Mapping[str, Any]]:
    """The value of a key, and its entries if it is a table that has some."""
    value: Any = settings
    for part in key.name.split("."):
        value = getattr(value, part)
    return value, value if isinstance(value, Mapping) else {}


def commented() -> str:
    """A settings file in which every key stands with its meaning and default, commented out."""
    lines = [*_prose(HEAD)]
    section = ""
    tables: list[Key] = []
    for key in keys().values():
        name = key.name.rpartition(".")[0]
        if name != section:
            lines += _tables(tables)
            tables = []
            section = name
            lines += ["", "", *_prose(SECTIONS[section]), f"[{section}]"]
        if isinstance(key.default, Mapping) and key.default:
            tables.append(key)  # ends the section: what stands below a table's header belongs to the table
        else:
            lines += ["", *_explained(key), *_value(key)]
    lines += _tables(tables)
    return "\n".join(lines) + "\n"


def _explained(key: Key) -> Iterator[str]:
    about = f"Allowed: {key.allowed}." if not key.secret else ""
    yield from _prose(key.meaning, *([about] if about else []))


def _value(key: Key) -> Iterator[str]:
    name = key.name.rpartition(".")[2]
    if key.secret:
        yield f"# Never here: from the variable {key.variable}, or a file that {name}_file names."
        return
    example = EXAMPLES.get(key.name)
    if key.default is None:
        yield from _prose(f"Unset unless given; for example:\n{name} = {example}")
        return
    yield f"#{name} = {written(key.default)}"
    if example is not None:
        yield f"# For example: {name} = {example}"


def _tables(tables: list[Key]) -> Iterator[str]:
    for key in tables:
        yield ""
        yield from _explained(key)
        yield f"[{key.name}]"
        for entry, value in key.default.items():
            yield f"#{written(entry)} = {written(value)}"


def _prose(*paragraphs: str) -> Iterator[str]:
    for paragraph in paragraphs:
        for line in paragraph.splitlines():
            yield from (
                f"# {part}".rstrip() for part in textwrap.wrap(line, WIDTH, break_on_hyphens=False) or [""]
            )
