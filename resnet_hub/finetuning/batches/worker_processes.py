"""Processes that load batches, replaced when they die: a batch is a function of its key, nothing is lost."""

import atexit
import errno
import logging
import multiprocessing
import os
import signal
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from functools import cache, partial
from multiprocessing import connection
from multiprocessing.process import BaseProcess
from typing import Any, Generic, TypeVar

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, get_worker_info

from resnet_hub.errors import RunError
from resnet_hub.finetuning.machine.machine import Machine
from resnet_hub.shared_memory import ADVICE, FOLDER, fit_workers

logger = logging.getLogger(__name__)

WAIT_SECONDS = 600.0
_AHEAD = 4  # batches that each worker reads ahead; enough to ride out an epoch's largest images
_POLL_SECONDS = 2
_IS_OF_SHARED_MEMORY = "shared memory"  # in what torch says where there is too little
_SIGBUS = getattr(signal, "SIGBUS", 0)  # what a write to it ends with that was promised and is not there

T = TypeVar("T")


@dataclass(frozen=True, kw_only=True)
class LoaderOptions:
    """How one process of a run loads its share of the images; without arguments it loads all of them."""

    rank: int = 0
    world_size: int = 1
    num_workers: int = 0
    """Worker processes; 0 loads in this process."""
    batches_ahead: int = _AHEAD
    """Batches that each of them reads ahead."""
    pin_memory: bool = False
    """Whether batches are copied to memory from which a GPU can fetch them."""
    wait_seconds: float = WAIT_SECONDS
    """How long a batch may take before the workers count as hanging."""

    @classmethod
    def of_machine(
        cls, machine: Machine, *, num_workers: int, batch_bytes: int, wait_seconds: float = WAIT_SECONDS
    ) -> "LoaderOptions":
        """Those of this process of a run, with fewer workers where batches of so many bytes would not fit."""
        num_workers, ahead = fit_workers(
            num_workers, _AHEAD, batch_bytes=batch_bytes, processes=machine.local_processes
        )
        return cls(
            rank=machine.rank,
            world_size=machine.world_size,
            num_workers=num_workers,
            batches_ahead=ahead,
            pin_memory=machine.accelerator.device.type == "cuda",
            wait_seconds=wait_seconds,
        )


class LoaderProcessesError(RunError):
    """Loader processes died, or gave nothing, twice at the same batch."""


