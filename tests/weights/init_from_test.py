"""Training that starts from the parameters of another run."""

import contextlib
import functools
import json
import shutil
import types

import detector_runs
import flax
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import runs

import models
import train
import weights
from detection import inputs, views
from errors import ConfigError
from experiment import build, checkpoints, detectors, workdir
from training import optimizers
from weights import export, formats, starting

FROZEN = {"optimizer__rate_factors": ((".", 0.0),), "num_epochs": 0.2}


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    path = tmp_path_factory.mktemp("source") / "run"
    runs.train_small(path, "modern", num_epochs=1.0)
    return path


@functools.cache
def initial():
    model = models.create("lenet5_modern", num_classes=10)
    init = jax.jit(functools.partial(model.init, train=False))
    return init(jax.random.key(7), jnp.zeros((1, 32, 32, 1)))


def fresh():
    """Initial variables, in a tree that a test may change."""
    return jax.tree.map(lambda x: x, initial())


def test_the_chosen_layers_are_those_of_the_source(source):
    variables = fresh()
    loaded, report = weights.load(
        str(source), "lenet5_modern", variables, ("C[13]/kernel",)
    )
    saved, kept, found = (
        dict(zip(optimizers.paths(tree), jax.tree.leaves(tree), strict=True))
        for tree in (
            runs.final_state(source)[0]["params"],
            variables["params"],
            loaded["params"],
        )
    )
    chosen = {"backbone/C1/kernel", "backbone/C3/kernel"}
    assert chosen < found.keys() == kept.keys()
    for path, value in found.items():
        expected = saved if path in chosen else kept
        np.testing.assert_array_equal(value, expected[path])
    assert report.loaded == [f"params/{path}" for path in sorted(chosen)]
    assert f"{source}: 2 of 2 arrays of lenet5_modern" in str(report)
    step = runs.final_state(source)[1]
    assert f"note: they are of step {step}, the latest" in str(report)


def test_what_is_chosen_must_be_there_and_fit(source):
    variables = fresh()
    variables["params"]["more"] = {"bias": jnp.zeros(2)}
    with pytest.raises(weights.WeightsError, match="lacks params/more/bias"):
        weights.load(source, "lenet5_modern", variables, ("bias",))
    variables["params"]["backbone"]["C3"]["kernel"] = jnp.zeros((3, 3, 6, 16))
    with pytest.raises(weights.WeightsError, match="5x5x6x16.*C3/kernel.*3x3x6x16"):
        weights.load(source, "lenet5_modern", variables, ("C3",))


def test_a_head_of_other_classes_is_initialised(source):
    variables = fresh()
    variables["params"]["output"]["kernel"] = jnp.zeros((84, 3))
    variables["params"]["output"]["bias"] = jnp.zeros(3)
    loaded, report = weights.load(source, "lenet5_modern", variables)
    assert set(report.reinitialized) == {"params/output/kernel", "params/output/bias"}
    assert loaded["params"]["output"]["kernel"].shape == (84, 3)


def test_a_directory_without_a_run_is_refused(tmp_path):
    with pytest.raises(weights.WeightsError, match="is no run directory"):
        weights.load(tmp_path, "lenet5_modern", fresh())


def test_a_run_starts_from_all_of_another_and_its_average(source, tmp_path):
    """With a rate of 0 everywhere, the run ends where it starts."""
    runs.train_small(
        tmp_path / "run",
        "modern",
        init_from=str(source),
        optimizer__ema_decay=0.5,
        **FROZEN,
    )
    state, expected = (runs.final_state(p)[0] for p in (tmp_path / "run", source))
    runs.assert_same_bits(state["params"], expected["params"])
    runs.assert_same_bits(state["ema"], expected["params"])


def test_without_a_step_the_weights_are_tested_and_saved_as_they_are(source, tmp_path):
    fields = {"init_from": str(source), "schedule__name": "constant"}
    path = tmp_path / "run"
    line = runs.train_small(path, "modern", num_epochs=0.0, **fields)
    assert "images counted) after step 0" in line
    state, step = runs.final_state(path)
    assert step == 0
    runs.assert_same_bits(state["params"], runs.final_state(source)[0]["params"])
    assert runs.train_small(path, "modern", num_epochs=0.0, **fields) == line
    assert "after step 2" in runs.train_small(path, "modern", num_epochs=0.2, **fields)
    with pytest.raises(ConfigError, match="0 is for the weights of"):
        runs.train_small(tmp_path / "none", "modern", num_epochs=0.0)


