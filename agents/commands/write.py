"""How a command writes a file: whole or not at all, and over another only when told to."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from agents.commands.shell import Code, Failure


@contextmanager
def new_file(path: Path, *, force: bool = False) -> Iterator[IO[bytes]]:
    """A file to write; it takes its place when the block has ended well, and is gone otherwise.

    Raises :class:`Failure` when there is one already and not ``force``, or when it cannot be written.
    """
    taken = path.exists()
    special = taken and not path.is_file()  # a pipe or a terminal: written as it is
    if taken and not special and not force:
        raise Failure(
            Code.USAGE, f"{path} is there already.", "It was left as it is.", "Choose another name, or add --force."
        )  # fmt: skip
    if path.is_dir():
        raise Failure(Code.INPUT, f"Cannot write {path}.", "It is a folder.", "Name a file in it.")
    try:
        if special:
            with path.open("wb") as stream:
                yield stream
            return
        handle, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
        part = Path(name)
        try:
            with os.fdopen(handle, "wb") as stream:
                yield stream
            part.chmod(_mode(path))
            part.replace(path)
        finally:
            part.unlink(missing_ok=True)
    except BrokenPipeError:
        raise
    except OSError as e:
        raise Failure(
            Code.INPUT,
            f"Cannot write {path}.",
            f"{e.strerror or e}.",
            "Check that its folder is there, may be written to and has room.",
        ) from e


def _mode(path: Path) -> int:
    """The rights of the file that is replaced, or those of any new file."""
    if path.exists():
        return path.stat().st_mode & 0o777
    umask = os.umask(0)
    os.umask(umask)
    return 0o666 & ~umask


def write_file(path: Path, content: bytes, *, force: bool = False) -> None:
    """Writes a whole file; see :func:`new_file`."""
    with new_file(path, force=force) as stream:
        stream.write(content)
