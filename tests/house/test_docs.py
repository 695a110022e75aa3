from __future__ import annotations

import argparse
import re
from pathlib import Path

import pytest

from tallystick import cli, errors
from tallystick.mock.scripts import STEPS

ROOT = Path(__file__).parents[2]
DOCS = sorted((ROOT / "docs").glob("*.md"))
COMMANDS = (ROOT / "docs" / "commands.md").read_text()
README = (ROOT / "README.md").read_text()


def subcommands() -> list[str]:
    [action] = [action for action in cli.parser()._actions if isinstance(action, argparse._SubParsersAction)]
    return list(action.choices)


@pytest.mark.parametrize("name", subcommands())
def test_every_command_is_documented(name: str) -> None:
    assert f"`tallystick {name}`" in COMMANDS


@pytest.mark.parametrize("step", STEPS)
def test_every_step_of_the_mock_is_documented(step: str) -> None:
    assert f"`{step}`" in COMMANDS


@pytest.mark.parametrize("page", [ROOT / "README.md", *DOCS], ids=lambda page: page.name)
def test_links_between_pages_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\((?!https?:)([^)#]+)", page.read_text()):
        assert (page.parent / target).exists(), target


@pytest.mark.parametrize("page", DOCS, ids=lambda page: page.name)
def test_every_page_is_reached_from_the_readme(page: Path) -> None:
    assert f"(docs/{page.name})" in README


def test_every_error_stands_in_the_tree() -> None:
    for name, thing in vars(errors).items():
        if isinstance(thing, type) and issubclass(thing, errors.TallystickError):
            assert name in (errors.__doc__ or ""), name
