"""Splits of annotated objects, by name."""

import os
import pathlib

import numpy as np
import pytest
import tiny_datasets
from PIL import Image

from data_source import DataError, UnreadableFile, classes
from detection import sources
from transforms import decode

BCCD = pathlib.Path(os.environ.get("CONVNETS_TEST_DATA") or "none") / "bccd" / "BCCD"


def voc(root, lists, names=("ant", "bee"), orientation=1, size=(40, 30)):
    """Writes a VOC folder; every image has a box (2, 3, 20, 10) of the first class."""
    for folder in ("Annotations", "JPEGImages", "ImageSets/Main"):
        (root / folder).mkdir(parents=True, exist_ok=True)
    exif = Image.Exif()
    exif[decode.ORIENTATION] = orientation
    boxes = "".join(
        f"<object><name>{name}</name><bndbox><xmin>3</xmin><ymin>4</ymin>"
        "<xmax>20</xmax><ymax>10</ymax></bndbox></object>"
        for name in names
    )
    text = f"<size><width>40</width><height>30</height></size>{boxes}"
    for name, stems in lists.items():
        (root / "ImageSets" / "Main" / f"{name}.txt").write_text("\n".join(stems))
        for stem in stems:
            path = root / "Annotations" / f"{stem}.xml"
            path.write_text(f"<annotation>{text}</annotation>")
            Image.new("RGB", size).save(root / f"JPEGImages/{stem}.jpg", exif=exif)
    return f"voc:{root}"


def test_a_voc_folder(tmp_path):
    name = voc(tmp_path, {"train": ["a", "b"], "val": ["c"], "test": ["d"]})
    split = sources.open_split(name, "train")
    assert (split.name, split.split, len(split)) == (name, "train", 2)
    assert split.label_names == ("ant", "bee") and split.categories == (1, 2)
    assert split.most_objects == 2 and split.class_counts().tolist() == [2, 2]
    (example,) = split.examples(np.array([1]))
    assert example.name == str(tmp_path / "JPEGImages" / "b.jpg")
    assert example.target is split.objects[1]
    assert decode.decode(example.image, 3).shape == (30, 40, 3)
    assert sources.open_split(name, "auto").split == "val"
    assert len(sources.open_split(name, "train+val")) == 3
    with pytest.raises(DataError, match="none.txt is missing; splits: test, train, v"):
        sources.open_split(name, "none")


def test_a_digest_knows_the_same_objects_again(tmp_path):
    one, other = (
        sources.open_split(voc(tmp_path / n, {"train": "abc"}), "train") for n in "xy"
    )
    assert one.digest() == other.digest() and len(one.digest()) == 16
    assert other.renumbered([1, 0], ("bee", "ant")).digest() == one.digest()
    others = [
        other.chosen([0, 1]),
        other.chosen([1, 0, 2]),
        sources.open_split(voc(tmp_path / "z", {"train": "abc"}, "ab"), "train"),
    ]
    path = tmp_path / "y/Annotations/b.xml"
    path.write_text(path.read_text().replace("<xmin>3<", "<xmin>4<", 1))
    others.append(sources.open_split(other.name, "train"))
    assert len({one.digest(), *(split.digest() for split in others)}) == 5


def test_a_voc_folder_without_a_split_to_evaluate_on(tmp_path):
    name = voc(tmp_path, {"all": "abcdefghij"})
    with pytest.raises(DataError, match="none of the splits validation, val, test: s"):
        sources.open_split(name, "auto")
    first, rest = (
        sources.open_split(name, f"all[{part}]") for part in (":70%", "70%:")
    )
    names = [{one.name for one in split.objects} for split in (first, rest)]
    assert [*map(len, names)] == [7, 3] and not names[0] & names[1]
    assert [one.name for one in first.objects] == sorted(names[0])
    with pytest.raises(DataError, match=r"no split 'all\[:x\]'"):
        sources.open_split(name, "all[:x]")
    with pytest.raises(DataError, match=r"'all\[:0\]' of .* holds no examples"):
        sources.open_split(name, "all[:0]")


