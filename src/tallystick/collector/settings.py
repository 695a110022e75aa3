"""The collector's settings: arguments beat variables beat ``tallystick.toml``; the page is docs/settings.md."""

from __future__ import annotations

import ipaddress
import os
import re
import tomllib
from collections.abc import Mapping
from datetime import datetime, time
from decimal import Decimal
from pathlib import Path
from typing import Annotated, Any, Self, TypeVar
from zoneinfo import ZoneInfo

from pydantic import BaseModel, BeforeValidator, Field, SecretStr, ValidationError, field_validator, model_validator
from pydantic_settings import (
    BaseSettings,
    InitSettingsSource,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
)

from tallystick.alerts import DIGESTS, KINDS
from tallystick.alerts.outside import is_url
from tallystick.alerts.slack import API_URL
from tallystick.errors import SettingsError
from tallystick.model.budgets import FAIL, ON_UNBOUNDED, ON_UNPRICED, THRESHOLDS, WINDOWS, Budget, is_zone
from tallystick.model.places import DEFAULT_COLLECTOR_PORT, data_dir, spool_dir

FILE = "tallystick.toml"
TOKEN_CHARS_MIN = 16
MIB = 1024 * 1024

Table = TypeVar("Table", bound=BaseSettings)


def _decimal(value: Any) -> Any:
    # TOML's 0.1 arrives as a float; its shortest text is what was written in the file.
    return str(value) if isinstance(value, float) else value


Amount = Annotated[Decimal, BeforeValidator(_decimal)]


FROM_FILE = "_file"


