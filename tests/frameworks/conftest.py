"""One process, one framework: instrumented before its import or after it, between a loopback provider and a receiver.

These tests run in environments of their own, which ``python tests/frameworks/run.py`` makes; elsewhere they are not
collected.  ``TALLYSTICK_FRAMEWORK`` names the environment, ``TALLYSTICK_ORDER`` who comes first.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from importlib import import_module
from typing import Any

import pytest

import tallystick
from fakes.provider import Provider, running_provider
from fakes.receiver import running_receiver
from frameworks.house import FRAMEWORK, PATCHED, WE_ARE_FIRST, House, Watch

MODULES = {
    "langchain": ["langchain_openai", "langchain_anthropic"],
    "pydantic-ai": ["pydantic_ai", "pydantic_ai.models.openai", "pydantic_ai.models.anthropic"],
    "instructor": ["instructor", "openai", "anthropic"],
    "openai-agents": ["agents"],
    "litellm": ["litellm"],
}

collect_ignore_glob = [] if FRAMEWORK else ["test_*.py"]

# Nothing of these reaches the network, or a home folder.
QUIET = {
    "LITELLM_LOCAL_MODEL_COST_MAP": "True",
    "OPENAI_AGENTS_DISABLE_TRACING": "1",
    "LANGSMITH_TRACING": "false",
    "DO_NOT_TRACK": "1",
}


@pytest.fixture(scope="session")
def loopback() -> Iterator[Provider]:
    with running_provider() as provider:
        yield provider


@pytest.fixture(scope="session")
def house(loopback: Provider, tmp_path_factory: pytest.TempPathFactory) -> Iterator[House]:
    os.environ.update(QUIET)
    with running_receiver() as receiver:
        made = House(loopback, receiver, tmp_path_factory.mktemp("spool"))
        if WE_ARE_FIRST:
            assert PATCHED.isdisjoint(sys.modules), "instrument() comes before every import of what it patches"
            made.instrument()
        for name in MODULES.get(FRAMEWORK, []):
            import_module(name)
        if not WE_ARE_FIRST:
            made.instrument()
        yield made
        tallystick.uninstrument()


@pytest.fixture
def drive(house: House) -> Callable[..., Watch]:
    """Run a shape; what fails without us as well is absent, and named."""

    def run(shape: Callable[[Provider], Any]) -> Watch:
        watch = Watch(house)
        try:
            shape(house.provider)
        except Exception as error:
            tallystick.uninstrument()
            try:
                shape(house.provider)
            except type(error) as without_us:
                pytest.skip(f"absent, without us too: {without_us!r:.200}")
            finally:
                house.instrument()
                house.provider.clear_scripts()
            raise
        return watch

    return run
