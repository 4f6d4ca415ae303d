"""Folders in Pascal VOC's form, with the liberties that their makers take."""

import collections
import os
import pathlib

import numpy as np
import pytest
from PIL import Image

from data_source import DataError
from detection import records, voc_folder

BCCD = pathlib.Path(os.environ.get("CONVNETS_TEST_DATA") or "none") / "bccd" / "BCCD"
SIZE = "<size><width>40</width><height>30</height><depth>3</depth></size>"
BOX = "<bndbox><xmin>3</xmin><ymin>4</ymin><xmax>20</xmax><ymax>10</ymax></bndbox>"
DOG = f"<object><name>dog</name>{BOX}</object>"


def bndbox(x1, y1, x2, y2):
    # The order of the fields is free.
    return (
        f"<bndbox><xmax>{x2}</xmax><xmin>{x1}</xmin><ymax>{y2}</ymax>"
        f"<ymin>{y1}</ymin></bndbox>"
    )


def thing(name="dog", box=BOX, more=""):
    return f"<object><name>{name}</name>{more}{box}</object>"


def write(root, contents, split="train", suffix=".jpg", listed=None):
    """Writes an XML and an image of 40 x 30 pixels for each {name: content}."""
    for folder in ("Annotations", "JPEGImages", "ImageSets/Main"):
        (root / folder).mkdir(parents=True, exist_ok=True)
    for name, content in contents.items():
        text = f"<annotation>{content}</annotation>"
        (root / "Annotations" / f"{name}.xml").write_text(text)
        Image.new("RGB", (40, 30)).save(root / "JPEGImages" / f"{name}{suffix}")
    lines = "\n".join(contents) if listed is None else listed
    (root / "ImageSets" / "Main" / f"{split}.txt").write_text(lines)


def read(root, content, **options):
    write(root, {"a": content})
    (image,), classes, _ = voc_folder.read(root, "train", **options)
    return image, classes


def test_boxes_count_from_1_and_include_the_last_pixel(tmp_path):
    whole = thing("cat", bndbox(1, 1, 40, 30), "<difficult>1</difficult>")
    image, classes = read(tmp_path, SIZE + DOG + whole)
    assert classes == ("cat", "dog") and image.labels.tolist() == [1, 0]
    np.testing.assert_array_equal(image.boxes, [[2, 3, 20, 10], [0, 0, 40, 30]])
    assert image.difficult.tolist() == [False, True] and not image.crowd.any()
    assert image.area.tolist() == [18 * 7, 1200]
    assert (image.image, image.size) == ("a", (30, 40))
    assert image.name == str(tmp_path / "JPEGImages" / "a.jpg")


def test_fields_that_are_not_needed_may_be_missing_and_others_may_be_there(tmp_path):
    more = "<difficult/><truncated>Unspecified</truncated><colour>red</colour>"
    image, _ = read(tmp_path, "<owner><name>me</name></owner>" + thing(more=more))
    assert image.size == (30, 40) and image.difficult.tolist() == [False]


def test_a_size_of_zero_is_the_file_s(tmp_path):
    image, _ = read(tmp_path, SIZE.replace("40", "0") + DOG)
    assert image.size == (30, 40)


def test_coordinates_may_be_fractions(tmp_path):
    """VOC2012's 2011_003353 has a ymin of 45.70000076293945."""
    image, _ = read(tmp_path, SIZE + thing(box=bndbox(3, 4.7000007629, "20.25 ", 10)))
    np.testing.assert_allclose(image.boxes, [[2, 3.7, 20.25, 10]], 0, 1e-5)


def test_parts_of_an_object_are_not_objects(tmp_path):
    part = f"<part><name>head</name>{bndbox(1, 1, 2, 2)}</part>"
    image, classes = read(
        tmp_path, SIZE + f"<object>{part}<name>dog</name>{BOX}</object>"
    )
    assert classes == ("dog",)
    np.testing.assert_array_equal(image.boxes, [[2, 3, 20, 10]])


def test_names_may_differ_in_capitals_and_blanks(tmp_path):
    content = SIZE + thing(" Dog\n") + thing("dog") + thing("bus")
    image, classes = read(tmp_path, content)
    assert classes == ("Dog", "bus") and image.labels.tolist() == [0, 0, 1]


def test_an_image_without_objects(tmp_path):
    write(tmp_path, {"a": SIZE, "b": SIZE + DOG}, suffix=".PNG")
    images, classes, _ = voc_folder.read(tmp_path, "train")
    assert [len(image) for image in images] == [0, 1] and classes == ("dog",)


