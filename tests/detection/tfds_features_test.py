"""Objects of TFDS examples are those of the files they were made from."""

import numpy as np
import pytest

from data_source import DataError
from detection import records, tfds_features

SIZE = (375, 500)


def example(corners, **features):
    """An example whose boxes are x1, y1, x2, y2 in the numbers of their format."""
    corners = np.array(corners, np.float64).reshape(-1, 4)[:, [1, 0, 3, 2]]
    bbox = np.float32(corners / [SIZE[0], SIZE[1], SIZE[0], SIZE[1]])
    label = np.arange(len(corners), dtype=np.int64)
    return {
        "image/filename": b"000012.jpg\n",
        "objects": {"bbox": bbox, "label": label} | features,
    }


def test_voc_s_numbers_count_from_1():
    """Of all whole numbers none is moved by its way through float32."""
    x2 = np.arange(2, 501)
    corners = np.stack([np.ones(499), np.ones(499), x2, np.minimum(x2, 375)], 1)
    difficult = np.arange(499) % 2 == 0
    found = tfds_features.read(
        example(corners, is_difficult=difficult), SIZE, records.Damage(), one_based=True
    )
    np.testing.assert_array_equal(found.boxes, corners - [1, 1, 0, 0])
    np.testing.assert_array_equal(found.difficult, difficult)
    np.testing.assert_array_equal(found.labels, np.arange(499))
    assert (found.name, found.image) == ("000012.jpg", "000012")
    assert not found.crowd.any()


def test_coco_s_numbers_are_continuous():
    features = {
        "is_crowd": np.array([True, False]),
        "area": np.array([70, 12], np.int64),
    }
    corners = [[0, 0.25, 500, 375], [10.12, 20.34, 30.56, 41]]
    record = example(corners, **features) | {"image/id": np.int64(42)}
    found = tfds_features.read(record, SIZE, records.Damage(), one_based=False)
    np.testing.assert_array_equal(found.boxes, np.float32(corners))
    assert found.crowd.tolist() == [True, False] and found.area.tolist() == [70, 12]
    assert found.image == 42


def test_a_set_without_file_names_has_its_images_ids():
    """As lvis has; its names are for messages."""
    record = example([[0, 0, 9, 9], [5, 5, 5, 5]]) | {"image/id": np.int64(42)}
    del record["image/filename"]
    damage = records.Damage()
    found = tfds_features.read(record, SIZE, damage, one_based=False)
    assert (found.name, found.image, len(found)) == ("image 42", 42, 1)
    assert "image 42, object 2 (5, 5, 5, 5)" in damage.remarks()[0]


def test_bccd_has_boxes_without_a_size():
    record, damage = example([[5, 5, 5, 5], [5, 5, 9, 9]]), records.Damage()
    found = tfds_features.read(record, SIZE, damage, one_based=True)
    np.testing.assert_array_equal(found.boxes, [[4, 4, 9, 9]])
    (remark,) = damage.remarks()
    assert "000012.jpg, object 1 (5, 5, 5, 5)" in remark
    with pytest.raises(DataError, match="000012.jpg, object 1: the box"):
        tfds_features.read(record, SIZE, records.Damage("fail"), one_based=True)


def test_an_example_without_objects():
    found = tfds_features.read(example([]), SIZE, records.Damage(), one_based=True)
    assert len(found) == 0 and found.boxes.shape == (0, 4)
