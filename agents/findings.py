"""What was looked at, what was found, why it matters and what to do: the words of ``doctor`` and ``status``."""

from __future__ import annotations

import enum
from collections.abc import Iterable
from typing import NamedTuple


class Level(enum.StrEnum):
    """How much a finding matters, the least first."""

    OK = "ok"
    UNKNOWN = "unknown"  # could not be looked at; the finding says why
    NOTE = "note"  # worth knowing, nothing is wrong
    WARNING = "warning"  # works now, and will not always
    PROBLEM = "problem"  # does not work, or loses something


class Finding(NamedTuple):
    """One thing that was looked at. ``check`` names it for machines and never changes; the rest is for people."""

    level: Level
    check: str
    found: str
    why: str = ""
    do: str = ""

    def as_dict(self) -> dict[str, str]:
        """For ``--json``; what is not said is absent."""
        said = {"check": self.check, "level": self.level.value, "found": self.found}
        return said | {name: text for name, text in (("why", self.why), ("do", self.do)) if text}


def ok(check: str, found: str) -> Finding:
    """As it should be."""
    return Finding(Level.OK, check, found)


def unknown(check: str, found: str, why: str, do: str = "") -> Finding:
    """Not looked at, and why not."""
    return Finding(Level.UNKNOWN, check, found, why, do)


def note(check: str, found: str, why: str = "", do: str = "") -> Finding:
    """Worth knowing."""
    return Finding(Level.NOTE, check, found, why, do)


def warning(check: str, found: str, why: str, do: str) -> Finding:
    """Works now, and will not always."""
    return Finding(Level.WARNING, check, found, why, do)


def problem(check: str, found: str, why: str, do: str) -> Finding:
    """Does not work, or loses something."""
    return Finding(Level.PROBLEM, check, found, why, do)


def counted(number: int, one: str, many: str | None = None) -> str:
    """``1 record``, ``1,200 records``."""
    return f"{number:,} {one if number == 1 else many or one + 's'}"


def numbered(numbers: Iterable[int]) -> str:
    """``partition 3``, ``partitions 2, 3``; runs of more than two are written ``4 to 9``."""
    listed = sorted(set(numbers))
    parts: list[str] = []
    start = 0
    for i, number in enumerate(listed):
        if i + 1 < len(listed) and listed[i + 1] == number + 1:
            continue
        run = listed[start : i + 1]
        parts += [f"{run[0]} to {run[-1]}"] if len(run) > 2 else map(str, run)
        start = i + 1
    return f"partition{'s' if len(listed) != 1 else ''} {', '.join(parts)}"


def lasting(seconds: float) -> str:
    """A duration as a person says it: ``12 seconds``, ``4 minutes``, ``3 hours``, ``12 days``."""
    for size, unit in ((86_400, "day"), (3_600, "hour"), (60, "minute")):
        if seconds >= 2 * size:
            return counted(int(seconds // size), unit)
    return counted(int(seconds), "second")


def bytes_of(size: float) -> str:
    """``900 B``, ``1.2 MB``, ``23.5 GB``."""
    for unit in ("B", "kB", "MB", "GB"):
        if size < 1000:
            return f"{size:.0f} {unit}" if unit == "B" or size >= 100 else f"{size:.1f} {unit}"
        size /= 1000
    return f"{size:.1f} TB"
