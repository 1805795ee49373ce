"""The report of a soak: ``soak.json`` for machines, ``soak.md`` for people, ``soak.svg`` with memory over time."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import matplotlib as mpl
import msgspec

mpl.use("svg")
from matplotlib import pyplot as plt


def keep(found: dict[str, Any], folder: Path) -> None:
    """Writes all three."""
    folder.mkdir(parents=True, exist_ok=True)
    samples = [msgspec.json.encode(row).decode() for row in found["samples"]]
    rest = {key: value for key, value in found.items() if key != "samples"}
    text = msgspec.json.format(msgspec.json.encode(rest), indent=1).decode().removesuffix("\n}")
    # A line a second.
    (folder / "soak.json").write_text(text + ',\n "samples": [\n  ' + ",\n  ".join(samples) + "\n ]\n}\n")
    (folder / "soak.md").write_text(page(found))
    draw(found, folder / "soak.svg")


def page(found: dict[str, Any]) -> str:
    """The report for people."""
    equal, memory = found["equal"], found["memory"]
    lines = [
        "# A soak: what it endured, and that nothing was lost",
        "",
        "Written by `make soak`; what each figure means: [docs/soak.md](../../docs/soak.md).",
        "",
        "![Memory and unread records over time](soak.svg)",
        "",
        (
            f"{found['seconds'] / 60:.1f} minutes with seed {found['seed']}: two workers, {found['offered']:,} records a second "
            f"offered in bursts, of a measured capacity of {found['capacity']:,}. One customer has "
            f"{found['heaviest_customer']:.0%} of all events, and partition 0 ten times as many as each of the others."
        ),
        "",
        "## At the end",
        "",
        (
            f"- **Equal**: {equal['records']:,} records were applied. All {equal['customers']:,} states, all deadlines, and all "
            f"that left ({equal['alerts']:,} alerts, {equal['scores_and_decisions']:,} scores and decisions, "
            f"{equal['labels']:,} labels, {equal['dead_letters']:,} dead letters) equal the undisturbed run, byte for byte and per "
            f"customer in order. Of {equal['asked_the_oracle']} customers the naive oracle says the same as their states, and "
            f"decides each of their alerts the same. {equal['sent_again']:,} messages were sent more than once, with the same id "
            "and body."
        ),
    ]
    flat = all(one["flat"] for one in memory.values())
    lines.append(f"- **Memory** {'stayed flat' if flat else 'GREW'} (tolerance: 10 % and 8 MB):")
    lines += ["", "| MB (upper quartile) | middle third | last third | |", "| --- | ---: | ---: | --- |"]
    names = {
        "worker_rss_mb": "a worker, resident",
        "redis_rss_mb": "Redis, resident",
        "redis_used_mb": "Redis, used",
    }
    for name, one in memory.items():
        lines.append(
            f"| {names[name]} | {one['middle']} | {one['end']} | {'flat' if one['flat'] else '**grew**'} |"
        )
    lines += [
        "",
        "## How long it took",
        "",
        *_shared(found),
        "| milliseconds | p50 | p99 | p99.9 | worst | of |",
        "| --- | ---: | ---: | ---: | ---: | ---: |",
    ]
    for name, what in (
        ("to_outbox_ms", "to the durable outbox"),
        ("to_alert_ms", "to a consumer of `alerts`"),
    ):
        for part, when in (
            ("between_faults", "while nothing was wrong"),
            ("all", "everything, outages included"),
        ):
            row = found[name][part]
            cells = (f"{row[p]:,}" if p in row else "" for p in ("p50", "p99", "p99_9", "max", "events"))
            lines.append(f"| {what}, {when} | {' | '.join(cells)} |")
    lines += [
        "",
        "## What went wrong",
        "",
        "| second | fault | seconds it took | seconds until all was caught up |",
        "| ---: | --- | ---: | ---: |",
    ]
    for fault in found["faults"]:
        until = "not before the next" if fault["caught_up"] is None else fault["caught_up"]
        lines.append(f"| {fault['at']} | {fault['name']} | {fault['lasted']} | {until} |")
    machine = ", ".join(
        f"{name} {value}" for name, value in {**found["machine"], **found["versions"]}.items()
    )
    lines += [
        "",
        (
            f"Measured {found['when']}. The load average of the machine was {found['load_before']} before it began, which is the "
            f"work of others, and {found['load_after']} at its end. Machine: {machine}."
        ),
        "",
    ]
    return "\n".join(lines)


def _shared(found: dict[str, Any]) -> list[str]:
    """What to think of times that were taken beside others."""
    if found["load_before"] <= float(found["machine"]["cores"]):
        return []
    return [
        (
            f"The machine was not ours alone: its load average was {found['load_before']} on {found['machine']['cores']} cores "
            "before anything of this began. Its capacity shrank after it was measured, so that records queued for minutes. "
            "These times say how that went, not how fast it is; equality and memory hold all the same."
        ),
        "",
    ]


def draw(found: dict[str, Any], file: Path) -> None:
    """Memory above, unread records below, faults as lines."""
    # The same figures give the same bytes; text stays text.
    plt.rcParams.update(
        {"svg.fonttype": "none", "svg.hashsalt": "churnwatch", "font.family": "sans-serif", "font.size": 9}
    )
    rows = found["samples"]
    at = [row[0] for row in rows]
    figure, (memory, behind) = plt.subplots(2, 1, figsize=(9, 5), sharex=True, layout="constrained")
    figure.patch.set_facecolor("white")
    for column, name, color in (
        (1, "workers, resident", "#0b6e4f"),
        (2, "Redis, resident", "#5b6470"),
        (3, "Redis, used", "#bc5a2c"),
    ):
        # Where a server was away there is nothing to draw.
        memory.plot(at, [row[column] or float("nan") for row in rows], color=color, label=name, linewidth=1.2)
    memory.set_ylim(bottom=0)
    memory.set_title("Memory, MB (all workers together)", loc="left", fontsize=10)
    memory.legend(frameon=False, fontsize=8, loc="lower right")
    behind.fill_between(
        at, [row[4] if row[3] else float("nan") for row in rows], color="#8fcdb4", linewidth=0
    )
    behind.set_ylim(bottom=0)
    behind.set_title("Records that are not applied yet; lines: a fault strikes", loc="left", fontsize=10)
    behind.set_xlabel("seconds")
    for axis in (memory, behind):
        axis.spines[["top", "right"]].set_visible(False)
        for fault in found["faults"]:
            axis.axvline(fault["at"], color="#9a9a9a", linewidth=0.6, linestyle=":")
    figure.savefig(file, metadata={"Date": None})
    plt.close(figure)
