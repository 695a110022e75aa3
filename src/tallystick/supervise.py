"""One foreground command for collector and dashboard: starts both, restarts what crashes, leaves nothing behind.

Each part is a process group of its own.  It is bound to this process twice: the kernel signals it when we die (Linux),
and it reads our end of a pipe, which ends with us on every system.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import socket
import ssl
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from http.client import HTTPConnection, HTTPException, HTTPSConnection
from pathlib import Path
from types import FrameType
from typing import IO

from tallystick.errors import PortTakenError, TallystickError

POLL_S = 0.2
HEALTH_TIMEOUT_S = 2.0
TERM_DEADLINE_S = 10.0
"""How long a part may take to end after SIGTERM before it is killed."""
BACKOFF_S = (0.5, 1.0, 2.0, 4.0, 8.0, 15.0, 30.0)
STEADY_S = 60.0
"""A part that ran that long starts with the shortest pause again."""
STARTS_MAX = 5
"""A part that never was healthy is given up after so many starts."""
PR_SET_PDEATHSIG = 1
GREETINGS = ("tallystick: collector at ", "Dashboard at ")
"""What the parts say when they are up; we say it for both."""

Say = Callable[[str], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """A process of the house and how to tell that it serves."""

    name: str
    arguments: Sequence[str]
    """What follows ``python -m tallystick``."""
    host: str
    port: int
    health_path: str
    variables: Mapping[str, str] = field(default_factory=dict)
    """Added to our own environment."""
    is_tls: bool = False

    @property
    def url(self) -> str:
        """Where it listens."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"http{'s' if self.is_tls else ''}://{host}:{self.port}"


class PartFailedError(TallystickError):
    """A part says that it cannot run, and why; starting it again would not help."""

    def __init__(self, part: str, said: str) -> None:
        super().__init__(said)
        self.part = part


class _Running:
    """A part and its present process."""

    def __init__(self, part: Part, say: Say) -> None:
        self.part = part
        self._say = say
        self.starts = 0
        self.was_healthy = False
        self.started_at = 0.0
        self.due_at: float | None = None
        """When it is to be started again, monotonic seconds; None while it runs."""
        self._failures = 0
        self._process: subprocess.Popen[bytes] | None = None
        self._reader: threading.Thread | None = None
        self._lines: deque[str] = deque(maxlen=40)
        self._lock = threading.Lock()
        self._is_missed = False
        """It crashed, was started again, and has not served since."""

    @property
    def pid(self) -> int:
        """The process's id; 0 before the first start."""
        return self._process.pid if self._process else 0

    def start(self) -> None:
        """Start the process, with its output read by a thread."""
        self.reap()  # a process that crashed may have left others of its group
        self.starts += 1
        self.started_at = time.monotonic()
        self.due_at = None
        self._lines.clear()
        self._process = subprocess.Popen(  # noqa: S603 -- our own interpreter, our own module
            [sys.executable, "-m", "tallystick.supervise", str(os.getpid()), *self.part.arguments],
            env={**os.environ, **self.part.variables, "PYTHONUNBUFFERED": "1"},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            process_group=0,
        )
        assert self._process.stdout is not None, "a pipe was asked for"
        self._reader = threading.Thread(target=self._relay, args=(self._process.stdout,), daemon=True)
        self._reader.start()

    def _relay(self, output: IO[bytes]) -> None:
        with output:
            for raw in output:
                line = raw.decode(errors="replace").rstrip()
                with self._lock:
                    self._lines.append(line)
                    if self.was_healthy:
                        self._pass_on(line)

    def _pass_on(self, line: str) -> None:
        if line and not line.startswith(GREETINGS):
            self._say(f"{self.part.name:>9} | {line.removeprefix('tallystick: ')}")

    def is_healthy(self) -> bool:
        """Tell whether the process answers its health question with 200."""
        if self._process is None or self._process.poll() is not None or not _answers(self.part):
            return False
        with self._lock:
            if not self.was_healthy:
                self.was_healthy = True
                for line in self._lines:  # held back until now: of a part that fails only the last one matters
                    self._pass_on(line)
        return True

    def tick(self) -> None:
        """Start again what crashed, once its pause is over; raise PartFailedError when that is useless."""
        if self.due_at is not None:
            if time.monotonic() >= self.due_at:
                self.start()
            return
        code = self._process.poll() if self._process else None
        if code is not None:
            self._ended(code)
        elif self._is_missed and self.is_healthy():
            self._is_missed = False
            self._say(f"tallystick: the {self.part.name} serves again")

    def _ended(self, code: int) -> None:
        self._join_reader()
        last = next((line for line in reversed(self._lines) if line), "")
        if code == 1 and last.startswith("tallystick: "):
            raise PartFailedError(self.part.name, last.removeprefix("tallystick: "))
        if not self.was_healthy and self.starts >= STARTS_MAX:
            said = "; ".join(line for line in list(self._lines)[-3:] if line) or "it said nothing"
            raise PartFailedError(
                self.part.name, f"the {self.part.name} ended {self.starts} times without ever serving: {said}"
            )
        self._failures = 0 if time.monotonic() - self.started_at > STEADY_S else self._failures
        pause_s = BACKOFF_S[min(self._failures, len(BACKOFF_S) - 1)]
        self._failures += 1
        self._is_missed = True
        self.due_at = time.monotonic() + pause_s
        self._say(f"tallystick: the {self.part.name} {_how(code)}; starting it again in {pause_s:g} s")

    def signal(self, number: int) -> None:
        """Send ``number`` to the part's whole process group."""
        if self._process is not None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._process.pid, number)

    def is_running(self) -> bool:
        """Tell whether the process is there."""
        return self._process is not None and self._process.poll() is None

    def reap(self) -> None:
        """Kill what is left of the group and close the pipes."""
        self.signal(signal.SIGKILL)
        if self._process is not None:
            self._process.wait()
            assert self._process.stdin is not None, "a pipe was asked for"
            self._process.stdin.close()
        self._join_reader()

    def _join_reader(self) -> None:
        if self._reader is not None:
            self._reader.join(5.0)


