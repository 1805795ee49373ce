from __future__ import annotations

import json
import math

import msgspec
import pytest

from models.purchase_rate import Rates
from models.snapshot import (
    PIN,
    Book,
    Calibration,
    Figures,
    Gate,
    Horizon,
    Learned,
    Promotion,
    Snapshot,
    UnknownSnapshot,
    decode,
    decode_pin,
    encode,
    encode_pin,
    named,
    readable,
)

DAY = 86_400_000_000
START = 1_767_225_600_000_000  # 2026-01-01T00:00:00Z


def snapshot(
    day: int = 0, *, labels: int = 10, days: float = 28.0, features: str = "4", level: float = 0.5
) -> Snapshot:
    at = START + day * DAY
    horizon = Horizon(
        days=days,
        labels=labels,
        promoted=Promotion(model="additive", since=START, why="log-loss 0.3 against 0.4 of rhythm"),
        promotions=(),
        gate=Gate(open=True, needed=200, churned=300, stayed=400),
        models={"additive": Learned(calibration=Calibration(), data={"level": level, "curves": {}})},
        figures=(Figures(model="additive", labels=10, since=START, log_loss=0.3),),
        reliability=(),
        drift=(),
    )
    return named(
        Snapshot(
            effective=at,
            made_at=at,
            source="learned",
            features=features,
            inputs=("recency", "age"),
            horizons=(horizon,),
            purchase_rate=Rates(),
            spend=None,
            usual={},
        )
    )


def test_a_snapshot_is_read_as_it_was_written_and_the_same_gives_the_same_bytes() -> None:
    one = snapshot()
    assert decode(encode(one)) == one
    assert encode(snapshot()) == encode(one)
    assert json.loads(readable(one)) == json.loads(encode(one))


def test_its_name_tells_the_instant_of_its_newest_label_and_no_two_share_one() -> None:
    names = {
        snapshot(day, labels=n, level=x).version for day in (0, 1) for n in (10, 11) for x in (0.5, 0.500001)
    }
    assert len(names) == 8
    assert all(name.startswith(("20260101T000000-", "20260102T000000-")) for name in names)


def test_a_snapshot_that_was_changed_on_the_way_is_refused() -> None:
    document = json.loads(encode(snapshot()))
    document["horizons"][0]["models"]["additive"]["data"]["level"] = 9.0
    with pytest.raises(UnknownSnapshot, match="changed after it was made"):
        decode(json.dumps(document).encode())


def test_an_unknown_format_is_refused_with_what_to_do() -> None:
    document = json.loads(encode(snapshot())) | {"format": 7, "a field": "of the future"}
    with pytest.raises(
        UnknownSnapshot, match=r"has format 7, this churnwatch knows 1: run the release that wrote it"
    ):
        decode(json.dumps(document).encode())


@pytest.mark.parametrize(
    "value", [b"", b"{", b"[]", b'"x"', b"\xff", b'{"format": 1}', b'{"format": "1"}', b"null"]
)
def test_what_is_no_snapshot_is_refused_as_a_snapshot_and_as_a_pin(value: bytes) -> None:
    with pytest.raises(UnknownSnapshot):
        decode(value)
    with pytest.raises(UnknownSnapshot):
        decode_pin(value)


def test_what_cannot_be_written_as_a_number_makes_no_snapshot() -> None:
    with pytest.raises(msgspec.ValidationError):
        named(msgspec.structs.replace(snapshot(), purchase_rate=Rates(r=math.nan)))


def test_a_pin_carries_its_snapshot() -> None:
    one = snapshot()
    assert decode_pin(encode_pin(one, 5)) == (one, 5)


def test_the_newest_that_had_learned_nothing_later_decides_at_an_instant() -> None:
    book = Book()
    days = {day: snapshot(day) for day in (3, 1, 2)}
    for each in days.values():
        assert book.take(each.version.encode(), encode(each)) is None
    known = book.known()
    assert [s.effective for s in known.snapshots] == [START + day * DAY for day in (1, 2, 3)]
    assert known.at(START) is None
    assert known.at(START + DAY) == days[1]
    assert known.at(START + 3 * DAY - 1) == days[2]
    assert known.newest() == known.at(START + 9 * DAY) == days[3]


def test_of_snapshots_of_one_instant_the_one_that_learned_more_is_newer() -> None:
    book = Book()
    for labels in (30, 10, 20):
        book.take(b"x", encode(snapshot(labels=labels)))
    newest = book.known().newest()
    assert newest is not None
    assert newest.leading.labels == 30


def test_a_pinned_snapshot_decides_at_every_instant_and_outlives_its_deletion() -> None:
    book = Book()
    old, new = snapshot(1), snapshot(2)
    book.take(old.version.encode(), encode(old))
    book.take(new.version.encode(), encode(new))
    book.take(PIN, encode_pin(old, 9))
    book.take(old.version.encode(), None)
    known = book.known()
    assert known.newest() == known.at(START) == known.at(START + 9 * DAY) == known.get(old.version) == old
    assert known.snapshots == (new,)
    book.take(PIN, None)
    assert book.known().newest() == new


def test_what_is_refused_is_counted_and_changes_nothing_that_was_known() -> None:
    book = Book(28.0, "4")
    good = snapshot(1)
    book.take(good.version.encode(), encode(good))
    book.take(PIN, encode_pin(good, 9))
    for other, why in (
        (snapshot(2, days=84.0), "policy.horizon_days is 28"),
        (snapshot(2, features="5"), "inputs of version 5, this churnwatch has 4"),
    ):
        said = book.take(other.version.encode(), encode(other))
        assert said is not None
        assert why in said
        assert why in str(book.take(PIN, encode_pin(other, 9)))
    assert "no model snapshot" in str(book.take(b"x", b"{}"))
    assert book.known().newest() == good
    assert sum(book.refused.values()) == 5
