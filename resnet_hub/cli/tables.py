"""Tables for a person: rich on a terminal, aligned text in a pipe; and JSON for programs."""

import codecs
import json
import sys
from collections.abc import Sequence
from typing import Any

from rich.console import Console
from rich.table import Column, Table
from rich.text import Text

from resnet_hub.terminal import print_document, printable, printable_json, say

Row = dict[str, Any]


def print_json(value: Any) -> None:
    """Print records as JSON for programs; escaped where the encoding of stdout may lack a letter."""
    is_utf8 = codecs.lookup(sys.stdout.encoding or "utf-8").name == "utf-8"
    print_document(printable_json(json.dumps(value, indent=2, ensure_ascii=not is_utf8)) + "\n")


def print_rows(
    rows: Sequence[Row], *, as_json: bool = False, title: str = "", verbatim: bool = False
) -> None:
    """Print records with equal keys, one a line; the keys are the head, and missing values a dash.

    The head is in words, `image size` for `image_size`; with `verbatim` it is the keys as they are.
    """
    if as_json:
        print_json(list(rows))
    elif not rows:
        say(f"{title}: none" if title else "none")
    else:
        head = [_text(key) if verbatim else _label(key) for key in rows[0]]
        if sys.stdout.isatty():
            _print_rich(head, rows, title)
        else:
            _print_plain(head, rows)


def print_record(record: Row, *, as_json: bool) -> None:
    """Print one record, a key and its value a line."""
    if as_json:
        print_json(record)
        return
    width = max(map(len, record))
    for key, value in record.items():
        say(f"{_label(key):<{width}}  {_text(value)}")


def _label(key: str) -> str:
    return key.replace("_", " ")


def _text(value: Any) -> str:
    if value is None:
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, list | tuple):
        return ", ".join(map(_text, value))
    return printable(str(value), keep="")


def _print_plain(head: Sequence[str], rows: Sequence[Row]) -> None:
    lines = [head, *([_text(value) for value in row.values()] for row in rows)]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    for line in lines:
        say("  ".join(f"{cell:<{width}}" for cell, width in zip(line, widths, strict=True)).rstrip())


def _print_rich(head: Sequence[str], rows: Sequence[Row], title: str) -> None:
    # As `Text`: of a plain string rich would read `[red]` as markup, and `:cat:` as an emoji.
    table = Table(*(Column(Text(name)) for name in head), title=Text(printable(title)) if title else None)
    for row in rows:
        table.add_row(*(Text(_text(value)) for value in row.values()))
    Console().print(table)
