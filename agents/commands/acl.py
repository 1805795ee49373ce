"""``churnwatch acl``: the rights that each role needs, as an administrator gives them to Kafka and to Redis."""

from __future__ import annotations

import hashlib
import shlex
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated

import typer

from agents.commands.shell import Code, Failure, examples, shell
from agents.privileges import Role, acl_commands, acl_user, kafka, redis, user_of

EPILOG_KAFKA = examples(
    "churnwatch acl kafka                              of all roles, for users called churnwatch-worker and so on",
    "churnwatch acl kafka worker trainer               of two roles",
    "churnwatch acl kafka worker --user worker=shop1   for a user who is there already",
    "churnwatch acl kafka > acls.sh && bash acls.sh    with Kafka's bin folder on the PATH, as its administrator",
)
EPILOG_REDIS = examples(
    "churnwatch acl redis > users.acl                                   a whole file of users (aclfile)",
    "churnwatch acl redis worker --password-file worker=/run/secrets/redis   with the hash of a password",
)

Roles = Annotated[
    list[Role] | None, typer.Argument(metavar="[ROLE]...", help="Only these; all.", show_default=False)
]
Users = Annotated[
    list[str] | None,
    typer.Option("--user", metavar="ROLE=NAME", help="How a role's user is called; APPLICATION-ROLE."),
]


def acl_kafka(
    context: typer.Context,
    roles: Roles = None,
    users: Users = None,
    config: Annotated[
        str, typer.Option("--command-config", help="A file with how Kafka's administrator logs in.")
    ] = "admin.properties",
) -> None:
    """Print commands (kafka-acls.sh) that give each role what it needs of Kafka, and nothing more.

    Made from these settings: topics, their prefix, the consumer group. Nothing is
    connected to. The broker's authorizer must be on, or everybody may do all.
    """
    settings = shell(context).settings
    names = _named(users, "--user")
    for role in roles or list(Role):
        user = names.get(role, user_of(settings, role))
        for words in acl_commands(
            kafka(settings, role, user), f"User:{user}", settings.kafka.brokers, config
        ):
            sys.stdout.write(shlex.join(words) + "\n")


def acl_redis(
    context: typer.Context,
    roles: Roles = None,
    users: Users = None,
    passwords: Annotated[
        list[str] | None,
        typer.Option(
            "--password-file",
            metavar="ROLE=FILE",
            help="A file with the password of a role's user; repeatable.",
        ),
    ] = None,
) -> None:
    """Print users for Redis' file of users (aclfile), one a line: keys and commands of each role.

    Only the hash of a password is printed; a user without one is off. With all
    roles it is a whole file, in which the default user is off: add a user for
    yourself. Nothing is connected to.
    """
    call = shell(context)
    settings = call.settings
    names, files = _named(users, "--user"), _named(passwords, "--password-file")
    if not roles:
        sys.stdout.write("user default reset off\n")
    off = []
    for role in roles or list(Role):
        access = redis(settings, role)
        if access is None:
            if roles:
                call.err.print(f"{role}: needs nothing of Redis, and gets no user.")
            continue
        user = names.get(role, user_of(settings, role))
        hashed = _hashed(Path(files[role])) if role in files else ""
        if not hashed:
            off.append(user)
        sys.stdout.write(acl_user(access, user, hashed) + "\n")
    if off:
        call.err.print(
            f"Without a password, and so off: {', '.join(off)}. Give one with --password-file, or in Redis with ACL SETUSER "
            f"{off[0]} on '>PASSWORD'.",
            markup=False,
        )


def _named(given: list[str] | None, flag: str) -> Mapping[Role, str]:
    found = {}
    for item in given or []:
        role, equals, name = item.partition("=")
        if not equals or not name or role not in list(Role) or any(c.isspace() for c in name):
            raise typer.BadParameter(
                f"{item!r}: write ROLE=..., without blanks; a role is one of {', '.join(Role)}",
                param_hint=flag,
            )
        found[Role(role)] = name
    return found


def _hashed(file: Path) -> str:
    """The SHA-256 of the password in a file, as Redis keeps it."""
    try:
        password = file.read_text(encoding="utf-8").rstrip("\r\n")
    except (OSError, UnicodeDecodeError) as e:
        why = e.strerror if isinstance(e, OSError) and e.strerror else "It is not UTF-8 text"
        raise Failure(
            Code.INPUT,
            f"Cannot read the password in {file}.",
            f"{why}.",
            "Check the path and its permissions.",
        ) from e
    if not password:
        raise Failure(Code.INPUT, f"The password in {file} is empty.", "", "Write one into it.")
    return hashlib.sha256(password.encode()).hexdigest()
