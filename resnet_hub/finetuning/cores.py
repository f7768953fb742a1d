"""How many cores this process may use."""

import os


def available_cores() -> int:
    """Cores that the system lets this process run on; those of the machine where the system does not say."""
    if hasattr(os, "sched_getaffinity"):  # Linux; macOS does not say
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
