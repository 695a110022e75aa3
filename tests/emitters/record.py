"""Records what other emitters send: each in an environment of its own, its real package, against the loopback provider.

    python tests/emitters/record.py               all
    python tests/emitters/record.py openlit       one

Writes ``tests/data/emitters/NAME.pb`` (an ExportTraceServiceRequest) and ``NAME.json`` (versions, and the provider's
invoice).  Where the anthropic SDK's own spans can be on as well, a second recording is ``NAME+native``.
"""

from __future__ import annotations

import gzip
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

ROOT = Path(__file__).absolute().parents[2]
sys.path.insert(0, str(ROOT / "tests"))

from google.protobuf.message import DecodeError  # noqa: E402
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest  # noqa: E402

from fakes.provider import Provider, running_provider  # noqa: E402

HOME = ROOT / ".matrix" / "emitters"
DATA = ROOT / "tests" / "data" / "emitters"
BASE = ["opentelemetry-sdk", "opentelemetry-exporter-otlp-proto-http", "openai", "anthropic"]
ENVIRONMENTS = {
    "anthropic-native": [],
    "openllmetry": ["opentelemetry-instrumentation-anthropic", "opentelemetry-instrumentation-openai"],
    "openinference": ["openinference-instrumentation-anthropic", "openinference-instrumentation-openai"],
    "otel": ["opentelemetry-instrumentation-openai-v2==2.1b0", "openai<2", "opentelemetry-sdk<1.40"],
    "otel-genai": ["opentelemetry-instrumentation-genai-openai", "opentelemetry-instrumentation-genai-anthropic"],
    "logfire": ["logfire"],
    "pydantic-ai": ["pydantic-ai-slim[openai,anthropic]"],
    "openlit": ["openlit>=1.40", "opentelemetry-sdk<1.40"],
    "litellm": ["litellm"],
    "langfuse": ["langfuse"],
}
NODE = {"vercel": [], "vercel-legacy": ["legacy"]}
"""Both generations of Vercel's attributes come from one package."""
VERCEL = [
    "ai", "@ai-sdk/openai", "@ai-sdk/anthropic", "@ai-sdk/otel", "@opentelemetry/api", "@opentelemetry/sdk-trace-base",
    "@opentelemetry/sdk-trace-node", "@opentelemetry/exporter-trace-otlp-proto",
]  # fmt: skip
WITHOUT_NATIVE = {"otel", "litellm", "openlit", *NODE}
"""These do not use the anthropic SDK, or a version that is too old to have spans of its own."""
COUNTS = "input=1000:output=200:cache_read=800:cache_write_5m=100"
"""What each answer is dictated to have used; OpenAI has no cache writes."""


def command_of(name: str) -> list[str]:
    """Return the command that drives an emitter; its environment is made on first use."""
    folder = HOME / name
    if name in NODE:
        folder = HOME / "vercel"
        if not (folder / ".installed").exists():
            folder.mkdir(parents=True, exist_ok=True)
            subprocess.run(["npm", "init", "-y"], cwd=folder, check=True, stdout=subprocess.DEVNULL)
            subprocess.run(["npm", "install", "--silent", *VERCEL], cwd=folder, check=True)
            (folder / ".installed").touch()
        # Node looks for packages beside the script.
        for script in Path(__file__).parent.glob("*.mjs"):
            shutil.copy(script, folder)
        return ["node", str(folder / "drive.mjs"), *NODE[name]]
    if not (folder / ".installed").exists():
        uv = shutil.which("uv")
        make = (
            [uv, "venv", "-q", "--allow-existing", "--python", sys.executable] if uv else [sys.executable, "-m", "venv"]
        )
        subprocess.run([*make, str(folder)], check=True)
        python = folder / "bin" / "python"
        install = [uv, "pip", "install", "-q", "--python", python] if uv else [python, "-m", "pip", "install", "-q"]
        subprocess.run([*install, *BASE, *ENVIRONMENTS[name]], check=True)
        (folder / ".installed").touch()
    return [str(folder / "bin" / "python"), str(Path(__file__).with_name("drive.py")), name]


def versions_of(name: str) -> dict[str, str]:
    """Return what is installed of the emitter and the SDKs."""
    if name in NODE:
        found = json.loads((HOME / "vercel" / "package.json").read_text())["dependencies"]
        return {package: found[package] for package in VERCEL}
    code = "import importlib.metadata as m, json; print(json.dumps({d.name: d.version for d in m.distributions()}))"
    python = HOME / name / "bin" / "python"
    installed = json.loads(subprocess.run([python, "-c", code], capture_output=True, text=True, check=True).stdout)
    wanted = {re.split(r"[\[<>=]", package)[0] for package in [*BASE, *ENVIRONMENTS[name]]}
    return {package: installed[package] for package in sorted(wanted & set(installed))}


