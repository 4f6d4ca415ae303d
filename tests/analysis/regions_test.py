"""The pictures of a detector show what its two stages really see."""

import copy
import dataclasses
import types

import detector_runs
import flax.linen as nn
import numpy as np
import pytest
import runs
from PIL import Image

import input_pipeline
from analysis import detect, gallery, inspection, regions
from data_source import DataError
from detection import digits, pictures, results
from experiment import detectors, workdir
from models import boxes

PICTURES = ["filters", "anchors", "proposals", "samples"]


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        detector_runs.shrink(patch)
        yield detector_runs.make(tmp_path_factory.mktemp("run") / "run")


@pytest.fixture(scope="module")
def network(run):
    return regions.Network(run, "latest")


@pytest.fixture
def drawn(monkeypatch):
    """The panels of a picture: (title, image, layers)."""
    found = []
    monkeypatch.setattr(
        pictures, "draw_layers", lambda path, panels, caption: found.extend(panels)
    )
    return found


def test_every_picture_of_a_run(run, monkeypatch):
    monkeypatch.setattr(regions, "SHOWN", 1)
    assert set(PICTURES) <= set(gallery.PICTURES)
    said = str(inspection.inspect_run(run, "latest"))
    assert said.startswith(f"after step 4 of {run}:")
    (events,) = (run.path / "inspect").glob("events*")
    for name in PICTURES:
        path = run.path / "inspect" / f"{name}.png"
        assert str(path) in said
        assert f"inspect/{name}".encode() in events.read_bytes()
        with Image.open(path) as image:
            image.load()
            assert min(image.size) > 60


def test_an_image_that_cannot_be_read_is_not_shown(network, monkeypatch, caplog):
    read, expected = input_pipeline.read_views, network.images("test")

    def damaged(split, index, show, how):
        if index == [0]:
            raise DataError("image 0 is damaged")
        return read(split, index, show, how)

    monkeypatch.setattr(input_pipeline, "read_views", damaged)
    found = network.images("test")
    assert [seen.title for seen in found] == [seen.title for seen in expected[1:]]
    assert "image 0 is damaged; it is not shown" in caplog.text


def test_a_test_split_of_some_classes_is_shown_if_the_run_tests_on_it(run, network):
    record = run.read_json("dataset.json")
    names = {"label_names": [*record["label_names"], "ten"]}
    run.write_json("dataset.json", record | names)
    some = copy.copy(network)
    some.config = network.config.copy_and_resolve_references()
    with pytest.raises(DataError, match="--mode=evaluate --change=eval.classes=subset"):
        some.images("test")
    some.config.eval.classes = "subset"
    assert len(some.images("test")) == regions.SHOWN
    run.write_json("dataset.json", record)


def test_anchors_of_each_size_are_in_the_middle(network, drawn):
    (seen, *_) = network.images("test")
    assert seen.image.shape == (64, 64, 1)
    regions.anchors(None, network, seen)
    assert [title for title, *_ in drawn] == ["size 12", "size 24"]
    every = network.model.anchor_boxes((4, 4))
    for size, (_, image, (layer,)) in zip((12, 24), drawn, strict=True):
        assert image is not None and layer.boxes.shape == (3, 4)
        centres = (layer.boxes[:, :2] + layer.boxes[:, 2:]) / 2
        assert (centres == 2 * 16 + 8).all()  # of the third of four positions
        areas = np.prod(layer.boxes[:, 2:] - layer.boxes[:, :2], 1)
        np.testing.assert_allclose(areas, size**2, 0.1)  # Caffe rounds
        assert (layer.boxes[:, None] == every).all(2).any(1).all()


def test_proposals_and_what_is_detected(run, network, drawn):
    regions.proposals(None, network, network.images("test")[:2])
    find = detect.Detector(detectors.open_run(run))
    for number, (above, beside) in enumerate(zip(drawn[::2], drawn[1::2], strict=True)):
        pixels, objects = digits.canvas("test", number)
        title, _, (truth, proposed) = above
        np.testing.assert_allclose(truth.boxes, objects.boxes / 2)  # of 128 pixels
        assert truth.texts == tuple(str(label) for label in objects.labels)
        scores = [float(text) for text in proposed.texts]
        assert scores == sorted(scores, reverse=True) and 0 <= scores[-1] <= 1
        assert len(proposed.boxes) == regions.BEST
        assert (proposed.boxes >= 0).all() and (proposed.boxes <= 64).all()
        count = int(title.split(": ")[1].split()[0])
        assert regions.BEST < count <= 20
        title, _, (_, detected) = beside
        expected = results.shown(find(pixels))
        assert title == f"{len(expected.labels)} detections"
        np.testing.assert_allclose(detected.boxes, expected.boxes / 2, 1e-4, 1e-3)
        rows = zip(expected.labels, expected.scores, strict=True)
        assert detected.texts == tuple(f"{label} {score:.2f}" for label, score in rows)
    assert sum(len(layers[1].boxes) for _, _, layers in drawn[1::2]) > 0


def test_regions_are_seen_at_all_scales_of_the_test(run, network):
    opened, some = detectors.open_run(run), copy.copy(network)
    view = dataclasses.replace(opened.preprocessing.view, test_scales=(32, 64, 96))
    preprocessing = dataclasses.replace(opened.preprocessing, view=view)
    some._preprocessing = preprocessing
    some.__dict__.pop("_look", None)
    pixels, _ = digits.canvas("test", 0)
    _, _, found = some.look(some.show("", pixels))
    expected = detect.Detector(opened._replace(preprocessing=preprocessing))(pixels)
    np.testing.assert_allclose(found.scores, expected.scores, rtol=1e-4)
    np.testing.assert_array_equal(found.labels, expected.labels)
    _, _, alone = network.look(network.show("", pixels))
    assert not np.array_equal(alone.scores, found.scores)


