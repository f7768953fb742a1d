"""Texts in CSV files that spreadsheets open: a class called `=1+1` is a name there, and no formula."""

import re

# Excel, LibreOffice and Google Sheets take a cell that begins so for a formula (OWASP, "CSV Injection").
_FORMULA = re.compile(r"'*[=+\-@\t\r\n\uff1d\uff0b\uff0d\uff20]")


def to_cell(text: str) -> str:
    """The text as a cell; one that could compute gets an apostrophe before it, as spreadsheets spell text."""
    return f"'{text}" if _FORMULA.match(text) else text


def from_cell(cell: str) -> str:
    """The text that `to_cell` made a cell of."""
    return cell[1:] if cell.startswith("'") and _FORMULA.match(cell) else cell
