"""Every metric there is, each with its kind and meaning.

Base units only, one prefix, no customer ids in labels; every counter of failures has a counter of attempts
beside it. Nothing here touches the default registry: whoever makes ``Metrics`` passes one.
"""

from __future__ import annotations

import platform
from collections.abc import Mapping
from importlib import metadata

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    Info,
    disable_created_metrics,
    generate_latest,
)
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4

from alerts.brakes import KINDS, Brakes

PREFIX = "churnwatch_"
CONTENT_TYPE = CONTENT_TYPE_PLAIN_0_0_4

RECORDS = (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000, 5000)
QUICK = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 30)
SLOW = (0.005, 0.01, 0.02, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300, 1800, 3600)


class UnknownCountError(KeyError):
    """The core counted something that no metric is declared for."""


class Metrics:
    """All metrics of one worker on one registry.

    ``strict`` raises on counts that no metric is declared for: tests want that; in production they go to
    ``churnwatch_uncounted_total``, because a missing metric must never stop a partition.
    """

    def __init__(self, registry: CollectorRegistry, *, strict: bool = False) -> None:
        self.registry = registry
        self.strict = strict
        # They double the series and nobody asks when a counter was born.
        disable_created_metrics()  # type: ignore[no-untyped-call]

        def counter(name: str, meaning: str, *labels: str) -> Counter:
            return Counter(PREFIX + name, meaning, labels, registry=registry)

        def gauge(name: str, meaning: str, *labels: str) -> Gauge:
            return Gauge(PREFIX + name, meaning, labels, registry=registry)

        def histogram(name: str, meaning: str, buckets: tuple[float, ...], *labels: str) -> Histogram:
            return Histogram(PREFIX + name, meaning, labels, buckets=buckets, registry=registry)

        # The path, stage by stage: decode, apply (state, features, score, decide), commit, relay.
        self.stage_in = counter("stage_in_total", "Items that entered a stage of the path.", "stage")
        self.stage_out = counter("stage_out_total", "Items that left a stage of the path.", "stage")
        self.stage_last = gauge(
            "stage_last_processed_timestamp_seconds", "When a stage last finished anything.", "stage"
        )
        self.records = counter("records_total", "Records read from an input topic.", "topic")
        self.batches = counter("batches_total", "Micro-batches taken up, whatever became of them.", "topic")
        self.batch_records = histogram("batch_records", "Records in a micro-batch.", RECORDS)
        self.batch_duration = histogram(
            "batch_duration_seconds",
            "From taking up micro-batches that were fetched together until all are committed.",
            QUICK,
        )
        self.stale_batches = counter(
            "stale_batches_total", "Micro-batches dropped: read before the last seek or claim.", "topic"
        )
        self.gaps = counter(
            "gaps_total", "Micro-batches that did not begin where the last one ended.", "topic"
        )
        self.load_duration = histogram("load_duration_seconds", "Loading states from Redis.", QUICK)

        # What the events said.
        self.decoded = counter(
            "decoded_total", "Records decoded or refused: what dead letters are a share of."
        )
        self.events = counter("events_total", "Events applied.", "type")
        self.duplicates = counter("duplicates_total", "Events that were known already and changed nothing.")
        self.late_events = counter(
            "late_events_total", "Events older than the partition's clock or than what the rhythm keeps."
        )
        self.dead_letters = counter("dead_letters_total", "Records kept in dead-letters.", "reason")

        # Redis and the commit.
        self.redis_calls = counter("redis_calls_total", "Calls to Redis, each attempt counted.", "call")
        self.redis_failures = counter("redis_failures_total", "Attempts that failed.", "call")
        self.redis_retries = counter("redis_retries_total", "Attempts after a failed one.", "call")
        self.commits = counter("commits_total", "Commits attempted.")
        self.commit_duration = histogram("commit_duration_seconds", "One commit, retries included.", QUICK)
        self.conflicts = counter("commit_conflicts_total", "Commits refused: the stored version was another.")
        self.fenced = counter("commits_fenced_total", "Commits refused: a newer claim holds the partition.")
        self.races = counter(
            "commit_races_total", "Commits whose reply was lost and that were found done when tried again."
        )
        self.resyncs = counter(
            "resyncs_total", "Partitions claimed again and read from Redis' offset.", "reason"
        )
        self.state_bytes = counter("state_written_bytes_total", "Bytes of customers' state written.", "part")

        # Timers.
        self.timers_due = gauge("timers_due", "Deadlines found due in the last sweep.", "partition")
        self.timers_fired = counter("timers_fired_total", "Deadlines fired.")
        self.timers_late = counter(
            "timers_late_total", "Deadlines fired more than a minute after their instant."
        )
        self.sweep_duration = histogram("sweep_duration_seconds", "One sweep of one partition.", QUICK)
        self.partition_clock = gauge(
            "partition_clock_timestamp_seconds", "How far the clock of a partition has come.", "partition"
        )

        # Decisions.
        self.decision_points = counter("decision_points_total", "Scores computed to decide.")
        self.looks = counter("looks_total", "Looks at silent customers that were due.")
        self.looks_held = counter("looks_held_total", "Looks skipped because their feed is silent.")
        self.alerts = counter(
            "alerts_total",
            "Transitions decided; decision: delivered, or why not (history, silent, ceiling, paused, shadow).",
            "kind",
            "transition",
            "decision",
        )
        self.alerts_paused = gauge(
            "alerts_paused", "1 while alerts of a kind are decided and not delivered.", "kind"
        )
        self.shadow_mode = gauge("shadow_mode", "1 while this worker delivers no alert at all.")
        self.feeds_silent = gauge(
            "feeds_silent", "1 where a topic's traffic fell away.", "topic", "partition"
        )
        self.scores = counter("scores_written_total", "Messages to customer-scores.")
        self.latency = histogram(
            "event_to_alert_seconds",
            "From the instant of a decision until its alert is on Kafka (wall clock).",
            SLOW,
        )

        # Learning: labels that leave a worker, and what the trainer makes of them.
        self.examples = counter("examples_total", "Labels that matured and leave to examples.", "outcome")
        self.lessons = counter(
            "lessons_total",
            "Examples read by the trainer: learned, repeated, or passed over (other_horizon, other_features).",
            "outcome",
        )
        self.snapshots = counter("model_snapshots_total", "Model snapshots published.")
        self.drifts = counter("model_drifts_total", "Inputs, scores or errors that were found to have moved.")
        self.promotions = counter("model_promotions_total", "Changes of the model that decides.")
        self.model_effective = gauge(
            "model_effective_timestamp_seconds", "When the newest label of the newest snapshot matured."
        )
        self.model_labels = gauge(
            "model_labels", "Labels learned under the leading horizon, at the newest snapshot."
        )
        self.model_log_loss = gauge(
            "model_log_loss",
            "Prequential log-loss over the last labels, at the newest snapshot; deciding: whether it is this model.",
            "model",
            "deciding",
        )
        self.model_refused = counter(
            "model_snapshots_refused_total",
            "Snapshots that could not be used: unknown format, other features.",
        )

        # The outbox and the relay.
        self.outbox_depth = gauge("outbox_depth", "Messages waiting to leave.", "partition")
        self.relay_attempts = counter("relay_attempts_total", "Messages given to the producer.", "topic")
        self.relay_failures = counter("relay_failures_total", "Messages the broker did not take.", "topic")
        self.relayed = counter("relayed_total", "Messages the broker acknowledged.", "topic")

        # The group.
        self.assigned = gauge("partitions_assigned", "Partition numbers assigned to this worker.")
        self.claimed = gauge("partitions_claimed", "Of these, how many are claimed in Redis.")
        self.rebalances = counter("rebalances_total", "Rebalances of the group seen by this worker.")
        self.claims = counter("claims_total", "Claims attempted.")
        self.claim_failures = counter("claim_failures_total", "Claims that did not succeed.")
        self.lag = gauge("lag_records", "Records between what is applied and the end.", "topic", "partition")
        self.kafka_commits = counter("kafka_commits_total", "Commits of offsets to Kafka attempted.")
        self.kafka_commit_failures = counter("kafka_commit_failures_total", "Of these, how many failed.")

        self.uncounted = counter("uncounted_total", "Counts of the core that no metric is declared for.")
        build = Info(PREFIX + "build", "What is running.", registry=registry)
        build.info({"version": _version(), "python": platform.python_version()})

    def count(self, counts: Mapping[tuple[str, ...], int]) -> None:
        """Adds what the core counted in one turn (``Turn.counts``).

        Raises :class:`UnknownCountError` where strict.
        """
        for what, n in counts.items():
            match what:
                case ("event", kind):
                    self.events.labels(kind).inc(n)
                case ("refused", reason):
                    self.dead_letters.labels(reason).inc(n)
                case ("duplicate",):
                    self.duplicates.inc(n)
                case ("late",):
                    self.late_events.inc(n)
                case ("decision",):
                    self.decision_points.inc(n)
                case ("look",):
                    self.looks.inc(n)
                case ("held",):
                    self.looks_held.inc(n)
                case ("fired",):
                    self.timers_fired.inc(n)
                case ("alert", kind, transition, decision):
                    self.alerts.labels(kind, transition, decision).inc(n)
                case ("example", outcome):
                    self.examples.labels(outcome).inc(n)
                case ("lesson", outcome):
                    self.lessons.labels(outcome).inc(n)
                case ("snapshot",):
                    self.snapshots.inc(n)
                case ("drift",):
                    self.drifts.inc(n)
                case ("promotion",):
                    self.promotions.inc(n)
                case ("score",):
                    self.scores.inc(n)
                case _ if self.strict:
                    raise UnknownCountError(what)
                case _:
                    self.uncounted.inc(n)

    def braked(self, brakes: Brakes) -> None:
        """Shows which brakes hold."""
        for kind in KINDS:
            self.alerts_paused.labels(kind).set(bool(brakes.open(kind)))
        self.shadow_mode.set(brakes.shadow)

    def exposition(self) -> bytes:
        """What ``/metrics`` answers, in Prometheus' text format (``CONTENT_TYPE``)."""
        return generate_latest(self.registry)

    def forget_partition(self, partition: int, topics: tuple[str, ...] = ()) -> None:
        """Removes the series of a partition that this worker lost, so that no stale value stays."""
        number = str(partition)
        for family in (self.timers_due, self.partition_clock, self.outbox_depth):
            family.remove_by_labels({"partition": number})
        for topic in topics:
            for family in (self.lag, self.feeds_silent):
                family.remove_by_labels({"topic": topic, "partition": number})


def _version() -> str:
    try:
        return metadata.version("churnwatch")
    except metadata.PackageNotFoundError:  # run from a checkout that was not installed
        return "unknown"
