"""The grammar of --vary, and the configs that its values make."""

import numpy as np
import pytest
import runs

from configs import default, sweeps
from errors import ConfigError
from sweep import vary


def values(text):
    """Parses the values of one field."""
    found = vary.parse(runs.small_config(), [text])
    return [value for override in found for value in override.values()]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("seed=0,1,5", [0, 1, 5]),
        ("seed=3..6", [3, 4, 5, 6]),
        ("batch_size=16..256:log:5", [16, 32, 64, 128, 256]),
        ("optimizer.learning_rate=1,0.5", [1.0, 0.5]),
        ("optimizer.learning_rate=0.01..1:log:3", [0.01, 0.1, 1.0]),
        ("optimizer.learning_rate=0..1:lin:5", [0.0, 0.25, 0.5, 0.75, 1.0]),
        ("config.optimizer.learning_rate=1e-3..1e-2:2", [0.001, 0.01]),
        ("augment.flip=true,False", [True, False]),
        ("model.name=lenet5,vgg16", ["lenet5", "vgg16"]),
        ("model.name='lenet5'", ["lenet5"]),
        ("dataset.mean=(1.0,2.0),3.0", [(1.0, 2.0), (3.0,)]),
        ("schedule.boundaries=(),(1,2)", [(), (1, 2)]),
        ("num_steps=None,10", [None, 10]),
        ("model.fields.depth=20,32", [20, 32]),
        ("model.fields={'depth': 20},{}", [{"depth": 20}, {}]),
        ("optimizer.kwargs.momentum=0,0.9", [0.0, 0.9]),
        ("optimizer.kwargs.nesterov=true,false", [True, False]),
        ("dataset.name=folder:a..b", ["folder:a..b"]),
        ("batch_size=1e2..4e2:log:3", [100, 200, 400]),
        ("num_steps=10..1000:log:3", [10, 100, 1000]),
        ("dataset.mean=1..3", [(1,), (2,), (3,)]),
        ("model.fields.depth=10..50:lin:3", [10, 30, 50]),
        ("model.fields.rate=1..4:log:4", [1.0, 1.5874, 2.51984, 4.0]),
        ("loss.class_weights=None,balanced", [None, "balanced"]),
        ("model.fields.rate=None,0.5", [None, 0.5]),
        ("model.fields.widths=[1,[2,3]]", [(1, (2, 3))]),
        ("model.fields={'widths': ([1, 2],)}", [{"widths": ((1, 2),)}]),
    ],
)
def test_values_of_one_field(text, expected):
    found = values(text)
    assert found == expected
    assert list(map(type, found)) == list(map(type, expected))


def test_ratios_of_a_logarithmic_range_are_equal_to_six_digits():
    found = values("optimizer.learning_rate=0.01..1:log:5")
    np.testing.assert_allclose(found, 10.0 ** np.linspace(-2, 0, 5), rtol=1e-5)
    assert found[1] == 0.0316228


def test_fields_that_vary_together():
    config = runs.small_config()
    texts = [
        "optimizer.name,optimizer.learning_rate=(sgd,0.1),(adamw,1e-3)",
        "seed=0,1",
    ]
    assert vary.parse(config, texts) == [
        {"optimizer.name": "sgd", "optimizer.learning_rate": 0.1, "seed": 0},
        {"optimizer.name": "sgd", "optimizer.learning_rate": 0.1, "seed": 1},
        {"optimizer.name": "adamw", "optimizer.learning_rate": 1e-3, "seed": 0},
        {"optimizer.name": "adamw", "optimizer.learning_rate": 1e-3, "seed": 1},
    ]


