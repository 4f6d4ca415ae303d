"""Exported files are read back, by other libraries if they are installed."""

import functools
import json
import shutil
import warnings

import jax
import jax.export
import numpy as np
import pytest
import runs

import models
import weights
from experiment import checkpoints, workdir
from kernels import ops
from weights import export, exported


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run directory as training leaves it, with random weights."""
    run = workdir.Workdir(tmp_path_factory.mktemp("run") / "lenet5")
    run.create(runs.small_config("modern", dataset__image_size=28))
    dataset = {"image_shape": [28, 28, 1], "label_names": list("0123456789")}
    run.write_json("dataset.json", dataset)
    run.write_json("preprocessing.json", {"mean": [0.0], "std": [255.0]})
    _, _, variables = network("lenet5_modern", 28, 1)
    state = {"params": variables["params"], "batch_stats": {}, "ema": None}
    saved = checkpoints.Checkpoints(run.checkpoints)
    saved.save(30, state)
    saved.close()
    return run


@functools.cache
def network(name, size, channels=3):
    """A network, two images, and variables that make every array matter."""
    model = models.create(name, num_classes=10)
    rng = np.random.default_rng(0)
    images = rng.normal(size=(2, size, size, channels)).astype(np.float32)
    init = functools.partial(model.init, train=False)
    variables = jax.jit(init)(jax.random.key(0), images)

    def shake(x):  # vectors, which start as all 0 or 1
        return np.float32(x + rng.uniform(0, 0.1, x.shape) if x.ndim == 1 else x)

    return model, images, jax.tree.map(shake, variables)


def logits(model, variables, images):
    return model.apply(variables, images, train=False)


def test_a_run_as_safetensors_starts_another(run, tmp_path):
    line = str(export.export_run(run, "latest", "safetensors", tmp_path))
    assert f"{tmp_path}/lenet5_modern.safetensors: logits differ by 0" in line
    assert (tmp_path / "labels.txt").read_text().split("\n") == [*"0123456789", ""]
    assert len({path.stat().st_mode for path in tmp_path.iterdir()}) == 1
    preprocessing = json.loads((tmp_path / "preprocessing.json").read_text())
    assert preprocessing["input_shape"] == [28, 28, 1]
    assert (preprocessing["mean"], preprocessing["std"]) == ([0.0], [255.0])
    model, _, like = network("lenet5_modern", 28, 1)
    by_file, report = weights.load(
        tmp_path / "lenet5_modern.safetensors", "lenet5_modern", like
    )
    by_run, _ = weights.load(run.path, "lenet5_modern", like)
    assert not report.missing + report.left_over
    jax.tree.map(np.testing.assert_array_equal, by_file, by_run)
    _, report = weights.load(
        tmp_path / "lenet5_modern.safetensors",
        "lenet5_modern",
        like,
        fields={"activation": "tanh"},
    )
    assert "warning: they are the weights of lenet5_modern with model.fields={}" in str(
        report
    )


FIELDS = {"fields": "{}"}


def test_lenet5_of_1998_as_safetensors(tmp_path):
    model, images, variables = network("lenet5", 32, 1)  # it has ten classes, always
    export.export(model, "lenet5", variables, images, "safetensors", tmp_path, FIELDS)
    path = tmp_path / "lenet5.safetensors"
    found, report = weights.load(path, "lenet5", variables)
    jax.tree.map(np.testing.assert_array_equal, found, variables)
    assert not report.warnings


def test_a_file_that_cannot_be_read_back_is_not_written(tmp_path):
    model, images, variables = network("lenet5_modern", 28, 1)
    variables = jax.tree.map(np.copy, variables)
    variables["params"]["output"]["bias"] = np.full(10, np.nan, np.float32)
    with pytest.raises(weights.WeightsError, match="output/bias"):
        export.export(
            model, "lenet5_modern", variables, images, "safetensors", tmp_path
        )
    assert not list(tmp_path.iterdir())


def content(folder):
    files = (path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder): path.read_bytes() for path in files}


def test_a_run_directory_is_no_place_for_an_export(run, tmp_path):
    before = content(run.path)
    with pytest.raises(weights.WeightsError, match=f"--output={run} is a run direc"):
        export.export_run(run, "latest", "safetensors", run.path)
    assert content(run.path) == before
    other = shutil.copytree(runs.OLD_RUN, tmp_path / "other")
    with pytest.raises(weights.WeightsError, match=f"--output={other} is a run direct"):
        export.export_run(run, "latest", "safetensors", other)
    assert content(other) == content(runs.OLD_RUN)  # its mean image, say


@pytest.mark.parametrize("file", ["labels.txt", "preprocessing.json"])
def test_what_lies_beside_another_export_is_not_replaced(run, tmp_path, file):
    for time in range(2):  # an export may be repeated
        found = export.export_run(run, "latest", "safetensors", tmp_path)
        assert ("replaces the file of before" in found.compared) == (time == 1)
    path = found.path
    (tmp_path / file).write_text("of another run")
    before = content(tmp_path)
    with pytest.raises(weights.WeightsError, match=f"/{file} .*another --output"):
        export.export_run(run, "latest", "safetensors", tmp_path)
    assert content(tmp_path) == before
    assert weights.class_names(path) == tuple("0123456789")  # they are in the file


def test_stablehlo_takes_any_batch_and_calls_nothing_of_this_process(tmp_path, shallow):
    model, images, variables = network.__wrapped__("resnet20", 32)
    path, _ = export.export(model, "resnet20", variables, images, "stablehlo", tmp_path)
    exported = jax.export.deserialize(bytearray(path.read_bytes()))
    assert "onednn" not in exported.mlir_module()
    assert set(exported.platforms) == {"cpu", "cuda", "rocm", "tpu"}
    many = np.concatenate([images] * 3)
    expected = logits(model, variables, many)
    # In float32; a network of eight layers adds in another order.
    np.testing.assert_allclose(exported.call(many), expected, rtol=1e-4, atol=1e-4)


@pytest.mark.slow
def test_pools_are_the_same_in_exported_programs():
    """It covers ceil mode, padding that counts or does not, and disjoint windows."""
    for name, size in (("googlenet", 80), ("inception_v3", 107), ("lenet5_modern", 28)):
        model, images, variables = network(name, size, 1 if "lenet" in name else 3)
        with ops.portable():
            found = jax.jit(functools.partial(logits, model))(variables, images)
        expected = jax.jit(functools.partial(logits, model))(variables, images)
        scale = np.abs(expected).max()
        assert np.abs(found - expected).max() < 1e-4 * scale  # rounding in float32


def test_torchvisions_names(tmp_path):
    model, images, variables = network("resnet20", 32)
    path, _ = export.export(
        model, "resnet20", variables, images, "torchvision", tmp_path
    )
    found, report = weights.load(path, "resnet20", variables)
    assert len(report.loaded) == len(jax.tree.leaves(variables))
    jax.tree.map(np.testing.assert_array_equal, found, variables)
    with pytest.raises(weights.WeightsError, match="neither torchvision nor timm has"):
        weights.to_foreign("lenet5_modern", network("lenet5_modern", 28, 1)[2])


@pytest.mark.parity
def test_torchs_file_gives_the_logits_of_torchvisions_network(tmp_path):
    from parity import port

    port.torchvision()
    model, images, variables = network("resnet18", 64)
    path, line = export.export(
        model, "resnet18", variables, images, "torchvision", tmp_path
    )
    assert path.suffix == ".pth"
    assert line.endswith("(by torchvision's network)")
    # Strides on the 1x1 are not torchvision's.
    model, images, variables = network("resnet50", 64)
    with pytest.raises(weights.WeightsError, match="their strides are on the 3x3"):
        export.export(model, "resnet50", variables, images, "torchvision", tmp_path)
    assert not (tmp_path / "resnet50.pth").exists()


@pytest.mark.slow
def test_onnx_takes_any_batch(tmp_path):
    onnxruntime = pytest.importorskip("onnxruntime", reason="requirements-exchange.txt")
    pytest.importorskip("jax2onnx", reason="requirements-exchange.txt")
    model, images, variables = network("resnet20", 32)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of jax2onnx's imports
        path, _ = export.export(model, "resnet20", variables, images, "onnx", tmp_path)
    session = onnxruntime.InferenceSession(path)
    many = np.concatenate([images] * 3)
    (found,) = session.run(None, {"images": many})
    expected = logits(model, variables, many)
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4)


def test_an_export_that_reads_back_differently_keeps_that_of_before(
    tmp_path, monkeypatch
):
    model, images, variables = network("lenet5_modern", 28, 1)
    arguments = model, "lenet5_modern", variables, images, "safetensors", tmp_path
    path, _ = export.export(*arguments)
    before = path.read_bytes()
    write = export.formats.write_safetensors

    def damage(path, arrays, metadata):
        write(path, {n: v * np.float32(1.01) for n, v in arrays.items()}, metadata)

    monkeypatch.setattr(export.formats, "write_safetensors", damage)
    message = "logits .* differ .*/lenet5_modern.safetensors is not written"
    with pytest.raises(weights.WeightsError, match=message):
        export.export(*arguments)
    assert list(tmp_path.iterdir()) == [path] and path.read_bytes() == before
    monkeypatch.setattr(jax.export, "deserialize", lambda data: 1 / 0)  # or a kill
    (tmp_path / "lenet5_modern.stablehlo").write_text("a verified one")
    with pytest.raises(ZeroDivisionError):
        export.export(*arguments[:4], "stablehlo", tmp_path)
    assert (tmp_path / "lenet5_modern.stablehlo").read_text() == "a verified one"


def test_a_refused_twin_says_why_without_flags(tmp_path):
    """The weights were trained: no field of a config changes what they are."""
    part = tmp_path / "resnet50.pth.part"
    with pytest.raises(weights.WeightsError) as error:
        exported.refuse(part, "resnet50", "torchvision", "the logits differ")
    said = (
        "3x3 convolutions: a network trained so has this form; others are safetensors"
    )
    assert said in str(error.value)
    assert "config." not in str(error.value) and "images" not in str(error.value)


def test_nan_in_any_output_is_a_difference():
    """Python's max(0.1, nan) is 0.1."""
    expected = np.ones(2), np.ones(2)
    assert exported.difference((np.array([1, 1.1]), np.ones(2)), expected) < 0.11
    nan = np.array([1, np.nan])
    for found in ((np.ones(2), nan), (nan, np.ones(2))):
        assert np.isnan(exported.difference(found, expected))


def test_a_missing_package_is_named_with_the_command(monkeypatch):
    monkeypatch.setitem(export.importlib.sys.modules, "jax2onnx", None)
    with pytest.raises(weights.WeightsError, match="needs jax2onnx .*: pip install"):
        export._import("jax2onnx")


def test_the_command_line(run, tmp_path):
    arguments = ["--mode=export", f"--workdir={run}", f"--output={tmp_path}"]
    result = runs.call_main([*arguments, "--format=stablehlo"])
    assert result.returncode == 0, result.stderr
    assert result.stdout.startswith(f"{tmp_path}/lenet5_modern.stablehlo: logits")
    result = runs.call_main([*arguments, "--format=torchvision"])
    assert result.returncode == 1
    assert result.stderr.splitlines()[-1].startswith(
        "error: neither torchvision nor timm has lenet5_modern"
    )
