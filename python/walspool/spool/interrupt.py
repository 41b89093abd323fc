"""Ctrl-C must not stop a change of files half-way: it is raised once the outcome is known."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import TypeVar

__all__ = ["uninterrupted"]

T = TypeVar("T")


def uninterrupted(work: Callable[[], T]) -> T:
    """Run ``work`` to its end, and only then raise what a signal handler raised meanwhile.

    Handlers run in the main thread alone, so that ``work`` is done in another one while the main thread waits.
    """
    if threading.current_thread() is not threading.main_thread():
        return work()
    results: list[T] = []
    errors: list[BaseException] = []

    def run() -> None:
        try:
            results.append(work())
        except BaseException as error:  # handed to the caller, whatever it is
            errors.append(error)

    thread = threading.Thread(target=run, name="walspool-uninterrupted")
    try:
        thread.start()
    except RuntimeError:
        return work()  # the interpreter is shutting down and starts no more threads
    interrupt: BaseException | None = None
    while thread.is_alive():
        try:
            thread.join()
        except BaseException as error:  # from a signal handler
            interrupt = error
    if interrupt is not None:
        raise interrupt
    if errors:
        raise errors[0]
    return results[0]
