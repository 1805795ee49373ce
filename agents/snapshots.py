"""Model snapshots in words and small tables: what a person asks of them on the command line."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, Final, NamedTuple

import msgspec

from models.snapshot import CHAMPION, Gate, Horizon, Snapshot
from streams.events import rfc3339

_TICKS: Final = "▁▂▃▄▅▆▇█"
WIDTH: Final = 24
"""Characters of a curve."""


class Curve(NamedTuple):
    """A learned curve: what an input adds to the log-odds of churn from its lowest knot to its highest."""

    name: str
    group: str
    low: float
    high: float
    lowest: float
    highest: float
    drawn: str

    @property
    def reach(self) -> float:
        """How much it can make of a difference."""
        return self.highest - self.lowest


def day(micros: int) -> str:
    """The day of an instant, or a dash for none."""
    return rfc3339(micros)[:10] if micros else "-"


def minute(micros: int) -> str:
    """Day and minute of an instant in UTC."""
    return rfc3339(micros)[:16].replace("T", " ") if micros else "-"


def summary(snapshot: Snapshot) -> dict[str, Any]:
    """One line of a list, for people and programs."""
    leading = snapshot.leading
    deciding = next((f for f in leading.figures if f.model == leading.promoted.model), None)
    found: dict[str, Any] = {
        "version": snapshot.version,
        "effective": rfc3339(snapshot.effective),
        "source": snapshot.source,
        "model": leading.promoted.model,
        "since": rfc3339(leading.promoted.since) if leading.promoted.since else None,
        "horizon_days": leading.days,
        "labels": leading.labels,
        "gate_open": leading.gate.open,
    }
    if deciding is not None:
        found |= {"log_loss": deciding.log_loss, "auc": deciding.auc, "window": deciding.labels}
    return found


def gate(found: Gate) -> str:
    """The gate, in a sentence."""
    have = f"{found.churned:,} churned and {found.stayed:,} stayed of {found.needed:,} needed each"
    if found.open:
        return f"open: {have}"
    if found.until is None:
        return f"closed: {have}; nothing tells yet until when"
    return f"closed: {have}; at the present pace it opens on {day(found.until)}"


def curves(horizon: Horizon, model: str = CHAMPION) -> list[Curve]:
    """What a model has learned of each input, the most telling first."""
    learned = horizon.models.get(model)
    if learned is None:
        return []
    scale = learned.calibration.scale
    found = []
    for name, curve in learned.data.get("curves", {}).items():
        knots, effects = curve["knots"], [scale * e for e in curve["effects"]]
        if len(knots) < 2:
            continue
        drawn = _drawn(knots, effects)
        found.append(Curve(name, curve["group"], knots[0], knots[-1], min(effects), max(effects), drawn))
    return sorted(found, key=lambda c: (-c.reach, c.name))


def _drawn(knots: Sequence[float], effects: Sequence[float]) -> str:
    low, high = min(effects), max(effects)
    if high - low < 1e-9:
        return _TICKS[0] * WIDTH
    at = [knots[0] + (knots[-1] - knots[0]) * i / (WIDTH - 1) for i in range(WIDTH)]
    heights = (_between(knots, effects, x) for x in at)
    return "".join(_TICKS[min(int((h - low) / (high - low) * len(_TICKS)), len(_TICKS) - 1)] for h in heights)


def _between(knots: Sequence[float], effects: Sequence[float], x: float) -> float:
    for i in range(1, len(knots)):
        if x <= knots[i]:
            share = (x - knots[i - 1]) / (knots[i] - knots[i - 1])
            return effects[i - 1] + share * (effects[i] - effects[i - 1])
    return effects[-1]


class Change(NamedTuple):
    """Something in which two snapshots differ."""

    what: str
    before: str
    after: str


def differences(one: Snapshot, other: Snapshot) -> list[Change]:
    """In what two snapshots differ, where it matters: what decides, how much was learned, the figures, and how
    far each curve has moved."""
    return list(_differences(one, other))


def _differences(a: Snapshot, b: Snapshot) -> Iterator[Change]:
    def change(what: str, before: object, after: object) -> Iterator[Change]:
        if before != after:
            yield Change(what, _shown(before), _shown(after))

    yield from change("newest label", minute(a.effective), minute(b.effective))
    yield from change("source", a.source, b.source)
    yield from change("features", a.features, b.features)
    others = {h.days: h for h in b.horizons}
    yield from change(
        "horizons", ", ".join(f"{h.days:g}" for h in a.horizons), ", ".join(f"{h.days:g}" for h in b.horizons)
    )
    for h in a.horizons:
        o = others.get(h.days)
        if o is None:
            continue
        under = f" ({h.days:g} days)" if len(a.horizons) > 1 else ""
        yield from change(f"model that decides{under}", h.promoted.model, o.promoted.model)
        yield from change(f"labels learned{under}", h.labels, o.labels)
        yield from change(
            f"gate{under}", "open" if h.gate.open else "closed", "open" if o.gate.open else "closed"
        )
        then = {f.model: f for f in o.figures}
        for f in h.figures:
            g = then.get(f.model)
            if g is not None:
                yield from change(f"{f.model}: log-loss{under}", f.log_loss, g.log_loss)
                yield from change(f"{f.model}: AUC{under}", f.auc, g.auc)
        yield from _learned(h, o, under)
    for name, value in msgspec.structs.asdict(a.purchase_rate).items():
        yield from change(f"purchase rate: {name}", value, getattr(b.purchase_rate, name))


def _learned(a: Horizon, b: Horizon, under: str) -> Iterator[Change]:
    for model in sorted(a.models.keys() & b.models.keys()):
        one, other = a.models[model], b.models[model]
        before = f"{one.calibration.scale:.3f} and {one.calibration.shift:+.3f}"
        after = f"{other.calibration.scale:.3f} and {other.calibration.shift:+.3f}"
        if before != after:
            yield Change(f"{model}: calibration{under}", before, after)
        was = one.data.get("curves", {})
        for name, curve in sorted(other.data.get("curves", {}).items()):
            old = was.get(name)
            if old is None or old["knots"] != curve["knots"]:
                yield Change(f"{model}: {name}{under}", "-" if old is None else "other knots", "new")
                continue
            moved = max(
                (abs(y - x), k, x, y)
                for k, x, y in zip(curve["knots"], old["effects"], curve["effects"], strict=True)
            )
            if moved[0] >= 0.005:
                yield Change(
                    f"{model}: {name} at {moved[1]:g}{under}", f"{moved[2]:+.2f}", f"{moved[3]:+.2f}"
                )


def _shown(value: object) -> str:
    if value is None:
        return "-"
    if isinstance(value, float):
        return "-" if math.isnan(value) else f"{value:.4g}"
    if isinstance(value, int):
        return f"{value:,}"
    return str(value)


def before(snapshots: Iterable[Snapshot], now: Snapshot, until: int | None) -> Snapshot | None:
    """The newest snapshot older than the one that decides ``now`` (which may be pinned), or of labels until an
    instant."""
    found = None
    for snapshot in snapshots:  # oldest first
        if snapshot.version == now.version:
            continue
        if snapshot.effective <= (now.effective if until is None else until):
            found = snapshot
    return found