class Supervisor:
    """Runs ``parts`` until it is stopped.  Start it in a thread that lives as long as the parts are to live."""

    def __init__(self, parts: Sequence[Part], say: Say) -> None:
        self._running = [_Running(part, say) for part in parts]

    @property
    def pids(self) -> dict[str, int]:
        """The process id of each part."""
        return {running.part.name: running.pid for running in self._running}

    def start(self) -> None:
        """Start every part."""
        for running in self._running:
            running.start()

    def tick(self) -> None:
        """Look after the parts once; raise PartFailedError when one cannot run."""
        for running in self._running:
            running.tick()

    def is_healthy(self) -> bool:
        """Tell whether every part serves."""
        return all(running.is_healthy() for running in self._running)

    def stop(self, hurry: Callable[[], bool] = lambda: False) -> None:
        """End every part: SIGTERM, and SIGKILL for what is still there at the deadline, or when ``hurry`` says so."""
        for running in reversed(self._running):
            running.signal(signal.SIGTERM)
        deadline = time.monotonic() + TERM_DEADLINE_S
        while any(running.is_running() for running in self._running):
            if time.monotonic() > deadline or hurry():
                break
            time.sleep(0.05)
        for running in self._running:
            running.reap()


class Interrupts:
    """SIGINT and SIGTERM as something to look at instead of exceptions; counts how often they came."""

    def __init__(self) -> None:
        self.count = 0
        self._event = threading.Event()

    def __call__(self, number: int, frame: FrameType | None) -> None:
        """Note a signal."""
        self.count += 1
        self._event.set()

    def wait(self, seconds: float) -> bool:
        """Wait for a signal, at most ``seconds``; tell whether one came."""
        return self._event.wait(seconds)

    @contextlib.contextmanager
    def installed(self) -> Iterator[Interrupts]:
        """Catch both signals while the block lasts; does nothing outside the main thread, which alone gets signals."""
        if threading.current_thread() is not threading.main_thread():
            yield self
            return
        before = {number: signal.signal(number, self) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield self
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)


def up(
    data: Path | None,
    port: int | None,
    dashboard_port: int,
    config: Path | None,
    *,
    say: Say | None = None,
    interrupts: Interrupts | None = None,
) -> int:
    """Run collector and dashboard in the foreground until SIGINT or SIGTERM; return the exit code.

    Raises SettingsError and PortTakenError before anything is started.
    """
    say = say or _print
    parts = house(data, port, dashboard_port, config)
    supervisor = Supervisor(parts, say)
    with (interrupts or Interrupts()).installed() as interrupts:
        try:
            supervisor.start()
            _run(supervisor, parts, say, interrupts)
        except PartFailedError as error:
            print(f"tallystick: {error}", file=sys.stderr)  # noqa: T201 -- the CLI's own voice
            return 1
        finally:
            supervisor.stop(hurry=lambda: interrupts.count > 1)
    say("tallystick: collector and dashboard have ended")
    return 0


