"""Says what a run's detector finds in an image, for the page."""

import numpy as np

from analysis import regions
from demo import samples, sheets, uploads
from detection import results, views

MOST_BOXES = 300  # of the proposals and of the detections that are sent


class Detector:
    """A run's detector with what the page asks of it; as `classifier.Classifier`."""

    kind = "detector"
    actions = ("answer",)

    def __init__(self, run, checkpoint, database=0):
        del database
        self.network = network = regions.Network(run, checkpoint)
        self._samples = samples.Samples(
            lambda: network.open_split(network.config.dataset.eval_split),
            self._truth,
            network.channels,
        )

    def describe(self):
        return {
            "kind": self.kind,
            "run": self.network.run.path.name,
            "network": self.network.config.model.name,
            "step": self.network.step,
            "classes": len(self.network.names),
            "canvas": False,
            "grey": self.network.channels == 1,
            "threshold": results.SHOWN,
        }

    def filters(self):
        kernel = self.network.variables["params"]["backbone"]["conv1"]["kernel"]
        height, width, channels, number = kernel.shape
        text = f"conv1: {number} filters of {height}x{width}x{channels}"
        return {"picture": sheets.url(sheets.filters(kernel)), "text": text}

    def sample(self, index):
        return self._samples.get(index)

    def _truth(self, example):
        names = [self.network.names[k] for k in example.objects.labels]
        return f"truly {', '.join(names)}" if names else "no objects"

    def image(self, data, drawn=False):
        del drawn
        return uploads.read(data, self.network.channels)

    def answer(self, image):
        """Returns what both stages find, in pixels of the image as the network sees it.

        Boxes are [x1, y1, x2, y2]. The best of `number` are listed; the anchors are
        those of the first position, and their neighbours are `stride` pixels apart.
        """
        network = self.network
        seen = network.show("", image)
        rois, scores, found = network.look(seen)
        height, width = seen.image.shape[:2]
        names = [network.names[k] for k in found.labels]
        return {
            "picture": sheets.url(seen.image),
            "width": width,
            "height": height,
            "detections": _boxes(found.boxes, found.scores, names),
            "proposals": _boxes(rois, scores, [""] * len(rois)),
            "number": {"detections": len(names), "proposals": len(rois)},
            "anchors": network.model.anchor_boxes((1, 1)).tolist(),
            "stride": views.STRIDE,
        }


def _boxes(boxes, scores, names):
    """Lists the best boxes by falling score."""
    order = np.argsort(-scores, kind="stable")[:MOST_BOXES]
    return [
        {
            "name": names[i],
            "score": round(float(scores[i]), 4),
            "box": np.round(boxes[i].astype(float), 1).tolist(),
        }
        for i in order
    ]
