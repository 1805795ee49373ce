"""The live screen: what is known, drawn a few times a second, and the keys."""

from __future__ import annotations

import asyncio
import math
import queue
import signal
import time
from collections import deque
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from rich.text import Text
from textual.app import App, ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Vertical
from textual.widgets import Static

from agents.demo import drawing, summary
from agents.demo.drawing import ACCENT, COLOURS, FAINT, INK
from agents.demo.known import Known
from agents.demo.messages import Message
from agents.demo.picture import drawn
from agents.demo.tempo import Tempo
from streams.alerts import Alert

if TYPE_CHECKING:
    from agents.demo import Picture

FRAME = 1 / 8
"""Seconds between two pictures."""
HEADLINE_EVERY = 0.8
"""Seconds that a warning is the newest at least."""
STORY_AT_LEAST = 9.0
"""Seconds for which a customer is followed before the screen goes on to another by itself."""
LEAD_HORIZONS = 2
"""Horizons after which it is played at leisure even if nobody was warned of."""
MOST_AT_ONCE = 20_000
LITTLE = 32
"""Rows below which it is drawn closer."""
SIZE = (120, 36)
"""Columns and rows of a picture that is taken without a terminal."""
STOPPED = 130
_WARNINGS_KEPT = 50
_STORIES_KEPT = 200


def _keys(*pairs: tuple[str, str]) -> Text:
    text = Text()
    for key, what in pairs:
        text.append(key, f"bold {ACCENT}")
        text.append(f" {what}    ", FAINT)
    return text


KEYS = _keys(("space", "pause"), ("+ -", "faster, slower"), ("n", "next customer"), ("q", "quit"))


