"""Reads and writes files of named arrays: torch's, Keras's and safetensors.

A file's content tells its type. Nothing in it is executed: the unpickler for torch's
files knows only the few names that build tensors, and those are functions of this
module. Whatever else a pickle names is neither imported nor called.
"""

import collections
import json
import math
import pathlib
import pickle
import typing
import zipfile
import zlib

import ml_dtypes
import numpy as np
import safetensors
import safetensors.numpy

from errors import UserError, shortened

OURS = "convnets"  # the "format" in the metadata of our safetensors
CHECKSUM = "convnets.crc32"  # what we add to that metadata


class WeightsError(UserError):
    """Weights cannot be read, fitted or written; says which and what to do."""


class Contents(typing.NamedTuple):
    """What a source of weights holds.

    Attributes:
      kind: whose names the arrays have: "ours", "torch" or "keras".
      arrays: {name: array}.
      notes: sentences about what was chosen.
    """

    kind: str
    arrays: dict
    notes: tuple = ()


def first_line(error):
    """One line for an exception: its type and the first line of its message, if any."""
    lines = str(error).strip().splitlines()
    return ": ".join([type(error).__name__, *lines[:1]])


def read(path, key=""):
    """Reads the arrays of a file.

    Args:
      key: config.init_key: the name of one of several sets of weights in the file, or a
        prefix of names. With "", an average is taken only if there is nothing else.

    Returns:
      `Contents`.

    Raises:
      WeightsError: there is no such file or set, the file's type is unknown, or it is
        damaged.
    """
    path = pathlib.Path(path)
    if not path.exists():
        raise WeightsError(f"there is no file or run directory {path}")
    what = "a file that can be read"
    try:
        what, reader = _type(path)
        if reader is None:
            raise WeightsError(
                "is no file of weights by its content; known are safetensors and their "
                "index.json, state dicts saved by torch, and .keras and .h5 of Keras"
            )
        contents = reader(path, key)
    except OSError as error:
        raise WeightsError(f"{path} cannot be read: {error}") from error
    except WeightsError as error:
        raise WeightsError(f"{path} {error}") from error
    # A damaged file can make h5py, zipfile and the unpickler raise nearly anything, but
    # not execute anything.
    except Exception as error:
        raise WeightsError(
            f"{path} is damaged or no {what}: {first_line(error)}"
        ) from error
    if not contents.arrays:
        raise WeightsError(f"{path} holds no arrays")
    return contents


class Recorded(typing.NamedTuple):
    """What one of our safetensors files records; None where it does not tell."""

    network: str | None = None
    fields: dict | None = None
    labels: list | None = None


def recorded(path):
    """What a file `Recorded`, which is nothing if it is none of ours."""
    if _type(pathlib.Path(path))[1] is not _read_safetensors:
        return Recorded()
    try:
        with safetensors.safe_open(path, "numpy") as file:
            metadata = file.metadata() or {}
    except safetensors.SafetensorError:  # `read` says more
        return Recorded()
    if metadata.get("format") != OURS and CHECKSUM not in metadata:
        return Recorded()
    fields, labels = (json.loads(metadata.get(n, "null")) for n in ("fields", "labels"))
    return Recorded(metadata.get("network"), fields, labels)


def _type(path):
    """What a file is by its first bytes, and the function that reads it, or None."""
    with path.open("rb") as file:
        start = file.read(9)
    if start.startswith(b"{") and b"\0" not in start:
        return "index of safetensors files", _read_index
    if start[8:] == b"{":  # after the length of the header
        return "safetensors file", _read_safetensors
    if start.startswith(b"\x89HDF\r\n\x1a\n"):
        return "file of Keras", _read_h5
    if start.startswith(b"PK"):
        return "state dict saved by torch or .keras file", _read_zip
    if start.startswith(b"\x80"):
        return "state dict saved by torch", _read_legacy
    return "file of weights", None


