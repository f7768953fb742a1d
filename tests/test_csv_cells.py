"""A name in a CSV file is a text for spreadsheets, whatever it begins with, and is read back as it was."""

import csv
import io

import pytest

from resnet_hub.csv_cells import from_cell, to_cell

FORMULAS = [
    *(
        "=1+1",
        "+1",
        "-1",
        "@SUM(A1)",
        "\t=1",
        "\r=1",
        "\n=1",
        '=HYPERLINK("http://evil","cat")',
        "=cmd|' /C calc'!A0",
    ),
    *("\uff1d1+1", "'=1+1", "''-1", "-", "=", "@"),
]
PLAIN = ["cat", "", "a=b", "l'été", "'quoted'", "'", "1-2", " =1", "写真", "not -1"]


@pytest.mark.parametrize("text", [*FORMULAS, *PLAIN])
def test_a_text_survives_a_file_and_begins_no_formula(text):
    file = io.StringIO(newline="")
    csv.writer(file).writerow([to_cell(text), "b"])
    file.seek(0)
    ((cell, _),) = csv.reader(file)
    assert from_cell(cell) == text
    assert not cell.startswith(("=", "+", "-", "@", "\t", "\r", "\n", "\uff1d"))
    assert (cell == text) == (text in PLAIN)
