"""Notebooks: how to tell one, and how interrupting its kernel stops a run where nothing is lost."""

import multiprocessing
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor, wait
from contextvars import copy_context
from typing import TypeVar

T = TypeVar("T")
_POLL_SECONDS = 0.2


def in_notebook() -> bool:
    """Whether this process is the kernel of a notebook, and not one that was started from it."""
    ipython = sys.modules.get("IPython")
    is_kernel = ipython is not None and hasattr(ipython.get_ipython(), "kernel")
    return is_kernel and multiprocessing.parent_process() is None


def in_interruptible_thread(work: Callable[[], T], *, interrupt: Callable[[], None]) -> T:
    """What `work` gives, done in a thread of its own: a KeyboardInterrupt here calls `interrupt` and waits.

    Raised in the middle of a training step, it would leave weights that no checkpoint may hold. A second one
    is raised at once; the thread then ends by itself.
    """
    pool = ThreadPoolExecutor(1, "resnet_hub")
    future = pool.submit(copy_context().run, work)
    try:
        while not future.done():
            wait([future], timeout=_POLL_SECONDS)  # a signal may reach another thread, and wakes none
        return future.result()
    except KeyboardInterrupt:
        if future.done():  # it came from the work itself
            raise
        interrupt()
        return future.result()
    finally:
        pool.shutdown(wait=False)
