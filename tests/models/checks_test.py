"""Every field of every network is checked where the network is constructed."""

import functools
import inspect
import types

import numpy as np
import pytest

import models
from models import checks

# Refused when the network is constructed, by a message that starts with the field.
RATES = ("dropout", "auxiliary_dropout", "drop_path", "norm_momentum")


def classes():
    """{class: the name of one of its networks}."""
    found = {}
    for name in (*models.MODELS, *models.DETECTORS):
        constructor = models.constructor(name)
        while isinstance(constructor, functools.partial):
            constructor = constructor.func
        found.setdefault(constructor, name)
    return found


FIELDS = [
    (name, field)
    for name in classes().values()
    for field in models.fields(name)
    if field != "dtype"
]


@pytest.mark.parametrize(("name", "field"), FIELDS)
@pytest.mark.parametrize("value", ["nonsense", -1, float("nan"), object()])
def test_nonsense_is_refused_in_every_field(name, field, value):
    with pytest.raises(ValueError, match=f"^{field} "):
        models.create(name, num_classes=10, **{field: value})


@pytest.mark.parametrize("name", models.MODELS)
def test_a_rate_has_one_range_and_one_wording(name):
    for field in set(RATES) & set(models.fields(name)):
        if name.startswith("fractalnet") and field == "dropout":
            continue  # one for each block
        for value in (1, 1.5, -0.1):
            message = rf"^{field} {value} is not in \[0, 1\)$"
            with pytest.raises(ValueError, match=message):
                models.create(name, num_classes=10, **{field: value})
        for value in (0, 0.0, 0.99, np.float32(0.5)):
            if value and field == "drop_path" and name.startswith("plain"):
                continue  # it needs shortcuts
            models.create(name, num_classes=10, **{field: value})


@pytest.mark.parametrize("network", classes())
def test_fields_that_the_registry_binds_are_checked_too(network):
    bound = {"variant", "configuration", "network", "depth"}
    for field in bound & set(inspect.signature(network).parameters):
        with pytest.raises(ValueError, match=f"^{field} 'x' is no"):
            network(num_classes=10, **{field: "x"})


@pytest.mark.parametrize(
    ("check", "good", "bad", "message"),
    [
        (checks.rates, (0, 0.5), (1, -1e-9, "0.5", None), r"f .* is not in \[0, 1\)"),
        (checks.switches, (True, False), ("no", None, 2), "f .* is neither True nor"),
        (checks.positive, (1e-9, 3), (0, -1, float("inf"), "1"), "f .* is not a posi"),
    ],
)
def test_checks(check, good, bad, message):
    for value in good:
        check(types.SimpleNamespace(f=value), "f")
    for value in bad:
        with pytest.raises(ValueError, match=message):
            check(types.SimpleNamespace(f=value), "f")


def test_checks_of_choices_and_integers():
    network = types.SimpleNamespace(f="B", n=2, depth=20)
    checks.choice(network, "f", {"A": 1, "B": 2})
    checks.at_least(network, 2, "n")
    checks.depth(network, 6, 2)
    with pytest.raises(ValueError, match="^f 'B' is none of A, C$"):
        checks.choice(network, "f", ("A", "C"))
    network.f = ["A"]
    with pytest.raises(ValueError, match=r"^f \['A'\] is none of A$"):
        checks.choice(network, "f", {"A": 1})
    with pytest.raises(ValueError, match="^n 2 is not an integer from 3 up$"):
        checks.at_least(network, 3, "n")
    network.n = 2.0
    with pytest.raises(ValueError, match="^n 2.0 is not an integer"):
        checks.at_least(network, 1, "n")
    for layers, others in ((6, 3), (20, 2), (18, 20)):
        with pytest.raises(ValueError, match=f"depth 20 is not {layers} n . {others},"):
            checks.depth(network, layers, others)
