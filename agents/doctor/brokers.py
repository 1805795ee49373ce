"""What a worker needs of Kafka."""

from __future__ import annotations

import socket
import ssl
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from typing import Any, Final, NamedTuple

from confluent_kafka import KafkaError, KafkaException, TopicCollection, TopicPartition
from confluent_kafka.admin import (  # type: ignore[attr-defined]  # it does export them
    AclOperation,
    AdminClient,
    ConfigResource,
    OffsetSpec,
    ResourceType,
)

from agents import privileges, reach
from agents.commands.kafka import DENIED, Broker
from agents.doctor.greeting import DESCRIBE_CLUSTER, Greeting, HungUp, NotKafka, WantsTls, greet, release
from agents.findings import Finding, bytes_of, counted, lasting, note, numbered, ok, problem, unknown, warning
from agents.privileges import Resource, Right, Role
from agents.settings import Kafka, Settings
from streams.topics import COMPACTED, DEAD_LETTERS, OUTPUTS

PATIENCE: Final = 3.0
"""Seconds for one question."""
CERTIFICATE_DAYS: Final = 30
SKEW: Final = 60
"""Seconds that the newest record may be ahead of our clock."""
SANE: Final = 946_684_800_000
"""2000-01-01: no record is older; one that claims to be was written in seconds, or without a time."""
DAY: Final = 86_400_000
SHORT: Final = DAY
"""Retention (ms) below which a long weekend without a worker loses records."""
COMFORTABLE: Final = 7 * DAY

CREATE = "Run: churnwatch topics create."


class Facts(NamedTuple):
    """What the brokers tell, by logical topic. ``configs`` and ``rights`` None: they do not tell, then ``no_…`` says
    why; ``rights``: what we may do with a topic or group, by what it is and its name on Kafka, nothing where it is
    hidden from us; ``newest``: the highest timestamp of a record (ms) by topic."""

    kafka: Kafka
    group: str
    topics: Mapping[str, Any]
    brokers: int
    configs: Mapping[str, Mapping[str, str]] | None
    no_configs: str
    rights: Mapping[tuple[Resource, str], frozenset[str]] | None
    no_rights: str
    newest: Mapping[str, int]
    wanted: Sequence[Right] = ()
    role: Role = Role.WORKER

    def name(self, topic: str) -> str:
        """The topic's name on Kafka."""
        return self.kafka.topic(topic)

    def config(self, name: str, topics: Iterable[str]) -> dict[str, str]:
        """One setting of those topics that are there and tell it."""
        return {t: c[name] for t in topics if (c := (self.configs or {}).get(t)) is not None and name in c}


def checks(settings: Settings, role: Role = Role.WORKER) -> list[Finding]:
    """Everything about the brokers, at most some eight seconds; of the rights, those that a role needs."""
    kafka = settings.kafka
    greetings, found = addresses(kafka)
    if not greetings:
        return found
    found += [*version(greetings), *certificate([g.certificate_ends for g in greetings.values()], "kafka")]
    broker = Broker(kafka)
    broker.patience = PATIENCE
    admin = broker.admin()
    try:
        metadata = admin.list_topics(timeout=PATIENCE)
    except KafkaException as refusal:
        admin.poll(0)
        failure = broker.failure(refusal.args[0])
        refused = "does not answer" not in failure.what
        return [
            *found,
            problem(
                "kafka.credentials" if refused else "kafka.reachable",
                failure.what,
                failure.why,
                failure.todo,
            ),
            unknown("kafka.topics", "Topics were not looked at.", "Kafka did not let us in."),
        ]
    found.append(credentials(kafka))
    named = {b.id: f"{b.host}:{b.port}" for b in metadata.brokers.values()}
    away = advertised(kafka, {n: a for n, a in named.items() if a not in greetings})
    if away:
        found += away
        if len(away) == len(named):
            return [
                *found,
                unknown("kafka.topics", "Topics were not looked at.", "No broker can be reached."),
            ]
    # A cluster that chooses a controller has none either, but it names its release.
    embedded = metadata.controller_id not in metadata.brokers
    if embedded and not any(g.software for g in greetings.values()):
        topics = {t: x for t in (*kafka.inputs, *OUTPUTS) if (x := metadata.topics.get(kafka.topic(t)))}
        facts = Facts(
            kafka, settings.group, topics, 1, None, "an embedded broker has no admin API", None, "", {}
        )
        return [
            *found,
            *present(facts),
            *partitions(facts),
            unknown(
                "kafka.configs",
                "Copies, retention, timestamps and rights were not looked at.",
                "This is an embedded broker, without an admin API. It keeps records in memory, and loses them when it ends.",
                "Use it to try things out, never for data.",
            ),
        ]
    facts = _facts(settings, admin, metadata, role)
    for check in CHECKS:
        found += check(facts)
    return found


