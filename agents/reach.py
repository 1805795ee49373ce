"""What is at an address where a server should be, asked when a client has given up, to tell a person why.

A client says "no answer" to a wrong port, to TLS that one side does not expect and to a missing password.
Here one question is put to the address as it is, so that the words can say which of them it was.
"""

from __future__ import annotations

import contextlib
import enum
import socket
import ssl
import struct
from collections.abc import Callable, Collection
from typing import NamedTuple
from urllib.parse import urlsplit

from confluent_kafka import KafkaError, KafkaException, TopicCollection
from confluent_kafka.admin import AdminClient

from agents.settings import Kafka, Redis, redacted

PATIENCE = 2.0
"""Seconds for each question."""
DESCRIBED = 5.0
"""Seconds for a question that brokers must have let us in for."""
ASKED = 3
"""Brokers that are asked at most: the first tells as much as the last."""
ENOUGH = 64


class Found(enum.IntEnum):
    """What an address turned out to be; of several addresses the greatest says most."""

    NO_HOST = 0
    NO_WAY = 1  # the network does not get there
    REFUSED = 2
    SILENT = 3  # it listens, and says nothing that we understand
    OTHER = 4  # another kind of server
    LOCKED = 5  # wants to know who we are
    SERVES = 6


class Seen(NamedTuple):
    """What an address says. ``said`` is the beginning of an answer that was not understood, or an error."""

    found: Found
    tls: bool = False
    said: str = ""


class Advice(NamedTuple):
    """Why there was no answer, and what to do. ``final``: waiting does not change it; ``what``: what happened, where
    it is not that nobody answers."""

    why: str
    todo: str
    final: bool = False
    what: str = ""


Ask = Callable[[socket.socket], Seen]


def kafka(settings: Kafka) -> Advice | None:
    """Why no broker answers these settings; None when they fit what is there, so that something else is wrong."""
    best: tuple[Seen, str] | None = None
    if advice := certificates(settings):
        return advice
    for broker in settings.brokers[:ASKED]:
        host, _, port = broker.rpartition(":")
        seen = _look(host.strip("[]"), int(port), _ask_kafka, "Redis", _ask_redis)
        if best is None or seen.found > best[0].found:
            best = seen, broker
    if best is None:
        return None
    seen, broker = best
    where = "Set --brokers, CHURNWATCH_KAFKA__BROKERS or kafka.brokers."
    if seen.found < Found.LOCKED:
        return _nobody(seen, broker, "Kafka", where)
    if seen.tls != settings.tls:
        return _tls(
            seen, broker, "Kafka", "kafka.tls = true (and kafka.ca where an authority of your own signed its "
            "certificate)", "kafka.tls = false", where
        )  # fmt: skip
    if seen.found is Found.LOCKED and not settings.sasl:
        return Advice(
            f"The broker at {broker} wants a user and a password, and none is set.",
            "Set kafka.sasl, kafka.username and kafka.password_file (or CHURNWATCH_KAFKA__PASSWORD).",
            final=True,
        )
    if seen.found is Found.SERVES and settings.sasl:
        return Advice(
            f"The broker at {broker} asks nobody for a password, and kafka.sasl = {settings.sasl} is set.",
            f"Leave kafka.sasl away, or take the port that wants it. {where}",
            final=True,
        )
    return None


def redis(settings: Redis) -> Advice | None:
    """Why Redis does not answer these settings; None when they fit what is there."""
    url = redacted(settings.url)
    parts = urlsplit(settings.url)
    where = "Set --redis, CHURNWATCH_REDIS__URL or redis.url."
    if parts.scheme == "unix":
        return _nobody(_look_unix(parts.path), parts.path, "Redis", where)
    try:
        port = parts.port or 6379
    except ValueError:
        return Advice(f"{url} has no port that could be.", where)
    address = f"{parts.hostname or 'localhost'}:{port}"
    if advice := certificates(settings):
        return advice
    seen = _look(parts.hostname or "localhost", port, _ask_redis, "Kafka", _ask_kafka)
    if seen.found < Found.LOCKED:
        return _nobody(seen, address, "Redis", where)
    if seen.tls != (parts.scheme == "rediss"):
        return _tls(
            seen, address, "Redis", "a redis.url that begins with rediss:// (and redis.ca where an authority of your "
            "own signed its certificate)", "a redis.url that begins with redis://", where
        )  # fmt: skip
    return None


