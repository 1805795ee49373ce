"""``report.html``: what a backtest has found, for those who will act on it.

One page that needs nothing else: no network, no fonts, one short script (it shows another Monday). It follows the
reader's theme, and prints.
"""

from __future__ import annotations

import html
import importlib.resources
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

import msgspec

from agents.backtest import plots
from agents.backtest.cutoffs import gains, reliability
from agents.backtest.report import curve, date, weekly
from agents.backtest.run import CHAMPION, Found
from agents.backtest.stories import Monday, mondays, months, stories

TITLES: Final = {
    "champion": "churnwatch",
    "recency": "days since the last purchase",
    "btyd": "buy till you die",
    "rfm_logistic": "recency, frequency, money",
    "lightgbm": "LightGBM, refitted",
}
"""What models are called for readers."""
SECTIONS: Final = (
    "calibration", "gains", "lead", "weeks", "revenue", "learned", "customers", "monday", "models", "reading",
)  # fmt: skip
"""The parts of the page, by the names of their anchors."""
_FIGURES: Final = (
    ("auc", "AUC"), ("average_precision", "avg. precision"), ("log_loss", "log-loss"), ("brier", "Brier"),
    ("calibration_error", "calibration error"), ("precision_top_decile", "right in the top tenth"),
)  # fmt: skip
_CURVES: Final = 16
"""Inputs whose curves are shown: those that move the score most."""


def page(found: Found, document: Mapping[str, Any]) -> str:
    """The whole page. ``document``: the report (``agents.backtest.report``)."""
    files = importlib.resources.files("agents.backtest")
    lists = mondays(found)
    body = "\n".join(part for section in _sections(found, document, lists) for part in section)
    title = f"Backtest of {document['history']['name']}"
    data = msgspec.json.encode(
        [monday._asdict() | {"entries": [e._asdict() for e in monday.entries]} for monday in lists]
    )
    return (
        f'<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f'<meta name="color-scheme" content="light dark">\n<title>{_e(title)}</title>\n'
        f"<style>\n{(files / 'page.css').read_text()}</style>\n</head>\n<body>\n<main>\n{body}\n</main>\n"
        # "<" is written so that no text of a shop can end the script.
        f'<script type="application/json" id="mondays">{data.decode().replace("<", chr(92) + "u003c")}</script>\n'
        f"<script>\n{(files / 'page.js').read_text()}</script>\n</body>\n</html>\n"
    )


def _sections(found: Found, document: Mapping[str, Any], lists: Sequence[Monday]) -> Iterator[Iterator[str]]:
    yield _head(document)
    yield _calibration(found, document)
    yield _gains(found, document)
    yield _lead(found, document)
    yield _weeks(found)
    yield _learned(document)
    yield _lives(found)
    yield _monday(lists)
    yield _models(document)
    yield _reading(document)


def _head(document: Mapping[str, Any]) -> Iterator[str]:
    history, alerts, horizon = document["history"], document["alerts"], document["horizon_days"]
    yield f"<header><p class=eyebrow>churnwatch backtest</p><h1>{_e(history['name'])}</h1>"
    yield (
        f"<p class=lead>{history['events']:,} events of {history['customers']:,} customers, {history['from']} to "
        f"{history['to']}. churnwatch read them day by day, as if each day were today. Here is what it would have said "
        f"from {alerts['from']} on, and what really happened. <b>Left</b> means: no {_activity(document)} for {horizon} days.</p>"
    )
    yield "<div class=cards>"
    yield _card(
        _share(alerts["precision"]),
        "of the warnings were right",
        f"no {_activity(document)} within the horizon",
    )
    yield _card(
        _share(alerts["recall"]),
        "of those who left were warned of",
        f"{alerts['lost']:,} active customers left",
    )
    lead = alerts["median_lead_days"]
    yield _card(
        "–" if lead is None else f"{lead:g} days", "left to act, typically", "before the horizon was over"
    )
    rate = alerts["per_1000_customers_a_week"]
    yield _card("–" if rate is None else f"{rate:.0f}", "warnings a week", "for 1,000 active customers")
    yield "</div></header>"


