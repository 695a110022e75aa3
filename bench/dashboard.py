"""How long a person waits for the pages over many calls, in a real Chromium.

    python bench/dashboard.py [--calls 1000000] [--repeat 7] [--data DIR]

The store is filled once (as bench/query.py does it, and with digests, beginnings and links beside), in a temporary
folder or in --data, where a second run finds it (for a day: its calls end when it was made).  Collector and dashboard
are the real commands, each a process of its own.  A figure is from the click, or the address, to what was asked for
being on the screen; "CPU" is what both processes took meanwhile, which a busy machine does not change.  A step that
takes longer than half a minute is told as such, and the next one begins.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
sys.path.insert(0, str(Path(__file__).parent))

from playwright.sync_api import Error, sync_playwright
from query import load

from tallystick.client import Collector
from tallystick.collector.advice import ABOUT
from tallystick.collector.store import MARK, Store

CHROMIUM = os.environ.get("TALLYSTICK_CHROMIUM") or shutil.which("chromium") or shutil.which("google-chrome")
ARGUMENTS = ["--no-sandbox", "--disable-gpu", "--disable-background-networking", "--no-first-run"]
WAIT_MS = 30_000
HITS_MAX = 40
VIEWERS = 5
# Every fortieth request is an old one, a thousand prompts share a beginning, every hundredth call is asked again.
LOOKS = """
    UPDATE calls SET
        digest = format('{:016x}', hash(rowid % 1000 + (rowid // 40000) * 1000)),
        template = format('{:016x}', hash(rowid % 50)), max_tokens = 4096, messages = 3 + rowid % 20,
        request_characters = 10000, tools_characters = if(rowid % 3 = 0, 2000, 0),
        prefixes = [hash(rowid % 50), hash(rowid % 1000 + 50), hash(rowid)], prefix_characters = [4000, 8000, 10000],
        link = if(rowid % 100 = 1, 're_ask', NULL), link_index = if(rowid % 100 = 1, 1, NULL),
        chain = if(rowid % 100 < 2, format('{:016x}', hash(rowid // 100)), id)
"""


def fill(path: Path, calls: int) -> None:
    """Make the store at ``path``, if it is not there."""
    if path.exists():
        return
    store = Store(path, memory_limit_mb=1500)
    load(store, calls)
    for sql in (LOOKS, MARK.format("true")):
        store._writer.execute(sql).fetchall()
    while store.roll(datetime.now(UTC), 100):
        pass  # the sums of each hour, as the collector makes them when it has time
    store.checkpoint()
    store.close()


@contextmanager
def running(*arguments: str, said: str) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """Run a command; yield it and the address that it prints."""
    command = [sys.executable, "-m", "tallystick", *arguments]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    try:
        assert process.stdout is not None
        line = next(line for line in process.stdout if said in line)
        yield process, line.split(said)[1].split()[0].rstrip(",")
    finally:
        process.terminate()
        process.communicate()


def memory_mb(pid: int) -> float:
    """Return the memory of a process, in MB."""
    line = next(line for line in Path(f"/proc/{pid}/status").read_text().splitlines() if line.startswith("VmRSS"))
    return int(line.split()[1]) / 1024


def cpu_s(*pids: int) -> float:
    """Return the CPU time that processes have taken, in seconds."""
    ticks = [Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[11:13] for pid in pids]
    return sum(int(tick) for pair in ticks for tick in pair) / os.sysconf("SC_CLK_TCK")


def timed(act: Callable[[], Any], done: Callable[[], Any]) -> float:
    """Return how long it is from before ``act`` to after ``done``, in seconds."""
    at = time.perf_counter()
    act()
    done()
    return time.perf_counter() - at


class Viewer:
    """A browser window of its own."""

    def __init__(self, browser: Any, url: str) -> None:
        self.context = browser.new_context(viewport={"width": 1440, "height": 900}, base_url=url)
        self.page = self.context.new_page()
        self.page.set_default_timeout(WAIT_MS)

    def number(self, label: str) -> Any:
        """Return the figure of a tile."""
        tile = self.page.get_by_test_id("stMetric").filter(has_text=label)
        return tile.get_by_test_id("stMetricValue").first

    def first_number(self, path: str = "/?range=30d") -> float:
        return timed(lambda: self.page.goto(path), lambda: self.number("Spend").wait_for())

    def settled(self) -> None:
        """Wait until the page is drawn to its foot."""
        self.page.get_by_text("Times in").first.wait_for()

    def to_range(self, name: str) -> float:
        """Return how long it takes from a click on a range to another number."""
        before = self.number("Calls").inner_text()
        tile = "[...document.querySelectorAll('[data-testid=stMetric]')].find(e => e.innerText.startsWith('Calls'))"
        # Streamlit greys out what is about to change, so the text alone tells.
        changed = f"before => !({tile})?.innerText.includes(before)"
        return timed(
            lambda: self.page.get_by_text(name, exact=True).click(),
            lambda: self.page.wait_for_function(changed, arg=before),
        )

    def to_cause(self) -> float:
        """Click a bar of the chart, from the newest on; return how long the one that hit took to say what made it."""
        chart = self.page.get_by_test_id("stVegaLiteChart").first
        chart.locator("canvas, svg").first.wait_for()
        self.page.wait_for_timeout(500)
        box = chart.bounding_box()
        for step in range(HITS_MAX):
            at = time.perf_counter()
            self.page.mouse.click(box["x"] + box["width"] * (0.9 - step / 60), box["y"] + box["height"] * 0.75)
            self.page.wait_for_timeout(100)
            if "at=" in self.page.url:
                self.page.get_by_role("button", name="Close").wait_for()
                return time.perf_counter() - at
        raise LookupError("no bar was hit")

    def to_calls(self) -> float:
        """Click the link to all calls of the bar; return how long their table took."""
        return timed(
            lambda: self.page.get_by_text(re.compile("^All .* of this ")).click(),
            lambda: (self.page.wait_for_url("**/calls?**"), self.page.get_by_test_id("stDataFrame").first.wait_for()),
        )

    def to_call(self) -> float:
        """Click the first row of the calls; return how long its receipt took."""
        box = self.page.get_by_test_id("stDataFrame").first.bounding_box()
        return timed(
            lambda: self.page.mouse.click(box["x"] + 60, box["y"] + 35 * 1.5),
            lambda: self.page.get_by_text("Receipt").first.wait_for(),
        )


@dataclass
class Table:
    """What was measured, a line for each thing that a reader does."""

    pids: tuple[int, ...]
    found: dict[str, list[tuple[float, float]]] = field(default_factory=dict)

    def add(self, name: str, measure: Callable[[], float]) -> bool:
        """Measure once; tell whether it came in time."""
        before = cpu_s(*self.pids)
        try:
            taken = measure()
        except (LookupError, Error) as error:
            print(f"{name:38} {str(error).splitlines()[0][:70]}", flush=True)
            return False
        self.found.setdefault(name, []).append((taken, cpu_s(*self.pids) - before))
        return True

    def tell(self, name: str) -> None:
        """Print the median of a thing, its lowest and highest, and the CPU time of the quickest."""
        if rows := self.found.get(name):
            times, cpu = [taken for taken, _ in rows], min(cpu for _, cpu in rows)
            edges = f"({min(times):.2f} to {max(times):.2f}, {len(times)} times)"
            print(f"{name:38} {statistics.median(times):6.2f} s  {edges:28} CPU {cpu:.2f} s", flush=True)


def browse(url: str, pids: tuple[int, int], repeat: int) -> None:
    """Print how long each thing takes that a reader does; the first of ``pids`` is the dashboard's."""
    table = Table(pids)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=ARGUMENTS)
        reader = Viewer(browser, url)
        table.add("first number, the very first visit", reader.first_number)
        table.tell("first number, the very first visit")
        for _ in range(min(repeat, 5)):
            visitor = Viewer(browser, url)
            table.add("first number, a new visitor, 30 days", visitor.first_number)
            visitor.context.close()
        table.tell("first number, a new visitor, 30 days")
        reader.first_number("/?range=24h")
        for name in ("7d", "30d", "24h") * repeat:
            reader.settled()
            table.add("filter to new number", partial(reader.to_range, name))
        table.tell("filter to new number")
        steps = {"bar to its cause": reader.to_cause, "cause to its calls": reader.to_calls,
                 "row to the call's receipt": reader.to_call}  # fmt: skip
        for _ in range(min(repeat, 5)):
            reader.first_number("/?range=7d")
            reader.settled()
            for name, measure in steps.items():
                if not table.add(name, measure):
                    break
        for name in steps:
            table.tell(name)
        for path in ("failures", "advisor"):
            name = f"{path}, 30 days, to its foot"
            table.add(name, lambda path=path: timed(partial(reader.page.goto, f"/{path}?range=30d"), reader.settled))
            table.tell(name)
        print(f"{'memory of the dashboard, one viewer':38} {memory_mb(pids[0]):6.0f} MB", flush=True)
        reader.context.close()
        viewers = [Viewer(browser, url) for _ in range(VIEWERS)]
        for viewer, path in zip(viewers, ("/?range=30d", "/?range=7d", "/?range=24h", "/?range=90d", "/"), strict=True):
            viewer.first_number(path)
        before, at = cpu_s(*pids), time.perf_counter()
        viewers[0].page.wait_for_timeout(10_000)
        share = (cpu_s(*pids) - before) / (time.perf_counter() - at)
        print(f"{f'the dashboard, {VIEWERS} viewers':38} {memory_mb(pids[0]):6.0f} MB  {share:.2f} CPUs")
        browser.close()


def advise(url: str) -> Iterator[tuple[str, str]]:
    """Yield how long the collector takes for each advice, over all calls."""
    asked = Collector(url, timeout_s=120)
    for about in ABOUT:
        start = time.gmtime(time.time() - 30 * 86_400)
        question = {"start": time.strftime("%Y-%m-%dT%H:%M:%SZ", start), "about": about}
        taken = [timed(partial(asked.ask, "advice", question), lambda: None) for _ in range(2)]
        yield f"advice: {about}", f"{min(taken):6.2f} s"


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--calls", type=int, default=1_000_000)
    arguments.add_argument("--repeat", type=int, default=7)
    arguments.add_argument("--data", type=Path, help="where the store is made, and found again")
    args = arguments.parse_args()
    if CHROMIUM is None:
        raise SystemExit("no Chromium on PATH; TALLYSTICK_CHROMIUM names one")
    with ExitStack() as stack:
        data = args.data or Path(stack.enter_context(tempfile.TemporaryDirectory()))
        data.mkdir(parents=True, exist_ok=True)
        at = time.monotonic()
        fill(data / "tallystick.duckdb", args.calls)
        size = (data / "tallystick.duckdb").stat().st_size / 1e6
        print(f"{args.calls:,} calls, {size:.0f} MB, made in {time.monotonic() - at:.0f} s", flush=True)
        collect = running("collect", "--data", str(data), "--port", "0", said="collector at ")
        collecting, collector = stack.enter_context(collect)
        shown = running("dashboard", "--collector", collector, "--port", "0", said="Dashboard at ")
        dashboard, url = stack.enter_context(shown)
        browse(url, (dashboard.pid, collecting.pid), args.repeat)
        for name, figure in advise(collector):
            print(f"{name:38} {figure}", flush=True)


if __name__ == "__main__":
    main()