def test_the_polyak_average_of_a_source_is_taken(source, tmp_path):
    source = shutil.copytree(source, tmp_path / "first")
    first, step = runs.final_state(source)
    first["ema"] = jax.tree.map(lambda x: x + 1, first["params"])
    with contextlib.closing(checkpoints.Checkpoints(source / "checkpoints")) as saved:
        saved.save(step + 1, first)
    fields = {"init_from": str(source), "schedule__name": "constant"}
    runs.train_small(tmp_path / "next", "modern", num_epochs=0.0, **fields)
    following, _ = runs.final_state(tmp_path / "next")
    runs.assert_same_bits(following["params"], first["ema"])
    for key, taken in (("", "ema"), ("params", "params")):
        found, report = weights.load(source, "lenet5_modern", fresh(), key=key)
        runs.assert_same_bits(found["params"], first[taken])
        assert f"they are the run's {taken!r}; config.init_key chooses" in str(report)
    with pytest.raises(weights.WeightsError, match="no config.init_key = 'emma'"):
        weights.load(source, "lenet5_modern", fresh(), key="emma")


def test_other_fields_of_the_source_are_a_warning(source, tmp_path):
    """The arrays of both have the same names and shapes."""
    path = tmp_path / "run"
    shutil.copytree(source, path)
    config = json.loads((path / "config.json").read_text())
    like = fresh()

    def reported(theirs, ours):
        config["model"]["fields"] = theirs
        (path / "config.json").write_text(json.dumps(config))
        return str(weights.load(path, "lenet5_modern", like, fields=ours)[1])

    tanh, relu = {"activation": "tanh"}, {"activation": "relu"}
    for theirs, ours in ((tanh, {}), ({}, tanh), (tanh, relu | {"pool": "max"})):
        report = reported(theirs, ours)
        assert "warning: they are the weights of lenet5_modern with" in report
        assert f"={theirs}, and this one has {ours}: with another activation" in report
    listed, tupled = {"pool": ["max"]}, {"pool": ("max",)}  # as JSON changes it
    for theirs, ours in ((tanh, tanh), ({}, {}), (relu, {}), (listed, tupled)):
        report = reported(theirs, ours)
        assert "warning:" not in report


def test_frozen_statistics_are_all_loaded(source, tmp_path):
    def start(variant, path, **changes):
        changes |= {"init_from": str(path), "model__frozen_statistics": True}
        return starting.load_start(build.setup(runs.small_config(variant, **changes)))

    with pytest.raises(ConfigError, match="lenet5_modern has no batch normalisation"):
        start("modern", source)
    runs.train_small(tmp_path / "run", num_epochs=0.1)
    given = start(None, tmp_path / "run")["batch_stats"]["backbone"]["bn1"]
    assert isinstance(given["mean"], np.ndarray)
    missing = "none for .*backbone/bn1/mean.*: config.init_layers = .'head',. must"
    with pytest.raises(ConfigError, match=missing):
        start(None, tmp_path / "run", init_layers=("head",))


def test_outputs_without_parameters_have_classes_too(tmp_path):
    """LeNet-5's are distances from bitmaps, which the layer before has learned."""
    path = tmp_path / "run"
    runs.train_small(path, "minibatch", num_steps=1)
    record = json.loads((path / "dataset.json").read_text())
    record["label_names"][:2] = ["zero", "one"]
    (path / "dataset.json").write_text(json.dumps(record))
    setup = build.setup(runs.small_config("minibatch", init_from=str(path)))
    with pytest.raises(weights.WeightsError, match="a head for other classes than"):
        starting.load_start(setup)


def test_another_preprocessing_of_the_source_is_a_warning(source, tmp_path, capsys):
    export.export_run(workdir.Workdir(source), "latest", "safetensors", tmp_path)
    file = tmp_path / "lenet5_modern.safetensors"

    def said(start, **changes):
        config = runs.small_config("modern", init_from=str(start), **changes)
        starting.load_start(build.setup(config))
        lines = capsys.readouterr().out.splitlines()
        return [line for line in lines if line.startswith(("warning:", "note: images"))]

    for start in (source, file):
        assert not said(start)
        changes = {"dataset__mean": (50.0,), "init_layers": ("C1",)}
        (line,) = said(start, dataset__fit="resize", **changes)
        assert line == (
            f"warning: {start} has another preprocessing, which its weights may need: "
            "fit 'pad' there and 'resize' here, mean [20.0] there and [50.0] here"
        )


