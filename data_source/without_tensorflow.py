"""Lets tfds prepare the common data sets where TensorFlow is not installed.

tfds' builders of SETS download, shuffle and write on their own. They call TensorFlow to
open files and to encode images, and the stand-in here has those functions alone. An
image that is encoded anew may get other bytes than TensorFlow gives it (a PNG has the
same pixels), so sizes in dataset_info.json may differ; all else is the same.
"""

import contextlib
import io
import os
import types

import numpy as np
import simplejpeg
from PIL import Image

from data_source.records import TFRecordWriter

SETS = {"mnist", "fashion_mnist", "cifar10", "cifar100", "voc", "imagenet2012"}


@contextlib.contextmanager
def stand_in():
    """Gives all modules of tfds the stand-in for TensorFlow, as long as it is open."""
    from tensorflow_datasets.core.utils import lazy_imports_utils

    lazy = vars(lazy_imports_utils.tensorflow)  # the modules share this one object
    before = lazy.get("_module")
    lazy["_module"] = _TENSORFLOW
    try:
        yield
    finally:
        del lazy["_module"]
        if before is not None:
            lazy["_module"] = before


def _decode_png(data, **_):
    with Image.open(io.BytesIO(data)) as image:
        return np.asarray(image.convert("RGB"))


def _decode_jpeg(data):
    """Returns the pixels uint8 [H, W, 3] of a CMYK JPEG, bit for bit as TensorFlow.

    With Adobe's marker ink is stored inverted, so R = C K / 255, and without it
    R = (255 - C) (255 - K) / 255 (tensorflow/core/lib/jpeg/jpeg_mem.cc).
    """
    ink = simplejpeg.decode_jpeg(data, "CMYK", fastdct=True).astype(int)
    with Image.open(io.BytesIO(data)) as image:
        ink = ink if "adobe" in image.info else 255 - ink
    return (ink[..., :3] * ink[..., 3:] // 255).astype(np.uint8)


def _encode(form, **options):
    """Returns the function: pixels uint8 [H, W, C] -> bytes of an image file."""

    def encode(pixels, **_):
        file = io.BytesIO()
        image = pixels[..., 0] if pixels.shape[-1] == 1 else pixels
        Image.fromarray(image).save(file, form, **options)
        return file.getvalue()

    return encode


def _eager(function):
    """Returns `function` with its result in a TensorFlow tensor's place."""
    return lambda *args, **kwargs: types.SimpleNamespace(
        numpy=lambda: function(*args, **kwargs)
    )


class _Tensor:
    """No value is one; tfds asks where TensorFlow was imported before."""


_TENSORFLOW = types.SimpleNamespace(
    Tensor=_Tensor,
    dtypes=types.SimpleNamespace(DType=_Tensor),
    compat=types.SimpleNamespace(as_text=os.fsdecode),
    executing_eagerly=lambda: True,
    image=types.SimpleNamespace(
        decode_jpeg=_eager(_decode_jpeg),
        decode_png=_eager(_decode_png),
        encode_jpeg=_eager(_encode("JPEG", quality=100, subsampling=2, dpi=(300, 300))),
        encode_png=_eager(_encode("PNG")),
    ),
    io=types.SimpleNamespace(
        TFRecordWriter=TFRecordWriter,
        gfile=types.SimpleNamespace(
            GFile=open, exists=os.path.exists, remove=os.remove
        ),
    ),
)
