import re
from decimal import Decimal

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tallystick.model.money import show_usd


@pytest.mark.parametrize(
    ("amount", "shown"),
    [
        ("0", "$0"),
        ("-0", "$0"),
        ("0.00", "$0"),
        ("0.000000000001", "$0.000000000001"),
        ("0.00042", "$0.00042"),
        ("0.000424", "$0.00042"),
        ("0.000425", "$0.00042"),
        ("0.000426", "$0.00043"),
        ("0.00999", "$0.010"),
        ("0.01", "$0.010"),
        ("0.417", "$0.417"),
        ("0.4175", "$0.418"),
        ("0.9994", "$0.999"),
        ("0.9996", "$1.00"),
        ("1", "$1.00"),
        ("12.3", "$12.30"),
        ("999.99", "$999.99"),
        ("999.996", "$1,000"),
        ("1000", "$1,000"),
        ("12345.6", "$12,346"),
        ("123456789012", "$123,456,789,012"),
        ("1E+3", "$1,000"),
        ("-0.00042", "-$0.00042"),
        ("-12.3", "-$12.30"),
        ("-0.9996", "-$1.00"),
    ],
)
def test_an_amount_has_the_digits_that_a_person_reads(amount: str, shown: str) -> None:
    assert show_usd(Decimal(amount)) == shown


def test_an_unknown_amount_is_a_word_and_never_a_zero() -> None:
    assert show_usd(None) == "unpriced"


@settings(deadline=None)  # a slow machine is no fault
@given(st.decimals(allow_nan=False, allow_infinity=False, min_value=-(10**12), max_value=10**12, places=12))
def test_what_is_shown_is_plain_and_within_half_a_digit_of_the_amount(amount: Decimal) -> None:
    shown = show_usd(amount)

    assert re.fullmatch(r"-?\$\d{1,3}(,\d{3})*(\.\d+)?", shown)
    value = Decimal(shown.replace("$", "").replace(",", ""))
    digits = len(shown.partition(".")[2])
    assert abs(value - amount) <= Decimal(5).scaleb(-digits - 1)
    assert (value == 0) == (amount == 0), "only nothing is shown as nothing"
