"""The live screen: what the keys do, and all of it in a pseudo terminal."""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import math
import os
import pty
import queue
import re
import select
import signal
import struct
import subprocess
import sys
import termios
import time
from collections.abc import Callable, Coroutine, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
from rich.text import Text
from textual.pilot import Pilot
from textual.widgets import Static

from agents.demo import drawing
from agents.demo.drawing import COLOURS
from agents.demo.history import DemoError
from agents.demo.known import BANDS, Known
from agents.demo.messages import Bought, Ended, Failed, Logged, Measured, Message, Opened, Said
from agents.demo.picture import drawn
from agents.demo.screen import Screen
from agents.demo.tempo import FASTEST, Tempo
from features.shop import DAY
from tests.agents.demo_messages import alert, at, score

ROOT = Path(__file__).parents[2]
HORIZON = 28 * DAY


def life(customer: str, every: int, until: int) -> list[Message]:
    """Purchases in a rhythm, then silence: a score that rises, and a warning on day 60."""
    return [
        *(Bought(customer, at(day)) for day in range(0, until, every)),
        score(customer, 0, 0.4, "low"),
        score(customer, 55, 0.7, "medium"),
        alert(customer, 60),
        score(customer, 70, 0.85, "high"),
    ]


PLAYED: list[Message] = [
    Opened(at(0), at(100), None),
    *life("ann", 7, 40),
    *life("bob", 10, 40),
    *life("once", 50, 40),
    Measured(1.0, at(40), 300, 7, 3),
    Measured(2.0, at(80), 800, 7, 3),
]


class Shown:
    """The screen in a test: what it was told, and how its widgets read."""

    def __init__(self, pilot: Pilot[int], screen: Screen, messages: queue.SimpleQueue[Message]) -> None:
        self.pilot = pilot
        self.screen = screen
        self.messages = messages

    async def tell(self, *messages: Message) -> None:
        for message in messages:
            self.messages.put(message)
        self.screen.draw()
        await self.pilot.pause()

    async def press(self, *keys: str) -> None:
        await self.pilot.press(*keys)
        await self.pilot.pause()

    def text(self, name: str) -> str:
        shown = self.screen.query_one(f"#{name}", Static).content
        return shown.plain if isinstance(shown, Text) else str(shown)


def on_screen(
    body: Callable[[Shown], Coroutine[Any, Any, None]], size: tuple[int, int] = (120, 36)
) -> Screen:
    messages: queue.SimpleQueue[Message] = queue.SimpleQueue()
    screen = Screen(Known(HORIZON), messages, Tempo(8.0), "a shop")

    async def run() -> None:
        async with screen.run_test(size=size) as pilot:
            await body(Shown(pilot, screen, messages))

    asyncio.run(run())
    return screen


def test_before_there_is_anything_it_says_what_is_being_done() -> None:
    async def body(shown: Shown) -> None:
        await shown.tell(Said("Starting the worker, reading the history."))
        assert "Starting the worker" in shown.text("state")

    on_screen(body)


def test_it_shows_how_far_it_is_how_fast_and_who_stands_where() -> None:
    async def body(shown: Shown) -> None:
        await shown.tell(*PLAYED)
        assert "22 Mar 2026" in shown.text("progress")
        assert "80%" in shown.text("progress")
        for figure in (
            "8 days a second",
            "500 events/s",
            "800 events",
            "3 customers",
            "7 lag",
            "3 warnings",
        ):
            assert figure in shown.text("state")
        assert "low 0   ■ medium 0   ■ high 3" in shown.text("chart-title")
        assert "silent 30 days (usual 10)" in shown.text("warnings")
        assert "70%" in shown.text("warnings")
        assert "→ reminder" in shown.text("warnings")

    on_screen(body)


