from __future__ import annotations

import gzip
import hashlib
import io
import json
import sys
from collections.abc import Iterable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from agents.files import STDIN, FileError, Reading, Refusal, count, event_id, read
from streams.codec import Codec
from streams.events import to_micros

HEADER = "event_type,customer_id,ts,order_id,sku,category,quantity,amount,extra"
CODEC = Codec("USD", 2, {"EUR": 1.1}, frozenset())


def csv_file(tmp_path: Path, rows: Iterable[str], header: str = HEADER) -> Path:
    path = tmp_path / "orders.csv"
    path.write_text("\n".join([header, *rows]) + "\n", encoding="utf-8")
    return path


def events(path: Path, **how: Any) -> tuple[list[dict[str, Any]], list[Refusal]]:
    refused: list[Refusal] = []
    entries = list(read(path, Reading(CODEC, **how), refused.append))
    return [json.loads(e.value) for e in entries], refused


def day(n: int, hour: int = 0) -> str:
    return f"2026-01-{n:02d}T{hour:02d}:00:00Z"


def test_the_rows_of_one_order_become_one_event_at_the_time_of_the_first(tmp_path: Path) -> None:
    path = csv_file(
        tmp_path,
        [
            f"purchase,c1,{day(1, 9)},o1,apple,fruit,2,3.50,",
            f"purchase,c2,{day(1, 9)},o2,pear,,1,1,",
            f"purchase,c1,{day(1, 10)},o1,plum,fruit,1,0.50,",
        ],
    )
    found, refused = events(path)
    assert refused == []
    assert found[0] == {
        "type": "purchase",
        "id": "purchase:o1",
        "customer": "c1",
        "time": "2026-01-01T09:00:00Z",
        "order": "o1",
        "lines": [
            {"amount": 3.5, "sku": "apple", "category": "fruit", "quantity": 2.0},
            {"amount": 0.5, "sku": "plum", "category": "fruit", "quantity": 1.0},
        ],
    }
    assert [e["customer"] for e in found] == ["c1", "c2"]


def test_without_an_order_the_rows_of_one_customer_and_time_become_one_event(tmp_path: Path) -> None:
    path = csv_file(
        tmp_path,
        [
            f"purchase,c1,{day(1)},,a,,1,1,",
            f"purchase,c1,{day(1)},,b,,1,2,",
            f"return,c1,{day(1)},,b,,-1,-2,",
            f"purchase,c1,{day(2)},,a,,1,1,",
        ],
    )
    found, _ = events(path)
    assert [(e["id"], len(e["lines"])) for e in found] == [
        ("purchase:c1:2026-01-01T00:00:00Z", 2),
        ("return:c1:2026-01-01T00:00:00Z", 1),
        ("purchase:c1:2026-01-02T00:00:00Z", 1),
    ]
    assert "order" not in found[0]


def test_an_id_that_is_too_long_becomes_its_sha_256() -> None:
    assert event_id("purchase", "c", "o" * 55, 0) == "purchase:" + "o" * 55
    long = "purchase:" + "o" * 56
    assert event_id("purchase", "c", "o" * 56, 0) == hashlib.sha256(long.encode()).hexdigest()


def test_amounts_of_returns_are_negative_in_files_and_positive_in_events(tmp_path: Path) -> None:
    path = csv_file(tmp_path, [f"return,c1,{day(1)},r1,a,,-2,-7.25,", f"return,c1,{day(2)},r2,a,,1,7,"])
    found, refused = events(path)
    assert found[0]["lines"] == [{"amount": 7.25, "sku": "a", "quantity": 2.0}]
    assert refused == [Refusal(3, "amount: 7 is positive; that of a return is negative in files")]