def _under(arrays, key):
    """The arrays whose names begin with "<key>.", without that; all of them for ""."""
    if not key:
        return arrays
    start = f"{key}."
    found = {n.removeprefix(start): v for n, v in arrays.items() if n.startswith(start)}
    if not found:
        first = {name.split(".")[0]: None for name in arrays}
        raise WeightsError(
            f"holds nothing under config.init_key = {key!r}; its names begin with "
            f"{shortened(first)}"
        )
    return found


# Safetensors.


def write_safetensors(path, arrays, metadata):
    """Writes {name: array}, the strings of `metadata` and a checksum."""
    arrays = {n: np.asarray(v, order="C") for n, v in arrays.items()}
    metadata = {**(metadata or {}), CHECKSUM: str(_checksum(arrays))}
    # safetensors' own save_file leaves a file that only its owner can read.
    pathlib.Path(path).write_bytes(safetensors.numpy.save(arrays, metadata))


def _checksum(arrays):
    """CRC-32 of the names, types, shapes and bytes."""
    crc = 0
    for name, array in sorted(arrays.items()):
        crc = zlib.crc32(f"{name} {array.dtype} {array.shape}".encode(), crc)
        crc = zlib.crc32(np.ascontiguousarray(array).reshape(-1).view(np.uint8), crc)
    return crc


# The types that numpy knows; of the others a file has not the numbers themselves.
_NUMBERS = "F64 F32 F16 BF16 I64 U64 I32 U32 I16 U16 I8 U8 BOOL".split()


def _read_safetensors(path, key=""):
    with safetensors.safe_open(path, "numpy") as file:
        metadata = file.metadata() or {}
        types = {name: file.get_slice(name).get_dtype() for name in file.keys()}  # noqa: SIM118
        if other := [name for name in types if types[name] not in _NUMBERS]:
            raise WeightsError(quantised(other, types[other[0]]))
        arrays = {name: file.get_tensor(name) for name in types}
    if CHECKSUM in metadata and metadata[CHECKSUM] != str(_checksum(arrays)):
        raise ValueError("its arrays are not those that were written (CRC-32)")
    kind = "ours" if metadata.get("format") == OURS else "torch"
    return Contents(kind, _under(arrays, key))


def quantised(names, dtype):
    """The end of an error about arrays that are no floating-point weights."""
    return (
        f"has {shortened(names)} as {dtype}: quantised weights, which mean nothing "
        "without their scales; save the weights in float32 or float16"
    )


def _read_index(path, key):
    """Reads the files that an index such as model.safetensors.index.json lists."""
    where = json.loads(path.read_text())["weight_map"]
    arrays = {}
    for file in sorted(set(where.values())):
        if pathlib.PurePath(file).name != file:
            raise ValueError(f"{file!r} is no name of a file beside it")
        shard = _read_safetensors(path.with_name(file)).arrays
        listed = {name for name in where if where[name] == file}
        if other := listed ^ shard.keys():
            raise ValueError(
                f"{file} and the list of what it holds differ in {shortened(other)}"
            )
        arrays |= shard
    return Contents("torch", _under(arrays, key))


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
    "UntypedStorage": np.uint8,
}
# Types whose tensors lie in untyped storages.
_TYPES = {
    name: getattr(ml_dtypes, name)
    for name in ("float8_e4m3fn", "float8_e5m2", "float8_e4m3fnuz", "float8_e5m2fnuz")
}
_MAGIC = 0x1950A86A20F9469CFC6C  # starts files from before torch 1.6


