"""The least that each role needs of Kafka and of Redis, made from the topics, groups and keys that the code uses.

What is printed for administrators, what ``doctor`` looks for and what the tests grant to real servers is all made
here, so that none of it can say something else than the others.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping, Sequence
from typing import Final, NamedTuple

from agents.settings import Settings
from streams import topics


class Role(enum.StrEnum):
    """What somebody is there for. Each is a user of its own, or shares one with others that may do no more."""

    WORKER = "worker"
    TRAINER = "trainer"
    PRODUCER = "producer"
    CONSUMER = "consumer"
    READER = "reader"
    OPERATOR = "operator"
    ERASER = "eraser"
    PROVISIONER = "provisioner"


MEANINGS: Final[Mapping[Role, str]] = {
    Role.WORKER: "churnwatch worker",
    Role.TRAINER: "churnwatch trainer; a worker with worker.trainer = true has both roles",
    Role.PRODUCER: "your systems that write events, and churnwatch send",
    Role.CONSUMER: "your systems that react to alerts, scores and tasks",
    Role.READER: "commands that change nothing: status, doctor, alerts, explain, customers, customer, export, dlq list, model show",
    Role.OPERATOR: "those, and commands that change something: dlq replay, forget, model pin, alerts pause, import, backup, restore",
    Role.ERASER: "churnwatch forget whole: dead letters and Redis' files too, for which it may drop that topic's records",
    Role.PROVISIONER: "churnwatch topics create",
}

COMMANDS: Final[Mapping[str, Role]] = {
    "worker": Role.WORKER,
    "trainer": Role.TRAINER,
    "send": Role.PRODUCER,
    "alerts": Role.READER,
    "explain": Role.READER,
    "customers": Role.READER,
    "customer": Role.READER,
    "status": Role.READER,
    "doctor": Role.READER,
    "dlq list": Role.READER,
    "dlq show": Role.READER,
    "dlq replay": Role.OPERATOR,
    "policy preview": Role.READER,
    "export": Role.READER,
    "forget": Role.OPERATOR,
    "model list": Role.READER,
    "model show": Role.READER,
    "model diff": Role.READER,
    "model pin": Role.OPERATOR,
    "model unpin": Role.OPERATOR,
    "model rollback": Role.OPERATOR,
    "alerts pause": Role.OPERATOR,
    "alerts resume": Role.OPERATOR,
    "import": Role.OPERATOR,
    "backup": Role.OPERATOR,
    "restore": Role.OPERATOR,
    "accept-loss": Role.OPERATOR,
    "topics create": Role.PROVISIONER,
}
"""The commands that touch servers, and the least role that may give them."""


class Resource(enum.StrEnum):
    """What a right of Kafka is about."""

    TOPIC = "topic"
    GROUP = "group"


class Right(NamedTuple):
    """Of Kafka: operations, in the words of its ACLs, on a topic or group; with ``prefixed`` on all whose names begin
    so. READ and WRITE imply DESCRIBE."""

    operations: tuple[str, ...]
    resource: Resource
    name: str
    prefixed: bool = False


class Access(NamedTuple):
    """Of Redis: patterns of keys, and commands (``config|get``: one of the commands below ``config``)."""

    keys: tuple[str, ...]
    commands: tuple[str, ...]


FOR_CONSUMERS: Final = (topics.ALERTS, topics.CUSTOMER_SCORES, topics.CUSTOMER_CHANGES, topics.TASKS)
"""What is written for other systems; the rest is for those who run this one."""

FOLLOWED: Final = (topics.BRAKES, topics.MODELS)
"""What every worker reads whole; the second only where it learns."""

OWNED: Final = (
    "get", "set", "type", "exists", "hget", "hgetall", "hmget", "hset", "hdel", "hincrby", "hscan", "zadd", "zrem", "zmscore", "zcard", "zcount",
    "zrange", "zrangebyscore", "xadd", "xdel", "xlen", "xrange", "unlink", "multi", "exec", "evalsha", "script|load", "info",
)  # fmt: skip
"""What a worker runs on the partitions that it owns, in its scripts too."""

LOOKED: Final = (
    "get", "hget", "hgetall", "hmget", "hlen", "hscan", "zcard", "zcount", "zrange", "xlen", "xrange", "info", "time",
    "config|get",
)  # fmt: skip
"""What commands run that change nothing."""

REWRITTEN: Final = ("bgrewriteaof", "bgsave")
"""What ``forget --rewrite`` runs, so that nothing is left in Redis' files."""

KEPT: Final = ("del", "rename", "persist", "pexpire", "zscan", "xrevrange")
"""What ``import``, ``backup`` and ``restore`` run beside these."""


RIGHTS: Final = "churnwatch doctor names what is missing, churnwatch acl kafka prints the commands that give each role what it needs."
"""What is said to who lacks a right in Kafka."""

READING_GROUP: Final = "churnwatch-reader"
"""What commands that read call their group: their client asks for its coordinator, and none ever joins it."""


def user_of(settings: Settings, role: Role) -> str:
    """How a role's user is called unless said otherwise."""
    return f"{settings.application}-{role.value}"