# ---- addresses and what answers there


def addresses(kafka: Kafka) -> tuple[dict[str, Greeting], list[Finding]]:
    """What each address in the settings says, by address, and which of them do not answer."""
    try:
        context = kafka.ssl_context()
    except (OSError, ssl.SSLError) as error:
        return {}, [
            problem(
                "kafka.reachable",
                f"Our own side of TLS cannot be set up: {error}.",
                "kafka.ca, kafka.cert or kafka.key is missing, unreadable, or no PEM file.",
                "Check these files and who may read them.",
            )
        ]
    with ThreadPoolExecutor(min(16, len(kafka.brokers))) as pool:
        answers = list(pool.map(lambda address: _greeted(address, context), kafka.brokers))
    greetings = {a: g for a, g in zip(kafka.brokers, answers, strict=True) if isinstance(g, Greeting)}
    silent = {a: e for a, e in zip(kafka.brokers, answers, strict=True) if not isinstance(e, Greeting)}
    found = []
    if greetings:
        slowest = max(g.seconds for g in greetings.values())
        found.append(
            ok("kafka.reachable", f"Kafka answers at {', '.join(greetings)} ({slowest * 1000:.0f} ms).")
            if not silent
            else warning(
                "kafka.addresses",
                f"Of {counted(len(kafka.brokers), 'address', 'addresses')} in kafka.brokers "
                f"{', '.join(silent)} {'does' if len(silent) == 1 else 'do'} not answer: {_why(next(iter(silent.values())), kafka)}.",
                "One that answers is enough to begin; the more there are, the less depends on it.",
                "Repair or remove the others.",
            )
        )
    found += [
        problem(
            "kafka.reachable",
            f"Kafka does not answer at {address}: {_why(why, kafka)}.",
            "Without Kafka nothing is read and nothing leaves.",
            _advice(why),
        )
        for address, why in silent.items()
        if not greetings
    ]
    return greetings, found


def _greeted(address: str, context: ssl.SSLContext | None) -> Greeting | OSError:
    host, _, port = address.rpartition(":")
    try:
        return greet(host.strip("[]"), int(port), context, PATIENCE)
    except OSError as error:
        return error


def _why(error: OSError, kafka: Kafka) -> str:
    match error:
        case ssl.SSLCertVerificationError():
            return f"it shows a certificate that we do not trust ({reach.distrust(error, 'kafka').why.rstrip('.').lower()})"
        case ssl.SSLError() if "WRONG_VERSION_NUMBER" in str(error):
            return "it does not speak TLS there"
        case ssl.SSLEOFError():
            return "it hangs up when we speak TLS, as listeners without TLS do"
        case ssl.SSLError():
            return f"TLS failed ({error.reason or error})"
        case HungUp() if not kafka.tls:
            return "it hangs up as soon as we speak, as brokers do that want TLS"
        case socket.gaierror():
            return f"no such host ({error.strerror})"
        case TimeoutError():
            return f"nothing comes back within {PATIENCE:g} seconds"
        case _:
            return error.strerror or str(error)


def _advice(error: OSError) -> str:
    match error:
        case ssl.SSLCertVerificationError():
            return reach.distrust(error, "kafka").todo
        case ssl.SSLEOFError():
            return "Take the port of the TLS listener, or set kafka.tls = false."
        case ssl.SSLError() if "WRONG_VERSION_NUMBER" in str(error):
            return "Take the port of the TLS listener, or set kafka.tls = false."
        case ssl.SSLError():
            return "Does the broker want a certificate of ours (kafka.cert, kafka.key)? Its log says more."
        case HungUp() | WantsTls():
            return "Set kafka.tls = true, or take the port of a listener without TLS."
        case NotKafka():
            return "Something else listens there: is the port right?"
        case TimeoutError():
            return "Is a firewall between, is the broker frozen, does something else listen there? Check kafka.brokers."
        case _:
            return "Is it running there? Set --brokers, CHURNWATCH_KAFKA__BROKERS or kafka.brokers."


