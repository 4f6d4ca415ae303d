"""Exported detectors are read back, by torchvision's parts if they are installed."""

import json

import detector_runs
import jax
import jax.export
import numpy as np
import pytest
import runs

import weights
from experiment import detectors as opening
from models.faster_rcnn import FasterRCNN
from weights import detectors, export, exported, twins

BUCKETS = (48, 64), (64, 48)
TWIN = {"features": 64, "rpn_channels": 256, "anchor_style": "centred"}
TWIN |= {"objectness": "sigmoid", "pooling": "align"}


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        detector_runs.shrink(patch)
        yield detector_runs.make(tmp_path_factory.mktemp("run") / "run", 1, BUCKETS)


def test_safetensors_start_another_detector(run, tmp_path):
    line = str(export.export_run(run, "latest", "safetensors", tmp_path))
    path = tmp_path / "faster_rcnn.safetensors"
    assert line.startswith(f"{path}: scores and codes differ by 0.0e+00 of the largest")
    assert (tmp_path / "labels.txt").read_text().split() == [*"0123456789"]
    preprocessing = json.loads((tmp_path / "preprocessing.json").read_text())
    assert preprocessing["input_shape"] == [64, 64, 1]  # holds both buckets
    assert preprocessing["buckets"] == [[48, 64], [64, 48]]
    opened = opening.open_run(run)
    nothing = jax.tree.map(np.zeros_like, opened.variables)
    fields = opened.config.model.fields.to_dict()
    found, report = weights.load(path, "faster_rcnn", nothing, fields=fields)
    assert not report.missing + report.left_over + report.warnings
    jax.tree.map(np.testing.assert_array_equal, found, opened.variables)


@pytest.mark.slow
def test_the_program_takes_any_number_of_images_and_has_nms_inside(run, tmp_path):
    line = str(export.export_run(run, "latest", "stablehlo", tmp_path))
    agree, of, number, *_ = line.split(": ")[1].split()
    assert int(agree) == int(number) > 5 and "(by jax.export)" in line
    data = bytearray((tmp_path / "faster_rcnn.stablehlo").read_bytes())
    program = jax.export.deserialize(data)
    assert set(program.platforms) == {"cpu", "cuda", "rocm", "tpu"}
    assert "onednn" not in program.mlir_module()
    images, sizes = detectors._scenes((64, 64, 1))
    order = [1, 0, 1]
    three = program.call(images[order], sizes[order])
    opened = opening.open_run(run)
    apply = jax.jit(lambda *inputs: opened.model.apply(*inputs, train=False))
    for place, row in enumerate(order):
        alone = apply(opened.variables, images[row][None], sizes[row][None])._asdict()
        own = {name: x[place][None] for name, x in three.items()}
        agree, of, _ = detectors.agreement(own, alone, 64)
        assert agree == of > 0


def detections(*rows, most=4):
    """A dict of one image's detections: (label, score, box)."""
    filled = [*rows, *[(0, 0.0, (0, 0, 0, 0))] * (most - len(rows))]
    columns = (np.array([column]) for column in zip(*filled, strict=True))
    found = dict(zip(("labels", "scores", "boxes"), columns, strict=True))
    return found | {"there": np.arange(most)[None] < len(rows)}


def test_detections_agree_whatever_their_order():
    a, b = (1, 0.9, (10, 10, 30, 40)), (2, 0.8, (50, 10, 90, 40))
    near = 2, 0.8, (50.05, 10, 90, 40)
    compare = detectors.agreement
    *counts, difference = compare(detections(near, a), detections(a, b), 100)
    assert counts == [2, 2] and difference == pytest.approx(0.0005)
    for other in (
        (1, *b[1:]),  # another class
        (2, 0.81, b[2]),
        (2, 0.8, (50, 10, 90, 40.2)),
    ):
        assert compare(detections(a, other), detections(a, b), 100) == (1, 2, 0.0)
    assert compare(detections(a), detections(a, b), 100) == (1, 2, 0.0)
    assert compare(detections(a, b), detections(), 100) == (0, 2, 0.0)
    assert compare(detections(), detections(), 100) == (0, 0, 0.0)