def _run(supervisor: Supervisor, parts: Sequence[Part], say: Say, interrupts: Interrupts) -> None:
    told = False
    while not interrupts.wait(POLL_S):
        supervisor.tick()
        if not told and supervisor.is_healthy():
            told = True
            collector, dashboard = parts
            say(f"Dashboard  {dashboard.url}")
            say(f"Collector  {collector.url}   (apps send there by default; TALLYSTICK_COLLECTOR names another)")
            say("Ctrl-C ends both.")


def house(data: Path | None, port: int | None, dashboard_port: int, config: Path | None) -> tuple[Part, Part]:
    """Return collector and dashboard as parts, on ports that are free now; 0 takes any free one.

    Raises SettingsError when the settings are wrong and PortTakenError when somebody has a port.
    """
    from tallystick.collector.settings import load

    settings = load(data=data, port=port, config=config)
    host = settings.collector.host
    port = free_port(host, settings.collector.port, "--port")
    dashboard_port = free_port("127.0.0.1", dashboard_port, "--dashboard-port")
    collect = ["collect", "--host", host, "--port", str(port), "--data", str(settings.collector.data)]
    if config is not None:
        collect += ["--config", str(config)]
    dashboard_url = f"http://127.0.0.1:{dashboard_port}"
    token = settings.collector.bearer()
    collector = Part(
        name="collector",
        arguments=collect,
        host=host,
        port=port,
        health_path="/healthz",
        # Links in messages lead to this dashboard, unless the settings name another.
        variables={} if settings.alerts.dashboard_url else {"TALLYSTICK_DASHBOARD_URL": dashboard_url},
        is_tls=settings.collector.tls_certificate is not None,
    )
    dashboard = Part(
        name="dashboard",
        arguments=["dashboard", "--collector", settings.collector.url(port), "--port", str(dashboard_port)],
        host="127.0.0.1",
        port=dashboard_port,
        health_path="/_stcore/health",
        variables={} if token is None else {"TALLYSTICK_TOKEN": token},
    )
    return collector, dashboard


def free_port(host: str, port: int, option: str) -> int:
    """Return ``port``, or a free one when it is 0; raise PortTakenError when somebody listens there."""
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
            probe.listen(1)
        except OSError as error:
            raise PortTakenError(host, port, option) from error
        return int(probe.getsockname()[1])


def _answers(part: Part) -> bool:
    if part.is_tls:
        # Our own child on our own machine, which answers this question to everybody: who it is needs no proof.
        context = ssl._create_unverified_context()  # noqa: S323, SLF001 -- the library's own way to say so
        connection: HTTPConnection = HTTPSConnection(part.host, part.port, timeout=HEALTH_TIMEOUT_S, context=context)
    else:
        connection = HTTPConnection(part.host, part.port, timeout=HEALTH_TIMEOUT_S)
    try:
        connection.request("GET", part.health_path)
        with contextlib.closing(connection.getresponse()) as response:
            return response.status == 200
    except (OSError, HTTPException):
        return False
    finally:
        connection.close()


def _how(code: int) -> str:
    if code < 0:
        return f"was ended by {signal.Signals(-code).name}"
    return f"ended with code {code}"


def _print(line: str) -> None:
    print(line, flush=True)  # noqa: T201 -- the command's own voice


# The child's side -----------------------------------------------------------------------------------------------------


def main(arguments: Sequence[str]) -> None:
    """Run the command ``arguments[1:]`` as a part of the process ``arguments[0]``, and end when that one does."""
    _die_with(int(arguments[0]))
    from tallystick.cli import main as command

    command(arguments[1:])


def _die_with(parent: int) -> None:
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
    if os.getppid() != parent:  # it died before the line above
        sys.exit(1)
    threading.Thread(target=_until_parent_ends, name="tallystick-parent", daemon=True).start()


def _until_parent_ends() -> None:
    """Wait for the end of the pipe that the parent holds; then end this group, kindly first."""
    with contextlib.suppress(OSError):
        while os.read(0, 4096):
            pass
    os.killpg(0, signal.SIGTERM)
    time.sleep(TERM_DEADLINE_S)
    os.killpg(0, signal.SIGKILL)


if __name__ == "__main__":
    main(sys.argv[1:])
