#!/usr/bin/env python3
"""Writes the dashboards beside it: ``python deploy/grafana/dashboards.py``.

A panel is a title, a sentence, a unit and expressions; where it stands follows from their order. Every metric is asked
for ``job=~"$job"``, so that one Grafana can look at several shops. A test compares the files with what this makes,
and asks a Prometheus every expression.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any, NamedTuple

HERE = Path(__file__).parent
DATASOURCE = {"type": "prometheus", "uid": "${datasource}"}
METRIC = re.compile(r"\b(churnwatch_\w+|up|ALERTS)\b(\{)?")
GREEN, YELLOW, RED = "green", "yellow", "red"
BANDS = {"low": "green", "medium": "yellow", "high": "red", "lapsed": "#8e8e8e"}
OUTCOMES = {"right": "green", "wrong": "orange", "stayed": "green", "churned": "orange"}


class Query(NamedTuple):
    """An expression and how its series are called."""

    expr: str
    legend: str = ""
    exemplar: bool = False


class Panel(NamedTuple):
    """``kind`` is Grafana's; ``steps``: the values from which a colour holds, beginning with the first colour."""

    title: str
    about: str
    queries: tuple[Query, ...]
    unit: str = "short"
    kind: str = "timeseries"
    width: int = 8
    height: int = 8
    steps: tuple[tuple[float | None, str], ...] = ((None, GREEN),)
    stacked: bool = False
    lowest: float | None = 0
    highest: float | None = None
    decimals: int | None = None
    colours: dict[str, str] = {}
    said: dict[str, str] = {}
    texts: bool = False


class Row(NamedTuple):
    """A heading and what stands under it."""

    title: str
    panels: tuple[Panel, ...]


def q(expr: str, legend: str = "") -> Query:
    """A query of metrics by their own names."""

    def of_jobs(found: re.Match[str]) -> str:
        name, opened = found.groups()
        if name == "ALERTS":
            return found[0]
        return f'{name}{{job=~"$job"' + (", " if opened else "}")

    return Query(re.sub(METRIC, of_jobs, " ".join(expr.split())), legend)


def stat(title: str, about: str, expr: str, unit: str = "short", width: int = 4, **more: Any) -> Panel:
    """One number."""
    return Panel(title, about, (q(expr),), unit, "stat", width, 4, **more)


def lines(title: str, about: str, unit: str, *queries: Query, **more: Any) -> Panel:
    """Lines over time."""
    return Panel(title, about, queries, unit, **more)


def quantiles(metric: str) -> tuple[Query, ...]:
    """The median and the tail of a histogram."""
    return tuple(
        q(f"histogram_quantile({p}, sum by (le) (rate({metric}_bucket[$__rate_interval])))", name)
        for p, name in ((0.5, "half within"), (0.99, "99 % within"), (0.999, "99.9 % within"))
    )


def rate(metric: str, by: str = "", chosen: str = "") -> str:
    """How often a counter counts in a second."""
    group = f"sum by ({by})" if by else "sum"
    return f"{group} (rate({metric}{chosen}[$__rate_interval]))"


LEAD = (
    "sum(churnwatch_warnings_right_lead_seconds) "
    '/ (sum(churnwatch_warnings_matured{outcome="right"}) > 0) or vector(0)'
)
ZERO_IS_WELL = ((None, GREEN), (1, RED))

