"""``serve`` and ``promote``: a primary from the shell."""

from __future__ import annotations

import http.client
import json
import signal
import ssl
import subprocess
import sys
from pathlib import Path

import pytest

import walspool
from tests.cli.running import PATIENCE_S, running
from tests.cli.shell import Command, damage, process
from tests.net.test_promotion import certificate

TOKEN = "a-token-of-everybody"


def secret(folder: Path, text: str) -> Path:
    """A token file."""
    path = folder / "tokens"
    path.write_text(text)
    path.chmod(0o600)
    return path


def test_it_serves_until_a_signal_and_loses_nothing(data_path: Path) -> None:
    with running("serve", data_path, "--port", "0") as server:
        assert server.said == f"serving {data_path} at http://127.0.0.1:{server.port} (term 1, LSN 0)\n"
        server.write(3)
        # a response is open when it ends
        waiting = http.client.HTTPConnection("127.0.0.1", server.port, timeout=PATIENCE_S)
        waiting.request("GET", "/v1/wal?since_lsn=0")
        response = waiting.getresponse()
        assert response.read1(1)
        assert server.end() == 0
        assert (server.rest, server.errors) == ("", "")
        waiting.close()
    with running("serve", data_path, "--port", "0", "--json") as server:
        assert '"lsn": 3' in server.said
        assert server.end(signal.SIGINT) == 130
    with walspool.open(data_path) as log:
        assert log.recovery.verdict == "clean"
        assert [each.payload for each in log] == [b"record 0", b"record 1", b"record 2"]


def test_it_ends_whatever_its_snapshot_program_does(data_path: Path) -> None:
    with running("serve", data_path, "--port", "0", "--snapshot", "echo 0; echo part; sleep 300") as server:
        session = server.ask("POST", "/v1/replicas", b'{"id": "a"}')[1]["session"]
        loading = http.client.HTTPConnection("127.0.0.1", server.port, timeout=PATIENCE_S)
        loading.request("GET", "/v1/snapshot?replica_id=a", headers={"walspool-session": str(session)})
        assert loading.getresponse().read1(5) == b"part\n"
        assert server.end() == 0
        assert "Traceback" not in server.errors
        loading.close()


def test_what_was_acknowledged_is_there_behind_a_kill(data_path: Path) -> None:
    with running("serve", data_path, "--port", "0") as server:
        server.write(5)
        assert server.end(signal.SIGKILL) == -9
    with walspool.open(data_path, recovery="strict") as log:
        assert log.current_lsn == 5


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--host", "0.0.0.0"], "needs --tokens"),
        (["--host", "::"], "needs --tokens"),
        (["--host", "0.0.0.0", "--tokens", "TOKENS"], "--insecure"),
        (["--tls-cert", "x"], "go together"),
        (["--port", "70000"], "--port"),
    ],
)
def test_an_open_door_is_refused(command: Command, data_path: Path, options: list[str], words: str) -> None:
    tokens = str(secret(data_path.parent, f"{TOKEN} read\n"))
    answer = command("serve", data_path, *[tokens if each == "TOKENS" else each for each in options])
    assert (answer.code, answer.out) == (2, "")
    assert answer.says(words)


def test_tokens_are_asked_for_and_never_told(data_path: Path) -> None:
    tokens = secret(data_path.parent, f"{TOKEN} read append\n")
    with running("serve", data_path, "--port", "0", "--host", "0.0.0.0", "--insecure", "--tokens", tokens) as server:
        assert server.ask("POST", "/v1/records", b"x")[0] == 401
        assert server.ask("POST", f"/v1/records?token={TOKEN}", b"x", authorization=f"Bearer {TOKEN}x")[0] == 401
        assert server.ask("POST", "/v1/records", b"x", authorization=f"Bearer {TOKEN}")[0] == 200
        assert server.end() == 0
        assert TOKEN not in server.said + server.rest + server.errors
    tokens.chmod(0o644)
    with running("serve", data_path, "--port", "0", "--tokens", tokens) as server:
        assert server.process.wait(PATIENCE_S) == 3
        server.end()
        assert "chmod 600" in server.errors


