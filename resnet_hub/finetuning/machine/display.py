"""What a person sees during a run: a bar on a terminal, plain lines elsewhere."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from resnet_hub.terminal import printable

SECONDS_BETWEEN_LINES = 15.0
SECONDS_BEFORE_COUNTING = 2.0


class Display:
    """Speaks on the main process only, to stderr, so that stdout stays for what the command returns."""

    def __init__(self, *, is_main: bool) -> None:
        self._console = Console(
            stderr=True, quiet=not is_main, highlight=False, soft_wrap=True, markup=False, emoji=False
        )
        self._bar: Progress | None = None
        self._last_line = time.monotonic()

    def say(self, text: str) -> None:
        """Print a line, above the bar if there is one."""
        (self._bar.console if self._bar else self._console).print(printable(text))

    @contextmanager
    def counting(self, what: str, total: int) -> Iterator[Callable[[int], None]]:
        """Show how far a preparation has come: call what this gives with the number done.

        A preparation that is over in a moment is not mentioned.
        """
        if self._console.is_terminal and not self._console.quiet:
            with self._new_bar(what, total=total) as bar:
                yield lambda done: bar.update(bar.task_ids[0], completed=done)
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
        if not self._console.is_terminal or self._console.quiet:
            yield
            return
        with self._new_bar("training", total=total_steps) as bar:
            bar.update(bar.task_ids[0], completed=first_step)
            self._bar = bar
            try:
                yield
            finally:
                self._bar = None

    def _new_bar(self, what: str, *, total: int) -> Progress:
        note = TextColumn("{task.fields[note]}", markup=False)
        columns = (
            TextColumn(what, markup=False),
            BarColumn(),
            MofNCompleteColumn(),
            note,
            TimeRemainingColumn(),
        )
        bar = Progress(*columns, console=self._console, transient=True)
        bar.add_task(what, total=total, note="")
        return bar

    def step(self, done: int, *, total: int, loss: float, images_per_second: float) -> None:
        """Show that another step is done; without a terminal, a line every 15 seconds."""
        note = f"loss {loss:.3f}  {images_per_second:.0f} images/s"
        if self._bar is not None:
            self._bar.update(self._bar.task_ids[0], completed=done, note=note)
        elif time.monotonic() - self._last_line > SECONDS_BETWEEN_LINES:
            self._last_line = time.monotonic()
            self.say(f"  step {done}/{total}  {note}")
