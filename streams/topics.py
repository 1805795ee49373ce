"""The topics by their logical names. The Kafka name is the prefix of the settings and this."""

from __future__ import annotations

from typing import Final

PURCHASES: Final = "purchases"
BROWSES: Final = "browses"
COMPLAINTS: Final = "complaints"
CONTACTS: Final = "contacts"
CUSTOMERS: Final = "customers"

ALERTS: Final = "alerts"
CUSTOMER_SCORES: Final = "customer-scores"
CUSTOMER_CHANGES: Final = "customer-changes"
TASKS: Final = "tasks"
DECISIONS: Final = "decisions"
DEAD_LETTERS: Final = "dead-letters"
EXAMPLES: Final = "examples"

MODELS: Final = "models"
BRAKES: Final = "brakes"
FORGOTTEN: Final = "forgotten"
SEGMENTS: Final = "segments"
PRODUCTS: Final = "products"

INPUTS: Final = (PURCHASES, BROWSES, COMPLAINTS, CONTACTS, CUSTOMERS)
"""Read, keyed by customer, all with the same number of partitions."""

OUTPUTS: Final = (ALERTS, CUSTOMER_SCORES, CUSTOMER_CHANGES, TASKS, DECISIONS, DEAD_LETTERS, EXAMPLES)
"""Written through the outbox, keyed by customer (``dead-letters``: by the original key, ``examples``: without)."""

INTERNAL: Final = (MODELS, BRAKES, FORGOTTEN, SEGMENTS, PRODUCTS)
"""Internal or shop-wide."""

SINGLE: Final = frozenset({EXAMPLES, *INTERNAL})
"""One partition each: one trainer learns, and everybody reads the whole of the others."""

ALL: Final = INPUTS + OUTPUTS + INTERNAL

COMPACTED: Final = frozenset({CUSTOMERS, CUSTOMER_SCORES, MODELS, BRAKES, FORGOTTEN, PRODUCTS})
"""Kafka keeps the newest record of each key; a null value clears the key."""

ONLY_ON_CUSTOMERS: Final = frozenset({"profile", "clock"})
"""The event types that a compacted input carries: any other would vanish in compaction."""

TOPIC_OF: Final = {
    "purchase": PURCHASES,
    "return": PURCHASES,
    "view": BROWSES,
    "search": BROWSES,
    "cart": BROWSES,
    "checkout": BROWSES,
    "review": BROWSES,
    "use": BROWSES,
    "complaint": COMPLAINTS,
    "complaint_update": COMPLAINTS,
    "inquiry": COMPLAINTS,
    "inquiry_update": COMPLAINTS,
    "survey": COMPLAINTS,
    "customer_lost": CONTACTS,
    "referral": CONTACTS,
    "profile": CUSTOMERS,
    "contact": CONTACTS,
    "alert_feedback": CONTACTS,
    "merge": CONTACTS,
    "forget": CONTACTS,
}
"""Where an event type usually travels. ``clock`` goes to every input and is not listed."""


def kafka_name(prefix: str, logical: str) -> str:
    """The name of a topic in Kafka."""
    return prefix + logical


def logical_name(prefix: str, kafka: str) -> str:
    """The logical name of a Kafka topic. Raises ValueError when it does not start with the prefix."""
    if not kafka.startswith(prefix):
        raise ValueError(f"topic {kafka!r} does not start with the prefix {prefix!r}")
    return kafka[len(prefix) :]
