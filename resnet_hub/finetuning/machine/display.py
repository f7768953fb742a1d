"""What a person sees during a run: a bar on a terminal and in a notebook, plain lines elsewhere."""

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from tqdm.auto import tqdm
from tqdm.contrib.logging import logging_redirect_tqdm

from resnet_hub.finetuning.machine.notebook import in_notebook
from resnet_hub.terminal import printable

SECONDS_BETWEEN_LINES = 15.0
SECONDS_BEFORE_COUNTING = 2.0


class Display:
    """Speaks on the main process only, to stderr, so that stdout stays for what the command returns.

    In a notebook it speaks to stdout: there, stderr is for what went wrong.
    """

    def __init__(self, *, is_main: bool) -> None:
        self._is_main = is_main
        self._bar: Any = None
        self._last_line = time.monotonic()

    def say(self, text: str) -> None:
        """Print a line, above the bar if there is one."""
        if self._is_main:
            tqdm.write(printable(text), file=self._file)

    @contextmanager
    def counting(self, what: str, total: int) -> Iterator[Callable[[int], None]]:
        """Show how far a preparation has come: call what this gives with the number done.

        A preparation that is over in a moment is not mentioned.
        """
        if self._has_bars:
            with self._new_bar(what, total=total) as bar:
                yield lambda done: bar.update(done - bar.n)
            return
        due = time.monotonic() + SECONDS_BEFORE_COUNTING

        def count(done: int) -> None:
            nonlocal due
            if time.monotonic() >= due and done < total:
                self.say(f"{what}: {done:,} so far")
                due = time.monotonic() + SECONDS_BETWEEN_LINES

        yield count

    @contextmanager
    def training(self, *, total_steps: int, first_step: int) -> Iterator[None]:
        """Show the training steps while entered."""
        if not self._has_bars:
            yield
            return
        with logging_redirect_tqdm(), self._new_bar("training", total=total_steps, initial=first_step) as bar:
            self._bar = bar
            try:
                yield
            finally:
                self._bar = None

    def step(self, done: int, *, total: int, loss: float, images_per_second: float) -> None:
        """Show that another step is done; without a bar, a line every 15 seconds."""
        note = f"training loss {loss:.3f}  {images_per_second:.0f} images/s"
        if self._bar is not None:
            self._bar.set_postfix_str(note, refresh=False)
            self._bar.update(done - self._bar.n)
        elif time.monotonic() - self._last_line > SECONDS_BETWEEN_LINES:
            self._last_line = time.monotonic()
            self.say(f"  step {done}/{total}  {note}")

    @property
    def _file(self) -> Any:
        return sys.stdout if in_notebook() else sys.stderr

    @property
    def _has_bars(self) -> bool:
        return self._is_main and (in_notebook() or sys.stderr.isatty())

    def _new_bar(self, what: str, *, total: int, initial: int = 0) -> Any:
        return tqdm(desc=what, total=total, initial=initial, leave=False, file=self._file, dynamic_ncols=True)
