"""What an operator may set, where each value came from, and what is wrong with one that is refused.

A TOML file is the lowest layer, over it the environment, over it the command line. Nothing here connects
to anything; the only files read are the settings file itself and those that hold secrets and certificates.
"""

from __future__ import annotations

import difflib
import hashlib
import hmac
import json
import math
import os
import re
import ssl
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple
from urllib.parse import parse_qs, quote, unquote, urlsplit, urlunsplit
from zoneinfo import ZoneInfo

import msgspec
from msgspec import Meta
from msgspec import inspect as shape

from agents.meanings import MEANINGS
from alerts.policy import Days, Feeds, Policy
from features.shop import Shop
from models.learning import Learning
from models.snapshot import Prior

PREFIX = "CHURNWATCH_"
# Variables that are not settings: where the settings file, the cache of the demo and local servers are.
RESERVED = frozenset({"CHURNWATCH_CONFIG", "CHURNWATCH_CACHE", "CHURNWATCH_DEBUG", "CHURNWATCH_LOCAL_DIR"})
# Kubernetes puts variables for every service into every container; those of a service that is itself
# called "churnwatch" or "churnwatch-redis" begin like ours and mean nothing here.
SERVICE_LINK = re.compile(r"_(SERVICE_HOST|SERVICE_PORT(_\w+)?|PORT|PORT_\d+_(TCP|UDP|SCTP)(_\w+)?)$")


class Secret:
    """A password that does not show itself: not in ``repr``, not in ``str``, not in a log."""

    __slots__ = ("_value",)

    def __init__(self, value: str) -> None:
        self._value = value

    def reveal(self) -> str:
        """The password itself, for the one call that needs it."""
        return self._value

    def __repr__(self) -> str:
        return "Secret(********)"

    __str__ = __repr__

    def __format__(self, _spec: str) -> str:
        return repr(self)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Secret) and other._value == self._value

    def __hash__(self) -> int:
        return hash(self._value)

    def __reduce__(self) -> tuple[Any, ...]:
        raise TypeError("a secret is not to be pickled")


LEAST_KEY = 16
"""Characters of privacy.key at least."""

