"""Fine-tune a ResNet on an image data set.

From a checkout: accelerate launch recipes/finetune.py --config recipes/configs/digits.yaml
From an install: accelerate launch -m resnet_hub.finetuning --train_dir photos --model my_resnet50

Exit codes: 0 done; 2 bad input, nothing written over; 75 stopped by SIGTERM, SIGINT, SIGHUP or SIGUSR1 with
all saved that there was, and the same command resumes; 1 anything else.
"""

import logging
import os
import sys
from collections.abc import Sequence

from resnet_hub.cores import keep_libraries_to_quota
from resnet_hub.errors import RunError, UserError, naming_the_extra
from resnet_hub.finetuning.machine.cpu import wait_without_spinning
from resnet_hub.finetuning.machine.preemption import EXIT_CODE, MESSAGE, Preempted, ending_at_once
from resnet_hub.terminal import print_document, replace_unknown_letters, say, show_log

BAD_INPUT = 2


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the fine-tuning command; returns its exit code."""
    is_main = os.environ.get("RANK", "0") == "0"
    show_log(level=logging.WARNING if is_main else logging.ERROR)
    keep_libraries_to_quota()
    wait_without_spinning()
    replace_unknown_letters()

    def say_once(text: str) -> None:
        if is_main:
            say(text, file=sys.stderr)

    try:
        with naming_the_extra(), ending_at_once(lambda: say_once(MESSAGE)):  # until a run listens itself
            return _carry_out(arguments, is_main=is_main)
    except UserError as error:
        say_once(f"error: {error}")
        return BAD_INPUT
    except RunError as error:
        say(f"error: {error}", file=sys.stderr)  # each process has its own
        return 1
    except Preempted:
        say_once(MESSAGE)
        return EXIT_CODE


def _carry_out(arguments: Sequence[str] | None, *, is_main: bool) -> int:
    from resnet_hub.finetuning.config.flags import parse_command_line  # noqa: PLC0415  signals are heard first
    from resnet_hub.finetuning.config.yaml_file import dump_config  # noqa: PLC0415

    command = parse_command_line(arguments, description=__doc__)
    if command.print_config:
        print_document(dump_config(command.finetuning))
        return 0
    from resnet_hub.finetuning.run import dry_run, find_learning_rate, finetune  # noqa: PLC0415  --help does not wait for torch

    if command.dry_run:
        dry_run(command.finetuning)
        return 0
    if command.find_learning_rate:
        search = find_learning_rate(command.finetuning)
        if is_main:
            say(search.describe())
        return 0
    from resnet_hub.finetuning.finish import summarise  # noqa: PLC0415

    report = finetune(command.finetuning)
    if is_main:
        say(summarise(report))
    return 0


if __name__ == "__main__":
    sys.exit(main())
