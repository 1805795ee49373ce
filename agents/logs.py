"""What a worker writes to standard error: lines for people or for machines, with tracebacks only when asked for."""

from __future__ import annotations

import logging
import sys
import time
import traceback
from collections.abc import Mapping
from typing import Final, Literal

import msgspec

LIBRARIES: Final = ("faust", "mode", "aiokafka", "kafka", "redis", "asyncio", "aiohttp")
REPEATED: Final = 30.0
"""Seconds in which a library says the same only once: aiokafka says it of every attempt."""
SORTS: Final = 1000
NAMES: Final[Mapping[int, str]] = {
    logging.DEBUG: "debug",
    logging.INFO: "info",
    logging.WARNING: "warning",
    logging.ERROR: "error",
    logging.CRITICAL: "critical",
}


def configure(level: str, form: Literal["plain", "json"], *, debug: bool) -> None:
    """Sets up logging for the whole process. Libraries are heard from error on, or with everything at debug."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(Json(debug=debug) if form == "json" else Plain(debug=debug))
    root = logging.getLogger()
    for old in list(root.handlers):
        root.removeHandler(old)
    root.addHandler(handler)
    root.setLevel(level.upper())
    logging.raiseExceptions = debug  # who closed standard error does not want to hear of it there
    if level == "debug":
        return
    handler.addFilter(Seldom())
    for library in LIBRARIES:
        logging.getLogger(library).setLevel(logging.ERROR)


class Seldom(logging.Filter):
    """Lets a library's sentence pass once in a while, not at every attempt."""

    def __init__(self) -> None:
        super().__init__()
        self._said: dict[tuple[str, str], float] = {}

    def filter(self, record: logging.LogRecord) -> bool:
        """Whether a record is to be written."""
        text = record.getMessage()
        # Faust's services log in the name of the module that subclasses them, and begin with their place in a tree.
        service = text.startswith("[^")
        if not service and record.name.partition(".")[0] not in LIBRARIES:
            return True
        if service and record.levelno < logging.ERROR:
            return False
        sentence = record.name, text
        now = time.monotonic()
        if now - self._said.get(sentence, -REPEATED) < REPEATED:
            return False
        if len(self._said) >= SORTS:
            self._said.clear()
        self._said[sentence] = now
        return True


class _Formatter(logging.Formatter):
    def __init__(self, *, debug: bool) -> None:
        super().__init__()
        self.debug = debug

    @staticmethod
    def error(record: logging.LogRecord) -> BaseException | None:
        """What was raised: given to the log with its traceback, or shown as the message."""
        if record.exc_info and record.exc_info[1] is not None:
            return record.exc_info[1]
        if isinstance(record.args, tuple):
            return next((part for part in record.args if isinstance(part, BaseException)), None)
        return None

    def said(self, record: logging.LogRecord) -> str:
        """The message, and of an error that only a traceback would name, its name."""
        text = record.getMessage()
        if record.exc_info and record.exc_info[1] is not None and not self.debug:
            error = record.exc_info[1]
            text = f"{text.rstrip()}: {type(error).__name__}: {error}".replace("\n", " ")
            if not record.name.startswith(LIBRARIES):
                text += ". This is an error in churnwatch: run it again with --debug and report what it says."
        return text

    def trace(self, record: logging.LogRecord) -> str:
        """The traceback, where it is wanted and there is one."""
        error = self.error(record)
        if not self.debug or error is None or error.__traceback__ is None:
            return ""
        return "".join(traceback.format_exception(error)).rstrip()


class Plain(_Formatter):
    """One line a record: time (UTC), how severe, what; what ends the process begins as every command's errors do."""

    def format(self, record: logging.LogRecord) -> str:
        """The text of a record."""
        said, trace = self.said(record), self.trace(record)
        if record.levelno >= logging.CRITICAL:
            line = f"Error: {said}"
        else:
            name = NAMES.get(record.levelno, record.levelname.lower())
            line = f"{_instant(record)} {name:<7} {said}"
        return f"{trace}\n{line}" if trace else line


class Json(_Formatter):
    """One object a line: time, level, logger, message, and error and traceback where there are."""

    def format(self, record: logging.LogRecord) -> str:
        """The text of a record."""
        fields = {
            "time": _instant(record),
            "level": NAMES.get(record.levelno, record.levelname.lower()),
            "logger": record.name,
            "message": self.said(record),
        }
        error = self.error(record)
        if error is not None:
            fields["error"] = type(error).__name__
        if trace := self.trace(record):
            fields["traceback"] = trace
        return msgspec.json.encode(fields).decode()


def _instant(record: logging.LogRecord) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created)) + f".{int(record.msecs):03d}Z"
