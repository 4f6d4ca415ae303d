"""Reads and writes files of named arrays: torch's, Keras's and safetensors.

Nothing in a file is executed: the unpickler for torch's files knows only the few names
that build tensors, and those are functions of this module.
"""

import collections
import math
import pathlib
import pickle
import zipfile

import ml_dtypes
import numpy as np
import safetensors
import safetensors.numpy

from errors import UserError

OURS = "convnets"  # the "format" in the metadata of our safetensors


class WeightsError(UserError):
    """Weights cannot be read, fitted or written; says which and what to do."""


def first_line(error):
    """One line for an exception: its type and the first line of its message, if any."""
    lines = str(error).strip().splitlines()
    return ": ".join([type(error).__name__, *lines[:1]])


def read(path):
    """Reads the arrays of a file: (kind, {name: array}).

    The kind says whose names they are: "ours", "torch" or "keras".

    Raises:
      WeightsError: there is no such file, its type is not what its name says, or it is
        damaged.
    """
    path = pathlib.Path(path)
    readers = {
        ".safetensors": _read_safetensors,
        ".pth": _read_torch,
        ".pt": _read_torch,
        ".tar": _read_torch,
        ".bin": _read_torch,
        ".h5": _read_h5,
        ".keras": _read_keras,
    }
    if not path.exists():
        raise WeightsError(f"there is no file or run directory {path}")
    if path.suffix not in readers:
        known = ", ".join(readers)
        raise WeightsError(f"{path}: unknown type of file; known are {known}")
    try:
        kind, arrays = readers[path.suffix](path)
    except safetensors.SafetensorError as error:
        raise WeightsError(
            f"{path} is damaged or no safetensors file: {error}"
        ) from error
    except OSError as error:
        raise WeightsError(f"{path} cannot be read: {error}") from error
    if not arrays:
        raise WeightsError(f"{path} holds no arrays")
    return kind, arrays


def recorded_network(path):
    """The network that one of our safetensors files names; None for other files."""
    if pathlib.Path(path).suffix != ".safetensors":
        return None
    with safetensors.safe_open(path, "numpy") as file:
        metadata = file.metadata() or {}
    return metadata.get("network") if metadata.get("format") == OURS else None


def write_safetensors(path, arrays, metadata):
    """Writes {name: array} and the strings of `metadata`."""
    contiguous = {n: np.ascontiguousarray(v) for n, v in arrays.items()}
    safetensors.numpy.save_file(contiguous, path, metadata)


