"""How a process ends, and what ends a worker: nothing that waiting would heal."""

from __future__ import annotations

import enum


class Code(enum.IntEnum):
    """Exit codes. Each means the same for every command; docs/exit-codes.md says what to do."""

    meaning: str
    """A few words for the help."""

    def __new__(cls, value: int, meaning: str) -> Code:
        """A code with what it means."""
        code = int.__new__(cls, value)
        code._value_ = value
        code.meaning = meaning
        return code

    DONE = 0, "done"
    FAILED = 1, "failed"  # an error of ours, or a check that found something wrong
    USAGE = 2, "wrong usage or settings"  # or topics and state that do not fit together
    NOT_FOUND = 3, "not found"
    REDIS = 4, "Redis"
    KAFKA = 5, "Kafka"
    INPUT = 6, "a file, or the output"
    POISONED = 7, "nearly all records invalid"
    PORT = 8, "port taken"
    CUT_SHORT = 75, "ended while stopping"  # EX_TEMPFAIL: what was being done is void, try again
    INTERRUPTED = 130, "interrupted"  # 128 + SIGINT, as shells say it


class Unrecoverable(Exception):
    """The worker cannot go on until somebody acts; the message says what is wrong and what to do.

    ``code`` is the exit code of the process.
    """

    code: int = Code.FAILED


class LayoutRefused(Unrecoverable):
    """What Kafka has and what the state was built from do not fit together."""

    code = Code.USAGE


class StoreBroken(Unrecoverable):
    """Redis answers, and its answer will not change by asking again."""

    code = Code.REDIS


class KafkaBroken(Unrecoverable):
    """The brokers answer, and their answer will not change by asking again."""

    code = Code.KAFKA


class KafkaDenied(KafkaBroken):
    """The brokers know who we are, and do not allow what we ask."""