def test_the_runs_that_a_config_declares():
    config = runs.small_config()
    declared = sweeps.product(
        sweeps.vary("model.name", ["lenet5", "nin"]),
        sweeps.zipit(
            sweeps.vary("optimizer.name", ["sgd", "adamw"]),
            sweeps.vary("optimizer.learning_rate", [1, 1e-3]),
        ),
    )
    found = vary.parse(config, ["seed=0..1"], [*declared, {"batch_size": 16}])
    assert len(found) == 2 * (2 * 2 + 1)
    assert found[0] == {
        "model.name": "lenet5",
        "optimizer.name": "sgd",
        "optimizer.learning_rate": 1.0,
        "seed": 0,
    }
    assert found[-1] == {"batch_size": 16, "seed": 1}
    with pytest.raises(ConfigError, match="'seed' is set twice"):
        vary.parse(config, ["seed=0..1"], [{"seed": 3}])
    with pytest.raises(ConfigError, match=r"run 1: config has no field 'sed'"):
        vary.parse(config, [], [{"seed": 3}, {"sed": 1}])
    with pytest.raises(ConfigError, match="config.seed takes a whole number, not 'a'"):
        vary.parse(config, [], [{"seed": "a"}])
    with pytest.raises(ValueError, match="one length, not of 1, 2"):
        sweeps.zipit([{"seed": 0}], [{"batch_size": 1}, {"batch_size": 2}])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("seed", "write field=value,value"),
        ("seed=", "write field=value,value"),
        ("sed=1", "no field 'sed'; did you mean 'seed'"),
        ("optimizer.kwargs=0.9", "takes"),
        ("seed=0.5", "config.seed takes a whole number, not 0.5"),
        ("augment.flip=1", "takes true or false"),
        ("optimizer.learning_rate=fast", "takes a number, not 'fast'"),
        ("seed=1,1", "repeats a value"),
        ("seed=0..2,1", "takes a whole number"),
        ("seed=0.5..3:lin:2", "config.seed takes a whole number, not 0.5"),
        ("model.fields=1..3", "config.model.fields takes a dict, not 1"),
        ("num_steps=ten", "config.num_steps takes a whole number, not 'ten'"),
        ("num_steps=2.5", "config.num_steps takes a whole number, not 2.5"),
        ("seed=None,1", "config.seed takes a whole number, not None"),
        ("dataset.mean=None,1", "config.dataset.mean takes a tuple, not None"),
        ("optimizer.learning_rate=0.1..1", "how many numbers, as in 0.1..1:lin:5"),
        ("optimizer.learning_rate=0..1:log:3", "needs ends above zero"),
        ("dataset.mean=(1,2", "a bracket or quote is not closed"),
        ("dataset.mean=1)", "a bracket is closed but not open"),
        ("seed,batch_size=1,2", "'1' is not 2 values in brackets"),
        ("seed,batch_size=(1,2,3)", "is not 2 values in brackets"),
    ],
)
def test_what_is_refused(text, message):
    with pytest.raises(ConfigError, match=message) as error:
        vary.parse(runs.small_config(), [text])
    assert f"--vary={text}" in str(error.value)
    assert "\n" not in str(error.value)


def test_a_field_is_set_once():
    with pytest.raises(ConfigError, match="'seed' is set twice"):
        vary.parse(runs.small_config(), ["seed=0,1", "seed=2"])


def test_a_field_and_a_part_of_it_do_not_both_vary():
    """One of them was once lost in silence."""
    texts = ["model.fields.dropout=0,0.3", "model.fields={},{'depth': 32}"]
    words = "a run sets model.fields and model.fields.dropout, which is a part of it"
    with pytest.raises(ConfigError, match=words):
        vary.parse(runs.small_config(), texts)
    with pytest.raises(ConfigError, match=words):
        vary.parse(runs.small_config(), texts[:1], [{"model.fields": {}}])


def test_values_replace_those_of_the_config():
    config = default.get_config()
    config.num_steps = 100
    config.optimizer.kwargs.momentum = 0.9
    config.lock()
    found = vary.apply(config, {"num_epochs": 2.0, "optimizer.kwargs": {"b1": 0.8}})
    assert found.num_steps is None  # or it would count, not the epochs
    assert found.optimizer.kwargs.to_dict() == {"b1": 0.8}
    assert (config.num_steps, config.optimizer.kwargs.momentum) == (100, 0.9)
    assert vary.apply(config, {"seed": 3}).num_steps == 100
