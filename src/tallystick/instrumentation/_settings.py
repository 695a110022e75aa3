"""How `instrument()` is set: arguments beat variables; no file."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

from tallystick.errors import SettingsError
from tallystick.instrumentation._content import MODES
from tallystick.model.places import bearer, collector_url, spool_dir

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
) -> Settings:
    """Return the settings; raise SettingsError that names what is wrong, its value and what is allowed."""
    url = (collector or collector_url(environ)).rstrip("/")
    parts = urlsplit(url)
    if parts.scheme not in {"http", "https"} or not parts.hostname:
        raise SettingsError(f"collector is {url!r}; it must be a URL such as http://127.0.0.1:4318")
    bearer(environ, url)  # what is wrong with the token is said now, not by a thread that nobody hears
    return Settings(
        service=service or environ.get("OTEL_SERVICE_NAME") or _program_name(),
        environment=environment or environ.get("TALLYSTICK_ENVIRONMENT"),
        collector=url,
        spool=Path(spool) if spool else spool_dir(environ),
        providers=_providers(environ) if providers is None else dict(providers),
        content=_content(content or environ.get("TALLYSTICK_CONTENT") or "off", redact),
        redact=redact,
    )


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
