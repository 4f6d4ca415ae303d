"""What compares with other implementations is marked: make parity."""

import pathlib


def pytest_collection_modifyitems(items):
    for item in items:
        if pathlib.Path(__file__).parent in item.path.parents:
            item.add_marker("parity")