SERVICE = (
    Row(
        "Is it well?",
        (
            stat(
                "Alarms",
                "Rules of deploy/prometheus/alerts.yml that fire now. Each has a runbook in docs/runbooks.",
                'sum(ALERTS{alertname=~"Churnwatch.*", alertstate="firing"}) or vector(0)',
                steps=ZERO_IS_WELL,
            ),
            stat(
                "Processes that answer",
                "Workers and trainers that Prometheus can scrape.",
                "sum(up)",
                steps=((None, RED), (1, GREEN)),
            ),
            stat(
                "Partitions without a worker",
                "Assigned by the group and not claimed in Redis: nobody applies their events. "
                "Some seconds after a start or a rebalance are normal.",
                "sum(churnwatch_partitions_assigned) - sum(churnwatch_partitions_claimed)",
                steps=ZERO_IS_WELL,
            ),
            stat(
                "Oldest unread event",
                "For how long the oldest record that is not applied has been in Kafka.",
                "max(churnwatch_lag_seconds)",
                "s",
                steps=((None, GREEN), (30, YELLOW), (300, RED)),
            ),
            stat(
                "Oldest unsent message",
                "For how long the oldest message of an outbox waits for Kafka.",
                "max(churnwatch_outbox_oldest_age_seconds)",
                "s",
                steps=((None, GREEN), (30, YELLOW), (60, RED)),
            ),
            stat(
                "Delivery",
                "Whether alerts are delivered. Paused: churnwatch alerts resume; shadow: worker.shadow.",
                "clamp_max(sum(max by (kind) (churnwatch_alerts_paused)), 1) + 2 * max(churnwatch_shadow_mode)",
                steps=((None, GREEN), (1, RED)),
                said={"0": "on", "1": "paused", "2": "shadow", "3": "shadow, paused"},
            ),
        ),
    ),
    Row(
        "Traffic and latency",
        (
            lines(
                "Records read",
                "Records that workers have read from each input topic.",
                "rps",
                q(rate("churnwatch_records_total", "topic"), "{{topic}}"),
            ),
            lines(
                "Events applied",
                "What the records said, by type. A flat line while records are read: they are refused or "
                "repeated.",
                "eps",
                q(rate("churnwatch_events_total", "type"), "{{type}}"),
                stacked=True,
            ),
            lines(
                "From decision to alert",
                "From the instant of a decision until its alert is on Kafka. Measured on the wall "
                "clock only; a replay shows nothing here.",
                "s",
                *quantiles("churnwatch_event_to_alert_seconds"),
            ),
            lines(
                "Batch duration",
                "From taking up what was fetched together until all of it is committed.",
                "s",
                *quantiles("churnwatch_batch_duration_seconds"),
            ),
            lines(
                "Batch size",
                "Records in a micro-batch on average. It grows when a worker falls behind.",
                "short",
                q(
                    f"{rate('churnwatch_batch_records_sum')} / ({rate('churnwatch_batch_records_count')} > 0) "
                    "or vector(0)",
                    "records",
                ),
            ),
            lines(
                "In a stage now",
                "Items between entering and leaving a stage of the path.",
                "short",
                q("sum by (stage) (churnwatch_stage_in_progress)", "{{stage}}"),
            ),
        ),
    ),
    Row(
        "Kafka",
        (
            lines(
                "Behind, in records",
                "Records that are not applied yet, by topic.",
                "short",
                q("sum by (topic) (churnwatch_lag_records)", "{{topic}}"),
            ),
            lines(
                "Behind, in time",
                "For how long the oldest unapplied record has been there, the worst partition of each topic. "
                "Rising without end: more workers, or something is stuck.",
                "s",
                q("max by (topic) (churnwatch_lag_seconds)", "{{topic}}"),
                steps=((None, GREEN), (300, RED)),
            ),
            lines(
                "Rebalances",
                "How often the group was shared out anew, and the seconds of each minute spent in it. Many in a row: "
                "workers come and go.",
                "short",
                q("sum(increase(churnwatch_rebalances_total[$__rate_interval]))", "rebalances"),
                q(
                    "60 * sum(rate(churnwatch_rebalance_duration_seconds_sum[$__rate_interval]))",
                    "seconds a minute",
                ),
            ),
            lines(
                "Traffic against what is usual",
                "Events of a topic in the window by which its feed is judged, as a share of what "
                "is usual for it (1). Below feeds.silent_below the looks at silent customers are held.",
                "percentunit",
                q(
                    "sum by (topic) (churnwatch_feed_window_events) / (sum by (topic) (churnwatch_feed_usual_events) > 0) "
                    "or 0 * sum by (topic) (churnwatch_feed_window_events)",
                    "{{topic}}",
                ),
            ),
            lines(
                "Silent feeds",
                "Partitions whose traffic of a topic fell away; looks held because of it are counted below.",
                "short",
                q("sum by (topic) (churnwatch_feeds_silent)", "{{topic}}"),
                q(rate("churnwatch_looks_held_total"), "looks held a second"),
                steps=ZERO_IS_WELL,
            ),
            lines(
                "Clock of the partitions",
                "The earliest and the newest clock. Live, both run with the wall clock; one that stands has "
                "something unread.",
                "dateTimeAsIso",
                q("1000 * min(churnwatch_partition_clock_timestamp_seconds > 0)", "earliest"),
                q("1000 * max(churnwatch_partition_clock_timestamp_seconds)", "newest"),
                lowest=None,
            ),
        ),
    ),
    Row(
        "Redis and commits",
        (
            lines(
                "Commits",
                "Commits made, and those refused because Redis stood elsewhere or a newer worker holds the partition. "
                "Refused ones heal by reading again.",
                "ops",
                q(rate("churnwatch_commits_total"), "made or tried"),
                q(rate("churnwatch_commit_conflicts_total"), "conflicts"),
                q(rate("churnwatch_commits_fenced_total"), "fenced"),
                q(rate("churnwatch_commit_races_total"), "answers lost"),
            ),
            lines(
                "Commit and load",
                "Time of a commit and of loading states, 99 % within.",
                "s",
                q(
                    "histogram_quantile(0.99, sum by (le) (rate(churnwatch_commit_duration_seconds_bucket[$__rate_interval])))",
                    "commit",
                ),
                q(
                    "histogram_quantile(0.99, sum by (le) (rate(churnwatch_load_duration_seconds_bucket[$__rate_interval])))",
                    "load",
                ),
            ),
            lines(
                "Calls to Redis",
                "Attempts by call, and those that failed.",
                "ops",
                q(rate("churnwatch_redis_calls_total", "call"), "{{call}}"),
                q(rate("churnwatch_redis_failures_total"), "failed"),
            ),
            lines(
                "Claimed again",
                "Partitions that were let go and claimed again, by reason.",
                "short",
                q("sum by (reason) (increase(churnwatch_resyncs_total[$__rate_interval]))", "{{reason}}"),
            ),
            lines(
                "Memory of Redis",
                "Used by the fullest node, and what it may use. Under half of the machine, or a rewrite of its file "
                "may not fit.",
                "bytes",
                q("max(churnwatch_redis_memory_used_bytes)", "used"),
                q("max(churnwatch_redis_memory_limit_bytes)", "limit"),
            ),
            lines(
                "State of customers",
                "Bytes of stored state, and of what is written a second.",
                "bytes",
                q("sum by (part) (churnwatch_state_bytes)", "{{part}}"),
                q(rate("churnwatch_state_written_bytes_total"), "written a second"),
            ),
        ),
    ),
    Row(
        "Silence: timers and sweeps",
        (
            lines(
                "Deadlines",
                "Customers with a deadline, and deadlines whose instant has come.",
                "short",
                q("sum(churnwatch_timers)", "customers with a deadline"),
                q("sum(churnwatch_timers_due)", "due now"),
            ),
            lines(
                "Oldest overdue deadline",
                "For how long the earliest deadline is due: silences are noticed that much late.",
                "s",
                q("max(churnwatch_timers_oldest_overdue_seconds)", "overdue"),
                steps=((None, GREEN), (300, RED)),
            ),
            lines(
                "Fired",
                "Deadlines that fired, those more than a minute late, and looks at silent customers.",
                "ops",
                q(rate("churnwatch_timers_fired_total"), "fired"),
                q(rate("churnwatch_timers_late_total"), "late"),
                q(rate("churnwatch_looks_total"), "looks"),
            ),
        ),
    ),
    Row(
        "Bad input",
        (
            lines(
                "Dead letters",
                "Records that could not be used, by reason: churnwatch dlq list shows them.",
                "ops",
                q(rate("churnwatch_dead_letters_total", "reason"), "{{reason}}"),
                stacked=True,
            ),
            lines(
                "Share of bad records",
                "Dead letters of all records. At more than half (and 200) a worker stops.",
                "percentunit",
                q(
                    f"{rate('churnwatch_dead_letters_total')} / ({rate('churnwatch_decoded_total')} > 0) or vector(0)",
                    "bad",
                ),
                highest=1,
                steps=((None, GREEN), (0.05, RED)),
            ),
            lines(
                "Repeated, late, forgotten",
                "Events that were known already, that came after the clock, and those of customers who were "
                "forgotten since.",
                "eps",
                q(rate("churnwatch_duplicates_total"), "repeated"),
                q(rate("churnwatch_late_events_total"), "late"),
                q(rate("churnwatch_events_suppressed_total"), "of forgotten customers"),
            ),
        ),
    ),
    Row(
        "What leaves",
        (
            lines(
                "Outbox",
                "Messages that wait for Kafka.",
                "short",
                q("sum(churnwatch_outbox_depth)", "waiting"),
            ),
            lines(
                "Messages sent",
                "Acknowledged by the brokers, by topic.",
                "mps",
                q(rate("churnwatch_relayed_total", "topic"), "{{topic}}"),
            ),
            lines(
                "Messages refused",
                "Attempts that failed (they are sent again), and messages set aside for being too large.",
                "short",
                q(
                    "sum by (topic) (increase(churnwatch_relay_failures_total[$__rate_interval]))",
                    "{{topic}}",
                ),
                q("sum(increase(churnwatch_relay_parked_total[$__rate_interval]))", "set aside"),
            ),
        ),
    ),
    Row(
        "Processes",
        (
            lines(
                "Processor",
                "Cores that each process uses; one is all that a worker can.",
                "short",
                q("rate(churnwatch_process_cpu_seconds_total[$__rate_interval])", "{{job}} {{instance}}"),
            ),
            lines(
                "Memory",
                "Resident memory of each process, as a share of what it may use.",
                "percentunit",
                q(
                    "churnwatch_process_resident_memory_bytes / churnwatch_process_memory_limit_bytes",
                    "{{job}} {{instance}}",
                ),
                steps=((None, GREEN), (0.9, RED)),
                highest=1,
            ),
            Panel(
                "Releases",
                "Which release runs where.",
                (
                    q(
                        "sum by (version, python, job) (churnwatch_build_info)",
                        "{{job}} {{version}} on Python {{python}}",
                    ),
                ),
                "short",
                "bargauge",
                8,
                8,
            ),
        ),
    ),
)

