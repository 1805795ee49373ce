"""No valid input makes the engine raise, at the edges of time and money too."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from alerts.engine import ClockMode
from alerts.policy import Policy
from features.shop import DAY, Shop
from streams import events as ev
from streams.codec import MAX_AT, encode
from streams.topics import INPUTS
from tests.application import START, Application, Log

EDGES = st.sampled_from([0, 1, START, START + 1, START + DAY, MAX_AT - 1, MAX_AT])
TIMES = EDGES | st.integers(START, START + 900 * DAY) | st.integers(0, MAX_AT)
AMOUNTS = st.sampled_from([0.0, 0.001, 0.01, 9.99, 1e12])
NAMES = st.sampled_from([None, "", "tea", "sku:tea", "a|b", "\x00", "\U0001f600" * 128])
IDS = st.sampled_from(["1", "2", "\U0001f600" * 64]) | st.integers(0, 10**6).map(str)
CUSTOMERS = st.sampled_from(["ann", "bob", "clock", "\u00e9", "\U0001f600" * 128, " "])
LINES = st.lists(
    st.builds(ev.Line, amount=AMOUNTS, sku=NAMES, category=NAMES, list_price=st.none() | AMOUNTS),
    min_size=1,
    max_size=4,
).map(tuple)
STATUSES = st.sampled_from(["answered", "resolved", "reopened", "closed"])


def events() -> st.SearchStrategy[ev.Event]:
    common: dict[str, Any] = {
        "id": IDS,
        "customer": CUSTOMERS,
        "time": TIMES.map(ev.to_datetime),
        "history": st.booleans(),
    }
    return st.one_of(
        st.builds(ev.Purchase, **common, lines=LINES, order=NAMES, channel=NAMES, region=NAMES),
        st.builds(ev.Return, **common, lines=LINES),
        st.builds(ev.View, **common, sku=NAMES, category=NAMES),
        st.builds(ev.Search, **common),
        st.builds(
            ev.Cart,
            **common,
            action=st.sampled_from(["add", "remove"]),
            sku=NAMES,
            category=NAMES,
            amount=AMOUNTS,
        ),
        st.builds(ev.Checkout, **common, amount=AMOUNTS),
        st.builds(ev.Use, **common),
        st.builds(ev.Complaint, **common, complaint=IDS, kind=st.just("price")),
        st.builds(ev.ComplaintUpdate, **common, complaint=IDS, status=STATUSES),
        st.builds(ev.Inquiry, **common, inquiry=IDS, topic=NAMES),
        st.builds(ev.InquiryUpdate, **common, inquiry=IDS, status=STATUSES),
        st.builds(
            ev.Survey, **common, score=st.sampled_from([0.0, 1e-9, 1.0]), scale=st.sampled_from([1.0, 1e6])
        ),
        st.builds(ev.CustomerLost, **common),
        st.builds(ev.AlertFeedback, **common, alert=IDS, action=st.just("snoozed")),
        st.builds(ev.Profile, **common),
        st.builds(ev.Forget, **common),
    )


STEPS = st.lists(st.tuples(events(), st.sampled_from(INPUTS)) | TIMES, min_size=1, max_size=40)


@pytest.mark.parametrize("clock", ["record", "wall"])
@settings(derandomize=True, max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
@given(STEPS, st.sampled_from([1, 3, 2000]), st.sampled_from(["UTC", "America/St_Johns", "Pacific/Apia"]))
def test_whatever_is_valid_is_applied_or_refused(
    clock: ClockMode, steps: list[tuple[ev.Event, str] | int], batch: int, zone: str
) -> None:
    log = Log()
    application = Application(
        INPUTS,
        clock=clock,
        batch=batch,
        limit=batch,
        shop=Shop(time_zone=zone),
        policy=Policy(offer_pause_days=0.5),
    )
    for step in steps:
        if isinstance(step, int):
            log.tick(step, INPUTS)
            if clock == "wall":
                application.run(log.rows)
                application.sweep(max(step, application.partition.clock))
        else:
            event, topic = step
            log.raw(topic, event.customer.encode(), encode(event), timestamp=MAX_AT // 1000 + 1)
    application.run(log.rows)
    assert sum(application.partition.applied[t] + 1 for t in application.partition.applied) == len(log.rows)
    ids = [seen.alert.id for seen in application.seen()]
    assert len(ids) == len(set(ids))
    for key, hot in application.hot.items():
        application.engine.describe(key.decode(), hot, application.cold.get(key), START + 900 * DAY)
