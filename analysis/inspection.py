"""Draws what a run's network has learned, in <run>/inspect/ (--mode=inspect)."""

import dataclasses
import functools
import json
import pathlib

import jax
import jax.numpy as jnp
import numpy as np

import input_pipeline
import models
from analysis import (
    attribution,
    gallery,
    pictures,
    predict,
    regions,
    retrieval,
    stages,
)
from analysis.gallery import NotShown
from experiment import trained
from training import losses
from transforms import preprocessing

TESTED = 1000  # images, spread over the evaluation split, to choose and measure with
SHOWN = 8  # images in a panel, as in AlexNet's Figure 4 ...
OCCLUDED = 4  # ... of which these get an occlusion map
STEPS = 16  # of the occluding square along a side, of which it covers a quarter
GREY = 127.5  # the square's colour, in 0..255
NEIGHBOURS = 6  # shown for each image
MEASURED = 10  # neighbours for precision and overlap
BITS = 64  # in a code


@dataclasses.dataclass(frozen=True)
class Panel:
    """Images uint8 [N, H, W, C] with the network's answers and features.

    Attributes:
      titles: class names, or file names if `labels` is None.
      labels: the true classes [N], None if they are not known.
      probabilities: [N, K].
      features: [N, D].
    """

    images: np.ndarray
    titles: list
    labels: np.ndarray | None
    probabilities: np.ndarray
    features: np.ndarray

    @property
    def classes(self):
        """The true classes, or the network's answers if these are not known."""
        return self.probabilities.argmax(1) if self.labels is None else self.labels

    def rows(self, indices):
        return Panel(
            self.images[indices],
            [self.titles[i] for i in indices],
            None if self.labels is None else self.labels[indices],
            self.probabilities[indices],
            self.features[indices],
        )


def inspect_run(run, checkpoint, paths=(), database=10_000, output=None):
    """Draws all pictures of a run; one that fails does not stop the others.

    Args:
      run: a workdir.Workdir.
      checkpoint: "latest", "best" or a step.
      paths: image files to look at. The default is test images: four spread over the
        split and, out of 1,000, the four whose class the network is least sure of.
      database: how many training images to search, spread evenly over the split.
      output: the directory of the pictures; None: <run>/inspect.

    Returns:
      The gallery.Inspection.

    Raises:
      DataError: one of `paths` is not an image.
      WorkdirError: the directory cannot be written to.

    Of a detector, regions.py draws other pictures.
    """
    if models.is_detector(run.config().model.name):
        return regions.inspect_run(run, checkpoint, paths, output)
    network = Network(run, checkpoint)
    if note := losses.note(network.config.loss.name):
        trained.say(f"note: {note}")
    if len(paths) > OCCLUDED:
        half = OCCLUDED // 2
        trained.say(
            f"note: of the {len(paths)} images, predictions.png shows all; grad_cam, "
            f"neighbours and codes show the first {SHOWN}, occlusion the first {half} "
            f"and the last {half}, and activations the first"
        )
    panel = network.files(paths) if paths else None
    tested, measured = None, None
    drawing = gallery.Gallery(run, network, output)
    drawing.draw(filters)
    with drawing.attempt("test images"):
        tested = network.test_images()
        panel = panel or tested.rows(telling(tested))
    if panel:
        for picture in (activations, predictions, grad_cam, occlusion):
            drawing.draw(picture, panel)
    if tested:
        with drawing.attempt("training images"):
            search = Search(network, database)
            drawing.draw(neighbours, search, panel)
            drawing.draw(codes, search, panel)
            with drawing.attempt("retrieval.json"):
                measured = search.measure(tested, drawing.directory)
    return drawing.finish(measured)


