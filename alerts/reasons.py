"""Why a customer is at risk: the groups of evidence, strongest first, each with what is usual."""

from __future__ import annotations

from features import decay
from features.customer import Customer
from features.shop import DAY, HOUR
from streams.alerts import Reason

_LEAST = 0.005
"""Log-odds below which a group is not worth a sentence."""


def reasons(
    customer: Customer, at: int, contributions: tuple[float, ...], usual_days: float, overdue_hours: float
) -> tuple[Reason, ...]:
    """One reason per group that counts, by the size of its contribution (log-odds of churn).

    ``contributions`` in the order of ``models.churn.GROUPS``.
    """
    silence, complaint, browsing, satisfaction, lost = contributions
    found: list[Reason] = []
    if abs(silence) >= _LEAST:
        days = max(at - customer.last_purchase, 0) / DAY
        text = f"No purchase for {days:.0f} days; {usual_days:.0f} days are usual for this customer."
        found.append(_reason("recency_days", days, usual_days, silence, text))
    if abs(complaint) >= _LEAST:
        opened = len(customer.open_since)
        if opened:
            hours = (at - customer.open_since[0]) / HOUR
            late = " and is overdue" if hours >= overdue_hours else ""
            text = f"A complaint has been open for {hours:.0f} hours{late}."
            found.append(_reason("open_complaints", opened, 0.0, complaint, text))
        else:
            days = (at - customer.closed_at) / DAY
            text = f"A complaint ended {days:.0f} days ago."
            found.append(_reason("days_since_complaint", days, None, complaint, text))
    if abs(browsing) >= _LEAST:
        _, month, quarter = decay.value(customer.browsed, customer.last_browse, at)
        text = f"Browsing in the last weeks counts {month:.1f}, usual are {quarter / 3:.1f}."
        found.append(_reason("browsing_30d", month, quarter / 3, browsing, text))
    if abs(satisfaction) >= _LEAST:
        text = f"The last survey answer was {customer.satisfaction:.0%} of its scale."
        found.append(_reason("satisfaction", customer.satisfaction, None, satisfaction, text))
    if abs(lost) >= _LEAST:
        found.append(_reason("said_lost", 1.0, 0.0, lost, "The customer said that they are leaving."))
    return tuple(sorted(found, key=lambda reason: (-abs(reason.contribution or 0.0), reason.feature)))


def _reason(feature: str, value: float, usual: float | None, contribution: float, text: str) -> Reason:
    if usual is None:
        return Reason(feature=feature, value=round(value, 6), contribution=round(contribution, 6), text=text)
    return Reason(
        feature=feature,
        value=round(value, 6),
        usual=round(usual, 6),
        contribution=round(contribution, 6),
        text=text,
    )
