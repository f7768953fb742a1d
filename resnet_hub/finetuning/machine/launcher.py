"""The same program in several processes of this machine: signals reach all of them, exit codes come back.

`torchrun` and `accelerate launch` do more, on many machines, and turn every exit code but 0 into 1; torchrun
kills 30 s after a signal, which can be too soon for a checkpoint. What is told to the processes is the same:
the variables of torch's `env://`.
"""

import os
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from types import FrameType
from typing import Any

from resnet_hub.errors import RunError

PREEMPTED = 75  # EX_TEMPFAIL of sysexits.h: "try again later"
LAUNCHED = "RESNET_HUB_LAUNCHED"
"""In the environment of the processes that it starts; they stop when it dies."""
# What schedulers (TERM; USR1 by habit under SLURM), Ctrl-C and a terminal that goes away send.
STOP_SIGNALS = tuple(
    getattr(signal, name) for name in ("SIGTERM", "SIGINT", "SIGHUP", "SIGUSR1") if hasattr(signal, name)
)
_POLL_SECONDS = 0.1


def run_processes(
    command: Sequence[str], num_processes: int, *, environment: Mapping[str, str], patience: float = 60.0
) -> int:
    """The exit code of a command that was run in so many processes, which share their work through torch.

    0 if all end with 0; else the code of the first that did not, 1 for one that was killed. Signals that ask
    to stop are passed on: the processes are in groups of their own, so that Ctrl-C does not reach them twice.

    Args:
        command: Program and arguments, the same for all.
        num_processes: How many; each finds its number in RANK and LOCAL_RANK.
        environment: Variables to set besides.
        patience: Seconds that the others have to end by themselves when one has ended with an error; they may
            wait for it in vain.
    """
    shared = {
        **os.environ,
        **environment,
        "WORLD_SIZE": str(num_processes),
        "LOCAL_WORLD_SIZE": str(num_processes),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(_free_port()),
        LAUNCHED: "1",
    }
    processes: list[subprocess.Popen[bytes]] = []
    with _passing_on(processes) as passed_on:
        try:
            for rank in range(num_processes):
                own = {"RANK": str(rank), "LOCAL_RANK": str(rank)}
                processes.append(subprocess.Popen(command, env=shared | own, process_group=0))
                for number in tuple(passed_on):  # one that came before this process was known
                    processes[-1].send_signal(number)
            code = _first_error(processes, patience)
        except OSError as error:
            raise RunError(f"Cannot start {command[0]}: {error}") from error
        finally:
            _end(processes)
    if code < 0:  # killed; by a signal that was passed on if it came before they listened, and had begun
        return PREEMPTED if -code in passed_on else 1
    return code


def _first_error(processes: list[subprocess.Popen[bytes]], patience: float) -> int:
    """0 when all have ended well, else the first other code, as soon as nobody is to be waited for."""
    code, until = 0, float("inf")
    while True:
        codes = [process.poll() for process in processes]
        failed = [found for found in codes if found]
        if failed and not code:
            code, until = failed[0], time.monotonic() + patience
        if None not in codes or time.monotonic() > until:
            # The first to be seen may have ended because of another that was killed, or ran into an error.
            return next((found for found in failed if found != PREEMPTED), code)
        time.sleep(_POLL_SECONDS)


@contextmanager
def _passing_on(processes: list[subprocess.Popen[bytes]]) -> Iterator[set[int]]:
    """While it lasts, signals to this process go to the others; gives those that did."""
    passed_on: set[int] = set()

    def pass_on(number: int, frame: FrameType | None) -> None:
        passed_on.add(number)
        for process in processes:
            process.send_signal(number)

    previous = replace_handlers(pass_on)
    try:
        yield passed_on
    finally:
        restore_handlers(previous)


def replace_handlers(handler: Callable[[int, FrameType | None], None]) -> dict[int, Any]:
    """Let a function handle the signals that ask to stop; returns what handled them before.

    SIGHUP stays ignored under `nohup`.
    """
    ignored = {
        number
        for number in STOP_SIGNALS
        if number not in (signal.SIGTERM, signal.SIGINT) and signal.getsignal(number) is signal.SIG_IGN
    }
    return {number: signal.signal(number, handler) for number in STOP_SIGNALS if number not in ignored}


def restore_handlers(previous: Mapping[int, Any]) -> None:
    """Let the signals be handled as before `replace_handlers`."""
    for number, handler in previous.items():
        signal.signal(number, handler)


def _end(processes: list[subprocess.Popen[bytes]]) -> None:
    """Stop what is still running: nobody will ever join it again."""
    for process in processes:
        if process.poll() is None:
            process.kill()
    for process in processes:
        process.wait()


def _free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])
