from __future__ import annotations

from random import Random

import numpy as np
import pytest

from features import matrix
from features.customer import EMPTY_COLD, Applied, Customer, apply
from features.shop import DAY, Calendar, Shop
from models.churn import RhythmScore, Scores
from models.snapshot import Prior
from streams.codec import Decoded
from tests.application import Application, day
from tests.laws import mix


def customers() -> list[Customer]:
    """A few hundred different states, as the shop leaves them."""
    application = Application()
    calendar = Calendar(Shop())
    states: dict[str, Applied] = {}
    found: list[Customer] = []
    for row in mix.shop(6, customers=30, days=80, only="purchases").rows:
        item = application.codec.decode(row)
        if isinstance(item, Decoded):
            before = states.get(item.customer, Applied(Customer(), EMPTY_COLD))
            after = states[item.customer] = apply(before.customer, before.cold, item, 0, calendar)
            found.append(after.customer)
    return [customer for customer in found if customer.orders]


def rows(inputs: matrix.Inputs, scores: Scores, place: int) -> list[bytes]:
    columns = [*inputs, scores.churn, scores.alive, scores.base, scores.logit, *scores.contributions]
    return [np.float64(column[place]).tobytes() for column in [*columns, scores.usual_days]]


def test_a_row_is_bit_equal_alone_and_among_two_thousand_whatever_its_place() -> None:
    random = Random(3)
    states = customers()
    crowd = [random.choice(states) for _ in range(2_000)]
    at = [day(90) + random.randrange(300 * DAY) for _ in crowd]
    model = RhythmScore(Prior(), 28.0)
    together = matrix.inputs(crowd, at, 48.0)
    scores = model.score(together)
    for first, size in ((0, 2_000), (0, 1), (1, 3), (5, 7), (3, 64), (17, 1_000), (1_999, 1)):
        some = matrix.inputs(crowd[first : first + size], at[first : first + size], 48.0)
        part = model.score(some)
        for place in range(size):
            assert rows(some, part, place) == rows(together, scores, first + place), (first, size, place)
    for place in random.sample(range(2_000), 150):
        alone = matrix.inputs([crowd[place]], [at[place]], 48.0)
        assert rows(alone, model.score(alone), 0) == rows(together, scores, place)


def test_inputs_are_what_they_say() -> None:
    customer = Customer(
        orders=3,
        last_purchase=day(10),
        last_browse=day(12),
        browsed=(9.0, 2.0, 9.0),
        open_since=(day(11), day(19)),
        closed_at=day(5),
        satisfaction=0.25,
        lost_at=day(11),
    )
    x = matrix.inputs([customer], [day(20)], 48.0)
    assert x.recency[0] == pytest.approx(10.0)
    assert x.repeats[0] == 2
    assert x.browsed_30[0] == pytest.approx(2.0 * 0.5 ** (8 / 30))
    assert (x.open_complaints[0], x.overdue_complaints[0], x.recent_complaint[0]) == (2, 1, 1)
    assert (x.satisfaction[0], x.said_lost[0]) == (0.25, 1)


def test_a_customer_of_whom_nothing_is_known_weighs_nothing() -> None:
    x = matrix.inputs([Customer(orders=1, first_purchase=day(1), last_purchase=day(1))], [day(1)], 48.0)
    weighing = {name: float(column[0]) for name, column in zip(matrix.NAMES, x, strict=True) if column[0]}
    assert weighing == {"satisfaction": 1.0}


def test_a_complaint_is_overdue_at_the_instant_and_recent_until_thirty_days() -> None:
    at = day(50)
    customer = Customer(orders=1, last_purchase=day(1), open_since=(at - 2 * DAY, at - 2 * DAY + 1))
    assert matrix.inputs([customer], [at], 48.0).overdue_complaints[0] == 1
    for closed, recent in ((at - 30 * DAY, 0), (at - 30 * DAY + 1, 1), (0, 0)):
        customer = Customer(orders=1, last_purchase=day(1), closed_at=closed)
        assert matrix.inputs([customer], [at], 48.0).recent_complaint[0] == recent


def test_an_instant_before_the_last_purchase_is_no_silence() -> None:
    x = matrix.inputs(
        [Customer(orders=1, last_purchase=day(5), last_browse=day(5), browsed=(1, 1, 1))], [day(4)], 48.0
    )
    assert x.recency[0] == 0
    assert x.browsed_30[0] == 1
