"""Every metric there is, each with its kind and meaning.

Base units only, one prefix, no customer ids in labels; every counter of failures has a counter of attempts
beside it. Nothing here touches the default registry: whoever makes ``Metrics`` passes one.
"""

from __future__ import annotations

import platform
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from importlib import metadata

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    Info,
    ProcessCollector,
    disable_created_metrics,
    generate_latest,
)
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4

from alerts import bands, tally
from alerts.brakes import KINDS, Brakes
from models.snapshot import Snapshot
from streams.alerts import TRANSITIONS
from streams.codec import REASONS
from streams.topics import FORGOTTEN, MODELS, OUTPUTS

PREFIX = "churnwatch_"
CONTENT_TYPE = CONTENT_TYPE_PLAIN_0_0_4

RECORDS = (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000, 5000)
STAGES = ("decode", "apply", "commit", "relay")
CALLS = (
    *("claim", "commit", "due", "forget", "glance", "layout"),
    *("load", "outbox", "park", "read", "trim"),
)
"""What is asked of Redis, as ``agents.store`` names it."""
RESYNCS = ("conflict", "fenced", "forgotten", "gap", "redis", "restored", "torn")
LESSONS = ("learned", "repeated", "other_horizon", "other_features")
WITHHELD = ("history", "silent", "ceiling", "paused", "shadow")
"""Why a transition that was decided is not delivered."""

