"""A person's edits of a card, told from what was generated and carried over to the next generated card."""

import re
from bisect import bisect_left
from collections.abc import Collection, Sequence
from typing import Any

import yaml

from resnet_hub.cards.same_lines import changes, same_lines
from resnet_hub.errors import HubError
from resnet_hub.plain_yaml import read_yaml

MAX_CARD_BYTES = 2**20

_MOST_LINES_MOVED = 10_000_000  # edits times lines: each edit moves all lines below it; half a second

# Ends at the first line that is `---` and nothing else, as on the Hub: names may hold dashes.
_FRONT_MATTER = re.compile(r"\A\s*---[ \t]*\r?\n(?:(.*?)\r?\n)??---[ \t]*(?:\r?\n|\Z)", re.DOTALL)
_MEASURED_KEYS = frozenset(
    {"model-index", "metrics"}
)  # numbers, and what names them, are never typed by hand


def with_edits(
    fresh: str, *, edited: str, generated: str | None, source: str, settled: Collection[str] = ()
) -> str:
    """The fresh card with the edits that turned `generated` into `edited`; without edits it is `fresh`.

    Args:
        fresh: the card as it is generated now.
        edited: the card as it is kept somewhere, by a person or by an earlier push.
        generated: what `edited` was before anybody touched it; None for a card that was not made here. Its
            whole text is then kept, above ours, as is one with thousands of edits.
        source: how messages call the place where the edited card is.
        settled: keys of the metadata that are as in `fresh`, whatever a person had set.

    Raises:
        HubError: the edited card is too large, or its metadata cannot be read.
    """
    fresh_data, fresh_text = _parts(fresh, source="the generated card")
    edited_data, edited_text = _parts(edited, source=source)
    old_data, old_text = ({}, None) if generated is None else _parts(generated, source=source)
    edited_data, old_data = (
        {key: value for key, value in data.items() if key not in settled} for data in (edited_data, old_data)
    )
    data = _merged_data(fresh_data, edited=edited_data, generated=old_data)
    lines = None
    if old_text is not None:
        lines = _merged_lines(fresh_text.splitlines(), edited_text.splitlines(), old_text.splitlines())
    if lines is not None:
        return _card(data, "\n".join(lines))
    if edited_text.strip() in ("", fresh_text.strip()):
        return _card(data, fresh_text)
    return _card(data, f"{edited_text.strip()}\n\n{fresh_text}")


def _merged_data(
    fresh: dict[str, Any], *, edited: dict[str, Any], generated: dict[str, Any]
) -> dict[str, Any]:
    """Metadata: what a person set, changed or took out stays so; measured entries are always fresh."""
    merged = dict(fresh)
    for key in generated.keys() - edited.keys() - _MEASURED_KEYS:
        merged.pop(key, None)
    for key, value in edited.items():
        if key in _MEASURED_KEYS or value == generated.get(key):
            continue
        if isinstance(value, list) and isinstance(ours := fresh.get(key), list):
            merged[key] = [*ours, *(entry for entry in value if entry not in ours)]
        else:
            merged[key] = value
    return merged


def _merged_lines(fresh: list[str], edited: list[str], generated: list[str]) -> list[str] | None:
    """Fresh lines with the edits applied at the places that correspond; None where too much was changed.

    Where the generated lines themselves have changed meanwhile, both are kept; rows of generated tables hold
    what was measured and are always fresh.
    """
    edits = changes(generated, edited)
    if len(edits) * (len(fresh) + len(edited)) > _MOST_LINES_MOVED:
        return None
    where = same_lines(generated, fresh)
    kept = sorted(where)
    merged: list[str | None] = list(fresh)
    additions: list[tuple[int, list[str]]] = []
    for places, lines in edits:
        old, new = generated[places.start : places.stop], edited[lines.start : lines.stop]
        target = [where[place] for place in places if place in where]
        before = bisect_left(kept, places.start)
        place = where[kept[before - 1]] + 1 if before else 0
        if len(target) < len(places) or any(line.startswith("|") for line in old):
            new = [line for line in new if not line.startswith(("|", "!["))]
        elif target:
            place = target[0]
            # Taken out before anything is added, so that text which was moved does not count as there.
            merged[place : place + len(target)] = [None] * len(target)
        additions.append((place, new))
    for place, new in reversed(additions):
        if not _is_there(new, merged):
            merged[place:place] = new
    return [line for line in merged if line is not None]


def _is_there(block: Sequence[str], lines: Sequence[str | None]) -> bool:
    """Whether the block stands in the text already: an edit may arrive from the folder and from the Hub."""
    wanted, solid = ([line for line in text if line and line.strip()] for text in (block, lines))
    return bool(wanted) and "\n".join(["", *wanted, ""]) in "\n".join(["", *solid, ""])


def _parts(card: str, *, source: str) -> tuple[dict[str, Any], str]:
    """Metadata and text of a card."""
    if len(card.encode()) > MAX_CARD_BYTES:
        raise HubError(
            f"The README.md of {source} is larger than {MAX_CARD_BYTES >> 20} MiB, which no card needs."
        )
    head = _FRONT_MATTER.match(card)
    if head is None:
        return {}, card
    try:
        data = read_yaml(head[1] or "")
    except ValueError as error:
        raise HubError(
            f"The metadata of the README.md of {source} cannot be read: {error}. Mend it there."
        ) from None
    if data is not None and not isinstance(data, dict):
        raise HubError(
            f"The metadata of the README.md of {source} is not a list of keys and values. Mend it there."
        )
    return data or {}, card[head.end() :]


def _card(data: dict[str, Any], text: str) -> str:
    head = yaml.safe_dump(data, sort_keys=False, allow_unicode=True) if data else ""
    return f"---\n{head}---\n\n{text.strip()}\n"