def _calibration(found: Found, document: Mapping[str, Any]) -> Iterator[str]:
    bins = reliability(found.cutoffs, CHAMPION)
    plot = plots.calibration(bins, "Stated probabilities against what happened")
    error = document["churn"]["all"]["mean"][CHAMPION]["calibration_error"]
    yield _section("calibration", "When it says 70 %, is it 70 %?")
    yield (
        "<p>All customers at all cut-offs, sorted by the probability of leaving that churnwatch stated. Dots on the "
        "dashed line mean that a probability can be taken at its word; below it, it was too pessimistic; above it, too "
        f"optimistic. The larger the dot, the more customers. On average it was {error * 100:.1f} points off.</p>"
    )
    yield f"<div class=side><figure>{plot}</figure>"
    yield _table(
        ("stated", "really left", "customers"),
        [(f"{b.stated:.0%}", f"{b.churned:.0%}", f"{b.customers:,}") for b in bins],
    )
    yield "</div></section>"


def _gains(found: Found, document: Mapping[str, Any]) -> Iterator[str]:
    yield _section("gains", "If you can only call some of them, whom?")
    shown = [(CHAMPION, plots.MAIN), ("rfm_logistic", plots.THIRD), ("recency", plots.OTHER)]
    drawn = []
    for model, colour in shown:
        if model in document["models"]:
            x, y = gains(found.cutoffs, model, "active")
            drawn.append(plots.Line(TITLES[model], x.tolist(), y.tolist(), colour, dashed=model != CHAMPION))
    drawn.append(plots.Line("by chance", [0, 1], [0, 1], plots.MUTED, dashed=True))
    plot = plots.lines(
        drawn,
        ("active customers you contact", "of those who leave, reached"),
        "Gains: share reached by share contacted",
        legend="lower right",
    )
    x, y = gains(found.cutoffs, CHAMPION, "active")
    fifth = y[round(0.2 * (len(x) - 1))]
    yield (
        f"<p>Active customers (a {_activity(document)} within the last horizon), sorted by their risk, highest first. "
        f"Contact the first fifth of them and you reach <b>{fifth:.0%}</b> of those who are about to leave; by chance it "
        "would be 20 %.</p>"
    )
    yield f"<figure>{plot}</figure></section>"


def _lead(found: Found, document: Mapping[str, Any]) -> Iterator[str]:
    alerts = document["alerts"]
    yield _section("lead", "Earlier than a rule of thumb")
    ours = [v for v in curve(found) if v.right >= 10 and v.lead is not None]
    any_rise = [v for v in curve(found, 0.0) if v.right >= 10 and v.lead is not None]
    limits = [v for v in found.judge.limits() if v.right >= 10 and v.lead is not None]
    drawn = [
        plots.Line("churnwatch, any threshold", [v.lead or 0 for v in any_rise], [v.precision or 0 for v in any_rise], plots.MAIN),
        plots.Line(
            "and only after a clear rise", [v.lead or 0 for v in ours], [v.precision or 0 for v in ours], plots.THIRD, dashed=True
        ),
        plots.Line(
            "a fixed limit on silence", [v.lead or 0 for v in limits], [v.precision or 0 for v in limits], plots.OTHER, dashed=True
        ),
    ]  # fmt: skip
    marks = []
    if alerts["precision"] is not None and alerts["median_lead_days"] is not None:
        here = [alerts["median_lead_days"]], [alerts["precision"]]
        marks.append(plots.Line("your settings", *here, plots.HIGH))
    plot = plots.lines(
        drawn,
        ("days left to act (median)", "warnings that were right"),
        "Precision against lead time",
        percent="y",
        marks=marks,
    )
    yield (
        "<p>Everybody can warn late and be right, or early and be wrong. The further a line lies to the upper right, the "
        "better: more days left, and more warnings right. The dashed orange line is the rule that most shops have, "
        "<i>warn after so many days without a purchase</i>, for every number of days.</p>"
    )
    yield f"<div class=side><figure>{plot}</figure><div>"
    rows = [("churnwatch, your settings", alerts)]
    for band, of in alerts["by_band"].items():
        rows.append((f"&nbsp;&nbsp;came to {band} risk", of))
    if alerts["silence_limit"] is not None:
        rows.append(
            (f"limit of {alerts['silence_limit']['days']} days, as often right", alerts["silence_limit"])
        )
    rows.append(("warning everybody", alerts["everyone"]))
    yield _table(
        ("", "right", "found", "days left", "a week per 1,000"),
        [
            (name, _share(of["precision"]), _share(of["recall"]), _number(of["median_lead_days"]), _number(of["per_1000_customers_a_week"], 1))
            for name, of in rows
        ],
    )  # fmt: skip
    at = next(iter(alerts["at_precision"].items()))
    both = at[1]["churnwatch"], at[1]["silence_limit"]
    if both[0] and both[1]:
        yield (
            f"<p>Set so that {float(at[0]):.0%} of the warnings are right, churnwatch leaves "
            f"<b>{both[0]['median_lead_days']:g} days</b>, the best limit ({both[1]['days']} days of silence) "
            f"<b>{both[1]['median_lead_days']:g} days</b>.</p>"
        )
    yield "</div></div></section>"


