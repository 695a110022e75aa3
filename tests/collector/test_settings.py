"""Settings: arguments beat variables beat file, and what is wrong is told in one line."""

from __future__ import annotations

import re
from datetime import time
from decimal import Decimal
from pathlib import Path

import pytest
from pydantic import BaseModel

from fakes.collector import start_process
from tallystick.collector.settings import AlertSettings, BudgetSettings, CollectorSettings, load
from tallystick.errors import SettingsError
from tallystick.instrumentation._settings import LIMITS

PAGE = (Path(__file__).parents[2] / "docs" / "settings.md").read_text(encoding="utf-8")
BUDGET = "[[budget]]\nname = 'team'\n"


@pytest.fixture(autouse=True)
def no_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("DATA", "SPOOL", "PORT", "HOST"):
        monkeypatch.delenv(f"TALLYSTICK_{name}", raising=False)


def written(folder: Path, text: str) -> Path:
    path = folder / "tallystick.toml"
    path.write_text(text, encoding="utf-8")
    return path


@pytest.mark.parametrize("table", [CollectorSettings, AlertSettings, BudgetSettings])
def test_every_setting_is_described_and_documented(table: type[BaseModel]) -> None:
    for name, setting in table.model_fields.items():
        assert setting.description, name
        assert f"| `{name}` |" in PAGE, f"docs/settings.md lacks {name}"


def test_the_page_names_no_setting_that_is_none() -> None:
    known = {name for table in (CollectorSettings, AlertSettings, BudgetSettings) for name in table.model_fields}
    known |= set(LIMITS)

    assert set(re.findall(r"^\| `(\w+)` \|", PAGE, re.MULTILINE)) == known


def test_arguments_beat_variables_beat_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = written(tmp_path, "[collector]\nport = 1\nhost = 'localhost'\ndata = 'file'\n")
    monkeypatch.setenv("TALLYSTICK_PORT", "2")
    monkeypatch.setenv("TALLYSTICK_DATA", "variable")
    monkeypatch.setenv("TALLYSTICK_COLLECTOR", "http://127.0.0.1:4318")  # the app's, and no table of ours
    found = load(port=3, config=path).collector

    assert (found.port, found.data, found.host) == (3, Path("variable"), "localhost")


def test_without_a_file_the_defaults_hold(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    found = load()

    assert (found.collector.host, found.collector.port, found.budgets()) == ("127.0.0.1", 4318, ())


def test_a_budget_is_read_without_losing_a_digit(tmp_path: Path) -> None:
    path = written(
        tmp_path,
        BUDGET + "limit_usd = 0.1\nscope = { feature = 'chat', 'tag.tenant' = 'acme' }\nwindow = 'month'\n"
        "timezone = 'Europe/Berlin'\nreset_at = '06:30'\nthresholds = [0.8, 1.0]\n",
    )
    (budget,) = load(config=path).budgets()

    assert (budget.limit_usd, budget.thresholds) == (Decimal("0.1"), (Decimal("0.8"), Decimal("1.0")))
    assert budget.scope == {"feature": "chat", "tag.tenant": "acme"}
    assert (budget.window, budget.timezone, budget.reset_at) == ("month", "Europe/Berlin", time(6, 30))


@pytest.mark.parametrize(
    ("text", "told"),
    [
        (
            BUDGET + "limit = 3",
            "[[budget]] 'team': unknown key 'limit'; known: name, limit_usd, limit_tokens, limit_calls, scope, ",
        ),
        (BUDGET + "limit_usd = -5", "[[budget]] 'team': limit_usd is -5, must be greater than 0"),
        (BUDGET + "limit_usd = 'x'", "[[budget]] 'team': limit_usd is x, must be a valid decimal"),
        (BUDGET, "[[budget]] 'team': limit 'none' cannot work; allowed: exactly one of limit_usd, limit_tokens, "),
        (
            BUDGET + "limit_usd = 1\nlimit_calls = 1",
            "limit 'limit_usd and limit_calls' cannot work; allowed: exactly one",
        ),
        (BUDGET + "limit_tokens = 1.5", "[[budget]] 'team': limit_tokens is 1.5, must be a valid integer"),
        (
            BUDGET + "limit_usd = 1\naction = 'stop'",
            "action 'stop' cannot work; allowed: alert, block or downgrade:MODEL",
        ),
        (BUDGET + "limit_usd = 1\nwait = -1", "wait -1 cannot work; allowed: seconds from 0 to 600"),
        ("[[budget]]\nlimit_usd = 1", "[[budget]] number 1: name is missing"),
        (BUDGET + "limit_usd = 1\nwindow = 'year'", "[[budget]] 'team': window 'year' cannot work"),
        (BUDGET + "limit_usd = 1\ntimezone = 'Mars'", "[[budget]] 'team': timezone 'Mars' cannot work"),
        (BUDGET + "limit_usd = 1\nscope = { feture = 'x' }", "[[budget]] 'team': scope 'feture' cannot work"),
        ((BUDGET + "limit_usd = 1\n") * 2, "[[budget]] 'team': the name stands twice"),
        ("budget = 3", "budget is 3; each budget is a table [[budget]]"),
        ("[colector]", "unknown table 'colector'; known: collector, alerts, budget"),
        ("[collector]\nprt = 1", "[collector]: unknown key 'prt'; known: host, port, "),
        ("[collector]\nport = 70000", "[collector]: port is 70000, must be less than or equal to 65535"),
        (
            "[collector]\nhost = '0.0.0.0'",
            "[collector]: host is 0.0.0.0, which other machines reach; that needs token or",
        ),
        ("collector = 1", "collector is 1; it is a table [collector]"),
        ("[[budget]\nname", "is not TOML: Expected ']]' at the end of an array declaration (at line 1, column 9)"),
        ("[collector]\n\nport = = 1", "(at line 3, column 8)"),
    ],
)
def test_what_is_wrong_is_told_in_one_line(tmp_path: Path, text: str, told: str) -> None:
    path = written(tmp_path, text)
    with pytest.raises(SettingsError) as error:
        load(config=path)

    assert str(error.value).startswith(f"{path}: ")
    assert told in str(error.value)
    assert "\n" not in str(error.value)


def test_a_wrong_variable_and_a_wrong_argument_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SettingsError, match=r"--host: host is nowhere, is no address of this machine"):
        load(host="nowhere")
    monkeypatch.setenv("TALLYSTICK_PORT", "http")
    with pytest.raises(SettingsError, match="TALLYSTICK_PORT: port is http, must be a valid integer"):
        load()


def test_a_webhook_is_never_shown(tmp_path: Path) -> None:
    secret = "https://hooks.slack.example/services/T000/B000/verysecret"
    found = load(config=written(tmp_path, f"[alerts]\nslack_webhook_url = '{secret}'"))

    assert "verysecret" not in repr(found)
    with pytest.raises(SettingsError) as error:
        load(config=written(tmp_path, f"[alerts]\nslack_webhook_url = ['{secret}']"))
    assert "verysecret" not in str(error.value)


def test_a_file_that_is_named_must_be_there(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="there is no such file"):
        load(config=tmp_path / "absent.toml")


def test_the_command_tells_a_wrong_setting_in_one_line(tmp_path: Path) -> None:
    path = written(tmp_path, BUDGET + "limit = 3")
    process = start_process(path)
    output = process.communicate(timeout=30)[0]

    assert process.returncode == 1
    assert output.startswith(f"tallystick: {path}: [[budget]] 'team': unknown key 'limit'")
    assert output.count("\n") == 1
