from __future__ import annotations

import functools
import json
import math
import os
import subprocess
import sys
import uuid
from collections import Counter
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import pytest
from confluent_kafka import TopicPartition

from agents.explain import Part, Read, Replay, Told, log_odds, replay
from agents.settings import Settings
from alerts.engine import Usable
from alerts.policy import DEFAULT_ACTIONS, Policy
from alerts.reasons import BASE
from features.shop import DAY
from models.additive import Additive
from models.learned import LearnedScore
from models.purchase_rate import Rates
from models.snapshot import Prior
from models.spend import Spend
from streams.codec import Decoded, Tick, Tombstone
from streams.events import to_micros
from streams.examples import decode_example
from streams.topics import EXAMPLES, INPUTS, PURCHASES
from tests.agents.command_line import CommandLine
from tests.application import START as DAY_ZERO
from tests.application import Application, Log, Row
from tests.laws import mix
from tests.servers import KafkaServer, RedisServer, wait_until

ROOT = Path(__file__).parents[2]


# ---- deciding again, in memory


class Played(NamedTuple):
    """A shop that has been played: its alerts in order, its customers' events, where the topics end."""

    settings: Settings
    told: Sequence[Told]
    read: dict[str, list[Read]]
    parts: dict[str, Part | None]

    def again(self, told: Told, **changes: Any) -> Replay:
        """Decides one alert again."""
        customer = told.alert.customer
        return replay(
            told,
            changes.get("earlier", [e for e in self.told if e.alert.customer == customer and e is not told]),
            changes.get("read", self.read[customer]),
            changes.get("parts", self.parts),
            changes.get("settings", self.settings),
            changes.get("learned", ()),
        )

    def some(self, kind: str, transition: str) -> Told:
        """The last of its kind that was delivered."""
        return [
            e for e in self.told if (e.alert.kind, e.alert.transition, e.withheld) == (kind, transition, None)
        ][-1]


@functools.cache
def played(inputs: tuple[str, ...] = (PURCHASES,), batch: int = 2000) -> Played:
    only = inputs[0] if len(inputs) == 1 else None
    log = mix.shop(7, only=only, history_days=15, inputs=inputs)
    return _played(Application(inputs, batch=batch, limit=5).run(log.rows), log)


def _played(application: Application, log: Log) -> Played:
    read: dict[str, list[Read]] = {}
    for row in log.rows:
        item = application.codec.decode(row)
        if isinstance(item, Decoded | Tombstone):
            read.setdefault(item.customer, []).append(Read(row.topic, item))
    told = [Told(s.alert, application.name, "", s.withheld) for s in application.seen()]
    parts: dict[str, Part | None] = {topic: Part(0, end) for topic, end in log.next.items()}
    return Played(Settings(application=application.name, policy=application.policy), told, read, parts)


@pytest.mark.parametrize("batch", [3, 2000])
@pytest.mark.parametrize("inputs", [(PURCHASES,), INPUTS], ids=["one topic", "all topics"])
def test_every_alert_is_decided_the_same_from_its_position(inputs: tuple[str, ...], batch: int) -> None:
    shop = played(inputs, batch)
    wrong = {}
    kinds: Counter[tuple[str, str]] = Counter()
    for told in shop.told:
        found = shop.again(told)
        kinds[told.alert.kind, told.alert.transition] += 1
        if found.verdict != "same" or found.decision is None or found.decision.id != told.alert.id:
            wrong[told.alert.id] = found
    assert not wrong
    assert kinds.keys() >= {
        ("churn", "raised"), ("churn", "worsened"), ("churn", "resolved"), ("churn", "expired"),
        ("upsell", "raised"), ("upsell", "withdrawn"),
    }  # fmt: skip
    assert {told.withheld for told in shop.told} >= {None, "history"}


