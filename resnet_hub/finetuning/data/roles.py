"""Which rows train, validate and test: as named, as found by name, or by a recorded stratified split."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from datasets import ReadInstruction
from numpy.typing import NDArray

from resnet_hub.errors import DataError, nearest
from resnet_hub.finetuning.config.options import DataOptions
from resnet_hub.finetuning.machine.seeds import random_key

ROLES = ("train", "validation", "test")

# Names that data sets give to each role, the usual one first.
_USUAL_NAMES: dict[str, tuple[str, ...]] = {
    "train": ("train", "training", "all", "full"),
    "validation": ("validation", "valid", "val", "dev", "eval"),
    "test": ("test", "testing"),
}


@dataclass(frozen=True, kw_only=True)
class Role:
    """The rows that train, validate or test, and how they were chosen.

    Row numbers count through all splits of the source, one after the other, in their order.
    """

    rows: NDArray[np.int64]
    how: str
    """For the report: `test of the data set`."""


def find_roles(sizes: Mapping[str, int], config: DataOptions) -> dict[str, Role]:
    """The roles that the data set has splits for: as the options say, else by their usual names.

    Args:
        sizes: Number of rows of each split of the source.
        config: Its `*_split` options name splits, slices of them (`train[:80%]`) or sums (`train+extra`).
    """
    roles: dict[str, Role] = {}
    for role in ROLES:
        spec = getattr(config, f"{role}_split")
        if spec is not None:
            roles[role] = Role(
                rows=resolve_split(spec, sizes, option=f"--{role}_split"), how=f"{spec} of the data set"
            )
        elif found := next((name for name in _USUAL_NAMES[role] if name in sizes), None):
            roles[role] = Role(rows=resolve_split(found, sizes, option=role), how=f"{found} of the data set")
        elif role == "train" and len(sizes) == 1:
            found = next(iter(sizes))
            roles[role] = Role(rows=resolve_split(found, sizes, option=role), how=f"{found} of the data set")
    if "train" not in roles:
        raise DataError(
            f"No split is called train; the data set has {_listing(sizes)}. Say which one to use: "
            f"--train_split {next(iter(sizes))}"
        )
    _check_rows(roles, config)
    return roles


def stratified_sides(
    groups: NDArray[np.int64], twins: NDArray[np.int64], shares: list[float], *, seed: int
) -> NDArray[np.int64]:
    """For each row 0 (stays) or the number, from 1, of the share that it goes to.

    Each group gives each share its part, rounded up or down so that the parts of all groups add up; a group
    keeps at least one row. Rows with the same twin go to the same side.
    """
    first_rows = np.unique(twins)  # one row of each set of equal images
    group = groups[first_rows]
    order, place, is_first = _evenly_spaced(group, seed=seed)
    limits = 1 - np.cumsum(shares)
    chosen = (place[:, None] >= limits[None, :]).sum(axis=1)
    chosen = np.where(chosen > 0, len(shares) + 1 - chosen, 0)
    chosen[is_first] = 0
    side = np.zeros(len(groups), dtype=np.int64)
    side[first_rows[order]] = chosen
    return side[twins]


def stratified_sample(groups: NDArray[np.int64], count: int, *, seed: int) -> NDArray[np.int64]:
    """`count` places out of all, in rising order: of each group its part, and one at least if that can be."""
    order, place, is_first = _evenly_spaced(groups, seed=seed)
    by_urgency = np.argsort(np.where(is_first, place - 1, place), kind="stable")
    return np.sort(order[by_urgency[:count]])


def _evenly_spaced(
    groups: NDArray[np.int64], *, seed: int
) -> tuple[NDArray[np.int64], NDArray[np.float64], NDArray[np.bool_]]:
    """All rows, shuffled within their groups; for each a place in [0, 1); and whether its group begins there.

    The rows of a group are evenly spaced. Offsets, spread evenly over the groups, decide which groups round
    up when places below a limit are taken, so that the sum over many small groups is right too.
    """
    generator = np.random.default_rng(random_key(seed))
    shuffled = generator.permutation(len(groups))
    order = shuffled[np.argsort(groups[shuffled], kind="stable")]
    names, starts, sizes = np.unique(groups[order], return_index=True, return_counts=True)
    rank = np.arange(len(order)) - np.repeat(starts, sizes)
    offsets = (generator.permutation(len(names)) + 0.5) / len(names)
    place = (rank + np.repeat(offsets, sizes)) / np.repeat(sizes, sizes)
    return order, place, rank == 0


def resolve_split(spec: str, sizes: Mapping[str, int], *, option: str) -> NDArray[np.int64]:
    """Row numbers that a name, slice or sum of splits stands for; DataError, naming `option`, if none."""
    for term in spec.split("+"):
        name = term.split("[")[0].strip()
        if name not in sizes:
            raise DataError(
                f"{option} {spec}: the data set has no split {name!r} but {_listing(sizes)}; "
                f"{nearest(name, sizes)}"
            )
    starts = dict(zip(sizes, np.cumsum([0, *sizes.values()]), strict=False))
    try:
        parts = ReadInstruction.from_spec(spec).to_absolute(dict(sizes))
    except (ValueError, AssertionError) as error:
        raise DataError(
            f"{option} {spec} is not a split or slice such as train[:80%] or train[100:200]."
        ) from error
    rows = [np.arange(part.from_, part.to) + starts[part.splitname] for part in parts]
    return np.concatenate(rows).astype(np.int64)


def choose_evaluated_split(sizes: Mapping[str, int]) -> str:
    """Name of the split that models are measured on: validation, else test, else the only one there is."""
    names = (*_USUAL_NAMES["validation"], *_USUAL_NAMES["test"], *(sizes if len(sizes) == 1 else ()))
    found = next((name for name in names if name in sizes), None)
    if found is None:
        raise DataError(f"Say which split to use: --split NAME. The data set has {_listing(sizes)}.")
    return found


def place_of(row: int, sizes: Mapping[str, int]) -> tuple[str, int]:
    """Split of the source, and number in it, of a row that is counted through all splits."""
    for name, size in sizes.items():
        if row < size:
            return name, row
        row -= size
    raise AssertionError(f"row {row} behind the last split")


def _check_rows(roles: Mapping[str, Role], config: DataOptions) -> None:
    """Refuse empty roles and rows that both train and measure."""
    for name, role in roles.items():
        if not len(role.rows):
            raise DataError(f"{name} ({role.how}) has no images. Use another --{name}_split.")
    for first, second in (("train", "validation"), ("train", "test"), ("validation", "test")):
        if first not in roles or second not in roles:
            continue
        shared = np.intersect1d(roles[first].rows, roles[second].rows).size
        if shared:
            raise DataError(
                f"{first} ({roles[first].how}) and {second} ({roles[second].how}) share {shared} rows, so "
                f"{second} would measure what was learnt by heart. Use a --{first}_split and a "
                f"--{second}_split that differ."
            )


def _listing(sizes: Mapping[str, int]) -> str:
    return ", ".join(f"{name} ({size:,} rows)" for name, size in sizes.items())