MODEL = (
    Row(
        "What decides",
        (
            Panel(
                "Model",
                "Model, source and snapshot by which workers decide now.",
                (q("max by (model, source) (churnwatch_model_info)", "{{model}} ({{source}})"),),
                "short",
                "stat",
                6,
                4,
                texts=True,
            ),
            stat(
                "Labels learned",
                "Of the leading horizon, at the newest snapshot.",
                "sum(max by (outcome) (churnwatch_model_labels))",
            ),
            stat(
                "Snapshots",
                "Published by the trainer since it started.",
                "sum(churnwatch_model_snapshots_total)",
                width=3,
            ),
            stat(
                "Newest label matured",
                "The age of what was learned last. Far more than a few days: nothing matures any more, or the "
                "trainer is away.",
                "time() - max(churnwatch_model_effective_timestamp_seconds)",
                "s",
                width=5,
                steps=((None, GREEN), (7 * 86_400, YELLOW)),
            ),
            stat(
                "Calibration error",
                "Mean distance of the share that churned from the stated probability, over tenths.",
                "max(churnwatch_model_calibration_error_ratio)",
                "percentunit",
                width=3,
                decimals=1,
                steps=((None, GREEN), (0.05, YELLOW), (0.1, RED)),
            ),
            stat(
                "Score drift (PSI)",
                "Scores of all customers now against four weeks ago: below 0.1 stable, above 0.25 moved.",
                "max(churnwatch_score_psi)",
                width=3,
                decimals=3,
                steps=((None, GREEN), (0.1, YELLOW), (0.25, RED)),
            ),
        ),
    ),
    Row(
        "How right the model is (prequential: every label is predicted before it is learned)",
        (
            lines(
                "Log-loss",
                "Of each model over the last labels; lower is better. The one that decides says so.",
                "short",
                q(
                    "max by (model, deciding) (churnwatch_model_log_loss)",
                    "{{model}} (decides: {{deciding}})",
                ),
                lowest=None,
                decimals=3,
            ),
            lines(
                "ROC AUC",
                "How well each model sorts who leaves from who stays: 0.5 is chance.",
                "short",
                q("max by (model, deciding) (churnwatch_model_auc)", "{{model}} (decides: {{deciding}})"),
                lowest=0.5,
                highest=1,
                decimals=3,
            ),
            lines(
                "Drift, promotions, refusals",
                "Signals found to have moved, changes of the model that decides, and snapshots that could "
                "not be used, in the interval.",
                "short",
                q(
                    "sum by (signal) (increase(churnwatch_model_drifts_total[$__rate_interval]))",
                    "drift: {{signal}}",
                ),
                q("sum(increase(churnwatch_model_promotions_total[$__rate_interval]))", "promotions"),
                q("sum(increase(churnwatch_model_snapshots_refused_total[$__rate_interval]))", "refused"),
            ),
        ),
    ),
    Row(
        "Labels",
        (
            lines(
                "Matured",
                "Labels that leave the workers, by outcome.",
                "ops",
                q(rate("churnwatch_examples_total", "outcome"), "{{outcome}}"),
                stacked=True,
                colours=OUTCOMES,
            ),
            lines(
                "Read by the trainer",
                "Learned, repeated, or passed over.",
                "ops",
                q(rate("churnwatch_lessons_total", "outcome"), "{{outcome}}"),
            ),
            lines(
                "Waiting",
                "Snapshots of customers that wait for a label, and the age of the oldest as a share of the longest horizon: "
                "above one nothing matures.",
                "short",
                q("sum(churnwatch_labels_pending)", "waiting"),
                q(
                    "max(churnwatch_labels_oldest_pending_age_seconds) / max(churnwatch_label_horizon_seconds)",
                    "age of the oldest, in horizons",
                ),
            ),
        ),
    ),
    Row(
        "Scores",
        (
            Panel(
                "Customers by score now",
                "By the tenth of the churn probability last written of them.",
                (q("sum by (tenth) (churnwatch_customers_by_score)", "{{tenth}}"),),
                "short",
                "bargauge",
                8,
                8,
            ),
            Panel(
                "Customers by score, four weeks ago",
                "The reference of the drift.",
                (q("sum by (tenth) (churnwatch_customers_by_score_reference)", "{{tenth}}"),),
                "short",
                "bargauge",
                8,
                8,
            ),
            lines(
                "Score drift (PSI)",
                "Population stability index of the scores, over all workers together.",
                "short",
                Query("churnwatch:score_psi", "all workers"),
                decimals=3,
                steps=((None, GREEN), (0.1, YELLOW), (0.25, RED)),
            ),
        ),
    ),
    Row(
        "Quality of warnings",
        (
            lines(
                "Right warnings",
                "Of live churn warnings whose horizon ended in the last four weeks, the share whose customer did not "
                "come back.",
                "percentunit",
                q(
                    'sum(churnwatch_warnings_matured{outcome="right"}) / (sum(churnwatch_warnings_matured) > 0) or vector(0)',
                    "right",
                ),
                highest=1,
            ),
            lines(
                "Warnings by outcome",
                "Open: the horizon is not over. Right and wrong: of the last four weeks.",
                "short",
                q("sum by (outcome) (churnwatch_warnings_matured)", "{{outcome}}"),
                q("sum(churnwatch_warnings_open)", "open"),
                colours=OUTCOMES,
            ),
            lines(
                "Days left to act",
                "Mean of what was left of the horizon when warned, of the right ones.",
                "s",
                q(LEAD, "lead"),
            ),
            lines(
                "Decided",
                "Transitions decided, by kind and transition, whatever became of them.",
                "ops",
                q(
                    rate("churnwatch_alerts_total", "kind, transition")
                    + " > 0 or "
                    + rate("churnwatch_alerts_total", "kind, transition", '{transition="raised"}'),
                    "{{kind}} {{transition}}",
                ),
            ),
            lines(
                "Withheld",
                "Decided and not delivered, by reason: history, silent, ceiling, paused, shadow (docs/operations.md, Brakes).",
                "ops",
                q(rate("churnwatch_alerts_suppressed_total", "reason"), "{{reason}}"),
                stacked=True,
            ),
            lines(
                "Decision points",
                "Scores computed to decide, and scores written to customer-scores.",
                "ops",
                q(rate("churnwatch_decision_points_total"), "decided"),
                q(rate("churnwatch_scores_written_total"), "written"),
            ),
        ),
    ),
)