class LastingLoader(Generic[T]):
    """Loads batches by their keys, in worker processes that are kept from one series of keys to the next.

    A worker that dies (the kernel kills the largest process when memory is short) or hangs is replaced
    together with the others, with a warning, and the batches continue where they were, with the same images.
    """

    def __init__(self, images: Dataset[T], options: LoaderOptions) -> None:
        """Load from a data set whose `__getitems__` answers each key with a whole batch."""
        self._images, self._options = images, options
        self._keys = _Keys()
        self._workers: set[BaseProcess] = set()
        self._loader = self._make()

    def batches(self, keys: Callable[[int], Iterable[Any]]) -> Iterator[T]:
        """The batches of the keys, in their order.

        Args:
            keys: Gives the keys that are left after so many batches.

        Raises:
            LoaderProcessesError: new workers failed at the same batch as those before them.
        """
        done, failed_at = 0, -1
        while True:
            try:
                for batch in self._series(keys(done)):
                    yield batch
                    done += 1
                return
            except _WorkersLost as lost:
                if failed_at == done:
                    raise LoaderProcessesError(
                        f"{lost}, twice at the same batch. A smaller --dataloader_num_workers needs less "
                        f"memory, 0 loads in the main process; the same command resumes."
                    ) from lost
                failed_at = done
                if isinstance(lost, _SharedMemoryFull):
                    self._options = replace(self._options, num_workers=0)
                    logger.warning("%s. The main process loads its batches itself from here on.", lost)
                else:
                    logger.warning("%s; they are replaced and the run continues.", lost)
                self._replace_workers()

    def _series(self, keys: Iterable[Any]) -> Iterator[T]:
        self._keys.current = keys
        batches = self._start()
        while True:
            batch = self._next(batches)
            if batch is None:
                return
            yield batch

    def _start(self) -> Iterator[T]:
        """An iterator of the loader; workers start with the first."""
        others = set(multiprocessing.active_children())
        # torch would raise the death of a worker wherever the program is, be it in the middle of a step or of
        # a save; without its handler it is noticed where the next batch is waited for.
        handler = signal.getsignal(signal.SIGCHLD) if hasattr(signal, "SIGCHLD") else None
        try:
            batches = iter(self._loader)
        except (RuntimeError, OSError, EOFError) as error:  # those of before do not answer
            self._check_workers(error)
            if isinstance(error, OSError) and error.errno == errno.ENOSPC:  # not even for semaphores
                raise _SharedMemoryFull from error
            if not _is_timeout(error):
                raise
            raise _WorkersLost("Loader processes that waited do not answer") from error
        finally:
            if handler is not None and signal.getsignal(signal.SIGCHLD) is not handler:
                signal.signal(signal.SIGCHLD, handler)
        self._workers |= set(multiprocessing.active_children()) - others
        return batches

    def _next(self, batches: Iterator[T]) -> T | None:
        """The next batch, or None after the last one."""
        until = time.monotonic() + self._options.wait_seconds
        while True:
            try:
                return next(batches, None)
            except (RuntimeError, OSError, EOFError) as error:  # the latter two: it died while handing over
                self._check_workers(error)
                if _IS_OF_SHARED_MEMORY in str(error):
                    raise _SharedMemoryFull from error
                if not _is_timeout(error):
                    raise
                if time.monotonic() > until:
                    raise _WorkersLost(f"No batch came for {self._options.wait_seconds:.0f} s") from error

    def _check_workers(self, error: Exception) -> None:
        """Raise _WorkersLost, because of the error, if a worker has ended."""
        if isinstance(error, ConnectionError | EOFError):  # of one whose end may not be known yet
            connection.wait([worker.sentinel for worker in self._workers], timeout=_POLL_SECONDS)
        dead = [worker for worker in self._workers if worker.exitcode is not None]
        if any(worker.exitcode == -_SIGBUS for worker in dead):
            raise _SharedMemoryFull from error
        if dead:
            ends = sorted({_describe_end(worker.exitcode) for worker in dead})
            raise _WorkersLost(f"Loader processes have ended ({', '.join(ends)})") from error

    def _replace_workers(self) -> None:
        for worker in self._workers:
            worker.kill()
        for worker in self._workers:
            worker.join()
        self._workers.clear()
        self._loader = self._make()

    def _make(self) -> DataLoader[T]:
        has_workers = self._options.num_workers > 0
        return DataLoader(
            self._images,
            batch_sampler=self._keys,  # pyright: ignore[reportArgumentType]  its keys are not lists
            collate_fn=_in_shared_memory,
            num_workers=self._options.num_workers,
            persistent_workers=has_workers,
            prefetch_factor=self._options.batches_ahead if has_workers else None,
            pin_memory=self._options.pin_memory,
            timeout=_POLL_SECONDS if has_workers else 0,
            worker_init_fn=partial(_leave_signals_to_parent, _parent_exits()) if has_workers else None,
            # A generator of its own: otherwise making an iterator would draw from the training's.
            generator=torch.Generator(),
        )


class KeptLoaders:
    """Loaders of a run whose processes wait for the next time, by what they load.

    To start sixteen processes and to end them takes a second, which an epoch on a GPU may take as a whole.
    """

    def __init__(self) -> None:
        self._loaders: dict[str, Any] = {}

    def of(self, name: str, make: Callable[[], T]) -> T:
        """The loader of that name, made if there is none."""
        if name not in self._loaders:
            self._loaders[name] = make()
        return self._loaders[name]

    def end(self, name: str) -> None:
        """Let the processes of that loader go, if there are any."""
        self._loaders.pop(name, None)


class _WorkersLost(Exception):
    """Workers ended or hang."""


class _SharedMemoryFull(_WorkersLost):
    """Workers could not hand a batch over."""

    def __str__(self) -> str:
        return f"Loader processes found {FOLDER} full (in a container, {ADVICE})"


class _Keys:
    """The keys of the series that is being loaded."""

    current: Iterable[Any] = ()

    def __iter__(self) -> Iterator[Any]:
        return iter(self.current)


def _is_timeout(error: Exception) -> bool:
    """Whether it says that nothing came yet; others are from inside a worker."""
    return str(error).startswith("DataLoader timed out")


def _describe_end(code: int | None) -> str:
    if code is not None and code < 0:
        name = signal.Signals(-code).name
        return f"{name}, as when memory is short" if -code == signal.SIGKILL else name
    return f"exit code {code}"


def _in_shared_memory(batch: Any) -> Any:
    """Move what a worker made to where it is handed over from.

    torch would do so in a thread of its own, in which a failure loses the batch, and nobody hears of it.
    """
    if get_worker_info() is not None:
        for part in batch:
            if isinstance(part, Tensor):
                part.share_memory_()
    return batch


@cache
def _parent_exits() -> Tensor:
    """One byte shared with all workers, set when this process begins to exit."""
    flag = torch.zeros(1, dtype=torch.uint8).share_memory_()
    atexit.register(flag.fill_, 1)
    return flag


def _leave_signals_to_parent(parent_exits: Tensor, worker: int) -> None:
    """Let preemption be handled by the main process: a worker that died of it would take the last step along.

    Python ends its children with SIGTERM when it exits, and waits for them; that one they obey.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, lambda number, frame: os._exit(0) if parent_exits.item() else None)