def test_a_customer_is_followed_with_purchases_score_and_the_moment_of_the_warning() -> None:
    async def body(shown: Shown) -> None:
        await shown.tell(*PLAYED)
        assert shown.text("story-title").startswith("One customer   ann  6 purchases since 1 Jan 2026")
        assert "now 85% high" in shown.text("story-title")
        rows = shown.text("story").splitlines()
        assert rows[0].count("●") == 6
        assert "┄" in rows[0]
        # The warning of day 60 of 100 stands at its place on the axis.
        wide = drawing.axis(shown.screen.known, 120).width
        assert rows[4].index("▲") == drawing.MARGIN + 60 * wide // 100
        assert "2 Mar 2026: ▲ silent 30 days (usual 10)  → reminder" in rows[5]

    on_screen(body)


def test_space_pauses_and_goes_on() -> None:
    async def body(shown: Shown) -> None:
        await shown.tell(*PLAYED)
        await shown.press("space")
        assert shown.screen.tempo.paused
        assert "paused" in shown.text("state")
        await shown.press("space")
        assert not shown.screen.tempo.paused

    on_screen(body)


def test_plus_and_minus_double_and_halve_the_speed() -> None:
    async def body(shown: Shown) -> None:
        await shown.tell(*PLAYED)
        await shown.press("+")
        assert shown.screen.tempo.speed == 16.0
        assert "16 days a second" in shown.text("state")
        await shown.press("-", "-")
        assert shown.screen.tempo.speed == 4.0
        shown.screen.tempo.set(FASTEST)
        await shown.press("plus")
        assert shown.screen.tempo.speed == math.inf
        assert "as fast as it goes" in shown.text("state")

    on_screen(body)


def test_n_follows_another_customer() -> None:
    async def body(shown: Shown) -> None:
        await shown.tell(*PLAYED)
        assert shown.screen.story == "ann"
        await shown.press("n")
        assert shown.screen.story == "bob"
        assert "bob" in shown.text("story-title")
        await shown.press("n")
        assert shown.screen.story == "ann"

    on_screen(body)


@pytest.mark.parametrize("key", ["q", "ctrl+c"])
def test_q_and_ctrl_c_leave(key: str) -> None:
    async def body(shown: Shown) -> None:
        await shown.tell(*PLAYED)
        await shown.press(key)

    assert on_screen(body).return_value == 0


def test_what_the_worker_logs_is_shown_in_a_line_of_its_own_screen() -> None:
    async def body(shown: Shown) -> None:
        await shown.tell(*PLAYED, Logged("WARNING something odd"))
        assert "worker: WARNING something odd" in shown.text("state")

    on_screen(body)


def test_a_play_that_failed_ends_the_screen() -> None:
    async def body(shown: Shown) -> None:
        await shown.tell(*PLAYED, Failed(DemoError("The worker was killed.")))

    screen = on_screen(body)
    assert screen.return_value == 1
    assert str(screen.known.failed) == "The worker was killed."


@pytest.mark.parametrize("size", [(120, 36), (80, 24)])
def test_the_summary_stays_until_it_is_left(size: tuple[int, int]) -> None:
    async def body(shown: Shown) -> None:
        await shown.tell(*PLAYED, Ended(60.0, 0))
        said = shown.text("summary")
        assert "Of 3 warnings old enough to judge, 3 (100%) were right" in said
        assert shown.screen.query_one("#summary").display
        assert not shown.screen.query_one("#story").display
        below = shown.screen.query_one("#summary").region
        assert below.bottom <= size[1]

    on_screen(body, size)


@pytest.mark.parametrize("size", [(120, 36), (80, 24), (200, 60), (40, 12)])
def test_it_fits_terminals_of_every_size(size: tuple[int, int]) -> None:
    async def body(shown: Shown) -> None:
        await shown.tell(*PLAYED)
        for name in ("progress", "chart", "months"):
            for row in shown.text(name).splitlines():
                assert Text(row).cell_len <= size[0]
        if size[1] >= 24:
            assert shown.screen.query_one("#keys").region.bottom == size[1]
            assert shown.screen.query_one("#warnings").region.bottom <= size[1] - 1

    on_screen(body, size)