class _Tensor:
    """A view of a storage, whose numbers follow later in the file.

    The storage is None if the type of its numbers is not known.
    """

    dtype = None  # that of the storage

    def __init__(self, storage, offset, shape, strides, *unused):
        self.storage, self.offset = storage, offset
        self.shape, self.strides = shape, strides

    @staticmethod
    def __setstate__(state):
        """Keeps a pickle from changing a view or this class."""

    @classmethod
    def typed(cls, storage, offset, shape, strides, grad, hooks, dtype, *unused):
        known = isinstance(dtype, np.dtype)
        tensor = cls(storage if known else None, offset, shape, strides)
        tensor.dtype = dtype
        return tensor

    def array(self, storages):
        """Copies the view to an array, after a check that it lies in the storage."""
        numbers = storages[self.storage]
        numbers = numbers if self.dtype is None else numbers.view(self.dtype)
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
    """Stands for any object or function that makes no weights.

    It takes all that a pickle may do to such a thing, and drops it.
    """

    def __new__(cls, *arguments, **named):
        return super().__new__(cls)

    def _drop(self, *arguments):
        return self

    __call__ = __setstate__ = __setitem__ = append = extend = add = _drop


class _Unpickler(pickle.Unpickler):
    """Knows the globals of a state dict, and nothing that could do harm if called.

    Beside the weights, training scripts save options, numpy's scalars, and the state of
    schedules; none of it is built.

    Attributes:
      dropped: {name: None} of globals that are not listed here, for which `_Ignored`
        stands.
    """

    KNOWN = {
        ("collections", "OrderedDict"): collections.OrderedDict,
        ("torch._utils", "_rebuild_tensor_v2"): _Tensor,
        ("torch._utils", "_rebuild_tensor"): _Tensor,
        ("torch._utils", "_rebuild_tensor_v3"): _Tensor.typed,
        ("torch._utils", "_rebuild_parameter"): lambda tensor, *unused: tensor,
        ("argparse", "Namespace"): _Ignored,
        ("collections", "Counter"): _Ignored,
        ("numpy", "dtype"): _Ignored,
        ("numpy.core.multiarray", "scalar"): _Ignored,
        ("numpy._core.multiarray", "scalar"): _Ignored,
        ("_codecs", "encode"): _Ignored,  # the bytes of a scalar
        ("pathlib", "PosixPath"): _Ignored,
        ("pathlib._local", "PosixPath"): _Ignored,
        ("torch", "Size"): _Ignored,
        ("torch", "device"): _Ignored,
    }

    def __init__(self, file):
        super().__init__(file)
        self.dtypes, self.sizes, self.dropped = {}, {}, {}

    def find_class(self, module, name):
        if module in ("torch", "torch.storage") and name in _STORAGES:
            return np.dtype(_STORAGES[name])
        if module == "torch" and name in _TYPES:
            return np.dtype(_TYPES[name])
        if (module, name) not in self.KNOWN:
            self.dropped[f"{module}.{name}"] = None
        return self.KNOWN.get((module, name), _Ignored)

    def persistent_load(self, identifier):
        _, dtype, key, _, size, *_ = identifier
        self.dtypes[key], self.sizes[key] = dtype, size
        return key


def _read_zip(path, key):
    with zipfile.ZipFile(path) as archive:
        names = archive.namelist()
        if "model.weights.h5" in names:
            with archive.open("model.weights.h5") as file:
                return Contents("keras", _under(_h5_arrays(file), key))
        pickles = [name for name in names if name.endswith("data.pkl")]
        if not pickles:
            raise WeightsError(
                f"is a zip of {shortened(names)}, neither torch's nor Keras's"
            )
        root = pickles[0].removesuffix("data.pkl")
        if (
            f"{root}byteorder" in names
            and archive.read(f"{root}byteorder") != b"little"
        ):
            raise ValueError("it comes from a big-endian machine")
        with archive.open(f"{root}data.pkl") as file:
            unpickler = _Unpickler(file)
            value = unpickler.load()
        storages = {
            name: np.frombuffer(archive.read(f"{root}data/{name}"), dtype)
            for name, dtype in unpickler.dtypes.items()
            if isinstance(dtype, np.dtype)
        }
    return _torch_contents(value, storages, key, unpickler.dropped)


