"""Loading the book, putting one's own prices on top, and what that must not cost."""

from __future__ import annotations

import gc
import json
import subprocess
import sys
import threading
import tracemalloc
from datetime import date
from decimal import Decimal
from pathlib import Path

import pytest

from tallystick.errors import SettingsError
from tallystick.model.receipt import CostStatus
from tallystick.pricing import Book, _book, load_book, price
from tallystick.pricing._book import SHIPPED, read_book
from tallystick.pricing.overrides import read_overrides

WIRE = {"prompt_tokens": 1000, "completion_tokens": 1000, "total_tokens": 2000}

OWN = """
version = "acme-7"

[[alias]]
provider = "azure"
name = "prod-chat-eu"
model = "gpt-4o"

[[alias]]
provider = "aws"
name = "arn:aws:bedrock:us-east-1:111122223333:application-inference-profile/a1b2c3d4e5f6"
model = "us.anthropic.claude-sonnet-4-5-20250929-v1:0"

[[host]]
host = "llm.acme.internal"
path = "/openai"
provider = "openai"

[[host]]
host = "gpu.acme.internal"
provider = "acme"

[[price]]
provider = "acme"
model = "llama-4"
input = "0.10"
output = "0.30"
source = "our own machines"

[[price]]
provider = "acme"
model = "llama-4"
above = 1500
input = "0.20"

[[price]]
provider = "openai"
model = "gpt-4o-mini"
from = "2026-06-01"
until = "2026-12-01"
output = "0.50"
source = "our contract"

[[multiplier]]
provider = "openai"
models = ["gpt-4o"]
when = { host = "llm.acme.internal" }
factor = "1.02"
source = "the gateway's share"
"""


@pytest.fixture
def own_prices(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    path = tmp_path / "prices.toml"
    path.write_text(OWN, encoding="utf-8")
    monkeypatch.setenv(_book.USER_FILE, str(path))
    return path


def test_importing_pricing_and_pricing_a_call_load_no_third_party_module() -> None:
    program = (
        "import sys; before = set(sys.modules); from tallystick.pricing import price, load_book; load_book();"
        "price('openai', 'gpt-4o', {'prompt_tokens': 1, 'completion_tokens': 1});"
        "new = {name.partition('.')[0] for name in set(sys.modules) - before};"
        "print(sorted(new - set(sys.stdlib_module_names)))"
    )

    done = subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, text=True)

    assert done.stdout.strip() == "['tallystick']"


