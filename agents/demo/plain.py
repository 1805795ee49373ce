"""The demo without a terminal: plain lines, a few a second."""

from __future__ import annotations

import math
import queue
import sys
import time

from agents.demo import summary
from agents.demo.known import Known
from agents.demo.messages import Ended, Failed, Message, Said
from alerts.reasons import BASE
from streams.alerts import Alert
from streams.events import rfc3339

LINES_A_SECOND = 6


def say(text: str) -> None:
    """One line, at once."""
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


def follow(known: Known, messages: queue.SimpleQueue[Message]) -> None:
    """Prints what comes until the end, and sums up. Raises what the demo failed with."""
    printer = Printer()
    while known.ended is None:
        message = messages.get()
        known.take([message])
        if isinstance(message, Alert) and message.transition == "raised":
            printer.warn(message)
        elif isinstance(message, Said):
            say(f"  {message.text}")
        elif isinstance(message, Failed):
            raise message.error
        elif isinstance(message, Ended):
            say("")
            for text in (*summary.lines(known), *summary.next_lines()):
                say(text)


class Printer:
    """Prints warnings, a few a second, so that a person can follow."""

    def __init__(self) -> None:
        self._seen: set[str] = set()
        self._skipped = 0
        self._window = (0, 0)

    def warn(self, alert: Alert) -> None:
        """One that was raised."""
        if alert.id in self._seen:
            return
        self._seen.add(alert.id)
        second = int(time.monotonic())
        printed = self._window[1] if self._window[0] == second else 0
        if printed >= LINES_A_SECOND:
            self._skipped += 1
            return
        self._window = (second, printed + 1)
        if self._skipped:
            say(f"  … and {self._skipped:,} more")
            self._skipped = 0
        say(line(alert))


def line(alert: Alert) -> str:
    """A warning as one line for people."""
    day = rfc3339(alert.decided_at)[:10]
    chance = "" if alert.churn_probability is None else f"{math.floor(alert.churn_probability * 100):3d} %"
    reasons = [reason.text for reason in alert.reasons if reason.text and reason.feature != BASE][:2]
    reasons += [offer.reason for offer in alert.offers[:1] if offer.reason]
    action = f"  → {alert.action}" if alert.action else ""
    return f"{day}  {alert.customer:<14.14} {alert.kind:<6} {chance}  {' '.join(reasons)}{action}"
