"""How the command is called: help, version, bad usage, what is missing, and errors on one line."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.cli.shell import Command, everything_below, process

LOCAL_VERBS = ["append", "dump", "tail", "info", "verify", "diff", "repair", "prune", "slots", "bench", "demo"]
VERBS = [*LOCAL_VERBS, "serve", "follow", "promote", "status"]


def test_help_names_every_verb_and_the_exit_codes(command: Command) -> None:
    answer = command("--help")
    assert answer.code == 0
    listed = answer.out[answer.out.index("Commands:") :].splitlines()[1:]
    assert sorted(each.split()[0] for each in listed) == sorted(VERBS)
    assert "Exit codes: 0 done" in " ".join(answer.out.split())


@pytest.mark.parametrize("verb", VERBS)
def test_help_of_a_verb_has_an_example(command: Command, verb: str) -> None:
    answer = command(verb, "--help")
    assert answer.code == 0
    assert f"walspool {verb}" in answer.out[answer.out.index("Example") :]


def test_help_loads_nothing_that_a_verb_needs() -> None:
    program = (
        "import sys\nfrom walspool.cli.running import run\nassert run(['--help']) == 0\n"
        "names = ('asyncio', 'rich', 'ssl', 'uvicorn', 'walspool.core', 'walspool.net', 'walspool.spool')\n"
        "loaded = [each for each in names if each in sys.modules]\n"
        "assert not loaded, loaded\n"
    )
    subprocess.run([sys.executable, "-c", program], check=True, stdout=subprocess.DEVNULL)


def test_version(command: Command) -> None:
    answer = command("--version")
    assert answer.code == 0
    assert answer.out.startswith("walspool ")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([], "Missing command"),
        (["dunp"], "dunp"),
        (["dump"], "DATA_PATH"),
        (["dump", "x", "--colour"], "--colour"),
        (["dump", "x", "--since", "-1"], "--since"),
        (["dump", "x", "--since", "one"], "--since"),
        (["dump", "x", "--until", str(2**64)], "--until"),
        (["tail", "x", "-n", "-1"], "-n"),
        (["prune", "x"], "--through"),
        (["diff", "x"], "B"),
        (["append", "x", "y", "z"], "z"),
        (["bench"], "DATA_DIR"),
        (["bench", "x", "--seconds", "0"], "--seconds"),
        (["bench", "x", "--seconds", "nan"], "--seconds"),
        (["slots"], "Missing command"),
        (["slots", "lift"], "lift"),
        (["slots", "drop", "x"], "ID"),
        (["slots", "reset", "x", "eu-1"], "LSN"),
        (["slots", "reset", "x", "eu-1", "one"], "LSN"),
        (["slots", "reset", "x", "eu-1", str(2**64)], "LSN"),
    ],
)
def test_bad_usage_is_one_line_and_2(command: Command, arguments: list[str], words: str) -> None:
    answer = command(*arguments)
    assert (answer.code, answer.out) == (2, "")
    assert answer.says(words, "walspool --help")


@pytest.mark.parametrize("missing", ["typer", "rich"])
def test_without_the_extra_one_line_says_what_to_install(missing: str) -> None:
    program = f"import sys; sys.modules[{missing!r}] = None; from walspool.cli import main; main()"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.returncode == 3
    assert done.stderr == f"walspool: the command line needs {missing}: pip install 'walspool[cli]'\n"


def test_a_core_that_does_not_exist_is_one_line(log: Path) -> None:
    answer = process("info", log, env={**os.environ, "WALSPOOL_CORE": "zig"})
    assert answer.code == 3
    assert answer.says("WALSPOOL_CORE", "zig")


@pytest.mark.parametrize(
    "verb", [["dump"], ["tail"], ["info"], ["verify"], ["prune", "--through", "1"], ["repair"], ["slots", "list"]]
)
def test_no_such_log(command: Command, tmp_path: Path, verb: list[str]) -> None:
    for path in (tmp_path / "typo.db", tmp_path / "nowhere" / "typo.db"):
        answer = command(*verb, path)
        assert (answer.code, answer.out) == (3, "")
        assert answer.says(str(path.parent))
    assert everything_below(tmp_path) == {}


@pytest.mark.parametrize(
    "verb", [["dump"], ["append"], ["info"], ["verify"], ["prune", "--through", "1"], ["repair"], ["slots", "list"]]
)
def test_a_directory_is_no_data_path(command: Command, tmp_path: Path, verb: list[str]) -> None:
    answer = command(*verb, tmp_path)
    assert (answer.code, answer.out) == (3, "")
    assert answer.says("directory", str(tmp_path))


def test_the_spool_file_itself_is_a_data_path_too(command: Command, log: Path) -> None:
    spool_file = log.with_name(log.name + ".logical.wal")
    assert command("dump", spool_file).out == command("dump", log).out != ""


@pytest.mark.parametrize("kind", ["directory", "dangling link", "fifo", "foreign"])
@pytest.mark.parametrize("verb", ["dump", "append", "verify", "repair"])
def test_an_odd_spool_file_is_refused_and_untouched(command: Command, data_path: Path, kind: str, verb: str) -> None:
    spool_file = data_path.with_name(data_path.name + ".logical.wal")
    if kind == "directory":
        spool_file.mkdir()
    elif kind == "dangling link":
        spool_file.symlink_to("nowhere")
    elif kind == "fifo":
        os.mkfifo(spool_file)
    else:
        spool_file.write_bytes(bytes(range(7, 250)) * 5)
    before = everything_below(data_path.parent)
    answer = command(verb, data_path, *(["/dev/null"] if verb == "append" else []))
    assert answer.code == (3 if kind == "directory" else 1)
    if verb == "verify" and kind != "directory":
        assert "DAMAGED" in answer.out
    else:
        assert answer.out == ""
        assert answer.says(spool_file.name)
    after = everything_below(data_path.parent)
    after.pop(spool_file.name + ".lock", None)
    assert after == before


def test_no_permission_is_one_line(tmp_path: Path) -> None:
    # as root nothing is forbidden, so the command gives up root, once a first run has loaded everything
    program = (
        "import os\nfrom walspool.cli.running import end, run\nassert run(['append', '../first', '/dev/null']) == 0\n"
        "if os.getuid() == 0:\n    os.setgid(65534)\n    os.setuid(65534)\n"
        "end(run(['append', 'app.db', '/dev/null']))\n"
    )
    closed = tmp_path / "closed"
    closed.mkdir(mode=0o555)
    done = subprocess.run([sys.executable, "-c", program], cwd=closed, capture_output=True, text=True, check=False)
    assert done.returncode == 3
    assert done.stderr == "walspool: Permission denied: app.db.logical.wal.lock\n"


def test_a_locked_log_names_the_holder(log: Path) -> None:
    import walspool

    with walspool.open(log):
        answer = process("append", log, stdin=b"more\n")
        assert answer.code == 3
        assert answer.says("locked", str(os.getpid()))
        assert process("dump", log).code == 0


def test_nobody_reads_the_output(long_log: Path) -> None:
    line = [sys.executable, "-m", "walspool.cli", "dump", str(long_log)]
    reader, writer = os.pipe()
    os.close(reader)
    with os.fdopen(writer, "wb") as output:
        done = subprocess.run(line, stdout=output, stderr=subprocess.PIPE, check=False)
    assert (done.returncode, done.stderr) == (141, b"")


def test_a_full_disk_under_the_output_is_one_line(log: Path) -> None:
    line = [sys.executable, "-m", "walspool.cli", "dump", str(log)]
    with open("/dev/full", "wb") as output:
        done = subprocess.run(line, stdout=output, stderr=subprocess.PIPE, text=True, check=False)
    assert done.returncode == 3
    assert done.stderr == "walspool: No space left on device\n"


def test_closed_standard_streams(log: Path) -> None:
    for streams in ("0<&-", "1>&-", "2>&-", "0<&- 1>&- 2>&-"):
        line = f'"$0" -m walspool.cli append "$1" {streams}'
        done = subprocess.run(["sh", "-c", line, sys.executable, str(log)], input=b"", capture_output=True, check=False)
        assert b"Traceback" not in done.stderr
        assert done.returncode == (3 if "0<" in streams else 0)
    assert process("verify", log).code == 0
