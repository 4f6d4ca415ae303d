"""Marks what compares with other implementations; prints how near they are."""

import pathlib

import pytest
from parity import ours


def pytest_collection_modifyitems(items):
    for item in items:
        if pathlib.Path(__file__).parent in item.path.parents:
            item.add_marker("parity")


@pytest.fixture(autouse=True)
def report_differences(record_property):
    """Keeps what ours.check_logits found with the report of the test."""
    ours.differences.clear()
    yield
    for found in ours.differences:
        record_property("logits", found)


def pytest_terminal_summary(terminalreporter):
    lines = [
        "  ".join(f"{n} {v:.1e}" for n, v in found.items()) + "  " + report.nodeid
        for report in terminalreporter.getreports("")
        if report.when == "teardown"
        for name, found in report.user_properties
        if name == "logits"
    ]
    if lines:
        terminalreporter.section("largest difference relative to the largest logit")
        terminalreporter.write_line(
            "\n".join(sorted(lines, key=lambda x: x.split()[-1]))
        )
