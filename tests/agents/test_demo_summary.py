from __future__ import annotations

from pathlib import Path

import pytest

from agents.demo import summary
from agents.demo.known import Known
from agents.demo.messages import Bought, Ended, Measured, Message, Opened
from agents.simulator import Departure
from features.shop import DAY
from tests.agents.demo_messages import alert, at

HORIZON = 28 * DAY


def bought(customer: str, *days: int) -> list[Message]:
    return [Bought(customer, at(day)) for day in days]


def played(
    *messages: Message, days: float = 200, truth: dict[str, Departure] | None = None, ended: bool = True
) -> Known:
    model = Known(HORIZON)
    model.take([Opened(at(0), at(days), truth), *messages])
    if ended:
        model.take([Ended(61.0, 0)])
    return model


def test_a_warning_is_right_when_no_purchase_follows_within_the_horizon() -> None:
    model = played(
        *bought("left", 0, 10),
        *bought("late", 0, 10, 60),
        *bought("back", 0, 10, 31),
        alert("left", 30),
        alert("late", 30),
        alert("back", 30),
    )
    ours = summary.summarise(model).ours
    assert (ours.judged, ours.right) == (3, 2)


def test_days_early_are_those_before_the_rule_would_have_warned_and_below_zero_when_it_was_first() -> None:
    model = played(*bought("a", 0, 10), *bought("b", 0, 10), alert("a", 20), alert("b", 45))
    # The rule warns on day 38.
    assert summary.summarise(model).ours.early == (-7.0, 18.0)


def test_a_warning_whose_horizon_has_not_passed_is_not_judged() -> None:
    model = played(*bought("a", 0), alert("a", 180))
    assert summary.summarise(model).ours.judged == 0
    assert "none can be judged" in "\n".join(summary.lines(model))


def test_the_rule_is_judged_on_the_same_history() -> None:
    # Day 38 right; of the other one day 28 wrong (bought on day 40), day 68 right; the last too young to judge.
    model = played(*bought("a", 0, 10), *bought("b", 0, 40), *bought("c", 0, 10, 20, 170))
    rule = summary.summarise(model).rule
    assert (rule.judged, rule.right) == (4, 3)
    assert summary.judged_rule({"x": [at(0), at(28)]}, HORIZON, HORIZON, at(40)).judged == 0


def test_it_says_how_long_the_rule_would_have_to_wait_to_be_right_as_often() -> None:
    # Two come back after 50 days, two never: after 28 days the rule is right in two of four, after 50 in two of two.
    model = played(
        *bought("a", 0, 50),
        *bought("b", 0, 50),
        *bought("c", 0),
        *bought("d", 0),
        alert("c", 25),
        alert("d", 27),
    )
    model.customers["a"].purchases += [at(70), at(90), at(110), at(130), at(150), at(170), at(190)]
    model.customers["b"].purchases += [at(70), at(90), at(110), at(130), at(150), at(170), at(190)]
    found = summary.summarise(model)
    assert (found.rule.judged, found.rule.right) == (4, 2)
    assert found.patience == 50
    assert (
        "To be right as often, the rule would have to wait for 50 days of silence; the right warnings came "
        "24 days before that (median)."
    ) in summary.lines(model)


def test_those_who_left_and_were_never_warned_of_are_counted_with_what_is_known_of_them() -> None:
    model = played(
        *bought("warned", 0, 10, 20),
        alert("warned", 50),
        *bought("before", 0, 60, 90),  # warned of, came back, left: that warning does not count
        alert("before", 50),
        *bought("once", 5),
        *bought("stayed", 0, 100, 199),
    )
    assert summary.summarise(model).missed == summary.Missed(left=3, warned=1, once=1, late=0, known=False)
    said = "\n".join(summary.lines(model))
    assert "3 customers left (no purchase in the last 56 days); 1 of them were warned of, 2 never" in said
    assert "1 had bought on one day only" in said


def test_where_the_truth_is_known_it_says_who_left() -> None:
    def gone(name: str, day: int) -> Departure:
        return Departure(customer=name, at=at(day), why="drift", last_purchase=at(day - 1))

    truth = {"a": gone("a", 100), "b": gone("b", 190), "prospect": gone("prospect", 50)}
    model = played(
        *bought("a", 0, 50, 99), alert("a", 130), *bought("b", 0, 100, 189), *bought("c", 0, 10), truth=truth
    )
    assert summary.summarise(model).missed == summary.Missed(left=2, warned=1, once=0, late=1, known=True)
    assert "The simulator knows who left: 2 customers" in "\n".join(summary.lines(model))


def test_all_of_it_is_said_in_plain_lines() -> None:
    messages: list[Message] = []
    for n in range(10):
        messages += [*bought(f"c{n}", 0, 10), alert(f"c{n}", 20 + n)]
    said = summary.lines(played(*messages))
    assert said == [
        "Played in 61 seconds: 0 customers, 20 purchases.",
        "  churn: 10 raised",
        "Of 10 warnings old enough to judge, 10 (100%) were right: no purchase in the 28 days that followed.",
        "The rule “silent for longer than 28 days” would have warned 10 times, and 10 (100%) would have been right.",
        "The right warnings came 14 days before that rule (median; the middle half 11 to 16 days before); 100% of them came before it.",
        "10 customers left (no purchase in the last 56 days); 10 of them were warned of, 0 never.",
    ]


def test_days_are_worded_as_people_say_them() -> None:
    assert [summary._early(days) for days in (16.2, 1.0, 0.3, -1.2, -20.0)] == [
        "16 days before",
        "1 day before",
        "on the same day as",
        "1 day after",
        "20 days after",
    ]
    assert summary._span(-25.0, -15.0) == "15 to 25 days after"
    assert summary._span(-16.0, 1.0) == "from 16 days after to 1 day before"
    assert summary._span(8.0, 11.0) == "8 to 11 days before"


def test_what_is_left_early_is_summed_up_as_far_as_it_went() -> None:
    model = played(*bought("a", 0, 10, 90), alert("a", 20), Measured(1.0, at(60), 3, 0, 1), ended=False)
    said = summary.lines(model)
    assert said[0] == "Stopped at 2 Mar 2026: so far 1 customers, 2 purchases."
    # The purchase of day 90 was sent and not applied yet: it does not count.
    assert summary.summarise(model).ours.right == 1


def test_the_next_commands_can_be_typed_as_they_stand(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    own = tmp_path / ".venv" / "bin" / "churnwatch"
    monkeypatch.setattr("sys.argv", [str(own), "demo"])
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert any(line.startswith("  .venv/bin/churnwatch backtest ") for line in summary.next_lines())
    own.parent.mkdir(parents=True)
    own.touch(0o755)
    monkeypatch.setenv("PATH", str(own.parent))
    assert any(line.startswith("  churnwatch backtest ") for line in summary.next_lines())
