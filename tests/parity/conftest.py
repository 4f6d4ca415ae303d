"""Marks what compares with other implementations and reports how near they are."""

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