def test_the_chart_gives_each_band_its_share_of_the_height() -> None:
    model = Known(HORIZON)
    bands = ["low"] * 4 + ["medium"] * 2 + ["high"] * 1 + ["lapsed"] * 1
    model.take([Opened(at(0), at(100), None)])
    model.take(score(f"c{n}", 0, 0.5, band) for n, band in enumerate(bands))
    model.take([Measured(1.0, at(99.9), 8, 0, 8)])
    rows = drawing.chart(model, 60, 8)
    found = [_background(row, 30) for row in rows]
    low, medium, high, lapsed = COLOURS
    assert found == [lapsed, high, medium, medium, low, low, low, low]
    # Twice as fine as rows: half of a row is a half block in the lower band's colour on the upper one's.
    halves = drawing.chart(model, 60, 4)
    assert halves[0].plain[30] == "▄"
    assert _style(halves[0], 30) == f"{high} on {lapsed}"
    assert len(COLOURS) == len(BANDS)


def test_where_more_bands_share_a_cell_than_it_can_show_the_least_is_wrong() -> None:
    model = Known(HORIZON)
    model.take([Opened(at(0), at(100), None)])
    model.take(score(f"c{n}", 0, 0.5, band) for n, band in enumerate(["low", "medium", "high"]))
    model.take(score(f"d{n}", 50, 0.5, "low") for n in range(5))
    model.take([Measured(1.0, at(99.9), 8, 0, 8)])
    (row,) = drawing.chart(model, 60, 1)
    # Three of eight customers in the first half: their outline; later six eighths low, one medium, one high.
    assert row.plain[drawing.MARGIN + 3] == "▃"
    assert _style(row, drawing.MARGIN + 3).endswith(f"on {drawing.PAPER}")
    assert row.plain[drawing.MARGIN + 45] == "▆"
    assert _style(row, drawing.MARGIN + 45).startswith(f"{COLOURS[0]} on ")


def _style(row: Text, column: int) -> str:
    return next(str(span.style) for span in row.spans if span.start <= column < span.end)


def _background(row: Text, column: int) -> str:
    return _style(row, column).removeprefix("on ")


def test_a_picture_has_block_characters_as_rectangles_and_loads_nothing() -> None:
    captured = (
        '<style>@font-face { src: url("https://example.com/x.woff") }\n'
        "m { font-family: Fira Code, monospace; }</style>"
        '<text class="r1" x="12.2" y="18.5" textLength="61" clip-path="url(#line-0)">&#160;██▄x</text>'
    )
    picture = drawn(captured)
    assert "https" not in picture
    assert '<rect class="r1" x="24.4" y="0.00" width="24.4" height="24.65"' in picture
    assert '<rect class="r1" x="48.8" y="12.20" width="12.2" height="12.45"' in picture
    assert re.search(r'<text class="r1" x="61.0" [^>]*>x</text>', picture)


# ---- in a pseudo terminal


