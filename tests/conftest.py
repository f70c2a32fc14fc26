"""No test stops politely: with CI set, one that is skipped, expected to fail or deselected is a failure."""

from __future__ import annotations

import os
from collections.abc import Generator, Sequence
from typing import Any

import pytest

STRICT = bool(os.environ.get("CI"))
DESELECTED = pytest.StashKey[int]()


def pytest_make_parametrize_id(val: object, argname: str) -> str | None:
    """Bytes name no test: xdist's workers must collect the same names, and packed bytes can hold the time."""
    return argname if isinstance(val, bytes) else None


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    if STRICT and (report.skipped or hasattr(report, "wasxfail")):
        report.longrepr = f"{item.nodeid} did not run to its end: {_reason(report)}. With CI set that is a failure."
        report.outcome = "failed"
        report.__dict__.pop("wasxfail", None)
    return report


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report(
    collector: pytest.Collector,
) -> Generator[None, pytest.CollectReport, pytest.CollectReport]:
    report = yield
    if STRICT and report.skipped:
        report.longrepr = f"{collector.nodeid} was skipped: {report.longrepr}. With CI set that is a failure."
        report.outcome = "failed"
    return report


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: Sequence[pytest.Item]) -> None:
    """What a fixture makes for a module or a folder is made once: those tests run in one of xdist's workers."""
    for item in items:
        if not isinstance(item, pytest.Function):
            continue
        places = {
            definition.baseid
            for definitions in item._fixtureinfo.name2fixturedefs.values()
            for definition in definitions[-1:]
            if definition.scope in ("module", "package") and definition.baseid
        }
        if places and item.get_closest_marker("xdist_group") is None:
            item.add_marker(pytest.mark.xdist_group(min(places, key=len)))


def pytest_deselected(items: Sequence[pytest.Item]) -> None:
    if items:
        stash = items[0].config.stash
        stash[DESELECTED] = stash.get(DESELECTED, 0) + len(items)


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: Any, error: object) -> None:
    """Called in the process that steers xdist's workers: each of them deselects the same, it decides."""
    count = getattr(node, "workeroutput", {}).get("deselected", 0)
    node.config.stash[DESELECTED] = max(count, node.config.stash.get(DESELECTED, 0))


@pytest.hookimpl(tryfirst=True)
def pytest_sessionfinish(session: pytest.Session) -> None:
    count = session.config.stash.get(DESELECTED, 0)
    if hasattr(session.config, "workeroutput"):
        session.config.workeroutput["deselected"] = count
    elif STRICT and count:
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    count = config.stash.get(DESELECTED, 0)
    if STRICT and count:
        terminalreporter.section("deselected")
        terminalreporter.line(f"{count} tests were deselected. With CI set that is a failure.")


def _reason(report: pytest.TestReport) -> str:
    if hasattr(report, "wasxfail"):
        return f"xfail {report.wasxfail}"
    return str(report.longrepr[-1]) if isinstance(report.longrepr, tuple) else str(report.longrepr)