def test_over_tls(data_path: Path) -> None:
    cert, key = certificate(data_path.parent, "ours")
    with running("serve", data_path, "--port", "0", "--tls-cert", cert, "--tls-key", key) as server:
        context = ssl.create_default_context(cafile=str(cert))
        connection = http.client.HTTPSConnection("localhost", server.port, context=context, timeout=PATIENCE_S)
        connection.request("GET", "/healthz")
        assert connection.getresponse().status == 200
        connection.close()
        assert server.url.startswith("https://")


def test_a_corrupt_log_is_refused_with_what_can_be_done(command: Command, long_log: Path) -> None:
    damage(min(long_log.parent.glob("*.wal.0*[0-9]")), 40)
    for each in long_log.parent.glob("*.idx"):
        each.unlink()
    answer = command("serve", long_log, "--port", "0")
    assert (answer.code, answer.out) == (1, "")
    assert answer.says("is damaged", "walspool repair")


def test_one_that_is_served_is_locked(command: Command, data_path: Path) -> None:
    with running("serve", data_path, "--port", "0") as server:
        answer = command("serve", data_path, "--port", "0")
        assert (answer.code, answer.says("locked", str(server.process.pid))) == (3, True)
        answer = command("serve", data_path.with_name("other.db"), "--port", server.port)
        assert (answer.code, answer.says("can't listen", str(server.port))) == (3, True)


@pytest.mark.parametrize("missing", ["starlette", "uvloop"])
def test_without_the_extra_one_line_says_what_to_install(missing: str, data_path: Path) -> None:
    program = (
        f"import sys; sys.modules[{missing!r}] = None; sys.argv[1:] = ['serve', {str(data_path)!r}]\n"
        "from walspool.cli import main; main()"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.returncode == 3
    assert done.stderr == f"walspool: serving needs {missing}: pip install 'walspool[server]'\n"


def test_a_log_that_never_followed_is_not_promoted(command: Command, log: Path) -> None:
    answer = command("promote", log)
    assert (answer.code, answer.out) == (3, "")
    assert answer.says("never followed")


@pytest.mark.parametrize(
    ("text", "found"),
    [("0", 0), ("90", 90_000), ("90s", 90_000), ("15m", 900_000), ("24h", 86_400_000), ("7d", 604_800_000)],
)
def test_what_replicas_may_cost(
    command: Command, data_path: Path, monkeypatch: pytest.MonkeyPatch, text: str, found: int
) -> None:
    given: list[dict[str, int]] = []

    def settings(**options: int) -> None:
        given.append(options)
        raise walspool.WalspoolError("that is enough")

    monkeypatch.setattr(walspool, "ReplicationConfig", settings)
    command("serve", data_path)
    command("serve", data_path, "--retain-bytes", "1000", "--retain-for", text)
    assert [(each["max_retained_bytes"], each["slot_idle_timeout_ms"]) for each in given] == [
        (4 << 30, 86_400_000),
        (1000, found),
    ]


@pytest.mark.parametrize("text", ["", "-1", "1w", "1.5h", "h", "1h30m", "1" * 13])
def test_what_is_no_duration(command: Command, data_path: Path, text: str) -> None:
    answer = command("serve", data_path, "--retain-for", text)
    assert (answer.code, answer.says("is no duration")) == (2, True)


def test_a_replica_that_is_promoted_and_served(data_path: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy.db"
    with running("serve", data_path, "--port", "0") as server:
        server.write(3)
        told = process("follow", server.url, copy, "--id", "eu-1", "--once", "--json").out
        assert [json.loads(each) for each in told.splitlines()][-1] == {"lsn": 3}
        assert json.loads(told.splitlines()[0])["url"] == server.url
        with running("serve", copy, "--port", "0", "--promote", "--json") as new:
            facts = json.loads(new.said)
            assert (facts["term"], facts["lsn"], facts["fenced_by"]) == (2, 3, None)
    answer = process("serve", data_path, "--port", "0", "--promote")
    assert (answer.code, "is no replica's" in answer.err) == (3, True)
