from __future__ import annotations

import dataclasses
from datetime import date, timedelta
from itertools import groupby
from pathlib import Path

import msgspec
import numpy as np
import pytest

from agents.backtest import lightgbm
from agents.backtest.board import Board
from agents.backtest.lessons import Lessons
from agents.backtest.page import page
from agents.backtest.replay import Replay
from agents.backtest.report import alerts, report
from agents.backtest.run import Asked, Found, NotEnough, replayed, run
from agents.backtest.stories import mondays
from agents.core import engine_of
from agents.files import Reading, entry, extent, read
from agents.send import Route, feed
from agents.settings import Settings
from alerts.policy import Policy
from features import matrix
from features.customer import unpack_hot
from features.shop import DAY
from models.learning import Learning
from streams import events as ev
from streams import topics
from streams.alerts import Reason
from streams.codec import Codec, Decoded
from streams.message import Message, unpack
from tests.agents.backtest.conftest import BEGIN, written
from tests.application import Application, Row

READING = Reading(Codec("USD", 2, {}, frozenset()))
HORIZON = 28
SETTINGS = replayed(
    Settings(learning=Learning(gate=50), policy=Policy(medium=0.3, high=0.5, rise=0.2)), HORIZON
)
START = (BEGIN.date() - BEGIN.date().replace(year=1970, month=1, day=1)).days + 120


def backtested(path: Path, start: int | None = None, every: int = 14, compare: str | None = None) -> Found:
    span = extent(path, READING)
    assert span is not None
    return run(
        read(path, READING, lambda refusal: pytest.fail(refusal.reason)),
        span,
        READING.codec,
        SETTINGS,
        Asked(HORIZON, every, start),
        Lessons(SETTINGS, compare),
    )


@pytest.fixture(scope="session")
def found(orders: Path) -> Found:
    return backtested(orders, START)


def kinds(out: list[Message]) -> list[tuple[str, bytes | None, bytes, bytes]]:
    """What left, without the positions, which a file does not have."""
    told: list[tuple[str, bytes | None, bytes, bytes]] = []
    for message in out:
        if message.topic == topics.EXAMPLES:
            told.append((message.topic, None, message.value or b"", b""))
            continue
        data = msgspec.json.decode(message.value or b"")
        data.pop("position")
        headers = dict(message.headers)
        told.append((message.topic, message.key, msgspec.json.encode(data), headers["ce_id"]))
    return told


