"""Tries every export on every network of models.MODELS, with random weights.

    python -m weights.coverage                    # all, one line each
    python -m weights.coverage 'resnet*' vgg16    # some

Images are small if the network takes them, because the question is which operations a
converter knows, not how many. It needs requirements-exchange.txt.
"""

import argparse
import fnmatch
import functools
import logging
import tempfile

import jax
import numpy as np

import models
from comparison import published
from weights import export, formats, names

SIZES = (32, 64, 75, 107)  # pixels, tried before the network's own


def main():
    parser = argparse.ArgumentParser(prog="python -m weights.coverage")
    parser.add_argument("networks", nargs="*", default=["*"], help="names or patterns")
    patterns = parser.parse_args().networks
    for pattern in patterns:
        if not fnmatch.filter(published.PUBLISHED, pattern):
            parser.error(f"no network matches {pattern!r}: see python -m comparison")
    jax.config.update("jax_platforms", "cpu")
    logging.getLogger().setLevel(logging.CRITICAL)  # jax2onnx logs what it skips
    print(f"{'network':<22} safetensors  torchvision  stablehlo  onnx")
    for row in published.PUBLISHED.values():
        if any(fnmatch.fnmatch(row.name, pattern) for pattern in patterns):
            cells = [_try(row, form) for form in export.FORMATS]
            print(f"{row.name:<22} " + "  ".join(cells), flush=True)
            _network.cache_clear()
            jax.clear_caches()  # programs hold their network's weights


def _try(row, form):
    """Returns "yes" if the exported network gave the same logits, else why not.

    "names" means that it has names as torchvision gives them, but no twin to compare;
    "-" that there is no table of such names.
    """
    if form == "torchvision" and names.table("torch", row.name) is None:
        return "-"
    # torchvision's networks need the size that they were made for.
    model, images, variables = _network(row, form != "torchvision")
    try:
        with tempfile.TemporaryDirectory() as folder:
            export.export(model, row.name, variables, images, form, folder)
    except Exception as error:  # any failure of a converter is an answer
        return f"no ({formats.first_line(error)})"
    return "names" if form == "torchvision" and row.name not in names.TWINS else "yes"


@functools.lru_cache(maxsize=1)
def _network(row, small):
    """Returns the network, two images (as small as it takes if `small`), variables."""
    fields, _ = names.needed_fields("torch", row.name)  # those of its twin
    model = models.create(row.name, num_classes=row.classes, **fields)
    init = functools.partial(model.init, train=False)
    sizes = [size for size in SIZES if small and size < row.image]
    for size in (*sizes, row.image):
        shape = (2, size, size, row.channels)
        images = np.random.default_rng(0).normal(size=shape).astype(np.float32)
        try:
            shapes = jax.eval_shape(init, jax.random.key(0), images)
        except (ValueError, TypeError, ZeroDivisionError):
            continue
        return model, images, _random(shapes)
    raise ValueError(f"{row.name} takes no images")


# The ranges from which arrays other than kernels are drawn. Scales of at most 1 keep
# the activations of deep networks, and so their rounding errors, from growing.
RANGES = {"scale": (0.5, 1), "var": (0.5, 1.5)}


def _random(shapes):
    """Random variables; to compile `init` would take minutes for a deep DenseNet."""
    rng = np.random.default_rng(0)

    def draw(path, x):
        if len(x.shape) > 1:
            value = rng.normal(0, np.prod(x.shape[:-1]) ** -0.5, x.shape)
        else:
            value = rng.uniform(*RANGES.get(path[-1].key, (-0.1, 0.1)), x.shape)
        return value.astype(x.dtype)

    return jax.tree_util.tree_map_with_path(draw, shapes)


if __name__ == "__main__":
    main()
