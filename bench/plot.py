"""The picture of the results, ``speed.svg``. Runs in the peers' environment, which has matplotlib:
``python -m bench.plot speed.json speed.svg``."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import matplotlib as mpl

mpl.use("svg")
from matplotlib import pyplot as plt

ENGINES = {
    "churnwatch": "churnwatch\nthe whole path",
    "bytewax": "bytewax\na bare state",
    "quix": "Quix Streams\na bare state",
    "faust_empty": "Faust\nan empty agent",
    "faust_table": "Faust\na Table",
}
KINDS = {"uniform": "uniform customers", "zipf": "Zipf customers", "mix": "a shop's mix"}
OURS = ("#0b6e4f", "#3c9d7b", "#8fcdb4")
THEIRS = ("#5b6470", "#8b949f", "#bcc3ca")


def draw(results: dict[str, Any], file: Path) -> None:
    """Engines on the left, where our own time goes on the right."""
    # The same figures give the same bytes; text stays text.
    plt.rcParams.update(
        {"svg.fonttype": "none", "svg.hashsalt": "churnwatch", "font.family": "sans-serif", "font.size": 9}
    )
    shares = results.get("profile", {}).get("shares")
    figure, axes = plt.subplots(
        1, 2 if shares else 1, figsize=(10 if shares else 6.5, 4.2), layout="constrained", squeeze=False,
        width_ratios=[3, 2] if shares else None,
    )  # fmt: skip
    figure.patch.set_facecolor("white")
    _engines(axes[0][0], results.get("engines", {}))
    if shares:
        _shares(axes[0][1], shares)
    figure.savefig(file, metadata={"Date": None})
    plt.close(figure)


def _engines(axis: Any, engines: dict[str, Any]) -> None:
    names = [name for name in ENGINES if name in engines]
    kinds = [kind for kind in KINDS if any(kind in engines[name] for name in names)]
    height = 0.8 / max(1, len(kinds))
    highest = 0.0
    for k, kind in enumerate(kinds):
        for n, name in enumerate(names):
            value = engines[name].get(kind, {}).get("cpu_seconds_per_million")
            if value is None:
                continue
            highest = max(highest, value)
            at = n - 0.4 + height * (k + 0.5)
            axis.barh(at, value, height * 0.92, color=(OURS if name == "churnwatch" else THEIRS)[k])
            axis.annotate(
                f"{value:.1f}  {kind}",
                (value, at),
                (4, 0),
                textcoords="offset points",
                va="center",
                fontsize=7.5,
            )
    axis.set_yticks(range(len(names)), [ENGINES[name] for name in names])
    axis.invert_yaxis()
    axis.set_xlim(0, highest * 1.18)
    axis.set_title("Processor seconds per million events (less is better)", loc="left", fontsize=10)
    _plain(axis)


def _shares(axis: Any, shares: dict[str, float]) -> None:
    parts = list(shares.items())[:12]
    axis.barh(range(len(parts)), [100 * share for _, share in parts], 0.7, color=OURS[1])
    for i, (_, share) in enumerate(parts):
        axis.annotate(
            f"{share:.0%}", (100 * share, i), (4, 0), textcoords="offset points", va="center", fontsize=7.5
        )
    axis.set_yticks(range(len(parts)), [part for part, _ in parts])
    axis.invert_yaxis()
    axis.set_xlim(0, 118 * max(shares.values()))
    axis.set_title("Where churnwatch's time goes", loc="left", fontsize=10)
    _plain(axis)


def _plain(axis: Any) -> None:
    axis.spines[["top", "right", "bottom"]].set_visible(False)
    axis.tick_params(bottom=False, labelbottom=False, left=False)


if __name__ == "__main__":
    draw(json.loads(Path(sys.argv[1]).read_text()), Path(sys.argv[2]))
