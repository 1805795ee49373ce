"""What was measured, for machines (``speed.json``) and for people (``speed.md``). Each section replaces its own."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import msgspec

from bench import environment
from tests.chaos.results import machine
from tests.servers import ROOT

FOLDER = ROOT / "bench" / "results"


def merged(before: Mapping[str, Any], section: str, found: Any) -> dict[str, Any]:
    """The results with a section's new figures; of ``engines`` only the engines and kinds that were measured."""
    after = dict(before)
    if section == "engines":
        engines = {name: dict(kinds) for name, kinds in after.get("engines", {}).items()}
        for name, kinds in found.items():
            engines.setdefault(name, {}).update(kinds)
        found = engines
    after[section] = found
    return after


def read(folder: Path = FOLDER) -> dict[str, Any]:
    """What was measured so far."""
    file = folder / "speed.json"
    return msgspec.json.decode(file.read_bytes()) if file.exists() else {}


def keep(section: str, found: Any, load: float, folder: Path = FOLDER) -> dict[str, Any]:
    """Add a section's figures, with the machine, the versions and when; returns all results.

    ``load``: the load average of the machine before the run, which is the work of others.
    """
    folder.mkdir(parents=True, exist_ok=True)
    after = merged(read(folder), section, found)
    said = machine()
    hardware = ("cores", "memory", "system")
    after["machine"] = {key: said.pop(key) for key in hardware} | {"processor": processor()}
    after["versions"] = said | peers()
    after["when"] = {**after.get("when", {}), section: datetime.now(UTC).isoformat(timespec="seconds")}
    after["load_before"] = {**after.get("load_before", {}), section: round(load, 2)}
    (folder / "speed.json").write_bytes(msgspec.json.format(msgspec.json.encode(after), indent=1) + b"\n")
    return after


def processor() -> str:
    """What the system calls it."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return "unknown"
    return next(
        (line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "unknown"
    )


def peers() -> dict[str, str]:
    """Versions of the peers, from the list they are installed from."""
    pinned = dict(
        line.rstrip(" \\").split("==")
        for line in environment.REQUIREMENTS.read_text().splitlines()
        if "==" in line and not line.startswith((" ", "#")) and ";" not in line
    )
    return {name: pinned[name] for name in ("bytewax", "quixstreams")}
