from __future__ import annotations

import os
import re
import subprocess
import tomllib
from pathlib import Path

import msgspec
import pytest

from agents.configuration import commented
from agents.meanings import EXAMPLES
from agents.settings import Settings, keys
from tests.agents.command_line import CommandLine
from tests.secured import Authority


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def uncommented(text: str) -> str:
    """With the # away that stands right before a key."""
    return re.sub(r"^#(?=[\w\"])", "", text, flags=re.MULTILINE)


def plain(settings: Settings) -> Settings:
    return msgspec.structs.replace(settings, origins={})


# ---- init


def test_the_file_that_init_writes_changes_nothing(churnwatch: CommandLine) -> None:
    said = churnwatch("config", "init")
    assert said.code == 0
    assert "Wrote churnwatch.toml" in said.out
    settings = Settings.load(Path("churnwatch.toml"))
    assert settings == Settings()
    assert churnwatch("config", "show", "--changed").err == "Everything is left at its default.\n"


def test_with_every_key_uncommented_it_still_holds_the_defaults() -> None:
    text = uncommented(commented())
    Path("all.toml").write_text(text)
    settings = Settings.load(Path("all.toml"))
    assert plain(settings) == Settings()
    given = {name for name, key in keys().items() if key.default is not None and key.default != {}}
    assert given <= settings.origins.keys(), "every key that has a default stands there"


def test_every_key_stands_there_with_its_meaning_and_what_is_allowed() -> None:
    lines = commented()
    text = " ".join(lines.replace("\n# ", " ").split())
    for name, key in keys().items():
        assert f"{key.meaning} Allowed: {key.allowed}." in text or key.secret, name
        last = name.rpartition(".")[2]
        assert re.search(rf"# ?{last} = |\[{re.escape(name)}\]|{key.variable}\b", lines), name


def test_what_is_shown_as_an_example_is_allowed(tmp_path: Path) -> None:
    unset = {name for name, key in keys().items() if key.default is None and not key.secret}
    assert unset <= EXAMPLES.keys()
    # A secret, or an authority, or a certificate with its key.
    made = Authority(tmp_path / "authority").certificate("shop")
    made.both.rename(tmp_path / "there")
    for name, example in EXAMPLES.items():
        section, _, key = name.partition(".")
        beside = {
            "sasl": 'username = "me"\npassword_file = "there"',
            "username": 'sasl = "PLAIN"\npassword_file = "there"' if section == "kafka" else 'password_file = "there"',
            "password_file": 'sasl = "PLAIN"\nusername = "me"' if section == "kafka" else "",
            "key_password_file": 'cert = "there"\nkey = "there"',
            "cert": 'key = "there"',
            "key": 'cert = "there"',
        }.get(key, "")  # fmt: skip
        if key in {"ca", "cert", "key", "key_password_file"}:
            beside += "\ntls = true" if section == "kafka" else '\nurl = "rediss://h"'
        written = '"there"' if re.match(r'"/', example) else example
        Path("one.toml").write_text(f"[{section}]\n{key} = {written}\n{beside}\n")
        assert name in Settings.load(Path("one.toml")).origins


def test_a_file_that_is_there_is_left_alone_unless_forced(churnwatch: CommandLine) -> None:
    Path("shop.toml").write_text("application = 'mine'\n")
    said = churnwatch("config", "init", "shop.toml")
    assert said.code == 2
    assert "shop.toml is there already" in said.err
    assert "--force" in said.err
    assert Path("shop.toml").read_text() == "application = 'mine'\n"
    assert churnwatch("config", "init", "--force", "shop.toml").code == 0
    assert Path("shop.toml").read_text() == commented()
    assert [each.name for each in Path().iterdir()] == ["shop.toml"], "no half-written file is left"


def test_a_pipe_is_written_and_stays_a_pipe(churnwatch: CommandLine) -> None:
    os.mkfifo("pipe")
    reader = subprocess.Popen(["cat", "pipe"], stdout=subprocess.PIPE)
    try:
        assert churnwatch("config", "init", "pipe").code == 0
        assert reader.communicate(timeout=20)[0].decode() == commented()
    finally:
        reader.kill()
    assert Path("pipe").is_fifo()


def test_a_folder_that_is_not_there_is_explained(churnwatch: CommandLine) -> None:
    said = churnwatch("config", "init", "nowhere/churnwatch.toml")
    assert said.code == 6
    assert "Cannot write nowhere/churnwatch.toml" in said.err
    assert "No such file" in said.err
    assert "folder" in said.err


def test_init_writes_to_standard_output_too_and_needs_no_valid_settings(churnwatch: CommandLine) -> None:
    Path("churnwatch.toml").write_text("nonsense = 3\n")
    said = churnwatch("config", "init", "-")
    assert (said.code, said.out) == (0, commented())


