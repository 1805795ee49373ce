"""``churnwatch model`` over a topic of real snapshots."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from agents.snapshots import curves, differences, gate
from alerts.engine import FEATURES_VERSION
from models.learning import Learning
from models.snapshot import CHAMPION, PIN, Book, Gate, Prior, Snapshot, encode
from models.training import Trainer
from streams.events import rfc3339
from tests.agents.command_line import CommandLine, Said
from tests.agents.shell import producer_of
from tests.labels import HORIZON, START, labels
from tests.servers import KafkaServer, read_all

DAY = 86_400_000_000
Call = Callable[..., Said]


@pytest.fixture(scope="module")
def learned() -> list[Snapshot]:
    """Four snapshots of one shop, the oldest before its gate opened."""
    trainer = Trainer(Learning(publish_labels=256), HORIZON, Prior(), FEATURES_VERSION)
    return [p.snapshot for p in trainer.learn(labels(1_024)).published]


@pytest.fixture
def model(
    churnwatch: CommandLine,
    kafka: KafkaServer,
    prefix: str,
    topics: Callable[..., list[str]],
    learned: list[Snapshot],
) -> Call:
    """The command, with the snapshots in the topic."""
    topics("models", partitions=1)
    producer = producer_of(kafka.brokers)
    for snapshot in learned:
        producer.produce(prefix + "models", encode(snapshot), snapshot.version, partition=0)
    assert producer.flush(20) == 0
    return lambda *words: churnwatch(
        "--brokers", kafka.brokers, "--prefix", prefix, "--set", "policy.horizon_days=7", "model", *words
    )


def deciding(kafka: KafkaServer, prefix: str) -> str:
    """What every worker that follows the topic decides by now."""
    book = Book(HORIZON, FEATURES_VERSION)
    for record in read_all(kafka.brokers, [prefix + "models"]):
        assert book.take(record.key(), record.value()) is None
    newest = book.known().newest()
    assert newest is not None
    return newest.version


def test_the_list_has_the_newest_first_and_says_which_decides(model: Call, learned: list[Snapshot]) -> None:
    said = model("list")
    assert said.code == 0
    rows = [line for line in said.out.splitlines() if "-" in line.split(" ")[0]]
    assert [row.split(" ")[0] for row in rows] == [s.version for s in reversed(learned)]
    assert ["decides" in row.split()[-1] for row in rows] == [True] + [False] * (len(learned) - 1)
    assert f"{CHAMPION} (learned)" in rows[0]
    assert "rhythm (statistical)" in rows[-1]
    assert "3 more: --limit 4" in model("list", "--limit", "1").out


def test_the_list_for_a_program_has_all_of_them(model: Call, learned: list[Snapshot]) -> None:
    rows = model("list", "--json").lines
    assert [row["version"] for row in rows] == [s.version for s in reversed(learned)]
    newest = learned[-1]
    assert rows[0]["labels"] == newest.leading.labels == 1_024
    assert rows[0]["effective"] == rfc3339(newest.effective)
    assert (rows[0]["decides"], rows[0]["pinned"], rows[0]["usable"]) == (True, False, True)
    assert 0.3 < rows[0]["log_loss"] < 0.8


def test_one_snapshot_shows_gate_figures_calibration_and_learned_curves(
    model: Call, learned: list[Snapshot]
) -> None:
    said = model("show")
    assert said.code == 0
    assert learned[-1].version in said.out
    for words in (
        "decides",
        "gate     open",
        "log-loss",
        "rhythm",
        f"{CHAMPION} *",
        "tree",
        "stated from",
        "open_complaints",
    ):
        assert words in said.out
    before = model("show", learned[0].version)
    assert "closed:" in before.out
    assert "at the present pace it opens on 2026-" in before.out
    assert said.out.count("▁") > 10


def test_the_document_itself_is_shown_to_programs_and_found_by_how_its_name_begins(
    model: Call, learned: list[Snapshot]
) -> None:
    (document,) = model("show", learned[1].version[:-3], "--json").lines
    assert document["version"] == learned[1].version
    assert document["horizons"][0]["gate"]["needed"] == 200


def test_two_snapshots_are_told_apart(model: Call, learned: list[Snapshot]) -> None:
    said = model("diff", learned[0].version, learned[-1].version)
    assert said.code == 0
    for words in (
        "labels learned",
        "model that decides",
        "gate",
        "purchase rate: r",
        f"{CHAMPION}: log-loss",
    ):
        assert words in said.out
    changes = {
        row["what"]: row for row in model("diff", learned[0].version, learned[-1].version, "--json").lines
    }
    assert (changes["labels learned"]["before"], changes["labels learned"]["after"]) == ("256", "1,024")
    assert model("diff", learned[0].version, learned[0].version).out.strip() == "No difference."


def test_a_pin_decides_for_every_worker_until_it_is_taken_away(
    model: Call, learned: list[Snapshot], kafka: KafkaServer, prefix: str
) -> None:
    assert deciding(kafka, prefix) == learned[-1].version
    said = model("pin", learned[0].version)
    assert (said.code, "decides in every worker until churnwatch model unpin" in said.out) == (0, True)
    assert deciding(kafka, prefix) == learned[0].version
    assert "pinned, decides" in model("list").out
    assert "pinned: it decides until" in model("show").out
    producer = producer_of(kafka.brokers)
    producer.produce(prefix + "models", None, learned[0].version, partition=0)  # the trainer deletes it
    assert producer.flush(20) == 0
    assert deciding(kafka, prefix) == learned[0].version
    assert [row["version"] for row in model("list", "--json").lines if row["pinned"]] == [learned[0].version]
    assert model("unpin").code == 0
    assert deciding(kafka, prefix) == learned[-1].version
    assert "Nothing is pinned" in model("unpin").out


def test_a_rollback_goes_back_one_at_a_time_or_to_a_day(
    model: Call, learned: list[Snapshot], kafka: KafkaServer, prefix: str
) -> None:
    assert "would be pinned; nothing was" in model("rollback", "--dry-run").out
    assert deciding(kafka, prefix) == learned[-1].version
    assert model("rollback").code == 0
    assert deciding(kafka, prefix) == learned[-2].version
    assert model("rollback").code == 0
    assert deciding(kafka, prefix) == learned[-3].version
    assert model("unpin").code == 0
    until = rfc3339(learned[1].effective)
    assert model("rollback", "--before", until).code == 0
    assert deciding(kafka, prefix) == learned[1].version
    said = model("rollback", "--before", "2020-01-01")
    assert said.code == 3
    assert "None has only labels until 2020-01-01" in said.err


@pytest.mark.parametrize(
    ("words", "code", "why"),
    [
        (("show", "2031"), 3, "There is no snapshot 2031"),
        (("pin", "2"), 2, "Write more of its name"),
        (("diff", "x", "y"), 3, "churnwatch model list shows which there are"),
    ],
)
def test_what_cannot_be_found_is_said_with_what_to_do(
    model: Call, words: tuple[str, ...], code: int, why: str
) -> None:
    said = model(*words)
    assert said.code == code
    assert why in said.err


def test_a_snapshot_for_another_horizon_is_listed_as_such_and_cannot_be_pinned(
    model: Call, learned: list[Snapshot], churnwatch: CommandLine, kafka: KafkaServer, prefix: str
) -> None:
    there = ("--brokers", kafka.brokers, "--prefix", prefix, "--set", "policy.horizon_days=84", "model")
    assert churnwatch(*there, "list").out.count("not for these settings") == len(learned)
    said = churnwatch(*there, "pin", learned[-1].version)
    assert said.code == 2
    assert "was learned for 7 days, policy.horizon_days is 84" in said.err


def test_an_empty_topic_and_an_unknown_format_are_said(
    churnwatch: CommandLine, kafka: KafkaServer, prefix: str, topics: Callable[..., list[str]]
) -> None:
    topics("models", partitions=1)
    there = ("--brokers", kafka.brokers, "--prefix", prefix, "model")
    assert "the prior of the settings decides" in churnwatch(*there, "list").out
    assert churnwatch(*there, "show").code == 3
    assert churnwatch(*there, "rollback").code == 3
    producer = producer_of(kafka.brokers)
    producer.produce(prefix + "models", b'{"format": 9, "version": "20400101-x"}', b"20400101-x", partition=0)
    producer.produce(prefix + "models", b"nonsense", PIN, partition=0)
    assert producer.flush(20) == 0
    said = churnwatch(*there, "list")
    assert said.code == 0
    assert "has format 9, this churnwatch knows 1" in said.err


def test_the_gate_is_told_in_a_sentence() -> None:
    closed = Gate(open=False, needed=200, churned=150, stayed=1_900, until=START + 3 * DAY)
    assert gate(closed) == (
        "closed: 150 churned and 1,900 stayed of 200 needed each; at the present pace it opens on 2026-01-04"
    )


def test_curves_are_told_by_how_much_of_a_difference_they_make(learned: list[Snapshot]) -> None:
    found = curves(learned[-1].leading)
    assert [c.reach for c in found] == sorted((c.reach for c in found), reverse=True)
    complaints = next(c for c in found if c.name == "open_complaints")
    assert complaints.drawn[0] == "▁"
    assert "█" in complaints.drawn
    assert complaints.highest > 0.3
    assert differences(learned[0], learned[0]) == []
