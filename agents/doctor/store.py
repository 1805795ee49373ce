"""What a worker needs of Redis."""

from __future__ import annotations

import ssl
import time
from collections.abc import Iterator, Mapping
from datetime import datetime
from typing import Any, Final, NamedTuple
from urllib.parse import urlsplit

import msgspec
from redis.asyncio import RedisCluster
from redis.exceptions import (
    NoPermissionError,
    OutOfMemoryError,
    ReadOnlyError,
    RedisError,
    ResponseError,
)

from agents import privileges, reach
from agents.commands.shell import Failure
from agents.doctor.brokers import certificate
from agents.doctor.greeting import ends_at
from agents.findings import Finding, bytes_of, counted, lasting, ok, problem, unknown, warning
from agents.overview import explained, open_store
from agents.privileges import Role
from agents.settings import Settings, redacted
from agents.store import Store, trainer_of

PATIENCE: Final = 3.0
"""Seconds until Redis is called away."""
OLDEST: Final = (6, 2)
SKEW: Final = 2.0
"""Seconds by which Redis's clock may differ from ours before it is worth a word."""
BAD_SKEW: Final = 300.0
FULL: Final = 0.8
"""Share of maxmemory (or of the machine's memory) from which there is little room left."""
BRIM: Final = 0.95
HALF: Final = 0.5
"""Share of the machine's memory from which a rewrite of the append-only file, which may double it, can fail."""


class Facts(NamedTuple):
    """One node. ``config`` None: this user may not ask, or the service does not tell; ``skew``: its clock minus ours
    in seconds, give or take ``doubt``."""

    name: str
    info: Mapping[str, Any]
    config: Mapping[str, str] | None
    skew: float
    doubt: float


async def checks(settings: Settings, role: Role = Role.WORKER) -> list[Finding]:
    """Everything about Redis, at most some six seconds; of the rights, those that a role needs."""
    own = settings
    if role is Role.TRAINER:
        own = msgspec.structs.replace(settings, application=trainer_of(settings.application))
    store = open_store(own, PATIENCE)
    try:
        began = time.monotonic()
        try:
            with explained(settings):
                await store.layout()
        except Failure as failure:
            return [_unreachable(settings, failure)]
        took = time.monotonic() - began
        found = [
            ok("redis.reachable", f"Redis answers at {redacted(settings.redis.url)} ({took * 1000:.0f} ms)."),
            credentials(settings),
            *certificate([await _certificate(store)], "redis"),
        ]
        try:
            nodes = await _nodes(store)
        except NoPermissionError as error:
            nodes = []
            found.append(
                unknown(
                    "redis.info",
                    "Version, persistence, memory and eviction were not looked at.",
                    f"This user may not run INFO and TIME ({error}).",
                    "A worker runs without; for doctor grant +info +time +config|get.",
                )
            )
        for facts in nodes:
            for check in CHECKS:
                found += check(facts)
        found += await rights(store, settings, role)
    except (RedisError, OSError, TimeoutError) as error:
        return [
            problem(
                "redis.reachable",
                f"Redis at {redacted(settings.redis.url)} stopped answering while it was looked at.",
                str(error) or type(error).__name__,
                "Is it overloaded, or was it just restarted?",
            )
        ]
    else:
        return found
    finally:
        await store.close()


def _unreachable(settings: Settings, failure: Failure) -> Finding:
    """Why it does not answer, with what to do about that."""
    why, do = failure.why, failure.todo
    cause: BaseException | None = failure
    while cause is not None:
        if isinstance(cause, ssl.SSLCertVerificationError):
            do = reach.distrust(cause, "redis").todo
        elif isinstance(cause, ssl.SSLError) and "WRONG_VERSION_NUMBER" in str(cause):
            do = "It does not speak TLS there: write redis:// instead of rediss://, or take the port of its TLS."
        cause = cause.__cause__ or cause.__context__
    hung_up = any(said in why.lower() for said in ("closed by server", "connection reset", "broken pipe"))
    if hung_up and settings.redis.url.startswith("redis://"):
        do = "It hangs up as soon as we speak: does it want TLS? Then write rediss:// instead of redis://."
    if "without any password configured" in why:
        do = "This user has no password: unset redis.password, or give it one."
    if "timeout" in why.lower() and settings.redis.url.startswith("rediss://"):
        do = f"Does it speak TLS there? If not, write redis:// instead of rediss://. {do}"
    return problem(
        "redis.reachable",
        failure.what,
        f"{why.rstrip('.')}. Without Redis nothing is read and nothing kept.",
        do[:1].upper() + do[1:],
    )