# ---- show


def test_show_names_the_layer_and_the_line_of_each_value(
    churnwatch: CommandLine, monkeypatch: pytest.MonkeyPatch
) -> None:
    Path("churnwatch.toml").write_text('[policy]\n\nhigh = 0.9\n[policy.actions]\n"high.repeat" = "visit"\n')
    monkeypatch.setenv("CHURNWATCH_KAFKA__PREFIX", "shop1.")
    said = churnwatch("--set", "worker.batch=100", "config", "show")
    assert said.code == 0
    lines = [" ".join(line.split()) for line in said.out.splitlines()]
    assert "high = 0.9 # line 3 of the file churnwatch.toml" in lines
    assert '"high.repeat" = "visit" # line 5 of the file churnwatch.toml' in lines
    assert 'prefix = "shop1." # the variable CHURNWATCH_KAFKA__PREFIX' in lines
    assert "batch = 100 # the command line" in lines
    assert "medium = 0.6 # default" in lines
    assert "# group is unset # default" in lines


def test_what_show_prints_is_a_settings_file_of_the_same_settings(churnwatch: CommandLine) -> None:
    Path("churnwatch.toml").write_text("[policy]\nhigh = 0.9\n")
    flags = ("--set", "shop.rates.EUR=1.25", "--set", "policy.actions.high.repeat=visit", "--prefix", "a.")
    Path("shown.toml").write_text(churnwatch(*flags, "config", "show").out)
    shown = plain(Settings.load(Path("shown.toml")))
    given = {"shop.rates.EUR": "1.25", "policy.actions.high.repeat": "visit", "kafka.prefix": "a."}
    assert shown == plain(Settings.load(Path("churnwatch.toml"), flags=given))
    assert shown.policy.high == 0.9


def test_show_takes_sections_and_keys_and_what_was_changed(churnwatch: CommandLine) -> None:
    out = churnwatch("config", "show", "clock", "policy.high").out
    assert list(tomllib.loads(out)) == ["clock", "policy"]
    assert list(tomllib.loads(out)["policy"]) == ["high"]
    out = churnwatch("--set", "policy.high=0.7", "config", "show", "--changed").out
    assert tomllib.loads(out) == {"policy": {"high": 0.7}}
    said = churnwatch("config", "show", "kafak")
    assert said.code == 2
    assert "no section and no key" in said.err


def test_secrets_are_never_shown_wherever_they_come_from(
    churnwatch: CommandLine, monkeypatch: pytest.MonkeyPatch
) -> None:
    Path("secret").write_text("hunter3")
    monkeypatch.setenv("CHURNWATCH_REDIS__URL", "rediss://app:hunter2@h:6380/2")
    monkeypatch.setenv("CHURNWATCH_KAFKA__SASL", "PLAIN")
    monkeypatch.setenv("CHURNWATCH_KAFKA__USERNAME", "me")
    monkeypatch.setenv("CHURNWATCH_KAFKA__PASSWORD_FILE", "secret")
    said = churnwatch("config", "show")
    assert "hunter" not in said.out + said.err
    assert "# password = ********" in said.out
    assert 'url = "rediss://h:6380/2"' in said.out
    told = {line["key"]: line for line in churnwatch("config", "show", "--json").lines}
    assert "hunter" not in str(told)
    assert told["redis.password"]["value"] == "********"
    assert told["redis.password"]["where"] == "the variable CHURNWATCH_REDIS__URL"
    assert told["kafka.password"]["value"] == "********"
    assert told["kafka.key_password"]["value"] is None


def test_json_has_a_line_for_each_key_with_its_default(churnwatch: CommandLine) -> None:
    Path("churnwatch.toml").write_text("[policy]\nhigh = 0.9\n")
    told = {line["key"]: line for line in churnwatch("config", "show", "--json").lines}
    assert told["policy.high"] == {
        "key": "policy.high",
        "value": 0.9,
        "default": 0.8,
        "from": "file",
        "where": "line 2 of the file churnwatch.toml",
        "line": 2,
    }
    assert told["kafka.inputs"]["value"] == list(Settings().kafka.inputs)
    assert told["policy.actions.medium.repeat"]["value"] == "reminder"
    named = {name for name in told if not name.startswith("policy.actions.")}
    assert named == keys().keys() - {"policy.actions"}


def test_settings_that_are_wrong_are_told_and_not_shown(churnwatch: CommandLine) -> None:
    Path("churnwatch.toml").write_text("[policy]\nhigh = 1.9\n")
    said = churnwatch("config", "show")
    assert said.code == 2
    assert said.out == ""
    assert (
        "policy.high = 1.9 in line 2 of the file churnwatch.toml: must be a number from 0 to 1." in said.err
    )
