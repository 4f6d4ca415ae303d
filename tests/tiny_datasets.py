"""Tiny data sets, prepared as TFDS would."""

import io
import json
import struct

import google_crc32c
import numpy as np
from PIL import Image

NAMES = ("ant", "bee", "cat")


def png(image):
    """A compressed PNG, as tfds writes them."""
    file = io.BytesIO()
    Image.fromarray(image[..., 0] if image.shape[-1] == 1 else image).save(file, "PNG")
    return file.getvalue()


def write_tfrecord(path, records):
    with path.open("wb") as file:
        for record in records:
            length = struct.pack("<Q", len(record))
            for part in (length, record):
                crc = google_crc32c.value(part)
                crc = ((crc >> 15 | crc << 17) + 0xA282EAD8) % 2**32
                file.write(part + struct.pack("<I", crc))


def write_array_record(path, records, group_size):
    from array_record.python import array_record_module

    options = f"group_size:{group_size}"
    writer = array_record_module.ArrayRecordWriter(str(path), options)
    for record in records:
        writer.write(record)
    writer.close()


def prepare(
    root,
    images,
    labels,
    *,
    name="tiny",
    shape=None,
    file_format="array_record",
    features=None,
    file_names=None,
    group_size=4,
    names=NAMES,
    test=None,
):
    """Writes an ordinary TFDS directory: one split "train" in two uneven shards.

    images are arrays [H, W, C], or bytes that stand for an encoded image; group_size is
    the number of records in a block of an array_record. `names` are the classes, and
    `test` are the images and labels of a second split. A label may be a dict of all
    features but the image. Returns train's shards.
    """
    import tensorflow_datasets as tfds

    if features is None:
        if shape is None:
            shape = (None, None, 1) if isinstance(images[0], bytes) else images[0].shape
        features = {
            "image": tfds.features.Image(shape=shape),
            "label": tfds.features.ClassLabel(names=names),
        }
    features = tfds.features.FeaturesDict(features)
    directory = root / name / "1.0.0"
    directory.mkdir(parents=True)
    features.save_config(str(directory))
    image_key, label_key = list(features)[:2]
    splits = {"train": (images, labels)} | ({} if test is None else {"test": test})
    written, infos = [], []
    for split, (pictures, classes) in splits.items():
        examples = [
            {
                image_key: i if isinstance(i, bytes) else png(i),
                **(label if isinstance(label, dict) else {label_key: int(label)}),
            }
            for i, label in zip(pictures, classes, strict=True)
        ]
        if split == "train":
            for example, file_name in zip(examples, file_names or (), strict=False):
                example["file_name"] = file_name
        records = list(map(features.serialize_example, examples))
        shards = [records[: len(records) // 3], records[len(records) // 3 :]]
        for number, shard in enumerate(shards):
            path = directory / f"{name}-{split}.{file_format}-{number:05}-of-00002"
            written.append(path)
            if file_format == "tfrecord":
                write_tfrecord(path, shard)
            else:
                write_array_record(path, shard, group_size)
        infos.append(
            {
                "name": split,
                "filepathTemplate": "{DATASET}-{SPLIT}.{FILEFORMAT}-{SHARD_X_OF_Y}",
                "numBytes": str(sum(map(len, records))),
                "shardLengths": [str(len(shard)) for shard in shards],
            }
        )
    info = {
        "name": name,
        "version": "1.0.0",
        "fileFormat": file_format,
        "splits": infos,
    }
    (directory / "dataset_info.json").write_text(json.dumps(info))
    return written[:2]


def concatenate(parts):
    parts = list(parts)
    return {k: np.concatenate([p[k] for p in parts]) for k in parts[0]}


def assert_same(left, right):
    assert left.keys() == right.keys()
    for key in left:
        np.testing.assert_array_equal(left[key], right[key], key)
        assert left[key].dtype == right[key].dtype


# Folders in VOC's form.


def box(x1, y1, x2, y2, name="dog", more=""):
    """The XML of an object; `more` are further fields."""
    sides = zip(("xmin", "ymin", "xmax", "ymax"), (x1, y1, x2, y2), strict=True)
    found = "".join(f"<{side}>{value}</{side}>" for side, value in sides)
    return f"<object><name>{name}</name>{more}<bndbox>{found}</bndbox></object>"


BOXES = box(3, 4, 20, 30) + box(30, 5, 60, 40, "cat")


def write_voc(root, name, size=(64, 48), content=BOXES):
    """Writes a photograph of width x height pixels, and the XML of its objects."""
    width, height = size
    rng = np.random.default_rng(list(name.encode()))
    pixels = rng.integers(0, 256, (height, width, 3), np.uint8)
    Image.fromarray(pixels).save(root / "JPEGImages" / f"{name}.jpg")
    text = f"<size><width>{width}</width><height>{height}</height></size>{content}"
    path = root / "Annotations" / f"{name}.xml"
    path.write_text(f"<annotation>{text}</annotation>")


def prepare_voc(root, splits, size=(64, 48)):
    """Writes a folder of photographs with a dog and a cat: {split: names}."""
    for folder in ("Annotations", "JPEGImages", "ImageSets/Main"):
        (root / folder).mkdir(parents=True)
    for split, names in splits.items():
        path = root / "ImageSets" / "Main" / f"{split}.txt"
        path.write_text("\n".join(names))
        for name in names:
            write_voc(root, name, size)


def prepare_coco(root, split="train", count=3, names=(("bee", 7), ("ant", 9))):
    """Writes a JSON with an object of the first category in each image."""
    (root / split).mkdir(parents=True, exist_ok=True)
    size = {"width": 40, "height": 30}
    images = [{"id": i + 5, "file_name": f"{i}.png"} | size for i in range(count)]
    for image in images:
        Image.new("RGB", (40, 30)).save(root / split / image["file_name"])
    content = {
        "images": images,
        "annotations": [
            {"image_id": image["id"], "category_id": names[0][1], "bbox": [1, 2, 3, 4]}
            for image in images
        ],
        "categories": [{"id": key, "name": name} for name, key in names],
    }
    (root / f"{split}.json").write_text(json.dumps(content))
