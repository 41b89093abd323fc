"""Calls that wait, in a thread of their own."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Generic, TypeVar

from tests.spool.kit import PATIENCE_S

T = TypeVar("T")


class InThread(Generic[T]):
    """Runs a call in another thread from now on; ``result`` is what it returned, or raises what it raised."""

    def __init__(self, call: Callable[[], T]) -> None:
        self._call = call
        self._results: list[T] = []
        self._errors: list[BaseException] = []
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        try:
            self._results.append(self._call())
        except BaseException as error:  # handed to the test, whatever it is
            self._errors.append(error)

    def result(self) -> T:
        """What came of the call; fails where it does not end."""
        self._thread.join(PATIENCE_S)
        assert not self._thread.is_alive(), "the call does not end"
        if self._errors:
            raise self._errors[0]
        return self._results[0]


def until(happened: Callable[[], bool]) -> None:
    """Look again and again until it has happened; fails where it does not."""
    deadline = time.monotonic() + PATIENCE_S
    while not happened():
        assert time.monotonic() < deadline, "it does not happen"
