"""A test that hangs fails, and the rest still run; a busy machine fails nothing."""

from __future__ import annotations

import signal
from collections.abc import Generator

import pytest
from hypothesis import HealthCheck, settings

from tests import vms

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
