"""A picture of the screen that looks the same everywhere.

What is captured is the text of the screen. A terminal fills the whole cell with a block character; fonts of
browsers and viewers do not, and a page that shows a picture loads no font from elsewhere. So block and line
characters become the rectangles that a terminal draws, and each word stands where its cells are.
"""

from __future__ import annotations

import html
import re
from itertools import groupby
from typing import Final

CELL: Final = 12.2
"""Width of a cell in the captured picture."""
ROW: Final = 24.4
_BASE: Final = 18.5  # from the top of a cell to the line on which its text stands
_FONTS: Final = "Fira Code, DejaVu Sans Mono, Menlo, Consolas, monospace"

_BLOCKS: Final = {glyph: ((8 - n) / 8, n / 8) for n, glyph in enumerate("▁▂▃▄▅▆▇█", 1)}
_STROKES: Final = {"━": (0.4, 0.2), "╸": (0.4, 0.2), "─": (0.47, 0.06)}
_DRAWN: Final = {**_BLOCKS, **_STROKES}
"""Of each character that becomes a rectangle: where it begins and how high it is, in cells."""

_text = re.compile(
    r'<text class="(?P<style>[^"]+)" x="(?P<x>[\d.]+)" y="(?P<y>[\d.]+)" textLength="[\d.]+" '
    r'clip-path="(?P<clip>[^"]+)">(?P<text>[^<]*)</text>'
)
_face = re.compile(r"@font-face \{.*?\}\s*", re.DOTALL)


def drawn(svg: str) -> str:
    """The captured picture with block characters as rectangles, words in their places, and nothing that
    would have to be loaded."""
    svg = _face.sub("", svg).replace("font-family: Fira Code, monospace", f"font-family: {_FONTS}")
    return _text.sub(_cells, svg)


def _cells(match: re.Match[str]) -> str:
    style, left, base = match["style"], float(match["x"]), float(match["y"])
    top = base - _BASE
    parts = []
    place = 0
    for kind, run in groupby(html.unescape(match["text"]), key=_kind):
        glyphs = "".join(run)
        x = left + place * CELL
        place += len(glyphs)
        if kind in _DRAWN:
            begin, high = _DRAWN[kind]
            width = len(glyphs) * CELL if kind != "╸" else CELL / 2
            parts.append(
                f'<rect class="{style}" x="{x:.1f}" y="{top + begin * ROW:.2f}" width="{width:.1f}" '
                f'height="{high * ROW + (0.25 if kind in _BLOCKS else 0):.2f}" shape-rendering="crispEdges"/>'
            )
        elif kind == "text":
            parts.append(
                f'<text class="{style}" x="{x:.1f}" y="{base:g}" textLength="{len(glyphs) * CELL:.1f}" '
                f'clip-path="{match["clip"]}">{html.escape(glyphs)}</text>'
            )
    return "".join(parts)


def _kind(glyph: str) -> str:
    if glyph in _DRAWN:
        return glyph
    return "space" if glyph in {" ", "\N{NO-BREAK SPACE}"} else "text"