def test_rows_of_no_product_count_as_money_only(tmp_path: Path) -> None:
    path = csv_file(
        tmp_path,
        [
            f'purchase,c1,{day(1)},o1,POST,shipping,1,4.5,"{{""country"":""UK"",""nonproduct"":1}}"',
            f'purchase,c1,{day(1)},o1,a,fruit,1,1,"{{""nonproduct"":0}}"',
        ],
    )
    found, _ = events(path)
    assert found[0]["lines"] == [
        {"amount": 4.5, "quantity": 1.0},
        {"amount": 1.0, "sku": "a", "category": "fruit", "quantity": 1.0},
    ]


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        (f"refund,c1,{day(1)},o,a,,1,1,", "event_type: 'refund' is not allowed"),
        (f"purchase,,{day(1)},o,a,,1,1,", "customer_id: missing"),
        (f"purchase,{'c' * 129},{day(1)},o,a,,1,1,", "customer_id: at most 128"),
        ("purchase,c1,,o,a,,1,1,", "ts: missing"),
        ("purchase,c1,yesterday,o,a,,1,1,", "ts: 'yesterday' is not a time"),
        (f"purchase,c1,{day(1)},o,a,,1,,", "amount: missing"),
        (f"purchase,c1,{day(1)},o,a,,1,dear,", "amount: 'dear' is not a number"),
        (f"purchase,c1,{day(1)},o,a,,1,nan,", "amount: 'nan'"),
        (f"purchase,c1,{day(1)},o,a,,1,-1,", "amount: -1 is negative"),
        (f"purchase,c1,{day(1)},o,a,,-1,1,", "quantity: -1 is negative"),
        (f"purchase,c1,{day(1)},o,a,,1,1,{{nonproduct", "extra: is not JSON"),
        (f"purchase,c1,{day(1)},o,a,1", "has 6 fields where the header has 9"),
        (f"purchase,c1,{day(1)},o,{'s' * 129},,1,1,", "sku: "),
        (
            "purchase,c1,2999-01-01T00:00:00Z,o,a,,1,1,",
            "ts: 2999-01-01T00:00:00Z is before 1970 or lies in the future",
        ),
    ],
)
def test_a_bad_row_is_refused_with_its_line_and_the_rest_is_read(
    tmp_path: Path, row: str, reason: str
) -> None:
    path = csv_file(tmp_path, [f"purchase,c0,{day(1)},o0,a,,1,1,", row])
    found, refused = events(path)
    assert [e["customer"] for e in found] == ["c0"]
    assert [r.line for r in refused] == [3]
    assert reason in refused[0].reason


def test_a_row_that_is_not_utf_8_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "x.csv"
    path.write_bytes(
        f"{HEADER}\npurchase,c\xff,{day(1)},o,a,,1,1,\npurchase,é,{day(1)},o,a,,1,1,\n".encode("latin-1")
    )
    found, refused = events(path)
    assert found == []
    assert [r.reason for r in refused] == ["customer_id: is not UTF-8 (was the file written as Latin-1?)"] * 2


def test_rows_are_gathered_over_a_thousand_rows_and_refused_after(tmp_path: Path) -> None:
    between = [f"purchase,x{n},{day(1)},x{n},a,,1,1," for n in range(998)]
    first = f"purchase,c1,{day(1)},o1,a,,1,1,"
    path = csv_file(tmp_path, [first, *between, first])
    found, refused = events(path)
    assert len(found[0]["lines"]) == 2
    assert refused == []
    path = csv_file(tmp_path, [first, *between, f"purchase,y,{day(1)},y,a,,1,1,", first])
    found, refused = events(path)
    assert len(found[0]["lines"]) == 1
    assert [r.line for r in refused] == [1002]
    assert "order 'o1' of customer 'c1' began more than 1000 rows before" in refused[0].reason


def test_events_leave_in_the_order_of_time_although_orders_overlap(tmp_path: Path) -> None:
    rows = [
        f"purchase,c{n % 7},{day(1 + n // 100, n % 100 // 5)},o{n % 13}-{n // 50},a,,1,1,"
        for n in range(2000)
    ]
    found, refused = events(csv_file(tmp_path, rows))
    times = [e["time"] for e in found]
    assert times == sorted(times)
    assert sum(len(e["lines"]) for e in found) + len(refused) == 2000