@pytest.mark.parametrize("size", [(40, 30), (30, 40)])  # as stored, width x height
def test_objects_are_in_the_pixels_of_the_upright_image(tmp_path, size):
    """Orientation 6 turns the image to the right; boxes are of 40x30 pixels."""
    name = voc(tmp_path, {"val": ["a"]}, orientation=6, size=size)
    (objects,) = sources.open_split(name, "val").objects
    assert objects.size == size  # (height, width) upright
    turned = [20, 2, 27, 20] if size == (40, 30) else [2, 3, 20, 10]
    np.testing.assert_array_equal(objects.boxes[0], turned)


def test_an_image_that_has_another_size_than_its_boxes_is_named(tmp_path):
    name = voc(tmp_path, {"val": ["a"]}, size=(41, 30))
    with pytest.raises(DataError, match="a.jpg: the boxes are of an image of 40x30 pi"):
        sources.open_split(name, "val")


def test_an_image_that_cannot_be_read_keeps_its_objects(tmp_path):
    name = voc(tmp_path, {"val": ["a"]})
    path = tmp_path / "JPEGImages" / "a.jpg"
    path.write_text("no image")
    split = sources.open_split(name, "val")
    assert split.examples([0])[0].image == b"no image" and len(split.objects[0]) == 2
    path.unlink()
    with pytest.raises(UnreadableFile, match="a.jpg cannot be read: No such file") as e:
        split.examples([0])
    assert e.value.example.unreadable is None and e.value.example.name == str(path)


def test_a_coco_set_whose_splits_have_a_json_each(tmp_path):
    tiny_datasets.prepare_coco(tmp_path)
    tiny_datasets.prepare_coco(tmp_path, "val", count=1)
    name = f"coco:{tmp_path}/{{split}},{tmp_path}/{{split}}.json"
    split = sources.open_split(name, "train")
    assert split.label_names == ("bee", "ant") and split.categories == (7, 9)
    assert [one.image for one in split.objects] == [5, 6, 7]
    assert decode.decode(split.examples([2])[0].image, 3).shape == (30, 40, 3)
    assert sources.open_split(name, "auto").split == "val"
    with pytest.raises(DataError, match="test.json is missing"):
        sources.open_split(name, "test")


def test_a_missing_image_is_named_at_once(tmp_path):
    """A misspelt folder would else be found at the first evaluation."""
    tiny_datasets.prepare_coco(tmp_path)
    name = f"coco:{tmp_path}/trian,{tmp_path}/train.json"
    with pytest.raises(DataError, match=f"{tmp_path}/trian has no image 0.png, which"):
        sources.open_split(name, "all")


def test_a_coco_set_of_one_json_has_slices(tmp_path):
    tiny_datasets.prepare_coco(tmp_path)
    name = f"coco:{tmp_path}/train,{tmp_path}/train.json"
    assert len(sources.open_split(name, "all[:67%]")) == 2
    with pytest.raises(DataError, match="has one split, 'all', .* and not 'train'"):
        sources.open_split(name, "train")
    with pytest.raises(DataError, match="say what to evaluate on"):
        sources.open_split(name, "auto")
    with pytest.raises(DataError, match="lacks its JSON"):
        sources.open_split(f"coco:{tmp_path}", "all")
    with pytest.raises(DataError, match="'voc:' lacks its path"):
        sources.open_split("voc:", "all")


