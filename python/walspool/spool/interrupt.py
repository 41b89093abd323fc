"""Ctrl-C must not stop a change of files half-way: it is raised once the outcome is known."""

from __future__ import annotations

import _thread
import threading
from collections.abc import Callable
from typing import Final, TypeVar

__all__ = ["SIGNALS_S", "uninterrupted"]

T = TypeVar("T")

#: How long a wait may last in one piece, in seconds: a signal that comes just before it blocks does not end it.
SIGNALS_S: Final = 0.1


def uninterrupted(work: Callable[[], T]) -> T:
    """Run ``work`` to its end, and only then raise what a signal handler raised meanwhile.

    Handlers run in the main thread alone, so that ``work`` is done in another one while the main thread waits.
    """
    if threading.get_ident() == threading.main_thread().ident:
        return _elsewhere(work)
    return work()


def _elsewhere(work: Callable[[], T]) -> T:
    results: list[T] = []
    errors: list[BaseException] = []
    finished = threading.Lock()
    finished.acquire()

    def run() -> None:
        try:
            results.append(work())
        except BaseException as error:  # handed to the caller, whatever it is
            errors.append(error)
        finally:
            finished.release()

    try:
        # not a threading.Thread: what runs when one of those goes away would swallow a Ctrl-C
        _thread.start_new_thread(run, ())
    except RuntimeError:
        return work()  # the interpreter is shutting down and starts no more threads
    interrupt: BaseException | None = None
    while not (results or errors):  # not the lock: an interrupt may come just behind its being acquired
        try:
            finished.acquire()
        except BaseException as error:  # from a signal handler
            interrupt = error
    if interrupt is not None:
        raise interrupt
    if errors:
        raise errors[0]
    return results[0]
