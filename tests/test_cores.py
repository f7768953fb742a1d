"""Cores are counted as a container grants them, whichever way its control groups say so."""

import os
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

from resnet_hub.cores import available_cores

from .finetuning.conftest import TINY, environment, finetune_command

V1 = "32 31 0:29 {mounted} /sys/fs/cgroup/cpu,cpuacct rw,relatime - cgroup cgroup rw,cpu,cpuacct\n"
V2 = "41 31 0:38 {mounted} /sys/fs/cgroup rw,relatime shared:9 - cgroup2 cgroup2 rw,nsdelegate\n"
CPUSET = "33 31 0:30 / /sys/fs/cgroup/cpuset rw - cgroup cgroup rw,cpuset\n"


def v1(quota: int, period: int = 100_000) -> dict[str, str]:
    return {"cpu.cfs_quota_us": f"{quota}\n", "cpu.cfs_period_us": f"{period}\n"}


def v2(quota: int | str, period: int = 100_000) -> dict[str, str]:
    return {"cpu.max": f"{quota} {period}\n"}


# What /proc/self/cgroup says, the mounts, the files of each folder below /sys/fs/cgroup, and the cores of 64.
CASES = {
    "none": ("", "", {}, 64),
    "v2, no limit": ("0::/\n", V2.format(mounted="/"), {"": v2("max")}, 64),
    "v2, docker --cpus 4": ("0::/\n", V2.format(mounted="/"), {"": v2(400_000)}, 4),
    "v2, a part of a core": ("0::/\n", V2.format(mounted="/"), {"": v2(30_000)}, 1),
    "v2, two and a half": ("0::/\n", V2.format(mounted="/"), {"": v2(125_000, 50_000)}, 3),
    "v2, more than there are": ("0::/\n", V2.format(mounted="/"), {"": v2(12_800_000)}, 64),
    "v2, systemd-run -p CPUQuota": (
        "0::/user.slice/run-1.scope\n",
        V2.format(mounted="/"),
        {"user.slice/run-1.scope": v2(200_000), "user.slice": v2("max")},
        2,
    ),
    "v2, the limit of an outer one": (
        "0::/kubepods/pod1/c1\n",
        V2.format(mounted="/"),
        {"kubepods/pod1/c1": v2("max"), "kubepods/pod1": v2(300_000), "kubepods": v2(3_000_000)},
        3,
    ),
    "v2, beside another one": ("0::/mine\n", V2.format(mounted="/"), {"yours": v2(100_000)}, 64),
    "v2, a part of it mounted": ("0::/d/c1/own\n", V2.format(mounted="/d/c1"), {"own": v2(700_000)}, 7),
    "v2, the path of the host": ("0::/docker/c1\n", V2.format(mounted="/elsewhere"), {"": v2(500_000)}, 5),
    "v2, garbage": ("0::/\n", V2.format(mounted="/"), {"": {"cpu.max": "many\n"}}, 64),
    "v2, a period of 0": ("0::/\n", V2.format(mounted="/"), {"": v2(100_000, 0)}, 64),
    "v1, no limit": ("4:cpu,cpuacct:/\n", V1.format(mounted="/"), {"cpu,cpuacct": v1(-1)}, 64),
    "v1, docker --cpus 4": (
        "5:cpuset:/docker/c1\n4:cpu,cpuacct:/docker/c1\n",
        CPUSET + V1.format(mounted="/docker/c1"),
        {"cpu,cpuacct": v1(400_000)},
        4,
    ),
    "v1, the limit of an outer one": (
        "4:cpuacct,cpu:/slurm/job/step\n",
        V1.format(mounted="/"),
        {"cpu,cpuacct/slurm/job/step": v1(-1), "cpu,cpuacct/slurm/job": v1(600_000, 50_000)},
        12,
    ),
    "v1 for cpu beside v2 for the rest": (
        "4:cpu:/a\n1:name=systemd:/b\n0::/b\n",
        V1.format(mounted="/") + V2.format(mounted="/"),
        {"cpu,cpuacct/a": v1(900_000), "b": {"memory.max": "1000\n"}},
        9,
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", CASES)
def test_cores_are_the_least_of_affinity_and_all_quotas(
    case: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    group, mounts, folders, expected = CASES[case]
    write(tmp_path / "proc/self", {"cgroup": group, "mountinfo": mounts})
    for folder, files in folders.items():
        write(tmp_path / "sys/fs/cgroup" / folder, files)
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: set(range(64)))
    assert available_cores(tmp_path) == expected


def write(folder: Path, files: Mapping[str, str]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in files.items():
        (folder / name).write_text(text)


@pytest.fixture
def half_a_core() -> Iterator[Path]:
    """A control group of this kernel, in one whose quota is half a core."""
    outer = Path(f"/sys/fs/cgroup/cpu/resnet_hub-{os.getpid()}")
    try:
        (outer / "inner").mkdir(parents=True)
        (outer / "cpu.cfs_quota_us").write_text("50000")
    except OSError as error:
        pytest.skip(f"no control group can be made here: {error}")
    yield outer / "inner"
    (outer / "inner").rmdir()
    outer.rmdir()


@pytest.mark.slow
@pytest.mark.parametrize("start", [finetune_command(*TINY, "--dry_run"), None], ids=["finetune", "verbs"])
def test_in_a_container_of_half_a_core_there_is_one_thread(start: list[str] | None, half_a_core: Path):
    code = (
        "import sys; from resnet_hub.cli.main import main; main(['list']); import torch;"
        "print(torch.get_num_threads(), 'threads each', file=sys.stderr)"
    )
    join = 'echo $$ > "$0/cgroup.procs"; exec "$@"'
    command = ["sh", "-c", join, str(half_a_core), *(start or [sys.executable, "-c", code])]
    variables = {name: value for name, value in environment().items() if name != "OMP_NUM_THREADS"}
    done = subprocess.run(command, capture_output=True, text=True, env=variables, check=False, timeout=280)
    assert "1 threads each" in done.stderr
