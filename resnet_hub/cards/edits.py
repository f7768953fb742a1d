"""A person's edits of a card, told from what was generated and carried over to the next generated card."""

import re
from collections.abc import Sequence
from difflib import SequenceMatcher
from typing import Any

import yaml

from resnet_hub.errors import HubError

MAX_CARD_BYTES = 2**20

_FRONT_MATTER = re.compile(r"\A\s*---[ \t]*\r?\n(.*?)(?:\r?\n)?---[ \t]*(?:\r?\n|\Z)", re.DOTALL)
_MEASURED_KEYS = frozenset(
    {"model-index", "metrics"}
)  # numbers, and what names them, are never typed by hand


def with_edits(fresh: str, *, edited: str, generated: str | None, source: str) -> str:
    """The fresh card with the edits that turned `generated` into `edited`; without edits it is `fresh`.

    Args:
        fresh: the card as it is generated now.
        edited: the card as it is kept somewhere, by a person or by an earlier push.
        generated: what `edited` was before anybody touched it; None for a card that was not made here, whose
            whole text is then kept, above ours.
        source: how messages call the place where the edited card is.

    Raises:
        HubError: the edited card is too large, or its metadata cannot be read.
    """
    fresh_data, fresh_text = _parts(fresh, source="the generated card")
    edited_data, edited_text = _parts(edited, source=source)
    if generated is None:
        data = _merged_data(fresh_data, edited=edited_data, generated={})
        text = (
            fresh_text
            if edited_text.strip() in ("", fresh_text.strip())
            else f"{edited_text.strip()}\n\n{fresh_text}"
        )
        return _card(data, text)
    old_data, old_text = _parts(generated, source=source)
    data = _merged_data(fresh_data, edited=edited_data, generated=old_data)
    lines = _merged_lines(fresh_text.splitlines(), edited_text.splitlines(), old_text.splitlines())
    return _card(data, "\n".join(lines) + "\n")


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


def _merged_lines(fresh: list[str], edited: list[str], generated: list[str]) -> list[str]:
    """Fresh lines with the edits applied at the places that correspond.

    Where the generated lines themselves have changed meanwhile, both are kept; rows of generated tables hold
    what was measured and are always fresh.
    """
    where = _places(generated, fresh)
    merged = list(fresh)
    changes = SequenceMatcher(None, generated, edited, autojunk=False).get_opcodes()
    for kind, start, end, first, last in reversed(changes):
        if kind == "equal":
            continue
        old, new = generated[start:end], edited[first:last]
        target = [where.get(place) for place in range(start, end)]
        as_it_was = None not in target and not any(line.startswith("|") for line in old)
        if not as_it_was:
            new = [line for line in new if not line.startswith(("|", "!["))]
        before = max((place for place in where if place < start), default=None)
        place = 0 if before is None else where[before] + 1
        if _is_there(new, merged):
            new = []
        if as_it_was and target:
            place = min(number for number in target if number is not None)
            merged[place : place + len(target)] = new
        else:
            merged[place:place] = new
    return merged


def _places(first: Sequence[str], second: Sequence[str]) -> dict[int, int]:
    """Line number in the first text -> line number of the same line in the second."""
    blocks = SequenceMatcher(None, first, second, autojunk=False).get_matching_blocks()
    return {block.a + step: block.b + step for block in blocks for step in range(block.size)}


def _is_there(block: Sequence[str], lines: Sequence[str]) -> bool:
    """Whether the block stands in the text already: an edit may arrive from the folder and from the Hub."""
    wanted = [line for line in block if line.strip()]
    if not wanted:
        return False
    solid = [line for line in lines if line.strip()]
    return any(solid[start : start + len(wanted)] == wanted for start in range(len(solid) - len(wanted) + 1))


class _PlainLoader(yaml.SafeLoader):
    """YAML without aliases, which can grow without bounds, and without keys that are given twice."""

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        if self.check_event(yaml.AliasEvent):
            raise yaml.YAMLError("it uses an alias (*name)")
        return super().compose_node(parent, index)

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        keys = [key.value for key, _ in node.value]
        if len(keys) != len(set(map(str, keys))):
            raise yaml.YAMLError("a key is given twice")
        return super().construct_mapping(node, deep=deep)


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
        data = _PlainLoader(head[1]).get_single_data()
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        reason = " ".join(str(error).split())[:200]
        raise HubError(
            f"The metadata of the README.md of {source} cannot be read: {reason}. Mend it there."
        ) from None
    if data is not None and not isinstance(data, dict):
        raise HubError(
            f"The metadata of the README.md of {source} is not a list of keys and values. Mend it there."
        )
    return data or {}, card[head.end() :]


def _card(data: dict[str, Any], text: str) -> str:
    head = yaml.safe_dump(data, sort_keys=False, allow_unicode=True) if data else ""
    return f"---\n{head}---\n\n{text.strip()}\n"