def test_classes_are_those_of_all_splits(tmp_path):
    write(tmp_path, {"a": SIZE + thing("cat")})
    write(tmp_path, {"b": SIZE + thing("ant")}, split="val")
    for split, label in (("train", 1), ("val", 0)):
        (image,), classes, _ = voc_folder.read(tmp_path, split)
        assert classes == ("ant", "cat") and image.labels.tolist() == [label]


def test_lists_may_have_two_columns_and_names_blanks(tmp_path):
    contents = {"one": SIZE + DOG, "number 2": SIZE + DOG}
    write(tmp_path, contents, listed="one  -1\r\n\r\nnumber 2\r\n")
    images, _, _ = voc_folder.read(tmp_path, "train")
    assert [image.image for image in images] == ["one", "number 2"]


def test_bad_boxes_are_dropped_and_cut(tmp_path):
    boxes = [(9, 9, 9, 12), (20, 9, 3, 12), (0, 0, 41, 12), (50, 9, 60, 12)]
    content = SIZE + DOG + "".join(thing(box=bndbox(*box)) for box in boxes)
    damage = records.Damage()
    image, _ = read(tmp_path, content, damage=damage)
    np.testing.assert_array_equal(image.boxes, [[2, 3, 20, 10], [0, 0, 40, 12]])
    dropped, cut = damage.remarks()
    assert ": 3, " in dropped and "a.xml, object 2 (9, 9, 9, 12)" in dropped
    assert ": 1, " in cut and "a.xml, object 4" in cut
    with pytest.raises(DataError, match="a.xml, object 2: the box .* has no size"):
        read(tmp_path, content, damage=records.Damage("fail"))


@pytest.mark.parametrize(
    ("content", "error"),
    [
        ("<object>", "a.xml is no XML"),
        (f"{DOG}<object>{BOX}</object>", "a.xml, object 2 has no name"),
        (thing("  "), "a.xml, object 1 has no name"),
        (thing(box=""), "a.xml, object 1 has no bndbox"),
        (thing(box=bndbox(1, "x", 9, 9)), "a.xml, object 1: ymin is 'x', not a number"),
        (thing(box="<bndbox/>"), "a.xml, object 1: xmin is None, not a number"),
        (thing(more="<difficult>yes</difficult>"), "object 1: difficult is 'yes'"),
    ],
)
def test_errors_name_the_file_and_the_object(tmp_path, content, error):
    with pytest.raises(DataError, match=error):
        read(tmp_path, SIZE + content)


@pytest.mark.parametrize(
    ("listed", "error"),
    [
        ("a\nb", "train.txt: 'b' has no XML in .*Annotations"),
        ("a\na", "train.txt names a twice"),
        (" \n", "train.txt names no image"),
    ],
)
def test_lists_that_cannot_be_right(tmp_path, listed, error):
    write(tmp_path, {"a": SIZE + DOG}, listed=listed)
    with pytest.raises(DataError, match=error):
        voc_folder.read(tmp_path, "train")


def test_missing_files_are_named(tmp_path):
    write(tmp_path, {"a": SIZE + DOG})
    with pytest.raises(DataError, match="val.txt is missing; splits: train"):
        voc_folder.read(tmp_path, "val")
    write(tmp_path, {"a": SIZE + DOG}, suffix=".png")
    with pytest.raises(DataError, match="has a.jpg, a.png for the image 'a'"):
        voc_folder.read(tmp_path, "train")
    for path in (tmp_path / "JPEGImages").iterdir():
        path.unlink()
    with pytest.raises(DataError, match="JPEGImages has no file for the image 'a'"):
        voc_folder.read(tmp_path, "train")


@pytest.mark.skipif(not BCCD.exists(), reason="needs bccd in TFDS_DATA_DIR")
def test_bccd():
    """4,888 boxes of 364 images, of which two have no size; the counts are by class."""
    damage, counts = records.Damage(), collections.Counter()
    for split, size in (("trainval", 292), ("test", 72)):
        images, classes, _ = voc_folder.read(BCCD, split, damage=damage)
        assert len(images) == size and {image.size for image in images} == {(480, 640)}
        for image in images:
            counts.update(classes[label] for label in image.labels)
    assert counts == {"RBC": 4_155 - 2, "WBC": 372, "Platelets": 361}
    assert [d.rpartition("/")[2] for d in sorted(damage.dropped)] == [
        "BloodImage_00338.xml, object 13 (504, 337, 504, 337)",
        "BloodImage_00343.xml, object 4 (181, 329, 181, 329)",
    ]
