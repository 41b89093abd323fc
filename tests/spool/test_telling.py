"""What a log has to say reaches the logger, and somebody even where there is none."""

from __future__ import annotations

import logging
import sys

import pytest

from walspool.spool.telling import log_error, log_warning


def test_words_are_logged_in_the_callers_name(caplog: pytest.LogCaptureFixture) -> None:
    log_warning("%s is odd", "a file")
    log_error("%d are bad", 2)
    found = [(each.name, each.levelno, each.getMessage(), each.funcName) for each in caplog.records]
    name = "test_words_are_logged_in_the_callers_name"
    assert found == [
        ("walspool", logging.WARNING, "a file is odd", name),
        ("walspool", logging.ERROR, "2 are bad", name),
    ]


def test_words_are_not_lost_where_no_module_can_be_loaded(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "logging", None)
    log_warning("%s is odd", "a file")
    assert capsys.readouterr().err == "a file is odd\n"
