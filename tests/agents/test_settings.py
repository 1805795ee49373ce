from __future__ import annotations

import re
from pathlib import Path

import msgspec
import pytest

from agents.meanings import MEANINGS, SECTIONS
from agents.settings import Kafka, Origin, Redis, Secret, Settings, SettingsError, keys, redacted

DOCS = Path(__file__).parents[2] / "docs" / "configuration.md"


def refusal(
    tmp_path: Path, toml: str = "", env: dict[str, str] | None = None, flags: dict[str, object] | None = None
) -> str:
    file = tmp_path / "churnwatch.toml"
    file.write_text(toml)
    with pytest.raises(SettingsError) as caught:
        Settings.load(file, env, flags)
    return str(caught.value)


def test_nothing_set_gives_the_defaults() -> None:
    settings = Settings.load()
    assert settings == Settings()
    assert settings.group == "churnwatch"
    assert settings.origin("kafka.brokers") == Origin("default", "the default")


def test_a_key_of_a_file_knows_its_line_however_it_is_written(tmp_path: Path) -> None:
    file = tmp_path / "c.toml"
    file.write_text(
        'kafka.prefix = "a."  # dotted\n'
        "\n"
        "[shop]\r\n"
        "closing_days = [  # of several lines\n"
        '  "2026-12-25",\n'
        "]\n"
        "rates = {EUR = 1.1}\n"
        "[policy.actions]\n"
        '"high.repeat" = """\n'
        'visit"""\n'
        'medium.repeat = "call"\n'
    )
    settings = Settings.load(file)
    lines = {name: origin.line for name, origin in settings.origins.items()}
    assert lines == {
        "kafka.prefix": 1,
        "shop.closing_days": 4,
        "shop.rates": 7,
        "shop.rates.EUR": 7,
        "policy.actions": 11,
        "policy.actions.high.repeat": 9,
        "policy.actions.medium.repeat": 11,
    }


def test_flags_are_over_the_environment_and_the_environment_is_over_the_file(tmp_path: Path) -> None:
    file = tmp_path / "c.toml"
    file.write_text('application = "a"\n[worker]\nbatch = 1\nhttp_port = 1\nlog_level = "debug"\n')
    env = {
        "CHURNWATCH_WORKER__BATCH": "2",
        "CHURNWATCH_WORKER__HTTP_PORT": "2",
        "CHURNWATCH_APPLICATION": "b",
    }
    settings = Settings.load(file, env, {"worker.batch": "3"})
    assert (settings.worker.batch, settings.worker.http_port, settings.worker.log_level) == (3, 2, "debug")
    assert settings.application == "b"
    assert settings.origin("worker.batch").layer == "flag"
    assert settings.origin("worker.http_port").where == "the variable CHURNWATCH_WORKER__HTTP_PORT"
    assert settings.origin("worker.log_level") == Origin("file", f"line 5 of the file {file}", 5)


def test_text_from_the_environment_becomes_numbers_lists_truth_and_tables() -> None:
    settings = Settings.load(
        env={
            "CHURNWATCH_KAFKA__BROKERS": "a:1, b:2",
            "CHURNWATCH_KAFKA__INPUTS": '["purchases"]',
            "CHURNWATCH_REDIS__CLUSTER": "true",
            "CHURNWATCH_POLICY__MEDIUM": "0.5",
            "CHURNWATCH_SHOP__RATES": "{EUR = 1.1}",
        },
        flags={"shop.rates.GBP": "1.3", "policy.actions.high.repeat": "visit"},
    )
    assert settings.kafka.brokers == ("a:1", "b:2")
    assert settings.kafka.inputs == ("purchases",)
    assert settings.redis.cluster is True
    assert settings.policy.medium == 0.5
    assert settings.shop.rates == {"EUR": 1.1, "GBP": 1.3}
    assert settings.policy.actions["high.repeat"] == "visit"
    assert settings.policy.actions["medium.repeat"] == "reminder", "the rest of the table stays"


def test_an_empty_variable_is_not_set() -> None:
    assert Settings.load(env={"CHURNWATCH_KAFKA__GROUP": ""}).kafka.group is None


def test_a_value_that_is_not_allowed_names_key_value_layer_and_what_is(tmp_path: Path) -> None:
    said = refusal(tmp_path, "[policy]\nhigh = 1.5\n")
    assert said == (
        f"policy.high = 1.5 in line 2 of the file {tmp_path}/churnwatch.toml: must be a number from 0 to 1."
    )
    said = refusal(tmp_path, env={"CHURNWATCH_CLOCK__MODE": "sun"})
    assert said == 'clock.mode = "sun" in the variable CHURNWATCH_CLOCK__MODE: must be one of record, wall.'
    said = refusal(tmp_path, flags={"kafka.brokers": "localhost"})
    assert said == 'kafka.brokers = ["localhost"] in the command line: must be a list, each host:port.'