def advertised(kafka: Kafka, named: Mapping[int, str]) -> list[Finding]:
    """Brokers that cannot be reached where they say that they are; ``named``: addresses by id."""
    if not named:
        return []
    context = kafka.ssl_context()
    with ThreadPoolExecutor(min(16, len(named))) as pool:
        answers = list(pool.map(lambda address: _greeted(address, context), named.values()))
    return [
        problem(
            "kafka.advertised",
            f"Broker {number} says that it is at {address}, and there it does not answer: {_why(answer, kafka)}.",
            "kafka.brokers is only where to begin: then clients go where the brokers send them.",
            "Set advertised.listeners of the broker to an address that can be reached from here; or bring the broker back.",
        )
        for (number, address), answer in zip(named.items(), answers, strict=True)
        if not isinstance(answer, Greeting)
    ]


def version(greetings: Mapping[str, Greeting]) -> Iterator[Finding]:
    """The release of the brokers, as far as they tell."""
    oldest = min(greetings.values(), key=lambda g: g.software)
    if oldest.apis and DESCRIBE_CLUSTER not in oldest.apis and len(oldest.apis) > 25:
        yield problem(
            "kafka.version",
            "This Kafka is older than 2.8.",
            "churnwatch is made for Kafka 2.8 and newer, and tested with 4.1.",
            "Upgrade the brokers.",
        )
    elif not oldest.software:
        yield note(
            "kafka.version",
            "The brokers do not name their release.",
            "Kafka does from 3.3 on, without ZooKeeper; embedded brokers and other makes do not.",
        )
    else:
        text = (
            f"Kafka {oldest.release}, by the features its software knows (metadata.version {oldest.software})"
        )
        if oldest.cluster and oldest.cluster < oldest.software:
            text += f"; the cluster still runs as {release(oldest.cluster)} ({oldest.cluster})"
        yield ok("kafka.version", text + ".")


def certificate(ends: Iterable[datetime | None], section: str) -> Iterator[Finding]:
    """How long the servers' certificates are valid."""
    known = [e for e in ends if e is not None]
    if not known:
        return
    days = (min(known) - datetime.now(UTC)).total_seconds() / 86_400
    text = f"The server's certificate is trusted and valid for {lasting(days * 86_400)}"
    if days < CERTIFICATE_DAYS:
        yield warning(
            f"{section}.certificate",
            f"{text} only.",
            "When it ends nobody connects any more; who is connected goes on.",
            "Have it renewed.",
        )
    else:
        yield ok(f"{section}.certificate", f"{text}.")


def credentials(kafka: Kafka) -> Finding:
    """That we were let in, and how."""
    if kafka.sasl and not kafka.tls:
        return warning(
            "kafka.credentials",
            f"Kafka lets {kafka.username} in with {kafka.sasl}, without TLS.",
            "Events travel in clear" + (", and so does the password." if kafka.sasl == "PLAIN" else "."),
            "Use a listener with TLS and set kafka.tls = true.",
        )
    way = f"as {kafka.username} with {kafka.sasl}" if kafka.sasl else "without a password"
    return ok("kafka.credentials", f"Kafka lets us in {way}, {'over TLS' if kafka.tls else 'without TLS'}.")


# ---- what the brokers tell


