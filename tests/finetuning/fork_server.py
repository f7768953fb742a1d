"""Runs fine-tuning commands in forked processes: a start costs a fork in place of seconds of imports.

`python fork_server.py` reads from stdin a JSON list a line: the file for the command's output, then its
arguments. The forked child becomes the command (`resnet_hub.finetuning.__main__.main`), leader of a process
group of its own. The server answers `started PID`, and `ended CODE` when the child has gone.
"""

import json
import os
import sys
import traceback
from pathlib import Path

import resnet_hub.finetuning.run
import resnet_hub.finetuning.summary  # noqa: F401  imported by main() when it runs; here, once for all
from resnet_hub.finetuning.__main__ import main


def serve() -> None:
    for line in sys.stdin:
        output, *arguments = json.loads(line)
        child = os.fork()
        if child == 0:
            become_the_command(output, arguments)
        print("started", child, flush=True)
        _, status = os.waitpid(child, 0)
        print("ended", os.waitstatus_to_exitcode(status), flush=True)


def become_the_command(output: str, arguments: list[str]) -> None:
    """Never returns: the process ends with the command's exit code, as a Python of its own would."""
    os.setsid()
    with Path(output).open("ab", 0) as file:
        for descriptor in (1, 2):
            os.dup2(file.fileno(), descriptor)
    try:
        code = main(arguments)
    except BaseException:
        traceback.print_exc()
        code = 1
    sys.exit(code)


if __name__ == "__main__":
    serve()