AT_RISK = 'sum(churnwatch_customers_in_band{band=~"medium|high"})'

BUSINESS = (
    Row(
        "Today",
        (
            stat("Customers", "Known customers.", "sum(churnwatch_customers)"),
            stat("At risk", "In the medium and the high band.", AT_RISK),
            stat(
                "Share at risk",
                "Of all customers who have not lapsed.",
                f'{AT_RISK} / (sum(churnwatch_customers_in_band{{band!="lapsed"}}) > 0)',
                "percentunit",
                decimals=1,
            ),
            stat(
                "Revenue at risk",
                "By the churn warnings that stand: what these customers would spend in twelve months times the "
                "probability that they leave, in units of the base currency. Zero until it was learned what they spend.",
                "sum(churnwatch_revenue_at_risk)",
            ),
            stat(
                "Warnings, last 24 hours",
                "Churn warnings that were delivered.",
                'sum(increase(churnwatch_alerts_total{kind="churn", transition="raised", decision="delivered"}[1d]))',
                decimals=0,
            ),
            stat(
                "Right warnings",
                "Of warnings whose horizon ended in the last four weeks.",
                'sum(churnwatch_warnings_matured{outcome="right"}) / (sum(churnwatch_warnings_matured) > 0) or vector(0)',
                "percentunit",
                decimals=0,
            ),
        ),
    ),
    Row(
        "Customers",
        (
            lines(
                "By risk",
                "Customers by band. A rising red part is a wave of leaving customers, or a feed that fell silent.",
                "short",
                q("sum by (band) (churnwatch_customers_in_band)", "{{band}}"),
                stacked=True,
                colours=BANDS,
                width=12,
            ),
            lines(
                "By stage of life",
                "Customers by lifecycle stage.",
                "short",
                q("sum by (stage) (churnwatch_customers_in_stage)", "{{stage}}"),
                stacked=True,
                width=12,
            ),
            Panel(
                "By risk now",
                "How many customers stand in each band.",
                (q("sum by (band) (churnwatch_customers_in_band)", "{{band}}"),),
                "short",
                "bargauge",
                8,
                8,
                colours=BANDS,
            ),
            Panel(
                "By stage now",
                "How many customers stand in each stage.",
                (q("sum by (stage) (churnwatch_customers_in_stage)", "{{stage}}"),),
                "short",
                "bargauge",
                8,
                8,
            ),
            lines(
                "Revenue at risk",
                "By the churn warnings that stand, in units of the base currency.",
                "short",
                q("sum(churnwatch_revenue_at_risk)", "at risk"),
            ),
        ),
    ),
    Row(
        "Warnings and offers",
        (
            lines(
                "Churn warnings a day",
                "Raised, worsened and improved over the 24 hours before, delivered or not.",
                "short",
                q(
                    'sum by (transition) (increase(churnwatch_alerts_total{kind="churn", transition=~"raised|worsened|improved", '
                    'decision!~"history|silent"}[1d]))',
                    "{{transition}}",
                ),
            ),
            lines(
                "What became of warnings, a day",
                "Resolved: the customer has bought again. Expired: lapsed.",
                "short",
                q(
                    'sum by (transition) (increase(churnwatch_alerts_total{kind="churn", transition=~"resolved|expired"}[1d]))',
                    "{{transition}}",
                ),
            ),
            lines(
                "Offers a day",
                "Upsell offers raised and withdrawn over the 24 hours before.",
                "short",
                q(
                    'sum by (transition) (increase(churnwatch_alerts_total{kind="upsell"}[1d]))',
                    "{{transition}}",
                ),
            ),
        ),
    ),
    Row(
        "How right they were",
        (
            lines(
                "Right and wrong",
                "Warnings whose horizon ended in the last four weeks. Wrong: the customer came back in time, perhaps "
                "because of the warning; only a hold-out tells.",
                "short",
                q("sum by (outcome) (churnwatch_warnings_matured)", "{{outcome}}"),
                stacked=True,
                colours=OUTCOMES,
            ),
            lines(
                "Share of right ones",
                "Of all warnings whose horizon ended in the last four weeks.",
                "percentunit",
                q(
                    'sum(churnwatch_warnings_matured{outcome="right"}) / (sum(churnwatch_warnings_matured) > 0) or vector(0)',
                    "right",
                ),
                highest=1,
            ),
            lines(
                "Time left to act",
                "Mean of what was left of the horizon when warned, of the right ones.",
                "s",
                q(LEAD, "left to act"),
            ),
        ),
    ),
    Row(
        "What customers do",
        (
            lines(
                "Events by type",
                "Purchases, visits, complaints: what was applied in an hour.",
                "short",
                q("sum by (type) (increase(churnwatch_events_total[1h]))", "{{type}}"),
                stacked=True,
                width=12,
            ),
            lines(
                "Not delivered",
                "Alerts that were decided and withheld in a day, by reason.",
                "short",
                q("sum by (reason) (increase(churnwatch_alerts_suppressed_total[1d]))", "{{reason}}"),
                width=12,
            ),
        ),
    ),
)

