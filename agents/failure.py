"""What ends the process: nothing that waiting would heal."""

from __future__ import annotations


class Unrecoverable(Exception):
    """The worker cannot go on until somebody acts; the message says what is wrong and what to do.

    ``code`` is the exit code of the process.
    """

    code = 1


class LayoutRefused(Unrecoverable):
    """What Kafka has and what the state was built from do not fit together."""

    code = 2


class StoreBroken(Unrecoverable):
    """Redis answers, and its answer will not change by asking again."""

    code = 4


class KafkaBroken(Unrecoverable):
    """The brokers answer, and their answer will not change by asking again."""

    code = 5
