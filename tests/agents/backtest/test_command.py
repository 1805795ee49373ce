from __future__ import annotations

import html
import json
import re
import shutil
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import pytest

from agents import cli
from agents.backtest.page import SECTIONS
from tests.agents.backtest.conftest import written
from tests.agents.command_line import CommandLine

FLAGS = ("--set", "learning.gate=50")


@pytest.fixture(scope="module")
def folder(orders: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What a backtest has written."""
    out = tmp_path_factory.mktemp("out") / "report"
    words = [*FLAGS, "backtest", str(orders), "--every", "2w", "--from", "2025-05-01", "--out", str(out)]
    assert cli.main(words) == 0
    return out


def test_a_backtest_leaves_a_report_for_programs_and_one_for_people(folder: Path) -> None:
    document = json.loads((folder / "report.json").read_text())
    assert document["horizon_days"] == 28
    assert [each["time"] for each in document["churn"]["all"]["cutoffs"]][:2] == ["2025-05-01", "2025-05-15"]
    assert document["history"]["customers"] > 100
    assert (folder / "report.html").stat().st_size < 2_000_000


def test_a_report_that_is_there_is_not_written_over(
    churnwatch: CommandLine, orders: Path, folder: Path
) -> None:
    said = churnwatch("backtest", str(orders), "--out", str(folder))
    assert said.code == 2
    assert "report.json is there already." in said.err
    assert "--force" in said.err


def test_the_figures_alone_go_to_standard_output(churnwatch: CommandLine, tmp_path: Path) -> None:
    file = written(tmp_path / "small.csv", customers=130, days=100)
    said = churnwatch(*FLAGS, "backtest", str(file), "--horizon", "3w", "--json")
    assert said.code == 0, said.err
    assert json.loads(said.out)["horizon_days"] == 21
    assert list(tmp_path.iterdir()) == [file]


def test_not_enough_data_is_said_with_what_is_missing(churnwatch: CommandLine, tmp_path: Path) -> None:
    said = churnwatch("backtest", str(written(tmp_path / "short.csv", days=40)))
    assert said.code == 6
    assert "Not enough data. It has:" in said.err
    assert "it takes 56: twice the horizon of 28 days" in said.err
    assert "--suggest-horizon" in said.err


def test_a_comparison_without_its_package_says_how_to_get_it(
    churnwatch: CommandLine, orders: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "lightgbm", None)  # as where it was never installed
    said = churnwatch("backtest", str(orders), "--out", str(tmp_path / "new"), "--compare", "lightgbm")
    assert said.code == 2
    assert "lightgbm is not installed." in said.err
    assert "pip install 'lightgbm" in said.err
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize(("flag", "value"), [("--horizon", "month"), ("--every", "0d"), ("--from", "May"), ("--horizon", "9999w")])  # fmt: skip
def test_what_is_no_number_of_days_or_no_date_is_refused(
    churnwatch: CommandLine, orders: Path, flag: str, value: str
) -> None:
    said = churnwatch("backtest", str(orders), flag, value)
    assert said.code == 2
    assert value in said.err


def test_a_file_that_is_not_sorted_is_refused(churnwatch: CommandLine, tmp_path: Path) -> None:
    lines = written(tmp_path / "orders.csv").read_text().splitlines()
    (tmp_path / "orders.csv").write_text("\n".join([lines[0], *reversed(lines[1:])]) + "\n")
    said = churnwatch("backtest", str(tmp_path / "orders.csv"))
    assert said.code == 6
    assert "is not sorted by time" in said.err


def test_a_horizon_is_proposed_with_the_gaps_that_it_was_chosen_from(
    churnwatch: CommandLine, orders: Path
) -> None:
    said = churnwatch("backtest", str(orders), "--suggest-horizon")
    assert said.code == 0
    assert "Proposed horizon: 28 days (4 weeks)." in said.out
    assert "75% within" in said.out
    assert "◄ horizon" in said.out
    told = churnwatch("backtest", str(orders), "--suggest-horizon", "--json").lines[0]
    assert told["horizon_days"] == 28
    assert told["rule"] == "least"


class _Page(HTMLParser):
    """Which sections a page has, and the attributes of its root."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.sections: list[str] = []
        self.drawings = 0
        self.rows = 0
        self.root: dict[str, str | None] = {}
        self.outside: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        of = dict(attrs)
        if tag == "html":
            self.root = of
        elif tag == "section":
            self.sections.append(of.get("id") or "")
        self.drawings += tag == "svg"
        self.rows += tag == "tr"
        self.outside += [
            value for name in ("src", "href") if (value := of.get(name)) and not value.startswith("#")
        ]


def shown(page: Path, script: str) -> _Page:
    """The page after a real browser has run it, ``script`` at its end."""
    chromium = shutil.which("chromium") or shutil.which("google-chrome")
    if chromium is None:
        pytest.skip("no chromium on the PATH")
    watch = '<script>addEventListener("error", e => document.documentElement.dataset.failed = e.message);</script>'
    text = (
        page.read_text()
        .replace("<head>", "<head>" + watch)
        .replace("</body>", f"<script>{script}</script></body>")
    )
    copy = page.with_name("watched.html")
    copy.write_text(text)
    command = [
        chromium,
        "--headless",
        "--no-sandbox",
        "--disable-gpu",
        "--dump-dom",
        "--virtual-time-budget=2000",
        copy.as_uri(),
    ]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
    return _Page(done.stdout)


def test_the_page_opens_in_a_browser_with_all_its_parts_and_no_error(folder: Path) -> None:
    another = """
      const choice = document.getElementById("monday-of");
      if (choice) { choice.selectedIndex = 0; choice.dispatchEvent(new Event("change")); }
      document.documentElement.dataset.done = "yes";
    """
    page = shown(folder / "report.html", another)
    assert page.root.get("data-done") == "yes"
    assert "data-failed" not in page.root
    assert page.sections == list(SECTIONS)
    assert page.drawings >= 8
    assert page.rows > 20


def test_the_page_draws_the_curve_of_every_input_that_was_learned(folder: Path) -> None:
    learned = json.loads((folder / "report.json").read_text())["learned"]["curves"]
    text = (folder / "report.html").read_text()
    section = text[text.index("<section id=learned>") : text.index("<section id=customers>")]
    titles = {html.escape(each["title"]) for each in learned}
    assert len(titles) > 5
    # The plots are text of their own in the page.
    assert {title for title in titles if title not in html.unescape(section)} == set()


def test_the_page_needs_nothing_from_outside(folder: Path) -> None:
    text = (folder / "report.html").read_text()
    assert _Page(text).outside == []
    assert not re.search(r"url\((?!#)", text)
    assert "@import" not in text
