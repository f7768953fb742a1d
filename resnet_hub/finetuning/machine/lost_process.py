"""When a process of a run ends or hangs, the others say which one it was, and why."""

import os
import re
import time
from collections.abc import Iterator
from contextlib import contextmanager
from threading import Thread

import torch.distributed as dist
from torch.distributed.distributed_c10d import _get_default_store
from torch.distributed.elastic.multiprocessing.errors import get_error_handler

from resnet_hub.errors import RunError
from resnet_hub.finetuning.machine.preemption import Preempted

_KEY = "resnet_hub/ended/"
_WAITS_IN_VAIN = "waits in vain"
_SECONDS_TO_SPEAK = 5.0  # how far apart processes notice that one of them is missing
_TIMED_OUT = re.compile(r"timed? ?out|timeout", re.IGNORECASE)
_CLOSED = re.compile(r"connection (was )?(closed|reset)|broken pipe|gloo|nccl", re.IGNORECASE)


class LostProcessError(RunError):
    """Another process of the run has ended or does not answer."""


@contextmanager
def naming_lost_processes() -> Iterator[None]:
    """Raise LostProcessError, which names the process, where a collective operation fails because of another.

    An error of this process itself is left as it is; the others, and torchrun, are told of it.
    """
    try:
        yield
    except Preempted:
        raise
    except Exception as error:
        if not (dist.is_available() and dist.is_initialized()):
            raise
        if isinstance(error, RuntimeError) and not isinstance(error, RunError) and _is_of_a_collective(error):
            lost = LostProcessError(_describe(error))
            _tell_torchrun(lost)
            raise lost from error
        _tell_others(f"{type(error).__name__}: {error}")
        _tell_torchrun(error)
        raise


def _is_of_a_collective(error: RuntimeError) -> bool:
    if isinstance(error, dist.DistError):
        return True
    return bool(_TIMED_OUT.search(str(error)) or _CLOSED.search(str(error)))


def _describe(error: RuntimeError) -> str:
    """Which process was lost, and why, as far as it has told the others."""
    rank = dist.get_rank()
    said: dict[int, str | None] = {}

    def ask() -> None:
        _tell_others(_WAITS_IN_VAIN)
        said.update(_what_others_say())

    asking = Thread(target=ask, daemon=True)
    asking.start()
    asking.join(2 * _SECONDS_TO_SPEAK)
    said = dict(said) or {0: None}  # process 0 keeps the answers, and may be the one that hangs
    silent = [str(other) for other, cause in said.items() if cause is None]
    causes = [
        f"process {other} ended with {cause}"
        for other, cause in said.items()
        if cause not in (None, _WAITS_IN_VAIN)
    ]
    if not causes:
        verb = "does not answer" if _TIMED_OUT.search(str(error)) else "has ended"
        causes = [f"process {' and '.join(silent) or 'of this run'} {verb}"]
    first_line = str(error).strip().partition("\n")[0][:300]
    return (
        f"Process {rank} cannot continue: {'; '.join(causes)}. What it printed is above. Once that is put "
        f"right, the same command resumes from the newest checkpoint. ({first_line})"
    )


def _what_others_say() -> dict[int, str | None]:
    """Why each other process ends, as far as it has said so; None for one that is silent."""
    said: dict[int, str | None] = dict.fromkeys(set(range(dist.get_world_size())) - {dist.get_rank()})
    until = time.monotonic() + _SECONDS_TO_SPEAK
    try:
        store = _get_default_store()
        while time.monotonic() < until and None in said.values():
            for other in [other for other, cause in said.items() if cause is None]:
                if store.check([f"{_KEY}{other}"]):
                    said[other] = store.get(f"{_KEY}{other}").decode()
            time.sleep(0.1)
    except RuntimeError:  # it was in process 0
        return {0: None}
    return said


def _tell_others(text: str) -> None:
    try:
        _get_default_store().set(f"{_KEY}{dist.get_rank()}", text[:2000])
    except RuntimeError:
        return  # process 0, which keeps these, is gone itself


def _tell_torchrun(error: Exception) -> None:
    """Let its last lines show the message; without this they say only that there is none."""
    if "TORCHELASTIC_ERROR_FILE" in os.environ:
        get_error_handler().record_exception(error)
