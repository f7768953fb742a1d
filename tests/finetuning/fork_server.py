"""Runs fine-tuning commands in forked processes: a start costs a fork in place of seconds of imports.

It reads a JSON list a line from stdin. `["start", output, environment, arguments]` forks a child that becomes
the command (`main` of `resnet_hub.finetuning.__main__`), leads a process group of its own and writes into a
file; the answer is its process number. `["wait", process]` is answered with its exit code, negative for a
signal.
"""

import json
import os
import sys
import tempfile
import traceback
from pathlib import Path

import faults

import resnet_hub.finetuning.run  # noqa: F401  main() imports it when it runs; here, once for all starts
from resnet_hub.finetuning.__main__ import main


def serve() -> None:
    for line in sys.stdin:
        verb, *values = json.loads(line)
        print(start(*values) if verb == "start" else wait(*values), flush=True)


def start(output: str, environment: dict[str, str], arguments: list[str]) -> int:
    child = os.fork()
    if child == 0:
        become_the_command(output, environment, arguments)
    return child


def wait(process: int) -> int:
    return os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])


def become_the_command(output: str, environment: dict[str, str], arguments: list[str]) -> None:
    """Never returns: the process ends with the command's exit code, as a Python of its own would."""
    os.setsid()
    os.environ.update(environment)
    tempfile.tempdir = None  # where temporary files go was settled before the fork
    with Path(output).open("ab", 0) as file:
        for descriptor in (1, 2):
            os.dup2(file.fileno(), descriptor)
    try:
        faults.arm()
        code = main(arguments)
    except BaseException:
        traceback.print_exc()
        code = 1
    sys.exit(code)


if __name__ == "__main__":
    serve()