def test_a_file_that_is_not_sorted_is_refused_before_anything_is_read_unless_that_does_not_matter(
    tmp_path: Path,
) -> None:
    path = csv_file(tmp_path, [f"purchase,c1,{day(2)},o1,a,,1,1,", f"purchase,c2,{day(1)},o2,a,,1,1,"])
    with pytest.raises(FileError, match=r"not sorted by time: line 3 .* --clock none"):
        count(path, Reading(CODEC))
    with pytest.raises(FileError, match="line 3"):
        events(path)
    assert count(path, Reading(CODEC, ordered=False)) == 2
    found, _ = events(path, ordered=False)
    assert [e["customer"] for e in found] == ["c1", "c2"]


def test_a_time_without_an_offset_is_the_shops(tmp_path: Path) -> None:
    path = csv_file(
        tmp_path, ["purchase,c1,2026-01-01 12:00:00,o1,a,,1,1,", "purchase,c1,2026-01-02,o2,a,,1,1,"]
    )
    found, _ = events(path, zone=ZoneInfo("Europe/Berlin"))
    assert [e["time"] for e in found] == ["2026-01-01T11:00:00Z", "2026-01-01T23:00:00Z"]


def test_columns_may_come_in_any_order_and_more_of_them(tmp_path: Path) -> None:
    path = csv_file(tmp_path, [f"9,{day(1)},x,c1,purchase"], "amount,ts,colour,customer_id,event_type")
    found, _ = events(path)
    assert found[0]["lines"] == [{"amount": 9.0}]


def test_a_missing_column_names_those_that_are_needed(tmp_path: Path) -> None:
    path = csv_file(tmp_path, ["1,2"], "customer_id,ts")
    with pytest.raises(FileError, match="no column event_type, amount"):
        events(path)


def test_a_quoted_field_may_hold_a_line_break_and_lines_are_counted_all_the_same(tmp_path: Path) -> None:
    path = csv_file(tmp_path, [f'purchase,c1,{day(1)},o1,"a\nb",,1,1,', f"purchase,c1,{day(1)},o2,a,,1,-1,"])
    _, refused = events(path)
    assert [r.line for r in refused] == [4]


def test_gzip_is_known_by_its_content(tmp_path: Path) -> None:
    plain = csv_file(tmp_path, [f"purchase,c1,{day(1)},o1,a,,1,1,"])
    zipped = tmp_path / "no-suffix"
    zipped.write_bytes(gzip.compress(plain.read_bytes()))
    assert events(zipped) == events(plain)
    zipped.write_bytes(gzip.compress(plain.read_bytes())[:-9])
    with pytest.raises(FileError, match="cut off"):
        events(zipped)


def test_parquet_gives_the_same_events_as_csv(tmp_path: Path) -> None:
    path = csv_file(
        tmp_path,
        [
            f"purchase,1,{day(1)},o1,a,fruit,2,3.5,",
            f"return,1,{day(2)},o2,a,,-1,-1,",
            f"purchase,2,{day(3)},,,,,5,",
        ],
    )
    table = pa.table(
        {
            "event_type": ["purchase", "return", "purchase"],
            "customer_id": pa.array([1, 1, 2]),
            "ts": pa.array([datetime(2026, 1, n, tzinfo=UTC) for n in (1, 2, 3)]),
            "order_id": ["o1", "o2", None],
            "sku": ["a", "a", None],
            "category": ["fruit", None, None],
            "quantity": [2.0, -1.0, None],
            "amount": [3.5, -1.0, 5.0],
        }
    )
    parquet = tmp_path / "orders.parquet"
    pq.write_table(table, parquet)
    assert events(parquet) == events(path)
    assert count(parquet, Reading(CODEC)) == 3


def test_ndjson_passes_as_it_is(tmp_path: Path) -> None:
    line = '{"type":"view","id":"v1","customer":"c1","time":"2026-01-01T00:00:00+01:00","extra":[1]}'
    path = tmp_path / "x.ndjson"
    path.write_text(line + "\n\n" + '{"type":"clock","time":"2026-01-02T00:00:00Z"}\n')
    refused: list[Refusal] = []
    entries = list(read(path, Reading(CODEC), refused.append))
    assert entries[0].value.decode() == line
    assert (entries[0].kind, entries[0].customer, entries[0].at) == (
        "view",
        "c1",
        to_micros(datetime(2025, 12, 31, 23, tzinfo=UTC)),
    )
    assert (entries[1].kind, entries[1].line) == ("clock", 3)
    assert refused == []