def test_an_unknown_key_is_an_error_that_guesses_what_was_meant(tmp_path: Path) -> None:
    assert "Did you mean kafka.brokers?" in refusal(tmp_path, '[kafka]\nbroker = "x:1"\n')
    assert "Did you mean CHURNWATCH_REDIS__URL?" in refusal(tmp_path, env={"CHURNWATCH_REDIS_URL": "x"})
    assert "Did you mean policy.horizon_days?" in refusal(tmp_path, flags={"prior.horizon_days": "3"})
    assert "Did you mean kafka.brokers?" in refusal(tmp_path, 'brokers = "x:1"\n')
    assert "[kafka]" in refusal(tmp_path, "kafka = 3\n")


def test_every_mistake_is_reported_at_once(tmp_path: Path) -> None:
    said = refusal(tmp_path, "[worker]\nbatch = 0\nlog_level = 3\n", {"CHURNWATCH_REDIS__TIMEOUT": "soon"})
    assert len(said.splitlines()) == 3


def test_variables_that_kubernetes_makes_for_a_service_of_our_name_are_ignored() -> None:
    env = {
        "CHURNWATCH_PORT": "tcp://10.0.0.1:9464",
        "CHURNWATCH_SERVICE_HOST": "10.0.0.1",
        "CHURNWATCH_REDIS_PORT_6379_TCP_ADDR": "10.0.0.2",
        "CHURNWATCH_REDIS_SERVICE_PORT_REDIS": "6379",
    }
    assert Settings.load(env=env) == Settings()


def test_a_secret_in_the_file_or_on_the_command_line_is_refused_without_being_shown(tmp_path: Path) -> None:
    for said in (
        refusal(tmp_path, '[redis]\npassword = "hunter2"\n'),
        refusal(tmp_path, flags={"redis.password": "hunter2"}),
        refusal(tmp_path, '[redis]\nurl = "redis://u:hunter2@h:1"\n'),
    ):
        assert "hunter2" not in said
        assert "CHURNWATCH_REDIS__PASSWORD" in said


def test_a_secret_comes_from_a_file_or_the_environment_and_never_shows_itself(tmp_path: Path) -> None:
    secret = tmp_path / "password"
    secret.write_text("hunter2\n")
    env = {
        "CHURNWATCH_KAFKA__SASL": "SCRAM-SHA-512",
        "CHURNWATCH_KAFKA__USERNAME": "me",
        "CHURNWATCH_KAFKA__PASSWORD_FILE": str(secret),
        "CHURNWATCH_REDIS__PASSWORD": "hunter3",
    }
    settings = Settings.load(env=env)
    assert settings.kafka.password is not None
    assert settings.kafka.password.reveal() == "hunter2"
    assert settings.redis.options()["password"] == "hunter3"
    shown = f"{settings} {settings!r} {settings.kafka.password} {settings.kafka.password:>20}"
    assert "hunter" not in shown
    with pytest.raises(TypeError):
        msgspec.json.encode(settings.redis)


def test_a_password_in_a_redis_url_of_the_environment_is_taken_out_of_it() -> None:
    settings = Settings.load(env={"CHURNWATCH_REDIS__URL": "rediss://app:p%40ss@h:6380/2"})
    assert settings.redis.url == "rediss://h:6380/2"
    assert settings.redis.options()["username"] == "app"
    assert settings.redis.options()["password"] == "p@ss"
    assert redacted("redis://u:p@h:1/2") == "redis://h:1/2"


@pytest.mark.parametrize(
    "url", ["redis://u:p/hunter2@h:1", "redis://u:hunter2?@h:1", "redis:u:hunter2@h", "http://u:hunter2@h"]
)
def test_an_address_that_is_refused_does_not_show_its_password(tmp_path: Path, url: str) -> None:
    said = refusal(tmp_path, env={"CHURNWATCH_REDIS__URL": url})
    assert "redis.url" in said
    assert "hunter2" not in said
    said = refusal(tmp_path, env={"CHURNWATCH_KAFKA__BROKERS": "ok:1, me:hunter2@b:9092"})
    assert said.startswith('kafka.brokers = ["ok:1", "********@b:9092"] in the variable')


def test_a_secret_file_that_cannot_be_read_or_is_empty_is_an_error(tmp_path: Path) -> None:
    said = refusal(tmp_path, '[redis]\npassword_file = "/nowhere/x"\n')
    assert "redis.password_file" in said
    assert "No such file" in said
    (tmp_path / "empty").write_text("\n")
    assert "not empty" in refusal(tmp_path, flags={"redis.password_file": str(tmp_path / "empty")})


