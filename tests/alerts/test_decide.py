from __future__ import annotations

import pytest

from alerts import bands, decide
from alerts.decide import Score, Transition
from alerts.offers import Candidate
from alerts.policy import Policy
from features import matrix
from features.cold import CartItem, Cold
from features.customer import Customer
from features.shop import DAY, HOUR
from features.standing import Episode, Standing
from tests.application import day

POLICY = Policy()
AT = day(50)
BUYER = Customer(orders=3, last_purchase=day(40))
NOTHING = matrix.inputs([BUYER], [AT], 48.0)
OPEN = Episode(day(45), bands.MEDIUM, 1, day(40))


def score(churn: float, rise: float = 5.0, alive: float = 0.5) -> Score:
    return Score(churn, alive, rise, 0.0, (), 10.0, NOTHING, 0)


def churn(
    standing: Standing, value: Score, customer: Customer = BUYER, at: int = AT, policy: Policy = POLICY
) -> tuple[Episode | None, int, str | None]:
    episode, band, transition = decide.churn(standing, customer, value, at, policy)
    if transition:
        assert transition.kind == "churn"
        assert transition.band == band
    return episode, band, transition.name if transition else None


# ---- churn


def test_a_warning_needs_the_band_and_a_clear_rise() -> None:
    opened = Episode(AT, bands.MEDIUM, 1, day(40))
    assert churn(Standing(), score(0.6, POLICY.rise)) == (opened, bands.MEDIUM, "raised")
    assert churn(Standing(), score(0.599999, 9.0)) == (None, bands.LOW, None)
    assert churn(Standing(), score(0.95, POLICY.rise - 1e-6)) == (None, bands.HIGH, None)


def test_a_shop_may_warn_at_high_only() -> None:
    late = Policy(warn_at="high")
    assert churn(Standing(), score(0.7), policy=late) == (None, bands.MEDIUM, None)
    assert churn(Standing(), score(0.8), policy=late)[2] == "raised"


def test_a_lapsed_customer_is_no_news() -> None:
    assert churn(Standing(), score(0.99), at=day(40) + 400 * DAY) == (None, bands.LAPSED, None)


def test_an_episode_moves_between_bands_and_counts_its_transitions() -> None:
    standing = Standing(churn=OPEN)
    worse, band, name = churn(standing, score(0.85))
    assert (worse, band, name) == (Episode(day(45), bands.HIGH, 2, day(40)), bands.HIGH, "worsened")
    better, band, name = churn(Standing(churn=worse), score(0.7))
    assert (better, band, name) == (Episode(day(45), bands.MEDIUM, 3, day(40)), bands.MEDIUM, "improved")
    assert churn(Standing(churn=better), score(0.7)) == (better, bands.MEDIUM, None)


def test_an_episode_needs_no_rise_to_worsen_or_improve() -> None:
    assert churn(Standing(churn=OPEN), score(0.9, 0.0))[2] == "worsened"
    assert churn(Standing(churn=OPEN), score(0.2, 0.0))[2] == "improved"


def test_a_score_that_trembles_around_a_threshold_raises_one() -> None:
    standing, names = Standing(), []
    for number, value in enumerate([0.61, 0.59, 0.62, 0.56, 0.60, 0.55, 0.63, 0.58] * 5):
        episode, _, name = churn(standing, score(value), at=AT + number * HOUR)
        standing = Standing(churn=episode)
        names.append(name)
    assert names == ["raised"] + [None] * 39


def test_a_score_that_trembles_around_high_worsens_once() -> None:
    standing, names = Standing(churn=OPEN), []
    for value in [0.81, 0.79, 0.76, 0.82, 0.75, 0.80] * 3:
        episode, _, name = churn(standing, score(value))
        standing = Standing(churn=episode)
        names.append(name)
    assert [name for name in names if name] == ["worsened"]


def test_a_purchase_resolves_whatever_the_score_says() -> None:
    bought = Customer(orders=4, last_purchase=day(46))
    episode, band, name = churn(Standing(churn=OPEN), score(0.85), bought)
    assert (episode, band, name) == (None, bands.HIGH, "resolved")
    same = Customer(orders=4, last_purchase=day(40))
    assert churn(Standing(churn=OPEN), score(0.2), same)[2] == "improved"


def test_the_band_at_a_resolution_owes_nothing_to_the_episode() -> None:
    held = Episode(day(45), bands.HIGH, 2, day(40))
    bought = Customer(orders=4, last_purchase=AT)
    assert churn(Standing(churn=held), score(0.76), bought)[1] == bands.MEDIUM


def test_an_episode_expires_when_the_customer_has_lapsed() -> None:
    at = day(40) + 400 * DAY
    assert churn(Standing(churn=OPEN), score(0.99), at=at) == (None, bands.LAPSED, "expired")


