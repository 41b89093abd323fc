"""Tokens: what each allows, what is refused, and that none is ever shown."""

from __future__ import annotations

import hmac
from pathlib import Path

import pytest

from walspool.net.auth import EVERYTHING, Grant, TokenAuth, is_loopback, read_token, refuse_foreign
from walspool.net.protocol import Refused

READ, ADMIN, REPLICA = "r" * 16, "a" * 256, "e!~" + "u" * 20


@pytest.fixture
def auth() -> TokenAuth:
    """Three tokens."""
    return TokenAuth([(READ, ["read"]), (ADMIN, ["admin"]), (REPLICA, ["replica:eu-1", "append"])])


def test_what_a_token_allows(auth: TokenAuth) -> None:
    asked = ("read", "append", "admin", "replica:eu-1", "replica:eu-2")
    found = {
        token: [each for each in asked if auth.grant(f"Bearer {token}").allows(each)]
        for token in (READ, ADMIN, REPLICA)
    }
    assert found == {READ: ["read"], ADMIN: list(asked), REPLICA: ["append", "replica:eu-1"]}
    auth.grant(f"bEARER  {READ}").require("read")
    with pytest.raises(Refused, match="scope append") as caught:
        auth.grant(f"Bearer {READ}").require("append")
    assert (caught.value.problem.status, caught.value.problem.kind) == (403, "forbidden")
    assert EVERYTHING.allows("replica:x")
    assert not Grant(frozenset()).allows("read")


@pytest.mark.parametrize(
    "header",
    [
        None,
        "",
        "Bearer",
        "Bearer ",
        READ,
        f"Basic {READ}",
        f"Bearer {READ}x",
        f"Bearer {READ[:-1]}",
        f"Bearer {READ} ",
        f"Bearer {READ}\n",
        f"Bearer \xe9{READ}",
        "Bearer " + "x" * 100_000,
    ],
)
def test_what_no_token_is(auth: TokenAuth, header: str | None) -> None:
    with pytest.raises(Refused, match="needs a header 'Authorization: Bearer TOKEN'") as caught:
        auth.grant(header)
    assert (caught.value.problem.status, caught.value.problem.kind) == (401, "unauthorized")


def test_every_token_is_compared(auth: TokenAuth, monkeypatch: pytest.MonkeyPatch) -> None:
    compared = []
    compare = hmac.compare_digest

    def noted(known: bytes, asked: bytes) -> bool:
        compared.append((len(known), len(asked)))
        return compare(known, asked)

    monkeypatch.setattr(hmac, "compare_digest", noted)
    auth.grant(f"Bearer {READ}")
    assert compared == [(32, 32)] * 3


def test_no_token_is_ever_shown(auth: TokenAuth, tmp_path: Path) -> None:
    assert repr(auth) == "<TokenAuth 3 tokens>"
    assert not any(token in str(vars(auth)) for token in (READ, ADMIN, REPLICA))
    file = tmp_path / "tokens"
    for text in (f"{READ}\n", f"{READ} reed\n", f"{READ} read\n{READ} admin\n", "short-token read\n"):
        file.write_text(text)
        file.chmod(0o600)
        with pytest.raises(ValueError, match="token") as caught:
            TokenAuth.load(file)
        assert READ not in str(caught.value)
        assert "short-token" not in str(caught.value)


def test_a_token_file(tmp_path: Path) -> None:
    file = tmp_path / "tokens"
    file.write_text(f"# who may\n\n{READ} read  # the dashboard\n  {REPLICA}\treplica:eu-1 append\n")
    with pytest.raises(ValueError, match=r"everybody may use the token file .* \(mode 0644\): chmod 600 it"):
        TokenAuth.load(file)
    file.chmod(0o640)
    auth = TokenAuth.load(file)
    assert auth.grant(f"Bearer {READ}").scopes == {"read"}
    assert auth.grant(f"Bearer {REPLICA}").scopes == {"append", "replica:eu-1"}
    with pytest.raises(FileNotFoundError):
        TokenAuth.load(tmp_path / "missing")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "there is no token"),
        (f"{READ}", r"line 1 .*: it has no scope"),
        (f"\n{READ} reed", r"line 2 .*: a scope is read, append, admin, or replica:<id>"),
        (f"{READ} replica:a/b", "line 1 .*: 'a/b' is no replica id"),
        (f"{READ} replica:", "line 1 .* is no replica id"),
        ("short read", "line 1 .*: a token must be 16 to 256"),
        ("x" * 257 + " read", "line 1 .*: a token must be 16 to 256"),
        ("ä" * 16 + " read", "line 1 .*: a token must be"),
        (f"{READ} read\n{READ} admin", "a token is given twice"),
        ("#" * ((1 << 20) + 1), "is above 1048576 bytes"),
    ],
)
def test_a_bad_token_file(tmp_path: Path, text: str, words: str) -> None:
    file = tmp_path / "tokens"
    file.write_text(text)
    file.chmod(0o600)
    with pytest.raises(ValueError, match=words):
        TokenAuth.load(file)


def test_the_token_of_one_who_asks(tmp_path: Path) -> None:
    file = tmp_path / "token"
    file.write_text(f"{READ}\n")
    file.chmod(0o600)
    assert read_token(file) == READ
    file.write_text(f"{READ} read\n")
    with pytest.raises(ValueError, match="token file") as caught:
        read_token(file)
    assert READ not in str(caught.value)


def test_loopback() -> None:
    assert all(map(is_loopback, ("localhost", "LOCALHOST", "127.0.0.1", "::1")))
    assert not any(map(is_loopback, ("", "0.0.0.0", "127.0.0.1.example.org", "localhost.example.org", "10.0.0.1")))


@pytest.mark.parametrize("host", ["localhost", "localhost:4646", "127.0.0.1:1", "[::1]:4646", "[::1]"])
@pytest.mark.parametrize("origin", [None, "http://localhost:4646", "http://127.0.0.1"])
def test_a_request_to_this_machine(host: str, origin: str | None) -> None:
    refuse_foreign(host, origin)


@pytest.mark.parametrize(
    ("host", "origin"),
    [
        (None, None),
        ("", None),
        ("evil.example", None),
        ("localhost.evil.example:80", None),
        ("[", None),
        ("a@b", None),
        ("localhost", "http://evil.example"),
        ("localhost", "null"),
        ("localhost", ""),
        ("localhost", "http://["),
    ],
)
def test_a_foreign_request(host: str | None, origin: str | None) -> None:
    with pytest.raises(Refused, match="without tokens") as caught:
        refuse_foreign(host, origin)
    assert caught.value.problem.status == 403