def credentials(settings: Settings) -> Finding:
    """That we were let in, and how."""
    redis = settings.redis
    parts = urlsplit(redis.url)
    near = redis.url.startswith("unix://") or (parts.hostname or "") in {"localhost", "127.0.0.1", "::1"}
    secured = redis.url.startswith("rediss://")
    who = f"as {redis.username}" if redis.username else "as the default user"
    how = "with a password" if redis.password is not None else "without a password"
    if near or secured:
        return ok("redis.credentials", f"Redis lets us in {who}, {how}{', over TLS' if secured else ''}.")
    return warning(
        "redis.credentials",
        f"Redis lets us in {who}, {how}, without TLS.",
        "What is known of customers travels in clear"
        + (
            ", and so does the password."
            if redis.password is not None
            else ", and whoever reaches it may change it."
        ),
        "Use TLS (rediss://) and a password, or a network of its own.",
    )


async def _certificate(store: Store) -> datetime | None:
    """When the certificate that Redis shows ends; None without TLS."""
    if isinstance(store.redis, RedisCluster):
        return None
    connection = await store.redis.connection_pool.get_connection()
    try:
        writer = getattr(connection, "_writer", None)
        session = None if writer is None else writer.get_extra_info("ssl_object")
        return None if session is None else ends_at(session.getpeercert())
    finally:
        await store.redis.connection_pool.release(connection)


async def _nodes(store: Store) -> list[Facts]:
    """What each master tells of itself."""
    if isinstance(store.redis, RedisCluster):
        await store.redis.initialize()
        return [
            await _facts(store, node.name, {"target_nodes": node}) for node in store.redis.get_primaries()
        ]
    return [await _facts(store, "Redis", {})]


async def _facts(store: Store, name: str, where: Mapping[str, Any]) -> Facts:
    ask = store.redis.execute_command
    info = await ask("INFO", **where)
    before = time.time()
    seconds, micros = await ask("TIME", **where)
    after = time.time()
    config: dict[str, str] | None = {}
    try:
        for key in ("appendfsync", "save"):
            told = await ask("CONFIG GET", key, **where)
            config = {**(config or {}), **{_text(k): _text(v) for k, v in told.items()}}
    except ResponseError:  # no right to it, or a service that hides it
        config = None
    skew = seconds + micros / 1e6 - (before + after) / 2
    return Facts(name, info, config, skew, (after - before) / 2)


def _text(value: bytes | str) -> str:
    return value.decode() if isinstance(value, bytes) else value


# ---- one node


def version(facts: Facts) -> Iterator[Finding]:
    """Whether it knows the commands that are used."""
    said = str(facts.info.get("redis_version", ""))
    parts = tuple(int(p) for p in said.split(".")[:2] if p.isdecimal())
    name = "Valkey" if "valkey_version" in facts.info else "Redis"
    own = str(facts.info.get("valkey_version", said))
    if not parts:
        yield unknown("redis.version", "Redis does not tell its version.", "It is not in INFO.")
    elif parts < OLDEST:
        yield problem(
            "redis.version",
            f"{facts.name} is version {said}.",
            "churnwatch needs Redis 6.2 or later.",
            "Upgrade it; data are kept.",
        )
    else:
        yield ok("redis.version", f"{name} {own}, {facts.info.get('redis_mode', 'standalone')}.")


def role(facts: Facts) -> Iterator[Finding]:
    """Whether it takes writes."""
    if facts.info.get("role") == "slave":
        yield problem(
            "redis.role",
            f"{facts.name} is a replica.",
            "It takes no writes: a worker gives up after two minutes.",
            "Set redis.url to the master.",
        )
        return
    replicas = int(facts.info.get("connected_slaves", 0))
    yield ok(
        "redis.role",
        f"It is a master with {counted(replicas, 'replica')}." if replicas else "It is a master, alone.",
    )