def test_the_variable_is_over_the_file_for_secrets_too(tmp_path: Path) -> None:
    (tmp_path / "p").write_text("old")
    file = tmp_path / "c.toml"
    file.write_text(f'[redis]\npassword_file = "{tmp_path}/p"\n')
    settings = Settings.load(file, {"CHURNWATCH_REDIS__PASSWORD": "new"})
    assert settings.redis.password == Secret("new")


@pytest.mark.parametrize(
    ("env", "needs"),
    [
        ({"CHURNWATCH_KAFKA__SASL": "PLAIN"}, "needs username and a password"),
        ({"CHURNWATCH_KAFKA__USERNAME": "me"}, "need sasl"),
        ({"CHURNWATCH_KAFKA__CA": "/etc/hosts"}, "need tls = true"),
        ({"CHURNWATCH_KAFKA__TLS": "1", "CHURNWATCH_KAFKA__CERT": "/etc/hosts"}, "go together"),
        ({"CHURNWATCH_KAFKA__TLS": "1", "CHURNWATCH_KAFKA__CA": "/nowhere"}, "a file that can be read"),
        ({"CHURNWATCH_KAFKA__REQUEST_TIMEOUT": "10"}, "more than session_timeout"),
        ({"CHURNWATCH_KAFKA__INPUTS": "purchases,purchases"}, "twice"),
        ({"CHURNWATCH_REDIS__CA": "/etc/hosts"}, "rediss://"),
        ({"CHURNWATCH_REDIS__PATIENCE": "1"}, "at least timeout"),
        ({"CHURNWATCH_REDIS__USERNAME": "me"}, "needs a password"),
        ({"CHURNWATCH_SHOP__TIME_ZONE": "Mars/Olympus"}, "IANA"),
        ({"CHURNWATCH_POLICY__HIGH": "nan"}, "a number from 0 to 1"),
        ({"CHURNWATCH_PRIOR__BROWSING": "inf"}, "must be a number"),
        ({"CHURNWATCH_WORKER__ACCEPT_INVALID_UNTIL": "alerts:0:5"}, "input topic"),
    ],
)
def test_settings_that_contradict_each_other_or_the_world_are_refused(
    tmp_path: Path, env: dict[str, str], needs: str
) -> None:
    assert needs in refusal(tmp_path, env=env)


def test_a_file_that_is_missing_or_is_not_toml_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="No such file"):
        Settings.load(tmp_path / "none.toml")
    assert "not TOML" in refusal(tmp_path, "a = = b")
    said = refusal(tmp_path, "[prior]\nspread = 1\n[kafka]\n[prior]\nstrength = 2\n")
    assert "line 4" in said
    assert "put its keys together" in said


def test_clients_get_tls_and_sasl() -> None:
    kafka = Kafka(
        tls=True, sasl="SCRAM-SHA-256", username="me", password=Secret("pw"), brokers=("b:1", "c:2")
    )
    config = kafka.librdkafka()
    assert config["bootstrap.servers"] == "b:1,c:2"
    assert config["security.protocol"] == "sasl_ssl"
    assert config["sasl.password"] == "pw"
    assert kafka.ssl_context() is not None
    assert Kafka().ssl_context() is None
    assert Kafka().protocol == "PLAINTEXT"
    assert Redis(url="rediss://h", ca="/ca").options()["ssl_ca_certs"] == "/ca"


def test_the_documentation_lists_every_key_with_its_default_what_is_allowed_and_what_it_means() -> None:
    rows: dict[str, tuple[str, str, str]] = {}
    for line in DOCS.read_text(encoding="utf-8").splitlines():
        found = re.match(r"\| `([a-z_.]+)` \| (.*?) \| (.*?) \| (.+?) \|$", line)
        if found:
            rows[found[1]] = (found[2], found[3], found[4])
    for name, key in keys().items():
        default = "see below" if name == "policy.actions" else f"`{key.shown}`"
        assert key.meaning, f"agents/meanings.py misses {name}"
        row = f"| `{name}` | {default} | {key.allowed} | {key.meaning} |"
        assert name in rows, f"docs/configuration.md misses: {row}"
        assert rows[name] == (default, key.allowed, key.meaning), f"docs/configuration.md differs from: {row}"
    assert set(rows) == set(keys()), "docs/configuration.md has keys that are no more"
    assert set(MEANINGS) == set(keys()), "agents/meanings.py has keys that are no more"
    sections = [name.split(".")[0] for name in keys() if "." in name]
    assert list(SECTIONS) == list(dict.fromkeys(sections)), "agents/meanings.py has other sections"