QUICK = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 30)
TURNS = (0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 30, 60, 120, 300)
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

        def info(name: str, meaning: str) -> Info:
            return Info(PREFIX + name, meaning, registry=registry)

        def histogram(name: str, meaning: str, buckets: tuple[float, ...], *labels: str) -> Histogram:
            return Histogram(PREFIX + name, meaning, labels, buckets=buckets, registry=registry)

        # The path, stage by stage: decode, apply (state, features, score, decide), commit, relay.
        self.stage_in = counter("stage_in_total", "Items that entered a stage of the path.", "stage")
        self.stage_out = counter("stage_out_total", "Items that left a stage of the path.", "stage")
        self.stage_in_progress = gauge("stage_in_progress", "Items that are in a stage now.", "stage")
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
        self.events_suppressed = counter(
            "events_suppressed_total", "Events passed over because their customer was forgotten since."
        )
        self.erased = counter(
            "customers_erased_total", "Customers who were removed: forget, retention.", "reason"
        )
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
        self.state_written = counter(
            "state_written_bytes_total", "Bytes of customers' state written.", "part"
        )
        self.redis_memory = gauge("redis_memory_used_bytes", "Memory that the fullest Redis node uses.")
        self.redis_memory_limit = gauge(
            "redis_memory_limit_bytes",
            "What that node may use: its maxmemory, else the memory of its machine; 0: it does not tell.",
        )

        # Timers.
        self.timers = gauge("timers", "Customers with a deadline.", "partition")
        self.timers_due = gauge(
            "timers_due", "Deadlines whose instant has come, on the clock that counts.", "partition"
        )
        self.timers_overdue = gauge(
            "timers_oldest_overdue_seconds",
            "For how long the earliest deadline is due, on the clock that counts; 0: none is.",
            "partition",
        )
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
        self.suppressed = counter(
            "alerts_suppressed_total",
            "Transitions that were decided and kept in decisions instead of delivered, by reason.",
            "kind",
            "reason",
        )
        self.feeds_silent = gauge(
            "feeds_silent", "1 where a topic's traffic fell away.", "topic", "partition"
        )
        self.feed_window = gauge(
            "feed_window_events",
            "Events of a topic in the window by which its feed is judged.",
            "topic",
            "partition",
        )
        self.feed_usual = gauge(
            "feed_usual_events",
            "Events that are usual in such a window; 0: not known yet.",
            "topic",
            "partition",
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
        self.drifts = counter(
            "model_drifts_total", "Signals (input, score, error) found to have moved.", "signal"
        )
        self.promotions = counter("model_promotions_total", "Changes of the model that decides.")
        self.model = info("model", "What decides: model, version of its snapshot, source of the score.")
        self.model_effective = gauge(
            "model_effective_timestamp_seconds",
            "When the newest label of the newest snapshot matured; 0: there is none.",
        )
        self.model_labels = gauge(
            "model_labels", "Labels learned under the leading horizon, at the newest snapshot.", "outcome"
        )
        self.model_log_loss = gauge(
            "model_log_loss",
            "Prequential log-loss over the last labels, at the newest snapshot; deciding: whether it is this model.",
            "model",
            "deciding",
        )
        self.model_auc = gauge("model_auc", "Prequential ROC AUC, likewise.", "model", "deciding")
        self.model_calibration_error = gauge(
            "model_calibration_error_ratio",
            "Of the model that decides, at the newest snapshot: mean distance of the share that churned from the mean "
            "probability, over tenths of the probability, weighted by labels.",
        )
        self.model_refused = counter(
            "model_snapshots_refused_total",
            "Snapshots that could not be used: unknown format, other features.",
        )

        # All customers of this worker's partitions together (alerts.tally).
        self.customers = gauge("customers", "Customers with a state.")
        self.in_band = gauge("customers_in_band", "Customers by the risk band last written of them.", "band")
        self.in_stage = gauge("customers_in_stage", "Customers by stage of life.", "stage")
        self.by_score = gauge(
            "customers_by_score",
            "Customers by the tenth of the churn probability last written of them.",
            "tenth",
        )
        self.by_score_before = gauge(
            "customers_by_score_reference",
            "The same at the beginning of the week four weeks ago, or of the oldest that is known.",
            "tenth",
        )
        self.psi = gauge(
            "score_psi",
            "Population stability index between the two, over ten tenths of equal width (docs/metrics.md).",
        )
        self.at_risk = gauge(
            "revenue_at_risk", "By the churn warnings that stand, in units of the base currency."
        )
        self.state_bytes = gauge("state_bytes", "Bytes of customers' state that are stored.", "part")
        self.labels_pending = gauge("labels_pending", "Snapshots of customers that wait for a label.")
        self.labels_age = gauge(
            "labels_oldest_pending_age_seconds",
            "Age of the oldest of them on its partition's clock, to the day; 0: none waits.",
        )
        self.label_horizon = gauge("label_horizon_seconds", "The longest horizon that a label waits for.")
        self.warnings_open = gauge(
            "warnings_open",
            "Live churn warnings whose customer has not come back and whose horizon is not over.",
        )
        self.warnings_matured = gauge(
            "warnings_matured",
            "Live churn warnings whose horizon ended in the last four weeks: right (nobody came back) or wrong.",
            "outcome",
        )
        self.warnings_lead = gauge(
            "warnings_right_lead_seconds",
            "Sum over the right ones of what was left of the horizon when warned.",
        )
        self.precision = gauge("warnings_precision_ratio", "The share of them that were right.")
        self.lead = gauge("warnings_lead_seconds", "Mean of what was left of the horizon, of the right ones.")

        # The outbox and the relay.
        self.outbox_depth = gauge("outbox_depth", "Messages waiting to leave.", "partition")
        self.outbox_age = gauge(
            "outbox_oldest_age_seconds",
            "For how long the oldest of them has waited; 0: none waits.",
            "partition",
        )
        self.parked = counter("relay_parked_total", "Messages set aside: larger than the brokers allow.")
        self.relay_attempts = counter("relay_attempts_total", "Messages given to the producer.", "topic")
        self.relay_failures = counter("relay_failures_total", "Messages the broker did not take.", "topic")
        self.relayed = counter("relayed_total", "Messages the broker acknowledged.", "topic")

        # The group.
        self.assigned = gauge("partitions_assigned", "Partition numbers assigned to this worker.")
        self.claimed = gauge("partitions_claimed", "Of these, how many are claimed in Redis.")
        self.rebalances = counter("rebalances_total", "Rebalances of the group seen by this worker.")
        self.rebalance_duration = histogram(
            "rebalance_duration_seconds", "From losing partitions in a rebalance until the next claim.", TURNS
        )
        self.claims = counter("claims_total", "Claims attempted.")
        self.claim_failures = counter("claim_failures_total", "Claims that did not succeed.")
        self.lag = gauge("lag_records", "Records between what is applied and the end.", "topic", "partition")
        self.lag_seconds = gauge(
            "lag_seconds",
            "For how long the oldest record that is not applied has been there; 0: all is applied.",
            "topic",
            "partition",
        )
        self.kafka_commits = counter("kafka_commits_total", "Commits of offsets to Kafka attempted.")
        self.kafka_commit_failures = counter("kafka_commit_failures_total", "Of these, how many failed.")

        self.uncounted = counter("uncounted_total", "Counts of the core that no metric is declared for.")
        self.memory_limit = gauge(
            "process_memory_limit_bytes",
            "What this process may use: the limit of its control group, else the memory of the machine.",
        )
        ProcessCollector(namespace=PREFIX.removesuffix("_"), registry=registry)
        build = info("build", "What is running.")
        build.info({"version": _version(), "python": platform.python_version()})
        self._before_scrape: list[Callable[[], None]] = []
        self._begin_at_zero()

    def _begin_at_zero(self) -> None:
        """Whatever can be named beforehand is there from the start: of a series that begins with its first failure
        nobody sees an increase."""
        known: dict[Counter | Gauge, Iterable[tuple[str, ...]]] = {
            self.dead_letters: ((reason,) for reason in REASONS),
            self.resyncs: ((reason,) for reason in RESYNCS),
            self.examples: (("churned",), ("stayed",)),
            self.lessons: ((what,) for what in LESSONS),
            self.drifts: (("input",), ("score",), ("error",)),
            self.alerts: (
                (kind, transition, decision)
                for kind, transitions in TRANSITIONS.items()
                for transition in sorted(transitions)
                for decision in ("delivered", *WITHHELD)
            ),
            self.suppressed: ((kind, reason) for kind in TRANSITIONS for reason in WITHHELD),
        }
        for relayed in (self.relay_attempts, self.relay_failures, self.relayed):
            known[relayed] = ((topic,) for topic in (*OUTPUTS, MODELS, FORGOTTEN))
        for calls in (self.redis_calls, self.redis_failures, self.redis_retries):
            known[calls] = ((call,) for call in CALLS)
        for items in (self.stage_in, self.stage_in_progress, self.stage_out):
            known[items] = ((stage,) for stage in STAGES)
        for family, series in known.items():
            for labels in series:
                family.labels(*labels)

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
                case ("suppressed",):
                    self.events_suppressed.inc(n)
                case ("erased", why):
                    self.erased.labels(why).inc(n)
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
                    if decision != "delivered":
                        self.suppressed.labels(kind, decision).inc(n)
                case ("example", outcome):
                    self.examples.labels(outcome).inc(n)
                case ("lesson", outcome):
                    self.lessons.labels(outcome).inc(n)
                case ("snapshot",):
                    self.snapshots.inc(n)
                case ("drift", signal):
                    self.drifts.labels(signal).inc(n)
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

    @contextmanager
    def stage(self, name: str, items: int) -> Iterator[None]:
        """Items are in a stage of the path. How many left it, the caller counts."""
        self.stage_in.labels(name).inc(items)
        self.stage_in_progress.labels(name).inc(items)
        try:
            yield
        finally:
            self.stage_in_progress.labels(name).dec(items)

    def left(self, stage: str, items: int, at: float) -> None:
        """Items left a stage at an instant (seconds since 1970)."""
        self.stage_out.labels(stage).inc(items)
        if items:
            self.stage_last.labels(stage).set(at)

    def show_population(self, population: tally.Population, unit: float) -> None:
        """All customers of this worker's partitions. ``unit``: minor units of money in one unit."""
        self.customers.set(population.customers)
        for band, count in zip(bands.NAMES, population.bands, strict=True):
            self.in_band.labels(band).set(count)
        for stage, count in zip(tally.STAGES, population.stages, strict=True):
            self.in_stage.labels(stage).set(count)
        for number, (now, before) in enumerate(zip(population.tenths, population.before, strict=True)):
            self.by_score.labels(f"0.{number}").set(now)
            self.by_score_before.labels(f"0.{number}").set(before)
        self.psi.set(tally.psi(population.tenths, population.before))
        self.at_risk.set(population.stake / unit)
        self.state_bytes.labels("hot").set(population.hot)
        self.state_bytes.labels("cold").set(population.cold)
        self.labels_pending.set(population.pending)
        self.labels_age.set(population.oldest / 1e6)
        matured = population.matured
        right = matured.warnings - matured.wrong
        self.warnings_open.set(population.open)
        self.warnings_matured.labels("right").set(right)
        self.warnings_matured.labels("wrong").set(matured.wrong)
        self.warnings_lead.set(matured.lead - matured.wrong_lead)
        self.precision.set(right / matured.warnings if matured.warnings else float("nan"))
        self.lead.set((matured.lead - matured.wrong_lead) / right if right else float("nan"))

    def show_snapshot(self, snapshot: Snapshot) -> None:
        """The newest snapshot of what was learned."""
        leading = snapshot.leading
        self.model.info({"model": snapshot.promoted, "version": snapshot.version, "source": snapshot.source})
        self.model_effective.set(snapshot.effective / 1e6)
        self.model_labels.labels("churned").set(leading.gate.churned)
        self.model_labels.labels("stayed").set(leading.gate.stayed)
        for family in (self.model_log_loss, self.model_auc):
            family.clear()
        for figures in leading.figures:
            deciding = "yes" if figures.model == leading.promoted.model else "no"
            if figures.log_loss is not None:
                self.model_log_loss.labels(figures.model, deciding).set(figures.log_loss)
            if figures.auc is not None:
                self.model_auc.labels(figures.model, deciding).set(figures.auc)
        labels = sum(each.labels for each in leading.reliability)
        gap = sum(
            each.labels * abs(each.stated - each.churned)
            for each in leading.reliability
            if each.stated is not None and each.churned is not None
        )
        self.model_calibration_error.set(gap / labels if labels else float("nan"))

    def before_scrape(self, refresh: Callable[[], None]) -> None:
        """Calls ``refresh`` before each exposition: for what is a function of what is held now."""
        self._before_scrape.append(refresh)

    def exposition(self) -> bytes:
        """What ``/metrics`` answers, in Prometheus' text format (``CONTENT_TYPE``)."""
        for refresh in self._before_scrape:
            refresh()
        return generate_latest(self.registry)

    def forget_partition(self, partition: int, topics: tuple[str, ...] = ()) -> None:
        """Removes the series of a partition that this worker lost, so that no stale value stays."""
        number = str(partition)
        for family in (
            self.timers,
            self.timers_due,
            self.timers_overdue,
            self.partition_clock,
            self.outbox_depth,
            self.outbox_age,
        ):
            family.remove_by_labels({"partition": number})
        for topic in topics:
            for family in (
                self.lag,
                self.lag_seconds,
                self.feeds_silent,
                self.feed_window,
                self.feed_usual,
            ):
                family.remove_by_labels({"topic": topic, "partition": number})


def _version() -> str:
    try:
        return metadata.version("churnwatch")
    except metadata.PackageNotFoundError:  # run from a checkout that was not installed
        return "unknown"