DASHBOARDS = {
    "service": (
        "churnwatch: service",
        "Is it well, what is slow, what waits, what broke and healed.",
        SERVICE,
        "now-3h",
    ),
    "model": (
        "churnwatch: model and alerts",
        "How right the model and its warnings are, and whether anything has moved.",
        MODEL,
        "now-30d",
    ),
    "business": (
        "churnwatch: customers",
        "Who is at risk, what it is worth, and how right the warnings were.",
        BUSINESS,
        "now-30d",
    ),
}


def panel(of: Panel, number: int, x: int, y: int) -> dict[str, Any]:
    """A panel as Grafana has it."""
    defaults: dict[str, Any] = {
        "unit": of.unit,
        "color": {"mode": "thresholds" if of.kind == "stat" else "palette-classic"},
        "thresholds": {
            "mode": "absolute",
            "steps": [{"color": colour, "value": value} for value, colour in of.steps],
        },
        "mappings": [],
    }
    if of.lowest is not None and of.kind != "stat":
        defaults["min"] = of.lowest
    if of.highest is not None:
        defaults["max"] = of.highest
    if of.decimals is not None:
        defaults["decimals"] = of.decimals
    if of.said:
        options = {
            value: {"text": text, "index": place} for place, (value, text) in enumerate(of.said.items())
        }
        defaults["mappings"] = [{"type": "value", "options": options}]
    options: dict[str, Any] = {}
    reduce = {"calcs": ["lastNotNull"], "fields": "", "values": False}
    if of.kind == "timeseries":
        defaults["custom"] = {
            "drawStyle": "line", "lineWidth": 1, "fillOpacity": 30 if of.stacked else 8, "showPoints": "never",
            "spanNulls": False, "stacking": {"mode": "normal" if of.stacked else "none", "group": "A"},
            "thresholdsStyle": {"mode": "line" if len(of.steps) > 1 else "off"},
        }  # fmt: skip
        options = {
            "legend": {
                "displayMode": "table",
                "placement": "bottom",
                "calcs": ["lastNotNull", "max"],
                "showLegend": True,
            },
            "tooltip": {"mode": "multi", "sort": "desc"},
        }
    elif of.kind == "stat":
        options = {
            "reduceOptions": reduce, "colorMode": "value", "graphMode": "none" if of.texts or of.said else "area",
            "textMode": "name" if of.texts else "auto", "justifyMode": "center", "orientation": "auto",
        }  # fmt: skip
    elif of.kind == "bargauge":
        options = {
            "reduceOptions": reduce,
            "displayMode": "basic",
            "orientation": "horizontal",
            "showUnfilled": True,
        }
    overrides = [
        {"matcher": {"id": "byName", "options": name},
         "properties": [{"id": "color", "value": {"mode": "fixed", "fixedColor": colour}}]}
        for name, colour in of.colours.items()
    ]  # fmt: skip
    return {
        "id": number,
        "type": of.kind,
        "title": of.title,
        "description": of.about,
        "datasource": DATASOURCE,
        "gridPos": {"h": of.height, "w": of.width, "x": x, "y": y},
        "fieldConfig": {"defaults": defaults, "overrides": overrides},
        "options": options,
        "targets": [
            {
                "refId": chr(ord("A") + place),
                "datasource": DATASOURCE,
                "expr": query.expr,
                "legendFormat": query.legend or "__auto",
                "editorMode": "code",
                "range": of.kind == "timeseries",
                "instant": of.kind != "timeseries",
            }
            for place, query in enumerate(of.queries)
        ],
    }


