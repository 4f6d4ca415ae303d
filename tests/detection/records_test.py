"""Annotated objects: damaged boxes, and images that EXIF turns."""

import numpy as np
import pytest
from PIL import Image

from data_source import DataError
from detection import records
from transforms import decode

SIZE = (20, 30)


def row(box, label=0, **fields):
    return records.Row("photo.xml, object 1", tuple(box), tuple(box), label, **fields)


def read(*boxes, rule="drop"):
    damage = records.Damage(rule)
    rows = [row(box, label) for label, box in enumerate(boxes)]
    return records.objects("photo.jpg", "photo", SIZE, rows, damage), damage


def test_objects_have_these_types():
    found, damage = read((1, 2, 5, 8), (0, 0, 30, 20.0))
    assert len(found) == 2 and found.size == SIZE and not damage.remarks()
    np.testing.assert_array_equal(found.boxes, [[1, 2, 5, 8], [0, 0, 30, 20]])
    assert [x.dtype for x in (found.boxes, found.labels, found.area)] == [
        np.float32,
        np.int32,
        np.float64,
    ]
    assert found.area.tolist() == [24, 600] and found.labels.tolist() == [0, 1]
    assert found.difficult.dtype == found.crowd.dtype == bool


def test_an_image_without_objects():
    found, _ = read()
    assert len(found) == 0 and found.boxes.shape == (0, 4)
    assert found.boxes.dtype == np.float32 and found.crowd.shape == (0,)
    assert found.upright(SIZE, 3, "stored").boxes.shape == (0, 4)


@pytest.mark.parametrize(
    ("box", "why"),
    [
        ((5, 5, 5, 9), "has no size"),
        ((5, 5, 9, 5), "has no size"),
        ((9, 5, 5, 9), "has no size"),
        ((31, 0, 40, 9), "is outside the image of 30x20 pixels"),
        ((-9, 0, 0, 9), "is outside the image of 30x20 pixels"),
    ],
)
def test_a_box_that_is_none_is_dropped_or_refused(box, why):
    found, damage = read((1, 1, 2, 2), box)
    assert len(found) == 1
    (remark,) = damage.remarks()
    assert remark.startswith("boxes left out, without a size or outside the image: 1")
    assert "photo.xml, object 1 (" in remark
    with pytest.raises(DataError, match=rf"photo.xml, object 1: the box \(.*\) {why}"):
        read(box, rule="fail")


def test_a_box_beyond_the_edge_is_cut_and_counted():
    found, damage = read((-1, 2, 31, 25), (25, 0, 30.005, 9))
    np.testing.assert_array_equal(found.boxes, [[0, 2, 30, 20], [25, 0, 30, 9]])
    assert found.area.tolist() == [540, 45]
    (remark,) = damage.remarks()  # of the first box alone
    assert remark.startswith("boxes cut at the image's edge: 1, photo.xml")


def test_another_rule_for_damage_is_refused():
    with pytest.raises(ValueError, match="damaged 'keep' is neither"):
        records.Damage("keep")


def photograph(boxes, size=SIZE):
    """An image as drawn, with a level of its own for each box."""
    pixels = np.zeros((*size, 1), np.uint8)
    for level, (x1, y1, x2, y2) in enumerate(boxes.astype(int), 1):
        pixels[y1:y2, x1:x2] = level
    return pixels


@pytest.mark.parametrize("orientation", sorted(decode.TURNS))
def test_boxes_that_were_drawn_on_the_stored_image_are_turned(orientation):
    found, _ = read((1, 2, 5, 8), (20, 3, 29, 19))
    turned = found.upright(SIZE, orientation, "stored")
    expected = decode.TURNS[orientation](photograph(found.boxes))
    assert turned.size == expected.shape[:2]
    np.testing.assert_array_equal(photograph(turned.boxes, turned.size), expected)


@pytest.mark.parametrize("orientation", [5, 6, 7, 8])
def test_boxes_of_the_upright_image_s_size_stay(orientation):
    found, _ = read((1, 2, 5, 8))
    assert found.upright(SIZE[::-1], orientation, "stored") is found


@pytest.mark.parametrize("orientation", [1, 2, 3, 4, 0, 9])
def test_where_the_size_tells_nothing_boxes_are_upright(orientation):
    found, _ = read((1, 2, 5, 8))
    assert found.upright(SIZE, orientation) is found


def test_a_square_image_follows_the_rule():
    found = records.objects("a", "a", (9, 9), [row((1, 2, 3, 6))], records.Damage())
    assert found.upright((9, 9), 6) is found
    turned = found.upright((9, 9), 6, "stored")
    np.testing.assert_array_equal(turned.boxes, [[3, 1, 7, 3]])


@pytest.mark.parametrize("orientation", [1, 6])
def test_boxes_of_another_size_are_refused(orientation):
    found, _ = read((1, 2, 5, 8))
    text = (
        "photo.jpg: the boxes are of an image of 30x20 pixels, but the file has 50x40"
    )
    with pytest.raises(DataError, match=text):
        found.upright((40, 50), orientation)


def test_the_size_of_an_image_is_the_annotation_s_or_else_the_upright_file_s(tmp_path):
    path, exif = tmp_path / "a.jpg", Image.Exif()
    exif[decode.ORIENTATION] = 6
    Image.new("RGB", (30, 20)).save(path, exif=exif)
    assert records.image_size("5", 7, path) == (5, 7)
    for missing in ((None, None), ("0", "0"), ("", "5"), (None, 8)):
        assert records.image_size(*missing, path) == (30, 20)
    path.write_text("none")
    message = "a.jpg: its size cannot be read: .*; its boxes need it, whatever config.d"
    with pytest.raises(DataError, match=message):
        records.image_size(None, None, path)


@pytest.mark.parametrize("orientation", [1, 3, 5, 6, 7, 8])
def test_the_header_of_a_tiff_is_that_of_a_png(tmp_path, orientation):
    """PIL says the upright size of a TIFF alone, and its orientation all the same."""
    exif = Image.Exif()
    exif[decode.ORIENTATION] = orientation
    for name in ("a.png", "a.tif"):
        Image.new("RGB", (30, 20)).save(tmp_path / name, exif=exif)
        assert records.header(tmp_path / name) == ((20, 30), orientation)
        pixels = decode.decode((tmp_path / name).read_bytes(), 3)
        size = records.image_size(None, None, tmp_path / name)
        assert pixels.shape[:2] == size


def test_names_of_classes():
    classes = records.Classes.among(["dog", " Cat ", "cat", "dog", "black  bear"])
    assert classes.names == ("Cat", "black bear", "dog")
    assert classes.label(" CAT", "x") == 0 and classes.label("Black Bear", "x") == 1
    with pytest.raises(
        DataError, match="photo.xml: 'bee' is none of the classes Cat, "
    ):
        classes.label("bee", "photo.xml")
    with pytest.raises(DataError, match="two classes have one name: dog, Dog"):
        records.Classes(["dog", "Dog"])


@pytest.mark.parametrize("value", [None, "", "abc", "nan", float("inf"), [1]])
def test_what_is_no_number_is_refused(value):
    with pytest.raises(DataError, match="photo.xml: xmin is .*, not a number"):
        records.number(value, "photo.xml: xmin")
    assert records.number(" 45.7 ", "x") == 45.7