def hidden(settings: Kafka, names: Collection[str]) -> list[str]:
    """Which of some topics (Kafka's names) this user may not see: Kafka does not list them, as if there were none.

    Nobody who asks in this way makes a topic by asking.
    """
    found = []
    with contextlib.suppress(KafkaException, ValueError):
        admin = AdminClient({**settings.librdkafka(), "log_level": 0})
        asked = admin.describe_topics(TopicCollection(list(names)), request_timeout=DESCRIBED)
        for name, future in asked.items():
            try:
                future.result(DESCRIBED + 1)
            except (KafkaException, TimeoutError) as e:
                if (
                    isinstance(e, KafkaException)
                    and e.args[0].code() == KafkaError.TOPIC_AUTHORIZATION_FAILED
                ):
                    found.append(name)
    return found


def certificates(settings: Kafka | Redis) -> Advice | None:
    """Whether, over TLS, we do not trust a server's certificate, or it does not take ours."""
    context = settings.ssl_context()
    if context is None:
        return None
    if isinstance(settings, Redis):
        parts = urlsplit(settings.url)
        places = [(parts.hostname or "localhost", parts.port or 6379)]
        section = "redis"
    else:
        split = [broker.rpartition(":") for broker in settings.brokers[:ASKED]]
        places = [(host.strip("[]"), int(port)) for host, _, port in split]
        section = "kafka"
    found = (_distrust(host, port, context, settings.cert, section) for host, port in places)
    return next(filter(None, found), None)


def distrust(error: ssl.SSLCertVerificationError, section: str) -> Advice:
    """Why a server's certificate is not trusted, and what to do. ``section``: of the settings, kafka or redis."""
    names = "kafka.brokers" if section == "kafka" else "redis.url"
    match error.verify_code:
        case 10:
            why = "it has expired"
            todo = (
                "Have it renewed, and see that the server loads the new one; if it is a new one, check this machine's "
                "clock."
            )
        case 9:
            why = "it is not valid yet"
            todo = "Check the clocks of this machine and of the one that signed it."
        case 62 | 64:
            why = error.verify_message.rstrip(".")
            todo = (
                f"Write {names} with a name that is in the certificate, or have the name put into it (subjectAltName); "
                f"what answers there may also be another server."
            )
        case _:
            why = f"it is signed by none of the authorities that we know: {error.verify_message}"
            todo = (
                f"Set {section}.ca to a PEM file of the authority that signed it. If that is set: is it of another "
                f"authority, or is something between us and the server?"
            )
    return Advice(
        f"Of its certificate: {why}.",
        todo,
        final=True,
        what=f"{section.capitalize()} shows a certificate that we do not trust",
    )


def _distrust(host: str, port: int, context: ssl.SSLContext, cert: str | None, section: str) -> Advice | None:
    """Whether one side does not trust the other's certificate; None where nothing says so."""
    server = section.capitalize()
    try:
        with (
            socket.create_connection((host, port), PATIENCE) as connection,
            context.wrap_socket(connection, server_hostname=host) as secured,
        ):
            # What a server thinks of our certificate it says behind its own handshake; else it waits for us to speak.
            if secured.recv(1):
                return None
            said = "it hung up"
    except ssl.SSLCertVerificationError as e:
        found = distrust(e, section)
        return found._replace(what=f"{found.what}, at {host}:{port}")
    except ssl.SSLError as e:
        reason = e.reason or ""
        if "ALERT" not in reason or not ("CERTIFICATE" in reason or "UNKNOWN_CA" in reason):
            return None
        said = reason.partition("ALERT_")[2].replace("_", " ").lower()
    except ConnectionResetError:
        said = "it hung up"
    except (OSError, ValueError):  # TimeoutError: it waits
        return None
    what = f"{server} at {host}:{port} does not let us in"
    if cert is None:
        return Advice(
            f"It wants a certificate of ours, and none is set ({said}).",
            f"Set {section}.cert and {section}.key.",
            final=True,
            what=what,
        )
    return Advice(
        f"It does not accept {section}.cert ({said}).",
        f"Is it signed by an authority that {server} trusts, still valid, and meant for clients? Have a new one "
        f"signed: openssl x509 -noout -dates -issuer -in {cert}",
        final=True,
        what=what,
    )


def _look(host: str, port: int, ask: Ask, other: str, ask_other: Ask) -> Seen:
    """What is there; ``other`` is the server that people write into the wrong setting."""
    seen = look(host, port, ask)
    if seen.found is Found.SILENT and look(host, port, ask_other).found >= Found.LOCKED:
        return Seen(Found.OTHER, said=f"it is {other}")
    return seen