def _facts(settings: Settings, admin: AdminClient, metadata: Any, role: Role = Role.WORKER) -> Facts:
    """Asks everything at once; what is refused is remembered with its reason."""
    wanted = privileges.kafka(settings, role, settings.kafka.username or "")
    kafka = settings.kafka
    names = {kafka.topic(t): t for t in (*kafka.inputs, *OUTPUTS)}
    topics = {t: metadata.topics[n] for n, t in names.items() if n in metadata.topics}
    there = [n for n in names if n in metadata.topics]
    end = time.monotonic() + PATIENCE + 1

    def told(ask: Callable[[], Mapping[Any, Any]]) -> tuple[dict[Any, Any] | None, str, set[Any]]:
        """The answers to one admin call that could be had, or why there are none; and what was denied."""
        why = ""
        try:
            futures = ask()
        except (KafkaException, ValueError) as error:
            return None, str(error), set()
        answers = {}
        denied = set()
        for key, future in futures.items():
            try:
                answers[key] = future.result(max(0.1, end - time.monotonic()))
            except KafkaException as error:
                kafka_error: KafkaError = error.args[0]
                why = kafka_error.str() or kafka_error.name()
                if kafka_error.code() in DENIED:
                    denied.add(key)
            except TimeoutError:
                why = "no answer came in time"
        return (answers or None), why, denied

    configs, no_configs, _ = told(
        lambda: (
            admin.describe_configs(
                [ConfigResource(ResourceType.TOPIC, n) for n in there], request_timeout=PATIENCE
            )
            if there
            else {}
        )
    )
    # By name, because a list of all leaves out what is hidden from us.
    asked = sorted({*names, *(right.name for right in wanted if right.resource is Resource.TOPIC)})
    described, no_rights, hidden = told(
        lambda: admin.describe_topics(
            TopicCollection(asked), include_authorized_operations=True, request_timeout=PATIENCE
        )
    )
    asked_groups = [right.name for right in wanted if right.resource is Resource.GROUP and not right.prefixed]
    groups, _, hidden_groups = told(
        lambda: (
            admin.describe_consumer_groups(
                asked_groups, include_authorized_operations=True, request_timeout=PATIENCE
            )
            if asked_groups
            else {}
        )
    )
    places = [(t, n) for t, x in topics.items() if t in kafka.inputs for n in x.partitions]
    newest, _, _ = told(
        lambda: (
            admin.list_offsets(
                {
                    TopicPartition(kafka.topic(t), n): OffsetSpec.max_timestamp()  # type: ignore[no-untyped-call]
                    for t, n in places
                },
                request_timeout=PATIENCE,
            )
            if places
            else {}
        )
    )
    latest: dict[str, int] = {}
    for at, result in (newest or {}).items():
        topic = names[at.topic]
        latest[topic] = max(latest.get(topic, -1), result.timestamp)
    rights = {
        (resource, name): allowed
        for resource, found in ((Resource.TOPIC, described), (Resource.GROUP, groups))
        for name, description in (found or {}).items()
        if (allowed := _allowed(description)) is not None
    }
    rights |= {(Resource.TOPIC, name): frozenset() for name in hidden}
    rights |= {(Resource.GROUP, name): frozenset() for name in hidden_groups}
    return Facts(
        kafka,
        settings.group,
        topics,
        len(metadata.brokers),
        {names[r.name]: {k: v.value or "" for k, v in c.items()} for r, c in configs.items()}
        if configs
        else None,
        no_configs,
        rights or None,
        no_rights,
        {t: at for t, at in latest.items() if at >= 0},
        wanted,
        role,
    )


def _allowed(described: Any) -> frozenset[str] | None:
    operations = getattr(described, "authorized_operations", None)
    return None if operations is None else frozenset(AclOperation(o).name for o in operations)


# ---- topics


def present(facts: Facts) -> Iterator[Finding]:
    """Whether every topic is there; what is hidden from us is a matter of rights."""
    hidden = {n for (kind, n), held in (facts.rights or {}).items() if kind is Resource.TOPIC and not held}
    absent = [t for t in (*facts.kafka.inputs, *OUTPUTS) if t not in facts.topics]
    inputs = [n for t in facts.kafka.inputs if t in absent and (n := facts.name(t)) not in hidden]
    outputs = [n for t in OUTPUTS if t in absent and (n := facts.name(t)) not in hidden]
    if inputs:
        yield problem(
            "kafka.topics",
            f"Kafka has no topic {', '.join(inputs)}.",
            "A worker does not start without every topic of kafka.inputs.",
            f"{CREATE} If they have a prefix, set kafka.prefix; if not all are used, set kafka.inputs.",
        )
    if outputs:
        yield problem(
            "kafka.topics",
            f"Kafka has no topic {', '.join(outputs)} to write to.",
            "What is to go there waits in the outbox, and all that comes after it.",
            CREATE,
        )
    if not inputs and not outputs and absent:
        yield note(
            "kafka.topics",
            f"Kafka does not let this user see {', '.join(facts.name(t) for t in absent)}.",
            "Whether they are there, and how they are kept, was not looked at.",
        )
    elif not inputs and not outputs:
        yield ok(
            "kafka.topics",
            f"All topics are there: {counted(len(facts.kafka.inputs), 'input')} and {len(OUTPUTS)} outputs.",
        )


