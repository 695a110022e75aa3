"""The commands: one function each; a room is imported when its command runs."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

from tallystick import __version__
from tallystick.errors import MissingExtraError, TallystickError
from tallystick.model.places import DEFAULT_COLLECTOR_PORT, DEFAULT_DASHBOARD_PORT, collector_url

# Which extra brings the library that a missing import names.
EXTRAS = {
    **dict.fromkeys(
        (
            *("duckdb", "genai_prices", "pyarrow", "pydantic", "pydantic_settings"),
            *("rich", "slack_sdk", "starlette", "uvicorn"),
        ),
        "collector",
    ),
    "grpc": "grpc",
    **dict.fromkeys(("streamlit", "pandas", "altair"), "dashboard"),
    **dict.fromkeys(("anthropic", "openai"), "demo"),
}


def collect(args: argparse.Namespace) -> int:
    """Receive spans, store and price them, watch the budgets, answer questions."""
    from tallystick.collector import run

    return run(data=args.data, host=args.host, port=args.port, config=args.config)


def dashboard(args: argparse.Namespace) -> int:
    """Show spend, failures, calls and budgets in a browser."""
    from tallystick.dashboard import run

    agents = args.agents or os.environ.get("TALLYSTICK_DASHBOARD_AGENTS") == "1"
    return run(collector=args.collector, host=args.host, port=args.port, agents=agents)


def up(args: argparse.Namespace) -> int:
    """Run the collector and the dashboard together, in the foreground."""
    from tallystick.supervise import up as run

    return run(data=args.data, port=args.port, dashboard_port=args.dashboard_port, config=args.config)


def mock(args: argparse.Namespace) -> int:
    """Play Anthropic and OpenAI on loopback, with faults on request."""
    from tallystick.mock import run

    return run(port=args.port)


def demo(args: argparse.Namespace) -> int:
    """Show the whole product at work, without a key."""
    from tallystick.demo import run

    return run(once=args.once, data=args.data, port=args.port, dashboard_port=args.dashboard_port)


def report(args: argparse.Namespace) -> int:
    """Print what was spent, by model, feature, user or any other dimension."""
    from tallystick.report import report as run

    return run(collector=args.collector, by=args.by, since=args.since)


def explain(args: argparse.Namespace) -> int:
    """Print the receipt of one call."""
    from tallystick.report import explain as run

    return run(collector=args.collector, call=args.call)


def tail(args: argparse.Namespace) -> int:
    """Print each call as it comes, until ctrl-C."""
    from tallystick.watch import tail as run

    return run(args.collector, args.service, args.model, failed=args.failed)


def top(args: argparse.Namespace) -> int:
    """Show what is being spent, by model, feature or user, until ctrl-C."""
    from tallystick.watch import top as run

    return run(args.collector, args.by, args.since)


def doctor(args: argparse.Namespace) -> int:
    """Say whether the ledger is right, and what to do if not."""
    from tallystick.watch import doctor as run

    return run(args.collector)


def alert(args: argparse.Namespace) -> int:
    """Try the channels of alerts, or list what was told."""
    from tallystick import alert as room

    return room.test(args.collector) if args.action == "test" else room.listed(args.collector, args.since)


def prices(args: argparse.Namespace) -> int:
    """Show the rates of a model on a day, fetch younger ones, compare them with another list."""
    if args.action == "update":
        from tallystick.pricing.update import run as update

        return update(data=args.data, url=args.url, offline=args.offline)
    if args.action == "audit":
        from tallystick.pricing.audit import run as audit

        return audit(against=args.against, collector=args.collector)
    from tallystick.pricing.show import run

    return run(model=args.model, at=args.at)


def reprice(args: argparse.Namespace) -> int:
    """Price stored calls again from their raw usage, and show the difference per model."""
    from tallystick.reprice import run

    return run(
        collector=args.collector,
        since=args.since,
        until=args.until,
        model=args.model,
        provider=args.provider,
        dry_run=args.dry_run,
    )


def rebuild(args: argparse.Namespace) -> int:
    """Make the database anew from the journal, while no collector runs."""
    from tallystick.collector import rebuild as run

    return run(data=args.data, config=args.config)


def backup(args: argparse.Namespace) -> int:
    """Copy the journal to a file, also while a collector runs."""
    from tallystick.collector import backup as run

    return run(file=args.file, data=args.data, config=args.config)


def restore(args: argparse.Namespace) -> int:
    """Bring a copy of the journal back to an empty data folder."""
    from tallystick.collector import restore as run

    return run(file=args.file, data=args.data, config=args.config)


def reconcile(args: argparse.Namespace) -> int:
    """Compare the ledger with a provider's own cost report, and name the cause of each difference."""
    from tallystick.reconcile import run

    return run(
        provider=args.provider, since=args.since, until=args.until, collector=args.collector, keys=args.keys or []
    )