def _weeks(found: Found) -> Iterator[str]:
    days, counts, money = weekly(found.warned, found.judge.first, found.last)
    labels = [date(day)[2:] for day in days]
    currency = found.settings.shop.currency
    yield _section("weeks", "What a week brings")
    yield "<p>New warnings by week, by the band in which they were raised.</p>"
    shown = {band: values for band, values in counts.items() if any(values)} or {"medium": [0] * len(days)}
    yield f"<figure>{plots.weeks(labels, shown, 'warnings', 'Warnings a week')}</figure></section>"
    yield _section("revenue", "What is at stake")
    total = sum(money)
    yield (
        f"<p>Revenue at risk in the new warnings of each week: the probability of leaving times what the customer is "
        f"expected to spend in a year. Over the whole time <b>{total:,.0f} {_e(currency)}</b>.</p>"
    )
    yield f"<figure>{plots.weeks(labels, {'revenue at risk': money}, currency, 'Revenue at risk by week')}</figure></section>"


def _learned(document: Mapping[str, Any]) -> Iterator[str]:
    learned = document["learned"]
    yield _section("learned", "What it has learned about your customers")
    found = [(each["title"], each["values"], each["effects"]) for each in learned.get("curves", [])]
    if not found:
        yield (
            "<p>Nothing yet: too few labels had matured by the end of the file for the learned score to decide "
            "(<code>learning.gate</code>). The statistical score spoke alone.</p></section>"
        )
        return
    yield (
        f"<p>From {learned['labels']:,} outcomes, each learned only when its horizon had passed. Each curve says what one "
        "thing adds to the risk, all else being equal: above the line it speaks for leaving, below it for staying. Those "
        "that matter most come first.</p>"
    )
    yield f"<figure class=wide>{plots.curves(found[:_CURVES], 'Learned curves of the inputs')}</figure>"
    rest = found[_CURVES:]
    if rest:
        drawn = plots.curves(rest, "Learned curves of the other inputs")
        yield f"<details><summary>The other {len(rest)}</summary><figure class=wide>{drawn}</figure></details>"
    yield "</section>"


def _lives(found: Found) -> Iterator[str]:
    yield _section("customers", "Some customers, followed closely")
    told = stories(found)
    if not told:
        yield "<p>No customer bought often enough to be shown here.</p></section>"
        return
    yield (
        "<p>Green: purchases. Blue: the probability of leaving that churnwatch stated (from the first cut-off on, while "
        "the customer was active). Red: the moment of a warning.</p>"
    )
    first = min(min(story.purchases) for story in told)
    dates = months(first, found.last)
    for story in told:
        example = plots.Example(
            [day - first for day in story.purchases],
            [(day - first, value) for day, value in story.probability],
            [day - first for day in story.warnings],
        )
        name = _e(story.customer)
        drawn = plots.time_line(example, found.last - first, dates, f"Time line of customer {story.customer}")
        yield f"<figure class=life><figcaption><b>{name}</b> {story.why}</figcaption>{drawn}</figure>"
    yield "</section>"


def _monday(lists: Sequence[Monday]) -> Iterator[str]:
    yield _section("monday", "A Monday morning")
    if not lists:
        yield "<p>There was no warning to show.</p></section>"
        return
    # One that has been settled since: the newest whose horizon has passed, else the newest.
    shown = max(
        (place for place, each in enumerate(lists) if all(e.left is not None for e in each.entries)),
        default=-1,
    )
    chosen = lists[shown]
    options = "".join(
        f"<option value={place}{' selected' if each is chosen else ''}>{each.date} ({each.total:,})</option>"
        for place, each in enumerate(lists)
    )
    yield (
        "<p>Who would have been on the list on a Monday: warned of in the week before, and not back since. Why: what "
        "spoke for leaving on the day of the warning. To do: your measure, and the cause that it answers. The last column is "
        "what nobody knew then.</p>"
    )
    yield f'<p class=choose><label for=monday-of>Monday</label> <select id=monday-of>{options}</select> <span id=monday-sum>{_sum(chosen)}</span></p>'  # fmt: skip
    rows = [
        (
            _e(each.customer), f'<span class="band {each.band}">{each.band}</span> {each.probability:.0%}', f"{each.silent:,}",
            _e(each.why), _e(each.action), f"{each.revenue:,.0f}", _e(each.then),
        )
        for each in chosen.entries
    ]  # fmt: skip
    yield _table(
        ("customer", "risk", "days silent", "why", "to do", "at risk a year", "what happened then"),
        rows,
        "monday-list",
    )
    yield "</section>"