def partitions(facts: Facts) -> Iterator[Finding]:
    """Whether all inputs have equally many."""
    counts = {t: len(facts.topics[t].partitions) for t in facts.kafka.inputs if t in facts.topics}
    if len(set(counts.values())) > 1:
        yield problem(
            "kafka.partitions",
            "The input topics have different numbers of partitions: "
            + ", ".join(f"{facts.name(t)} has {n}" for t, n in counts.items())
            + ".",
            "A customer would be in one partition here and in another there; a worker refuses to start.",
            "Create those that differ anew, with producers and workers stopped: see churnwatch topics create --help.",
        )
    elif counts:
        number = next(iter(counts.values()))
        yield ok(
            "kafka.partitions",
            f"Every input has {counted(number, 'partition')}: as many workers can share the work.",
        )


def cleanup(facts: Facts) -> Iterator[Finding]:
    """Whether topics keep their records in the way that their meaning needs."""
    topics = (*facts.kafka.inputs, *OUTPUTS)
    policies = facts.config("cleanup.policy", topics)
    if not policies:
        yield unknown(
            "kafka.configs", "Settings of topics were not looked at.", _said(facts.no_configs), _DESCRIBE
        )
        return
    vanish = [facts.name(t) for t, p in policies.items() if "compact" in p and t not in COMPACTED]
    grow = [facts.name(t) for t, p in policies.items() if "compact" not in p and t in COMPACTED]
    both = [facts.name(t) for t, p in policies.items() if "compact" in p and "delete" in p and t in COMPACTED]
    if vanish:
        yield problem(
            "kafka.cleanup",
            f"{', '.join(vanish)}: cleanup.policy compacts.",
            "Of each customer only the newest record stays: events vanish, some before they are read.",
            _set(vanish, "cleanup.policy=delete"),
        )
    if grow:
        yield problem(
            "kafka.cleanup",
            f"{', '.join(grow)}: cleanup.policy is delete, must be compact.",
            "The newest profile or score of a customer vanishes with age, instead of the older ones.",
            _set(grow, "cleanup.policy=compact"),
        )
    if both:
        yield warning(
            "kafka.cleanup",
            f"{', '.join(both)}: cleanup.policy is compact,delete.",
            "What is not written again within the retention is forgotten, though nothing newer took its place.",
            _set(both, "cleanup.policy=compact"),
        )
    if not vanish and not grow and not both:
        yield ok("kafka.cleanup", "Topics are compacted where they must be, and nowhere else.")


def retention(facts: Facts) -> Iterator[Finding]:
    """Whether records are kept for as long as a re-read may need them."""
    read = [t for t in facts.kafka.inputs if t not in COMPACTED]
    kept = {t: int(v) for t, v in facts.config("retention.ms", read).items()}
    if not kept:
        return
    bounded = [facts.name(t) for t, v in facts.config("retention.bytes", read).items() if int(v) >= 0]
    limited = {t: ms for t, ms in kept.items() if ms >= 0}
    least = min(limited.values(), default=-1)
    shortest = [facts.name(t) for t, ms in limited.items() if ms == least]
    why = (
        "A Redis that is restored from a backup reads again what is younger than the backup; a worker that was away "
        "reads what came meanwhile. What has expired by then is lost, and the worker refuses to go on."
    )
    if 0 <= least < COMFORTABLE:
        kind = problem if least < SHORT else warning
        yield kind(
            "kafka.retention",
            f"{', '.join(shortest)}: records are kept for {lasting(least / 1000)} only.",
            why,
            "Keep them for longer than your oldest backup and your longest outage, such as 30 days: "
            + _set(shortest, "retention.ms=2592000000"),
        )
    if bounded:
        yield warning(
            "kafka.retention",
            f"{', '.join(bounded)}: retention.bytes limits what is kept.",
            f"How long that lasts depends on the traffic. {why}",
            f"Limit the time instead (retention.ms): {_set(bounded, 'retention.bytes=-1')}",
        )
    if not bounded and not 0 <= least < COMFORTABLE:
        length = f"for {lasting(least / 1000)}" if least >= 0 else "for ever"
        yield ok(
            "kafka.retention",
            f"Inputs keep their records {length}: a Redis restored from a younger backup loses nothing. "
            "One that is wiped knows of customers only what is still there.",
        )