def persistence(facts: Facts) -> Iterator[Finding]:
    """What it would lose with its process."""
    info, config = facts.info, facts.config
    wiped = (
        "A Redis that comes back without its data begins anew: Kafka is read again from its beginning, what has expired "
        "there is not known any more, and alerts are sent again with their ids."
    )
    failed = [
        name
        for name, key in (
            ("writing the append-only file", "aof_last_write_status"),
            ("rewriting it", "aof_last_bgrewrite_status"),
            ("saving a snapshot", "rdb_last_bgsave_status"),
        )
        if str(info.get(key, "ok")) != "ok"
    ]
    if failed:
        yield problem(
            "redis.disk",
            f"{facts.name} failed at {' and '.join(failed)}.",
            "Its disk is full or broken; Redis refuses writes while that lasts (MISCONF), and may lose what it holds.",
            "Make room on its disk; its log says more.",
        )
    if not int(info.get("aof_enabled", 0)):
        snapshots = (config or {}).get("save", "")
        if config is not None and not snapshots:
            yield problem(
                "redis.persistence",
                f"{facts.name} keeps nothing: appendonly is no, and no snapshots are saved.",
                wiped,
                "Set appendonly yes and appendfsync everysec.",
            )
        else:
            yield warning(
                "redis.persistence",
                f"{facts.name} keeps snapshots only"
                + (
                    f" (save {snapshots})."
                    if snapshots
                    else ", or a service keeps it in a way that is not told here."
                ),
                "After a crash it stands minutes back. It heals by reading Kafka again, and repeats alerts with their ids.",
                "Set appendonly yes and appendfsync everysec: then it is a second.",
            )
        return
    fsync = (config or {}).get("appendfsync", "")
    if fsync == "no":
        yield warning(
            "redis.persistence",
            f"{facts.name} leaves it to the system when its append-only file reaches the disk (appendfsync no).",
            "After a power cut it stands half a minute or more back. It heals by reading Kafka again.",
            "Set appendfsync everysec.",
        )
    elif not failed:
        told = f", appendfsync {fsync}" if fsync else ""
        yield ok(
            "redis.persistence",
            f"It keeps an append-only file ({bytes_of(int(info.get('aof_current_size', 0)))}{told}), and its last write "
            "went well.",
        )


def eviction(facts: Facts) -> Iterator[Finding]:
    """Whether it would forget customers to make room."""
    policy = str(facts.info.get("maxmemory_policy", ""))
    evicted = int(facts.info.get("evicted_keys", 0))
    if policy != "noeviction":
        # Nothing of ours has an expiry, so volatile policies find nothing to evict; allkeys do.
        kind = problem if policy.startswith("allkeys") else warning
        yield kind(
            "redis.eviction",
            f"maxmemory-policy of {facts.name} is {policy or 'not told'}.",
            "When memory is full, Redis would throw away whole partitions of customers to make room, without a word."
            if policy.startswith("allkeys")
            else "Keys of churnwatch do not expire, so none would be thrown away; but other programs' keys in the same "
            "Redis are, and a full memory shows late.",
            "Set maxmemory-policy noeviction: then a full Redis refuses writes, and nothing is lost.",
        )
    elif evicted:
        yield warning(
            "redis.eviction",
            f"{facts.name} has thrown away {counted(evicted, 'key')} since it was started.",
            "Its policy was another one then. If some were ours, their customers are gone.",
            "Compare churnwatch status with what you expect; restoring a backup heals.",
        )
    else:
        yield ok(
            "redis.eviction", "When memory is full it refuses writes instead of forgetting (noeviction)."
        )


def memory(facts: Facts) -> Iterator[Finding]:
    """How much room there is."""
    info = facts.info
    used, limit = int(info.get("used_memory", 0)), int(info.get("maxmemory", 0))
    host = int(info.get("total_system_memory", 0))
    ends = "When it is full Redis refuses writes (OOM), and the worker ends with code 4."
    if limit and used >= FULL * limit:
        kind = problem if used >= BRIM * limit else warning
        yield kind(
            "redis.memory",
            f"{facts.name} uses {bytes_of(used)} of {bytes_of(limit)} (maxmemory), {used / limit:.0%}.",
            ends,
            "Raise maxmemory, or give it a bigger machine. A customer takes 0.5 to 2.5 kB.",
        )
    elif host and int(info.get("used_memory_rss", used)) >= HALF * host:
        yield warning(
            "redis.memory",
            f"{facts.name} takes {bytes_of(int(info.get('used_memory_rss', used)))} of the machine's {bytes_of(host)}.",
            "While it rewrites its append-only file it may need up to twice as much, and the system may end it.",
            "Give it a bigger machine, or spread it (Redis Cluster).",
        )
    elif limit and host and limit > host:
        yield warning(
            "redis.memory",
            f"maxmemory of {facts.name} is {bytes_of(limit)}, its machine has {bytes_of(host)}.",
            "The system ends Redis before it reaches its limit.",
            "Set maxmemory to half the machine's memory.",
        )
    else:
        room = (
            f" of {bytes_of(limit)} (maxmemory)"
            if limit
            else f"; the machine has {bytes_of(host)}, maxmemory is not set"
        )
        yield ok("redis.memory", f"It uses {bytes_of(used)}{room}.")


def clock(facts: Facts) -> Iterator[Finding]:
    """Whether its clock and ours agree."""
    apart = max(0.0, abs(facts.skew) - facts.doubt)
    where = "ahead of" if facts.skew > 0 else "behind"
    if apart > SKEW:
        kind = problem if apart > BAD_SKEW else warning
        yield kind(
            "redis.clock",
            f"The clock of {facts.name} is {lasting(apart)} {where} this machine's.",
            "One of them is wrong. If it is the worker's, silences are noticed early or late on the wall clock; if it is "
            "the producers', events more than 5 minutes ahead of Kafka are refused.",
            "Let all machines follow one time server (NTP).",
        )
    else:
        yield ok(
            "redis.clock",
            f"Its clock and ours agree (within {max(apart, facts.doubt, 0.001) * 1000:.0f} ms).",
        )


