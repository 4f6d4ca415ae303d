"""Says what a run's classifier makes of an image, for the page."""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from analysis import attribution, inspection, stages
from demo import drawing, samples, sheets, stage_table, uploads
from demo.uploads import Refused
from models import lenet
from training import losses

BEST = 5  # answers
NEIGHBOURS = 8


class Classifier:
    """A run's network with what the page asks of it.

    Images are uint8 [H, W, C] as `image` returns them. What is returned is for JSON;
    pictures are URLs of `sheets.url`.

    Args:
      run: a workdir.Workdir.
      checkpoint: "latest", "best" or a step.
      database: how many training images to search for the nearest.
    """

    kind = "classifier"
    actions = ("answer", "stage", "grad_cam", "occlusion", "neighbours")

    def __init__(self, run, checkpoint, database):
        self.network = network = inspection.Network(run, checkpoint)
        self._trained, self._database = network.trained, database
        self._variables = jax.device_put(network.variables)
        self._rule = None
        if self._trained.image_shape == (drawing.FIELD, drawing.FIELD, 1):
            self._rule = drawing.rule(network.config.dataset.name)
        self._samples = samples.Samples(
            lambda: network.open_split(network.config.dataset.eval_split),
            lambda example: f"truly {network.names[example.label]}",
            self._trained.image_shape[-1],
        )

    # What is known without an image.

    def describe(self):
        network, shape = self.network, self._trained.input_shape
        rows = stage_table.rows(network.model, shape, network.layout.stages)
        return {
            "kind": self.kind,
            "run": self._trained.run.path.name,
            "network": network.config.model.name,
            "step": network.step,
            "classes": len(network.names),
            "canvas": self._rule is not None,
            "grey": shape[-1] == 1,
            "stages": [vars(row) for row in rows],
        }

    def filters(self):
        kernel = self.network.variables["params"]
        for name in self.network.layout.first:
            kernel = kernel[name]
        height, width, channels, number = kernel.shape
        if channels not in (1, 3):
            raise Refused(f"filters of {channels} channels are neither grey nor RGB")
        name = self.network.layout.first[-2]
        text = f"{name}: {number} filters of {height}x{width}x{channels}"
        return {"picture": sheets.url(sheets.filters(kernel)), "text": text}

    def sample(self, index):
        return self._samples.get(index)

    # What is asked of an image.

    def image(self, data, drawn=False):
        """Reads an upload as the network takes it; ink that was `drawn` is placed.

        Raises:
          Refused: it is no image that can be shown.
        """
        shape = height, width, channels = self._trained.image_shape
        image = uploads.read(data, channels)
        if drawn and self._rule:
            image = self._rule(image)
        elif None not in shape:
            image = uploads.cut(image, height, width)
        return self._trained.view(image) if self._trained.view else image

    @functools.cached_property
    def _look(self):
        share = losses.probabilities(self.network.config.loss.name)

        @jax.jit
        def look(variables, images):
            inputs = self.network.inputs(images)
            result = stages.forward(self.network.model, variables, inputs)
            return share(result.logits), result

        return look

    def _seen(self, image):
        """Returns the probabilities [K] and the stages.Forward of an image."""
        probabilities, result = self._look(self._variables, image[None])
        probabilities = np.asarray(probabilities[0])
        if not np.isfinite(probabilities).all():
            raise Refused("the network's answer is no number")
        return probabilities, result

    def answer(self, image):
        """Returns the five best classes and what the network sees."""
        probabilities, result = self._seen(image)
        best = np.argsort(-probabilities, kind="stable")[:BEST]
        names = self.network.names
        found = {
            "seen": sheets.url(self.network.seen(image[None])[0]),
            "best": [[names[k], float(probabilities[k])] for k in best],
            "note": losses.note(self.network.config.loss.name),
        }
        if isinstance(self.network.model, lenet.LeNet5):
            found["lenet"] = _bitmaps(result, names)
        return found

    def stage(self, image, name):
        """Draws the maps of a stage."""
        if name not in self.network.layout.stages:
            raise Refused("the network has no such stage")
        number = list(self.network.layout.stages).index(name)
        maps = np.asarray(self._seen(image)[1].stages[number][0])
        sheet, shown = sheets.maps(maps)
        height, width, depth = maps.shape
        text = f"{name}: {depth} maps of {height}x{width}"
        if shown < depth:
            text += f", the {shown} that vary most"
        return {"picture": sheets.url(sheet), "text": text}

    @functools.cached_property
    def _explain(self):
        names = list(self.network.layout.stages)
        stage = names.index(self.network.layout.last)
        explain = functools.partial(
            attribution.grad_cam, self.network.model, stage=stage
        )
        return jax.jit(explain)

    def grad_cam(self, image):
        """Lays over the image where it speaks for the answer."""
        if self.network.layout.last is None:
            raise Refused("no stage has a map larger than 1x1 for such small images")
        best = self._seen(image)[0].argmax()
        inputs = self.network.inputs(image[None])
        heat = np.asarray(self._explain(self._variables, inputs, jnp.array([best]))[0])
        text = f"the brighter, the more a place speaks for {self.network.names[best]}"
        if heat.max() <= 0:
            text = f"nothing speaks for {self.network.names[best]}"
        text = f"Grad-CAM on {self.network.layout.last}: {text}"
        heat = heat / max(heat.max(), 1e-12)
        return {"picture": self._over(image, heat), "text": text}

    def occlusion(self, image):
        """Lays over the image the answer's probability while a square covers it."""
        best = self._seen(image)[0].argmax()
        sized = self.network.sized(image[None])[0]
        side = min(sized.shape[:2])
        found = attribution.occlusion(
            lambda covered: self.network.outputs(covered)[0],
            sized,
            size=side // 4,
            stride=max(side // inspection.STEPS, 1),
            fill=inspection.GREY,
        )[..., best]
        text = (
            f"the probability of {self.network.names[best]} by the centre of a grey "
            f"square of {side // 4}x{side // 4} pixels: {found.min():.3f} (dark) to "
            f"{found.max():.3f} (bright)"
        )
        heat = sheets.scaled(found, (0, 1))
        return {"picture": self._over(image, heat), "text": text}

    def _over(self, image, heat):
        return sheets.url(sheets.over(self.network.seen(image[None])[0], heat))

    @functools.cached_property
    def _search(self):
        return inspection.Search(self.network, self._database)

    def neighbours(self, image):
        """Finds the nearest training images by the features before the last layer."""
        search = self._search
        features = np.asarray(self._seen(image)[1].features)
        (found,) = search.by_features(features, NEIGHBOURS)
        images, _ = self.network.read(search.split, search.indices[found])
        names = [self.network.names[k] for k in search.labels[found]]
        pictures = [[sheets.url(x), n] for x, n in zip(images, names, strict=True)]
        text = f"of {len(search.labels):,} training images, nearest first"
        return {"pictures": pictures, "text": text}


def _bitmaps(result, names):
    """Returns F6's output and each class's bitmap with its distance (eq. 7)."""
    code = np.asarray(result.features[0]).reshape(12, 7, 1)
    bitmaps = lenet.prototypes().reshape(-1, 12, 7, 1)
    distances = -np.asarray(result.logits[0])
    rows = zip(names, distances, bitmaps, strict=True)
    return {
        "code": sheets.url(_ink(code)),
        "rows": [[name, float(d), sheets.url(_ink(b))] for name, d, b in rows],
    }


def _ink(code):
    """Draws units of -1 to 1, [12, 7, 1]: ink, which is 1, is black."""
    return np.round(255 * (1 - np.clip(code, -1, 1)) / 2).astype(np.uint8)
