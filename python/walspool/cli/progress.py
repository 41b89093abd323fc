"""Progress on standard error: only on a terminal, and only for work that takes longer than a second."""

from __future__ import annotations

import contextlib
import sys
import threading
import time
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID

__all__ = ["Bar", "on_terminal", "tracked", "waiting"]

Item = TypeVar("Item")
PATIENCE = 1.0
STEP = 256


def on_terminal() -> bool:
    """Whether standard error is a terminal."""
    return sys.stderr is not None and sys.stderr.isatty()


class Bar:
    """A bar that appears once its work has taken a second, and leaves nothing behind.

    ``printing`` says that the work prints meanwhile: then there is none where both would share a terminal.
    ``measuring`` says that the work is timed: then it is drawn only in ``step``, and nothing runs beside the work.
    """

    def __init__(self, title: str, total: int | None, *, printing: bool = False, measuring: bool = False) -> None:
        self._title = title
        self._total = total
        self._measuring = measuring
        self._done = 0
        wanted = on_terminal() and not (printing and sys.stdout.isatty())
        self._due = time.monotonic() + PATIENCE if wanted else float("inf")
        self._shown: tuple[Progress, TaskID] | None = None

    def __enter__(self) -> Bar:
        return self

    def __exit__(self, *_: object) -> None:
        if self._shown is not None:
            self._shown[0].stop()
            self._shown = None

    def step(self, amount: int) -> None:
        """Say that so much more is done."""
        self._done += amount
        if self._shown is not None:
            progress, task = self._shown
            progress.update(task, completed=self._done, refresh=self._measuring)
        elif time.monotonic() >= self._due:
            self._show()

    def _show(self) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

        parts = (TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn(), TimeRemainingColumn())
        alone = not self._measuring
        progress = Progress(*parts, console=Console(stderr=True), transient=True, auto_refresh=alone)
        task = progress.add_task(self._title, total=self._total, completed=self._done)
        progress.start()
        self._shown = (progress, task)


def tracked(items: Iterable[Item], total: int, title: str) -> Iterator[Item]:
    """The items as they are, to be printed; meanwhile a bar."""
    if not on_terminal():
        yield from items
        return
    with Bar(title, total, printing=True) as bar:
        for number, item in enumerate(items, 1):
            yield item
            if number % STEP == 0:
                bar.step(STEP)


@contextlib.contextmanager
def waiting(title: str) -> Iterator[None]:
    """Show that a single long call is still at work."""
    if not on_terminal():
        yield
        return
    with Bar(title, None) as bar:
        timer = threading.Timer(PATIENCE, bar.step, (0,))
        timer.daemon = True
        timer.start()
        try:
            yield
        finally:
            timer.cancel()
            timer.join()
