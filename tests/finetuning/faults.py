"""Things that go wrong in a run, where and when a test says: armed in the process of the run itself.

The variable FAULTS holds a JSON list of them, each an object that names one of the functions here and its
arguments. `python faults.py ARGUMENTS` is the fine-tuning command with them. The file that HAPPENED names is
touched at the moment when something happens.
"""

import hashlib
import importlib
import json
import os
import pkgutil
import signal
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil

from resnet_hub.finetuning.__main__ import main

FINETUNING = "resnet_hub.finetuning"


def arm() -> None:
    for fault in json.loads(os.environ.get("FAULTS", "[]")):
        globals()[fault.pop("fault")](**fault)


def happens(at: str, what: str, *, call: int = 1, rank: int = 0) -> None:
    """Something happens just before the given call of a function of the package, on one process."""
    if os.environ.get("RANK", "0") != str(rank):
        return
    calls = 0

    def count(original: Callable, *arguments: Any, **options: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == call:
            if "HAPPENED" in os.environ:
                Path(os.environ["HAPPENED"]).touch()
            HAPPENINGS[what]()
        return original(*arguments, **options)

    _wrap(at, count)


def _send(number: int) -> None:
    os.kill(os.getpid(), number)


def _send_twice(number: int) -> None:
    for _ in range(2):
        _send(number)


def _raise() -> None:
    raise ZeroDivisionError("a broken step")


def _run_out_of_memory() -> None:
    import torch

    raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 1.00 GiB.")


def _for_ever() -> None:
    time.sleep(3600)


def _kill_a_loader_process() -> None:
    psutil.Process().children()[0].kill()


def _sleep_once() -> None:
    """In the first run of a loader process, not in those that take its place."""
    here = Path(os.environ["HAPPENED"]).with_suffix(".once")
    if not here.exists():
        here.touch()
        _for_ever()


def _die() -> None:
    _send(signal.SIGKILL)


HAPPENINGS: dict[str, Callable[[], Any]] = {
    "SIGTERM": lambda: _send(signal.SIGTERM),
    "SIGTERM twice": lambda: _send_twice(signal.SIGTERM),
    "SIGINT twice": lambda: _send_twice(signal.SIGINT),
    "SIGHUP": lambda: _send(signal.SIGHUP),
    "SIGUSR1": lambda: _send(signal.SIGUSR1),
    "nothing": lambda: None,
    "a temporary folder is left": tempfile.mkdtemp,
    "stopped": lambda: _send(signal.SIGSTOP),
    "killed": _die,
    "raises": _raise,
    "out of memory": _run_out_of_memory,
    "sleeps": _for_ever,
    "a loader process is killed": _kill_a_loader_process,
    "sleeps once": _sleep_once,
}


def slow_disk(seconds: float) -> None:
    """Each fsync of a checkpoint takes time, so that kills fall into saves."""

    def slow(fsync: Callable, path: Path) -> None:
        if "checkpoints" in path.parts:
            time.sleep(seconds)
        fsync(path)

    _wrap(":files.fsync", slow)


def ledger(file: str) -> None:
    """Every step done is written down: epoch, step, process, images, a digest of pixels and labels, loss."""

    def note(step: Callable, trainer: Any, progress: Any, micro_batches: list, *, key: tuple) -> Any:
        done = step(trainer, progress, micro_batches, key=key)
        indices = [int(index) for batch in micro_batches for index in batch.indices]
        digest = hashlib.sha256(
            b"".join(
                batch.images.numpy().tobytes() + batch.labels.numpy().tobytes() for batch in micro_batches
            )
        ).hexdigest()
        line = (
            json.dumps([*key[1:], int(os.environ.get("RANK", "0")), indices, digest, done.read()[0]]) + "\n"
        )
        with Path(file).open("a") as lines:
            lines.write(line)
        return done

    _wrap("engine.step.train_step", note)


def forgets(what: str) -> None:
    """A resumed run lacks a part of its state, or has another one in its place."""
    module, replacement = {
        "order": (
            "batches.loader._TrainKeys.of_epoch",
            lambda of, keys, moment, first, **o: of(
                keys, moment._replace(epoch=moment.epoch + 1), first, **o
            ),
        ),
        "position": ("batches.loader._TrainKeys.of_epoch", _from_the_first_step),
        "randomness": ("engine.step.random_key", lambda random_key, *key: random_key(*key, 1)),
        "augmentation": ("batches.loader.keyed_randomness", lambda keyed, seed, *key: keyed(seed + 1, *key)),
        "optimizer": ("training.state.load_optimizer_tensors", lambda load, *arguments: None),
        "average": ("run_folder.checkpoint._read", lambda read, path: _without_average(read(path))),
        "log": ("run_folder.event_log.EventLog.rewind", lambda rewind, log, size: 0),
    }[what]
    _wrap(module, replacement)


def _from_the_first_step(of_epoch: Callable, keys: Any, moment: Any, first_step: int, **which: int) -> Any:
    return of_epoch(keys, moment, 0, **which)


def _without_average(checkpoint: Any) -> Any:
    """The last weights where their average was."""
    checkpoint.tensors["average"] = checkpoint.tensors["model"]
    return checkpoint


def bad_numbers(where: str, *, step: int, rank: int = 0) -> None:
    """The loss or the gradient of a step has a NaN or an infinity in it, on one process."""
    import torch

    if os.environ.get("RANK", "0") != str(rank):
        return

    value = float("nan") if "NaN" in where else float("inf")

    def poisoned(train_step: Callable, trainer: Any, *what: Any, **options: Any) -> Any:
        if options["key"][2] != step:
            return train_step(trainer, *what, **options)
        if "loss" in where:
            compute = trainer.loss_function
            object.__setattr__(trainer, "loss_function", lambda *both: compute(*both) * value)
        else:
            weight = next(trainer.model.parameters())
            weight.register_hook(lambda gradient: torch.full_like(gradient, value))
        return train_step(trainer, *what, **options)

    _wrap("engine.step.train_step", poisoned)


def bad_validation(first: int, last: int) -> None:
    """The outputs of some validations are NaN, as with statistics of BatchNorm that overflowed."""
    calls = 0

    def evaluate(original: Callable, *arguments: Any, **options: Any) -> Any:
        nonlocal calls
        calls += 1
        logits = original(*arguments, **options)
        return logits * float("nan") if first <= calls <= last else logits

    _wrap("training.epochs.evaluate", evaluate)


def broken_tracker(calls: str, *, starts: bool) -> None:
    """A tracker of the user's own, `broken`, whose methods write down that they were called, and raise."""
    from accelerate.tracking import LOGGER_TYPE_TO_CLASS, GeneralTracker

    class Broken(GeneralTracker):
        name = "broken"
        requires_logging_directory = False
        main_process_only = False
        tracker = None

        def start(self) -> None:
            self._fail("start", raises=not starts)

        def store_init_configuration(self, values: dict) -> None:
            self._fail("store_init_configuration")

        def log(self, values: dict, step: int | None, **options: Any) -> None:
            self._fail("log")

        def finish(self) -> None:
            self._fail("finish")

        def _fail(self, method: str, *, raises: bool = True) -> None:
            with Path(calls).open("a") as file:
                file.write(f"{method}\n")
            if raises:
                raise ConnectionError("no network")

    LOGGER_TYPE_TO_CLASS["broken"] = Broken


def patient_trackers(seconds: float) -> None:
    """Trackers that failed are tried again sooner."""
    importlib.import_module(f"{FINETUNING}.run_folder.tracking").SECONDS_BETWEEN_TRIES = seconds


def _wrap(at: str, replacement: Callable) -> None:
    """Put a function in the place of one of the package; it gets that one before its arguments.

    `at` is its name from `resnet_hub.finetuning` on, or from `resnet_hub` on after a colon.
    """
    owner, _, name = at.rpartition(".")
    package = FINETUNING.partition(".")[0] if owner.startswith(":") else FINETUNING
    place: Any = pkgutil.resolve_name(f"{package}.{owner.removeprefix(':')}")
    original = getattr(place, name)
    setattr(place, name, lambda *arguments, **options: replacement(original, *arguments, **options))


if __name__ == "__main__":
    arm()
    sys.exit(main())