def timestamps(facts: Facts) -> Iterator[Finding]:
    """Whose clock judges that an event is from the future, and whether it can be trusted."""
    types = facts.config("message.timestamp.type", facts.kafka.inputs)
    now = time.time() * 1000
    rule = (
        "An event whose time is more than 5 minutes after its record's timestamp is refused (dead letter), under either "
        "clock, so that a re-read decides the same."
    )
    ancient = [facts.name(t) for t, at in facts.newest.items() if at < SANE]
    ahead = {facts.name(t): (at - now) / 1000 for t, at in facts.newest.items() if at > now + SKEW * 1000}
    if ancient:
        yield problem(
            "kafka.timestamps",
            f"{', '.join(ancient)}: even the newest record claims to be of before the year 2000.",
            f"The producer sets a timestamp that is none (seconds instead of milliseconds, or 0). {rule} Retention counts "
            "from it too.",
            f"Repair the producer, or let the broker set it: {_set(ancient, 'message.timestamp.type=LogAppendTime')}",
        )
    if ahead:
        worst = max(ahead, key=lambda name: ahead[name])
        yield warning(
            "kafka.timestamps",
            f"{worst}: its newest record is {lasting(ahead[worst])} ahead of this machine's clock.",
            f"The producer's clock (or the broker's, with LogAppendTime) is ahead, or ours is behind. {rule}",
            "Let all of them follow one time server (NTP).",
        )
    if types and not ancient and not ahead:
        kinds = set(types.values())
        said = {
            "CreateTime": "the producer's clock (CreateTime)",
            "LogAppendTime": "the broker's clock (LogAppendTime)",
        }
        text = " or ".join(said.get(kind, kind) for kind in sorted(kinds))
        latest = max(facts.newest.values(), default=-1)
        age = f" The newest is {lasting((now - latest) / 1000)} old." if 0 <= latest <= now else ""
        if len(kinds) > 1:
            yield warning(
                "kafka.timestamps",
                f"Inputs take their timestamps from different clocks: {_by_value(types, facts)}.",
                f"{rule} What is from the future is judged by another clock on each topic.",
                "Make them equal: "
                + _set(
                    [facts.name(t) for t, k in types.items() if k != "CreateTime"],
                    "message.timestamp.type=CreateTime",
                ),
            )
        else:
            yield ok("kafka.timestamps", f"Records carry the time of {text}; either is fine.{age}")


def copies(facts: Facts) -> Iterator[Finding]:
    """How many copies there are of each record, and how many must be written."""
    leaderless, lagging, replicas = [], [], {}
    for topic, described in facts.topics.items():
        replicas[topic] = min((len(p.replicas) for p in described.partitions.values()), default=0)
        without = [n for n, p in described.partitions.items() if p.leader < 0]
        behind = [
            n for n, p in described.partitions.items() if p.leader >= 0 and len(p.isrs) < len(p.replicas)
        ]
        if without:
            leaderless.append(f"{facts.name(topic)} ({numbered(without)})")
        if behind:
            lagging.append(f"{facts.name(topic)} ({numbered(behind)})")
    if leaderless:
        yield problem(
            "kafka.copies",
            f"Without a leader: {', '.join(leaderless)}.",
            "Nobody can read or write there; a customer's events wait.",
            "Bring the brokers back that hold the copies.",
        )
    if lagging:
        yield warning(
            "kafka.copies",
            f"Copies that do not keep up: {', '.join(lagging)}.",
            "A broker is down, or too slow; the next failure may stop writing or lose records.",
            "Look after the brokers.",
        )
    least = facts.config("min.insync.replicas", facts.topics)
    single = [facts.name(t) for t, n in replicas.items() if n == 1]
    if single:
        yield warning(
            "kafka.copies",
            f"{_all(single, facts)} one copy of each record only.",
            "When the disk of that broker is lost, events and alerts are. (Fine for a machine to try things on.)",
            "In production: churnwatch topics create --replication 3, with min.insync.replicas=2."
            if facts.brokers > 1
            else "In production use three brokers, and churnwatch topics create --replication 3.",
        )
    careless = [facts.name(t) for t, n in least.items() if replicas[t] > 1 and int(n) < 2]
    if careless:
        yield warning(
            "kafka.copies",
            f"{_all(careless, facts)} min.insync.replicas=1.",
            "A record counts as written when one broker has it: if that one is lost before the others have read it, it is "
            "gone, although it was acknowledged.",
            _set(careless, "min.insync.replicas=2"),
        )
    stiff = [facts.name(t) for t, n in least.items() if 1 < replicas[t] <= int(n)]
    if stiff:
        yield warning(
            "kafka.copies",
            f"{_all(stiff, facts)} as many min.insync.replicas as copies.",
            "One broker down, for a restart too, stops all writing.",
            "Three copies and min.insync.replicas=2: churnwatch topics create --replication 3 makes new ones.",
        )
    if not (leaderless or lagging or single or careless or stiff) and replicas:
        yield ok(
            "kafka.copies", f"Every record has at least {min(replicas.values())} copies, all up to date."
        )


