"""YAML from outside: plain values only, read within a second whatever it holds."""

from typing import Any

import yaml

try:
    from yaml import CSafeLoader as SafeLoader  # of libyaml; a tenth of the time
except ImportError:
    from yaml import SafeLoader

MAX_YAML_BYTES = 2**16
"""More than any configuration or card's metadata needs; libyaml reads it in a fifth of a second."""

_DEEPEST = 50


def read_yaml(text: str) -> Any:
    """The value of a YAML text.

    Raises ValueError, with the reason in one line, for what is not YAML, is too large or nested too deeply,
    and for aliases, tags and keys given twice: nobody needs them here, and they can mean anything.
    """
    if len(text.encode(errors="replace")) > MAX_YAML_BYTES:
        raise ValueError(f"it is larger than {MAX_YAML_BYTES >> 10} KiB")
    try:
        _refuse_what_grows(text)
        return _PlainLoader(text).get_single_data()
    except (yaml.YAMLError, ValueError) as error:  # ValueError: a date or a number that Python refuses
        raise ValueError(" ".join(str(error).split())[:200]) from None


def _refuse_what_grows(text: str) -> None:
    """Look at the text before anything is built of it."""
    depth = 0
    for event in yaml.parse(text, Loader=SafeLoader):
        if isinstance(event, yaml.AliasEvent):
            raise ValueError(f"it uses an alias (*{event.anchor})")
        if getattr(event, "tag", None) is not None:
            raise ValueError(f"it uses a tag ({event.tag[:80]})")
        depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
        if depth > _DEEPEST:
            raise ValueError(f"it is nested more than {_DEEPEST} levels deep")


class _PlainLoader(SafeLoader):  # pyright: ignore[reportGeneralTypeIssues]  one of two classes
    """The safe loader, without keys that are given twice."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen: set[str] = set()
        for key, _ in node.value:
            if (name := str(key.value)) in seen:
                raise ValueError(f"the key {name[:80]!r} is given twice")
            seen.add(name)
        return super().construct_mapping(node, deep=deep)
