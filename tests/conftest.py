"""A test that hangs fails, and the rest still run; a busy machine fails nothing."""

from __future__ import annotations

import signal
from collections.abc import Generator
from typing import Any

import pytest
from hypothesis import HealthCheck, settings

from tests import vms
from tests.agent import CI

settings.register_profile(
    "any machine",
    settings.default,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow],
)
settings.load_profile("any machine")

# A shell that starts us in the background has us, and all that we start, ignore it.
signal.signal(signal.SIGINT, signal.default_int_handler)

LIMIT = 1000  # seconds: more than what any test gives what it waits for


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol() -> Generator[None, object, object]:
    def late(_signo: int, _frame: object) -> None:
        pytest.fail(f"took longer than {LIMIT} s")

    signal.signal(signal.SIGALRM, late)
    signal.alarm(LIMIT)
    try:
        return (yield)
    finally:
        signal.alarm(0)


def _batch(item: pytest.Item) -> vms.Run | None:
    """The long run in a VM that a test is of."""
    if (mark := item.get_closest_marker("batch")) is None:
        return None
    run, parameter = mark.args
    return run, item.callspec.params[parameter]  # type: ignore[attr-defined]


def pytest_collection_finish(session: pytest.Session) -> None:
    if not session.config.option.collectonly:
        vms.ahead(list(dict.fromkeys(filter(None, map(_batch, session.items)))))


def pytest_sessionfinish() -> None:
    vms.forget()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, Any]:
    """In CI everything runs: a skip is a failure, unless the test says what runs in its stead."""
    report = yield
    if CI and report.skipped and item.get_closest_marker("may_skip") is None:
        reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else report.longrepr
        report.outcome, report.longrepr = "failed", f"skipped, and this is CI: {reason}"
    return report


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    if vms.AGAIN:
        terminalreporter.section("VMs that failed and were tried once more")
        for line in vms.AGAIN:
            terminalreporter.write_line(line)
