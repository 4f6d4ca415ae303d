"""Files of exports: written beside their place, read back, and put there if right.

export.py and detectors.py say what lies in them.
"""

import contextlib
import json

import flax
import jax
import jax.export
import numpy as np

import weights
from kernels import ops
from weights import formats, names
from weights.formats import WeightsError

# The largest difference, relative to the largest output. Runtimes add in different
# orders; the parity of our networks with other implementations bounds the effect in
# float32. A wrong layer gives 1.
TOLERANCE = 1e-4
PLATFORMS = ("cpu", "cuda", "rocm", "tpu")
SUFFIXES = {
    "safetensors": ".safetensors",
    "torchvision": ".pth",
    "stablehlo": ".stablehlo",
    "onnx": ".onnx",
}


def difference(found, expected):
    """The largest difference of two arrays, relative to the largest that is expected.

    Of two tuples of arrays it is the largest of any pair; NaN anywhere makes it NaN.
    """
    pairs = zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True)
    ratios = [np.abs(one - other).max() / np.abs(other).max() for one, other in pairs]
    return float(np.max(ratios))


@contextlib.contextmanager
def verified(path):
    """Yields NAME.part, which takes the place of `path` if the block does not raise.

    Until then, an earlier export at `path` stays as it is.
    """
    part = path.with_name(f"{path.name}.part")
    try:
        yield part
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)


def refuse(part, network, form, problem):
    """Raises because NAME.part does not give what the network gives."""
    problem = f"{network} as {form}: {problem}; {part.with_suffix('')} is not written"
    _, why = names.needed_fields("torch", network)
    if form == "torchvision" and why:
        others = ", ".join(other for other in SUFFIXES if other != form)
        problem += f"; {why}: a network trained so has this form; others are {others}"
    raise WeightsError(problem)


def metadata(opened):
    """What our safetensors record of a run: its network's fields, and its classes."""
    fields = opened.config.model.fields.to_dict()
    labels = list(opened.label_names)
    return {"fields": json.dumps(fields), "labels": json.dumps(labels)}


def safetensors(path, network, variables, recorded):
    """Writes our safetensors; returns the variables that `read_back` gives.

    `recorded` is what `metadata` gave, or None.
    """
    flat = flax.traverse_util.flatten_dict(variables, sep="/")
    own = {"format": formats.OURS, "network": network}
    formats.write_safetensors(path, flat, own | (recorded or {}))
    return read_back(path, network, variables)


def read_back(path, network, variables):
    """Reads variables of these shapes back from `path`.

    Raises:
      WeightsError: some of them are missing, or cannot be weights.
    """
    nothing = jax.tree.map(np.zeros_like, variables)
    back, report = weights.load(path, network, nothing)
    if lost := report.missing + report.reinitialized:
        raise WeightsError(
            f"{network}: {', '.join(lost)} did not come back from {path}"
        )
    return back


def torch_missing(network, package, error):
    """The WeightsError of an export that torch cannot read back."""
    return WeightsError(
        f"{network} as torchvision is compared with the network of {package} "
        f"({error}): pip install torch==2.13.0, then pip install --no-deps -r "
        "requirements-parity.txt"
    )


def state_dict(path, network, arrays, net):
    """Writes a state dict, and loads it from the file into torch's `net`.

    Raises:
      WeightsError: it does not fit.
    """
    import torch

    torch.save({n: torch.from_numpy(np.array(v)) for n, v in arrays.items()}, path)
    try:
        net.load_state_dict(torch.load(path, weights_only=True))
    except RuntimeError as error:
        raise WeightsError(
            f"{network} as torchvision: {' '.join(str(error).split())[:300]}"
        ) from error
    net.eval()


def to_torch(images):
    """[B, H, W, C] as torch's [B, C, H, W]."""
    import torch

    return torch.from_numpy(np.ascontiguousarray(images.transpose(0, 3, 1, 2)))


def portable(function):
    """The function in common operations, without kernels of ours."""

    def program(*inputs):
        with ops.portable():
            return function(*inputs)

    return program


def stablehlo(path, function, *inputs):
    """Writes a function of arrays like `inputs`, whose first axis may have any length.

    Returns the function that is read back.
    """
    (batch,) = jax.export.symbolic_shape("batch")
    shapes = [jax.ShapeDtypeStruct((batch, *x.shape[1:]), x.dtype) for x in inputs]
    exported = jax.export.export(jax.jit(portable(function)), platforms=PLATFORMS)
    path.write_bytes(exported(*shapes).serialize())
    return jax.export.deserialize(bytearray(path.read_bytes())).call
