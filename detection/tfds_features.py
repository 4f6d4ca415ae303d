"""Reads the objects of an example of a TFDS set: voc, coco, bccd and their like.

TFDS divides a box by the image's size, in the order y1, x1, y2, x2. It leaves the
numbers of voc and bccd as they are in the XML, so they count pixels from 1.
"""

from pathlib import Path

import numpy as np

from data_source import as_text
from detection import records
from detection.voc_folder import continuous

# A quotient in float32 is exact to a thousandth of a pixel.
DIGITS = 3
# The fields of a `records.Row` that only some sets have, and their names there.
FEATURES = {
    "difficult": "is_difficult",
    "crowd": "is_crowd",
    "area": "area",
}


def read(example, size, damage, one_based):
    """Returns the `records.Objects` of an example's features, as numpy arrays.

    Args:
      size: (height, width) of the image as stored, on which the boxes are taken to be
        drawn: TFDS keeps no size of the annotation.
      damage: a `records.Damage`, which is told of bad boxes.
      one_based: whether the numbers are VOC's; those of coco are continuous.
    """
    objects, height, width = example["objects"], *size
    image = example.get("image/id")
    name = as_text(example.get("image/filename", f"image {image}")).strip()
    corners = np.float64(objects["bbox"]).reshape(-1, 4)
    corners = np.round(corners * [height, width, height, width], DIGITS).tolist()
    rows = []
    for i, (y1, x1, y2, x2) in enumerate(corners):
        raw = x1, y1, x2, y2
        box = continuous(raw) if one_based else raw
        more = {
            field: objects[feature][i].item()
            for field, feature in FEATURES.items()
            if feature in objects
        }
        label = int(objects["label"][i])
        row = records.Row(f"{name}, object {i + 1}", raw, box, label)
        rows.append(row._replace(**more))
    image = Path(name).stem if image is None else int(image)
    return records.objects(name, image, size, rows, damage)
