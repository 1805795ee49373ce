from __future__ import annotations

import csv
import gzip
import json
import math
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pytest

from agents.commands.prior import UNTOLD
from agents.datasets import cache
from agents.files import Reading
from agents.prior import Curves, Purchases, TooLittle, backtest, estimate, gather, likelihoods, waits
from agents.settings import Settings
from agents.simulator import simulate
from features.matrix import Inputs
from features.shop import Calendar, Shop
from models.churn import RhythmScore
from models.snapshot import Prior
from streams.codec import Codec, encode
from streams.events import Line, Purchase, to_micros
from tests.agents.command_line import CommandLine

READING = Reading(Codec("USD", 2, {}, frozenset()), ordered=False)
RETAIL = Path(__file__).parents[3] / "shared" / "data" / "online_retail_II.csv.gz"


def shop_of_known_truth(
    customers: int, days: int, *, gap: float, within: float, between: float, a: float, b: float, seed: int = 5
) -> Purchases:
    """Customers who leave after each purchase with a probability of their own (Beta), and otherwise come again
    after a log-logistic time around a median of their own (log-normal)."""
    dice = np.random.Generator(np.random.PCG64(seed))
    found: dict[str, list[int]] = {}
    for number in range(customers):
        at = dice.uniform(0, days * 0.6)
        mine = math.log(gap) + dice.normal(0, between)
        leaves = dice.beta(a, b)
        bought = []
        while at < days:
            bought.append(int(at))
            if dice.uniform() < leaves:
                break
            at += max(1.0, math.exp(mine + dice.logistic(0, within * math.sqrt(3) / math.pi)))
        found[f"c{number}"] = bought
    return Purchases(found, 0, days)


def test_what_a_shop_was_made_of_is_found_again() -> None:
    shop = shop_of_known_truth(4000, 700, gap=25.0, within=0.6, between=0.5, a=1.0, b=3.0)
    found = estimate(shop)
    assert found.prior.gap_days == pytest.approx(25.0, rel=0.08)
    # Somewhat more: it makes up for customers with one gap, whose own deviation reads as none (docs/score.md).
    assert 1.0 < found.prior.spread / math.hypot(0.6, 0.5) < 1.25
    assert found.leaves == pytest.approx(0.25, abs=0.03)
    assert found.prior.defect_a + found.prior.defect_b == pytest.approx(4.0, rel=0.4)
    assert found.prior.strength == pytest.approx(0.6**2 / 0.5**2, rel=0.6)
    assert found.basis.customers == 4000
    assert found.basis.once == sum(len(set(days)) == 1 for days in shop.days.values())
    for name, value in (("gap_days", found.prior.gap_days), ("leaves", found.leaves)):
        low, high = found.intervals[name]
        assert low < value < high < 1.5 * low


@pytest.mark.parametrize("gap", [4.0, 60.0])
def test_pace_and_loyalty_are_told_apart(gap: float) -> None:
    loyal = shop_of_known_truth(1500, int(gap * 25), gap=gap, within=0.5, between=0.3, a=0.5, b=9.5)
    fickle = shop_of_known_truth(1500, int(gap * 25), gap=gap, within=0.5, between=0.3, a=3.0, b=3.0)
    for shop, leaves in ((loyal, 0.05), (fickle, 0.5)):
        found = estimate(shop)
        assert found.leaves == pytest.approx(leaves, abs=0.05)
        assert found.prior.gap_days == pytest.approx(gap, rel=0.15)


def test_a_file_that_ends_early_does_not_make_customers_faster() -> None:
    """The gaps that fit into a short file are the short ones: they must not be taken for all."""
    shop = shop_of_known_truth(3000, 900, gap=60.0, within=0.8, between=0.5, a=1.0, b=4.0)
    early = shop.until(250)
    seen = waits(early)
    naive = float(np.median(seen.days[seen.came]))
    found = estimate(early)
    assert naive < 45
    assert found.prior.gap_days == pytest.approx(60.0, rel=0.15)