Name = Annotated[str, Meta(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,62}$")]
Broker = Annotated[str, Meta(pattern=r"^(\[[0-9a-fA-F:.]+\]|[A-Za-z0-9._-]+):[0-9]{1,5}$")]
Input = Literal["purchases", "browses", "complaints", "contacts", "customers"]
Seconds = Annotated[float, Meta(gt=0, le=3600)]
Port = Annotated[int, Meta(ge=0, le=65535)]
Position = Annotated[str, Meta(pattern=r"^[A-Za-z0-9._-]+:[0-9]+:[0-9]+$")]


class Kafka(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Where the brokers are, what our topics are called there and how we prove who we are."""

    brokers: Annotated[tuple[Broker, ...], Meta(min_length=1)] = ("localhost:9092",)
    prefix: Annotated[str, Meta(pattern=r"^[A-Za-z0-9._-]{0,100}$")] = ""
    inputs: Annotated[tuple[Input, ...], Meta(min_length=1)] = (
        "purchases",
        "browses",
        "complaints",
        "contacts",
        "customers",
    )
    group: Name | None = None
    tls: bool = False
    ca: str | None = None
    cert: str | None = None
    key: str | None = None
    key_password: Secret | None = None
    key_password_file: str | None = None
    sasl: Literal["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512"] | None = None
    username: str | None = None
    password: Secret | None = None
    password_file: str | None = None
    session_timeout: Annotated[float, Meta(ge=1, le=1800)] = 30.0
    request_timeout: Annotated[float, Meta(ge=2, le=3600)] = 60.0

    def __post_init__(self) -> None:
        if len(set(self.inputs)) != len(self.inputs):
            raise ValueError(f"inputs names a topic twice: {', '.join(self.inputs)}")
        if not self.tls and (self.ca or self.cert or self.key):
            raise ValueError("ca, cert and key need tls = true")
        if (self.cert is None) != (self.key is None):
            raise ValueError("cert and key (of the client) go together: set both or neither")
        if self.key_password is not None and self.key is None:
            raise ValueError("key_password opens a key, and none is set")
        if self.sasl and (self.username is None or self.password is None):
            raise ValueError(
                f"sasl = {self.sasl} needs username and a password (password_file, or the variable "
                f"{PREFIX}KAFKA__PASSWORD)"
            )
        if not self.sasl and (self.username is not None or self.password is not None):
            raise ValueError("username and password need sasl = PLAIN, SCRAM-SHA-256 or SCRAM-SHA-512")
        if self.request_timeout <= self.session_timeout:
            raise ValueError(
                f"request_timeout ({self.request_timeout:g} s) must be more than session_timeout "
                f"({self.session_timeout:g} s), or joining the group times out"
            )

    @property
    def protocol(self) -> Literal["PLAINTEXT", "SSL", "SASL_PLAINTEXT", "SASL_SSL"]:
        """Kafka's ``security.protocol``."""
        if self.sasl:
            return "SASL_SSL" if self.tls else "SASL_PLAINTEXT"
        return "SSL" if self.tls else "PLAINTEXT"

    def topic(self, logical: str) -> str:
        """The name on Kafka of one of our topics."""
        return self.prefix + logical

    def librdkafka(self) -> dict[str, Any]:
        """What every confluent-kafka client needs; holds the password in clear, so never log it."""
        config: dict[str, Any] = {
            "bootstrap.servers": ",".join(self.brokers),
            "security.protocol": self.protocol.lower(),
            "socket.timeout.ms": int(self.request_timeout * 1000),
            "client.id": "churnwatch",
        }
        if self.tls:
            files = {
                "ssl.ca.location": self.ca,
                "ssl.certificate.location": self.cert,
                "ssl.key.location": self.key,
                "ssl.key.password": self.key_password and self.key_password.reveal(),
            }
            config |= {name: value for name, value in files.items() if value is not None}
        if self.sasl and self.password is not None:
            config |= {
                "sasl.mechanism": self.sasl,
                "sasl.username": self.username,
                "sasl.password": self.password.reveal(),
            }
        return config

    def aiokafka(self) -> dict[str, Any]:
        """How an aiokafka client proves who we are; holds the password in clear, so never log it."""
        auth: dict[str, Any] = {"security_protocol": self.protocol, "ssl_context": self.ssl_context()}
        if self.sasl is not None and self.password is not None:
            auth["sasl_mechanism"] = self.sasl
            auth["sasl_plain_username"] = self.username
            auth["sasl_plain_password"] = self.password.reveal()
        return auth

    def ssl_context(self) -> ssl.SSLContext | None:
        """For clients that take a context (aiokafka, Faust); None without TLS."""
        return _context(self.ca, self.cert, self.key, self.key_password) if self.tls else None


class Redis(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Where the state is kept. ``timeout`` is for one call, ``patience`` for all attempts of one call."""

    url: Annotated[str, Meta(pattern=r"^(redis|rediss|unix)://.+$")] = "redis://localhost:6379/0"
    username: str | None = None
    password: Secret | None = None
    password_file: str | None = None
    ca: str | None = None
    cert: str | None = None
    key: str | None = None
    key_password: Secret | None = None
    key_password_file: str | None = None
    cluster: bool = False
    timeout: Seconds = 5.0
    patience: Seconds = 40.0

    def __post_init__(self) -> None:
        if not self.url.startswith("rediss://") and (self.ca or self.cert or self.key):
            raise ValueError("ca, cert and key need a url that begins with rediss://")
        if (self.cert is None) != (self.key is None):
            raise ValueError("cert and key (of the client) go together: set both or neither")
        if self.key_password is not None and self.key is None:
            raise ValueError("key_password opens a key, and none is set")
        if self.username is not None and self.password is None:
            raise ValueError(
                f"username needs a password (password_file, or the variable {PREFIX}REDIS__PASSWORD)"
            )
        if self.cluster and self.url.startswith("unix://"):
            raise ValueError("cluster = true needs a redis:// or rediss:// url, not a unix socket")
        if self.cluster and self.key_password is not None:
            raise ValueError("cluster = true needs a key without a password: the cluster's client takes none")
        if self.patience < self.timeout:
            raise ValueError(
                f"patience ({self.patience:g} s, for all attempts together) must be at least timeout "
                f"({self.timeout:g} s, for one attempt)"
            )

    @property
    def database(self) -> int:
        """The number of the database that the url names."""
        parts = urlsplit(self.url)
        named = parse_qs(parts.query).get("db", [""])[0] or (
            "" if parts.scheme == "unix" else parts.path.strip("/")
        )
        return int(named) if named.isdecimal() else 0

    def ssl_context(self) -> ssl.SSLContext | None:
        """As our connections are secured; None without TLS."""
        secured = self.url.startswith("rediss://")
        return _context(self.ca, self.cert, self.key, self.key_password) if secured else None

    def options(self) -> dict[str, Any]:
        """Keyword arguments beside ``url`` for redis-py's ``from_url``, of single node and cluster alike; holds the
        password in clear, so never log it."""
        options: dict[str, Any] = {
            "socket_timeout": self.timeout,
            "socket_connect_timeout": self.timeout,
            "driver_info": None,  # a user with the least privileges may not run CLIENT SETINFO
        }
        if self.username is not None:
            options["username"] = self.username
        if self.password is not None:
            options["password"] = self.password.reveal()
        if self.url.startswith("rediss://"):
            files = {
                "ssl_ca_certs": self.ca,
                "ssl_certfile": self.cert,
                "ssl_keyfile": self.key,
                "ssl_password": self.key_password and self.key_password.reveal(),
            }
            options |= {name: value for name, value in files.items() if value is not None}
            options |= {"ssl_cert_reqs": "required", "ssl_check_hostname": True}
        return options


class Clock(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """``wall``: live. ``record``: time is what ``clock`` records say (replay, demo, files)."""

    mode: Literal["wall", "record"] = "wall"


class Privacy(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Who is forgotten, and for how long who is silent is kept (days; None: for ever)."""

    key: Secret | None = None
    key_file: str | None = None
    keep_prospects_days: Days | None = None
    keep_lapsed_days: Days | None = None

    def __post_init__(self) -> None:
        if self.key is not None and len(self.key.reveal()) < LEAST_KEY:
            raise ValueError(
                f"key is shorter than {LEAST_KEY} characters: it could be guessed, and with it who was forgotten"
            )


class Worker(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How one worker process runs. Seconds, unless said otherwise."""

    batch: Annotated[int, Meta(ge=1, le=20_000)] = 2000
    sweep_interval: Annotated[float, Meta(ge=0.01, le=60)] = 1.0
    silence_grace: Annotated[float, Meta(ge=0, le=3600)] = 20.0
    startup_deadline: Annotated[float, Meta(gt=0, le=3600)] = 120.0
    http_host: str = "127.0.0.1"
    http_port: Port = 9464
    log_level: Literal["debug", "info", "warning", "error"] = "info"
    log_format: Literal["auto", "console", "json"] = "auto"
    log_key: Secret | None = None
    log_key_file: str | None = None
    otlp_endpoint: Annotated[str, Meta(pattern=r"^https?://[^@/]+(/.*)?$")] | None = None
    accept_invalid_until: tuple[Position, ...] = ()
    trainer: bool = False
    shadow: bool = False

    def shown(self, customer: bytes) -> str:
        """A customer as logs and errors may show it: the id, or under a ``log_key`` its keyed hash, the first 16
        digits of HMAC-SHA256."""
        if self.log_key is None:
            return customer.decode(errors="replace")
        return hmac.new(self.log_key.reveal().encode(), customer, hashlib.sha256).hexdigest()[:16]


class Origin(NamedTuple):
    """The layer a value came from: ``layer`` sorts, ``where`` is for people, ``line`` is that of a file."""

    layer: Literal["default", "file", "environment", "flag"]
    where: str
    line: int | None = None


class Settings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """All settings. ``origins`` says for every dotted key that was set, by which layer."""

    application: Name = "churnwatch"
    kafka: Kafka = Kafka()
    redis: Redis = Redis()
    clock: Clock = Clock()
    shop: Shop = Shop()
    policy: Policy = Policy()
    feeds: Feeds = Feeds()
    prior: Prior = Prior()
    learning: Learning = Learning()
    privacy: Privacy = Privacy()
    worker: Worker = Worker()
    origins: Mapping[str, Origin] = {}

    @property
    def group(self) -> str:
        """The consumer group of the workers: the application's name unless set."""
        return self.kafka.group or self.application

    @property
    def trainers_group(self) -> str:
        """That of the trainer."""
        return f"{self.group}.trainer"

    def origin(self, key: str) -> Origin:
        """Where the value of a dotted key came from."""
        return self.origins.get(key, Origin("default", "the default"))

    @classmethod
    def load(
        cls,
        path: Path | None = None,
        env: Mapping[str, str] | None = None,
        flags: Mapping[str, object] | None = None,
    ) -> Settings:
        """The settings of a TOML file, under an environment, under flags (dotted key to value).

        Raises :class:`SettingsError` with everything that is wrong, not only the first.
        """
        loader = _Loader()
        if path is not None:
            loader.file(path)
        loader.environment(env or {})
        loader.flags(flags or {})
        return loader.settings()


class Problem(NamedTuple):
    """One thing that is wrong: a dotted key, and a sentence with value, what is allowed and the layer."""

    key: str
    text: str


class SettingsError(ValueError):
    """Settings that cannot be used. ``problems`` has one entry for each thing that is wrong."""

    def __init__(self, problems: Sequence[Problem]) -> None:
        self.problems = tuple(problems)
        super().__init__("\n".join(p.text for p in self.problems))


class Key(NamedTuple):
    """One key as an operator may set it: what stands in ``docs/configuration.md``."""

    name: str
    default: Any
    allowed: str
    secret: bool
    kind: Any
    meaning: str

    @property
    def variable(self) -> str:
        """The environment variable that sets it."""
        return PREFIX + self.name.upper().replace(".", "__")

    @property
    def shown(self) -> str:
        """The default as one would write it in the file."""
        return "unset" if self.default is None else written(self.default)


def keys() -> dict[str, Key]:
    """Every key there is, by dotted name, in the order of the structs."""
    found: dict[str, Key] = {}
    for field in msgspec.structs.fields(Settings):
        if field.name == "origins":
            continue
        if isinstance(field.type, type) and issubclass(field.type, msgspec.Struct):
            for inner in msgspec.structs.fields(field.type):
                name = f"{field.name}.{inner.name}"
                found[name] = _key(name, inner)
        else:
            found[field.name] = _key(field.name, field)
    return found


def written(value: Any) -> str:
    """A value as TOML would have it; a secret stays masked."""
    if isinstance(value, Secret):
        return "********"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, (tuple, list)):
        return "[" + ", ".join(written(v) for v in value) + "]"
    if isinstance(value, Mapping):
        return "{" + ", ".join(f'"{k}" = {written(v)}' for k, v in value.items()) + "}"
    if isinstance(value, str):
        return json.dumps(value, ensure_ascii=False)
    return str(value)


def shown(key: Key, value: Any) -> str:
    """A value as it may be shown: a secret masked, and in an address whatever stands before its host."""
    if key.secret and value is not None:
        return written(Secret(""))
    return "unset" if value is None else written(_bare(value) if key.name in _ADDRESSES else value)


_ADDRESSES = frozenset({"redis.url", "kafka.brokers"})


def _bare(value: Any) -> Any:
    if isinstance(value, (list, tuple)):
        return [_bare(each) for each in value]
    if not isinstance(value, str):
        return value
    value = re.sub(r"^([A-Za-z]+://)?.*@", r"\1********@", value, flags=re.DOTALL)
    return re.sub(r"(password=)[^&]*", r"\1********", value)


def _key(name: str, field: msgspec.structs.FieldInfo) -> Key:
    default = field.default
    if default is msgspec.NODEFAULT and field.default_factory is not msgspec.NODEFAULT:
        default = field.default_factory()
    info = shape.type_info(field.type)
    return Key(name, default, _allowed(info), _is_secret(info), field.type, MEANINGS.get(name, ""))


def _is_secret(info: shape.Type) -> bool:
    if isinstance(info, shape.UnionType):
        return any(_is_secret(t) for t in info.types)
    return isinstance(info, shape.CustomType) and info.cls is Secret


# What the patterns above mean, in words: nobody should have to read a regular expression to repair a key.
_PATTERNS = {
    r"^[A-Za-z0-9][A-Za-z0-9._-]{0,62}$": "a name of 1 to 63 letters, digits, dots, dashes or underscores",
    r"^(\[[0-9a-fA-F:.]+\]|[A-Za-z0-9._-]+):[0-9]{1,5}$": "host:port",
    r"^[A-Za-z0-9._-]{0,100}$": "at most 100 letters, digits, dots, dashes or underscores",
    r"^[A-Za-z0-9._-]+:[0-9]+:[0-9]+$": "TOPIC:PARTITION:OFFSET",
    r"^(redis|rediss|unix)://.+$": "redis://HOST:PORT/DB, rediss://HOST:PORT/DB (TLS) or unix:///PATH",
    "^[A-Z]{3}$": "a currency of three capital letters (ISO 4217)",
    r"^[a-z0-9]+(\.[a-z0-9-]+)*$": "a reverse domain name in small letters, such as com.example",
}


def _allowed(info: shape.Type) -> str:
    """What a type allows, in words."""
    match info:
        case shape.UnionType(types=types):
            return " or ".join(_allowed(t) for t in types if not isinstance(t, shape.NoneType))
        case shape.BoolType():
            return "true or false"
        case shape.LiteralType(values=values):
            return "one of " + ", ".join(str(v) for v in values)
        case shape.IntType() | shape.FloatType():
            return ("a whole number" if isinstance(info, shape.IntType) else "a number") + _range(info)
        case shape.StrType(pattern=pattern) if pattern is not None:
            return _PATTERNS.get(pattern, f"text that matches {pattern}")
        case shape.StrType():
            return "text"
        case shape.VarTupleType(item_type=item) | shape.ListType(item_type=item):
            return "a list, each " + _allowed(item)
        case shape.DictType(value_type=item):
            return "a table of names, each with " + _allowed(item)
        case shape.CustomType():
            return "a secret: never in the file or on the command line"
        case _:
            return type(info).__name__


def _range(info: shape.IntType | shape.FloatType) -> str:
    low, above, high, below = info.ge, info.gt, info.le, info.lt
    words = []
    if low is not None:
        words.append(f"from {low:g}" if high is not None else f"at least {low:g}")
    if above is not None:
        words.append(f"above {above:g}")
    if high is not None:
        words.append(f"to {high:g}" if low is not None else f"at most {high:g}")
    if below is not None:
        words.append(f"below {below:g}")
    return " " + ", ".join(words).replace(", to", " to") if words else ""


class _Given(NamedTuple):
    value: Any
    origin: Origin
    text: bool  # from the environment or the command line, so numbers and lists come as text


class _Loader:
    """Collects the layers, then converts key by key, so that each error knows its key and its layer."""

    def __init__(self) -> None:
        self.keys = keys()
        self.sections = {k.split(".")[0] for k in self.keys if "." in k}
        self.given: dict[str, _Given] = {}
        self.entries: dict[str, dict[str, _Given]] = {}  # of keys that are tables
        self.problems: list[Problem] = []

    # ---- layers

    def file(self, path: Path) -> None:
        where = f"the file {path}"
        try:
            text = path.read_text(encoding="utf-8")
            document = tomllib.loads(text)
        except OSError as e:
            self.wrong(
                str(path), f"cannot read {where}: {e.strerror or e}. Check the path and its permissions."
            )
        except UnicodeDecodeError:
            self.wrong(str(path), f"cannot read {where}: it is not UTF-8 text.")
        except tomllib.TOMLDecodeError as e:
            twice = " A section stands in a file once: put its keys together." if "twice" in str(e) else ""
            self.wrong(str(path), f"cannot read {where}: it is not TOML: {e}.{twice}")
        else:
            lines = _lines(text)

            def origin(name: str) -> Origin:
                line = lines.get(name)
                return Origin("file", where if line is None else f"line {line} of {where}", line)

            for name, value in document.items():
                if name in self.sections and isinstance(value, dict):
                    for inner, deep in value.items():
                        key = f"{name}.{inner}"
                        if key in self.keys and self.is_table(key) and isinstance(deep, dict):
                            for entry, one in _flat(deep):
                                self.take(f"{key}.{entry}", one, origin(f"{key}.{entry}"), text=False)
                        else:
                            self.take(key, deep, origin(key), text=False)
                elif name in self.sections:
                    said = f"{name} = {written(value)} in {origin(name).where}"
                    self.wrong(name, f"{said}: must be a section, [{name}].")
                else:
                    self.take(name, value, origin(name), text=False)

    def environment(self, env: Mapping[str, str]) -> None:
        variables = {key.variable: key.name for key in self.keys.values()}
        for variable in sorted(env):
            value = env[variable]
            if not variable.startswith(PREFIX) or variable in RESERVED or value == "":
                continue
            name = variables.get(variable)
            if name is not None:
                self.take(name, value, Origin("environment", f"the variable {variable}"), text=True)
            elif not SERVICE_LINK.search(variable):
                self.wrong(variable, f"unknown variable {variable}.{_meant(variable, variables)}")

    def flags(self, flags: Mapping[str, object]) -> None:
        for name, value in flags.items():
            self.take(name, value, Origin("flag", "the command line"), text=isinstance(value, str))

    def take(self, name: str, value: Any, origin: Origin, *, text: bool) -> None:
        key = self.keys.get(name)
        if key is None:
            table = next((k for k in self.keys if name.startswith(k + ".") and self.is_table(k)), None)
            if table is not None:
                entry = {name.removeprefix(table + "."): value}
                self.take_table(table, entry, origin, text=text)
                return
            self.wrong(name, f"unknown key {name} in {origin.where}.{_meant(name, self.keys)}")
        elif key.secret and origin.layer != "environment":
            self.wrong(
                name,
                f"{name} stands in {origin.where}: secrets are only taken from the variable {key.variable} or, "
                f"by {name}_file, from a file.",
            )
        elif self.is_table(name):
            self.take_table(name, self.parsed(value) if text else value, origin, text=False)
        else:
            self.given[name] = _Given(value, origin, text)

    def take_table(self, name: str, value: Any, origin: Origin, *, text: bool) -> None:
        if not isinstance(value, dict):
            self.refuse(name, value, origin)
            return
        entries = self.entries.setdefault(name, {})
        for entry, deep in _flat(value):
            entries[entry] = _Given(deep, origin, text)

    def is_table(self, name: str) -> bool:
        return isinstance(shape.type_info(self.keys[name].kind), shape.DictType)

    # ---- conversion

    def settings(self) -> Settings:
        self.secrets()
        values: dict[str, dict[str, Any]] = {section: {} for section in self.sections}
        top: dict[str, Any] = {}
        origins: dict[str, Origin] = {}
        for name, given in self.given.items():
            converted = self.convert(name, given)
            if converted is not _WRONG:
                section, _, inner = name.rpartition(".")
                (values[section] if section else top)[inner] = converted
                origins[name] = given.origin
        for name, entries in self.entries.items():
            table = dict(self.keys[name].default)
            for entry, given in entries.items():
                one = self.convert(
                    name, _Given({entry: given.value}, given.origin, given.text), f"{name}.{entry}"
                )
                if one is not _WRONG:
                    table |= one
                    origins[f"{name}.{entry}"] = origins[name] = given.origin
            section, _, inner = name.rpartition(".")
            values[section][inner] = table
        if not self.problems:
            for field in msgspec.structs.fields(Settings):
                if field.name in values:
                    try:
                        top[field.name] = field.type(**values[field.name])
                    except ValueError as e:
                        self.wrong(field.name, f"[{field.name}]: {e}{self.whence(field.name)}.")
            self.cross_check(top)
        if self.problems:
            raise SettingsError(self.problems)
        return Settings(**top, origins=origins)

    def convert(self, name: str, given: _Given, shown: str | None = None) -> Any:
        key = self.keys[name]
        value = given.value
        if (
            given.text
            and isinstance(value, str)
            and isinstance(shape.type_info(key.kind), shape.VarTupleType)
        ):
            value = _listed(value)
        try:
            converted = msgspec.convert(value, key.kind, strict=not given.text, dec_hook=_decode)
            if not (isinstance(converted, float) and not math.isfinite(converted)):
                return converted
        except msgspec.ValidationError:
            pass
        bad = next(iter(value.values())) if shown else value
        self.refuse(shown or name, bad, given.origin, key)
        return _WRONG

    def secrets(self) -> None:
        """Reads ``*_file`` keys, and takes a password out of a Redis url."""
        for name, key in self.keys.items():
            file = self.given.get(name + "_file") if key.secret else None
            if file is None:
                continue
            if name in self.given:
                layer = self.given[name].origin
                if layer.layer == "environment" and file.origin.layer == "file":
                    continue  # the environment is over the file
                self.wrong(name, f"{name} and {name}_file are both set: keep one.")
                continue
            try:
                value = Path(str(file.value)).read_text(encoding="utf-8").rstrip("\r\n")
            except (OSError, UnicodeDecodeError) as e:
                why = e.strerror if isinstance(e, OSError) and e.strerror else "it is not UTF-8 text"
                self.refuse(f"{name}_file", file.value, file.origin, why=f"a file that can be read ({why})")
            else:
                if value:
                    self.given[name] = _Given(value, file.origin, False)
                else:
                    self.refuse(f"{name}_file", file.value, file.origin, why="a file that is not empty")
        url = self.given.get("redis.url")
        if url is not None and isinstance(url.value, str):
            self.url(url)

    def url(self, given: _Given) -> None:
        try:
            parts = urlsplit(given.value)
            _ = parts.port
        except ValueError:  # what stands where a port should may be a password
            self.given.pop("redis.url")
            self.refuse("redis.url", "(unreadable)", given.origin, self.keys["redis.url"])
            return
        if parts.scheme in {"redis", "rediss"} and "@" in parts.path + parts.query + parts.fragment:
            self.given.pop("redis.url")
            self.wrong(
                "redis.url",
                f"redis.url in {given.origin.where} has an @ after its host: in a password inside an address write "
                f"/ as %2F, ? as %3F, # as %23 and @ as %40, or set the variable {PREFIX}REDIS__PASSWORD instead.",
            )
            return
        secret = re.search(r"(password|username)=", parts.query)
        if not secret and (more := parse_qs(parts.query, keep_blank_values=True).keys() - {"db"}):
            # redis-py would take them, and one of them switches the check of the certificate off.
            self.given.pop("redis.url")
            self.wrong(
                "redis.url",
                f"redis.url in {given.origin.where} says {', '.join(sorted(more))} behind its ?: only db may stand there. "
                f"Certificates and time-outs are keys of their own: redis.ca, redis.cert, redis.key, redis.timeout.",
            )
            return
        if parts.password is None and parts.username is None and not secret:
            return
        if given.origin.layer != "environment" or secret:
            self.given.pop("redis.url")
            self.wrong(
                "redis.url",
                f"redis.url in {given.origin.where} holds a user name or a password: set redis.username and "
                f"redis.password_file, or the variable {PREFIX}REDIS__PASSWORD, instead.",
            )
            return
        bare = urlunsplit(parts._replace(netloc=parts.netloc.rpartition("@")[2]))
        self.given["redis.url"] = given._replace(value=bare)
        if parts.username:
            self.given["redis.username"] = given._replace(value=unquote(parts.username))
        if parts.password:
            self.given["redis.password"] = given._replace(value=unquote(parts.password))

    def cross_check(self, top: Mapping[str, Any]) -> None:
        for section in ("kafka", "redis"):
            before = len(self.problems)
            for inner in ("ca", "cert", "key"):
                value = getattr(top.get(section), inner, None)
                if value is not None and not os.access(value, os.R_OK):
                    name = f"{section}.{inner}"
                    self.refuse(name, value, self.given[name].origin, why="a file that can be read")
            if section in top and len(self.problems) == before:
                self.certificates(section, top[section])
        shop: Shop | None = top.get("shop")
        if shop is not None and not _is_zone(shop.time_zone):
            self.refuse(
                "shop.time_zone", shop.time_zone, self.given["shop.time_zone"].origin,
                why="a time zone of the IANA list, such as Europe/Berlin",
            )  # fmt: skip
        privacy: Privacy | None = top.get("privacy")
        policy: Policy | None = top.get("policy")
        learning: Learning | None = top.get("learning")
        if privacy is not None and policy is not None and learning is not None and privacy.keep_lapsed_days:
            least = policy.lapsed_days + max(policy.horizon_days, *learning.horizons, 0.0)
            if privacy.keep_lapsed_days <= least:
                self.refuse(
                    "privacy.keep_lapsed_days", privacy.keep_lapsed_days, self.given["privacy.keep_lapsed_days"].origin,
                    why=f"more than {least:g}: policy.lapsed_days and the longest horizon, so that what became of the "
                    "customer is known",
                )  # fmt: skip
        kafka: Kafka | None = top.get("kafka")
        worker: Worker | None = top.get("worker")
        if kafka is not None and worker is not None:
            known = {kafka.topic(t) for t in kafka.inputs} | set(kafka.inputs)
            for position in worker.accept_invalid_until:
                if position.rsplit(":", 2)[0] not in known:
                    self.refuse(
                        "worker.accept_invalid_until", position, self.given["worker.accept_invalid_until"].origin,
                        why="TOPIC:PARTITION:OFFSET of an input topic (" + ", ".join(sorted(known)) + ")",
                    )  # fmt: skip

    def certificates(self, section: str, of: Kafka | Redis) -> None:
        """Whether our own side of TLS can be set up: no client says well why not."""
        try:
            _context(of.ca, None, None, None)
        except (ssl.SSLError, OSError):
            name = f"{section}.ca"
            self.refuse(name, of.ca, self.given[name].origin, why="a file of certificates in PEM")
            return
        try:
            of.ssl_context()
        except (ssl.SSLError, OSError) as e:
            said = (getattr(e, "reason", None) or str(e)).replace("_", " ").lower()
            self.wrong(
                f"{section}.key",
                f"{section}.cert and {section}.key cannot be used{self.whence(section)}: each must be a file in PEM, the key "
                f"that of the certificate, and {section}.key_password its password if it has one ({said}).",
            )

    # ---- what is wrong

    def refuse(self, name: str, value: Any, origin: Origin, key: Key | None = None, why: str = "") -> None:
        key = key or self.keys.get(name)
        allowed = why or (key.allowed if key else "")
        said = shown(key, value) if key is not None else written(value)
        self.wrong(name, f"{name} = {said} in {origin.where}: must be {allowed}.")

    def wrong(self, key: str, text: str) -> None:
        self.problems.append(Problem(key, text))

    def whence(self, section: str) -> str:
        """Which layers set anything in a section, for errors that concern several keys."""
        found = {g.origin.where for name, g in self.given.items() if name.startswith(section + ".")}
        return f" (set in {' and '.join(sorted(found))})" if found else ""

    def parsed(self, value: Any) -> Any:
        """A table given as text: ``{EUR = 1.1}`` or ``{"EUR": 1.1}``."""
        try:
            return tomllib.loads(f"v = {value}")["v"]
        except ValueError:
            pass
        try:
            return json.loads(value)
        except ValueError:
            return value


class _Wrong:
    """What ``convert`` gives back for a value that was refused: None is a value."""


_WRONG = _Wrong()


def _decode(kind: type, value: Any) -> Any:
    if kind is Secret and isinstance(value, str):
        return Secret(value)
    raise msgspec.ValidationError("not a secret")


def _lines(text: str) -> dict[str, int]:
    """The line on which each dotted key of a TOML document begins, counted from 1."""
    found: dict[str, int] = {}
    table = ""
    begun: list[str] = []
    for number, line in enumerate(text.replace("\r\n", "\n").split("\n"), 1):
        begun.append(line)
        try:  # a statement is whole when it can be read: one that goes on over several lines cannot before its last
            statement = tomllib.loads("\n".join(begun))
        except tomllib.TOMLDecodeError:
            continue
        names = [name for name, _ in _flat(statement)]
        if line.lstrip().startswith("[") and len(begun) == 1:
            table = _path(statement)
            found.setdefault(table, number)
        for name in names:
            found[f"{table}.{name}" if table else name] = number - len(begun) + 1
        begun = []
    return found


def _path(header: Mapping[str, Any]) -> str:
    """The dotted name of the table that a header alone opens."""
    names = []
    while header:
        name, deeper = next(iter(header.items()))
        names.append(name)
        header = deeper if isinstance(deeper, dict) else {}
    return ".".join(names)


def _flat(table: Mapping[str, Any], under: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in table.items():
        if isinstance(value, dict):
            yield from _flat(value, f"{under}{name}.")
        else:
            yield under + name, value


def _listed(value: str) -> Any:
    """A list given as text: ``a,b`` or ``["a", "b"]``; nothing is an empty list."""
    if value.lstrip().startswith("["):
        try:
            return json.loads(value)
        except ValueError:
            return value
    return [part.strip() for part in value.split(",") if part.strip()]


def _meant(name: str, known: Mapping[str, object]) -> str:
    close = difflib.get_close_matches(name, known, n=1, cutoff=0.6)
    if not close:  # the right name in the wrong section, or without one
        last = re.split(r"\.|__", name)[-1]
        close = [k for k in known if re.split(r"\.|__", k)[-1] == last][:1]
    return f" Did you mean {close[0]}?" if close else " See docs/configuration.md for the keys there are."


def _is_zone(name: str) -> bool:
    try:
        ZoneInfo(name)
    except (ValueError, OSError, LookupError):
        return False
    return True


def _context(ca: str | None, cert: str | None, key: str | None, password: Secret | None) -> ssl.SSLContext:
    context = ssl.create_default_context(cafile=ca)
    if cert is not None:
        # Without a password, OpenSSL would ask the terminal for that of a key which has one.
        context.load_cert_chain(cert, key, password.reveal() if password else "")
    return context


def redacted(url: str) -> str:
    """A url that may be shown: without user and password, whatever else it holds."""
    parts = urlsplit(url)
    return urlunsplit(parts._replace(netloc=quote(parts.netloc.rpartition("@")[2], safe=":[]")))