class Terminal:
    """A process on a pseudo terminal of its own."""

    def __init__(self, *arguments: str, size: tuple[int, int] = (120, 36)) -> None:
        self.own, other = pty.openpty()
        fcntl.ioctl(other, termios.TIOCSWINSZ, struct.pack("HHHH", size[1], size[0], 0, 0))
        self.before = termios.tcgetattr(other)
        self.other = other
        self.began = time.monotonic()
        self.process = subprocess.Popen(
            [sys.executable, "-m", "agents.cli", "demo", *arguments],
            cwd=ROOT,
            stdin=other,
            stdout=other,
            stderr=other,
            start_new_session=True,
            env={name: value for name, value in os.environ.items() if not name.startswith("CHURNWATCH_")}
            | {"TERM": "xterm-256color", "COLORTERM": "truecolor", "LC_ALL": "C.UTF-8"},
        )
        self.said = ""

    def read(self, seconds: float = 0.1) -> None:
        ready, _, _ = select.select([self.own], [], [], seconds)
        if ready:
            with contextlib.suppress(OSError):
                self.said += os.read(self.own, 1 << 16).decode(errors="replace")

    def until(self, condition: Callable[[], object], seconds: float = 60.0) -> None:
        deadline = time.monotonic() + seconds
        while not condition():
            assert time.monotonic() < deadline, self.plain()[-4000:]
            assert self.process.poll() is None or condition(), self.plain()[-4000:]
            self.read()

    def plain(self) -> str:
        return re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", self.said)

    def press(self, key: str) -> int:
        """Presses a key; how much had been written before."""
        os.write(self.own, key.encode())
        return len(self.said)

    def end(self, seconds: float = 5.0) -> int:
        """Reads until the process ends, within so many seconds."""
        deadline = time.monotonic() + seconds
        while self.process.poll() is None:
            assert time.monotonic() < deadline, self.plain()[-2000:]
            self.read()
        self.read(0.2)
        return self.process.returncode


@contextlib.contextmanager
def terminal(*arguments: str, size: tuple[int, int] = (120, 36)) -> Iterator[Terminal]:
    opened = Terminal(*arguments, size=size)
    try:
        yield opened
    finally:
        if opened.process.poll() is None:
            opened.process.kill()
            opened.process.wait()
        os.close(opened.own)
        os.close(opened.other)


def test_it_plays_on_a_terminal_obeys_keys_and_leaves_it_as_it_was() -> None:
    with terminal("--data", "examples/orders.csv") as screen:
        screen.until(lambda: "days a second" in screen.said)
        began = time.monotonic()
        screen.until(lambda: "→" in screen.said)
        # Together with the start of the servers and the worker, less than twenty seconds.
        assert time.monotonic() - began < 15, "the first warning came too late"
        children = psutil.Process(screen.process.pid).children(recursive=True)
        assert len(children) >= 2
        before = screen.press(" ")
        screen.until(lambda: "paused" in screen.said[before:])
        before = screen.press(" ")
        screen.until(lambda: "days a second" in screen.said[before:])
        for key in "+-nq":
            screen.press(key)
        assert screen.end() == 0
        gone, left = psutil.wait_procs(children, timeout=5)
        assert not left
        assert gone
        # The other screen was left, the cursor is back, and the terminal reads lines again.
        ending = screen.said[screen.said.rindex("\x1b[?1049l") :]
        assert "\x1b[?25h" in screen.said
        assert "Stopped at" in ending
        assert "Next:" in ending
        assert re.search("(churn|upsell): .*raised", ending)
        assert "\x1b[" not in ending.rpartition("Stopped at")[2]
        assert termios.tcgetattr(screen.other) == screen.before


def test_a_worker_that_dies_is_explained_after_the_screen_has_closed() -> None:
    with terminal("--data", "examples/orders.csv") as screen:
        screen.until(lambda: "days a second" in screen.said)
        (worker,) = (
            child
            for child in psutil.Process(screen.process.pid).children()
            if "worker" in " ".join(child.cmdline())
        )
        worker.send_signal(signal.SIGKILL)
        assert screen.end(15) == 1
        ending = screen.said[screen.said.rindex("\x1b[?1049l") :]
        assert "The worker was killed by signal 9" in ending
        assert "Traceback" not in ending
        assert termios.tcgetattr(screen.other) == screen.before


def test_a_signal_ends_it_and_leaves_the_terminal_as_it_was() -> None:
    with terminal("--data", "examples/orders.csv", size=(80, 24)) as screen:
        screen.until(lambda: "reading the history" in screen.said or "days a second" in screen.said)
        children = psutil.Process(screen.process.pid).children(recursive=True)
        screen.process.send_signal(signal.SIGTERM)
        assert screen.end() == 130
        _, left = psutil.wait_procs(children, timeout=5)
        assert not left
        assert termios.tcgetattr(screen.other) == screen.before