def dashboard(name: str) -> dict[str, Any]:
    """A dashboard as Grafana has it."""
    title, about, rows, since = DASHBOARDS[name]
    panels: list[dict[str, Any]] = []
    y = 0
    for row in rows:
        panels.append(
            {"id": len(panels) + 1, "type": "row", "title": row.title, "collapsed": False, "panels": [],
             "gridPos": {"h": 1, "w": 24, "x": 0, "y": y}}
        )  # fmt: skip
        y += 1
        x = height = 0
        for each in row.panels:
            if x + each.width > 24:
                x, y, height = 0, y + height, 0
            panels.append(panel(each, len(panels) + 1, x, y))
            x += each.width
            height = max(height, each.height)
        y += height
    return {
        "uid": f"churnwatch-{name}",
        "title": title,
        "description": about,
        "tags": ["churnwatch"],
        "schemaVersion": 41,
        "version": 1,
        "editable": False,
        "graphTooltip": 1,
        "refresh": "30s",
        "time": {"from": since, "to": "now"},
        "timezone": "browser",
        "links": [
            {"type": "dashboards", "title": "churnwatch", "tags": ["churnwatch"], "asDropdown": False, "keepTime": True,
             "includeVars": True, "targetBlank": False, "icon": "dashboard", "tooltip": "", "url": ""}
        ],
        "annotations": {"list": []},
        "templating": {
            "list": [
                {"name": "datasource", "label": "Prometheus", "type": "datasource", "query": "prometheus", "hide": 0,
                 "refresh": 1, "multi": False, "includeAll": False, "options": [], "current": {}},
                {"name": "job", "label": "Job", "type": "query", "datasource": DATASOURCE, "hide": 0, "refresh": 2,
                 "query": {"query": "label_values(churnwatch_build_info, job)", "refId": "job"},
                 "definition": "label_values(churnwatch_build_info, job)", "multi": True, "includeAll": True,
                 "allValue": ".*churnwatch.*", "sort": 1, "options": [], "current": {"text": ["All"], "value": ["$__all"]}},
            ]
        },
        "panels": panels,
    }  # fmt: skip


def text(name: str) -> str:
    """What the file of a dashboard holds."""
    return json.dumps(dashboard(name), indent=2, ensure_ascii=False) + "\n"


if __name__ == "__main__":
    for each in DASHBOARDS:
        (HERE / f"{each}.json").write_text(text(each), encoding="utf-8")
