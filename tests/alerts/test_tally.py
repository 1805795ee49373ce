"""What a partition knows of all its customers together is what a look through all of them would find."""

from __future__ import annotations

from collections import Counter
from math import log

import pytest

from alerts import bands
from alerts.outlook import stage
from alerts.policy import Policy
from alerts.tally import STAGES, TENTHS, WEEK, WINDOW, Change, Tally, Warned, psi, together
from features.shop import DAY
from models.learning import Learning
from streams.topics import INPUTS, PURCHASES
from tests.application import START, Application, Log, day
from tests.laws import mix

HORIZON = 14


def recounted(application: Application) -> Tally:
    """The tally by brute force, but for what lies in the past."""
    customers = [application.customer(key) for key in application.hot]
    standings = [customer.standing for customer in customers]
    in_bands = Counter(s.written_band for s in standings)
    stages = Counter(
        stage(c.orders, c.standing.written_band, c.standing.churn is not None) or "repeat" for c in customers
    )
    tenths = Counter(min(int(s.written * TENTHS), TENTHS - 1) for s in standings if s.written_band >= 0)
    waiting = Counter(p.at // DAY for key in application.cold for p in application.habits(key).pending)
    known = application.partition.tally
    return Tally(
        customers=len(customers),
        hot=sum(map(len, application.hot.values())),
        cold=sum(map(len, application.cold.values())),
        bands=tuple(in_bands[band] for band in range(len(bands.NAMES))),
        stages=tuple(stages[name] for name in STAGES),
        tenths=tuple(tenths[number] for number in range(TENTHS)),
        stake=sum(s.stake for s in standings),
        before=known.before,
        pending=dict(sorted(waiting.items())),
        warned=known.warned,
    )


@pytest.mark.parametrize("only", [PURCHASES, None], ids=["one topic", "all topics"])
def test_the_tally_is_what_a_look_through_all_customers_finds_after_kills_too(only: str | None) -> None:
    rows = mix.shop(3, only=only, history_days=10, customers=12, days=60).rows
    inputs = (only,) if only else INPUTS
    learning = Learning(snapshot_days=7, horizons=(7.0,))

    def kills(commit: int) -> str | None:
        return {0: "before", 1: "after"}.get(commit % 53)

    application = Application(
        inputs,
        batch=23,
        policy=Policy(horizon_days=HORIZON, rise=0.3, medium=0.4, high=0.7),
        learning=learning,
        crash=kills,  # type: ignore[arg-type]  # a function of that type
    )
    assert application.run_through_crashes(rows) > 5
    tally = application.partition.tally
    assert tally == recounted(application)
    assert tally.customers == 12
    assert sum(tally.bands) == sum(tally.tenths) == sum(tally.stages) - tally.stages[0]
    assert sum(tally.pending.values()) > 0
    # The same without kills, in other batches: it is a function of the log.
    plain = Application(inputs, batch=500, policy=application.policy, learning=learning).run(rows)
    assert plain.partition.tally.before == tally.before
    assert plain.partition.tally.warned == tally.warned
    assert plain.partition.tally.bands == tally.bands


def warned(application: Application) -> Warned:
    total = Warned()
    for some in application.partition.tally.warned.values():
        total = total.plus(some)
    return total


def silent_customer() -> tuple[Log, Application]:
    """One who bought every day and then stopped; the application has been told of ten days of silence."""
    log = Log(PURCHASES)
    for number in range(20):
        log.purchase("anna", day(number))
    log.tick(day(29))
    policy = Policy(horizon_days=HORIZON, rise=0.3)
    return log, Application(policy=policy).run(log.rows)


def test_a_warning_is_right_when_the_silence_lasts_for_the_horizon() -> None:
    log, application = silent_customer()
    raised = [seen.alert.decided_at for seen in application.seen() if seen.step == "churn.raised"]
    ends = day(19) + HORIZON * DAY
    assert len(raised) == 1
    lead = (ends - raised[0]) // 1_000_000
    assert warned(application) == Warned(1, 0, lead, 0)
    assert together([(application.partition.tally, application.partition.clock)]).open == 1
    matures = (ends // WEEK + 1) * WEEK
    for clock, open_, right in ((matures - 1, 1, 0), (matures, 0, 1), (matures + WINDOW * WEEK - 1, 0, 1)):
        log.tick(clock)
        application.run(log.rows)
        population = together([(application.partition.tally, application.partition.clock)])
        assert (population.open, population.matured.warnings) == (open_, right)
    assert population.matured == Warned(1, 0, lead, 0)
    log.tick(matures + (WINDOW + 1) * WEEK)
    application.run(log.rows)
    assert application.partition.tally.warned == {}


def test_a_warning_is_wrong_when_the_customer_comes_back_within_the_horizon() -> None:
    log, application = silent_customer()
    log.purchase("anna", day(19 + HORIZON))  # at the last instant
    log.tick(day(40))
    application.run(log.rows)
    found = warned(application)
    assert (found.warnings, found.wrong) == (1, 1)
    assert found.wrong_lead == found.lead > 0


@pytest.mark.parametrize("late", [19 + HORIZON + 0.01, 18.5])
def test_a_purchase_after_the_horizon_or_before_the_silence_makes_no_warning_wrong(late: float) -> None:
    log, application = silent_customer()
    log.purchase("anna", day(late))
    log.tick(day(40))
    assert warned(application.run(log.rows)).wrong == 0
    assert warned(application).warnings == 1


def test_a_warning_out_of_an_archive_is_not_followed() -> None:
    log = Log(PURCHASES)
    for number in range(20):
        log.purchase("anna", day(number), history=True)
    log.tick(day(60), history=True)
    application = Application(policy=Policy(horizon_days=HORIZON, rise=0.3)).run(log.rows)
    assert "churn.raised" in application.steps()
    assert warned(application) == Warned()


def test_the_stability_index_is_that_of_the_textbook() -> None:
    now, before = [10, 20, 30, 40, 0, 0, 0, 0, 0, 0], [40, 30, 20, 10, 0, 0, 0, 0, 0, 0]
    a = [(n + 0.5) / 105 for n in now]
    e = [(n + 0.5) / 105 for n in before]
    assert psi(now, before) == pytest.approx(sum((x - y) * log(x / y) for x, y in zip(a, e, strict=True)))
    assert psi(now, before) > 0.25
    assert psi(now, now) == psi([0] * 10, [0] * 10) == 0


def test_scores_are_compared_with_those_of_four_weeks_ago() -> None:
    tally = Tally(tenths=(1,) + (0,) * 9)
    clock = START // WEEK * WEEK
    assert tally.until(0, clock).before == {}, "nobody has been looked at yet"
    tally = tally.until(clock - 1, clock)
    for week in range(1, 9):
        change = Change()
        change.tenths[1] = 1
        tally = change.of(tally).until(clock + (week - 1) * WEEK, clock + week * WEEK)
        assert len(tally.before) <= WINDOW + 1
        reference = max(0, week - WINDOW)
        assert together([(tally, clock + week * WEEK)]).before == (1, reference) + (0,) * 8
    # A clock that stood still for a year: what was before is still the only thing to compare with.
    tally = tally.until(clock + 8 * WEEK, clock + 60 * WEEK)
    assert together([(tally, clock)]).before == (1, 8) + (0,) * 8


def test_the_oldest_label_is_never_called_older_than_it_is() -> None:
    tally = Tally(pending={START // DAY: 2, START // DAY + 3: 1})
    population = together([(tally, START + 5 * DAY), (Tally(), START + 9 * DAY)])
    assert (population.pending, population.oldest) == (3, 4 * DAY)
    assert together([(tally, START)]).oldest == 0
