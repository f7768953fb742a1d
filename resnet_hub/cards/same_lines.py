"""Which lines of two texts correspond: difflib's answer where that is quick, and a bounded one elsewhere."""

from bisect import bisect_left
from collections import Counter
from collections.abc import Sequence
from difflib import SequenceMatcher

_MOST_WORK = 3e7  # comparisons of lines at worst, below a second


def same_lines(first: Sequence[str], second: Sequence[str]) -> dict[int, int]:
    """Line number in the first text -> number of the same line in the second; both increase.

    difflib takes the cube of the number of equal lines at worst. Where that could be long, the texts are held
    together by their equal starts and ends and by the lines that are alone in both (patience diff, Cohen
    2003); difflib compares what is between those, and what is too much for it even there is taken as changed.
    """
    if _work(first, second) <= _MOST_WORK:
        return _by_difflib(first, second)
    head = _equal_from_start(first, second)
    tail = _equal_from_start(first[head:][::-1], second[head:][::-1])
    anchors = [(place, place) for place in range(head)]
    lone = _by_lone_lines(first[head : len(first) - tail], second[head : len(second) - tail])
    anchors += [(one + head, other + head) for one, other in lone]
    anchors += [(len(first) - place, len(second) - place) for place in range(tail, 0, -1)]
    return dict(anchors) | _between(anchors, first, second)


def changes(first: Sequence[str], second: Sequence[str]) -> list[tuple[range, range]]:
    """Which lines of the first text became which lines of the second, from top to bottom."""
    found: list[tuple[range, range]] = []
    start, begin = 0, 0
    for one, other in [*sorted(same_lines(first, second).items()), (len(first), len(second))]:
        if one > start or other > begin:
            found.append((range(start, one), range(begin, other)))
        start, begin = one + 1, other + 1
    return found


def _by_difflib(first: Sequence[str], second: Sequence[str]) -> dict[int, int]:
    blocks = SequenceMatcher(None, first, second, autojunk=False).get_matching_blocks()
    return {block.a + step: block.b + step for block in blocks for step in range(block.size)}


def _work(first: Sequence[str], second: Sequence[str]) -> int:
    """Comparisons that difflib makes at worst: all pairs of equal lines, for each run of equal lines."""
    counts = Counter(second)
    pairs = sum(number * counts[line] for line, number in Counter(first).items())
    return (pairs + len(first)) * min(len(first), len(second))


def _between(
    anchors: Sequence[tuple[int, int]], first: Sequence[str], second: Sequence[str]
) -> dict[int, int]:
    """Equal lines between neighboring anchors; each gap may take its share of the work."""
    found: dict[int, int] = {}
    share = _MOST_WORK / (len(first) + len(second))
    start, begin = 0, 0
    for one, other in [*anchors, (len(first), len(second))]:
        mine, theirs = first[start:one], second[begin:other]
        if mine and theirs and _work(mine, theirs) <= share * (len(mine) + len(theirs)):
            found |= {start + place: begin + same for place, same in _by_difflib(mine, theirs).items()}
        start, begin = one + 1, other + 1
    return found


def _by_lone_lines(first: Sequence[str], second: Sequence[str]) -> list[tuple[int, int]]:
    """The longest increasing sequence of lines that each text has once."""
    mine, theirs = Counter(first), Counter(second)
    places = {line: place for place, line in enumerate(second)}
    pairs = [(place, places[line]) for place, line in enumerate(first) if mine[line] == theirs[line] == 1]
    ends: list[int] = []  # place in `second` that the best sequence of each length ends at
    lengths: list[int] = []
    for _, place in pairs:
        length = bisect_left(ends, place)
        ends[length : length + 1] = [place]
        lengths.append(length)
    found: list[tuple[int, int]] = []
    wanted = len(ends) - 1
    for pair, length in zip(reversed(pairs), reversed(lengths), strict=True):
        if length == wanted and (not found or pair[1] < found[-1][1]):
            found.append(pair)
            wanted -= 1
    return found[::-1]


def _equal_from_start(first: Sequence[str], second: Sequence[str]) -> int:
    pairs = enumerate(zip(first, second, strict=False))
    return next((place for place, (one, other) in pairs if one != other), min(len(first), len(second)))
