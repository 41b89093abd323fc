"""The status page in a real browser: what a person reads there, and what nobody may do with it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.net.browser import Page, browsing
from tests.net.kit import APPEND, READ, Served, serving
from walspool import ReplicationConfig

pytestmark = pytest.mark.tools


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Page]:
    with browsing(tmp_path_factory.mktemp("browser")) as found:
        yield found


@pytest.fixture
def lagging(tmp_path: Path) -> Iterator[Served]:
    """Replicas that hold all, some, and nobody knows what; one slot past its limit."""
    config = ReplicationConfig.primary().with_slot_retention_max_lag_lsn(60)
    with serving(tmp_path, config=config) as found:
        for id, region in (("eu-1", "eu"), ("us-east-1", "us"), ("fresh", None)):
            found.primary.register_replica(id, region)
        for _ in range(90):
            found.primary.commit(b"x" * 300)
        found.primary.ack_replica_lsn("eu-1", 100, 100)
        found.primary.ack_replica_lsn("us-east-1", 50, 52, 3)
        yield found


def rows(page: Page, section: str) -> dict[str, dict[str, str]]:
    """The rows of a table by their first cell: each cell by its column."""
    cells = "Object.fromEntries([...row.cells].map((cell) => [cell.dataset.name, cell.innerText]))"
    of_each = f"(row) => [row.cells[0].innerText, {cells}]"
    found: dict[str, dict[str, str]] = page.value(
        f"Object.fromEntries([...document.querySelectorAll('#{section} tbody tr')].map({of_each}))"
    )
    return found


def open_page(page: Page, served: Served) -> str:
    page.complaints.clear()
    page.open(f"http://127.0.0.1:{served.port}/")
    return page.until("live,")


def test_it_says_what_an_operator_asks(page: Page, lagging: Served) -> None:
    text = open_page(page, lagging)
    for words in ("primary", "term 1", "last LSN\n100", "durable LSN\n100", "oldest LSN\n1", "verdict\nclean"):
        assert words in text
    replicas = rows(page, "replicas")
    some = replicas["us-east-1"]
    assert (some["lag, records"], some["durable LSN"], some["apply errors"], some["region"]) == ("48", "52", "3", "us")
    assert some["lag, bytes"] == "16.2 kB"
    assert some["lag, time"].endswith(" s")
    assert [replicas["eu-1"][f"lag, {each}"] for each in ("records", "bytes", "time")] == ["0", "0 bytes", "0.0 s"]
    assert [replicas["fresh"][f"lag, {each}"] for each in ("records", "bytes", "time")] == ["unknown"] * 3
    assert [replicas[each]["state"] for each in ("eu-1", "fresh")] == ["following", "registered"]
    slots = rows(page, "slots")
    assert (slots["fresh"]["state"], slots["fresh"]["pins the log"]) == ("unreserved", "yes")
    assert slots["fresh"]["until when"] == "it is past a limit: the next enforcement invalidates it"
    assert (slots["eu-1"]["state"], slots["eu-1"]["pins the log"]) == ("reserved", "no")
    assert "fresh holds 90 records" in text
    assert page.complaints == []


def test_it_goes_on_without_a_reload(page: Page, lagging: Served) -> None:
    open_page(page, lagging)
    page.value("window.same = true")
    lagging.primary.commit(b"more")
    page.until("last LSN\n101")
    lagging.primary.enforce_retention_limits()
    page.until("lost: horizon")
    lagging.primary.set_replica_rebootstrapping("fresh", True)
    page.until("loading a snapshot")
    lagging.primary.fence(7)
    page.until("fenced", "a primary of term 7 has replaced this one")
    assert page.value("window.same") is True
    lagging.server.should_exit = True
    page.until("no answer", "what is shown is of")
    assert page.value("document.body.className") == "stale"


def test_a_token_is_asked_for_and_kept_nowhere(page: Page, tmp_path: Path) -> None:
    with serving(tmp_path, tokens=True) as guarded:
        address = f"http://127.0.0.1:{guarded.port}/"
        page.open(address)

        def give(token: str) -> None:
            page.value(f"document.getElementById('token').value = {json.dumps(token)}")
            page.value("document.querySelector('#door button').click()")

        for token, words in (("wrong" * 4, "known token"), (APPEND, "needs a token with the scope read")):
            page.until("this server wants a token")
            give(token)
            assert "last LSN" not in page.until(words)
        give(READ)
        page.until("last LSN\n10", "live,")
        assert page.value("location.href") == address
        kept = "JSON.stringify([document.cookie, localStorage.length, sessionStorage.length, history.state])"
        assert page.value(kept) == '["",0,0,null]'
        assert READ not in page.value("document.documentElement.outerHTML")
        page.open(address)
        assert "last LSN" not in page.until("this server wants a token")


def test_nothing_that_a_stranger_says_is_more_than_text(page: Page, served: Served) -> None:
    evil = '<img src=x onerror="window.hacked=1">'
    served.register("a", region=evil)
    assert evil in open_page(page, served)
    found = page.value("performance.getEntriesByType('resource').map((each) => new URL(each.name).host)")
    assert set(found) == {f"127.0.0.1:{served.port}"}
    page.value(
        "document.body.append(Object.assign(document.createElement('script'), {textContent: 'window.inline=1'}))"
    )
    page.value("document.body.append(Object.assign(document.createElement('img'), {src: 'http://127.0.0.1:1/x'}))")
    page.value("fetch('http://127.0.0.1:1/').catch((error) => { window.refused = String(error) })")
    while not page.value("window.refused"):
        pass
    assert page.value("window.hacked") is page.value("window.inline") is None
    assert sum("Content Security Policy" in each for each in page.complaints) >= 3


def test_a_large_lsn_is_exact(page: Page, served: Served) -> None:
    served.primary.append_logical_record(2**63 + 1, b"x")
    assert "last LSN\n9,223,372,036,854,775,809" in open_page(page, served)


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_it_fits_a_telephone_and_a_screen(page: Page, lagging: Served, scheme: str) -> None:
    lagging.primary.register_replica("n" * 64, "m" * 64)
    open_page(page, lagging)
    for width in (320, 390, 1280):
        page.look_like(width, 800, scheme)
        assert page.value("document.documentElement.scrollWidth") <= width
    colour = page.value("getComputedStyle(document.body).backgroundColor")
    brightness = sum(int(each) for each in colour.strip("rgb()").split(","))
    assert (brightness > 600) == (scheme == "light")
