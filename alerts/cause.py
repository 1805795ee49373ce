"""What to act on: the cause behind a risk of churn, by a rule that anybody can follow.

A warning nearly always rests on silence; silence is what a customer does, not why. So what points to a cause
is heard first, and silence explains itself only where nothing else does:

1. The customer named a competitor and has not bought since: ``competitor``.
2. A complaint is open, or one that has ended weighs (group ``complaint`` adds at least ``WEIGHS``): the cause is
   its kind, of several complaints that of the weightiest (``alerts.reasons.weightiest``); ``other`` is a matter
   of service.
3. Of the other groups that point to a cause (``POINTS``), those that add at least ``WEIGHS``: what they add is
   summed by cause, and the greatest sum holds; of equal sums the cause that stands first in ``CAUSES``.
4. A category has stopped while others went on, and was at least ``ABANDONED`` of what the customer bought: a
   ``competitor`` is suspected, also where the model has no weight for it.
5. ``lost_rhythm``: the customer has fallen out of step, and nothing says why.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final, Literal, TypeAlias, get_args

from alerts.reasons import Evidence, weightiest
from features.cold import Case
from features.customer import Customer

Cause: TypeAlias = Literal["product", "service", "price", "delivery", "competitor", "lost_rhythm"]
CAUSES: Final[tuple[Cause, ...]] = get_args(Cause)
WEIGHS: Final = 0.1
"""Log-odds from which a group points to its cause: enough to move 50 % to 52.5 %."""
ABANDONED: Final = 0.25
"""The share of purchases from which an abandoned category points to a competitor by itself."""
POINTS: Final[Mapping[str, Cause]] = {
    "returns": "product",
    "search": "product",
    "satisfaction": "service",
    "discount": "price",
    "category": "competitor",
}
"""The groups that point to a cause beside complaints; all others say that a rhythm is lost."""
_OF_KIND: Final[Mapping[str, Cause]] = {
    "product": "product",
    "service": "service",
    "price": "price",
    "delivery": "delivery",
}


def cause(evidence: Evidence) -> Cause:
    """The cause by the rule of this module, for what a score rests on."""
    weights = dict(zip(evidence.groups, evidence.contributions, strict=True))
    return judged(evidence.customer, evidence.cold.complaints, weights, float(evidence.x.abandoned[0]))


def judged(
    customer: Customer, complaints: Mapping[str, Case], weights: Mapping[str, float], abandoned: float
) -> Cause:
    """The same, part by part.

    ``complaints`` by their ids; ``weights``: what each group of evidence added, in log-odds; ``abandoned``: the
    input of that name.
    """
    signals = customer.signals
    if signals is not None and signals.competitor_at > customer.last_purchase:
        return "competitor"
    complaint = weightiest(complaints)
    if complaint is not None and (complaint.open or weights.get("complaint", 0.0) >= WEIGHS):
        return _OF_KIND.get(complaint.kind, "service")
    sums = dict.fromkeys(CAUSES, 0.0)
    for group, points_to in POINTS.items():
        weight = weights.get(group, 0.0)
        if weight >= WEIGHS:
            sums[points_to] += weight
    strongest = max(CAUSES, key=lambda each: sums[each])
    if sums[strongest] > 0.0:
        return strongest
    return "competitor" if abandoned >= ABANDONED else "lost_rhythm"
