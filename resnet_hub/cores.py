"""How many cores to compute on: those the scheduler allows, as far as control groups grant time on them."""

import math
import os
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path, PurePosixPath


def available_cores(root: Path = Path("/")) -> int:
    """The least of this process's affinity and the CPU quotas of its control groups, and at least 1.

    A quota of 2.5 cores counts as 3. Control groups are read below `root`, in their versions 1 and 2; each
    is limited by those around it. See cgroups(7).
    """
    return max(1, min([_allowed_cores(), *map(math.ceil, _quotas(root))]))


def keep_libraries_to_quota() -> None:
    """Start no more threads than there are cores; it has an effect before numpy and torch are imported.

    Libraries know the affinity but not the quotas. A number of threads that the user has set stays.
    """
    if (cores := available_cores()) < _allowed_cores():
        os.environ.setdefault("OMP_NUM_THREADS", str(cores))


def _allowed_cores() -> int:
    if hasattr(os, "sched_getaffinity"):  # Linux; macOS does not say
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _quotas(root: Path) -> Iterator[float]:
    for folder in _control_groups(root):
        with suppress(OSError, ValueError):  # no such file, or "max", or a period of 0
            yield _quota(folder)


def _quota(folder: Path) -> float:
    """Cores granted to a control group; raises OSError or ValueError where it has no limit."""
    if (folder / "cpu.max").exists():
        quota, period = (folder / "cpu.max").read_text().split()
    else:
        quota, period = ((folder / f"cpu.cfs_{name}_us").read_text() for name in ("quota", "period"))
    if int(quota) <= 0 or int(period) <= 0:
        raise ValueError(quota)
    return int(quota) / int(period)


def _control_groups(root: Path) -> Iterator[Path]:
    """Folders of the control groups that this process is in, from the innermost outward."""
    try:
        groups = (root / "proc/self/cgroup").read_text().splitlines()
        mounts = (root / "proc/self/mountinfo").read_text().splitlines()
    except OSError:  # not Linux
        return
    for mount in mounts:
        fields, _, file_system = mount.partition(" - ")
        mounted, place = fields.split()[3:5]
        kind, _, options = file_system.split()[:3]
        for group in groups:
            _, controllers, path = group.split(":", 2)
            is_v1 = kind == "cgroup" and "cpu" in options.split(",") and "cpu" in controllers.split(",")
            if is_v1 or (kind == "cgroup2" and not controllers):
                below = PurePosixPath(path)
                # In a container the path may be that of the host, of which only a part is mounted.
                below = below.relative_to(mounted) if below.is_relative_to(mounted) else PurePosixPath()
                top = root / place.lstrip("/")
                yield from (top / part for part in (below, *below.parents))