def test_ndjson_is_refused_line_by_line_with_the_reason_a_worker_would_give(tmp_path: Path) -> None:
    path = tmp_path / "x.ndjson"
    lines = [
        '{"type":"merge","id":"f1","customer":"c1","into":"c2","time":"2026-01-01T00:00:00Z"}',
        '{"type":"view"',
        '{"type":"dance","id":"1","customer":"c","time":"2026-01-01T00:00:00Z"}',
        '{"type":"review","id":"1","customer":"c","time":"2026-01-01T00:00:00Z","rating":9}',
        '{"type":"purchase","id":"1","customer":"c","time":"2026-01-01T00:00:00Z","lines":[{"amount":1}],"currency":"QQQ"}',
    ]
    path.write_text("\n".join(lines))
    found, refused = events(path)
    assert [e["type"] for e in found] == ["merge"], "what is not supported yet is kept, so it travels"
    assert [r.line for r in refused] == [2, 3, 4, 5]
    assert [r.reason.partition(":")[0] for r in refused] == ["not JSON", "type", "rating", "currency"]


def test_history_marks_every_event(tmp_path: Path) -> None:
    path = csv_file(tmp_path, [f"purchase,c1,{day(1)},o1,a,,1,1,"])
    assert events(path, history=True)[0][0]["history"] is True
    path = tmp_path / "x.ndjson"
    path.write_text('{"type":"view","id":"v1","customer":"c1","time":"2026-01-01T00:00:00Z","history":false}')
    assert events(path, history=True)[0][0]["history"] is True


def test_standard_input_may_be_csv_or_ndjson(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for text, kind in (
        (f"{HEADER}\npurchase,c1,{day(1)},o1,a,,1,1,\n", "purchase"),
        ('\n {"type":"view","id":"v1","customer":"c1","time":"2026-01-01T00:00:00Z"}\n', "view"),
    ):
        stdin = io.TextIOWrapper(io.BufferedReader(io.BytesIO(text.encode())))
        monkeypatch.setattr(sys, "stdin", stdin)
        assert count(STDIN, Reading(CODEC)) is None
        found, _ = events(STDIN)
        assert [e["type"] for e in found] == [kind]


def test_the_text_of_cdnow_is_sorted_by_time(tmp_path: Path) -> None:
    path = tmp_path / "CDNOW_master.txt"
    path.write_bytes(
        b" customer_id  date number_of_cds  dollar_value\r\n"
        b" 00001 19970103  1   11.77\r\n 00002 19970101  1   12.00\r\n 00002 19970112  5   77.00\r\n"
        b" 00002 19970112  1    0.00\r\n 00003 19971301  1    1.00\r\n"
    )
    found, refused = events(path)
    assert [(e["customer"], e["time"][:10], len(e["lines"])) for e in found] == [
        ("00002", "1997-01-01", 1),
        ("00001", "1997-01-03", 1),
        ("00002", "1997-01-12", 2),
    ]
    assert found[2]["lines"] == [{"amount": 77.0, "quantity": 5.0}, {"amount": 0.0, "quantity": 1.0}]
    assert [r.line for r in refused] == [6]


def test_a_file_that_cannot_be_read_says_why(tmp_path: Path) -> None:
    with pytest.raises(FileError, match="No such file"):
        events(tmp_path / "none.csv")
    (tmp_path / "empty").write_bytes(b"")
    with pytest.raises(FileError, match="is empty"):
        events(tmp_path / "empty")
    with pytest.raises(FileError, match="directory"):
        events(tmp_path)


def test_online_retail_reads_whole() -> None:
    path = Path(__file__).parents[3] / "shared" / "data" / "online_retail_II.csv.gz"
    if not path.exists():
        pytest.skip(f"{path} is not there")
    refused: list[Refusal] = []
    kinds: dict[str, int] = {}
    lines = 0
    for n, entry in enumerate(read(path, Reading(CODEC), refused.append)):
        kinds[entry.kind] = kinds.get(entry.kind, 0) + 1
        lines += entry.value.count(b'"amount"')
        if n == 5000:
            break
    assert refused == []
    assert kinds["purchase"] > 3000
    assert lines > 50_000