@pytest.mark.slow
def test_a_program_that_finds_other_objects_is_not_written(run, tmp_path, monkeypatch):
    def write(path, function, images, sizes):
        path.write_bytes(b"a program")
        return lambda images, sizes: function(-images, sizes)

    monkeypatch.setattr(exported, "stablehlo", write)
    with pytest.raises(weights.WeightsError, match=r"only \d+ of \d+ detections agree"):
        export.export_run(run, "latest", "stablehlo", tmp_path)
    assert not list(tmp_path.iterdir())


def test_weights_that_read_back_differently_are_not_written(run, tmp_path, monkeypatch):
    write = exported.formats.write_safetensors

    def damage(path, arrays, metadata):
        write(path, {n: v * np.float32(1.01) for n, v in arrays.items()}, metadata)

    monkeypatch.setattr(exported.formats, "write_safetensors", damage)
    with pytest.raises(
        weights.WeightsError, match="faster_rcnn.safetensors is not written"
    ):
        export.export_run(run, "latest", "safetensors", tmp_path)
    assert not list(tmp_path.iterdir())


def test_forms_that_a_detector_does_not_have(run, tmp_path):
    arguments = ["--mode=export", f"--workdir={run}", f"--output={tmp_path}"]
    result = runs.call_main([*arguments, "--format=onnx"])
    assert result.returncode == 1 and not list(tmp_path.iterdir())
    (line,) = result.stderr.splitlines()
    assert line.startswith("error: a detector has no --format=onnx: jax2onnx")


@pytest.mark.parity
def test_torchs_file_gives_the_scores_of_torchvision_s_parts(tmp_path, monkeypatch):
    from parity import port

    port.torchvision()
    detector_runs.shrink(monkeypatch)
    made = detector_runs.make(tmp_path / "run", 3, **TWIN)
    create, nets = twins.faster_rcnn, []

    def keep(*arguments):
        nets.append(create(*arguments))
        return nets[-1]

    monkeypatch.setattr(twins, "faster_rcnn", keep)
    line = str(export.export_run(made, "latest", "torchvision"))
    (net,) = nets
    side = detector_runs.SIDE
    assert (net.transform.min_size, net.transform.max_size) == ((side,), side)
    assert line.startswith(f"{made}/export/faster_rcnn.pth: scores and codes differ by")
    assert "(by torchvision's parts); its labels count from 1: label i is" in line
    opened = opening.open_run(made)
    path = made.path / "export" / "faster_rcnn.pth"
    found, report = weights.load(path, "faster_rcnn", opened.variables, fields=TWIN)
    assert len(report.loaded) == len(jax.tree.leaves(opened.variables))
    jax.tree.map(np.testing.assert_array_equal, found, opened.variables)
    grey = detector_runs.make(tmp_path / "grey", 1, **TWIN)
    with pytest.raises(weights.WeightsError, match="size mismatch for backbone.conv1"):
        export.export_run(grey, "latest", "torchvision")
    assert not list((grey.path / "export").iterdir())


@pytest.mark.parity
def test_a_detector_that_torchvision_s_parts_cannot_make(run, tmp_path):
    from parity import port

    port.torchvision()
    with pytest.raises(weights.WeightsError, match="need features 64, not 8"):
        export.export_run(run, "latest", "torchvision", tmp_path)
    assert not list(tmp_path.iterdir())
    for field, value in (("refine", True), ("voting", 0.8)):
        model = FasterRCNN(10, depth=18, **TWIN | {field: value})
        with pytest.raises(weights.WeightsError, match=f"need {field} .*, not {value}"):
            twins.faster_rcnn(model)
