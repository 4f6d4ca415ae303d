"""Reads a JSON of COCO's form (instances), https://cocodataset.org/#format-data.

A box is a corner and a size, x, y, w, h, and already continuous. The ids of images and
of categories may be any numbers, in any order.
"""

import collections
import json
from pathlib import Path

from data_source import DataError
from detection import records

# The lists of a JSON, and the fields that their items must have.
LISTS = {
    "images": ("id", "file_name"),
    "annotations": ("image_id", "category_id", "bbox"),
    "categories": ("id", "name"),
}

# How files write that an object is a crowd, in any capitals.
CROWD = {"0": False, "false": False, "1": True, "true": True}


def read(folder, path, damage=None):
    """Returns the `records.Annotations` of all images that a JSON names.

    An image without annotations has no objects. The labels are in the order of the
    categories' ids.

    Args:
      folder: where the image files are.
      damage: a `records.Damage`, which is told of bad boxes; None drops them.

    Raises:
      DataError: a file is missing or cannot be understood; the message names it and the
        annotation.
    """
    damage = damage or records.Damage()
    images, annotations, categories = _lists(path)
    names = {item["id"]: str(item["name"]) for item in categories}
    ids = tuple(sorted(names))
    classes = records.Classes(names[key] for key in ids)
    labels = {key: label for label, key in enumerate(ids)}
    rows = {image["id"]: [] for image in images}
    for place, item in enumerate(annotations, 1):
        where = f"{path}, annotation {item.get('id', place)}"
        if item["image_id"] not in rows or item["category_id"] not in labels:
            field = "category_id" if item["image_id"] in rows else "image_id"
            raise DataError(f"{where}: no item has the {field} {item[field]!r}")
        row = _row(item, labels[item["category_id"]], where)
        rows[item["image_id"]].append(row)
    files = [Path(folder) / image["file_name"] for image in images]
    found = []
    for image, file in zip(images, files, strict=True):
        size = records.image_size(image.get("height"), image.get("width"), file)
        image = image["id"]
        found.append(records.objects(str(file), image, size, rows[image], damage))
    return records.Annotations(tuple(found), classes.names, ids)


def _lists(path):
    """Returns a JSON's images, annotations and categories."""
    try:
        content = json.loads(Path(path).read_bytes())
    except FileNotFoundError as error:
        raise DataError(f"{path} is missing") from error
    except ValueError as error:
        raise DataError(f"{path} is no JSON: {error}") from error
    for name, fields in LISTS.items():
        items = content.get(name) if isinstance(content, dict) else None
        if not isinstance(items, list):
            raise DataError(f"{path} has no list {name!r}; is it of COCO's instances?")
        for number, item in enumerate(items):
            where = f"{path}: {name}[{number}]"
            for field in fields:
                if not isinstance(item, dict) or field not in item:
                    raise DataError(f"{where} has no {field!r}")
                value = item[field]
                if field.endswith("id") and not isinstance(value, int | float | str):
                    raise DataError(
                        f"{where}: {field} is {value!r}, neither a number nor text"
                    )
                if field == "file_name" and not isinstance(value, str):
                    raise DataError(
                        f"{where}: file_name is {value!r}, which is no text"
                    )
    for name in ("images", "categories"):
        ids = [item["id"] for item in content[name]]
        if len({*ids}) < len(ids):
            raise DataError(f"{path}: two {name} have the same id")
    files = collections.Counter(item["file_name"] for item in content["images"])
    for file, times in files.most_common(1):
        if times > 1:
            raise DataError(f"{path}: {times} images have the same file_name {file!r}")
    if len({isinstance(key, str) for key in ids}) > 1:
        raise DataError(f"{path}: some ids of categories are numbers, and some texts")
    return [content[name] for name in LISTS]


def _row(item, label, where):
    box, area, crowd = item["bbox"], item.get("area"), item.get("iscrowd", 0)
    if not isinstance(box, list) or len(box) != 4:
        raise DataError(f"{where}: bbox is {box!r}, not x, y, width and height")
    said = str(crowd).lower().removesuffix(".0")
    if said not in CROWD:
        raise DataError(f"{where}: iscrowd is {crowd!r}, neither 0 nor 1")
    x, y, width, height = (records.number(z, f"{where}: bbox") for z in box)
    corners = x, y, x + width, y + height
    return records.Row(
        *(where, corners, corners, label),
        crowd=CROWD[said],
        area=None if area is None else records.number(area, f"{where}: area"),
    )
