from __future__ import annotations

import json
import subprocess
import sys

import tallystick

HEAVY = {"duckdb", "streamlit", "pydantic", "genai_prices", "pyarrow", "pandas", "starlette", "rich", "google"}


def loaded_after(code: str) -> set[str]:
    """Return the top-level names of the modules that a fresh interpreter holds after ``code``."""
    tell = "; import sys, json; print(json.dumps(sorted({name.partition('.')[0] for name in sys.modules})))"
    ran = subprocess.run([sys.executable, "-c", code + tell], capture_output=True, text=True, check=True, timeout=60)
    return set(json.loads(ran.stdout))


def test_import_loads_no_third_party_module() -> None:
    assert loaded_after("import tallystick") - sys.stdlib_module_names - loaded_after("pass") == {"tallystick"}


def test_instrument_loads_neither_an_sdk_nor_anything_heavy() -> None:
    loaded = loaded_after("import tallystick; tallystick.instrument()")

    assert not loaded & (HEAVY | {"anthropic", "openai", "httpx", "httpx2"})


def test_pricing_a_call_in_the_app_loads_nothing_heavy() -> None:
    code = "from tallystick.pricing import price; price('openai', 'gpt-4o', {'prompt_tokens': 1})"

    assert loaded_after(code) - sys.stdlib_module_names - loaded_after("pass") == {"tallystick"}


def test_the_public_surface_is_what_all_says() -> None:
    for name in tallystick.__all__:
        assert getattr(tallystick, name) is not None
    assert tallystick.__all__ == sorted(tallystick.__all__)
    assert set(dir(tallystick)) == {*tallystick.__all__, "__version__"}


def test_a_collector_loads_what_it_does_not_need_at_its_start_when_it_needs_it() -> None:
    loaded = loaded_after("import tallystick.collector.service")

    assert {"duckdb", "uvicorn"} <= loaded
    assert not loaded & {"slack_sdk", "apprise", "PIL", "grpc", "genai_prices", "pandas"}


def test_what_makes_rows_knows_neither_the_store_nor_the_settings() -> None:
    assert not loaded_after("import tallystick.collector.worker") & {"duckdb", "pydantic", "slack_sdk", "starlette"}
