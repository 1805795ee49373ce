"""Where a customer stands with the alert policy: what has been decided, and when to look again.

This is the part of the state that depends on when things were read; everything else in a customer
is a function of the events alone.
"""

from __future__ import annotations

import msgspec


class Episode(msgspec.Struct, array_like=True, frozen=True, gc=False):
    """An open episode. ``opened``: instant of its opening; ``band``: index of the band it stands in;
    ``ordinal``: transitions so far; ``since``: the last purchase when it opened; ``offers``: what an
    upsell episode offers, as ``type|category``."""

    opened: int
    band: int
    ordinal: int
    since: int
    offers: tuple[str, ...] = ()


class Standing(msgspec.Struct, array_like=True, gc=False):
    """Changed in place by the turn that has read it: ``at``: newest instant at which an event or a change was decided; ``sequence``: transitions so far; ``look``, ``cart_due``,
    ``complaint_due``, ``snapshot_due``, ``label_due``: deadlines (0: none); ``labelled``: instant up to which labels have matured; ``due``: the deadline that the sorted set holds (0: none); ``known``: fingerprint of the policy and model that decided
    last; ``history``: the last decision was history; ``written`` and ``written_band``: the score last
    written to ``customer-scores``; ``offered``: instant of the last upsell; ``warned``: instant at
    which the last churn episode opened; ``followed``: when the horizon of the last live warning's silence ends, while
    the customer has not come back (0: none); ``stake``: revenue at risk by the warning that stands, in minor units;
    ``expire_due``: deadline at which it is seen whether nothing was heard for so long that the customer is kept no
    longer; ``forgotten``: events up to this instant are passed over, at whose ``request`` (a hash)."""

    at: int = 0
    sequence: int = 0
    look: int = 0
    cart_due: int = 0
    complaint_due: int = 0
    due: int = 0
    known: int = 0
    history: bool = False
    written: float = -1.0
    written_band: int = -1
    churn: Episode | None = None
    upsell: Episode | None = None
    offered: int = 0
    warned: int = 0
    snapshot_due: int = 0
    label_due: int = 0
    labelled: int = 0
    followed: int = 0
    stake: int = 0
    expire_due: int = 0
    forgotten: int = 0
    request: bytes = b""

    def next_deadline(self) -> int:
        """The earliest deadline, 0 when there is none."""
        first = self.look
        if self.cart_due and (not first or self.cart_due < first):
            first = self.cart_due
        if self.complaint_due and (not first or self.complaint_due < first):
            first = self.complaint_due
        if self.snapshot_due and (not first or self.snapshot_due < first):
            first = self.snapshot_due
        if self.label_due and (not first or self.label_due < first):
            first = self.label_due
        if self.expire_due and (not first or self.expire_due < first):
            first = self.expire_due
        return first