def test_a_refining_detector_is_shown_as_it_tests(network):
    """Both looks at the regions are traced, as in a test."""
    refining, looks = copy.copy(network), []
    refining.model = network.model.clone(refine=True)
    (seen, *_) = refining.images("test")

    def count(next_call, args, kwargs, context):
        looks.append(context.method_name)
        return next_call(*args, **kwargs)

    batch = {name: seen.batch[name] for name in ("image", "image_size")}
    for own, number in ((network, 1), (refining, 2)):
        looks.clear()
        with nn.intercept_methods(count):
            vars(type(own))["_look"].func(own).eval_shape(own.variables, batch)
        assert looks.count("second_stage") == number


@pytest.mark.parametrize("stage", ["joint", "rpn", "fast_rcnn"])
def test_only_what_the_run_samples_is_drawn(network, monkeypatch, stage):
    some, drawn = copy.copy(network), []
    some.config = network.config.copy_and_resolve_references()
    some.config.detection.stage = stage
    one, none = np.ones(1, bool), np.zeros((1, 4), np.float32)
    on_anchors = types.SimpleNamespace(index=np.array([7]), positive=one, sampled=one)
    on_rois = types.SimpleNamespace(rois=none, classes=np.array([3]), sampled=one)
    some.samples = lambda seen: (on_anchors, on_rois)
    monkeypatch.setattr(pictures, "draw_layers", lambda *drawing: drawn.extend(drawing))
    seen = network.images("train")[:1]
    if stage == "fast_rcnn":  # its regions are sampled from stored proposals
        with pytest.raises(gallery.NotShown, match="stage=fast_rcnn .* stored"):
            regions.samples(None, some, seen)
        return
    regions.samples(None, some, seen)
    _, panels, caption = drawn
    titles = ["1 positive anchors, 0 negative"]
    titles += ["1 regions of objects, 0 of background"] * (stage == "joint")
    assert [title for title, *_ in panels] == titles
    assert ("regions of objects" in caption) == (stage == "joint")
    assert "objects except crowds and difficult ones" in caption


@pytest.mark.slow
def test_samples_are_of_the_objects_of_training_images(network, drawn):
    seen = network.images("train")
    regions.samples(None, network, seen)
    assert len(drawn) == 2 * regions.SHOWN
    foreground = 0
    for first, second in zip(drawn[::2], drawn[1::2], strict=True):
        title, _, (negative, truth, positive) = first
        assert title == (
            f"{len(positive.boxes)} positive anchors, {len(negative.boxes)} negative"
        )
        assert len(negative.boxes) > 20
        assert (boxes.iou(positive.boxes, truth.boxes).max(1) > 0.1).all()
        assert (boxes.iou(negative.boxes, truth.boxes) < 0.3).all()
        title, _, (background, truth, regional) = second
        found, others = len(regional.boxes), len(background.boxes)
        assert title == f"{found} regions of objects, {others} of background"
        overlaps = boxes.iou(regional.boxes, truth.boxes)
        assert (overlaps.max(1) >= 0.5).all()
        names = [truth.texts[k] for k in overlaps.argmax(1)]
        assert [*regional.texts] == names
        assert (boxes.iou(background.boxes, truth.boxes) < 0.5).all()
        foreground += found
    assert foreground >= regions.SHOWN  # the objects themselves are among the regions


def test_image_files_of_any_shape(network, tmp_path, drawn):
    pixels = np.random.default_rng(0).integers(0, 256, (60, 90), np.uint8)
    Image.fromarray(pixels).save(tmp_path / "wide.png")
    seen = network.file(tmp_path / "wide.png")
    assert seen.image.shape == (43, 64, 1)
    regions.proposals(None, network, [seen])
    (title, image, (truth, _)), _ = drawn
    assert title.startswith("wide.png: ") and image.shape == (43, 64, 1)
    assert not len(truth.boxes)


def test_errors_are_one_line_each(run, tmp_path, monkeypatch):
    text = tmp_path / "text.png"
    text.write_text("no image")
    with pytest.raises(DataError, match=r"text\.png is no readable image"):
        inspection.inspect_run(run, "latest", [str(text)])

    def missing(config, name):
        raise DataError("no data today")

    monkeypatch.setattr(detectors, "open_split", missing)
    result = runs.call_main(["--mode=inspect", f"--workdir={run}"])
    assert result.returncode == 1 and "filters.png" in result.stdout
    assert result.stderr == (
        "error: no test images: no data today; no training images: no data today\n"
    )
    with pytest.raises(workdir.WorkdirError, match="holds no run"):
        inspection.inspect_run(workdir.Workdir(tmp_path / "none"), "latest")


def test_another_directory_may_have_the_pictures(run, tmp_path, monkeypatch):
    monkeypatch.setattr(regions, "SHOWN", 1)
    closed = tmp_path / "closed"
    closed.mkdir()
    with (
        runs.read_only(closed) as reason,
        pytest.raises(workdir.WorkdirError, match=f"{reason}; --output names another"),
    ):
        inspection.inspect_run(run, "latest", output=closed)
    inspection.inspect_run(run, "latest", output=tmp_path / "new")
    assert (tmp_path / "new/filters.png").is_file()
