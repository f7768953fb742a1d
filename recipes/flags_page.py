"""The page of all flags, made from the parsers: python recipes/flags_page.py recipes/README.md."""

import argparse
import ast
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from resnet_hub.cli.main import VERBS, full_parsers
from resnet_hub.errors import ConfigError, UserError

BEGIN = "<!-- flags: begin; written by `python recipes/flags_page.py recipes/README.md` -->"
END = "<!-- flags: end -->"

_Row = tuple[str, str]


def main(arguments: Sequence[str]) -> int:
    """Write the page anew between its two marks."""
    if len(arguments) != 1:
        print("usage: python recipes/flags_page.py recipes/README.md", file=sys.stderr)
        return 2
    path = Path(arguments[0])
    try:
        path.write_text(updated(path.read_text(encoding="utf-8"), path.parent), encoding="utf-8")
    except (OSError, UserError) as error:
        print(f"{path}: {error}", file=sys.stderr)
        return 2
    return 0


def updated(text: str, recipes: Path) -> str:
    """The text of the page with the flags as they are now.

    Args:
        text: Markdown with the two marks.
        recipes: Folder with the scripts, whose own flags are listed as well.
    """
    before, begin, rest = text.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not (begin and end):
        raise ConfigError(f"The page has no lines {BEGIN!r} and {END!r}.")
    return f"{before}{BEGIN}\n\n{reference(recipes)}\n{END}{after}"


def reference(recipes: Path) -> str:
    """All verbs and scripts with all their flags, as Markdown."""
    _, parsers = full_parsers()
    parts = []
    for name, parser in parsers.items():
        parts += [f"### resnet-hub {name}", f"{_sentence(VERBS[name].help)}", _table(_rows_of(parser))]
    for script in sorted(recipes.glob("*.py")):
        if rows := list(_rows_of_script(script)):
            parts += [f"### {script.name}", _table(rows)]
    return "\n\n".join(parts) + "\n"


def _rows_of(parser: argparse.ArgumentParser) -> Iterator[_Row]:
    for action in parser._actions:
        if "--help" in action.option_strings:
            continue
        value = action.metavar or ("|".join(map(str, action.choices)) if action.choices else "")
        if not action.option_strings:
            yield str(value or action.dest), action.help or ""
            continue
        takes_value = action.nargs != 0
        shown = str(value or action.dest.upper()) if takes_value else ""
        names = ", ".join(action.option_strings)
        yield f"{names} {shown}".strip(), (action.help or "").replace("%%", "%")


def _rows_of_script(script: Path) -> Iterator[_Row]:
    """The flags that a script adds by itself; it is read and not run, which would import what it measures."""
    for node in ast.walk(ast.parse(script.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Call) and getattr(node.func, "attr", "") == "add_argument":
            names = [argument.value for argument in node.args if isinstance(argument, ast.Constant)]
            helps = [keyword.value for keyword in node.keywords if keyword.arg == "help"]
            text = next((value.value for value in helps if isinstance(value, ast.Constant)), "")
            yield ", ".join(map(str, names)), str(text)


def _table(rows: Iterator[_Row] | list[_Row]) -> str:
    lines = ["| flag | what it does |", "|---|---|"]
    return "\n".join([*lines, *(f"| `{_cell(flag)}` | {_text(text)} |" for flag, text in rows)])


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")


def _text(text: str) -> str:
    return _cell(text).replace("<", "&lt;").replace("*", "\\*")


def _sentence(text: str) -> str:
    return text[0].upper() + text[1:] + ("" if text.endswith("?") else ".")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