def look(host: str, port: int, ask: Ask) -> Seen:
    """Puts one question to an address, in the clear and, where that is not understood, through TLS."""
    try:
        with socket.create_connection((host, port), PATIENCE) as connection:
            plain = ask(connection)
    except OSError as e:
        return _no_connection(e)
    if plain.found >= Found.LOCKED:
        return plain
    # Who the server is does not matter for what is asked here, and nothing secret is sent.
    context = ssl.create_default_context()
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    try:
        with (
            socket.create_connection((host, port), PATIENCE) as connection,
            context.wrap_socket(connection, server_hostname=host) as secured,
        ):
            hidden = ask(secured)
    except (OSError, ValueError):
        return plain
    return hidden._replace(tls=True) if hidden.found >= Found.LOCKED else plain


def _look_unix(path: str) -> Seen:
    try:
        with socket.socket(socket.AF_UNIX) as connection:
            connection.settimeout(PATIENCE)
            connection.connect(path)
            return _ask_redis(connection)
    except OSError as e:
        return Seen(Found.NO_WAY, said=e.strerror or str(e))


def _no_connection(error: OSError) -> Seen:
    if isinstance(error, socket.gaierror):
        return Seen(Found.NO_HOST)
    if isinstance(error, ConnectionRefusedError):
        return Seen(Found.REFUSED)
    return Seen(Found.NO_WAY, said="" if isinstance(error, TimeoutError) else (error.strerror or str(error)))


# ApiVersions is answered before anybody has said who they are, Metadata is not.
VERSIONS = struct.pack(">ihhih", 10, 18, 0, 7, -1)
PING = b"*1\r\n$4\r\nPING\r\n"


def _ask_kafka(connection: socket.socket) -> Seen:
    versions = _answer(connection, VERSIONS, 8)
    if len(versions) < 8 or versions[4:8] != b"\0\0\0\x07":
        return _not_understood(versions)
    with contextlib.suppress(OSError):
        connection.settimeout(PATIENCE)
        # The rest of that answer is in the way; a connection that was refused ends while it is read.
        left = int.from_bytes(versions[:4], "big") + 4 - len(versions)
        while left > 0 and (part := connection.recv(min(left, 4096))):
            left -= len(part)
        metadata = _answer(connection, struct.pack(">ihhihi", 14, 3, 1, 8, -1, 0), 8)
        if metadata[4:8] == b"\0\0\0\x08":
            return Seen(Found.SERVES)
    return Seen(Found.LOCKED)


def _ask_redis(connection: socket.socket) -> Seen:
    said = _answer(connection, PING, 5)
    if said.startswith((b"-NOAUTH", b"-NOPERM")):
        return Seen(Found.LOCKED)
    if said.startswith((b"+", b"-")):
        return Seen(Found.SERVES)
    return _not_understood(said)


def _not_understood(said: bytes) -> Seen:
    text = "".join(c for c in said.decode("ascii", "ignore").split("\n")[0] if c.isprintable())
    return Seen(Found.OTHER, said=f"it says {text!r}") if len(text) >= 4 else Seen(Found.SILENT)


def _answer(connection: socket.socket, question: bytes, least: int) -> bytes:
    """The beginning of an answer; less than ``least`` bytes when the connection ends or time is over."""
    said = b""
    with contextlib.suppress(OSError):
        connection.settimeout(PATIENCE)
        connection.sendall(question)
        while len(said) < least and (part := connection.recv(ENOUGH)):
            said += part
    return said


def _nobody(seen: Seen, address: str, wanted: str, where: str) -> Advice | None:
    match seen.found:
        case Found.NO_HOST:
            host = address.rpartition(":")[0]
            return Advice(f"No host is called {host}.", f"Check the name. {where}")
        case Found.REFUSED:
            return Advice(
                f"Connection refused: nothing listens at {address}.", f"Is {wanted} running there? Start it. If it is elsewhere: {where[0].lower()}{where[1:]}"
            )  # fmt: skip
        case Found.NO_WAY:
            said = f" ({seen.said})" if seen.said else ""
            return Advice(
                f"{address} cannot be reached{said}.",
                f"Is {wanted} running there, and does the network let us get to it? {where}",
            )
        case Found.OTHER:
            return Advice(
                f"Something else than {wanted} listens at {address}: {seen.said}.",
                f"Check the port. {where}",
                final=True,
            )
        case Found.SILENT:
            return Advice(
                f"Something listens at {address}, but it does not answer as {wanted} does.",
                f"Check the port, and whether {wanted} hangs. {where}",
            )
    return None


def _tls(seen: Seen, address: str, server: str, on: str, off: str, where: str) -> Advice:
    if seen.tls:
        return Advice(
            f"{server} at {address} wants TLS, and the settings say none.", f"Set {on}.", final=True
        )
    return Advice(
        f"{server} at {address} speaks without TLS, and the settings want it.",
        f"Set {off}, or take its port with TLS. {where}",
        final=True,
    )
