"""The table of docs/models.md: it has every family and source, and every row keeps what it promises."""

import pytest
from gguf_files import ARCHITECTURES
from parity_table import COLUMNS, LIMIT, PAGE, REAL, read_table

from moe_lm.families import FAMILIES

HEADER, *ROWS = read_table(PAGE.read_text("utf-8"))
AGAIN = "run `python tests/helpers/parity_table.py`"


def test_families_and_columns_are_current():
    assert HEADER == COLUMNS, AGAIN
    random = {(family, "folder") for family in FAMILIES} | {(family, "GGUF") for family in ARCHITECTURES}
    assert {row[:2] for row in ROWS if row[2] == "random"} == random, AGAIN
    assert {row[2] for row in ROWS} == {"random", *REAL}, AGAIN
    assert len(ROWS) == len(random) + len(REAL)


@pytest.mark.parametrize("row", ROWS, ids=lambda row: "-".join(row[:3]))
def test_every_row_is_equal_within_rounding(row):
    assert 0 < float(row[3]) <= LIMIT
    equal, tokens = row[4].split(" of ")
    assert int(equal) == int(tokens) >= 64


@pytest.mark.parametrize("family", FAMILIES)
def test_the_page_names_every_family(family):
    assert f"| `{family}` |" in PAGE.read_text("utf-8")
