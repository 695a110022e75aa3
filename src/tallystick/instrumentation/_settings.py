"""How `instrument()` is set: arguments beat variables; limits and budgets may also stand in tallystick.toml."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from decimal import Decimal
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from tallystick.errors import SettingsError
from tallystick.instrumentation._content import MODES
from tallystick.instrumentation._limits import Limits, amount_of
from tallystick.instrumentation._rules import Rules, rules_of_file
from tallystick.model.places import bearer, collector_url, spool_dir

FILE = "tallystick.toml"
LIMITS = ("max_input_tokens", "max_output_tokens", "max_cost_usd", "loop_limit")
SPOOL_BYTES_MAX = 256 * 1024 * 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """What an instrumented process needs to know."""

    service: str
    environment: str | None
    collector: str
    """The base URL of an OTLP/HTTP receiver."""
    spool: Path
    spool_bytes_max: int = SPOOL_BYTES_MAX
    providers: Mapping[str, str] = field(default_factory=dict)
    """Gateways: ``host[:port][/path]`` to the provider that bills behind it."""
    content: str = "off"
    """Whether prompts and answers are recorded: off, redacted or full."""
    redact: Callable[[str], str] | None = None
    """The app's own redactor, after ours."""
    limits: Limits = field(default_factory=Limits)
    """What one call may come to."""
    rules: Rules = field(default_factory=Rules)
    """Budgets of a tallystick.toml that enforce; they hold until a collector tells its own."""


def read_settings(
    environ: Mapping[str, str],
    *,
    service: str | None = None,
    environment: str | None = None,
    collector: str | None = None,
    spool: str | Path | None = None,
    providers: Mapping[str, str] | None = None,
    content: str | None = None,
    redact: Callable[[str], str] | None = None,
    limits: Mapping[str, object] | None = None,
) -> Settings:
    """Return the settings; raise SettingsError that names what is wrong, its value and what is allowed."""
    url = (collector or collector_url(environ)).rstrip("/")
    parts = urlsplit(url)
    if parts.scheme not in {"http", "https"} or not parts.hostname:
        raise SettingsError(f"collector is {url!r}; it must be a URL such as http://127.0.0.1:4318")
    bearer(environ, url)  # what is wrong with the token is said now, not by a thread that nobody hears
    file = _file(environ)
    return Settings(
        service=service or environ.get("OTEL_SERVICE_NAME") or _program_name(),
        environment=environment or environ.get("TALLYSTICK_ENVIRONMENT"),
        collector=url,
        spool=Path(spool) if spool else spool_dir(environ),
        providers=_providers(environ) if providers is None else dict(providers),
        content=_content(content or environ.get("TALLYSTICK_CONTENT") or "off", redact),
        redact=redact,
        limits=_limits(environ, limits or {}, file.get("instrument", {})),
        rules=rules_of_file(file.get("budget", ())),
    )


def _file(environ: Mapping[str, str]) -> dict[str, Any]:
    """Return what stands in ``TALLYSTICK_CONFIG``, else in tallystick.toml in the current folder; empty without one."""
    named = environ.get("TALLYSTICK_CONFIG")
    path = Path(named or FILE)
    if not named and not path.exists():
        return {}
    import tomllib  # only where there is such a file

    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise SettingsError(f"TALLYSTICK_CONFIG is {named!r}; there is no such file") from error
    except (OSError, ValueError) as error:  # tomllib's and Unicode's errors are both of the latter
        raise SettingsError(f"{path}: cannot be read as TOML: {error}") from error


def _limits(environ: Mapping[str, str], given: Mapping[str, object], table: object) -> Limits:
    """Return the limits of one call: arguments beat variables beat the file."""
    if not isinstance(table, dict):
        raise SettingsError(f"{FILE}: instrument is {table!r}; it is a table [instrument]")
    for key in table:
        if key not in LIMITS:
            raise SettingsError(f"{FILE}: [instrument]: unknown key {key!r}; known: {', '.join(LIMITS)}")
    found: dict[str, Decimal] = {}
    for name in LIMITS:
        places = (
            (name, given.get(name)),
            (f"TALLYSTICK_{name.upper()}", environ.get(f"TALLYSTICK_{name.upper()}") or None),
            (f"{FILE}: [instrument] {name}", table.get(name)),
        )
        for place, value in places:
            if value is not None:
                found[name] = amount_of(place, value)
                break
    whole = {name: int(found[name]) for name in LIMITS if name in found and name != "max_cost_usd"}
    return Limits(max_cost_usd=found.get("max_cost_usd"), **whole)


def _content(mode: str, redact: object) -> str:
    if mode not in MODES:
        raise SettingsError(f"content is {mode!r}; it must be {', '.join(MODES[:-1])} or {MODES[-1]}")
    if redact is not None and not callable(redact):
        raise SettingsError(f"redact is {redact!r}; it must be a function from text to text")
    if redact is not None and mode == "full":
        raise SettingsError("redact is given but content is 'full'; write content='redacted', or leave redact out")
    return mode


def _providers(environ: Mapping[str, str]) -> dict[str, str]:
    """Read ``TALLYSTICK_PROVIDERS``: ``place=provider`` pairs, separated by commas."""
    mapped = {}
    for pair in filter(None, environ.get("TALLYSTICK_PROVIDERS", "").split(",")):
        place, separator, provider = pair.strip().rpartition("=")
        if not (separator and place and provider):
            raise SettingsError(
                f"TALLYSTICK_PROVIDERS has {pair!r}; each pair is host[:port][/path]=provider, "
                "such as llm.corp.example/anthropic=anthropic"
            )
        mapped[place] = provider
    return mapped


def _program_name() -> str:
    """Return a service name from how the program was started: the package of ``-m``, else the script's name."""
    main = sys.modules.get("__main__")
    spec = getattr(main, "__spec__", None)
    if spec is not None and spec.name:
        return str(spec.name.removesuffix(".__main__"))
    return Path(sys.argv[0] or "python").stem if sys.argv else "python"