CHECKS: Final = (version, role, persistence, eviction, memory, clock)


# ---- rights


PROBES: Final[Mapping[str, tuple[str, ...]]] = {
    "get": ("{layout}",),
    "hget": ("{none}", "field"),
    "hgetall": ("{none}",),
    "hmget": ("{none}", "field"),
    "hlen": ("{none}",),
    "hscan": ("{none}", "0"),
    "zcard": ("{none}",),
    "zcount": ("{none}", "0", "0"),
    "zrange": ("{none}", "0", "0"),
    "zrangebyscore": ("{none}", "0", "0"),
    "xlen": ("{none}",),
    "zmscore": ("{none}", "member"),
    "zscan": ("{none}", "0"),
    "xrevrange": ("{none}", "+", "-", "COUNT", "1"),
    "xrange": ("{none}", "-", "+", "COUNT", "1"),
    "exists": ("{none}",),
    "type": ("{none}",),
    "script|load": ("return 1",),
    "evalsha": ("0" * 40, "1", "{none}"),
    # What follows writes nothing: there is nothing to remove, or an argument that the command refuses, after Redis has
    # looked at rights, memory, disk and role.
    "del": ("{none}",),
    "persist": ("{none}",),
    "pexpire": ("{none}", "1"),
    "rename": ("{none}", "{none}"),
    "unlink": ("{none}",),
    "hdel": ("{none}", "field"),
    "zrem": ("{none}", "member"),
    "xdel": ("{none}", "0-1"),
    "set": ("{layout}", "1", "NX", "XX"),
    "hset": ("{none}", "field", "value", "odd"),
    "hincrby": ("{none}", "field", "one"),
    "zadd": ("{none}", "NX", "XX", "0", "member"),
    "xadd": ("{none}", "NOMKSTREAM", "no-id", "m", "1"),
}
"""How a command is tried without changing anything. What is not here was run already, or cannot be tried."""


async def rights(store: Store, settings: Settings, role: Role = Role.WORKER) -> list[Finding]:
    """Whether this user may run what a role runs, and whether Redis takes writes: tried, without changing anything."""
    access = privileges.redis(settings, role)
    assert access is not None, "whoever needs nothing of Redis is not asked for"
    words = {
        "{layout}": f"{store.application}:layout",
        # A key that nobody writes.
        "{none}": store.keys(0)[0].removesuffix(":meta") + ":doctor",
    }
    lacking: list[str] = []
    denied: list[str] = []
    refused = ""
    for command, arguments in PROBES.items():
        if command not in access.commands:
            continue
        told = command.replace("|", " ").upper()
        try:
            await store.redis.execute_command(told, *(words.get(word, word) for word in arguments))
        except NoPermissionError as error:
            key = next((words[word] for word in arguments if word in words), "")
            of_key = "key" in str(error)
            denied.append(f"{told} on {key}" if of_key else told)
            lacking += [] if of_key else [command]
        except (OutOfMemoryError, ReadOnlyError) as error:
            refused = refused or str(error)
        except ResponseError as error:
            if str(error).startswith(("MISCONF", "NOREPLICAS")):
                refused = refused or str(error)
    found = []
    if refused:
        found.append(
            problem(
                "redis.writes",
                "Redis refuses to write.",
                f"It says: {refused}.",
                "Memory: raise maxmemory. Read only: set redis.url to the master. MISCONF: make room on its disk. "
                "NOREPLICAS: bring its replicas back.",
            )
        )
    if denied:
        user = settings.redis.username or "default"
        found.append(
            problem(
                "redis.rights",
                f"This user may not run {', '.join(denied)}.",
                "A worker ends with code 4 and says so."
                if role is Role.WORKER
                else f"The role {role} needs it ({privileges.MEANINGS[role]}).",
                f"Let the administrator of Redis run: ACL SETUSER {user} {privileges.acl_rules(access._replace(commands=tuple(lacking)))} "
                f"(and ACL SAVE). All that the role needs: churnwatch acl redis {role} --user {role}={user}",
            )
        )
    elif not refused:
        found.append(
            ok(
                "redis.rights",
                "This user may run all that a worker runs, and Redis takes writes (tried, nothing was written)."
                if role is Role.WORKER
                else f"This user may run all that the role {role} needs of Redis (tried, nothing was written).",
            )
        )
    return found
