"""Marks comparisons with other implementations and reports how close they are."""

import pathlib

import pytest
from parity import ours


def pytest_collection_modifyitems(items):
    for item in items:
        if pathlib.Path(__file__).parent in item.path.parents:
            item.add_marker("parity")


@pytest.fixture(autouse=True)
def report_differences(record_property):
    """Keeps the differences that ours.check_logits found with the test's report."""
    ours.differences.clear()
    yield
    for found in ours.differences:
        record_property("logits", found)