def kafka(settings: Settings, role: Role, user: str = "") -> list[Right]:
    """What a role needs of Kafka. ``user``: its name, by which the groups of a consumer begin."""
    inputs = settings.kafka.inputs
    group = settings.group
    match role:
        case Role.WORKER:
            wanted = [
                kafka(settings, Role.TRAINER) if settings.worker.trainer else [],
                _topics(settings, inputs, "READ"),
                _topics(settings, topics.OUTPUTS, "WRITE"),
                _topics(settings, FOLLOWED if settings.learning.enabled else FOLLOWED[:1], "READ"),
                _erasing(settings) if settings.privacy.key is not None else [],
                [Right(("READ",), Resource.GROUP, group)],
            ]
        case Role.TRAINER:
            wanted = [
                _topics(settings, (topics.EXAMPLES,), "READ"),
                _topics(settings, (topics.MODELS, topics.DEAD_LETTERS), "WRITE"),
                [Right(("READ",), Resource.GROUP, settings.trainers_group)],
            ]
        case Role.PRODUCER:
            wanted = [_topics(settings, inputs, "WRITE")]
        case Role.CONSUMER:
            wanted = [
                _topics(settings, FOR_CONSUMERS, "READ"),
                [Right(("READ",), Resource.GROUP, user or user_of(settings, role), prefixed=True)],
            ]
        case Role.READER | Role.OPERATOR | Role.ERASER:
            read = _topics(settings, _all(settings), "READ", "DESCRIBE_CONFIGS")
            if role is Role.OPERATOR:
                read = _with(read, _topics(settings, (*inputs, *FOLLOWED), "WRITE"))
            if role is Role.ERASER:
                read = _with(read, _topics(settings, inputs, "WRITE"))
                read = _with(read, _topics(settings, (topics.DEAD_LETTERS,), "WRITE", "DELETE"))
            wanted = [
                read,
                [
                    Right(("DESCRIBE",), Resource.GROUP, name)
                    for name in (group, settings.trainers_group, READING_GROUP)
                ],
            ]
        case Role.PROVISIONER:
            wanted = [_topics(settings, _all(settings), "CREATE", "DESCRIBE", "DESCRIBE_CONFIGS")]
    return [right for some in wanted for right in some]


def redis(settings: Settings, role: Role) -> Access | None:
    """What a role needs of Redis; None: nothing, not even a user."""
    from agents.store import trainer_of  # noqa: PLC0415 -- Redis' client takes its time, and most commands do without

    own = keys_of(settings.application)
    learned = keys_of(trainer_of(settings.application))
    every = _connecting(settings)
    match role:
        case Role.WORKER:
            return Access(own + learned if settings.worker.trainer else own, OWNED + every)
        case Role.TRAINER:
            return Access(learned, OWNED + every)
        case Role.READER:
            return Access(own + learned, LOOKED + every)
        case Role.ERASER:
            return Access(own + learned, LOOKED + REWRITTEN + every)
        case Role.OPERATOR:
            everything = (f"{settings.application}:*", f"{{{settings.application}:*}}:*")
            return Access(everything, tuple(dict.fromkeys(OWNED + LOOKED + KEPT + every)))
        case Role.PRODUCER | Role.CONSUMER | Role.PROVISIONER:
            return None


def keys_of(application: str) -> tuple[str, ...]:
    """Patterns of the keys of an application. Its name has no character that a pattern would take for a sign."""
    return f"{application}:layout", f"{{{application}:p*}}:*"


def _connecting(settings: Settings) -> tuple[str, ...]:
    """What a client asks while it connects, beside who it is."""
    if settings.redis.cluster:
        return "cluster|slots", "command"
    return () if settings.redis.database == 0 else ("select",)


def _all(settings: Settings) -> tuple[str, ...]:
    return (*settings.kafka.inputs, *topics.OUTPUTS, *topics.INTERNAL)


def _topics(settings: Settings, names: Sequence[str], *operations: str) -> list[Right]:
    return [Right(operations, Resource.TOPIC, settings.kafka.topic(name)) for name in names]


def _erasing(settings: Settings) -> list[Right]:
    """What a worker needs that forgets customers: the list of those, and null values for their profiles."""
    profiles = [topics.CUSTOMERS] if topics.CUSTOMERS in settings.kafka.inputs else []
    return [
        *_topics(settings, [topics.FORGOTTEN], "READ", "WRITE"),
        *_topics(settings, profiles, "WRITE"),
    ]


def _with(rights: list[Right], more: list[Right]) -> list[Right]:
    """Rights with the operations of others on the same."""
    added = {right.name: right.operations for right in more}
    return [right._replace(operations=(*right.operations, *added.get(right.name, ()))) for right in rights]


# ---- as administrators give them


def acl_commands(
    rights: Sequence[Right], principal: str, brokers: Sequence[str], config: str
) -> list[list[str]]:
    """The words of Kafka's own ``kafka-acls.sh``, one command for those that have the same operations.

    ``config``: a file with how its administrator logs in.
    """
    together: dict[tuple[tuple[str, ...], Resource, bool], list[str]] = {}
    for right in rights:
        together.setdefault((right.operations, right.resource, right.prefixed), []).append(right.name)
    commands = []
    for (operations, resource, prefixed), names in together.items():
        words = [
            "kafka-acls.sh",
            "--bootstrap-server",
            ",".join(brokers),
            "--command-config",
            config,
            "--add",
        ]
        words += ["--allow-principal", principal]
        for operation in operations:
            words += ["--operation", "".join(part.capitalize() for part in operation.split("_"))]
        for name in names:
            words += [f"--{resource.value}", name]
        if prefixed:
            words += ["--resource-pattern-type", "prefixed"]
        commands.append(words)
    return commands


def acl_user(access: Access, user: str, password: str = "") -> str:
    """One line of Redis' file of users. ``password``: its SHA-256 in hex; without one the user is off."""
    entry = f"on #{password}" if password else "off"
    return f"user {user} reset resetchannels {entry} {acl_rules(access)}"


def acl_rules(access: Access) -> str:
    """Keys and commands, as ``ACL SETUSER`` takes them."""
    return " ".join([*(f"~{pattern}" for pattern in access.keys), *(f"+{name}" for name in access.commands)])