class _Table(BaseSettings):
    """A table of the file, each key of which may also be a variable: ``port`` is ``TALLYSTICK_PORT``."""

    model_config = SettingsConfigDict(env_prefix="TALLYSTICK_", extra="forbid", frozen=True)

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,  # noqa: ARG003 -- pydantic-settings names the parameters
        file_secret_settings: PydanticBaseSettingsSource,  # noqa: ARG003
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Arguments, then variables, then the file."""
        given = dict(init_settings())
        file = given.pop(FROM_FILE, {})
        return InitSettingsSource(settings_cls, given), env_settings, InitSettingsSource(settings_cls, dict(file))


class CollectorSettings(_Table):
    """``[collector]``: where spans are received and where they are kept."""

    host: str = Field(
        default="127.0.0.1", description="The address to listen at; beyond loopback only with a token and TLS."
    )
    port: int = Field(default=DEFAULT_COLLECTOR_PORT, ge=0, le=65535, description="The port; 0 takes a free one.")
    hosts: tuple[str, ...] = Field(
        default=(), description="Names by which others may ask, beside loopback's and the address itself."
    )
    token: SecretStr | None = Field(default=None, description="What every request must bear, 16 characters or more.")
    token_file: Path | None = Field(default=None, description="Or a file that holds the token, its owner's alone.")
    tls_certificate: Path | None = Field(default=None, description="A PEM file; with it HTTPS is spoken, nothing else.")
    tls_key: Path | None = Field(default=None, description="The certificate's key, when that file does not hold it.")
    grpc_port: int | None = Field(
        default=None, ge=0, le=65535, description="Where OTLP over gRPC is received too, 4317 by custom."
    )
    data: Path = Field(
        default_factory=lambda: data_dir(os.environ),
        description="The data folder. Default: TALLYSTICK_DATA, else XDG's data home.",
    )
    spool: Path = Field(
        default_factory=lambda: spool_dir(os.environ),
        description="Where apps leave their segments; a dead app's are adopted. Default: TALLYSTICK_SPOOL, else XDG's.",
    )
    body_bytes_max: int = Field(
        default=16 * MIB,
        ge=1024,
        le=48 * MIB,
        description="The largest request, in bytes, before and after decompression.",
    )
    spans_max: int = Field(
        default=20_000, ge=1, description="How many spans of one request are taken; the rest is rejected."
    )
    attributes_max: int = Field(default=1_000, ge=1, description="A span with more attributes than this is rejected.")
    segment_bytes_max: int = Field(
        default=64 * MIB, ge=4096, description="When a journal segment is that large, the next one is begun."
    )
    group_ms: int = Field(
        default=50,
        ge=1,
        le=5000,
        description="How long the applier gathers what arrived before it commits, in milliseconds.",
    )
    worker: bool = Field(
        default=True,
        description="Rows are made in a second process, so that the first answers meanwhile; false takes less memory.",
    )
    memory_limit_mb: int = Field(default=256, ge=64, description="How much memory DuckDB may take, in MB.")
    archive_days: int = Field(
        default=40, ge=1, description="After so many days rows move from the database into the archive (Parquet)."
    )
    retention_days: int = Field(
        default=400, ge=36, description="After so many days rows are dropped; the sums of their hours stay."
    )
    retention_gb: float | None = Field(
        default=None, gt=0, description="What database and archive may take together, in GB; the oldest goes first."
    )
    query_threads: int = Field(default=4, ge=1, le=64, description="How many questions are answered at the same time.")
    query_timeout_s: float = Field(
        default=30.0, gt=0, description="A question that takes longer is broken off, in seconds."
    )
    forward_url: str | None = Field(
        default=None, description="A second OTLP/HTTP endpoint that is sent all that arrives, without /v1/traces."
    )
    forward_headers: dict[str, SecretStr] = Field(
        default_factory=dict, description='Headers for it, as { Authorization = "..." }.'
    )

    @field_validator("host")
    @classmethod
    def _is_address(cls, host: str) -> str:
        if host == "localhost":
            return host
        try:
            return str(ipaddress.ip_address(host.strip("[]")))
        except ValueError:
            raise ValueError("is no address of this machine; 127.0.0.1, ::1, localhost or an IP address is") from None

    @field_validator("forward_url")
    @classmethod
    def _is_endpoint(cls, url: str | None) -> str | None:
        if url is not None and not (url.startswith(("http://", "https://")) and is_url(url)):
            raise ValueError("is no URL; one looks like https://otlp.example:4318")
        return url

    @property
    def is_loopback(self) -> bool:
        """Whether only this machine can reach it."""
        return self.host == "localhost" or ipaddress.ip_address(self.host).is_loopback

    @property
    def names(self) -> tuple[str, ...]:
        """What a request's Host may be, beside loopback's names."""
        is_anywhere = self.host != "localhost" and ipaddress.ip_address(self.host).is_unspecified
        return self.hosts if is_anywhere else (*self.hosts, self.host)

    def url(self, port: int) -> str:
        """Return where those ask it who run beside it; with TLS by the first name, which the certificate is for."""
        host = self.names[0] if self.tls_certificate else self.host
        return f"http{'s' if self.tls_certificate else ''}://{f'[{host}]' if ':' in host else host}:{port}"

    def bearer(self) -> str | None:
        """Return the token, None when none is needed; raises SettingsError when the file cannot be what was meant."""
        if self.token is not None:
            return self.token.get_secret_value()
        return None if self.token_file is None else read_token(self.token_file)


class AlertSettings(_Table):
    """``[alerts]``: where alerts go."""

    slack_webhook_url: SecretStr | None = Field(
        default=None, description="Slack's incoming webhook; without it alerts are only shown."
    )
    slack_bot_token: SecretStr | None = Field(
        default=None, description="A bot's token, xoxb-...: one message for each window, which is updated."
    )
    slack_channel: str | None = Field(default=None, description="Where the bot posts: a channel's id, as C0123456789.")
    slack_app_token: SecretStr | None = Field(
        default=None, description="The app's token, xapp-..., for the buttons Ack, Snooze and Raise limit."
    )
    slack_api_url: str = Field(default=API_URL, description="Where Slack's Web API is.")
    webhook_url: SecretStr | None = Field(default=None, description="Where alerts are posted as signed JSON.")
    webhook_secret: SecretStr | None = Field(default=None, description="What the webhook's signature is made with.")
    apprise_urls: tuple[SecretStr, ...] = Field(
        default=(), description="Other places, in Apprise's words, as mailto://... or discord://..."
    )
    watch: tuple[str, ...] = Field(
        default=tuple(kind for kind in KINDS if kind != "burn_rate"),
        description=f"What is told besides thresholds: {', '.join(KINDS)}.",
    )
    digest: str = Field(default="off", description=f"A summary of the spend that is over: {', '.join(DIGESTS)}.")
    digest_at: time = Field(default=time(9), description='When the digest is told, in timezone, as "09:00".')
    quiet_hours: str | None = Field(
        default=None, description='When only urgent alerts are told, as "22:00-07:00"; the others wait.'
    )
    timezone: str = Field(default="UTC", description="Where quiet hours are counted, an IANA name.")
    dashboard_url: str | None = Field(
        default=None, description="Where the dashboard is, for links in messages, as http://127.0.0.1:8501."
    )
    every_ms: int = Field(
        default=500, ge=10, le=60_000, description="Budgets are looked at after a commit, but not more often than this."
    )

    @model_validator(mode="after")
    def _is_whole(self) -> Self:
        if (self.slack_bot_token is None) != (self.slack_channel is None):
            raise ValueError("slack_bot_token and slack_channel need each other")
        if self.slack_app_token is not None and self.slack_bot_token is None:
            raise ValueError("slack_app_token needs slack_bot_token: only a bot's messages have buttons")
        return self

    @field_validator("watch")
    @classmethod
    def _is_known(cls, watch: tuple[str, ...]) -> tuple[str, ...]:
        if unknown := sorted(set(watch) - set(KINDS)):
            raise ValueError(f"has {unknown[0]!r}; known: {', '.join(KINDS)}")
        return watch

    @field_validator("digest")
    @classmethod
    def _is_digest(cls, digest: str) -> str:
        if digest not in DIGESTS:
            raise ValueError(f"is no digest; one of {', '.join(DIGESTS)}")
        return digest

    @field_validator("timezone")
    @classmethod
    def _is_zone(cls, name: str) -> str:
        if not is_zone(name):
            raise ValueError("is no zone; an IANA name is, as Europe/Berlin")
        return name

    @field_validator("quiet_hours")
    @classmethod
    def _is_span(cls, hours: str | None) -> str | None:
        if hours is not None and not re.fullmatch(r"([01]\d|2[0-3]):[0-5]\d-([01]\d|2[0-3]):[0-5]\d", hours):
            raise ValueError('is no span of hours; "22:00-07:00" is one')
        return hours

    def is_quiet(self, now: datetime) -> bool:
        """Tell whether only urgent alerts are told at ``now``, by the clock on the wall in ``timezone``."""
        if self.quiet_hours is None:
            return False
        start, end = (time.fromisoformat(part) for part in self.quiet_hours.split("-"))
        at = now.astimezone(ZoneInfo(self.timezone)).time()
        return start <= at < end if start <= end else at >= start or at < end


class BudgetSettings(BaseModel, extra="forbid", frozen=True):
    """``[[budget]]``: a limit on what a scope may spend in a window."""

    name: str = Field(description="What alerts and the dashboard call it; each name once.")
    limit_usd: Amount | None = Field(default=None, gt=0, description="The limit, in USD.")
    limit_tokens: int | None = Field(default=None, gt=0, description="Or the limit in tokens, read and written.")
    limit_calls: int | None = Field(default=None, gt=0, description="Or the limit in calls.")
    scope: dict[str, str] = Field(
        default_factory=dict, description='Which calls count, as { feature = "chat" }; empty: every call.'
    )
    group_by: tuple[str, ...] = Field(
        default=(), description='Each combination of these dimensions has the limit for itself, as ["user"].'
    )
    window: str = Field(default="day", description=f"One of {', '.join(WINDOWS)}, or rolling, as rolling 24h.")
    timezone: str = Field(default="UTC", description="Where the window's days begin, an IANA name.")
    reset_at: time = Field(default=time(), description='The local time at which the window begins, as "06:00".')
    week_start: str = Field(default="monday", description="The day with which a week begins.")
    thresholds: tuple[Amount, ...] = Field(
        default=THRESHOLDS, description="Shares of the limit at which an alert is raised, ascending; 0.8 is 80 %."
    )
    action: str = Field(default="alert", description="What happens at the limit: alert, block or downgrade:MODEL.")
    fail: str = Field(default="closed", description=f"While no collector answers: {', '.join(FAIL)}.")
    on_unpriced: str = Field(default="block", description=f"Calls without a known price: {', '.join(ON_UNPRICED)}.")
    on_unbounded: str = Field(default="block", description=f"Calls that nothing bounds: {', '.join(ON_UNBOUNDED)}.")
    wait: Amount = Field(default=Decimal(0), description="How long a call may wait for room, in seconds.")
    clamp: bool = Field(default=False, description="Whether max_tokens may be lowered to what fits.")

    def budget(self) -> Budget:
        """Return the value that the rest of the collector works with."""
        return Budget(**{name: getattr(self, name) for name in type(self).model_fields})


class Settings(BaseModel, extra="forbid", frozen=True):
    """All of ``tallystick.toml``."""

    collector: CollectorSettings = Field(
        default_factory=CollectorSettings, description="Where spans are received and kept."
    )
    alerts: AlertSettings = Field(default_factory=AlertSettings, description="Where alerts go.")
    budget: tuple[BudgetSettings, ...] = Field(default=(), description="The budgets, one [[budget]] each.")

    def budgets(self) -> tuple[Budget, ...]:
        """Return the budgets as values."""
        return tuple(entry.budget() for entry in self.budget)


INSTRUMENT = "instrument"
"""The table of the app's side, which `instrument()` reads: none of the collector's business."""
TABLES: dict[str, type[BaseModel]] = {
    "collector": CollectorSettings,
    "alerts": AlertSettings,
    "budget": BudgetSettings,
}


def load(
    *, data: Path | None = None, host: str | None = None, port: int | None = None, config: Path | None = None
) -> Settings:
    """Return the settings; raises SettingsError, whose one line names the place, the value and what is allowed."""
    path = config or Path(FILE)
    file = _read(path, wanted=config is not None)
    given = {name: value for name, value in (("data", data), ("host", host), ("port", port)) if value is not None}
    budgets = file.get("budget", [])
    _check_shape(path, file)
    settings = Settings(
        collector=_table(path, CollectorSettings, "collector", file.get("collector", {}), given),
        alerts=_table(path, AlertSettings, "alerts", file.get("alerts", {}), {}),
        budget=tuple(_budget(path, number, entry) for number, entry in enumerate(budgets, start=1)),
    )
    _check_doors(path, settings.collector)
    _check_budgets(path, settings)
    return settings


def _check_doors(path: Path, collector: CollectorSettings) -> None:
    """Raise SettingsError when others could reach the collector and read or write what they like."""
    bearer = collector.bearer()
    if bearer is not None and not (len(bearer) >= TOKEN_CHARS_MIN and bearer.isascii() and bearer.isprintable()):
        raise SettingsError(
            f"{path}: [collector]: token has {len(bearer)} characters; {TOKEN_CHARS_MIN} or more are needed, "
            "of printable ASCII, as `openssl rand -hex 32` prints them"
        )
    for key, file in (("tls_certificate", collector.tls_certificate), ("tls_key", collector.tls_key)):
        if file is not None and not file.is_file():
            raise SettingsError(f"{path}: [collector]: {key} is {file}, which is no file; it is a PEM file")
    if collector.tls_key is not None and collector.tls_certificate is None:
        raise SettingsError(f"{path}: [collector]: tls_key is set without tls_certificate, which it belongs to")
    if collector.is_loopback:
        return
    if bearer is None or collector.tls_certificate is None:
        missing = [
            *(["token or token_file"] if bearer is None else []),
            *(["tls_certificate"] if collector.tls_certificate is None else []),
        ]
        raise SettingsError(
            f"{path}: [collector]: host is {collector.host}, which other machines reach; that needs "
            f"{' and '.join(missing)} too. Listen at 127.0.0.1, or set them"
        )
    if not collector.names:
        raise SettingsError(
            f"{path}: [collector]: host is {collector.host}, every address, but hosts is empty; "
            'name what others call this machine, as hosts = ["collector.example"]'
        )


def read_token(file: Path) -> str:
    """Return the token that ``file`` holds; raises SettingsError when others may read it, or it is not there."""
    try:
        mode = file.stat().st_mode
        token = file.read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise SettingsError(f"token_file {file} cannot be read: {error}") from error
    if mode & 0o077:
        raise SettingsError(f"token_file {file} is readable by others (mode {mode & 0o777:o}); chmod 600 {file}")
    return token


def _check_shape(path: Path, file: Mapping[str, Any]) -> None:
    for name, table in file.items():
        if name == INSTRUMENT:
            continue
        if name not in TABLES:
            raise SettingsError(f"{path}: unknown table {name!r}; known: {', '.join((*TABLES, INSTRUMENT))}")
        if name == "budget" and not (isinstance(table, list) and all(isinstance(entry, dict) for entry in table)):
            raise SettingsError(f"{path}: budget is {table!r}; each budget is a table [[budget]]")
        if name != "budget" and not isinstance(table, dict):
            raise SettingsError(f"{path}: {name} is {table!r}; it is a table [{name}]")


def _table(path: Path, kind: type[Table], name: str, file: Mapping[str, Any], given: Mapping[str, Any]) -> Table:
    try:
        values: dict[str, Any] = {FROM_FILE: file, **given}
        return kind(**values)
    except ValidationError as error:
        first = _first(error)
        key = str(first["loc"][0])
        variable = f"TALLYSTICK_{key.upper()}"
        if key in given:
            place = f"--{key}: "
        elif variable in os.environ:
            place = f"{variable}: "
        else:
            place = f"{path}: [{name}]: "
        raise SettingsError(place + _finding(first, kind) + _more(error)) from error


def _budget(path: Path, number: int, entry: Mapping[str, Any]) -> BudgetSettings:
    try:
        budget_from(entry)
    except SettingsError as error:
        label = repr(entry["name"]) if entry.get("name") else f"number {number}"
        raise SettingsError(f"{path}: [[budget]] {label}: {error}") from error
    return BudgetSettings(**entry)


def budget_from(entry: Mapping[str, Any]) -> Budget:
    """Return the budget that ``entry`` describes; raises SettingsError, which names the key and what is allowed."""
    try:
        return BudgetSettings(**entry).budget()
    except ValidationError as error:  # which is a ValueError too
        raise SettingsError(f"{_finding(_first(error), BudgetSettings)}{_more(error)}") from error
    except ValueError as error:
        raise SettingsError(str(error)) from error


def _read(path: Path, *, wanted: bool) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        if not wanted:
            return {}
        raise SettingsError(f"{path}: there is no such file; name another with --config, or leave it out") from error
    except (OSError, UnicodeDecodeError) as error:
        raise SettingsError(f"{path}: cannot be read: {error}") from error
    except tomllib.TOMLDecodeError as error:
        # The text ends in "(at line 3, column 7)".
        raise SettingsError(f"{path}: is not TOML: {error}") from error


def _check_budgets(path: Path, settings: Settings) -> None:
    names: set[str] = set()
    for position, entry in enumerate(settings.budget, start=1):
        if entry.name in names:
            raise SettingsError(
                f"{path}: [[budget]] {entry.name!r}: the name stands twice (again at {position}.); each once"
            )
        names.add(entry.name)


def _first(error: ValidationError) -> Any:
    """Return the finding to tell; an unknown key first, because a misspelt one is also a missing one."""
    findings = error.errors(include_url=False)
    return min(findings, key=lambda finding: finding["type"] != "extra_forbidden")


def _more(error: ValidationError) -> str:
    return f" (and {error.error_count() - 1} more)" if error.error_count() > 1 else ""


def _finding(finding: Any, kind: type[BaseModel]) -> str:
    """Return "key is value, must ..." for what pydantic found."""
    key, value = ".".join(map(str, finding["loc"])), finding["input"]
    if finding["type"] == "extra_forbidden":
        return f"unknown key {key!r}; known: {', '.join(kind.model_fields)}"
    if finding["type"] == "missing":
        return f"{key} is missing; it is {kind.model_fields[key].description}"
    said = finding["msg"].removeprefix("Value error, ").removeprefix("Input ").removeprefix("should ")
    # A webhook's address is a secret, as is the token, and this line ends in logs.
    what = key if "url" in key or key == "token" else f"{key} is {value}"
    return f"{what}, {said}" if finding["type"] == "value_error" else f"{what}, must {said}"