def test_sets_are_joined_with_the_classes_of_the_first(tmp_path):
    first = voc(tmp_path / "voc", {"train": ["a"], "val": ["b"]})
    tiny_datasets.prepare_coco(tmp_path)
    second = f"coco:{tmp_path}/train,{tmp_path}/train.json"
    name = f"{first},{second},{first}"
    assert sources.set_names(name) == [first, second, first]
    split = sources.open_split(name, "train,all,val")
    assert (split.name, split.split) == (name, "train,all,val")
    assert split.label_names == ("ant", "bee") and len(split) == 5
    assert [one.labels.tolist() for one in split.objects[:2]] == [[0, 1], [1]]
    assert split.examples([4])[0].name.endswith("b.jpg")
    assert len(sources.open_split(name, ",all,")) == 3
    with pytest.raises(DataError, match="has 3 sets, and 'train' has 1 splits"):
        sources.open_split(name, "train")
    with pytest.raises(DataError, match="',,' names no split"):
        sources.open_split(name, ",,")
    third = voc(tmp_path / "third", {"train": ["a"]}, names=("ant", "cow"))
    with pytest.raises(DataError, match="cannot be joined with .*only here cow"):
        sources.open_split(f"{first},{third}", "train,train")


def test_a_set_that_lacks_classes_is_joined_and_said(tmp_path):
    first = voc(tmp_path / "first", {"train": ["a"]})
    second = voc(tmp_path / "second", {"train": ["b"]}, names=("ant",))
    split = sources.open_split(f"{first},{second}", "train,train")
    (remark,) = split.remarks
    assert remark.startswith(f"{second}, train, has 1 of the 2 classes; whatever it s")
    assert remark.endswith("background: bee") and remark in sources.describe(split)
    assert not sources.open_split(f"{first},{first}", "train,").remarks
    for part, names in (("train", (("bee", 7), ("ant", 9))), ("val", (("bee", 7),))):
        tiny_datasets.prepare_coco(tmp_path, part, names=names)
    name = f"coco:{tmp_path}/{{split}},{tmp_path}/{{split}}.json"
    (remark,) = sources.open_split(name, "train+val").remarks
    assert ", val, has 1 of the 2 classes" in remark and remark.endswith("ground: ant")


def test_an_image_is_in_a_split_once(tmp_path):
    name = voc(tmp_path, {"train": ["a", "b"], "val": ["c"]})
    for split in ("train+train[:1]", "train+val+train"):
        with pytest.raises(DataError, match="named more than once.*JPEGImages/a.jpg"):
            sources.open_split(name, split)
    with pytest.raises(DataError, match="count as often: 1, .*c.jpg; let each be in"):
        sources.open_split(f"{name},{name}", "val,train+val")
    assert len(sources.open_split(f"{name},{name}", "val,train")) == 3


def test_images_of_two_sets_with_one_id_are_said(tmp_path):
    sets = [voc(tmp_path / part, {"train": ["a", part]}) for part in "xy"]
    both = sources.open_split(",".join(sets), "train,train")
    (line,) = sources.shared_ids(both)
    assert line.startswith("ids that several images have: 1, a; detections-*.json")
    assert not sources.shared_ids(sources.open_split(sets[0], "train"))
    assert not both.remarks  # a training needs no ids


def test_classes_are_numbered_as_a_run_s(tmp_path):
    tiny_datasets.prepare_coco(tmp_path)
    name = f"coco:{tmp_path}/train,{tmp_path}/train.json"
    split, said = sources.open_split(name, "all"), []
    names = "ant", "bee", "cow"
    found = classes.numbered_as(
        split, names, "runs/a", "", subset=True, report=said.append
    )
    assert found.label_names == names and found.categories == (9, 7, None)
    assert found.objects[0].labels.tolist() == [1]
    assert found.class_counts().tolist() == [0, 3, 0] and len(said) == 1
    assert split.objects[0].labels.tolist() == [0]


