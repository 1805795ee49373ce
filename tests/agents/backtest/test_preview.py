"""What other thresholds would have warned of, beside what they do warn of."""

from __future__ import annotations

import json
from pathlib import Path

import msgspec
import pytest

from agents.preview import Told, recorded
from alerts.policy import Policy
from features.shop import DAY
from tests.agents.backtest.conftest import written
from tests.agents.command_line import CommandLine
from tests.application import Application
from tests.laws import mix

FLAGS = (
    "--set",
    "policy.medium=0.3",
    "--set",
    "policy.high=0.5",
    "--set",
    "policy.rise=0.2",
    "--set",
    "learning.gate=50",
)
TODAY = Policy(medium=0.5, high=0.7, rise=0.2)


def ran(policy: Policy) -> Application:
    return Application(batch=200, policy=policy).run(mix.shop(11, only="purchases", customers=40).rows)


def told(application: Application) -> list[Told]:
    """The records of churn, as they lie on the topics."""
    found = [
        Told(
            seen.alert.decided_at, seen.alert.customer, seen.alert.churn_probability or 0.0,
            seen.alert.risk_band or "", seen.alert.transition, seen.withheld or "",
        )
        for seen in application.seen()
        if seen.alert.kind == "churn"
    ]  # fmt: skip
    scores = application.scores()
    return found + [Told(s.decided_at, s.customer, s.churn_probability, s.risk_band) for s in scores]


@pytest.fixture(scope="module")
def records() -> list[Told]:
    return told(ran(TODAY))


@pytest.mark.parametrize(
    "change",
    [{}, {"medium": 0.6}, {"medium": 0.65}, {"high": 0.6}, {"high": 0.85}, {"warn_at": "high"}],
    ids=str,
)
def test_what_is_known_from_records_bounds_what_the_policy_really_warns_of(
    records: list[Told], change: dict[str, object]
) -> None:
    first, last = min(each.at for each in records) // DAY, max(each.at for each in records) // DAY
    asked = msgspec.convert({**msgspec.structs.asdict(TODAY), **change}, Policy)
    found = recorded(records, TODAY, asked, first, last)
    true = ran(asked).steps().count("churn.raised")
    least, most = found.bounds.raised
    assert true > 10
    assert least <= true <= most
    assert least > 0, "it says something"


def test_todays_warnings_are_counted_as_they_were_recorded_day_by_day(records: list[Told]) -> None:
    first, last = min(each.at for each in records) // DAY, max(each.at for each in records) // DAY
    found = recorded(records, TODAY, TODAY, first, last)
    raised = [each for each in records if each.step == "raised"]
    assert found.volume.raised == len(raised)
    assert found.volume.worsened == sum(each.step == "worsened" for each in records)
    for day in found.volume.days:
        mine = [each.band for each in raised if each.at // DAY == day.day]
        assert (day.medium, day.high) == (mine.count("medium"), mine.count("high"))
    half = (first + last) // 2
    assert 0 < recorded(records, TODAY, TODAY, half, last).volume.raised < len(raised)


def test_a_warning_is_right_when_no_purchase_followed_within_the_horizon() -> None:
    policy = Policy(horizon_days=10)
    steps = [
        Told(0 * DAY, "kept", 0.7, "medium", "raised"),
        Told(4 * DAY, "kept", 0.1, "low", "resolved"),
        Told(1 * DAY, "late", 0.7, "medium", "raised"),
        Told(15 * DAY, "late", 0.1, "low", "resolved"),
        Told(2 * DAY, "gone", 0.7, "medium", "raised"),
        Told(2 * DAY, "archive", 0.7, "medium", "raised", "history"),
        Told(16 * DAY, "open", 0.7, "medium", "raised"),
    ]
    outcome = recorded(steps, policy, policy, 0, 20).volume.outcome
    assert outcome is not None
    assert (outcome.known, outcome.right) == (3, 2)


def test_a_file_is_replayed_under_both_policies_and_each_says_what_a_backtest_of_it_says(
    churnwatch: CommandLine, tmp_path: Path
) -> None:
    file = written(tmp_path / "small.csv", customers=120, days=110)
    said = churnwatch(
        *FLAGS, "policy", "preview", str(file), "--propose", "medium=0.4", "--last", "3w", "--json"
    )
    assert said.code == 0, said.err
    document = json.loads(said.out)
    assert len(document["today"]["days"]) == len(document["proposed"]["days"]) == 21
    assert document["today"]["policy"]["medium"] == 0.3
    assert document["proposed"]["policy"]["medium"] == 0.4
    said = churnwatch(*FLAGS, "--set", "policy.medium=0.4", "backtest", str(file), "--json")
    report, outcome = json.loads(said.out)["alerts"], document["proposed"]["outcome"]
    assert (outcome["known"], outcome["right"]) == (report["warnings"], report["right"])
    assert outcome["median_lead_days"] == report["median_lead_days"]
    for side in ("today", "proposed"):
        assert document[side]["warnings"] == sum(d["medium"] + d["high"] for d in document[side]["days"]) > 0
    assert document["today"]["warnings"] > document["proposed"]["warnings"]


def test_a_person_reads_the_answer_in_a_sentence(churnwatch: CommandLine, tmp_path: Path) -> None:
    file = written(tmp_path / "small.csv", customers=130, days=100)
    said = churnwatch(*FLAGS, "policy", "preview", str(file), "--propose", "high=0.6", "--last", "1w")
    assert said.code == 0, said.err
    assert "warnings a day over the last 7 days; today's gave" in said.out
    assert "policy.high" in said.out


@pytest.mark.parametrize(
    ("words", "code", "why"),
    [
        (("--propose", "medium"), 2, "write KEY=VALUE"),
        (("--propose", "medium=7"), 2, 'policy.medium = "7"'),
        (("--propose", "mediun=0.5"), 2, "is no setting; there are"),
        (("--propose", "horizon_days=7"), 2, "churnwatch backtest FILE --horizon"),
        (("--propose", "deliver_per_minute=7"), 2, "has no part in what is warned of"),
        (("--propose", "rise=0.5"), 2, "cannot be told from records"),
        (("--propose", "medium=0.5"), 2, "a lower threshold"),
    ],
)
def test_what_cannot_be_proposed_is_refused_in_words(
    churnwatch: CommandLine, words: tuple[str, ...], code: int, why: str
) -> None:
    said = churnwatch("--brokers", "127.0.0.1:1", "policy", "preview", *words)
    assert said.code == code
    assert why in said.err
