from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import pytest

from agents.files import Reading, extent, read
from bench import quality
from tests.agents.backtest.conftest import written


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What is measured of one small history."""
    path = written(tmp_path_factory.mktemp("quality") / "orders.csv", customers=130, days=150)
    reading = Reading(quality.CODEC)
    span = extent(path, reading)
    assert span is not None
    return quality.measured("orders", lambda: quality.History(read(path, reading, lambda _: None), span, 28))


def test_figures_of_a_history_are_means_and_can_be_kept(found: dict[str, Any]) -> None:
    assert set(found["churn"]["all"]) >= {"champion", "recency", "btyd", "rfm_logistic"}
    assert found["labels"] > 100
    assert "curve" not in found["alerts"]
    assert msgspec.json.decode(msgspec.json.encode(found)) == found


def test_each_section_replaces_its_own_figures_and_the_page_is_written_anew(
    found: dict[str, Any], tmp_path: Path
) -> None:
    quality.keep("cdnow", found, tmp_path)
    cost = {
        "customers": 10, "score_microseconds": 4.5, "learn_microseconds": 30.0, "hot_bytes": 400.0, "cold_bytes": 500.0,
        "state_bytes": 900.0, "decides": "additive",
    }  # fmt: skip
    quality.keep("cost", cost, tmp_path)
    quality.keep("simulated", {"everything": found, "without both": found}, tmp_path)
    kept = msgspec.json.decode((tmp_path / "quality.json").read_bytes())
    assert {"cdnow", "cost", "simulated", "machine", "when"} <= set(kept)
    page = (tmp_path / "quality.md").read_text()
    auc = found["churn"]["all"]["champion"]["auc"]
    assert f"| **churnwatch** | {auc:.4f} / " in page
    assert "| 4.5 | at most 8 |" in page
    assert "| without both | " in page
    rows = [line for line in page.splitlines() if line.startswith("|")]
    assert all(line.endswith("|") for line in rows)


def test_an_unknown_section_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        quality.main(["everything"])
    assert "there is no section everything" in capsys.readouterr().err