def _sum(monday: Monday) -> str:
    more = (
        f", the {len(monday.entries)} with most revenue shown" if monday.total > len(monday.entries) else ""
    )
    return f"{monday.total:,} customers, {monday.revenue:,.0f} at risk{more}"


def _models(document: Mapping[str, Any]) -> Iterator[str]:
    churn = document["churn"]
    yield _section("models", "Beside other ways to score")
    yield (
        f"<p>At {len(churn['all']['cutoffs'])} cut-offs every model stated its probabilities from what was known then. "
        "Means over the cut-offs; the best of each column is bold.</p>"
    )
    for population, what in (
        ("all", "Everyone who has bought"),
        ("active", "Those who bought within the last horizon"),
    ):
        mean = churn[population]["mean"]
        best = {
            name: (min if name in {"log_loss", "brier", "calibration_error"} else max)(
                (of[name] for of in mean.values() if of[name] is not None), default=None
            )
            for name, _ in _FIGURES
        }
        yield f"<h3>{what}</h3>"
        yield _table(
            ("", *(title for _, title in _FIGURES)),
            [
                (
                    TITLES.get(model, model),
                    *(
                        "–"
                        if of[name] is None
                        else f"<b>{of[name]:.4f}</b>"
                        if of[name] == best[name]
                        else f"{of[name]:.4f}"
                        for name, _ in _FIGURES
                    ),
                )
                for model, of in mean.items()
            ],
        )
    rows = [
        (
            each["time"], f"{each['n']:,}", _share(each["base_rate"]), each["score_source"],
            *(f"{_number(each[model]['auc'], 4)} / {_number(each[model]['log_loss'], 4)}" for model in document["models"]),
        )
        for each in churn["all"]["cutoffs"]
    ]  # fmt: skip
    yield "<details><summary>Each cut-off (everyone; AUC / log-loss)</summary>"
    names = (TITLES.get(model, model) for model in document["models"])
    yield _table(("cut-off", "customers", "left", "score", *names), rows)
    yield "</details></section>"


def _reading(document: Mapping[str, Any]) -> Iterator[str]:
    alerts, horizon = document["alerts"], document["horizon_days"]
    yield _section("reading", "How this was measured")
    yield (
        f"<p>Warnings are judged on {alerts['silences']:,} silences that began from {alerts['from']} to {alerts['to']}; a "
        f"silence begins with a {_activity(document)}, and is lost when none follows within {horizon} days. One warning counts in each, "
        f"on customers who were active when warned. Days left: last {_activity(document)} plus the horizon, minus the day of the warning. "
        f"A warning needs a probability of {alerts['thresholds']['medium']:.0%} (medium) or "
        f"{alerts['thresholds']['high']:.0%} (high), and a rise of {alerts['thresholds']['rise']:g} in log-odds since the "
        "last purchase.</p>"
        "<p>Nothing was learned, estimated or stated with knowledge of what came later. A label is learned when its horizon "
        f"has passed. A cut-off's day counts in full; churned means no {_activity(document)} on the days after it, up to the horizon.</p>"
        "<p>All figures are in <code>report.json</code>.</p></section>"
    )


# ---- small parts


def _activity(document: Mapping[str, Any]) -> str:
    """What ends a silence in this shop."""
    return "purchase or use" if document["activity"] == "purchase_or_use" else "purchase"


def _section(name: str, title: str) -> str:
    return f"<section id={name}><h2>{title}</h2>"


def _card(value: str, what: str, more: str) -> str:
    return f"<div class=card><b>{value}</b><span>{what}</span><small>{more}</small></div>"


def _table(head: Sequence[str], rows: Sequence[Sequence[str]], name: str = "") -> str:
    heads = "".join(f"<th>{each}</th>" for each in head)
    body = "\n".join("<tr>" + "".join(f"<td>{cell}</td>" for cell in row) + "</tr>" for row in rows)
    called = f" id={name}" if name else ""
    return f"<div class=scroll><table{called}><thead><tr>{heads}</tr></thead><tbody>\n{body}\n</tbody></table></div>"


def _share(value: float | None) -> str:
    return "–" if value is None else f"{value:.0%}"


def _number(value: float | None, digits: int = 0) -> str:
    return "–" if value is None else f"{value:.{digits}f}"


def _e(text: str) -> str:
    return html.escape(text)
