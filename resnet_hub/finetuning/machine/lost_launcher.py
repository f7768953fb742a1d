"""What a launcher started ends with it, also when the launcher is killed and can tell nobody."""

import os
import signal
import time
from contextlib import suppress
from functools import cache
from pathlib import Path
from threading import Thread
from typing import TYPE_CHECKING

from resnet_hub.finetuning.machine.launcher import LAUNCHED, PREEMPTED

if TYPE_CHECKING:
    import psutil

_SET_BY_LAUNCHERS = ("TORCHELASTIC_RUN_ID", LAUNCHED)  # torchrun, resnet-hub finetune
_SET_BY_ACCELERATE = "ACCELERATE_DYNAMO_BACKEND"  # also by its users, in a shell
_POLL_SECONDS = 0.5
_SECONDS_TO_SAVE = 120.0  # four times as long as torchrun gives


def was_launched() -> bool:
    """Whether torchrun, `accelerate launch` or `resnet-hub finetune` started this process."""
    return any(name in os.environ for name in (*_SET_BY_LAUNCHERS, _SET_BY_ACCELERATE))


@cache
def follow_launcher() -> None:
    """Send this process SIGTERM as soon as its launcher has ended, and end it if that does not.

    `accelerate launch` with one process dies on SIGTERM without telling its child, and no launcher tells
    anybody of SIGKILL. A thread watches it, as the main thread may be waiting for other processes.
    """
    if was_launched():
        Thread(target=_follow, daemon=True).start()


def _follow() -> None:
    launcher = _nearest_python()
    while not _is_orphan() and (launcher is None or _nearest_python() == launcher):
        launcher = launcher or _nearest_python()
        time.sleep(_POLL_SECONDS)
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(_SECONDS_TO_SAVE)
    os._exit(PREEMPTED)  # it waits in vain; its checkpoints are whole


def _nearest_python() -> "psutil.Process | None":
    """The launcher: what runs between it and us, such as a shell or numactl, is no Python program.

    None, or an ancestor of the launcher, for the moment in which it dies.
    """
    import psutil  # noqa: PLC0415  in the extra `finetune`; signals are heard before it is missed

    with suppress(psutil.Error):
        process = psutil.Process().parent()
        while process is not None:
            if Path(process.exe()).name.lower().startswith(("python", "pypy")):
                return process
            process = process.parent()
    return None


def _is_orphan() -> bool:
    """Whether the launcher had ended before anybody looked."""
    return (
        os.getppid() == 1
        and any(name in os.environ for name in _SET_BY_LAUNCHERS)
        and _nearest_python() is None  # in a container it may be process 1 itself
    )
