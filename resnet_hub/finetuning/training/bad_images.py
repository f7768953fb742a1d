"""Training images of a stream that turn out to be unusable: left out, listed and counted."""

from collections.abc import Iterable, Iterator
from dataclasses import asdict
from typing import Any

from resnet_hub.errors import RunError
from resnet_hub.finetuning.batches.loader import Batch
from resnet_hub.finetuning.data.dataset import SHOWN, BadImage
from resnet_hub.finetuning.data.streaming.stream import TrainStream
from resnet_hub.finetuning.engine.trainer import Progress
from resnet_hub.finetuning.training.context import Run


class LeftOut:
    """The images that are left out through an epoch, known to all processes at the same step."""

    def __init__(self, run: Run, progress: Progress) -> None:
        self._run, self._progress = run, progress
        self._mine: list[tuple[int, str]] = []

    def noting(self, steps: Iterable[list[Batch]]) -> Iterator[list[Batch]]:
        """The same steps; what their batches lack is kept for `settle`."""
        for micro_batches in steps:
            self._mine = [(row, problem) for batch in micro_batches for row, problem in batch.unreadable]
            yield micro_batches

    def settle(self) -> None:
        """Count and list what this step has left out; every process calls it after the step.

        Raises RunError, on all of them, once more images are left out than --max_bad_images allows.
        """
        if not self._run.settings.data.streaming or not self._run.machine.agree_any(bool(self._mine)):
            return
        found = {str(row): problem for row, problem in sorted(self._run.crew.gather(self._mine))}
        new = {row: problem for row, problem in found.items() if row not in self._progress.unreadable}
        self._progress.unreadable |= new
        listed = {(image.split, image.row) for image in self._run.data.bad_images}
        images = [image for image in _as_bad_images(self._run, new) if (image.split, image.row) not in listed]
        if self._run.machine.is_main and images:
            self._run.folder.add_bad_images([asdict(image) for image in images])
        self._check_limit()

    def _check_limit(self) -> None:
        unreadable, limit = self._progress.unreadable, self._run.settings.data.max_bad_images
        total = len(self._run.data.train)
        if len(unreadable) <= limit * total:
            return
        newest = _as_bad_images(self._run, unreadable)[-SHOWN:]
        lines = "\n".join(f"  {image}" for image in newest)
        raise RunError(
            f"{len(unreadable):,} of {total:,} training images cannot be used so far; --max_bad_images "
            f"allows {limit:.1%}. The last of them:\n{lines}\nAll are in {self._run.folder.bad_images}. "
            "Repair or remove them, or start a new run with a higher --max_bad_images."
        )


def all_left_out(run: Run, progress: Progress | None = None) -> list[dict[str, Any]]:
    """What `bad_images.jsonl` lists: images left out before training, and in training until `progress`."""
    met = _as_bad_images(run, progress.unreadable) if progress else []
    images = {(image.split, image.row): image for image in (*met, *run.data.bad_images)}
    return [asdict(image) for image in images.values()]


def _as_bad_images(run: Run, unreadable: dict[str, str]) -> list[BadImage]:
    if not unreadable:
        return []
    assert isinstance(run.data.train, TrainStream)
    places = [(run.data.train.where(int(row)), problem) for row, problem in unreadable.items()]
    return [BadImage(split=split, row=row, used_for="train", problem=text) for (split, row), text in places]