def export(args: argparse.Namespace) -> int:
    """Write the ledger as a file: FOCUS for finance, or plain calls or units; or check a FOCUS file."""
    from tallystick.export import run

    return run(
        what=args.what,
        version=args.focus,
        collector=args.collector,
        since=args.since,
        until=args.until,
        form=args.format,
        out=args.out,
        check=args.check,
    )


def run_app(args: argparse.Namespace) -> int:
    """Run a Python program with instrument() already called."""
    from tallystick.instrumentation.run import run

    return run(args.command)


def budget(args: argparse.Namespace) -> int:
    """List the budgets and how they stand, or prove that one holds."""
    if args.action == "test":
        from tallystick.budgets.prove import run as prove

        return prove(collector=args.collector, name=args.budget)
    from tallystick.budgets.show import run

    return run(collector=args.collector)


def parser() -> argparse.ArgumentParser:
    """Return the parser of all commands."""
    whole = argparse.ArgumentParser(prog="tallystick", description="Exact cost tracking for apps that call LLM APIs.")
    whole.add_argument("--version", action="version", version=f"tallystick {__version__}")
    commands = whole.add_subparsers(dest="name", metavar="COMMAND", required=True)

    def command(function, name: str | None = None) -> argparse.ArgumentParser:  # type: ignore[no-untyped-def]
        added = commands.add_parser(name or function.__name__, help=function.__doc__, description=function.__doc__)
        added.set_defaults(function=function)
        return added

    def with_data(added: argparse.ArgumentParser) -> None:
        data_help = "the data folder (default: TALLYSTICK_DATA, else XDG's)"
        added.add_argument("--data", type=Path, metavar="DIR", help=data_help)
        added.add_argument("--port", type=_port, help=f"where spans are received (default: {DEFAULT_COLLECTOR_PORT})")
        config_help = "settings and budgets (default: tallystick.toml here, if there is one)"
        added.add_argument("--config", type=Path, metavar="FILE", help=config_help)

    def with_collector(added: argparse.ArgumentParser) -> None:
        added.add_argument("--collector", metavar="URL", default=collector_url(os.environ), help="default: %(default)s")

    collecting = command(collect)
    with_data(collecting)
    collecting.add_argument("--host", help="the address to listen at (default: 127.0.0.1)")

    showing = command(dashboard)
    with_collector(showing)
    showing.add_argument("--host", default="127.0.0.1", help="default: %(default)s")
    showing.add_argument("--port", type=_port, default=DEFAULT_DASHBOARD_PORT, help="default: %(default)s")

    showing.add_argument("--agents", action="store_true", help="let programs on this machine read the pages, by MCP")

    both = command(up)
    with_data(both)
    both.add_argument("--dashboard-port", type=_port, default=DEFAULT_DASHBOARD_PORT, help="default: %(default)s")

    demonstrating = command(demo)
    once_help = "one round; exits 0 when the ledger equals the invoice"
    demonstrating.add_argument("--once", action="store_true", help=once_help)
    demonstrating.add_argument("--data", type=Path, metavar="DIR", help="default: a new temporary folder")
    demonstrating.add_argument("--port", type=_port, help="the collector's (default: a free one)")
    demonstrating.add_argument("--dashboard-port", type=_port, help=f"default: {DEFAULT_DASHBOARD_PORT}, or a free one")

    playing = command(mock)
    playing.add_argument("--port", type=_port, default=4319, help="default: %(default)s; 0 takes a free one")

    reporting = command(report)
    with_collector(reporting)
    reporting.add_argument("--by", default="model", help="model, feature, user ... (default: %(default)s)")
    reporting.add_argument("--since", default="24h", help="30m, 24h, 7d ... (default: %(default)s)")

    explaining = command(explain)
    with_collector(explaining)
    explaining.add_argument("call", help="the id of a call, 16 hex digits, or its beginning")

    tailing = command(tail)
    with_collector(tailing)
    tailing.add_argument(
        "--service", action="append", default=[], metavar="NAME", help="only this one; may be repeated"
    )
    tailing.add_argument("--model", action="append", default=[], metavar="NAME", help="only this one; may be repeated")
    tailing.add_argument("--failed", action="store_true", help="only calls that failed")

    topping = command(top)
    with_collector(topping)
    topping.add_argument("--by", default="model", help="model, feature, user ... (default: %(default)s)")
    topping.add_argument("--since", default="1h", help="30m, 24h, 7d ... (default: %(default)s)")

    with_collector(command(doctor))

    budgeting = command(budget).add_subparsers(dest="action", metavar="ACTION", required=True)
    with_collector(budgeting.add_parser("list", help="what is spent, held and left, the pace, and when each resets"))
    proving = budgeting.add_parser("test", help="prove against a loopback provider that a copy of it refuses in time")
    with_collector(proving)
    proving.add_argument("budget", metavar="NAME", help="as budget list shows it")

    alerting = command(alert).add_subparsers(dest="action", metavar="ACTION", required=True)
    with_collector(alerting.add_parser("test", help="send a message to every channel, and say what came back"))
    told = alerting.add_parser("list", help="the alerts, newest first")
    with_collector(told)
    told.add_argument("--since", default="7d", help="30m, 24h, 7d ... (default: %(default)s)")

    pricing = command(prices).add_subparsers(dest="action", metavar="ACTION", required=True)
    shown = pricing.add_parser("show", help="the rates of a model")
    shown.add_argument("model")
    shown.add_argument("--at", metavar="DATE", help="on that day (default: today)")
    updated = pricing.add_parser("update", help="fetch younger prices into the data folder")
    updated.add_argument(
        "--data", type=Path, metavar="DIR", help="the data folder (default: TALLYSTICK_DATA, else XDG's)"
    )
    updated.add_argument("--url", help="where genai-prices' data is (default: its own repository)")
    updated.add_argument("--offline", action="store_true", help="compile what is installed; ask nobody")
    audited = pricing.add_parser("audit", help="compare with another list, and find what has no price")
    audited.add_argument("--against", type=Path, metavar="FILE", help="litellm's model_prices_and_context_window.json")
    audited.add_argument("--collector", metavar="URL", help="list the models that it has seen without a price")

    repricing = command(reprice)
    with_collector(repricing)
    repricing.add_argument("--from", dest="since", required=True, metavar="DAY", help="ISO 8601, within")
    repricing.add_argument("--to", dest="until", metavar="DAY", help="ISO 8601, outside (default: now)")
    repricing.add_argument("--model", help="only this one, as the response named it; gpt-4o* for all that begin so")
    repricing.add_argument("--provider", help="only this one")
    repricing.add_argument("--dry-run", action="store_true", help="show what would change; change nothing")

    for function in (rebuild, backup, restore):
        kept = command(function)
        kept.add_argument(
            "--data", type=Path, metavar="DIR", help="the data folder (default: TALLYSTICK_DATA, else XDG's)"
        )
        kept.add_argument("--config", type=Path, metavar="FILE", help="settings (default: tallystick.toml here)")
        if function is not rebuild:
            kept.add_argument("file", type=Path, metavar="FILE", help="a gzipped tar")

    reconciling = command(reconcile)
    with_collector(reconciling)
    reconciling.add_argument("--provider", required=True, choices=["anthropic", "openai"])
    reconciling.add_argument("--from", dest="since", required=True, metavar="DAY", help="a UTC day, within")
    reconciling.add_argument("--to", dest="until", required=True, metavar="DAY", help="a UTC day, outside")
    key_help = "compare by key: the ledger's name of it and the provider's id; may be repeated"
    reconciling.add_argument("--key", dest="keys", action="append", metavar="OURS=THEIRS", help=key_help)

    exporting = command(export)
    with_collector(exporting)
    exporting.add_argument("what", nargs="?", choices=["calls", "units"], help="plain rows, as the API gives them")
    exporting.add_argument(
        "--focus", choices=["1.2", "1.3", "1.4"], help="the FinOps Foundation's format, one row a charge"
    )
    exporting.add_argument("--from", dest="since", metavar="DAY", help="ISO 8601, within")
    exporting.add_argument("--to", dest="until", metavar="DAY", help="ISO 8601, outside (default: now)")
    exporting.add_argument("--format", choices=["csv", "parquet"], default="csv", help="default: %(default)s")
    exporting.add_argument("--out", type=Path, metavar="FILE", help="default: standard output, for csv")
    exporting.add_argument(
        "--check", type=Path, metavar="FILE", help="say what in that file is not FOCUS; export nothing"
    )

    # No dash begins an option of ours here: all words are the program's, -m among them.
    running = commands.add_parser("run", help=run_app.__doc__, prefix_chars="\0", add_help=False)
    running.add_argument("command", nargs=argparse.REMAINDER)
    running.set_defaults(function=run_app)
    return whole


def _port(text: str) -> int:
    if not text.isdecimal() or int(text) > 65535:
        raise argparse.ArgumentTypeError(f"{text!r} is not a port; one is a number from 0 to 65535")
    return int(text)


def main(arguments: Sequence[str] | None = None) -> NoReturn:
    """Run the command that ``arguments`` name, and exit; what goes wrong is one line on stderr and exit code 1."""
    args = parser().parse_args(arguments)
    try:
        code = args.function(args)
        sys.stdout.flush()
    except TallystickError as error:
        code = _complain(error)
    except ModuleNotFoundError as error:
        library = (error.name or "").partition(".")[0]
        if library not in EXTRAS:
            raise
        extra = "all" if args.name in {"up", "demo"} else EXTRAS[library]
        code = _complain(MissingExtraError(f"tallystick {args.name}", library, extra))
    except KeyboardInterrupt:
        code = 130
    except BrokenPipeError:  # whoever read it has seen enough, as head has
        if args.name == "run":
            raise
        # What is still to be flushed must go somewhere, or Python complains at the very end.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        code = 141
    sys.exit(code)


def _complain(error: TallystickError) -> int:
    print(f"tallystick: {error}", file=sys.stderr)  # noqa: T201 -- the CLI's own voice
    return 1