def test_what_is_found_is_said(tmp_path):
    name = voc(tmp_path, {"train": ["a", "b"]})
    path = tmp_path / "Annotations" / "b.xml"
    path.write_text(path.read_text().replace("<xmax>20<", "<xmax>3<", 1))
    split = sources.open_split(name, "train")
    first, counts, remark = sources.describe(split).splitlines()
    assert first == f"data: {name}, 2 classes"
    assert (
        counts == "  train: 2 images, 3 objects (bee: 2, ant: 1), at most 2 in an image"
    )
    assert remark.startswith("  boxes left out, without a size") and "b.xml" in remark
    with pytest.raises(DataError, match="b.xml, object 1: the box .* has no size"):
        sources.open_split(name, "train", damaged="fail")
    (remark,) = sources.open_split(name, "train[:1]+train[1:]").remarks
    assert "image: 1, " in remark and remark.endswith("whole list, not of a slice")


def test_a_tfds_set(tmp_path):
    import tensorflow_datasets as tfds

    features = {
        "image": tfds.features.Image(shape=(None, None, 3)),
        "objects": tfds.features.Sequence(
            {
                "bbox": tfds.features.BBoxFeature(),
                "label": tfds.features.ClassLabel(names=["ant", "bee"]),
            }
        ),
        "image/filename": tfds.features.Text(),
    }
    box = tfds.features.BBox(ymin=4 / 30, xmin=3 / 40, ymax=10 / 30, xmax=20 / 40)
    images = [np.full((30, 40, 3), level, np.uint8) for level in range(4)]
    targets = [
        {
            "objects": [{"bbox": box, "label": 1}] * number,
            "image/filename": f"{number}.png\n",
        }
        for number in range(4)
    ]
    tiny_datasets.prepare(tmp_path, images, targets, name="voc", features=features)
    split = sources.open_split("voc", "train", data_dir=tmp_path, download=False)
    assert [len(one) for one in split.objects] == [0, 1, 2, 3]
    assert split.label_names == ("ant", "bee") and split.objects[3].name == "3.png"
    assert len({one.stamp for one in split.objects} - {""}) == 4
    np.testing.assert_array_equal(split.objects[1].boxes, [[2, 3, 20, 10]])
    (example,) = split.examples([2])
    np.testing.assert_array_equal(decode.decode(example.image, 3), images[2])
    part = sources.open_split("voc", "train[2:]", data_dir=tmp_path, download=False)
    assert [len(one) for one in part.objects] == [2, 3]
    with pytest.raises(DataError, match="as often: 2, 0.png, 1.png; let each be in on"):
        sources.open_split("voc", "train+train[:2]", data_dir=tmp_path, download=False)
    assert not split.remarks
    (tmp_path / "voc/2007").mkdir()
    (tmp_path / "voc/1.0.0").rename(tmp_path / "voc/2007/1.0.0")
    split = sources.open_split("voc", "train", data_dir=tmp_path, download=False)
    assert "  voc is read as voc/2007, " in sources.describe(split)
    tiny_datasets.prepare(tmp_path, images, [0, 1, 2, 0], name="tiny")
    with pytest.raises(DataError, match="'tiny' is not a set of annotated objects"):
        sources.open_split("tiny", "train", data_dir=tmp_path, download=False)
    images[2] = b"no image"
    tiny_datasets.prepare(tmp_path, images, targets, name="bad", features=features)
    with pytest.raises(DataError, match="bad, train, record 2: .*, whatever config.da"):
        sources.open_split("bad", "train", data_dir=tmp_path, download=False)
    del images[2], targets[2], features["image/filename"]
    targets = [{"objects": target["objects"]} for target in targets]
    tiny_datasets.prepare(tmp_path, images, targets, name="nameless", features=features)
    with pytest.raises(DataError, match="it needs an image, its image/filename or i"):
        sources.open_split("nameless", "train", data_dir=tmp_path, download=False)


@pytest.mark.skipif(not BCCD.exists(), reason="needs bccd in TFDS_DATA_DIR")
def test_bccd():
    split = sources.open_split(f"voc:{BCCD}", "test")
    assert len(split) == 72 and split.label_names == ("Platelets", "RBC", "WBC")
    assert split.class_counts().tolist() == [69, 805, 71]
    assert {one.size for one in split.objects} == {(480, 640)}
