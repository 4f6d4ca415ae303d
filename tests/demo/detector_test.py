"""The boxes on the page are those of the detector's two stages."""

import detector_runs
import numpy as np
import pytest
import tiny_datasets
from PIL import Image

from demo import uploads
from demo.detector import Detector
from detection import digits


@pytest.fixture(scope="module")
def shown(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        detector_runs.shrink(patch)
        run = detector_runs.make(tmp_path_factory.mktemp("run") / "digits")
        yield Detector(run, "latest")


def test_boxes_of_both_stages(shown):
    pixels, objects = digits.canvas("test", 0)
    image = shown.image(tiny_datasets.png(pixels))
    np.testing.assert_array_equal(image, pixels)
    found = shown.answer(image)
    (seen, *_) = shown.network.images("test")
    rois, scores, detections = shown.network.look(seen)
    assert (found["width"], found["height"]) == (64, 64)
    for name, boxes, confidence in (
        ("proposals", rois, scores),
        ("detections", detections.boxes, detections.scores),
    ):
        own = [row["score"] for row in found[name]]
        assert own == sorted(own, reverse=True) and len(own) == len(boxes) > 0
        np.testing.assert_allclose(own, np.sort(confidence)[::-1], atol=1e-4)
        every = np.array([row["box"] for row in found[name]])
        assert every.min() >= 0 and every.max() <= 64
        best = boxes[np.argmax(confidence)]
        np.testing.assert_allclose(every[0], best, atol=0.06)  # rounded to a tenth
    assert {row["name"] for row in found["detections"]} <= set(digits.NAMES)
    # Three shapes of two sizes; the first position's centre is (8, 8).
    anchors = np.array(found["anchors"])
    assert anchors.shape == (6, 4)
    np.testing.assert_array_equal((anchors[:, :2] + anchors[:, 2:]) / 2, 8)


def test_the_number_of_all_boxes_is_sent_with_the_best(shown, monkeypatch):
    image = digits.canvas("test", 0)[0]
    every = shown.answer(image)
    assert every["number"]["proposals"] == len(every["proposals"]) > 3
    monkeypatch.setattr("demo.detector.MOST_BOXES", 3)
    few = shown.answer(image)
    assert few["number"] == every["number"]
    assert few["proposals"] == every["proposals"][:3]


def test_samples_say_their_objects(shown):
    _, objects = digits.canvas("test", 1)
    names = ", ".join(digits.NAMES[k] for k in objects.labels)
    text = shown.sample(1)["text"]
    assert text == f"test image 1 of {digits.SIZES['test']}: truly {names}"


def test_samples_of_some_classes_are_shown_if_the_run_tests_on_them(shown):
    run = shown.network.run
    again, record = Detector(run, "latest"), run.read_json("dataset.json")
    names = {"label_names": [*record["label_names"], "ten"]}
    again.network.config.eval.classes = "subset"
    run.write_json("dataset.json", record | names)
    text = again.sample(1)["text"]
    run.write_json("dataset.json", record)
    assert text == shown.sample(1)["text"]


def test_filters_and_description(shown):
    assert shown.filters()["text"].startswith("conv1: ")
    about = shown.describe()
    assert about["kind"] == "detector" and about["threshold"] == 0.5


def test_an_upload_may_have_any_shape(shown):
    wide = np.asarray(Image.new("L", (90, 60), 200)).reshape(60, 90, 1)
    found = shown.answer(shown.image(tiny_datasets.png(wide)))
    assert (found["width"], found["height"]) == (64, 43)
    with pytest.raises(uploads.Refused, match="no readable"):
        shown.image(b"no image")
