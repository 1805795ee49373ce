"""How far behind a partition is in seconds, and how much memory there is."""

from __future__ import annotations

from pathlib import Path

import pytest

from agents.lag import Lag
from agents.memory import fullest, limit


def test_nothing_is_behind_when_all_is_applied() -> None:
    lag = Lag()
    assert lag.seconds(10, 10, 0.0, 100.0) == 0.0
    assert lag.seconds(20, 15, 90.0, 101.0) == 0.0


def test_a_record_waits_since_its_end_was_first_seen_whatever_comes_after_it() -> None:
    lag = Lag()
    lag.seconds(10, 10, 50.0, 100.0)
    # A quiet hour before it is no lag.
    assert lag.seconds(10, 11, 50.0, 3700.0) == 0.0
    assert lag.seconds(10, 30, 50.0, 3705.0) == 5.0
    assert lag.seconds(11, 30, 3700.0, 3710.0) == 5.0
    assert lag.seconds(30, 30, 3711.0, 3712.0) == 0.0


def test_of_what_lay_there_before_the_time_of_the_last_record_applied_tells() -> None:
    lag = Lag()
    assert lag.seconds(0, 1000, 0.0, 5000.0) == 0.0
    assert lag.seconds(200, 1000, 3000.0, 5001.0) == 2001.0
    assert lag.seconds(900, 1010, 4990.0, 5002.0) == 12.0
    # From here on the backlog is done, and what came since is known.
    assert lag.seconds(1000, 1010, 4999.0, 5003.0) == 1.0


def test_a_lag_that_lasts_is_remembered_in_few_numbers_and_never_exaggerated() -> None:
    lag = Lag()
    lag.seconds(0, 0, 0.0, 0.0)
    for second in range(1, 20_000):
        seconds = lag.seconds(second // 2, second, 0.0, float(second))
        true = second - second // 2 - 1
        assert 0.95 * true - 1 <= seconds <= true
    assert len(lag._ends) < 1_000


@pytest.mark.parametrize(
    ("told", "expected"),
    [
        ({"proc/meminfo": "MemTotal: 1000 kB\n"}, 1_024_000),
        ({"proc/meminfo": "MemTotal: 1000 kB\n", "sys/fs/cgroup/memory.max": "max\n"}, 1_024_000),
        ({"proc/meminfo": "MemTotal: 1000 kB\n", "sys/fs/cgroup/memory.max": "500000\n"}, 500_000),
        ({"sys/fs/cgroup/memory/memory.limit_in_bytes": "7\n"}, 7),
        ({}, 0),
    ],
)
def test_a_process_may_use_what_its_control_group_or_its_machine_has(
    told: dict[str, str], expected: int, tmp_path: Path
) -> None:
    for name, text in told.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    assert limit(tmp_path) == expected


def test_of_several_redis_nodes_the_one_nearest_to_its_limit_tells() -> None:
    roomy = {"used_memory": 900, "maxmemory": 0, "total_system_memory": 10_000}
    full = {"used_memory": 800, "maxmemory": 1000, "total_system_memory": 10_000}
    assert fullest([roomy, full, roomy]) == (800, 1000)
    assert fullest([{"used_memory": 5}]) == (5, 0)
    assert fullest([]) == (0, 0)
