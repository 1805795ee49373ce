"""How a call of the command line ends: with which code, and what a person is told."""

from __future__ import annotations

import contextlib
import errno
import io
import os
import sys
import traceback
from collections.abc import Callable
from typing import TextIO

from rich.console import Console
from rich.markup import escape

from agents.commands.shell import Code, Failure

# A write that fails for these reasons fails because of the machine, not because of us.
NO_ROOM = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO})


def ended(call: Callable[[], object], *, debug: bool) -> int:
    """Runs a call to its end; the exit code. Errors that a person can repair come without a traceback."""
    _open_streams()
    try:
        code = _code(call)
        sys.stdout.flush()  # here, where a disk that is full can be told
    except Failure as e:
        return _told(e, debug)
    except KeyboardInterrupt:
        return Code.INTERRUPTED
    except BrokenPipeError:
        # Whoever read us (head, less) has seen enough; Python would complain again while it closes stdout.
        _discard(sys.stdout)
        return Code.DONE
    except OSError as e:
        if e.errno not in NO_ROOM:
            return _told(_bug(e), debug)
        _discard(sys.stdout)
        return _told(
            Failure(
                Code.INPUT,
                "The output could not be written" + (f" to {e.filename}." if e.filename else "."),
                f"{e.strerror}.",
                "Make room there, or write it elsewhere, and run the command again.",
            ),
            debug,
        )
    except Exception as e:  # noqa: BLE001 -- the last net: a bug, shown as one
        return _told(_bug(e), debug)
    return code


def _code(call: Callable[[], object]) -> int:
    try:
        call()
    except SystemExit as e:
        if isinstance(e.__context__, BrokenPipeError):
            raise e.__context__ from None  # typer makes a failure of it
        return e.code if isinstance(e.code, int) else int(bool(e.code))
    return Code.DONE


def _bug(error: Exception) -> Failure:
    return Failure(
        Code.FAILED,
        f"churnwatch failed: {type(error).__name__}: {error}",
        "This is an error in churnwatch.",
        "Run it again with --debug and report what it says.",
    )


def _told(failure: Failure, debug: bool) -> int:
    # Where standard error cannot be written to either, the code alone says what happened.
    with contextlib.suppress(OSError):
        if debug:
            traceback.print_exc()
        tell(failure)
    return int(failure.code)


def tell(failure: Failure) -> None:
    """What happened, why, and what to do, on standard error."""
    console = Console(stderr=True, highlight=False, soft_wrap=True)
    if failure.code == Code.INTERRUPTED:
        console.print(escape(failure.what))
        return
    console.print(f"[bold red]Error:[/] {escape(failure.what)}")
    for part in (failure.why, failure.todo):
        if part:
            console.print(escape(part))


def _open_streams() -> None:
    """Whoever closes a stream (``>&-``) wants nothing of it: it goes where nothing is kept."""
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:
            stream = io.TextIOWrapper(open(os.devnull, "wb"))  # noqa: SIM115, PTH123 -- open to the end of the process
            setattr(sys, name, stream)


def _discard(stream: TextIO) -> None:
    """What is still to be written to a stream, and all that follows, is dropped."""
    with contextlib.suppress(io.UnsupportedOperation):  # a stream that is no file, in tests
        os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
