"""The demo: a history played through the real worker, on a live terminal or as plain lines.

Servers run inside this process (or are given by the settings), the worker runs as a process of its own, and
the history is sent on the record clock, at a tempo and held back by what the worker has applied.
"""

from __future__ import annotations

import os
import queue
import shutil
import signal
import sys
import textwrap
from contextlib import ExitStack
from pathlib import Path
from typing import NamedTuple
from zoneinfo import ZoneInfo

import msgspec

from agents.demo import plain, summary
from agents.demo.history import DemoError, source
from agents.demo.known import Known
from agents.demo.messages import Message
from agents.demo.playing import Play
from agents.demo.tempo import Tempo
from agents.embedded import Embedded, Unavailable
from agents.settings import Settings
from features.shop import DAY
from streams.codec import Codec

__all__ = ["DemoError", "Picture", "run"]

INTERRUPTED = 130


class Picture(NamedTuple):
    """A picture to be taken of the screen, without a terminal: the file (SVG), and when: at this share of
    the period, 1 with the summary."""

    file: Path
    share: float


def run(
    settings: Settings, *, data: str, embedded: bool, lines: bool = False, picture: Picture | None = None
) -> int:
    """Plays ``data``, on servers inside this process or those of the settings; ``lines`` wants plain lines
    although there is a terminal.

    Returns the exit code: 0 when all was applied or whoever watched had seen enough, 130 after Ctrl-C (without
    a screen) or a signal. Raises DemoError and FileError.
    """
    # SIGTERM ends it as Ctrl-C does, so that nothing stays behind.
    signal.signal(signal.SIGTERM, lambda *_: os.kill(os.getpid(), signal.SIGINT))
    live = picture is not None or not (lines or reason_for_lines())
    shop = settings.shop
    codec = Codec(shop.currency, shop.minor_units, shop.rates, frozenset())
    known = Known(round(settings.policy.horizon_days * DAY))
    tempo = Tempo()
    messages: queue.SimpleQueue[Message] = queue.SimpleQueue()
    code = 0
    try:
        chosen = source(data, codec, ZoneInfo(shop.time_zone), tell=plain.say)
        with ExitStack() as stack:
            servers: Embedded | None = None
            if embedded:
                plain.say("Starting Kafka and Redis inside this process: nothing installed, nothing kept.")
                servers = _started()
                stack.callback(servers.close)
                settings = msgspec.structs.replace(
                    settings,
                    kafka=msgspec.structs.replace(settings.kafka, brokers=(servers.brokers,)),
                    redis=msgspec.structs.replace(settings.redis, url=servers.redis_url),
                )
            plain.say(f"Playing {chosen.title}.")
            stack.enter_context(Play(settings, chosen, servers, messages.put, tempo, watched=live))
            if live:
                # Half a second, in which the worker is starting already.
                from agents.demo import screen  # noqa: PLC0415

                code = screen.show(known, messages, tempo, chosen.title, picture)
            else:
                plain.follow(known, messages)
    except KeyboardInterrupt:
        plain.say("\nStopped.")
        return INTERRUPTED
    if known.failed is not None:
        raise known.failed
    if live and known.first:
        wide = shutil.get_terminal_size().columns
        for text in (*summary.lines(known), *summary.next_lines()):
            for part in textwrap.wrap(text, wide, subsequent_indent="  "):
                plain.say(part)
    return code


def _started() -> Embedded:
    try:
        return Embedded().start()
    except Unavailable as error:
        raise DemoError(f"Kafka and Redis cannot run inside this process: {error}") from error


def reason_for_lines() -> str:
    """Why there is no screen to draw on; empty when there is one."""
    if not (sys.stdin.isatty() and sys.stdout.isatty() and sys.stderr.isatty()):
        return "no terminal"
    if os.environ.get("TERM", "") in {"", "dumb", "unknown"}:
        return "a terminal that cannot be drawn on"
    if "utf" not in (sys.stdout.encoding or "").lower():
        return "a terminal without Unicode"
    return ""
