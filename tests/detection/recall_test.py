"""The recall of proposals."""

import functools

import jax
import numpy as np
from jax.sharding import Mesh

from detection import metrics, recall, records, views
from detection.split import Split


def made(boxes, **flags):
    """A split of grey images, each with objects in these boxes."""
    objects = tuple(
        records.objects(
            *(str(number), number, (40, 40)),
            [records.Row("row", box, box, 0, **flags) for box in own],
            records.Damage(),
        )
        for number, own in enumerate(boxes)
    )
    reads = (functools.partial(np.zeros, (40, 40, 1), np.uint8),) * len(boxes)
    return Split("made", "val", ("a",), objects, reads, channels=1)


def found(*boxes):
    boxes = np.reshape(np.float32(boxes), (-1, 4))
    return metrics.Detections(boxes, np.ones(len(boxes)), np.zeros(len(boxes), int))


def test_an_object_is_found_by_any_proposal_from_an_iou_of_a_half():
    split = made([[(0, 0, 10, 10), (20, 20, 30, 30)], [(0, 0, 20, 10)], [(5, 5, 9, 9)]])
    mesh = Mesh(np.array(jax.devices()[:1]), ("data",))
    judge = recall.Recall(None, split, views.make_view([split]), 4, mesh, "coco")
    proposals = [
        found((0, 0, 10, 5), (0, 0, 10, 4)),  # 0.5 of the first, none of the second
        found((0, 0, 9, 10), (1, 0, 11, 10)),  # 0.45 and 0.5
        found(),
    ]
    result = judge.score(proposals)
    assert result.metrics == {
        "error": 50,
        "recall": 50,
        "count": 3,
        "objects": 4,
        "proposals": 4,
    }
    assert result.value == 50 and [*result.scalars()] == ["eval/error", "eval/recall"]
    assert result.describe(7) == (
        "val recall 50.0 % (IoU 0.5, 1 proposals per image), 3/3 images counted after "
        "step 7"
    )
