"""Pictures of what is known, in block characters: pure functions from the model to lines of text.

The chart, the progress and the followed customer share one axis of time, so that what stands above each
other happened at the same time.
"""

from __future__ import annotations

from datetime import UTC, date, datetime
from itertools import groupby
from typing import Final, NamedTuple

from rich.text import Text

from agents.demo.known import BANDS, Customer, Episode, Known, reasons
from agents.demo.summary import day, in_days
from features.shop import DAY, MICROS
from streams.alerts import Alert

MARGIN: Final = 8
"""Columns left of the axis, for labels."""

COLOURS: Final = ("#2f9e78", "#e0a93b", "#e5534b", "#4a5566")
"""Of ``BANDS``."""
INK: Final = "#d7dde5"
FAINT: Final = "#7d8998"
RULE: Final = "#3a4452"
PAPER: Final = "#10151c"
ACCENT: Final = "#5aa9e6"

_LOWER: Final = "▁▂▃▄▅▆▇"
_BAR: Final = 5
_WIDE: Final = 100
_LINES: Final = 3  # rows of the score's curve


class Axis(NamedTuple):
    """Simulated time (microseconds) across so many columns."""

    first: int
    last: int
    width: int

    def column(self, at: int) -> int:
        """Where an instant lies."""
        whole = max(self.last - self.first, 1)
        return min(max((at - self.first) * self.width // whole, 0), self.width - 1)

    def end(self, column: int) -> int:
        """The last instant of a column."""
        return self.first + (column + 1) * (self.last - self.first) // self.width - 1


def axis(known: Known, width: int) -> Axis:
    """The axis of a picture of this width."""
    return Axis(known.first, known.last, max(width - MARGIN - 1, 10))


def _margin(label: str = "") -> Text:
    return Text(f"{label:>{MARGIN - 1}} ", style=FAINT)


# ---- the period


def progress(known: Known, width: int) -> list[Text]:
    """The period as a bar, with its ends and the day that has been applied."""
    scale = axis(known, width)
    head = scale.column(known.at)
    flag = day(known.at)
    place = min(max(head - len(flag) // 2, 0), scale.width - len(flag))
    first, last = day(known.first), day(known.last)
    labels = [" "] * scale.width
    if place > len(first) + 1:
        labels[: len(first)] = first
    if place + len(flag) < scale.width - len(last) - 1:
        labels[-len(last) :] = last
    above = _margin()
    above.append("".join(labels[:place]), FAINT)
    above.append(flag, f"bold {INK}")
    above.append("".join(labels[place + len(flag) :]), FAINT)
    bar = _margin(f"{known.share:.0%}")
    bar.append("━" * head, ACCENT)
    bar.append("╸" if known.share < 1 else "━", ACCENT)
    bar.append("━" * (scale.width - head - 1), RULE)
    return [above, bar]


def months(known: Known, width: int) -> Text:
    """The names of months under what they belong to."""
    scale = axis(known, width)
    row = _margin()
    found = [" "] * (scale.width + 8)
    month = max((known.last - known.first) / DAY / 30.4, 0.1)
    step = next((n for n in (1, 2, 3, 6, 12) if scale.width / month * n >= 9), 24)
    moment = datetime.fromtimestamp(known.first // MICROS, UTC).date()
    free = 0
    for number in range(moment.year * 12 + moment.month - 1, moment.year * 12 + moment.month + 2400):
        if number % 12 % step:
            continue
        start = date(number // 12, number % 12 + 1, 1)
        at = int(datetime(start.year, start.month, 1, tzinfo=UTC).timestamp()) * MICROS
        if at > known.last:
            break
        label = f"╷{start:%b %y}" if number % 12 < step or not free else f"╷{start:%b}"
        place = scale.column(at)
        if at >= known.first and place >= free and place + len(label) <= scale.width:
            found[place : place + len(label)] = label
            free = place + len(label) + 1
    return row.append("".join(found[: scale.width]), FAINT)


# ---- customers by risk


def chart(known: Known, width: int, height: int) -> list[Text]:
    """Customers in each band at the end of each column, stacked from low to lapsed."""
    scale = axis(known, width)
    shown = scale.column(known.at) + 1
    counts = known.bands_at([min(scale.end(column), known.at) for column in range(shown)])
    top = max(1, *map(sum, counts))
    columns = [_stack(count, top, height * 8) for count in counts]
    rows = []
    for row in range(height - 1, -1, -1):
        label = f"{top:,}" if row == height - 1 else "0" if row == 0 else ""
        line = _margin(label)
        cells = [_cell(column, row * 8) for column in columns]
        for (glyph, style), run in groupby(cells):
            line.append(glyph * len(list(run)), style)
        rows.append(line)
    return rows


def _stack(counts: tuple[int, ...], top: int, height: int) -> list[int]:
    """Where each band ends, in eighths of a row."""
    ends = []
    total = 0
    for count in counts:
        total += count
        ends.append(round(total * height / top))
    return ends


def _cell(ends: list[int], bottom: int) -> tuple[str, str]:
    """One cell: a colour, or two with the boundary between them where it is."""
    parts: list[tuple[int, str]] = []  # extents in eighths, from below
    start = 0
    for end, colour in zip((*ends, 1 << 30), (*COLOURS, PAPER), strict=True):
        extent = min(end, bottom + 8) - max(start, bottom)
        if extent > 0:
            parts.append((extent, colour))
        start = max(start, end)
    if len(parts) == 1:
        return " ", f"on {parts[0][1]}"
    # Two colours and one boundary are all that a cell can show: the ones with which the least is wrong.
    _, cut, below, above = min(_drawn_with(parts, place) for place in range(1, len(parts)))
    return _LOWER[cut - 1], f"{below} on {above}"


def _drawn_with(parts: list[tuple[int, str]], place: int) -> tuple[int, int, str, str]:
    """A cell with its boundary before this part: what is wrong then, where it is, the colours on its sides."""
    sides = parts[:place], parts[place:]
    below, above = (max(side, key=lambda part: part[0])[1] for side in sides)
    wrong = 0
    for side, shown in zip(sides, (below, above), strict=True):
        for extent, colour in side:
            if colour != shown:
                wrong += extent * (4 if shown == PAPER else 2 if colour == PAPER else 3)
    return wrong, sum(extent for extent, _ in sides[0]), below, above


def legend(known: Known) -> Text:
    """The bands with how many customers are in each now."""
    text = Text()
    for name, colour, number in zip(BANDS, COLOURS, known.in_bands(), strict=True):
        text.append("■ ", colour)
        text.append(f"{name} ", FAINT)
        text.append(f"{number:,}   ", f"bold {INK}")
    return text


# ---- one customer


def followed(known: Known, name: str, width: int) -> list[Text]:
    """A customer's purchases, score and warnings along the axis, and what the newest warning says."""
    customer = known.customers[name]
    scale = axis(known, width)
    bought = customer.bought_until(known.at)
    rows = [_rhythm(known, customer, bought, scale), *_curve(known, customer, scale)]
    episodes = [e for e in customer.episodes if e.raised.decided_at <= known.at]
    marks = _margin("warned")
    line = [" "] * scale.width
    for episode in episodes:
        line[scale.column(episode.raised.decided_at)] = "▲"
    marks.append("".join(line), COLOURS[2])
    rows.append(marks)
    if episodes:
        rows.append(_margin().append_text(_told(episodes[-1].raised)))
        rows.append(_margin().append_text(_outcome(known, episodes[-1], bought)))
    return rows


def title(known: Known, name: str) -> Text:
    """Who is followed: purchases, rhythm, and the newest score."""
    customer = known.customers[name]
    bought = customer.bought_until(known.at)
    text = Text()
    text.append(name, f"bold {INK}")
    if bought:
        since = f" since {day(bought[0])}, the last on {day(bought[-1])}" if len(bought) > 1 else ""
        text.append(f"  {len(bought)} purchases{since}", FAINT)
    scores = [score for score in customer.scores if score.at <= known.at]
    if scores:
        now = scores[-1]
        text.append("   now ", FAINT)
        text.append(f"{now.probability:.0%} {BANDS[now.band]}", f"bold {COLOURS[now.band]}")
    return text


def _rhythm(known: Known, customer: Customer, bought: list[int], scale: Axis) -> Text:
    row = _margin("bought")
    if not bought:
        return row
    columns: dict[int, int] = {}
    for at in bought:
        columns[scale.column(at)] = columns.get(scale.column(at), 0) + 1
    begin, end = scale.column(bought[0]), scale.column(known.at)
    last = scale.column(bought[-1])
    cells = []
    for column in range(end + 1):
        if column < begin:
            cells.append((" ", FAINT))
        elif column in columns:
            cells.append(("●" if columns[column] == 1 else "◉", f"bold {INK}"))
        elif column < last:
            cells.append(("─", FAINT))
        else:
            band = _band(customer, scale.end(column))
            cells.append(("┄", COLOURS[band] if band < 3 else FAINT))
    return _runs(row, cells)


def _curve(known: Known, customer: Customer, scale: Axis) -> list[Text]:
    """The newest score at each column: from 0 at the foot to 1 at the top, in the colour of its band."""
    points: list[tuple[int, int] | None] = []
    place = -1
    scores = customer.scores
    for column in range(scale.column(known.at) + 1):
        until = min(scale.end(column), known.at)
        while place + 1 < len(scores) and scores[place + 1].at <= until:
            place += 1
        if place < 0:
            points.append(None)
        else:
            points.append((max(round(scores[place].probability * _LINES * 8), 1), scores[place].band))
    rows = []
    for row in range(_LINES - 1, -1, -1):
        label = ("0", "score", "1")[row]
        cells = []
        for point in points:
            filled = min(max(point[0] - row * 8, 0), 8) if point else 0
            glyph = " " if not filled else "█" if filled == 8 else _LOWER[filled - 1]
            cells.append((glyph, COLOURS[point[1]] if point else FAINT))
        rows.append(_runs(_margin(label), cells))
    return rows


def _runs(row: Text, cells: list[tuple[str, str]]) -> Text:
    for style, run in groupby(cells, key=lambda cell: cell[1]):
        row.append("".join(glyph for glyph, _ in run), style)
    return row


def _band(customer: Customer, at: int) -> int:
    band = 0
    for score in customer.scores:
        if score.at > at:
            break
        band = score.band
    return band


def _told(alert: Alert) -> Text:
    text = Text(f"{day(alert.decided_at)}: ", FAINT)
    text.append_text(grounds(alert))
    if alert.action:
        text.append(f"  → {alert.action}", f"bold {ACCENT}")
    return text


def _outcome(known: Known, episode: Episode, bought: list[int]) -> Text:
    warned = episode.raised.decided_at
    days = f"{known.horizon / DAY:g}"
    since = next((at for at in bought if at > warned), None)
    if since is not None:
        late = since > warned + known.horizon
        verdict = f"right, nothing for {days} days" if late else "it was wrong"
        text = f"Bought again {in_days((since - warned) / DAY)} after the warning: {verdict}."
        return Text(text, COLOURS[1] if late else COLOURS[0])
    passed = (known.at - warned) / DAY
    if known.at >= warned + known.horizon:
        return Text(f"No purchase in the {in_days(passed)} since: the warning was right.", COLOURS[2])
    return Text(f"No purchase in the {in_days(passed)} since; from {days} on it counts as right.", FAINT)


# ---- warnings


def grounds(alert: Alert) -> Text:
    """The two strongest reasons; an arrow says whether each speaks for leaving or against it."""
    text = Text()
    for number, (reason, weight) in enumerate(reasons(alert)):
        if number:
            text.append("  ", FAINT)
        if weight:
            text.append("▲ " if weight > 0 else "▼ ", COLOURS[2] if weight > 0 else COLOURS[0])
        text.append(reason, INK)
    return text


def warning(alert: Alert, width: int) -> Text:
    """One warning as a line: when, who, what, how likely, why, and what to do."""
    kind = "offer" if alert.kind == "upsell" else alert.kind
    text = Text(" " * (MARGIN if width >= _WIDE else 1), no_wrap=True)
    text.append(f"{day(alert.decided_at)[:-5]:<7}", FAINT)
    text.append(f"{alert.customer:<9.9} ", f"bold {INK}")
    if alert.kind == "churn" and alert.churn_probability is not None:
        band = BANDS.index(alert.risk_band) if alert.risk_band else 0
        filled = round(alert.churn_probability * _BAR)
        text.append("━" * filled, COLOURS[band])
        text.append("━" * (_BAR - filled), RULE)
        text.append(f" {alert.churn_probability:4.0%} ", f"bold {COLOURS[band]}")
    else:
        text.append(f"{kind:<{_BAR + 6}}", ACCENT)
    action = f"→ {alert.action}" if alert.action else ""
    room = max(width - text.cell_len - len(action) - 2, 10)
    why = grounds(alert)
    why.truncate(room, overflow="ellipsis", pad=True)
    text.append_text(why)
    text.append(f"  {action}", ACCENT)
    return text
