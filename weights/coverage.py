"""Which export covers which network: all of models.MODELS, with random weights.

    python -m weights.coverage                    # all, one line each
    python -m weights.coverage 'resnet*' vgg16    # some

Images are small where the network takes them, because what is asked is which operations
a converter knows, not how many. Needs requirements-exchange.txt.
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
# With which a network is its twin's.
TWINS_FIELDS = {
    **{f"resnet{depth}": {"stride_on": "3x3"} for depth in (50, 101, 152)},
    "inception_v3": {"count_include_pad": True},
}


def main():
    parser = argparse.ArgumentParser(prog="python -m weights.coverage")
    parser.add_argument("networks", nargs="*", default=["*"], help="names or patterns")
    patterns = parser.parse_args().networks
    jax.config.update("jax_platforms", "cpu")
    logging.getLogger().setLevel(logging.CRITICAL)  # jax2onnx tells what it skips
    print(f"{'network':<22} safetensors  torchvision  stablehlo  onnx")
    for row in published.PUBLISHED.values():
        if any(fnmatch.fnmatch(row.name, pattern) for pattern in patterns):
            cells = [_try(row, form) for form in export.FORMATS]
            print(f"{row.name:<22} " + "  ".join(cells), flush=True)
            _network.cache_clear()
            jax.clear_caches()  # Programs hold their network's weights.


def _try(row, form):
    """ "yes" if the network went out and came back with its logits, else why not.

    "names": in torchvision's manner of naming, which has no such network.
    """
    if form == "torchvision" and names.table("torch", row.name) is None:
        return "-"
    # torchvision's networks take the size that they were made for.
    model, images, variables = _network(row, form != "torchvision")
    try:
        with tempfile.TemporaryDirectory() as folder:
            export.export(model, row.name, variables, images, form, folder)
    except Exception as error:  # any failure of a converter is an answer
        return f"no ({formats.first_line(error)})"
    return "names" if form == "torchvision" and row.name not in names.TWINS else "yes"


@functools.lru_cache(maxsize=1)
def _network(row, small):
    """The network, two images, of the smallest size if `small`, and its variables."""
    fields = TWINS_FIELDS.get(row.name, {})
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


# Where arrays other than kernels are drawn. Scales of at most 1 keep the activations of
# deep networks from growing, which would make rounding as large.
RANGES = {"scale": (0.5, 1), "var": (0.5, 1.5)}


def _random(shapes):
    """Variables of these shapes; compiling `init` takes minutes for a deep DenseNet."""
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
