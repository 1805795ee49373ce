"""What a worker writes to standard error: lines for people or for machines, with tracebacks only when asked for.

Everybody logs through the standard library, churnwatch and the libraries under it; structlog's formatter makes one
line of each record. What is more than a sentence stands in fields (``extra``).
"""

from __future__ import annotations

import logging
import sys
import time
import traceback
from typing import Any, Final, Literal

import msgspec
import structlog
from structlog.typing import EventDict, Processor

LIBRARIES: Final = (
    "faust",
    "mode",
    "aiokafka",
    "kafka",
    "redis",
    "asyncio",
    "aiohttp",
    "opentelemetry",
    "urllib3",
)
REPEATED: Final = 30.0
"""Seconds in which a library says the same only once: aiokafka says it of every attempt."""
SORTS: Final = 1000

Form = Literal["auto", "console", "json"]


def configure(level: str, form: Form, *, debug: bool) -> None:
    """Sets up logging for the whole process; ``auto`` is for a person where there is a terminal.

    Libraries are heard from error on, at debug from info on: below, they write down what they send and receive,
    which is customers' data.
    """
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(formatter(form, debug=debug, terminal=sys.stderr.isatty()))
    root = logging.getLogger()
    for old in list(root.handlers):
        root.removeHandler(old)
    root.addHandler(handler)
    root.setLevel(level.upper())
    logging.raiseExceptions = debug  # who closed standard error does not want to hear of it there
    if level != "debug":
        handler.addFilter(Seldom())
    for library in LIBRARIES:
        logging.getLogger(library).setLevel(logging.INFO if level == "debug" else logging.ERROR)


def formatter(form: Form, *, debug: bool, terminal: bool) -> logging.Formatter:
    """What makes a line of a record."""
    for_people = form == "console" or (form == "auto" and terminal)
    shared: list[Processor] = [
        structlog.stdlib.add_logger_name,
        structlog.stdlib.add_log_level,
        structlog.stdlib.ExtraAdder(),
        _instant,
        _Told(debug=debug),
    ]
    last: list[Processor] = [structlog.stdlib.ProcessorFormatter.remove_processors_meta]
    last += (
        [_Console(colours=terminal)] if for_people else [_in_order, structlog.processors.JSONRenderer(_json)]
    )
    return structlog.stdlib.ProcessorFormatter(
        foreign_pre_chain=shared, processors=last, pass_foreign_args=True
    )


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


class _Told:
    """The message, the name of an error that it speaks of, and its traceback where that is wanted."""

    def __init__(self, *, debug: bool) -> None:
        self.debug = debug

    def __call__(self, _logger: Any, _method: str, event: EventDict) -> EventDict:
        """Adds them to a record's fields."""
        raised = (event.pop("exc_info", None) or (None, None))[1]
        arguments = event.pop("positional_args", None)
        message = str(event.pop("event"))
        if raised is not None and not self.debug:
            # Only a traceback would name it.
            message = f"{message.rstrip()}: {type(raised).__name__}: {raised}".replace("\n", " ")
            if not str(event["logger"]).startswith(LIBRARIES):
                message += (
                    ". This is an error in churnwatch: run it again with --debug and report what it says."
                )
        event["message"] = message
        error = raised
        if error is None and isinstance(arguments, tuple):
            error = next((part for part in arguments if isinstance(part, BaseException)), None)
        if error is not None:
            event["error"] = type(error).__name__
            if self.debug and error.__traceback__ is not None:
                event["traceback"] = "".join(traceback.format_exception(error)).rstrip()
        return event


class _Console:
    """A line for a person; what ends the process begins as every command's errors do."""

    def __init__(self, *, colours: bool) -> None:
        self._renderer = structlog.dev.ConsoleRenderer(
            colors=colours,
            event_key="message",
            timestamp_key="time",
            pad_event_to=0,
            pad_level=False,
            sort_keys=False,
        )

    def __call__(self, logger: Any, method: str, event: EventDict) -> str:
        """The line, under a traceback if there is one."""
        trace = event.pop("traceback", None)
        event.pop("error", None)  # the message says it
        critical = event.get("level") == "critical"
        event.pop("logger", None)
        line = f"Error: {event['message']}" if critical else str(self._renderer(logger, method, event))
        return f"{trace}\n{line}" if trace else line


def _instant(_logger: Any, _method: str, event: EventDict) -> EventDict:
    """When it was said, in UTC."""
    record: logging.LogRecord = event["_record"]
    seconds = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created))
    event["time"] = f"{seconds}.{int(record.msecs):03d}Z"
    return event


def _in_order(_logger: Any, _method: str, event: EventDict) -> EventDict:
    """What every line has comes first."""
    return {**{name: event[name] for name in ("time", "level", "logger", "message")}, **event}


def _json(event: EventDict, **_: Any) -> str:
    return msgspec.json.encode(event, enc_hook=repr).decode()