def _read_safetensors(path):
    with safetensors.safe_open(path, "numpy") as file:
        kind = "ours" if (file.metadata() or {}).get("format") == OURS else "torch"
        return kind, {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118


# torch.save's files.

_STORAGES = {
    "DoubleStorage": np.float64,
    "FloatStorage": np.float32,
    "HalfStorage": np.float16,
    "BFloat16Storage": ml_dtypes.bfloat16,
    "LongStorage": np.int64,
    "IntStorage": np.int32,
    "ShortStorage": np.int16,
    "CharStorage": np.int8,
    "ByteStorage": np.uint8,
    "BoolStorage": np.bool_,
}
_MAGIC = 0x1950A86A20F9469CFC6C  # starts files from before torch 1.6


class _Tensor:
    """A view of a storage, whose numbers follow later in the file."""

    def __init__(self, storage, offset, shape, strides, *unused):
        self.storage, self.offset = storage, offset
        self.shape, self.strides = shape, strides

    def array(self, storages):
        """Copies the view to an array, after a check that it lies in the storage."""
        numbers = storages[self.storage]
        fields = (self.offset, *self.shape, *self.strides)
        if not all(isinstance(n, int) and n >= 0 for n in fields):
            raise ValueError(f"a tensor with the shape {self.shape}")
        last = sum((n - 1) * s for n, s in zip(self.shape, self.strides, strict=True))
        if math.prod(self.shape) and self.offset + last >= len(numbers):
            raise ValueError(f"a tensor of {self.shape} exceeds its storage")
        strides = [s * numbers.itemsize for s in self.strides]
        return np.lib.stride_tricks.as_strided(
            numbers[self.offset :], self.shape, strides
        ).copy()


class _Ignored:
    """Stands for an object that holds no weights; its contents are dropped."""

    def __new__(cls, *arguments):
        return super().__new__(cls)

    def __setstate__(self, state):
        pass


class _Unpickler(pickle.Unpickler):
    """Knows the globals of a state dict, and nothing that could do harm if called."""

    KNOWN = {
        ("collections", "OrderedDict"): collections.OrderedDict,
        ("torch._utils", "_rebuild_tensor_v2"): _Tensor,
        ("torch._utils", "_rebuild_tensor"): _Tensor,
        ("torch._utils", "_rebuild_parameter"): lambda tensor, *unused: tensor,
    }

    def __init__(self, file):
        super().__init__(file)
        self.dtypes, self.sizes = {}, {}

    def find_class(self, module, name):
        if module == "torch" and name in _STORAGES:
            return np.dtype(_STORAGES[name])
        try:
            return self.KNOWN[module, name]
        except KeyError:
            if (module, name) == ("argparse", "Namespace"):
                return _Ignored  # training options beside the weights
            raise pickle.UnpicklingError(
                f"it needs {module}.{name}, which is no part of a state dict"
            ) from None

    def persistent_load(self, identifier):
        _, dtype, key, _, size, *_ = identifier
        self.dtypes[key], self.sizes[key] = dtype, size
        return key


def _read_torch(path):
    try:
        if zipfile.is_zipfile(path):
            value, storages = _read_zip(path)
        else:
            value, storages = _read_legacy(path)
        tensors = _state_dict(value)
        return "torch", {n: t.array(storages) for n, t in tensors.items()}
    except OSError:
        raise
    # A damaged pickle can make the unpickler raise anything, but not execute anything.
    except Exception as error:
        raise WeightsError(
            f"{path} is damaged or no state dict saved by torch: {error}; a whole "
            "module is saved as one by torch.save(module.state_dict(), path)"
        ) from error


def _read_zip(path):
    with zipfile.ZipFile(path) as archive:
        names = archive.namelist()
        root = next(n for n in names if n.endswith("data.pkl")).removesuffix("data.pkl")
        if (
            f"{root}byteorder" in names
            and archive.read(f"{root}byteorder") != b"little"
        ):
            raise ValueError("it comes from a big-endian machine")
        with archive.open(f"{root}data.pkl") as file:
            unpickler = _Unpickler(file)
            value = unpickler.load()
        storages = {
            key: np.frombuffer(archive.read(f"{root}data/{key}"), dtype)
            for key, dtype in unpickler.dtypes.items()
        }
    return value, storages


def _read_legacy(path):
    """Reads four pickles, then the storages' keys, then each storage's length and data.

    This is the format of torch before 1.6.
    """
    with open(path, "rb") as file:
        if _Unpickler(file).load() != _MAGIC:
            raise ValueError("its first number is not torch's")
        for _ in ("version", "system"):
            _Unpickler(file).load()
        unpickler = _Unpickler(file)
        value = unpickler.load()
        storages = {}
        for key in _Unpickler(file).load():
            size = int.from_bytes(file.read(8), "little")
            if size != unpickler.sizes[key]:
                raise ValueError(f"a storage of {size} numbers")
            dtype = unpickler.dtypes[key]
            content = file.read(size * dtype.itemsize)
            storages[key] = np.frombuffer(content, dtype, size)
    return value, storages


def _state_dict(value):
    """Finds the tensors by name; training scripts put them under their own key."""
    for key in ("state_dict", "model", "model_state_dict"):
        if isinstance(value, dict) and isinstance(value.get(key), dict):
            value = value[key]
    tensors = value if isinstance(value, dict) else {}
    tensors = {n: t for n, t in tensors.items() if isinstance(t, _Tensor)}
    if not tensors:
        raise ValueError("it holds no tensors by name")
    return tensors


# Keras's files.


def _read_keras(path):
    try:
        with zipfile.ZipFile(path) as archive, archive.open("model.weights.h5") as file:
            return "keras", _h5_arrays(file)
    except OSError:
        raise
    except Exception as error:  # zlib and zipfile raise many
        raise WeightsError(f"{path} is damaged or no .keras file: {error}") from error


def _read_h5(path):
    """Reads {"conv1_conv/kernel": array, ...}, with Keras's names of the layers."""
    try:
        return "keras", _h5_arrays(path)
    except OSError:
        raise
    # A damaged file makes h5py raise nearly anything.
    except Exception as error:
        raise WeightsError(
            f"{path} is damaged or no file of Keras: {first_line(error)}"
        ) from error


def _h5_arrays(path):
    import h5py  # not at the top: few runs read such a file

    with h5py.File(path) as file:
        old = file.get("model_weights", file)
        if "layer_names" in old.attrs:
            return dict(_old_layers(old))
        arrays = {}

        def visit(name, group):
            if name.rsplit("/", 1)[-1] == "vars" and "name" in group.attrs:
                names = _keras_arrays(name.split("/")[-2:-1], len(group))
                for i, array in enumerate(names):
                    arrays[f"{group.attrs['name']}/{array}"] = group[str(i)][()]

        file.visititems(visit)
    return arrays


def _old_layers(group):
    """Reads layers as model.save("x.h5") and keras.applications write them."""
    for layer in group.attrs["layer_names"]:
        layer = layer.decode() if isinstance(layer, bytes) else layer
        for name in group[layer].attrs["weight_names"]:
            name = name.decode() if isinstance(name, bytes) else name
            array = name.rsplit("/", 1)[-1].split(":")[0]
            yield f"{layer}/{array}", group[layer][name][()]


def _keras_arrays(path, number):
    """Names a layer's arrays, which the file only numbers; without scale, no gamma."""
    kind = path[0] if path else ""
    if kind.startswith("batch_normalization"):
        names = ("gamma", "beta", "moving_mean", "moving_variance")
        return names[-number:] if number else ()
    return ("kernel", "bias", *map(str, range(2, number)))[:number]