def sizes(facts: Facts) -> Iterator[Finding]:
    """Whether a dead letter finds room."""
    most = {t: int(v) for t, v in facts.config("max.message.bytes", facts.kafka.inputs).items()}
    room = facts.config("max.message.bytes", [DEAD_LETTERS])
    if not most or not room:
        return
    letters = int(room[DEAD_LETTERS])
    largest = max(most.values())
    if letters < largest:
        yield warning(
            "kafka.sizes",
            f"{facts.name(DEAD_LETTERS)} takes records of {bytes_of(letters)}, inputs of {bytes_of(largest)}.",
            "A record that cannot be processed is kept whole, with headers that say why. One that is too large for the "
            "topic is set aside in Redis instead ({application:pN}:parked).",
            _set([facts.name(DEAD_LETTERS)], f"max.message.bytes={largest + 65_536}"),
        )
    else:
        yield ok("kafka.sizes", f"Records of up to {bytes_of(largest)} are taken, as dead letters too.")


def rights(facts: Facts) -> Iterator[Finding]:
    """What this user may do of what the role needs, as far as the brokers tell."""
    needs = {
        right: [o for o in right.operations if o not in held]
        for right in facts.wanted
        if (held := (facts.rights or {}).get((right.resource, right.name))) is not None
    }
    if not needs:
        yield unknown(
            "kafka.rights",
            "What this user may do was not found out.",
            _said(facts.no_rights),
            f"churnwatch acl kafka {facts.role} prints what it needs.",
        )
        return
    lacking = [
        f"{operation} on {'the group ' if right.resource is Resource.GROUP else ''}{right.name}"
        for right, operations in needs.items()
        for operation in operations
    ]
    user = facts.kafka.username
    if lacking:
        yield problem(
            "kafka.rights",
            f"This user lacks {', '.join(lacking)}.",
            "A worker ends with code 5, or its outbox waits for ever."
            if facts.role is Role.WORKER
            else f"The role {facts.role} needs it ({privileges.MEANINGS[facts.role]}).",
            f"Let the administrator of Kafka run what this prints: churnwatch acl kafka {facts.role}"
            + (f" --user {facts.role}={user}" if user else ""),
        )
    elif facts.role is Role.WORKER:
        yield ok(
            "kafka.rights",
            f"This user may read the inputs, join the group {facts.group} and write the outputs.",
        )
    else:
        yield ok("kafka.rights", f"This user may do all that the role {facts.role} needs of Kafka.")


CHECKS: Final = (present, partitions, cleanup, copies, retention, timestamps, sizes, rights)
_DESCRIBE = "With DESCRIBE_CONFIGS on the topics doctor could look; a worker runs without."


def _said(why: str) -> str:
    return f"Kafka says: {why}." if why else "Kafka did not tell."


def _set(names: Sequence[str], setting: str) -> str:
    """How to change a setting of topics with Kafka's own tools."""
    others = f" (and of {', '.join(names[1:])})" if len(names) > 1 else ""
    return (
        f"kafka-configs --alter --entity-type topics --entity-name {names[0]} --add-config {setting}{others}"
    )


def _all(names: list[str], facts: Facts) -> str:
    """``All topics have``, ``purchases has`` ..., for a sentence to go on."""
    if len(names) == len(facts.topics):
        return "All topics have"
    shown = ", ".join(names[:4]) + (f" and {len(names) - 4} more" if len(names) > 4 else "")
    return f"{shown} {'have' if len(names) > 1 else 'has'}"


def _by_value(values: Mapping[str, str], facts: Facts) -> str:
    return ", ".join(f"{facts.name(t)} {v}" for t, v in values.items())