def test_the_book_is_read_once_however_many_threads_ask() -> None:
    books: list[Book] = []
    barrier = threading.Barrier(8)

    def ask() -> None:
        barrier.wait()
        books.append(load_book())
        price("openai", "gpt-4o", WIRE)

    threads = [threading.Thread(target=ask) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert len({id(book) for book in books}) == 1
    assert len(books) == 8


def test_what_a_finalizer_prices_while_the_book_is_read_is_priced_and_nobody_waits_for_ever(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The garbage collector may end a stream inside any allocation, as in the reading of a file."""
    costs: list[Decimal | None] = []

    def read_and_collect(*files: str) -> Book:
        monkeypatch.setattr(_book, "read_book", read_book)
        costs.append(price("openai", "gpt-4o", WIRE).cost_usd)
        return read_book(*files)

    monkeypatch.setattr(_book, "_books", {})
    monkeypatch.setattr(_book, "read_book", read_and_collect)
    asked = threading.Thread(target=lambda: costs.append(price("openai", "gpt-4o", WIRE).cost_usd), daemon=True)
    asked.start()
    asked.join(10)

    assert not asked.is_alive(), "it waits for itself"
    assert costs == [Decimal("0.0125")] * 2
    assert len(_book._books) == 1


def test_a_receipt_names_the_version_of_its_prices() -> None:
    book = load_book()

    assert price("openai", "gpt-4o", WIRE).price_version == book.version
    assert book.age_days(date.fromisoformat(book.version)) == 0


def test_another_book_can_be_handed_in() -> None:
    empty = Book({"version": "2020-01-01", "hosts": {}, "fallbacks": {}, "fees": [], "multipliers": [], "aliases": [],
                  "disputes": [], "providers": {}})  # fmt: skip

    receipt = price("openai", "gpt-4o", WIRE, book=empty)

    assert (receipt.status, receipt.price_version) == (CostStatus.UNKNOWN, "2020-01-01")


@pytest.mark.parametrize("indent", [None, 1], ids=["one-line", "many-lines"])
def test_a_book_reads_the_same_however_its_file_is_laid_out(tmp_path: Path, indent: int | None) -> None:
    """The shipped one is read by its lines, provider by provider; another may come from any tool."""
    document = json.loads(SHIPPED.read_bytes())
    other = tmp_path / "book.json"
    other.write_text(json.dumps(document, indent=indent))

    assert read_book().document == document
    assert read_book(str(other)).document == document


def test_a_book_is_light_until_all_of_it_is_asked_for() -> None:
    """All models decoded are 3 MB, in every process of an app that uses two of them."""
    tracemalloc.start()
    try:
        book = read_book()
        price("openai", "gpt-4o", WIRE, book=book)
        gc.collect()
        kept = tracemalloc.get_traced_memory()[0]
    finally:
        tracemalloc.stop()

    assert kept < 500_000


def test_many_different_calls_do_not_fill_the_memory() -> None:
    book = load_book()

    for number in range(6000):
        price("openai", "gpt-4o", WIRE, base_url=f"https://host{number}.example/v1")

    assert len(book.plans) <= 4096


@pytest.mark.usefixtures("own_prices")
def test_names_of_ones_own_get_a_price_by_alias() -> None:
    azure = price("openai", "prod-chat-eu", WIRE, api="chat", base_url="https://acme.openai.azure.com/openai/v1")
    arn = "arn:aws:bedrock:us-east-1:111122223333:application-inference-profile/a1b2c3d4e5f6"
    profile = price("aws.bedrock", arn, {"input_tokens": 1000, "output_tokens": 1000}, api="messages")

    assert azure.cost_usd == Decimal("0.0125")
    assert profile.cost_usd == Decimal("0.018") * Decimal("1.1")


@pytest.mark.usefixtures("own_prices")
def test_a_gateway_of_ones_own_is_a_host_with_a_provider() -> None:
    through = price("openai", "gpt-4o", WIRE, api="chat", base_url="https://llm.acme.internal/openai/v1")
    beside = price("openai", "gpt-4o", WIRE, api="chat", base_url="https://llm.acme.internal/other/v1")

    assert through.cost_usd == Decimal("0.0125") * Decimal("1.02")
    assert beside.status is CostStatus.UNKNOWN


@pytest.mark.usefixtures("own_prices")
def test_a_model_of_ones_own_has_the_price_that_one_gives_it() -> None:
    cheap = price("openai", "llama-4", WIRE, base_url="http://gpu.acme.internal/v1")
    long = price("openai", "llama-4", {**WIRE, "prompt_tokens": 1501, "total_tokens": 2501},
                 base_url="http://gpu.acme.internal/v1")  # fmt: skip

    assert cheap.cost_usd == Decimal("0.0004")
    assert long.cost_usd == (1501 * Decimal("0.20") + 1000 * Decimal("0.30")) / 1_000_000
    assert cheap.lines[0].source == "our own machines"
    assert cheap.price_version.endswith("+acme-7")


@pytest.mark.usefixtures("own_prices")
@pytest.mark.parametrize(("day", "output"), [("2026-05-31", "0.60"), ("2026-06-01", "0.50"), ("2026-12-01", "0.60")])
def test_ones_own_price_holds_within_its_days_and_changes_only_what_it_names(day: str, output: str) -> None:
    receipt = price("openai", "gpt-4o-mini", WIRE, api="chat", timestamp=day)

    assert receipt.cost_usd == (Decimal("0.15") + Decimal(output)) / 1000


@pytest.mark.parametrize(
    ("text", "status", "cost"),
    [
        pytest.param("free = true\n", CostStatus.EXACT, "0", id="free"),
        pytest.param('replace = true\ninput = "1"\noutput = "1"\n', CostStatus.EXACT, "0.002", id="replaced"),
        pytest.param('replace = true\ninput = "1"\n', CostStatus.UNKNOWN, None, id="replaced-without-output"),
        pytest.param('when = { batch = true }\ninput = "9"\n', CostStatus.EXACT, "0.0125", id="of-another-case"),
        pytest.param('hours = ["11:00-13:00"]\ninput = "9"\n', CostStatus.EXACT, "0.019", id="of-this-hour"),
        pytest.param('hours = ["22:00-02:00"]\ninput = "9"\n', CostStatus.EXACT, "0.0125", id="of-the-night"),
        pytest.param('weekdays = [5]\ninput = "9"\n', CostStatus.EXACT, "0.019", id="of-fridays"),
        pytest.param('weekdays = [6, 7]\ninput = "9"\n', CostStatus.EXACT, "0.0125", id="of-weekends"),
        pytest.param(
            '[[multiplier]]\nprovider = "openai"\nmodels = ["gpt-4o"]\nfactor = "2"\nestimated = true\n'
            'when = { batch = false }\nfrom = "2026-11-01"\nuntil = "2026-12-01"\n',
            CostStatus.ESTIMATED,
            "0.025",
            id="estimated",
        ),
    ],
)
def test_keys_of_a_price_do_what_the_docs_say(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str, status: CostStatus, cost: str | None
) -> None:
    path = tmp_path / "prices.toml"
    path.write_text(f'[[price]]\nprovider = "openai"\nmodel = "gpt-4o"\n{text}', encoding="utf-8")
    monkeypatch.setenv(_book.USER_FILE, str(path))

    receipt = price("openai", "gpt-4o", WIRE, api="chat", timestamp="2026-11-20T12:00:00Z")

    assert (receipt.status, receipt.cost_usd) == (status, cost and Decimal(cost))


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        pytest.param("[[prices]]\n", "unknown table 'prices'; known: [[price]], [[alias]]", id="table"),
        pytest.param("price = 3\n", "unknown table 'price'", id="not-a-list"),
        pytest.param('[[price]]\nmodel = "x"\n', "[[price]] number 1 (x): 'provider' is missing", id="missing-key"),
        pytest.param('[[price]]\nprovider = "a"\nmodel = "x"\nimput = "1"\n', "unknown key 'imput'", id="unknown-key"),
        pytest.param('[[price]]\nprovider = "a"\nmodel = "x"\ninput = 0.1\n', "write a decimal in quotes", id="float"),
        pytest.param('[[price]]\nprovider = "a"\nmodel = "x"\ninput = "-1"\n', "is not a price", id="negative"),
        pytest.param('[[price]]\nprovider = "a"\nmodel = "x"\ninput = "NaN"\n', "is not a price", id="not-a-number"),
        pytest.param('[[price]]\nprovider = "a"\nmodel = "x"\nfrom = "soon"\n', "is not a day", id="day"),
        pytest.param('[[price]]\nprovider = "a"\nmodel = "x"\nhours = ["9"]\n', "write UTC hours", id="hours"),
        pytest.param('[[price]]\nprovider = "a"\nmodel = "x"\nwhen = { tier = "x" }\n', "it takes batch", id="when"),
        pytest.param(
            '[[price]]\nprovider = "a"\nmodel = "x"\nabove = 0\n', "is not a whole number above 0", id="above"
        ),
        pytest.param(
            '[[price]]\nprovider = "a"\nmodel = "x"\nabove = 9\ninput = "1"\n', "write that one first", id="step"
        ),
        pytest.param(
            '[[price]]\nprovider = "a"\nmodel = "x"\nwhen = { batch = true, speed = "fast" }\n',
            "several cases",
            id="cases",
        ),
        pytest.param('[[fee]]\nprovider = "a"\nitem = "tea"\nprice = "1"\n', "nothing that can be charged", id="item"),
        pytest.param("[[price]\n", "not TOML", id="not-toml"),
    ],
)
def test_a_wrong_file_is_told_by_file_table_and_key(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str, complaint: str
) -> None:
    path = tmp_path / "prices.toml"
    path.write_text(text, encoding="utf-8")
    monkeypatch.setenv(_book.USER_FILE, str(path))

    with pytest.raises(SettingsError) as caught:
        load_book()

    assert complaint in str(caught.value)
    assert str(path) in str(caught.value)


def test_a_file_that_is_not_there_is_told_and_prices_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(_book.USER_FILE, "/nowhere/prices.toml")

    with pytest.raises(SettingsError, match=r"cannot read /nowhere/prices\.toml"):
        load_book()
    receipt = price("openai", "gpt-4o", WIRE)

    assert (receipt.status, receipt.cost_usd) == (CostStatus.UNKNOWN, None)
    assert "/nowhere/prices.toml" in (receipt.reason or "")


def test_every_override_says_where_it_comes_from_and_when_it_was_checked() -> None:
    shipped = read_overrides(Path(_book.__file__).with_name("overrides.toml"))

    for table in ("price", "alias", "multiplier", "fee", "ratio", "dispute"):
        assert shipped[table]
        for entry in shipped[table]:
            assert entry.get("source"), entry
            assert date.fromisoformat(entry["checked"]) <= date.fromisoformat(shipped.version), entry
