"""What a person reads on a terminal: names from outside can neither steer it nor reorder a line."""

import io
import json
import logging
import sys
import unicodedata
from typing import IO, Any

# Control characters (ANSI escapes begin with one), bidirectional overrides and other invisible formats,
# surrogates, and the two separators that some terminals take for the end of a line.
_SPELLED_OUT = frozenset({"Cc", "Cf", "Cs", "Zl", "Zp"})
_JOINERS = "\u200c\u200d"  # within words of Persian and Hindi, and within emoji


def printable(text: str, *, keep: str = "\n\t") -> str:
    """The text with all that could steer a terminal spelled out as in Python, but for the letters to keep."""
    if text.isprintable():
        return text
    return "".join(
        letter.encode("unicode_escape").decode() if _steers(letter) and letter not in keep else letter
        for letter in text
    )


def printable_json(text: str) -> str:
    """JSON that says the same, with what could steer a terminal in JSON's own spelling."""
    if text.isprintable():
        return text
    return "".join(
        json.dumps(letter)[1:-1] if _steers(letter) and letter != "\n" else letter for letter in text
    )


def say(text: Any = "", *, file: IO[str] | None = None, end: str = "\n") -> None:
    """Print a message on stdout, or another stream, at once."""
    print(printable(str(text)), file=file, end=end, flush=True)


def print_document(text: str) -> None:
    """Print a text that may be kept in a file: as it is into a file or a pipe, and safely on a terminal."""
    print(printable(text) if sys.stdout.isatty() else text, end="")  # noqa: T201


def show_log(*, level: int = logging.WARNING) -> None:
    """Print what the package logs from this level on, on stderr, unless a program has set up logging."""
    handler = logging.StreamHandler()
    handler.setFormatter(_Printable("%(message)s"))
    logging.basicConfig(level=level, handlers=[handler])


def replace_unknown_letters() -> None:
    """Let stdout print `?` for a letter that its encoding lacks: a command must not die after its work."""
    if isinstance(sys.stdout, io.TextIOWrapper):  # a notebook's own knows every letter
        sys.stdout.reconfigure(errors="replace")


def _steers(letter: str) -> bool:
    return unicodedata.category(letter) in _SPELLED_OUT and letter not in _JOINERS


class _Printable(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        return printable(super().format(record))