def test_a_history_without_servers_leaves_what_a_worker_leaves(orders: Path) -> None:
    entries = list(read(orders, READING, lambda _: None))
    rows = [
        Row(topics.PURCHASES, 0, offset, 2**42, sent.key if sent.partition is None else b"clock", sent.value)
        for offset, sent in enumerate(feed(iter(entries), Route({topics.PURCHASES: 1})))
    ]
    worker = Application((topics.PURCHASES,), name=SETTINGS.application, policy=SETTINGS.policy)
    worker.engine = engine_of(SETTINGS, "record")
    worker.run(rows)
    replay = Replay(engine_of(SETTINGS, "record"))
    ours: list[Message] = []
    items = [entry.item for entry in entries if isinstance(entry.item, Decoded)]
    last = items[-1].at // DAY * DAY
    for day, today in groupby(items, key=lambda item: item.at // DAY):
        if day * DAY < last:
            ours += replay.day(list(today), (day + 1) * DAY).out
    theirs = [unpack(packed) for packed in worker.out]
    until = len(ours)
    assert until > 500
    assert sorted(kinds(theirs[:until]), key=repr) == sorted(kinds(ours), key=repr)


def test_what_a_backtest_leaves_out_changes_no_warning(tmp_path: Path) -> None:
    entries = list(read(written(tmp_path / "orders.csv", days=160), READING, lambda _: None))
    items = [entry.item for entry in entries if isinstance(entry.item, Decoded)]

    def warned(policy: Policy) -> list[tuple[object, ...]]:
        replay = Replay(engine_of(msgspec.structs.replace(SETTINGS, policy=policy), "record"))
        told = []
        for day, today in groupby(items, key=lambda item: item.at // DAY):
            for message in replay.day(list(today), (day + 1) * DAY).out:
                if message.topic == topics.ALERTS and b".churn." in dict(message.headers)["ce_type"]:
                    data = msgspec.json.decode(message.value or b"")
                    told.append(
                        (dict(message.headers)["ce_id"], data["decided_at"], data["churn_probability"])
                    )
        return sorted(told, key=repr)

    usual = Policy(medium=0.3, high=0.5, rise=0.2, horizon_days=28.0)
    assert len(warned(usual)) > 50
    assert warned(SETTINGS.policy) == warned(usual)


def test_everybody_is_scored_from_the_board_as_from_their_states(orders: Path) -> None:
    replay = Replay(engine_of(SETTINGS, "record"))
    board = Board(SETTINGS.policy.complaint_overdue_hours, lambda at: at // DAY)
    items = [entry.item for entry in read(orders, READING, lambda _: None)]
    end = 0
    for day, today in groupby(
        (item for item in items if isinstance(item, Decoded)), key=lambda item: item.at // DAY
    ):
        end = (day + 1) * DAY
        board.refresh(replay.day(list(today), end).touched, replay.hot, end)
    customers = [unpack_hot(replay.hot(name)) for name in board.names]
    direct = matrix.inputs(customers, [end] * len(customers), SETTINGS.policy.complaint_overdue_hours)
    ours = board.inputs(np.arange(len(board.names)), end)
    for name, mine, theirs in zip(direct._fields, ours, direct, strict=True):
        assert mine.tolist() == theirs.tolist(), name
    assert board.bought.tolist() == [customer.last_purchase // DAY for customer in customers]


def test_where_a_use_counts_as_activity_it_ends_a_silence_in_the_figures_too(orders: Path) -> None:
    bought: list[ev.Event] = [
        each.item.event for each in read(orders, READING, lambda _: None) if isinstance(each.item, Decoded)
    ]
    used: list[ev.Event] = [
        ev.Use(id=f"u{n}-{week}", customer=f"c{n}", time=BEGIN + timedelta(days=61 + 7 * week + n / 10))
        for n in range(0, 40, 2)
        for week in range(20)
    ]
    entries = [entry(event) for event in sorted((*bought, *used), key=lambda event: event.time)]
    span = entries[0].at, entries[-1].at
    cutoff = START + 14
    for activity, counting in (("purchase", {"purchase"}), ("purchase_or_use", {"purchase", "use"})):
        learning = Learning(gate=50, activity=activity)  # type: ignore[arg-type]
        settings = msgspec.structs.replace(SETTINGS, learning=learning)
        of = run(entries, span, READING.codec, settings, Asked(HORIZON, 14, START), Lessons(settings))
        (seen,) = (each for each in of.cutoffs if each.stated.day == cutoff)
        days = {(each.customer, each.at // DAY) for each in entries if each.kind in counting}
        right = [
            not any((of.names[place].decode(), cutoff + later) in days for later in range(1, HORIZON + 1))
            for place in seen.stated.customers.tolist()
        ]
        assert seen.churned.tolist() == right
        document = report(of, "x")
        assert document["activity"] == activity
        assert ("no purchase or use for 28 days" in page(of, document)) == (activity == "purchase_or_use")


def test_what_came_later_changes_nothing_at_a_cut_off(found: Found, tmp_path: Path) -> None:
    shorter = backtested(written(tmp_path / "shorter.csv", until=195), START)
    long, short = report(found, "x"), report(shorter, "x")
    for population in ("all", "active"):
        theirs = long["churn"][population]["cutoffs"]  # type: ignore[index]
        ours = short["churn"][population]["cutoffs"]  # type: ignore[index]
        assert 3 < len(ours) < len(theirs)
        assert ours == theirs[: len(ours)]


def test_the_report_has_every_figure_of_every_model_in_its_place(found: Found) -> None:
    document = report(found, "orders.csv")
    models = ["champion", "recency", "btyd", "rfm_logistic"]
    figures = ["auc", "average_precision", "log_loss", "brier", "calibration_error", "precision_top_decile"]
    for population in ("all", "active"):
        churn = document["churn"][population]  # type: ignore[index]
        for model in models:
            assert sorted(churn["mean"][model]) == sorted(figures)
            assert all(isinstance(churn["mean"][model][name], float) for name in figures)
        for cutoff in churn["cutoffs"]:
            assert {"time", "n", "base_rate", *models} <= set(cutoff)
    assert document["churn"]["all"]["cutoffs"][-1]["score_source"] == "learned"  # type: ignore[index]
    assert msgspec.json.encode(document)


def test_warnings_are_told_beside_the_best_limit_and_everybody(found: Found) -> None:
    told = alerts(found)
    wanted = {"precision", "recall", "median_lead_days", "per_1000_customers_a_week", "warnings", "right"}
    assert wanted <= set(told)
    assert wanted <= set(told["everyone"])  # type: ignore[call-overload]
    assert told["everyone"]["recall"] == 1.0  # type: ignore[index]
    limit, ours = told["silence_limit"], told["precision"]
    assert isinstance(ours, float)
    if isinstance(limit, dict):
        assert limit["precision"] >= ours
    else:
        assert all(each["precision"] < ours for each in told["limits"])  # type: ignore[attr-defined]
    assert set(told["by_band"]) <= {"medium", "high"}  # type: ignore[call-overload]


def test_a_mondays_list_tells_what_spoke_for_leaving_and_the_cause_that_the_measure_answers(
    found: Found,
) -> None:
    def told(*weights: tuple[str, float], cause: str) -> tuple[str, str]:
        alert = msgspec.structs.replace(
            warned.alert,
            reasons=tuple(
                Reason(feature=name, contribution=weight, text=f"{name}.") for name, weight in weights
            ),
            cause=cause,
            action="loyalty_discount",
        )
        (monday,) = mondays(dataclasses.replace(found, warned=[warned._replace(alert=alert)]))
        (entry,) = monday.entries
        return entry.why, entry.action

    warned = next(each for each in found.warned if each.step == "raised")
    strongest = (
        ("browsing_30d", -2.0),
        ("recency_days", 1.5),
        ("discount_share", 0.3),
        ("use_30d", 0.2),
        ("base", 9.0),
    )
    assert told(*strongest, cause="price") == ("recency_days. discount_share.", "loyalty discount (price)")
    assert told(("base", 1.0), cause="lost_rhythm") == ("", "loyalty discount")


def test_the_same_history_gives_the_same_report(found: Found, orders: Path) -> None:
    again, before = report(backtested(orders, START), "x"), report(found, "x")
    again.pop("run")
    before.pop("run")
    assert again == before


def test_lightgbm_is_refitted_on_what_has_matured_and_nothing_later(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("lightgbm")
    monkeypatch.setattr(lightgbm, "LEAST", 20)
    long = backtested(written(tmp_path / "long.csv", until=160), START, 42, "lightgbm")
    short = backtested(written(tmp_path / "short.csv", until=150), START, 42, "lightgbm")
    assert long.models[-1] == "lightgbm"
    for ours, theirs in zip(short.cutoffs, long.cutoffs, strict=False):
        stated = ours.stated.stated["lightgbm"]
        assert len(set(stated.tolist())) > 10
        assert stated.tolist() == theirs.stated.stated["lightgbm"].tolist()


def test_a_first_cut_off_before_the_history_is_said_as_such(orders: Path) -> None:
    for start in (0, BEGIN.toordinal() - date(1970, 1, 1).toordinal()):
        with pytest.raises(NotEnough, match=r"nothing by the first cut-off .* it begins on 20\d\d-"):
            backtested(orders, start)


def test_a_file_that_is_too_short_is_said_with_what_is_missing(tmp_path: Path) -> None:
    with pytest.raises(NotEnough, match=r"41 days .* it takes 56"):
        backtested(written(tmp_path / "short.csv", until=41))
    with pytest.raises(NotEnough, match=r"customers who bought by the first cut-off .* it takes 100"):
        backtested(written(tmp_path / "few.csv", customers=30))
    with pytest.raises(NotEnough, match=r"it takes 28, so that there is a cut-off"):
        backtested(written(tmp_path / "late.csv"), START + 100)