def _read_legacy(path, key):
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
        for name in _Unpickler(file).load():
            size = int.from_bytes(file.read(8), "little")
            if size != unpickler.sizes[name]:
                raise ValueError(f"a storage of {size} numbers")
            dtype = unpickler.dtypes[name]
            if not isinstance(dtype, np.dtype):
                raise WeightsError(
                    f"is of torch before 1.6 and holds {shortened(unpickler.dropped)}, "
                    "past which it is not read; load it in torch and save its weights "
                    "alone by torch.save"
                )
            content = file.read(size * dtype.itemsize)
            storages[name] = np.frombuffer(content, dtype, size)
    return _torch_contents(value, storages, key, unpickler.dropped)


# The names under which training scripts save weights, and their moving average.
_WEIGHTS = (
    "state_dict model model_state_dict model_state net network module weights"
).split()
_AVERAGES = (
    "state_dict_ema model_ema model_ema_state_dict ema_state_dict ema_model ema"
).split()


def _torch_contents(value, storages, key, dropped):
    """The `Contents` for what torch saved, of the set of weights that `key` names."""
    tensors, notes = _tensors(value, key)
    if not tensors and dropped:
        raise WeightsError(
            f"holds no tensors by name; it holds {shortened(dropped)}, which is not "
            "read here; a whole module is saved as a state dict by "
            "torch.save(module.state_dict(), path)"
        )
    if not tensors:
        raise ValueError("it holds no tensors by name")
    if other := [n for n, found in tensors.items() if found.storage not in storages]:
        raise WeightsError(
            f"has {shortened(other)} in a type that is not read here; save the weights "
            "in float32 or float16"
        )
    arrays = {name: tensor.array(storages) for name, tensor in tensors.items()}
    if dropped:
        notes += (f"the file also names {shortened(dropped)}, which is not read",)
    return Contents("torch", arrays, notes)


def _tensors(value, key):
    """Finds ({name: tensor}, notes) in the dicts that training scripts save."""
    sets = _sets(value)
    own = {n: found for n, found in _items(value) if isinstance(found, _Tensor)}
    known = [name for name in (*_WEIGHTS, *_AVERAGES) if name in sets]
    if any("." in name for name in own) and not set(known) & {key, *_WEIGHTS}:
        sets = []  # what else lies in a state dict is no part of it
    if not sets:
        return own and _under(own, key), ()
    if not key and not known and len(sets) > 1:
        raise WeightsError(
            f"holds several sets of weights, {', '.join(sets)}: choose one by "
            "config.init_key"
        )
    chosen, prefix = (key, "") if key in sets else ((known or sets)[0], key)
    try:
        tensors, more = _tensors(value[chosen], prefix)
    except WeightsError as error:
        if not prefix:
            raise
        raise WeightsError(
            f"holds no weights called config.init_key = {key!r}; it holds "
            f"{', '.join(sets)}, and {chosen} {error}"
        ) from error
    notes = ()
    if others := [name for name in sets if name != chosen]:
        notes = (
            f"they are the file's {chosen!r}; it also holds {', '.join(others)}, which "
            "config.init_key chooses",
        )
    elif chosen not in _WEIGHTS:
        notes = (f"they are the file's {chosen!r}; no others can be read",)
    return tensors, notes + more


def _items(value):
    """The items of a dict whose keys are strings; none of anything else."""
    items = value.items() if isinstance(value, dict) else ()
    return [(name, found) for name, found in items if isinstance(name, str)]


def _sets(value):
    """The names of the dicts in `value` that hold tensors by name, or such dicts."""
    inner = {n: [v for _, v in _items(found)] for n, found in _items(value)}
    return [
        name
        for name, found in inner.items()
        if any(isinstance(v, _Tensor) for v in found)
        or name in (*_WEIGHTS, *_AVERAGES)
        and any(isinstance(t, _Tensor) for v in found for _, t in _items(v))
    ]


# Keras's files.


def _read_h5(path, key):
    return Contents("keras", _under(_h5_arrays(path), key))


def _h5_arrays(path):
    """Reads {"conv1_conv/kernel": array, ...}, with Keras's names of the layers."""
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
