"""Two machines that are network namespaces, a wire between them, and what goes wrong with it."""

from __future__ import annotations

import os
import shutil
import subprocess
from types import TracebackType
from typing import Self

import pytest

__all__ = ["ADDRESSES", "Wire"]

ADDRESSES = {"a": "10.98.0.1", "b": "10.98.0.2"}


class Wire:
    """Namespaces ``a`` and ``b``, joined by a pair of virtual cards; gone at the end, with all that was set in them."""

    def __init__(self) -> None:
        missing = [each for each in ("ip", "tc", "nft", "openssl") if shutil.which(each) is None]
        if missing:
            pytest.fail(f"the tests in namespaces need {', '.join(missing)}: install iproute2, nftables and openssl")
        self._names = {each: f"walspool-{os.getpid()}-{each}" for each in ADDRESSES}
        self._made: list[str] = []

    def __enter__(self) -> Self:
        try:
            for each in ADDRESSES:
                _run("ip", "netns", "add", self._names[each])
                self._made.append(each)
            _run(
                *("ip", "link", "add", "wire", "netns", self._names["a"], "type", "veth"),
                *("peer", "name", "wire", "netns", self._names["b"]),
            )
            for each, address in ADDRESSES.items():
                self.run(each, "ip", "address", "add", f"{address}/24", "dev", "wire")
                for card in ("wire", "lo"):
                    self.run(each, "ip", "link", "set", card, "up")
                self.run(each, "nft", "add table inet weather")
                self.run(each, "nft", "add chain inet weather incoming { type filter hook input priority 0 ; }")
        except BaseException:
            self._end()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._end()

    def _end(self) -> None:
        for each in self._made:
            _run("ip", "netns", "delete", self._names[each])
        self._made = []

    def command(self, machine: str, *command: str) -> list[str]:
        """A command as it runs on a machine."""
        return ["ip", "netns", "exec", self._names[machine], *command]

    def run(self, machine: str, *command: str) -> None:
        """Run a command on a machine to its end."""
        _run(*self.command(machine, *command))

    def deafen(self, machine: str) -> None:
        """Nothing reaches the machine any more; what it sends still goes out."""
        self.run(machine, "nft", "add rule inet weather incoming iifname wire drop")

    def slow(self, machine: str) -> None:
        """What it sends goes at 400 kbit/s."""
        limit = ("rate", "400kbit", "burst", "4kb", "latency", "2s")
        self.run(machine, "tc", "qdisc", "add", "dev", "wire", "root", "tbf", *limit)

    def heal(self) -> None:
        """Everything passes again."""
        for each in ADDRESSES:
            self.run(each, "nft", "flush chain inet weather incoming")
            subprocess.run(self.command(each, "tc", "qdisc", "del", "dev", "wire", "root"), capture_output=True)


def _run(*command: str) -> None:
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        pytest.fail(f"this machine can't do what the test needs: {' '.join(command)}: {done.stderr.strip()}")
