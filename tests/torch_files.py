"""Files as torch.save writes them, made without torch."""

import collections
import io
import pickle
import zipfile

import numpy as np

_STORAGES = {
    "float32": "FloatStorage",
    "int64": "LongStorage",
    "int8": "CharStorage",
    "complex64": "ComplexFloatStorage",
}


class Global:
    """Pickles as the name of something that need not exist."""

    def __init__(self, module, name):
        self.module, self.name = module, name

    def __call__(self):
        raise AssertionError


class Call:
    """Pickles as a call of a function, or of a Global."""

    def __init__(self, function, *arguments):
        self.call = function, arguments

    def __call__(self):  # what it returns may be called again
        raise AssertionError

    def __reduce__(self):
        return self.call


class Tensor:
    """A view of `numbers`, one-dimensional, that torch's rebuilding gets."""

    def __init__(self, numbers, shape, strides):
        self.numbers, self.shape, self.strides = numbers, shape, strides


class _Pickler(pickle._Pickler):
    """Knows Tensors, numpy arrays and Globals."""

    def __init__(self, file):
        super().__init__(file, protocol=2)
        self.storages, self.alive = [], []

    def save(self, value, save_persistent_id=True):
        if isinstance(value, Global):
            self.write(pickle.GLOBAL + f"{value.module}\n{value.name}\n".encode())
            return
        if isinstance(value, np.ndarray):
            strides = tuple(s // value.itemsize for s in value.strides)
            value = Tensor(np.ravel(value, "K"), value.shape, strides)
        if isinstance(value, Tensor):
            value = self.tensor(value)
        self.alive.append(value)  # memo goes by id
        super().save(value, save_persistent_id)

    def tensor(self, value):
        number = len(self.storages)
        self.storages.append(value.numbers)
        rest = False, collections.OrderedDict()
        function, dtype = "_rebuild_tensor_v2", value.numbers.dtype
        if "float8" in dtype.name:
            rest += (Global("torch", dtype.name),)
            function, storage = "_rebuild_tensor_v3", Global("torch", "UntypedStorage")
        else:
            storage = Global("torch", _STORAGES[dtype.name])
        identifier = "storage", storage, str(number), "cpu", value.numbers.size
        return Call(
            Global("torch._utils", function),
            _Storage(identifier),
            0,
            value.shape,
            value.strides,
            *rest,
        )

    def persistent_id(self, value):
        return value.identifier if isinstance(value, _Storage) else None


class _Storage:
    def __init__(self, identifier):
        self.identifier = identifier


def write(path, value, zipped=True):
    """Writes dicts of arrays, Tensors and other values; zipped as since torch 1.6."""
    content = io.BytesIO()
    pickler = _Pickler(content)
    pickler.dump(value)
    storages = pickler.storages
    if zipped:
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("x/data.pkl", content.getvalue())
            for number, numbers in enumerate(storages):
                archive.writestr(f"x/data/{number}", numbers.tobytes())
        return path
    with open(path, "wb") as file:
        for start in (0x1950A86A20F9469CFC6C, 1001, {"little_endian": True}):
            pickle.dump(start, file, protocol=2)
        file.write(content.getvalue())
        pickle.dump([str(number) for number in range(len(storages))], file, protocol=2)
        for numbers in storages:
            file.write(numbers.size.to_bytes(8, "little") + numbers.tobytes())
    return path
