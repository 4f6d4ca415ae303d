"""JSON files of COCO's form, with the traps that they hold."""

import json

import numpy as np
import pytest
from PIL import Image

from data_source import DataError
from detection import coco_json, records

IMAGES = [
    {"id": 7, "file_name": "b.jpg", "width": 40, "height": 30},
    {"id": 3, "file_name": "a.jpg", "width": 40, "height": 30},
]
# Neither the order of the categories nor their ids are those of the labels.
CATEGORIES = [
    {"id": 90, "name": "cat"},
    {"id": 2, "name": "dog"},
    {"id": 13, "name": "ant"},
]


def annotation(bbox=(2.5, 3, 10, 5), category=90, image=7, **more):
    return {"image_id": image, "category_id": category, "bbox": list(bbox)} | more


def read(folder, annotations, images=IMAGES, categories=CATEGORIES, **options):
    content = {"images": images, "annotations": annotations, "categories": categories}
    (folder / "x.json").write_text(json.dumps(content))
    return coco_json.read(folder, folder / "x.json", **options)


def test_objects_of_two_images(tmp_path):
    annotations = [
        annotation(id=501, area=31.25, iscrowd=0),
        annotation((0, 0, 40, 30), category=2, id=77, area=900.5, iscrowd=1),
    ]
    (first, second), classes, categories = read(tmp_path, annotations)
    assert classes == ("dog", "ant", "cat")
    assert categories == (2, 13, 90)
    np.testing.assert_array_equal(first.boxes, [[2.5, 3, 12.5, 8], [0, 0, 40, 30]])
    assert first.labels.tolist() == [2, 0] and first.crowd.tolist() == [False, True]
    assert first.area.tolist() == [31.25, 900.5]
    assert (first.image, first.size, first.name) == (
        7,
        (30, 40),
        str(tmp_path / "b.jpg"),
    )
    assert not first.difficult.any()
    assert (second.image, len(second)) == (3, 0)  # an image without annotations


def test_fields_that_may_be_missing(tmp_path):
    Image.new("RGB", (40, 30)).save(tmp_path / "b.jpg")
    images = [{"id": 7, "file_name": "b.jpg"}]
    (image,), _, _ = read(tmp_path, [annotation()], images)
    assert image.size == (30, 40) and image.area.tolist() == [50]
    assert not image.crowd.any()


@pytest.mark.parametrize(
    ("written", "crowd"),
    [(0, 0), (1, 1), (1.0, 1), (True, 1), ("0", 0), ("1", 1), ("False", 0)],
)
def test_a_crowd_is_what_the_file_means(tmp_path, written, crowd):
    (image, _), _, _ = read(tmp_path, [annotation(iscrowd=written)])
    assert image.crowd.tolist() == [bool(crowd)]


def test_ids_may_be_texts(tmp_path):
    images = [{"id": "b", "file_name": "b.jpg", "width": 40, "height": 30}]
    categories = [{"id": "k2", "name": "cat"}, {"id": "k1", "name": "dog"}]
    annotations = [annotation(image="b", category="k2", id="a1b2")]
    (image,), classes, ids = read(tmp_path, annotations, images, categories)
    assert (image.image, classes, ids) == ("b", ("dog", "cat"), ("k1", "k2"))
    assert image.labels.tolist() == [1]


def test_bad_boxes_are_dropped_and_cut(tmp_path):
    boxes = [(2, 3, 0, 5), (2, 3, 5, 0), (2, 3, -4, 5), (35, 25, 9, 9), (50, 3, 9, 9)]
    damage = records.Damage()
    annotations = [annotation(box, id=i) for i, box in enumerate(boxes, 11)]
    (image, _), _, _ = read(tmp_path, annotations, damage=damage)
    np.testing.assert_array_equal(image.boxes, [[35, 25, 40, 30]])
    dropped, cut = damage.remarks()
    assert ": 4, " in dropped and "x.json, annotation 11 (2, 3" in dropped
    assert ": 1, " in cut and "x.json, annotation 14" in cut
    with pytest.raises(
        DataError, match="x.json, annotation 11: the box .* has no size"
    ):
        read(tmp_path, annotations, damage=records.Damage("fail"))


@pytest.mark.parametrize(
    ("changes", "error"),
    [
        ({"image_id": 8}, "x.json, annotation 1: no item has the image_id 8"),
        ({"category_id": 1}, "x.json, annotation 1: no item has the category_id 1"),
        ({"bbox": [1, 2, 3]}, r"annotation 1: bbox is \[1, 2, 3\], not x, y, width"),
        ({"bbox": [1, 2, 3, "w"]}, "annotation 1: bbox is 'w', not a number"),
        ({"bbox": None}, "annotation 1: bbox is None"),
        ({"area": "big", "id": 6}, "annotation 6: area is 'big', not a number"),
        ({"area": "big", "id": "a1"}, "annotation a1: area is 'big', not a number"),
        ({"iscrowd": "no"}, "annotation 1: iscrowd is 'no', neither 0 nor 1"),
        ({"image_id": [7]}, r"annotations\[0\]: image_id is \[7\], neither a number n"),
    ],
)
def test_errors_name_the_file_and_the_annotation(tmp_path, changes, error):
    with pytest.raises(DataError, match=error):
        read(tmp_path, [annotation() | changes])


@pytest.mark.parametrize(
    ("parts", "error"),
    [
        ({"images": [IMAGES[0], IMAGES[0]]}, "x.json: two images have the same id"),
        (
            {"images": [IMAGES[0], IMAGES[0] | {"id": 99}]},
            "x.json: 2 images have the same file_name",
        ),
        ({"images": [{"id": 1}]}, r"x.json: images\[0\] has no 'file_name'"),
        (
            {"images": [IMAGES[0] | {"file_name": None}]},
            r"x.json: images\[0\]: file_name is None, which is no text",
        ),
        ({"categories": [CATEGORIES[0]] * 2}, "two categories have the same id"),
        ({"categories": None}, "x.json has no list 'categories'"),
        ({"images": [7]}, r"x.json: images\[0\] has no 'id'"),
        (
            {"categories": [*CATEGORIES, {"id": "5", "name": "cow"}]},
            "x.json: some ids of categories are numbers, and some texts",
        ),
        ({"annotations": [{"image_id": 7}]}, r"annotations\[0\] has no 'category_id'"),
        (
            {"categories": [{"id": 1, "name": "cat"}, {"id": 2, "name": "Cat "}]},
            "two classes have one name: cat, Cat",
        ),
    ],
)
def test_files_that_cannot_be_right(tmp_path, parts, error):
    with pytest.raises(DataError, match=error):
        read(tmp_path, **{"annotations": [annotation()]} | parts)


def test_files_that_are_missing_or_no_json(tmp_path):
    with pytest.raises(DataError, match="y.json is missing"):
        coco_json.read(tmp_path, tmp_path / "y.json")
    (tmp_path / "y.json").write_text("{")
    with pytest.raises(DataError, match="y.json is no JSON"):
        coco_json.read(tmp_path, tmp_path / "y.json")
    (tmp_path / "y.json").write_text("[]")
    with pytest.raises(DataError, match="has no list 'images'; is it of COCO's"):
        coco_json.read(tmp_path, tmp_path / "y.json")
