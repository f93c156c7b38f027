"""The printer of tables."""

import pytest

from vitdeblur_jax.utils.table import format_number, format_table


def test_columns_are_aligned():
    table = format_table(("image", "psnr"), [("a", "7.5"), ("longer name", "21.125")])
    assert table.splitlines() == [
        "image          psnr",
        "-----------  ------",
        "a               7.5",
        "longer name  21.125",
    ]


def test_a_table_without_rows_is_its_head():
    assert format_table(("image", "psnr"), []) == "image  psnr\n-----  ----"


def test_rows_of_another_length_are_refused():
    with pytest.raises((ValueError, IndexError)):
        format_table(("image", "psnr"), [("a",)])


@pytest.mark.parametrize(
    ("value", "digits", "text"),
    [(25.63236, 3, "25.632"), (0.99999, 4, "1.0000"), (2.0, 1, "2.0"), (None, 3, "-")],
)
def test_numbers(value, digits, text):
    assert format_number(value, digits) == text
