"""Frameworks on top of the SDKs, other vendors' instrumentation beside ours, servers, each in its own environment.

    python tests/frameworks/run.py              all (`make frameworks`)
    python tests/frameworks/run.py litellm      one

Each is driven with `instrument()` before and after the import of it; servers under `tallystick run`, where nothing is
before us, and with `instrument()` in the app.  Prints framework x shape: `ok`, `absent` (it
fails without us too, or this version does not have it), or `FAILED`; exits 1 if anything failed.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import xml.etree.ElementTree as ET
from pathlib import Path

ROOT = Path(__file__).parents[2]
HOME = ROOT / ".matrix" / "frameworks"
SDKS = ["openai", "anthropic"]
ENVIRONMENTS = {
    "langchain": ["langchain-openai", "langchain-anthropic"],
    "pydantic-ai": ["pydantic-ai-slim[openai,anthropic]"],
    "instructor": ["instructor[anthropic]"],
    "openai-agents": ["openai-agents"],
    "litellm": ["litellm", "tenacity", "mcp"],
    "servers": [*SDKS, "gunicorn", "uvicorn", "celery", "gevent"],
    "otel": [*SDKS, "opentelemetry-instrumentation-genai-openai", "opentelemetry-instrumentation-genai-anthropic"],
    "openinference": [*SDKS, "openinference-instrumentation-openai", "openinference-instrumentation-anthropic"],
    "openllmetry": [*SDKS, "opentelemetry-instrumentation-openai", "opentelemetry-instrumentation-anthropic"],
    "logfire": [*SDKS, "logfire"],
    "langfuse": [*SDKS, "langfuse"],
}
VENDORS = ("otel", "openinference", "openllmetry", "logfire", "langfuse")
TOLD = {
    "openai",
    "anthropic",
    "httpx",
    "httpx2",
    "litellm",
    "instructor",
    "logfire",
    "langfuse",
    "openai-agents",
    "gunicorn",
    "celery",
    "gevent",
}
TOOLS = ["pytest>=8.4", "pytest-asyncio", "opentelemetry-proto", "opentelemetry-sdk", "starlette", "uvicorn"]
ORDERS = ("first", "last")


def python_of(name: str) -> Path:
    """Return the interpreter of an environment, made on first use."""
    folder = HOME / name
    python = folder / "bin" / "python"
    if not (folder / ".installed").exists():
        uv = shutil.which("uv")
        make = (
            [uv, "venv", "-q", "--allow-existing", "--python", sys.executable] if uv else [sys.executable, "-m", "venv"]
        )
        subprocess.run([*make, folder], check=True)
        install = [uv, "pip", "install", "-q", "--python", python] if uv else [python, "-m", "pip", "install", "-q"]
        subprocess.run([*install, "-e", ROOT, *ENVIRONMENTS[name], *TOOLS], check=True)
        (folder / ".installed").touch()
    return python


def versions_of(name: str) -> str:
    """Return what is installed of the SDKs, the HTTP libraries and the framework itself."""
    code = "from importlib.metadata import distributions as d; print(*{f'{i.name}=={i.version}' for i in d()})"
    found = subprocess.run([python_of(name), "-c", code], capture_output=True, text=True, check=True).stdout.split()
    wanted = TOLD | {package.partition("[")[0] for package in ENVIRONMENTS[name]}
    return ", ".join(sorted(item.replace("==", " ") for item in found if item.partition("==")[0].lower() in wanted))


def run(name: str, order: str) -> dict[str, str]:
    """Run the tests of one environment and return what became of each."""
    report = HOME / f"{name}-{order}.xml"
    report.unlink(missing_ok=True)
    module = "test_vendors.py" if name in VENDORS else f"test_{name.replace('-', '_')}.py"
    options = ["-q", "-p", "pytest_asyncio.plugin", "-p", "no:cacheprovider", "-W", "ignore", f"--junitxml={report}"]
    with (HOME / f"{name}-{order}.log").open("w") as log:
        subprocess.run(
            [python_of(name), "-m", "pytest", *options, str(ROOT / "tests" / "frameworks" / module)],
            env=os.environ
            | {"TALLYSTICK_FRAMEWORK": name, "TALLYSTICK_ORDER": order, "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"},
            stdout=log,
            stderr=log,
            cwd=ROOT,
            check=False,
        )
    if not report.exists():
        raise SystemExit(f"{name}: pytest made no report; see {log.name}")
    return {shape_of(case): verdict(case) for case in ET.parse(report).iter("testcase")}  # our own file


def shape_of(case: ET.Element) -> str:
    """Return the shape that a test drives: its parameter, else its name."""
    name = case.get("name", "")
    return name.partition("[")[2].rstrip("]") or name.removeprefix("test_").replace("_", " ")


def verdict(case: ET.Element) -> str:
    """Return what became of a test."""
    if case.find("failure") is not None or case.find("error") is not None:
        return "FAILED"
    return "absent" if case.find("skipped") is not None else "ok"


def main() -> None:
    names = sys.argv[1:] or list(ENVIRONMENTS)
    if unknown := set(names) - set(ENVIRONMENTS):
        raise SystemExit(f"unknown: {sorted(unknown)}; known: {', '.join(ENVIRONMENTS)}")
    HOME.mkdir(parents=True, exist_ok=True)
    failed = False
    print(f"{'':76} we come: {ORDERS[0]:>7} {ORDERS[1]:>7}")
    for name in names:
        found = {order: run(name, order) for order in ORDERS}
        print(f"{name} ({versions_of(name)})")
        for shape in dict.fromkeys(shape for results in found.values() for shape in results):
            print(f"  {shape[:82]:82} " + " ".join(f"{found[order].get(shape, '-'):>7}" for order in ORDERS))
        verdicts = [verdict for results in found.values() for verdict in results.values()]
        print("  " + ", ".join(f"{verdicts.count(kind)} {kind}" for kind in ("ok", "absent", "FAILED")), flush=True)
        failed = failed or "FAILED" in verdicts or not verdicts
    sys.exit(failed)


if __name__ == "__main__":
    main()
