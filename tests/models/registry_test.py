"""The registry of networks."""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import pytest

import models

# name: (image, classes, parameters, where the number is from)
PARAMETERS = {
    "lenet5": ((32, 32, 1), 10, 60_000, "section II.B of the paper"),
    "lenet5_modern": ((28, 28, 1), 10, 61_706, "the sum of its layers' sizes"),
}


def test_every_model_has_a_parameter_count_here():
    assert set(models.MODELS) == set(PARAMETERS)


@pytest.mark.parametrize("name", PARAMETERS)
def test_parameters(name):
    image, classes, expected, _ = PARAMETERS[name]
    model = models.create(name, num_classes=classes)
    init = functools.partial(model.init, jax.random.key(0), train=False)
    params = jax.eval_shape(init, jnp.zeros((1, *image)))["params"]
    assert sum(leaf.size for leaf in jax.tree.leaves(params)) == expected


def test_create_passes_the_fields_on():
    model = models.create(
        "lenet5_modern", num_classes=7, dtype=jnp.bfloat16, activation="tanh"
    )
    assert isinstance(model, nn.Module)
    assert (model.num_classes, model.dtype, model.activation, model.pool) == (
        *(7, jnp.bfloat16, "tanh", "max"),
    )


def test_fields_are_what_create_takes():
    assert models.fields("lenet5") == ["dtype"]
    assert models.fields("lenet5_modern") == ["activation", "pool", "dtype"]


def test_fields_of_a_partial_leave_out_what_it_holds(monkeypatch):
    tanh = functools.partial(models.MODELS["lenet5_modern"], activation="tanh")
    monkeypatch.setitem(models.MODELS, "lenet5_tanh", tanh)
    assert models.fields("lenet5_tanh") == ["pool", "dtype"]
    assert models.create("lenet5_tanh", num_classes=2).activation == "tanh"


@pytest.mark.parametrize(
    ("name", "fields", "message"),
    [
        (
            "lenet_5",
            {},
            "unknown model 'lenet_5'; did you mean 'lenet5'.*choices are: ",
        ),
        ("", {}, "unknown model ''. The choices are: .*lenet5, lenet5_modern"),
        (None, {}, "unknown model None"),
        (
            "lenet5_modern",
            {"activaton": "relu"},
            "'activaton'.* did you mean 'activation'.*: activation, dtype, pool",
        ),
        ("lenet5", {"parent": None}, "unknown field .*'parent'"),
        ("lenet5", {"name": "x"}, "name"),
    ],
)
def test_unknown_names_and_fields_are_refused(name, fields, message):
    error = TypeError if "name" in fields else ValueError
    with pytest.raises(error, match=message):
        models.create(name, num_classes=10, **fields)
