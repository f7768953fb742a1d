"""`resnet-hub finetune`: fine-tuning on all devices of this machine; it starts the processes itself."""

import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from resnet_hub.errors import ConfigError
from resnet_hub.finetuning.config.flags import Command, parse_command_line
from resnet_hub.finetuning.config.yaml_file import dump_config
from resnet_hub.finetuning.machine.launcher import run_processes
from resnet_hub.terminal import print_document

_DESCRIPTION = """Fine-tune a ResNet on an image data set, with one process per GPU of this machine. SIGTERM
and Ctrl-C save a checkpoint. Exit codes: 0 done; 2 bad input, nothing overwritten; 75 stopped by a signal,
run the same command again to resume; 1 anything else. Several machines: see recipes/README.md."""
_PROG = "resnet-hub finetune"
_DRIVERS = ("/dev/nvidiactl", "/dev/kfd", "/dev/dxg")  # NVIDIA, AMD, Windows' WSL


@dataclass(frozen=True, kw_only=True)
class LaunchCommand(Command):
    """What was typed, and how many processes to start."""

    num_processes: int | None = None
    """Processes that share the work. Default: one per GPU, or one on a CPU."""


def run_finetune(words: Sequence[str]) -> int:
    """Fine-tune as the words say; the exit code is that of recipes/finetune.py."""
    command = parse_command_line(words, description=_DESCRIPTION, prog=_PROG, kind=LaunchCommand)
    assert isinstance(command, LaunchCommand)
    if command.print_config:
        print_document(dump_config(command.finetuning))
        return 0
    if "RANK" in os.environ:
        raise ConfigError(
            "This is one of the processes of torchrun or accelerate launch already. `resnet-hub finetune` "
            "starts them itself; with a launcher of your own, start `-m resnet_hub.finetuning`."
        )
    if command.num_processes is not None and command.num_processes < 1:
        raise ConfigError(f"--num_processes is {command.num_processes}; it has to be 1 or more.")
    num_gpus = count_gpus()
    num_processes = command.num_processes or max(1, num_gpus)
    if num_gpus and num_processes > num_gpus:
        raise ConfigError(f"--num_processes {num_processes}: this machine has {num_gpus} GPUs.")
    words = without_option(words, "num_processes")
    if num_processes == 1:
        from resnet_hub.finetuning.__main__ import main  # noqa: PLC0415  it configures logging for a run

        return main(words)
    return run_processes(
        [sys.executable, "-m", "resnet_hub.finetuning", *words],
        num_processes,
        environment={} if num_gpus else {"ACCELERATE_USE_CPU": "true"},
    )


def count_gpus() -> int:
    """Number of GPUs; torch is imported, and asked, only where there is a driver."""
    if sys.platform == "linux" and not any(Path(driver).exists() for driver in _DRIVERS):
        return 0
    import torch  # noqa: PLC0415  seconds that a machine without GPUs is spared

    return torch.cuda.device_count()


def without_option(words: Sequence[str], name: str) -> list[str]:
    """The words without an option that takes one value, whichever way it is spelled."""
    kept, skip = [], False
    for word in words:
        flag = word.partition("=")[0].replace("-", "_")
        if flag == f"__{name}":
            skip = "=" not in word
        elif skip:
            skip = False
        else:
            kept.append(word)
    return kept