def telling(tested):
    """Indices for a panel: half spread over the images, half the hardest images."""
    number = len(tested.images)
    first = np.linspace(0, number - 1, min(SHOWN // 2, number)).astype(int).tolist()
    sure = tested.probabilities[np.arange(number), tested.labels]
    hardest = [i for i in np.argsort(sure, kind="stable") if i not in first]
    return first + hardest[: SHOWN - len(first)]


class Network:
    """A run's network with its weights; reads and prepares images for it."""

    def __init__(self, run, checkpoint):
        self.trained = opened = trained.open_run(run, checkpoint)
        self.config, self.names = opened.config, opened.label_names
        self.model, self.variables = opened.model, opened.variables
        self.step, self.inputs = opened.step, opened.inputs
        self.layout = stages.layout(self.model, opened.input_shape)

    def sized(self, images):
        """Brings stored images to the network's input size, float32 in 0..255.

        `inputs` accepts the result as stored images, since the size already fits.
        """
        return preprocessing.fit_size(images, self.trained.preprocessing)

    def seen(self, images):
        """The same as uint8 [B, H, W, C], to look at."""
        pixels = np.asarray(self.sized(images))
        return np.clip(np.round(pixels), 0, 255).astype(np.uint8)

    @functools.cached_property
    def _outputs(self):
        share = losses.probabilities(self.config.loss.name)

        @jax.jit
        def outputs(variables, images):
            result = stages.forward(self.model, variables, self.inputs(images))
            return share(result.logits), result.features

        return outputs

    def outputs(self, images):
        """Returns probabilities [B, K] and features [B, D] of stored images."""
        return tuple(map(np.asarray, self._outputs(self.variables, images)))

    def read(self, split, indices):
        """Reads examples: their images, all of one size, and their labels.

        In place of one that cannot be read, which is logged, the next is read.
        """
        view = self.trained.view
        found = input_pipeline.read_examples(split, indices, view, "replace")
        return found["image"], found["label"]

    def files(self, paths):
        images = np.stack([predict.read_image(path, self.trained) for path in paths])
        titles = [pathlib.Path(path).name for path in paths]
        return Panel(images, titles, None, *self.outputs(images))

    def open_split(self, name):
        """Opens a split of the run's data, with its classes numbered as the network's.

        Raises:
          DataError: the data has other classes now.
        """
        split = trained.open_split(self.config.dataset, name)
        return trained.of_run(split, self.trained.run, self.config, name)

    def test_images(self):
        split = self.open_split(self.config.dataset.eval_split)
        # They are spread over the split because files are in the order of classes.
        count = min(TESTED, len(split))
        indices = np.linspace(0, len(split) - 1, count).astype(int)
        images, labels = self.read(split, indices)
        _, probabilities, features = self.run_over(split, indices)
        titles = [self.names[k] for k in labels]
        return Panel(images, titles, labels, probabilities, features)

    def run_over(self, split, indices):
        """Labels, probabilities and features of a split's examples, run in batches."""
        parts = []
        size = self.config.eval.batch_size
        for start in range(0, len(indices), size):
            images, labels = self.read(split, indices[start : start + size])
            parts.append((labels, *self.outputs(images)))
        return tuple(map(np.concatenate, zip(*parts, strict=True)))


# The pictures; each function has the name of its file.


def filters(path, network):
    kernel = network.variables["params"]
    for name in network.layout.first:
        kernel = kernel[name]
    gallery.draw_kernel(path, kernel, network.layout.first[-2])


def activations(path, network, panel):
    def maps_of(variables, images):
        inputs = network.inputs(images)
        return stages.forward(network.model, variables, inputs).stages

    maps = jax.jit(maps_of)(network.variables, panel.images[:1])
    maps = [np.asarray(x[0], np.float32) for x in maps]
    title = pictures.short(panel.titles[0], 40, 0 if panel.labels is not None else 9)
    pictures.draw_activations(
        path,
        network.seen(panel.images[:1])[0],
        dict(zip(network.layout.stages, maps, strict=True)),
        f"{title}; in each map bright is its highest value, dark its lowest",
    )


def predictions(path, network, panel):
    best = np.argsort(-panel.probabilities, axis=1, kind="stable")[:, :5]
    pictures.draw_panel(
        path,
        panel.images,
        panel.titles,
        network.names,
        panel.probabilities,
        best,
        panel.labels,
    )


def grad_cam(path, network, panel):
    if network.layout.last is None:
        raise NotShown("no stage has a map larger than 1x1 for such small images")
    panel = panel.rows(np.arange(len(panel.images))[:SHOWN])
    stage = list(network.layout.stages).index(network.layout.last)
    explain = functools.partial(attribution.grad_cam, network.model, stage=stage)
    maps = jax.jit(explain)(
        network.variables, network.inputs(panel.images), jnp.asarray(panel.classes)
    )
    if panel.labels is None:
        explained = "the answer above"
    else:
        explained = "the true class above; red: the answer where it is another"
    pictures.draw_grad_cam(
        path,
        network.seen(panel.images),
        np.asarray(maps),
        [network.names[k] for k in panel.classes],
        [network.names[k] for k in panel.probabilities.argmax(1)],
        f"Grad-CAM on {network.layout.last}: the brighter, the more a place speaks for "
        f"{explained}",
    )


def occlusion(path, network, panel):
    """Draws the panel's first and last images; of test images, the last are hardest."""
    half = OCCLUDED // 2
    number = len(panel.images)
    rows = [i for i in range(number) if i < half or i >= number - half]
    panel = panel.rows(rows)
    images = network.sized(panel.images)
    side = min(images.shape[1:3])
    maps = [
        attribution.occlusion(
            lambda covered: network.outputs(covered)[0],
            image,
            size=side // 4,
            stride=max(side // STEPS, 1),
            fill=GREY,
        )
        for image in images
    ]
    pictures.draw_occlusion(
        path,
        network.seen(panel.images),
        maps,
        panel.classes,
        network.names,
        side // 4,
    )


class Search:
    """Training images with features and codes, searched for an image's nearest."""

    def __init__(self, network, number):
        self.split = network.open_split(network.config.dataset.train_split)
        number = min(number, len(self.split))
        self.indices = np.linspace(0, len(self.split) - 1, number).astype(int)
        self.labels, _, self.features = network.run_over(self.split, self.indices)

    @functools.cached_property
    def coder(self):
        """The function from features to codes, and the variance that codes miss."""
        return retrieval.train_codes(self.features, bits=BITS)

    @functools.cached_property
    def codes(self):
        return self.coder[0](self.features)

    def by_features(self, features, k):
        return retrieval.nearest(self.features, features, min(k, len(self.labels)))

    def by_codes(self, features, k):
        queries = self.coder[0](features)
        return retrieval.nearest_codes(self.codes, queries, min(k, len(self.labels)))

    def draw(self, path, network, panel, found, how):
        names = network.names
        labelled = panel.labels is not None
        titles = panel.titles if labelled else [""] * len(found)
        queries = list(zip(panel.images, titles, strict=True))
        images, _ = network.read(self.split, self.indices[found.ravel()])
        images = images.reshape(*found.shape, *images.shape[1:])
        others = [
            [(i, names[self.labels[n]]) for i, n in zip(row, numbers, strict=True)]
            for row, numbers in zip(images, found, strict=True)
        ]
        title = f"each image and the training images nearest to it {how}"
        if labelled:
            title += "; red: of another class"
        pictures.draw_neighbours(path, queries, others, title)

    def measure(self, tested, directory):
        """Measures both searches for all of `tested`, and writes retrieval.json."""
        k = min(MEASURED, len(self.labels))
        encode, missed = self.coder
        codes, queries = self.codes, encode(tested.features)
        result = retrieval.compare(
            lambda: retrieval.nearest(self.features, tested.features, k),
            lambda: retrieval.nearest_codes(codes, queries, k),
            self.labels,
            tested.labels,
            k,
        )
        number, size = self.features.shape
        result |= {"k": k, "database": number, "queries": len(tested.labels)}
        result |= {"features": size, "bits": BITS, "variance_missed": missed}
        (directory / "retrieval.json").write_text(json.dumps(result, indent=2) + "\n")
        return result


def neighbours(path, network, search, panel):
    panel = panel.rows(np.arange(len(panel.images))[:SHOWN])
    found = search.by_features(panel.features, NEIGHBOURS)
    how = f"by {panel.features.shape[1]} features"
    search.draw(path, network, panel, found, how)


def codes(path, network, search, panel):
    panel = panel.rows(np.arange(len(panel.images))[:SHOWN])
    found = search.by_codes(panel.features, NEIGHBOURS)
    search.draw(path, network, panel, found, f"by codes of {BITS} bits")
