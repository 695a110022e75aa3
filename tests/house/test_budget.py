"""`tallystick budget list`: the table says what a person asks."""

from __future__ import annotations

from datetime import UTC, datetime
from io import StringIO
from typing import Any

import pytest
from rich.console import Console

from tallystick.budgets import show
from tallystick.client import Collector

NOW = datetime(2026, 11, 21, 12, tzinfo=UTC)


def row(**values: Any) -> dict[str, Any]:
    figures = {"spent": "8.12", "reserved": "0.31", "left": "1.57", "share": "0.812", "pace_per_hour": "0.9",
               "full_at": "2026-11-21T13:44:00Z", "refused": 3}  # fmt: skip
    return {
        "name": "chat", "scope": {"feature": "chat"}, "unit": "usd", "limit": "10", "action": "block",
        "window": {"kind": "day", "timezone": "Europe/Berlin"}, "resets_in_s": 39600.0, "groups": [],
        "groups_count": 0, **figures, **values,
    }  # fmt: skip


def shown(*rows: dict[str, Any], width: int = 150) -> list[str]:
    console = Console(file=StringIO(), width=width, color_system=None)
    console.print(show.table(list(rows), NOW))
    assert isinstance(console.file, StringIO)
    return [" ".join(line.split()) for line in console.file.getvalue().splitlines()]


def test_the_table_says_spent_held_left_pace_and_when_it_is_full_and_resets() -> None:
    lines = shown(row())

    assert lines[1] == "chat $8.12 81% $10.00 $0.310 $1.57 $0.900 in 1 h 44 min 11 h 0 min 3 block"
    assert lines[2] == "day Europe/Berlin, feature chat"


def test_groups_are_listed_the_fullest_first_and_the_rest_is_counted() -> None:
    figures = {"reserved": "0", "share": "0.5", "pace_per_hour": "0", "full_at": None, "refused": 0}
    groups = [{"group": {"user": f"u{number}"}, "spent": "50", "left": "50", **figures} for number in range(4)]
    lines = shown(row(
        unit="tokens", limit="100", spent="50", left="50", **figures, resets_in_s=None, groups=groups, groups_count=9,
        window={"kind": "rolling 1h", "timezone": "UTC"},
    ))  # fmt: skip

    assert lines[1] == "chat 50 50% 100 tokens 0 50 0 - rolling - block"
    assert lines[3:] == [f"user u{number} 50 50% 100 tokens 0 50 0 - -" for number in range(3)] + ["and 6 more"]


def test_no_escape_sequence_of_a_name_reaches_the_terminal() -> None:
    assert "\x1b" not in "".join(shown(row(name="a\x1b[31mb", scope={"user": "\x1b]0;x\x07"})))


def test_a_narrow_terminal_shows_the_names_and_every_figure_below() -> None:
    group = {"group": {"user": "ada"}, "spent": "2", "reserved": "0", "left": "8", "share": "0.2", "full_at": None,
             "pace_per_hour": "0", "refused": 0}  # fmt: skip

    told = [line.plain for line in show.lines([row(groups=[group], groups_count=1)], NOW)]

    assert told == [
        "chat\nday Europe/Berlin, feature chat",
        "  $8.12 81% of $10.00, $0.310 reserved, $1.57 left, $0.900 an hour, full in 1 h 44 min, resets in 11 h 0 min, "
        "3 refused, at the limit: block",
        "  user ada:  $2.00 20% of $10.00, $0 reserved, $8.00 left, $0 an hour",
    ]


def test_the_command_is_readable_on_80_columns(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setattr(Collector, "ask", lambda *_: {"rows": [row()]})

    assert show.run("http://127.0.0.1:1") == 0

    out = capsys.readouterr().out
    assert out.startswith("chat\n")
    assert "…" not in out
    assert max(map(len, out.splitlines())) <= 80