def test_a_purchase_comes_before_lapsing() -> None:
    bought = Customer(orders=4, last_purchase=day(46))
    assert churn(Standing(churn=OPEN), score(0.99), bought, at=day(46) + 400 * DAY)[2] == "resolved"


def test_no_two_episodes_open_at_one_instant() -> None:
    assert churn(Standing(warned=AT), score(0.9)) == (None, bands.HIGH, None)
    assert churn(Standing(warned=AT), score(0.9), at=AT + 1)[2] == "raised"


# ---- upsell


CART = Cold(cart={"s1": CartItem(AT - 5 * HOUR)})
OFFER = Episode(AT - DAY, bands.LOW, 1, day(40), ("cart_abandoned|s1",))


def upsell(
    standing: Standing, customer: Customer = BUYER, cold: Cold = CART, band: int = bands.LOW, at: int = AT
) -> tuple[Episode | None, str | None]:
    episode, transition = decide.upsell(standing, customer, cold, band, at, POLICY)
    if transition:
        assert transition.kind == "upsell"
    return episode, transition.name if transition else None


def test_an_offer_opens_an_episode_with_what_is_offered() -> None:
    episode, name = upsell(Standing())
    assert name == "raised"
    assert episode == Episode(AT, bands.LOW, 1, day(40), ("cart_abandoned|s1",))


def test_without_an_offer_there_is_no_episode() -> None:
    assert upsell(Standing(), cold=Cold()) == (None, None)


def test_an_open_complaint_holds_offers_back_and_withdraws_the_one_that_stands() -> None:
    angry = Customer(orders=3, last_purchase=day(40), open_since=(day(49),))
    assert upsell(Standing(), angry) == (None, None)
    assert upsell(Standing(upsell=OFFER), angry) == (None, "withdrawn")


def test_so_does_a_high_risk_of_churn() -> None:
    for band in (bands.HIGH, bands.LAPSED):
        assert upsell(Standing(), band=band) == (None, None)
        assert upsell(Standing(upsell=OFFER), band=band) == (None, "withdrawn")
    assert upsell(Standing(), band=bands.MEDIUM)[1] == "raised"


def test_an_offer_stands_until_a_purchase_or_its_days_are_over() -> None:
    assert upsell(Standing(upsell=OFFER)) == (OFFER, None)
    bought = Customer(orders=4, last_purchase=day(41))
    assert upsell(Standing(upsell=OFFER), bought) == (None, "withdrawn")
    days = round(POLICY.offer_days * DAY)
    assert upsell(Standing(upsell=OFFER), at=OFFER.opened + days) == (OFFER, None)
    assert upsell(Standing(upsell=OFFER), at=OFFER.opened + days + 1) == (None, "withdrawn")


def test_offers_pause_after_the_last_one() -> None:
    pause = round(POLICY.offer_pause_days * DAY)
    assert upsell(Standing(offered=AT - pause + 1)) == (None, None)
    assert upsell(Standing(offered=AT - pause))[1] == "raised"


# ---- the measure


def warning(name: str, band: int = bands.HIGH) -> Transition:
    return Transition("churn", name, OPEN, band)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("customer", "band", "cause", "expected"),
    [
        (Customer(orders=1), bands.HIGH, "lost_rhythm", "second_order_incentive"),
        (Customer(orders=2), bands.HIGH, "lost_rhythm", "personal_offer"),
        (Customer(orders=2), bands.MEDIUM, "lost_rhythm", "reminder"),
        (Customer(orders=1, open_since=(1,)), bands.MEDIUM, "service", "service_recovery_call"),
    ],
)
def test_a_warning_has_the_measure_of_its_band_cause_and_customer(
    customer: Customer, band: int, cause: str, expected: str
) -> None:
    assert decide.action(warning("raised", band), customer, POLICY, cause) == expected
    assert decide.action(warning("worsened", band), customer, POLICY, cause) == expected


def test_other_transitions_need_no_measure() -> None:
    for name in ("improved", "resolved", "expired"):
        assert decide.action(warning(name), BUYER, POLICY) is None
    withdrawn = Transition("upsell", "withdrawn", OFFER, bands.LOW)
    assert decide.action(withdrawn, BUYER, POLICY) is None


def test_an_offer_has_the_measure_of_its_first_and_a_gap_in_the_table_is_no_measure() -> None:
    offers = (Candidate("cart_abandoned", "s1", 3.0, ""), Candidate("replenish", "tea", 1.0, ""))
    raised = Transition("upsell", "raised", OFFER, bands.LOW, offers)
    assert decide.action(raised, BUYER, POLICY) == "cart_reminder"
    assert decide.action(raised, BUYER, Policy(actions={})) is None
