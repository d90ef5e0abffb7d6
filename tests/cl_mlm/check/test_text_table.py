"""Rules of tables of text: aligned, never wider than asked for, nothing lost."""

import pytest

from cl_mlm.check.text_table import aligned, fitted

HEADER = ["rows", "train", "validation", "rows scored"]
ROWS = [["  1. a stage with a rather long name", "1,000,000", "2", "3"], ["  all", "4", "5", "6"]]


def test_without_a_limit_there_is_one_table():
    assert fitted(HEADER, ROWS, None) == [aligned(HEADER, ROWS)]


@pytest.mark.parametrize("width", range(25, 80))
def test_no_line_is_wider_and_every_cell_is_there(width):
    tables = fitted(HEADER, ROWS, width)
    assert max(len(line) for table in tables for line in table) <= width
    words = " ".join(line for table in tables for line in table).split()
    assert {word for row in [HEADER, *ROWS] for cell in row for word in cell.split()} <= {*words}


def test_a_long_name_is_folded_and_its_numbers_stand_beside_its_first_line():
    (table,) = fitted(HEADER[:2], [["  a name of many words", "12"]], 20)
    assert table == ["rows       train", "  a name      12", "    of", "    many", "    words"]