def record(name: str, *, native: bool) -> None:
    """Record one emitter, with the anthropic SDK's own spans or without."""
    with running_provider() as provider, running_sink() as sink, tempfile.TemporaryDirectory() as home:
        for maker in ("anthropic", "openai"):
            counts = COUNTS if maker == "anthropic" else COUNTS.partition(":cache_write")[0]
            provider.script(",".join([f"200:{counts}"] * 2), provider=maker)
        subprocess.run(command_of(name), env=_environ(provider, sink.url, home, native=native), cwd=home, check=True)
        merged = ExportTraceServiceRequest()
        for body in sink.bodies:
            with suppress(DecodeError):  # an emitter's metrics, or what it tells its maker
                merged.MergeFrom(ExportTraceServiceRequest.FromString(body))
        _strip(merged)
        told = {"versions": versions_of(name), "invoice": _billed(provider)}
    recording = f"{name}+native" if native and name != "anthropic-native" else name
    DATA.mkdir(parents=True, exist_ok=True)
    (DATA / f"{recording}.pb").write_bytes(merged.SerializeToString())
    (DATA / f"{recording}.json").write_text(json.dumps(told, indent=1, sort_keys=True) + "\n")
    spans = sum(len(scope.spans) for resource in merged.resource_spans for scope in resource.scope_spans)
    print(f"{recording}: {spans} spans, {len(told['invoice'])} billed")


@dataclass
class Sink:
    """Takes whatever an emitter posts, in chunks or not, gzipped or not."""

    url: str
    bodies: list[bytes]


@contextmanager
def running_sink() -> Iterator[Sink]:
    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self._body()
            sink.bodies.append(gzip.decompress(body) if self.headers.get("Content-Encoding") == "gzip" else body)
            self.send_response(200)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def _body(self) -> bytes:
            if self.headers.get("Transfer-Encoding") != "chunked":
                return self.rfile.read(int(self.headers["Content-Length"]))
            parts = []
            while size := int(self.rfile.readline(), 16):
                parts.append(self.rfile.read(size))
                self.rfile.readline()
            self.rfile.readline()
            return b"".join(parts)

        def log_message(self, *args: object) -> None:
            """Say nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    sink = Sink(f"http://127.0.0.1:{server.server_port}", [])
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield sink
    finally:
        server.shutdown()
        server.server_close()


def _strip(recorded: ExportTraceServiceRequest) -> None:
    """Remove what tells of the machine that recorded: its paths and processes; the counts stay as they came."""
    for resource_spans in recorded.resource_spans:
        kept = [item for item in resource_spans.resource.attributes if item.key == "service.name"]
        del resource_spans.resource.attributes[:]
        resource_spans.resource.attributes.extend(kept)
        for scope_spans in resource_spans.scope_spans:
            for span in scope_spans.spans:
                told = [item for item in span.attributes if not item.key.startswith(("code.", "thread."))]
                del span.attributes[:], span.events[:]
                span.attributes.extend(told)


def _billed(provider: Provider) -> list[dict[str, Any]]:
    wanted = ("id", "provider", "model", "stream", "usage", "counts", "usd")
    return [{name: item[name] for name in wanted} for item in provider.invoice()["items"]]


def _environ(provider: Provider, receiver: str, home: str, *, native: bool) -> dict[str, str]:
    """Return variables that keep the emitter on loopback, and out of the user's home."""
    return {
        "PATH": os.environ["PATH"], "HOME": home,
        "ANTHROPIC_BASE_URL": provider.anthropic_url, "ANTHROPIC_API_KEY": "any",
        "OPENAI_BASE_URL": provider.openai_url, "OPENAI_API_KEY": "any",
        "OTEL_EXPORTER_OTLP_ENDPOINT": receiver, "OTEL_EXPORTER_OTLP_PROTOCOL": "http/protobuf",
        "OTEL_EXPORTER": "otlp_http", "OTEL_SERVICE_NAME": "recorded", "OTEL_METRICS_EXPORTER": "none",
        "OTEL_LOGS_EXPORTER": "none", "ANTHROPIC_OPEN_TELEMETRY": "true" if native else "false",
        "LANGFUSE_HOST": receiver, "LANGFUSE_BASE_URL": receiver, "LANGFUSE_PUBLIC_KEY": "pk-any",
        "LANGFUSE_SECRET_KEY": "sk-any", "LITELLM_LOCAL_MODEL_COST_MAP": "True", "DO_NOT_TRACK": "1",
    }  # fmt: skip


def main() -> None:
    known = [*ENVIRONMENTS, *NODE]
    names = sys.argv[1:] or known
    if unknown := set(names) - set(known):
        raise SystemExit(f"unknown emitters {sorted(unknown)}; known: {', '.join(known)}")
    for name in names:
        if name != "anthropic-native":
            record(name, native=False)
        if name not in WITHOUT_NATIVE:
            record(name, native=True)


if __name__ == "__main__":
    main()
