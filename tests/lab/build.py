"""Compiles the preloaded library, once for each content of its source."""

import hashlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

SOURCE = Path(__file__).with_name("shim.c")
HEADER = Path(__file__).with_name("shim.h")
REPOSITORY = Path(__file__).parents[2]

#: The cores that are tested: with a wish in the environment only that one, as where the extension is absent.
CORES = (os.environ["WALSPOOL_CORE"],) if os.environ.get("WALSPOOL_CORE") else ("rust", "python")


def shim_path() -> Path:
    """The compiled library; built on first use and kept for as long as its source stays as it is."""
    compiler = os.environ.get("CC") or shutil.which("cc")
    if compiler is None:
        raise RuntimeError("the crash and fault tests need a C compiler, and there is no `cc` on the PATH: install one")
    digest = hashlib.sha256(HEADER.read_bytes() + SOURCE.read_bytes()).hexdigest()[:16]
    folder = Path(tempfile.gettempdir()) / f"walspool-lab-{os.getuid()}"
    folder.mkdir(mode=0o700, exist_ok=True)
    target = folder / f"shim-{digest}.so"
    if not target.exists():
        fresh = folder / f"shim-{digest}.{os.getpid()}.so"
        command = [compiler, "-O2", "-Wall", "-Wextra", "-shared", "-fPIC", "-o", str(fresh), str(SOURCE), "-lpthread"]
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode:
            raise RuntimeError(f"`{' '.join(command)}` failed:\n{done.stderr}")
        fresh.rename(target)
    return target


def run_program(module: str, core: str, *arguments: str, watched: Path | None = None) -> dict[str, Any]:
    """Runs one of the laboratory's programs on a core, under the library if a folder is watched; its JSON answer."""
    env = lab_environment(watched, None, core) if watched else os.environ | {"WALSPOOL_CORE": core}
    command = [sys.executable, "-m", f"tests.lab.{module}", *arguments]
    done = subprocess.run(command, env=env, cwd=REPOSITORY, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"tests.lab.{module} failed on the {core} core:\n{done.stdout[-2000:]}{done.stderr[-6000:]}")
    answer: dict[str, Any] = json.loads(done.stdout)
    return answer


def fast_folder() -> Path:
    """Where crash states are built: memory if there is one."""
    shm = Path("/dev/shm")
    return shm if shm.is_dir() and os.access(shm, os.W_OK) else Path(tempfile.gettempdir())


def lab_environment(root: Path, record: Path | None, core: str, **more: str) -> dict[str, str]:
    """The environment of a process under the library, watching `root`."""
    env = os.environ | {"LD_PRELOAD": str(shim_path()), "LAB_ROOT": str(root.resolve()), "WALSPOOL_CORE": core}
    for name in ("LAB_RECORD", "LAB_LIE", "LAB_SYNC_US"):
        env.pop(name, None)
    if record is not None:
        env["LAB_RECORD"] = str(record)
    return env | more