def whitened(path):
    """Makes a run whose images are whitened; returns its config and preprocessing."""
    run = workdir.Workdir(path)
    config = runs.small_config("modern", dataset__whiten="channels")
    run.create(config)
    preprocessing = build.setup(config).eval_preprocessing
    run.write_json("preprocessing.json", preprocessing.as_dict())
    return config, preprocessing


def test_statistics_that_are_fitted_anew_are_said(tmp_path, capsys):
    config, _ = whitened(tmp_path / "run")
    config.init_from = str(tmp_path / "run")
    starting._compare_preprocessing(build.setup(config))
    assert "note: images are whitened (channels) by" in capsys.readouterr().out


def test_a_detector_has_the_mean_of_its_classifier_and_other_sizes(source, capsys):
    view, config = views.View(((64, 64),), 4), types.SimpleNamespace(init_from=source)
    for std in (200.0, 1.0):
        preprocessing = inputs.Preprocessing(view, (20.0,), (std,))
        setup = types.SimpleNamespace(config=config, eval_preprocessing=preprocessing)
        starting._compare_preprocessing(setup)
        said = capsys.readouterr().out
        assert said.endswith(": std [200.0] there and [1.0] here\n" if std == 1 else "")
        assert (said == "") == (std == 200)


def test_a_detector_has_not_the_whitening_of_its_classifier(tmp_path, capsys):
    run = tmp_path / "run"
    _, theirs = whitened(run)
    view, config = views.View(((64, 64),), 4), types.SimpleNamespace(init_from=run)
    ours = inputs.Preprocessing(view, tuple(theirs.mean), tuple(theirs.std))
    setup = types.SimpleNamespace(config=config, eval_preprocessing=ours)
    starting._compare_preprocessing(setup)
    said = capsys.readouterr().out
    assert said.endswith("need: whiten 'channels' there, which a detector has not\n")


def test_the_classes_are_compared_where_only_boxes_start_anew(
    tmp_path, monkeypatch, capsys
):
    detector_runs.shrink(monkeypatch)
    run = detector_runs.make(tmp_path / "run")
    config = run.config().unlock()
    config.init_from = str(run)
    config.model.fields.box_outputs = "agnostic"
    setup = detectors.setup(config)
    starting.load_start(setup)
    anew = "of another number of classes or boxes, left as initialised: params/head/reg"
    assert anew in capsys.readouterr().out
    record = run.read_json("dataset.json")
    record["label_names"] = ["ten", *record["label_names"][1:]]
    run.write_json("dataset.json", record)
    with pytest.raises(weights.WeightsError, match="a head for other classes .*ten"):
        starting.load_start(setup)


def test_a_first_loss_that_is_not_finite_is_blamed_on_the_weights(tmp_path):
    huge = jax.tree.map(lambda x: np.float32(1e30) * x, fresh())
    arrays = flax.traverse_util.flatten_dict(huge, sep="/")
    path = tmp_path / "huge.safetensors"
    formats.write_safetensors(path, arrays, {"format": formats.OURS})
    with pytest.raises(
        train.NonFiniteLoss, match="loss of step 0 .*init_from = .*mean"
    ):
        runs.train_small(tmp_path / "run", "modern", init_from=str(path))


def test_a_source_that_does_not_exist_leaves_no_run_behind(source, tmp_path):
    with pytest.raises(weights.WeightsError):
        runs.train_small(tmp_path / "run", "modern", init_from=str(tmp_path / "typo"))
    runs.train_small(tmp_path / "run", "modern", init_from=str(source), **FROZEN)


def test_a_resumed_run_does_not_start_again(source, tmp_path):
    changes = {"init_from": str(source), "schedule__name": "constant"}
    runs.train_small(tmp_path / "whole", "modern", num_epochs=0.4, **changes)
    for epochs in (0.2, 0.4):
        runs.train_small(tmp_path / "parts", "modern", num_epochs=epochs, **changes)
    whole, parts = (runs.final_state(tmp_path / n)[0] for n in ("whole", "parts"))
    runs.assert_same_bits(whole, parts)


def test_an_expression_without_a_parameter_is_refused(tmp_path):
    for field, value in (
        ("init_layers", ("C9",)),
        ("optimizer__rate_factors", (("C9", 1.0),)),
        ("optimizer__unfreeze", (("C9", 1.0),)),
        ("optimizer__filter_rms", (("C9", 1.0),)),
    ):
        name = field.replace("__", ".")
        with pytest.raises(ConfigError, match=f"config.{name}.*'C9'"):
            runs.train_small(tmp_path / "run", "modern", **{field: value})