def test_a_measure_for_a_tier_is_chosen_again_and_a_tombstone_counts() -> None:
    log = Log()
    for customer in ("ann", "bob"):
        for number in range(8):
            log.purchase(customer, DAY_ZERO + number * 7 * DAY)
        log.profile(customer, DAY_ZERO, "gold")
    log.tombstone("bob")
    for number in range(50, 120):
        log.tick(DAY_ZERO + number * DAY, INPUTS)
    policy = Policy(rise=0.8, actions={**DEFAULT_ACTIONS, "tier:gold": "visit"})
    shop = _played(Application(INPUTS, policy=policy).run(log.rows), log)
    warnings = [
        told for told in shop.told if told.alert.transition == "raised" and told.alert.kind == "churn"
    ]
    found = {told.alert.customer: shop.again(told) for told in warnings}
    assert {name: again.verdict for name, again in found.items()} == {"ann": "same", "bob": "same"}
    actions = {name: again.decision.action for name, again in found.items() if again.decision}
    assert actions == {"ann": "visit", "bob": "reminder"}


def test_under_the_wall_clock_too_every_alert_is_decided_the_same() -> None:
    log = mix.shop(9, customers=15)
    application = Application(INPUTS, clock="wall", limit=5)
    application.go_live(DAY_ZERO - DAY)
    waiting: list[Row] = []
    day = 0
    for row in log.rows:
        waiting.append(row)
        item = application.codec.decode(row)
        if isinstance(item, Tick) and item.at > DAY_ZERO + day * DAY:
            application.run(waiting, read_to=item.at - DAY)
            application.sweep(item.at - DAY // 2)
            waiting, day = [], (item.at - DAY_ZERO) // DAY
    shop = _played(application, log)
    assert len(shop.told) > 50
    assert {shop.again(told).verdict for told in shop.told} == {"same"}


def test_the_numbers_add_up_to_the_probability() -> None:
    shop = played()
    for told in shop.told:
        score = shop.again(told).score
        if told.alert.churn_probability is None:  # an offer to somebody who has never bought
            assert score is None
            continue
        assert score is not None
        s, policy = score.silence, shop.settings.policy
        assert s is not None
        assert score.total == pytest.approx(score.base + sum(score.contributions.values()), abs=1e-9)
        assert score.churn == pytest.approx(1 / (1 + math.exp(-score.total)), abs=1e-6)
        assert s.now == pytest.approx(1 / (1 + (max(s.days, 1e-3) / s.alpha) ** s.beta))
        assert s.later == pytest.approx(1 / (1 + ((s.days + policy.horizon_days) / s.alpha) ** s.beta))
        assert s.churn == pytest.approx((s.left + (1 - s.left) * s.later) / (s.left + (1 - s.left) * s.now))
        assert log_odds(s.churn) == pytest.approx(score.base + score.contributions["silence"], abs=1e-6)
        assert log_odds(s.fresh) == pytest.approx(score.base, abs=1e-6)
        if (told.alert.kind, told.alert.transition) == ("churn", "raised"):
            assert score.rise >= policy.rise


def test_the_reasons_of_every_alert_about_churn_add_up_to_its_probability() -> None:
    shop = played(INPUTS)
    added: Counter[str] = Counter()
    for told in shop.told:
        alert = told.alert
        if alert.kind != "churn":
            assert alert.reasons == ()
            continue
        assert alert.reasons[-1].feature == BASE
        total = sum(reason.contribution or 0.0 for reason in alert.reasons)
        assert 1 / (1 + math.exp(-total)) == pytest.approx(alert.churn_probability, abs=1.1e-6)
        score = shop.again(told).score
        assert score is not None
        assert total == pytest.approx(score.base + sum(score.contributions.values()), abs=1e-5)
        added.update(reason.feature for reason in alert.reasons)
    assert added.keys() >= {"recency_days", "browsing_30d", "open_complaints", BASE}


@functools.cache
def learned() -> tuple[Played, LearnedScore]:
    """The same shop, decided by a model that has learned what became of it."""
    log = mix.shop(7, only=PURCHASES, history_days=15, inputs=(PURCHASES,))
    before = Application((PURCHASES,), limit=5).run(log.rows)
    found = [decode_example(m.value) for turn in before.turns for m in turn.out if m.topic == EXAMPLES]
    learner = Additive(Policy().horizon_days)
    for _ in range(30):  # there are few, and they shall count
        learner.learn_many(
            [e.inputs for e in found], [e.churned for e in found], [e.due / DAY for e in found]
        )
    usual = {"gap_mean": math.log(9.0), "browsed_30": 4.0, "satisfaction": 0.75, "order_value": 900.0}
    model = LearnedScore(
        "additive", "20260401T000000-0123456789abcdef", learner.published(), Rates(), usual=usual,
        spend=Spend(mean=900.0, strength=3.0, shape=4.0),
    )  # fmt: skip
    application = Application((PURCHASES,), limit=5)
    application.engine.adopt([Usable(DAY_ZERO + 45 * DAY, model)])
    return _played(application.run(log.rows), log), model


def test_what_a_learned_model_decided_is_decided_the_same_by_the_snapshot_of_its_version() -> None:
    shop, model = learned()
    features: Counter[str] = Counter()
    scored: Counter[str | None] = Counter()
    for told in shop.told:
        alert = told.alert
        scored[alert.score_source] += 1
        found = shop.again(told, learned=[model])
        assert found.verdict == "same", (found.different, found.causes)
        assert not found.causes
        if alert.score_source != "learned":
            continue
        assert found.score is not None
        assert found.score.silence is None
        assert found.score.total == pytest.approx(
            found.score.base + math.fsum(found.score.contributions.values()), abs=1e-9
        )
        assert (alert.predicted_clv is None) == (alert.expected_next_order is None)
        if alert.kind == "churn":
            total = sum(reason.contribution or 0.0 for reason in alert.reasons)
            assert 1 / (1 + math.exp(-total)) == pytest.approx(alert.churn_probability, abs=1.1e-6)
            features.update(reason.feature for reason in alert.reasons)
    assert scored.keys() >= {"statistical", "learned"}
    assert features.keys() >= {"recency_days", "purchases_30d", "browsing_30d", BASE}


def test_a_snapshot_that_is_no_more_is_named() -> None:
    shop, model = learned()
    told = [e for e in shop.told if e.alert.score_source == "learned" and e.alert.kind == "churn"][-1]
    found = shop.again(told)
    assert found.verdict == "explained"
    (why,) = found.causes
    assert why == (
        f"it was decided by model {model.version}, which is neither a snapshot on models nor that of the settings, "
        "prior-0 (prior.version): replayed is the latter"
    )


def test_another_policy_is_named_and_explains_the_difference() -> None:
    shop = played()
    told = shop.some("churn", "raised")
    settings = msgspec.structs.replace(shop.settings, policy=Policy(horizon_days=20.0, rise=19.0))
    found = shop.again(told, settings=settings)
    assert found.verdict == "explained"
    assert any("decided under policy" in cause for cause in found.causes)
    assert any("the probability is" in line for line in found.different)
    assert any("nothing is raised" in line for line in found.different)


def test_a_policy_that_differs_without_consequence_is_the_same_decision_and_still_named() -> None:
    shop = played()
    settings = msgspec.structs.replace(shop.settings, policy=Policy(deliver_per_minute=7))
    found = shop.again(shop.some("churn", "raised"), settings=settings)
    assert found.verdict == "same"
    assert any("decided under policy" in cause for cause in found.causes)


def test_a_prior_that_was_changed_under_the_same_name_is_no_explanation() -> None:
    shop = played()
    told = shop.some("churn", "raised")
    found = shop.again(told, settings=msgspec.structs.replace(shop.settings, prior=Prior(gap_days=9.0)))
    assert found.verdict == "differs"
    renamed = Prior(version="prior-1", gap_days=9.0)
    found = shop.again(told, settings=msgspec.structs.replace(shop.settings, prior=renamed))
    assert found.verdict == "explained"
    assert any("model prior-0" in cause for cause in found.causes)


def test_an_alert_that_was_tampered_with_is_found_out() -> None:
    shop = played()
    told = shop.some("churn", "worsened")
    assert told.alert.churn_probability is not None
    for changes in (
        {"churn_probability": round(told.alert.churn_probability - 2e-5, 6)},
        {"transition": "improved"},
        {"risk_band": "low"},
        {"action": "nothing"},
        {"cause": "price"},
        {"lifecycle_stage": "prospect"},
        {"id": "0" * 32},
        {"reasons": told.alert.reasons[:0]},
    ):
        false = told._replace(alert=msgspec.structs.replace(told.alert, **changes))
        assert shop.again(false, earlier=[e for e in shop.told if e.alert.customer == told.alert.customer and e is not told]).verdict == "differs", changes  # fmt: skip


def test_a_log_that_has_expired_is_named() -> None:
    shop = played()
    told = shop.some("churn", "raised")
    mine = shop.read[told.alert.customer]
    cut = mine[len(mine) // 2].item.offset
    kept = [each for each in mine if each.item.offset >= cut]
    found = shop.again(told, read=kept, parts={PURCHASES: Part(cut, 10**6)})
    assert found.verdict == "explained"
    assert found.causes == (f"the log of purchases begins at offset {cut}: what was before has expired",)
    found = shop.again(told, read=[], parts={PURCHASES: Part(10**5, 10**6)})
    assert (found.verdict, found.records) == ("unknown", 0)
    assert found.causes
    found = shop.again(told, read=[], parts={PURCHASES: Part(0, 1)})
    assert any("it is another log" in cause for cause in found.causes)
    found = shop.again(told, read=[], parts={PURCHASES: None})
    assert found.causes == ("there is no topic purchases any more",)


def test_where_earlier_alerts_are_gone_only_the_score_is_compared() -> None:
    shop = played()
    found = shop.again(shop.some("churn", "worsened"), earlier=[])
    assert found.verdict == "same"
    assert found.decision is None
    assert any("earlier alerts are no longer on the topics" in cause for cause in found.causes)


# ---- for real


class Shop(NamedTuple):
    flags: tuple[str, ...]
    prefix: str


START = datetime(2025, 1, 6, 9, tzinfo=UTC)


def rows() -> Iterator[tuple[bool, str]]:
    """Eight customers who buy every other day: one stops within the 40 days that are history, others 20 later."""
    stops = {0: 12, 2: 60, 4: 60, 6: 62}
    for day in range(0, 90, 2):
        for number in range(8):
            if day < stops.get(number, 90):
                at = (START + timedelta(days=day, minutes=number)).isoformat().replace("+00:00", "Z")
                yield day < 40, f"purchase,c{number},{at},o{number}-{day},tea,drinks,1,10"


@pytest.fixture(scope="module")
def shop(kafka: KafkaServer, redis_server: RedisServer, tmp_path_factory: pytest.TempPathFactory) -> Shop:
    """A worker has applied the orders, and everything has left."""
    name = f"explain-{uuid.uuid4().hex[:8]}"
    folder = tmp_path_factory.mktemp("explain")
    header = "event_type,customer_id,ts,order_id,sku,category,quantity,amount\n"
    for file, history in (("old.csv", True), ("new.csv", False)):
        (folder / file).write_text(header + "".join(row + "\n" for old, row in rows() if old is history))
    flags = (
        "--application", name, "--prefix", f"{name}.", "--brokers", kafka.brokers, "--redis", redis_server.url,
        "--set", "kafka.inputs=purchases", "--set", "clock.mode=record", "--set", "kafka.session_timeout=6",
    )  # fmt: skip
    env = {k: v for k, v in os.environ.items() if not k.startswith("CHURNWATCH_")}
    program = [sys.executable, "-m", "agents.cli", *flags]

    def churnwatch(*arguments: str) -> None:
        said = subprocess.run(
            [*program, *arguments], capture_output=True, text=True, check=False, cwd=ROOT, env=env
        )
        assert said.returncode == 0, said.stdout + said.stderr

    churnwatch("topics", "create", "--partitions", "2")
    churnwatch("send", "--history", str(folder / "old.csv"))
    churnwatch("send", "--until", "2025-05-20", str(folder / "new.csv"))
    with (folder / "worker.log").open("wb") as log:
        worker = subprocess.Popen(
            [*program, "worker", "--http-port", "0"], stdout=log, stderr=log, cwd=ROOT, env=env
        )
    try:
        sent = len(kafka.read_all([f"{name}.purchases"]))
        with redis_server.client() as redis:

            def left() -> bool:
                assert worker.poll() is None, (folder / "worker.log").read_text()
                keys = [f"{{{name}:p{n}}}" for n in range(2)]
                done = sum(int(redis.hget(f"{key}:meta", f"off:{name}.purchases") or 0) for key in keys)
                return done >= sent and not any(redis.xlen(f"{key}:out") for key in keys)

            wait_until(left, 90, "everything is applied and has left", every=0.2)
    finally:
        worker.terminate()
        worker.wait(15)
    return Shop(flags, f"{name}.")


def alerts(churnwatch: CommandLine, shop: Shop, kind: str = "churn.raised") -> list[dict[str, Any]]:
    found = churnwatch(*shop.flags, "alerts", "--json", "--kind", kind).lines
    assert found
    return found


def test_a_warning_is_explained_step_by_step_and_decided_the_same(
    churnwatch: CommandLine, shop: Shop
) -> None:
    alert = alerts(churnwatch, shop)[0]
    said = churnwatch(*shop.flags, "explain", alert["id"])
    assert said.code == 0, said.err
    out = " ".join(said.out.split())
    assert f"churn raised {alert['customer']}" in out
    assert f"{alert['churn_probability']:.1%} likely to buy nothing in the next 28 days" in out
    for step in (
        "usual gap α =",
        "its spread β =",
        "left for good π =",
        "silent by chance S(s) =",
        "base",
        "total",
    ):
        assert step in out
    assert alert["reasons"][0]["text"] in out
    assert "cause: lost rhythm, to do: reminder" in out
    assert "medium from 0.6, high from 0.8" in out
    assert "≥ 0.3 (policy.rise)" in out
    assert f"position purchases {alert['position']['purchases']}" in out
    assert "that of the settings" in out
    assert "of this customer up to the position: the same decision" in out


def test_json_carries_the_same_numbers(churnwatch: CommandLine, shop: Shop) -> None:
    for kind in ("churn.worsened", "upsell.raised", "upsell.withdrawn"):
        alert = alerts(churnwatch, shop, kind)[-1]
        (told,) = churnwatch(*shop.flags, "explain", alert["id"], "--json").lines
        assert told["id"] == alert["id"]
        assert told["alert"].items() <= alert.items()
        assert told["score"]["churn_probability"] == pytest.approx(alert["churn_probability"], abs=1e-6)
        assert told["replay"]["verdict"] == "same"
        assert told["replay"]["id"] == alert["id"]
        assert told["thresholds"]["medium"] == 0.6


def test_the_beginning_of_an_id_is_enough_while_only_one_begins_so(
    churnwatch: CommandLine, shop: Shop
) -> None:
    found = alerts(churnwatch, shop)
    one = found[0]["id"]
    said = churnwatch(*shop.flags, "explain", one[:12].upper(), "--json")
    assert said.lines[0]["id"] == one
    every = {alert["id"] for alert in churnwatch(*shop.flags, "alerts", "--json").lines}
    first = Counter(identity[0] for identity in every).most_common(1)[0][0]
    said = churnwatch(*shop.flags, "explain", first)
    assert said.code == 2
    assert f"ids begin with '{first}'" in said.err
    assert "Give more of it" in said.err


def test_an_id_that_nobody_knows_is_not_found(churnwatch: CommandLine, shop: Shop) -> None:
    said = churnwatch(*shop.flags, "explain", "nothing")
    assert said.code == 3
    assert "No alert has an id that begins with 'nothing'" in said.err
    assert "records of" in said.err
    assert "churnwatch alerts --json" in said.err


def test_without_a_replay_it_says_what_the_alert_does_not_carry(churnwatch: CommandLine, shop: Shop) -> None:
    alert = alerts(churnwatch, shop)[0]
    said = churnwatch(*shop.flags, "explain", alert["id"], "--no-replay")
    assert said.code == 0
    assert "not carried" not in said.out
    assert "not the rhythm and the rise" in said.out
    assert "usual gap" not in said.out
    assert "Replayed" not in said.out
    shown = {line.split()[0]: line.split()[1] for line in said.out.splitlines() if "[" not in line and len(line.split()) > 1}  # fmt: skip
    assert float(shown["silence"]) == pytest.approx(alert["reasons"][0]["contribution"], abs=1e-4)
    assert float(shown["total"]) == pytest.approx(log_odds(alert["churn_probability"]), abs=1e-4)


def test_what_was_withheld_is_explained_too(churnwatch: CommandLine, shop: Shop, kafka: KafkaServer) -> None:
    withheld = [
        {name: value.decode() for name, value in record.headers()}["ce_id"]
        for record in kafka.read_all([f"{shop.prefix}decisions"])
        if json.loads(record.value())["withheld"] == "history"
    ]
    said = churnwatch(*shop.flags, "explain", withheld[0])
    assert said.code == 0, said.err
    assert "withheld (history: rests on an archive)" in said.out
    assert "the same decision" in said.out


def test_settings_that_have_changed_since_are_named(churnwatch: CommandLine, shop: Shop) -> None:
    alert = alerts(churnwatch, shop)[0]
    said = churnwatch(*shop.flags, "--set", "policy.horizon_days=14", "explain", alert["id"])
    assert said.code == 0, said.err
    assert "another decision; what has changed since:" in said.out
    assert "as the alert has it" in said.out
    assert f"1 / (1 + e^−total) = {alert['churn_probability']:.6f}" in said.out
    assert "replayed under the settings of now" in said.out
    assert (
        f"it was decided under policy {alert['versions']['policy']}, the settings now are policy" in said.out
    )
    said = churnwatch(*shop.flags, "--set", "prior.gap_days=9", "explain", alert["id"])
    assert said.code == 1
    assert "another decision, and nothing is known that explains it" in said.out
    assert "without a new prior.version" in said.err


def test_a_log_that_has_expired_is_told(churnwatch: CommandLine, shop: Shop, kafka: KafkaServer) -> None:
    """The last one: it takes the log away."""
    alert = alerts(churnwatch, shop)[-1]
    topic = f"{shop.prefix}purchases"
    before = to_micros(START + timedelta(days=50)) // 1_000_000
    cut = {
        record.partition(): record.offset()
        for record in kafka.read_all([topic])
        if datetime.fromisoformat(json.loads(record.value())["time"]).timestamp() < before
    }
    ends = [TopicPartition(topic, partition, offset) for partition, offset in cut.items()]
    admin = kafka.admin()  # kept: without it nobody would answer
    for future in admin.delete_records(ends).values():
        future.result(20)
    said = churnwatch(*shop.flags, "explain", alert["id"])
    assert said.code == 0, said.err
    assert "the log of purchases begins at offset" in said.out
    assert "what was before has expired" in said.out
