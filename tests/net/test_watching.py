"""The dashboard and the alert rules: every figure that they name is one that is served, and promtool takes them."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from tests.net.kit import Served

ROOT = Path(__file__).parents[2]
ALERTS, DASHBOARD = ROOT / "docs" / "alerts.yml", ROOT / "docs" / "grafana.json"
CASES = ROOT / "tests" / "data" / "alerts_test.yml"


def expressions() -> list[str]:
    """Every query of both."""
    rules = re.findall(r"^ +expr: (.*)$", ALERTS.read_text(encoding="utf-8"), re.MULTILINE)
    panels: list[dict[str, Any]] = json.loads(DASHBOARD.read_text(encoding="utf-8"))["panels"]
    return [*rules, *(target["expr"] for panel in panels for target in panel["targets"])]


def named(text: str) -> set[str]:
    """The samples that a query names."""
    return set(re.findall(r"\bwalspool_\w+", text))


def served_names(served: Served) -> set[str]:
    """The samples that there are when everything is known."""
    served.register("a")
    served.primary.ack_replica_lsn("a", 10, 10)
    lines = served.ask("GET", "/metrics")[1].decode().splitlines()
    return {re.split(r"[{ ]", each)[0] for each in lines if not each.startswith("#")}


def test_every_figure_that_is_named_is_served(served: Served) -> None:
    there = served_names(served)
    for each in expressions():
        assert named(each) <= there, each
        assert named(each) or each.startswith("up{"), each


def test_every_figure_that_is_served_is_described_and_shown(served: Served) -> None:
    there = {re.sub(r"_(bucket|sum|count)$", "", each) for each in served_names(served) if each.startswith("walspool_")}
    described = named((ROOT / "docs" / "operating.md").read_text(encoding="utf-8"))
    assert described == there
    shown = {re.sub(r"_(bucket|sum|count)$", "", name) for each in expressions() for name in named(each)}
    unwatched = {
        "walspool_prunes_total",
        "walspool_pruned_through_lsn",
        "walspool_slot_restart_lsn",
        "walspool_streams",
    }
    assert shown == there - unwatched


def test_every_rule_is_tried_and_says_what_to_do() -> None:
    text, cases = (path.read_text(encoding="utf-8") for path in (ALERTS, CASES))
    rules = re.findall(r"alert: (\w+)", text)
    assert len(rules) == len(set(rules)) == text.count("summary:") == text.count("description:")
    for each in rules:
        assert cases.count(f"alertname: {each}\n") == 2, f"{each} must be seen quiet, then firing"


def test_the_panels_lie_beside_each_other() -> None:
    taken: set[tuple[int, int]] = set()
    for panel in json.loads(DASHBOARD.read_text(encoding="utf-8"))["panels"]:
        place = panel["gridPos"]
        cells = {(place["x"] + column, place["y"] + row) for column in range(place["w"]) for row in range(place["h"])}
        assert not cells & taken, panel["title"]
        assert max(column for column, _ in cells) < 24
        taken |= cells


@pytest.mark.tools
@pytest.mark.parametrize("command", [("check", "rules", ALERTS), ("test", "rules", CASES)], ids=("check", "test"))
def test_promtool_takes_the_rules(command: tuple[str, str, Path]) -> None:
    program = shutil.which("promtool")
    assert program is not None, "there is no promtool: install Debian's package prometheus"
    done = subprocess.run([program, *map(str, command)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "SUCCESS" in done.stdout


@pytest.mark.tools
def test_prometheus_can_read_every_query_of_the_dashboard(tmp_path: Path) -> None:
    program = shutil.which("promtool")
    assert program is not None, "there is no promtool: install Debian's package prometheus"
    rules = tmp_path / "rules.json"  # JSON is YAML
    plain = [each.replace("$__rate_interval", "5m").replace("$instance", "db-1") for each in expressions()]
    told = [{"record": f"x{number}", "expr": each} for number, each in enumerate(plain)]
    rules.write_text(json.dumps({"groups": [{"name": "dashboard", "rules": told}]}))
    done = subprocess.run([program, "check", "rules", rules], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.tools
def test_prometheus_finds_nothing_to_mend_in_the_figures(served: Served) -> None:
    served.register("a")
    served.primary.ack_replica_lsn("a", 10, 10)
    program = shutil.which("promtool")
    assert program is not None, "there is no promtool: install Debian's package prometheus"
    text = served.ask("GET", "/metrics")[1]
    done = subprocess.run([program, "check", "metrics"], input=text, capture_output=True, check=False)
    assert (done.returncode, done.stderr) == (0, b"")