def test_the_formulas_are_those_of_the_score() -> None:
    shop = shop_of_known_truth(200, 300, gap=20.0, within=0.7, between=0.4, a=1.0, b=2.0)
    prior = Prior(gap_days=17.0, spread=0.9, strength=2.5, defect_a=0.7, defect_b=1.9)
    rows = waits(shop).last_of_each()
    nothing = dict.fromkeys(Inputs._fields, np.zeros_like(rows.days))
    known = Inputs(**nothing)._replace(
        recency=rows.days,
        repeats=rows.repeats,
        gaps=rows.gaps,
        gap_mean=rows.mean,
        gap_variance=rows.variance,
        satisfaction=nothing["recency"] + 1.0,
    )
    scores = RhythmScore(prior, 28.0).score(known)
    curves = Curves(rows, prior)
    churn = curves.silent(rows.days + 28.0) / curves.silent(rows.days)
    assert churn == pytest.approx(scores.churn, abs=2e-6)
    assert np.all(likelihoods(rows, prior) == np.log(curves.silent(rows.days)))


def test_the_simulated_shop_is_found_as_it_is() -> None:
    shop = simulate(3, 1500, 300)
    first: dict[str, int] = {}
    days: dict[str, list[int]] = {}
    for event in shop:
        if isinstance(event, Purchase):
            at = to_micros(event.time)
            first.setdefault(event.customer, at)
            days.setdefault(event.customer, []).append(at // 86_400_000_000)
    purchases = Purchases(days, shop.start // 86_400_000_000, shop.end // 86_400_000_000)
    found = estimate(purchases)
    at_once = sum(d.last_purchase == first.get(c) for c, d in shop.truth.items()) / len(first)
    assert found.leaves == pytest.approx(at_once, abs=0.05)
    check = backtest(purchases, 28.0)
    assert check is not None
    assert check.expected[1] == pytest.approx(check.happened, abs=0.06)
    assert check.log_loss[1] < check.log_loss[0]


def test_cdnow_is_foretold_better_than_by_the_defaults() -> None:
    path = cache() / "CDNOW_master.txt"
    if not path.exists():
        pytest.skip(f"{path} is not there: `make demo` fetches it")
    purchases = gather(path, READING, Calendar(Shop()), lambda _: None)
    found = estimate(purchases)
    assert found.basis.customers == 23_502, "68 customers only got something for nothing"
    assert 0.3 < found.leaves < 0.45, "half bought once, and some of them would have come again"
    assert 80 < found.prior.gap_days < 140
    check = backtest(purchases, 84.0)
    assert check is not None
    assert check.expected[1] == pytest.approx(check.happened, abs=0.02)
    assert check.log_loss[1] < check.log_loss[0] - 0.03


def test_online_retail_is_foretold_better_than_by_the_defaults(tmp_path: Path) -> None:
    if not RETAIL.exists():
        pytest.skip(f"{RETAIL} is not there")
    part = tmp_path / "part.csv"
    with gzip.open(RETAIL, "rt", encoding="utf-8", newline="") as whole, part.open("w", newline="") as some:
        rows, written = csv.reader(whole), csv.writer(some)
        header = next(rows)
        written.writerow(header)
        place = header.index("customer_id")
        written.writerows(row for row in rows if row[place].endswith(("1", "6")))
    purchases = gather(part, READING, Calendar(Shop()), lambda _: None)
    found = estimate(purchases)
    assert found.basis.customers > 1000
    assert 60 < found.prior.gap_days < 140
    check = backtest(purchases, 84.0)
    assert check is not None
    assert check.log_loss[1] < check.log_loss[0] - 0.05


def test_with_too_little_it_says_what_is_missing() -> None:
    with pytest.raises(TooLittle) as caught:
        estimate(Purchases({"a": [1, 5], "b": [3]}, 1, 9))
    assert caught.value.missing == [
        "2 customers who bought; it takes 100",
        "1 customers who bought on two days or more; it takes 50",
        "1 gaps between purchase days; it takes 200",
        "8 days from the first to the last event; it takes 3 times the median gap, which is 4 days",
    ]
    with pytest.raises(TooLittle, match="0 customers"):
        estimate(Purchases({}, 0, 0))


def orders(path: Path, customers: int = 300) -> None:
    """A file of a shop, with orders for nothing, an order that is sent twice, and a return."""
    shop = shop_of_known_truth(customers, 200, gap=12.0, within=0.5, between=0.4, a=1.0, b=4.0)
    start = datetime(2025, 1, 1, 12, tzinfo=UTC)
    lines = []
    for customer, days in shop.days.items():
        for day in days:
            at = (start + timedelta(days=day)).isoformat().replace("+00:00", "Z")
            lines.append((at, f"purchase,{customer},{at},{customer}-{day},10"))
    lines.append(("2025-07-20T12:00:00Z", "return,c1,2025-07-20T12:00:00Z,r1,-10"))
    lines.append(("2025-07-20T12:00:01Z", "purchase,c2,2025-07-20T12:00:01Z,free,0"))
    header = "event_type,customer_id,ts,order_id,amount\n"
    path.write_text(header + "".join(line + "\n" for _, line in sorted(lines)))


def test_a_purchase_counts_as_the_worker_counts_it(tmp_path: Path) -> None:
    path = tmp_path / "orders.ndjson"
    moments = [datetime(2025, 1, day, 12, tzinfo=UTC) for day in (1, 1, 3, 5)]
    amounts = [(5.0,), (5.0,), (0.0,), (0.0, 2.0)]
    names = ["e1", "e1", "e2", "e3"]
    made = [
        Purchase(id=name, customer="ann", time=at, lines=tuple(Line(amount=a) for a in paid))
        for name, at, paid in zip(names, moments, amounts, strict=True)
    ]
    path.write_bytes(b"".join(encode(event) + b"\n" for event in made))
    found = gather(path, READING, Calendar(Shop()), lambda _: None)
    first = 20089  # 2025-01-01
    assert found == Purchases({"ann": [first, first + 4]}, first, first + 4)


def test_the_section_is_a_settings_file_that_holds_what_was_found(churnwatch: CommandLine) -> None:
    orders(Path("orders.csv"))
    said = churnwatch("prior", "orders.csv")
    assert said.code == 0, said.err
    Path("churnwatch.toml").write_text(said.out)
    prior = Settings.load(Path("churnwatch.toml")).prior
    told = json.loads(churnwatch("prior", "orders.csv", "--json").out)
    assert told["prior"] == {
        name: getattr(prior, name)
        for name in ("version", "gap_days", "spread", "strength", "defect_a", "defect_b")
    }
    assert prior.version.startswith("orders-")
    assert all(getattr(prior, name) == getattr(Prior(), name) for name in UNTOLD)
    assert told["customers"] == 300
    assert told["defaults"] == list(UNTOLD)
    assert "300 customers bought from 2025-01-01" in said.err
    assert "stay at their defaults" in said.err
    assert "Checked: estimated from the file up to" in said.err
    assert churnwatch("prior", "orders.csv").out == said.out, "the same orders give the same"


def test_it_writes_a_file_and_leaves_one_that_is_there_alone(churnwatch: CommandLine) -> None:
    orders(Path("orders.csv"))
    said = churnwatch("prior", "orders.csv", "--output", "prior.toml")
    assert (said.code, said.out) == (0, "")
    first = Path("prior.toml").read_text()
    assert churnwatch("prior", "orders.csv", "--output", "prior.toml").code == 2
    said = churnwatch("prior", "orders.csv", "--output", "prior.toml", "--force", "--until", "2026-06-30")
    assert said.code == 0
    assert Path("prior.toml").read_text() != first, "a year in which nobody came says that they are gone"
    assert churnwatch("prior", "orders.csv", "--until", "2025-02-01").code == 2


def test_what_cannot_be_used_is_explained(churnwatch: CommandLine) -> None:
    orders(Path("few.csv"), customers=40)
    said = churnwatch("prior", "few.csv")
    assert said.code == 6
    assert said.out == ""
    assert "40 customers who bought; it takes 100" in said.err
    assert "until then the defaults hold" in said.err
    said = churnwatch("prior", "nowhere.csv")
    assert said.code == 6
    assert "No such file" in said.err
    Path("bad.csv").write_text("event_type,customer_id,ts,amount\n" + "purchase,c1,yesterday,3\n" * 5)
    said = churnwatch("prior", "bad.csv")
    assert said.code == 6
    assert "line 2: ts: 'yesterday' is not a time" in said.err
    assert "5 rows refused" in said.err