class Screen(App[int]):
    """The demo on a terminal. Ends with 0 when whoever watches presses q, 130 on a signal, 1 when the play
    failed."""

    CSS = f"""
    Screen {{ background: {drawing.PAPER}; color: {INK}; }}
    #title {{ height: 1; padding: 0 1; background: #1b2430; }}
    #state {{ height: 1; margin: 1 0 0 8; }}
    #progress {{ height: 2; margin: 1 0 0 0; }}
    #chart-title, #story-title, #warnings-title {{ height: 1; margin: 1 0 0 0; padding: 0 0 0 8; }}
    #chart {{ height: 1fr; min-height: 3; }}
    #months {{ height: 1; }}
    #story {{ height: 7; }}
    #warnings {{ height: 8; }}
    #summary {{ height: auto; display: none; margin: 1 1 0 8; }}
    .short #state, .short #progress, .short #chart-title, .short #story-title,
    .short #warnings-title {{ margin-top: 0; }}
    .short #story {{ height: 5; }}
    .short #warnings {{ height: 4; }}
    .ended #story-title, .ended #story, .ended #warnings-title, .ended #warnings {{ display: none; }}
    .ended #summary {{ display: block; }}
    .short.ended #chart-title, .short.ended #chart, .short.ended #months {{ display: none; }}
    #keys {{ height: 1; padding: 0 0 0 8; background: #1b2430; }}
    """
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("space", "pause"),
        Binding("plus,equals_sign", "faster"),
        Binding("minus,underscore", "slower"),
        Binding("n", "next"),
        Binding("q,ctrl+c", "leave", priority=True),
    ]
    ENABLE_COMMAND_PALETTE = False

    def __init__(
        self,
        known: Known,
        messages: queue.SimpleQueue[Message],
        tempo: Tempo,
        subject: str,
        picture: Picture | None = None,
    ) -> None:
        super().__init__()
        self.known = known
        self.tempo = tempo
        self.story: str | None = None
        self.warned: deque[Alert] = deque(maxlen=_WARNINGS_KEPT)
        self._messages = messages
        self._subject = subject
        self._picture = picture
        self._shown: deque[str] = deque(maxlen=_STORIES_KEPT)
        self._story_since = -math.inf
        self._story_held = False
        self._headline_at = -math.inf
        self._ended_shown = False

    def compose(self) -> ComposeResult:
        """From top to bottom."""
        yield Static(id="title")
        yield Static(id="state")
        yield Static(id="progress")
        yield Static(id="chart-title")
        yield Static(id="chart")
        yield Static(id="months")
        yield Vertical(
            Static(id="story-title"),
            Static(id="story"),
            Static(id="warnings-title"),
            Static(id="warnings"),
            Static(id="summary"),
            id="below",
        )
        yield Static(KEYS, id="keys")

    def on_mount(self) -> None:
        """Starts to draw, and ends on signals as on q."""
        self.query_one("#below").styles.height = "auto"
        loop = asyncio.get_running_loop()
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            loop.add_signal_handler(number, self.exit, STOPPED)
        self.set_interval(FRAME, self.draw)
        self.draw()

    # ---- keys

    def action_pause(self) -> None:
        """Holds the producer back, or lets it go on."""
        if self.known.ended is None:
            self.tempo.pause()
            self.draw()

    def action_faster(self) -> None:
        """Twice as fast, in the end as fast as it goes."""
        self.tempo.faster()
        self.draw()

    def action_slower(self) -> None:
        """Half as fast."""
        self.tempo.slower(self.known.days_a_second())
        self.draw()

    def action_next(self) -> None:
        """Another customer, who stays until another is asked for."""
        self._follow_next()
        self._story_held = True
        self.draw()

    def action_leave(self) -> None:
        """Seen enough."""
        self.exit(0)

    # ---- what is shown

    def draw(self) -> None:
        """Takes in what has come, and draws."""
        known = self.known
        for _ in range(MOST_AT_ONCE):
            try:
                known.take([self._messages.get_nowait()])
            except queue.Empty:
                break
        if known.failed is not None:
            self.exit(1)
            return
        if known.raised or known.at - known.first > LEAD_HORIZONS * known.horizon:
            self.tempo.settle()
        self._choose()
        if not self.query("#title"):
            return  # a timer may still tick when the screen is being taken down
        width, height = self.size.width, self.size.height
        self.screen.set_class(height < LITTLE, "short")
        self._write("title", [self._title()])
        self._write("state", [self._state()])
        if known.first:
            self._write("progress", drawing.progress(known, width))
            self._write("chart-title", [self._chart_title()])
            rows = max(self.query_one("#chart").size.height, 1)
            self._write("chart", drawing.chart(known, width, rows))
            self._write("months", [drawing.months(known, width)])
            if known.ended is None:
                self._draw_story(width)
                self._draw_warnings(width)
            elif not self._ended_shown:
                self._ended_shown = True
                self.screen.add_class("ended")
                self._write("summary", _summary(known, short=height < LITTLE))
                self.query_one("#keys", Static).update(_keys(("q", "quit")))
        self._take_picture()

    def _write(self, name: str, rows: list[Text]) -> None:
        text = Text("\n").join(rows)
        text.no_wrap = name != "summary"
        text.overflow = "fold" if name == "summary" else "crop"
        self.query_one(f"#{name}", Static).update(text, layout=name == "summary")

    def _choose(self) -> None:
        """Which warning to show, and whom to follow."""
        now = time.monotonic()
        if now - self._headline_at >= HEADLINE_EVERY and (alert := self.known.headlines.pick()) is not None:
            self._headline_at = now
            self.warned.appendleft(alert)
        if self.story is None or (
            not self._story_held and now - self._story_since > STORY_AT_LEAST and self._story_is_told()
        ):
            self._follow_next()

    def _story_is_told(self) -> bool:
        assert self.story is not None
        newest = self.known.customers[self.story].episodes[-1]
        return newest.end is not None or self.known.at > newest.raised.decided_at + self.known.horizon

    def _follow_next(self) -> None:
        following = self.known.next_story(self._shown)
        if following is None:
            return
        if following in self._shown:
            self._shown.remove(following)
        self._shown.append(following)
        self.story = following
        self._story_since = time.monotonic()
        self._story_held = False

    def _title(self) -> Text:
        text = Text().append("churnwatch", f"bold {ACCENT}")
        text.append("   ")
        text.append(self._subject, INK)
        return text

    def _state(self) -> Text:
        known, tempo = self.known, self.tempo
        text = Text()
        if known.failed is None and not known.first:
            return text.append(known.said[-1] if known.said else "Starting.", INK)
        if known.ended is not None:
            text.append("■ the end   ", f"bold {ACCENT}")
        elif tempo.paused:
            text.append("❚❚ paused   ", f"bold {COLOURS[1]}")
        else:
            text.append("▶ ", f"bold {COLOURS[0]}")
            if tempo.speed == math.inf:
                text.append("as fast as it goes: ", FAINT)
                text.append(f"{known.days_a_second():.0f}", f"bold {INK}")
            else:
                text.append(f"{tempo.speed:.3g}", f"bold {INK}")
            text.append(" days a second   ", FAINT)
        if known.ended is None:
            _figure(text, f"{known.events_a_second():,.0f}", "events/s")
        _figure(text, f"{known.events:,}", "events")
        _figure(text, f"{known.states:,}", "customers")
        _figure(text, f"{known.lag:,}", "lag")
        _figure(text, f"{known.warnings:,}", "warnings")
        if known.logged:
            text.append(f"worker: {known.logged[-1]}", COLOURS[1])
        elif known.said and "refused" in known.said[-1]:
            text.append(known.said[-1], COLOURS[1])
        return text

    def _chart_title(self) -> Text:
        text = _heading("Customers by risk of leaving")
        text.append("   ")
        return text.append_text(drawing.legend(self.known))

    def _draw_story(self, width: int) -> None:
        text = _heading("One customer")
        text.append("   ")
        if self.story is None:
            text.append("the first one who is warned of, and has a rhythm", FAINT)
            self._write("story", [])
        else:
            text.append_text(drawing.title(self.known, self.story))
            rows = drawing.followed(self.known, self.story, width)
            room = self.query_one("#story").size.height or len(rows)
            # Where there is little room the middle of the curve goes first.
            while len(rows) > room and len(rows) > 3:
                del rows[2]
            self._write("story", rows)
        self._write("story-title", [text])

    def _draw_warnings(self, width: int) -> None:
        text = _heading("Newest warnings")
        churn = self.known.counts["churn", "raised"]
        offers = self.known.counts["upsell", "raised"]
        told = f"   {churn:,} of leaving"
        if offers:
            told += f", {offers:,} offers"
        text.append(f"{told}; shown is the most telling one of each moment", FAINT)
        self._write("warnings-title", [text])
        rows = max(self.query_one("#warnings").size.height, 1)
        self._write("warnings", [drawing.warning(one, width - 1) for one in list(self.warned)[:rows]])

    def _take_picture(self) -> None:
        picture = self._picture
        if picture is None or not self.known.first:
            return
        due = self._ended_shown if picture.share >= 1 else self.known.share >= picture.share
        if due:
            self._picture = None
            # Once more around the loop, so that what was just written is on the screen.
            self.set_timer(FRAME * 2, lambda: self._save(picture.file))

    def _save(self, file: Path) -> None:
        file.write_text(drawn(self.export_screenshot(title="churnwatch demo")), encoding="utf-8")
        self.exit(0)


def _heading(name: str) -> Text:
    return Text().append(name, f"bold {INK}")


def _figure(text: Text, value: str, name: str) -> None:
    text.append(value, f"bold {INK}")
    text.append(f" {name}   ", FAINT)


def _summary(known: Known, *, short: bool) -> list[Text]:
    rows = [Text(line, FAINT) for line in summary.lines(known)]
    for row in rows:
        row.highlight_regex(r"\d[\d,]*%?", f"bold {INK}")
    if not short:
        rows.append(Text())
        for line in summary.next_lines():
            command, _, what = line.lstrip().partition("  ")
            row = Text(line, FAINT)
            row.highlight_words([command], f"bold {ACCENT if what else INK}")
            rows.append(row)
    rows += [Text(), Text("q leaves; all this stays in the terminal.", FAINT)]
    return rows


def show(
    known: Known,
    messages: queue.SimpleQueue[Message],
    tempo: Tempo,
    subject: str,
    picture: Picture | None = None,
) -> int:
    """Shows the play until it is left, or until the picture has been taken. Returns the exit code."""
    app = Screen(known, messages, tempo, subject, picture)
    if picture is None:
        return app.run(mouse=False) or 0
    return app.run(headless=True, mouse=False, size=SIZE) or 0
