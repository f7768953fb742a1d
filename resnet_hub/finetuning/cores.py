"""The cores that this process may use, and how its threads wait for one another."""

import os


def available_cores() -> int:
    """Cores that the system lets this process run on; those of the machine where the system does not say."""
    if hasattr(os, "sched_getaffinity"):  # Linux; macOS does not say
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def wait_without_spinning() -> None:
    """Let idle threads sleep if the processor is busy already; it has an effect before torch is imported.

    Threads that spin while they wait are twice as fast on a quiet CPU and many times slower on a busy one
    (recipes/LOG.md). OpenMP reads the variable once, when torch is loaded.
    """
    if hasattr(os, "getloadavg") and os.getloadavg()[0] > 0.75 * (os.cpu_count() or 1):
        os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
