"""Finds a directory that TFDS prepared, or has tfds download and prepare it.

Functions import tfds, and tensorflow for sets that need it, only when they need them.
"""

import contextlib
import difflib
import importlib.util
import json
import os
import re
import socket
import threading
import urllib.parse
import urllib.request
from pathlib import Path

import numpy as np

from data_source import records, without_tensorflow
from data_source.records import Source
from data_source.split import DataError, Findings, Split
from errors import shortened

EMBEDDED = Path(__file__).resolve().parents[1] / "data"
PROBE_SECONDS = 5
# (image shape, number of classes) of sets that need not be on disk, as tfds has them.
STOCK = {
    "mnist": ((28, 28, 1), 10),
    "fashion_mnist": ((28, 28, 1), 10),
    "cifar10": ((32, 32, 3), 10),
    "cifar100": ((32, 32, 3), 100),
    "imagenet2012": ((None, None, 3), 1000),
}


def open_split(name, split, *, data_dir=None, download=True):
    """Opens a split of the TFDS set `name` for data_source.open_split."""
    builder = find_builder(name, data_dir, download)
    image, label = _image_and_label(name, builder.info.features)
    split, source = open_records(builder, name, split)
    remarks = chosen_config(name, builder)
    findings = Findings(remarks=remarks) if remarks else None
    return Split(name, split, source, tuple(image.shape), tuple(label.names), findings)


def chosen_config(name, builder):
    """Returns, in a list, the line that says which config a name without one means."""
    name = name.partition(":")[0]
    config = Path(builder.info.data_dir).parent.name
    if config == name or "/" in name:
        return []
    return [f"{name} is read as {name}/{config}, the config that is prepared"]


def open_records(builder, name, split):
    """Returns the name of a split, which may be "auto", and its `Source`.

    Raises:
      DataError: there is no such split, or it holds no examples.
    """
    info = builder.info
    if split == "auto":
        split = "validation" if "validation" in info.splits else "test"
    try:
        part = info.splits[split]
        files = part.file_instructions
    except (KeyError, ValueError) as error:
        reason = str(error).strip("'\"").splitlines()[0]
        raise DataError(
            f"{name!r} has no split {split!r}: it has {sorted(info.splits)} and slices "
            f"of them such as 'train[:80%]' ({reason})"
        ) from error
    if not files:
        raise DataError(f"Split {split!r} of {name!r} holds no examples.")
    return split, Source(name, split, info.features, files, info.file_format.value)


def describe(name, *, data_dir=None):
    """Returns (image_shape, num_classes) for data_source.describe."""
    known = STOCK.get(name)
    with contextlib.suppress(DataError):  # no such name or folder: tfds knows better
        _, places = _places(name, data_dir)
        if directory := next(filter(None, (_prepared(p, name) for p in places)), None):
            known = _noted(directory)
    if known:
        return known
    features = describing_builder(name, data_dir).info.features
    image, label = _image_and_label(name, features)
    return tuple(image.shape), label.num_classes


def _noted(directory):
    """Returns (image_shape, num_classes) if features.json has them in the usual form.

    tfds, whose import takes half a second, need not be asked then.
    """
    try:
        features = json.loads((directory / "features.json").read_text())
        features = features["featuresDict"]["features"]
        image, label = features["image"]["image"], features["label"]["classLabel"]
        sides = [int(side) for side in image["shape"]["dimensions"]]
        number = int(label["numClasses"])
    except (OSError, ValueError, KeyError, TypeError):
        return None
    if image["dtype"] != "uint8" or sides[-1] not in (1, 3) or number < 2:
        return None
    return tuple(None if side < 0 else side for side in sides), number


def describing_builder(name, data_dir):
    """Returns the tfds builder of a prepared set, or of one that tfds only knows.

    Raises:
      DataError: it is neither.
    """
    try:
        return find_builder(name, data_dir, download=False)
    except DataError:
        import tensorflow_datasets as tfds

        try:
            builder = tfds.builder(name, try_gcs=False)
        except Exception:
            builder = None
        if builder is None:
            raise
        return builder


def _image_and_label(name, features):
    features = dict(features) if hasattr(features, "items") else {}
    image, label = features.get("image"), features.get("label")
    if not hasattr(image, "encoding_format") or not getattr(label, "num_classes", 0):
        raise DataError(
            f"{name!r} is not an image classification set: it needs an image feature "
            f"'image' and a class label 'label', and has {sorted(features)}."
        )
    if label.num_classes == 1:
        raise DataError(f"{name!r} has one class, and two are needed.")
    if image.np_dtype != np.uint8:
        raise DataError(f"{name!r} has {image.np_dtype} images; only uint8 is read.")
    check_channels(name, image.shape[-1])
    return image, label


def check_channels(name, channels):
    """Raises DataError if images of a set are neither grey nor RGB."""
    if channels not in (1, 3):
        raise DataError(
            f"{name!r} has images of {channels} channels; only grey (1) and RGB (3) "
            "are read."
        )


def _places(name, data_dir):
    """Returns the usual folders of data sets, and those in which to look for `name`.

    Raises:
      DataError: that is no name, or there is no folder `data_dir`.
    """
    if not re.fullmatch(r"\w+(/[\w.-]+)?(:[\d.*]+)?", name):
        raise DataError(f"{name!r} is not a data set name such as 'mnist'.")
    usual = [os.environ.get("TFDS_DATA_DIR"), "~/tensorflow_datasets", EMBEDDED]
    usual = [Path(d).expanduser() for d in usual if d]
    places = [Path(data_dir).expanduser()] if data_dir else usual
    if data_dir and not places[0].is_dir():
        raise DataError(f"The data directory {data_dir} does not exist.")
    return usual, places


def find_builder(name, data_dir, download):
    """Returns the tfds builder of a prepared set, which `download` may prepare.

    Raises:
      DataError: the set cannot be had.
    """
    usual, places = _places(name, data_dir)
    import tensorflow_datasets as tfds

    for place in places:
        if directory := _prepared(place, name):
            try:
                return tfds.builder_from_directory(str(directory))
            except Exception as error:
                raise DataError(f"{directory} cannot be opened: {error}") from error
    elsewhere = [d for d in (_prepared(p, name) for p in usual) if d]
    if data_dir and elsewhere:
        # The user hardly ever wants to download a second copy.
        raise DataError(
            f"The data directory {data_dir} does not hold {name!r}; it is prepared in "
            f"{elsewhere[0]} (found when no data directory is given)."
        )
    return _download(name, places, download)


def _prepared(place, name):
    """Returns the newest prepared version of `name` under a TFDS directory, or None."""
    name, _, version = name.partition(":")
    base = place / name
    if not base.is_dir():
        return None

    def versions(pattern):  # tfds leaves names such as 3.0.1.incompleteABC behind
        found = (p.parent for p in base.glob(f"{pattern}/dataset_info.json"))
        return [d for d in found if re.fullmatch(r"\d+\.\d+\.\d+", d.name)]

    found = versions(version or "*")
    if not found and "/" not in name:
        found = versions(f"*/{version or '*'}")
        if len({d.parent for d in found}) > 1:
            configs = sorted({d.parent.name for d in found})
            raise DataError(f"{name!r} has several configs; name one: {configs}")
    return max(found, key=lambda d: [int(n) for n in d.name.split(".")], default=None)


def prepare(name, data_dir, *, manual_dir=None, file_format="array_record"):
    """Has tfds download and prepare `name` under `data_dir`; returns the directory.

    Archives that lie in `manual_dir` under their own names are not downloaded.

    Raises:
      DataError: there is no such set or folder, or the set cannot be prepared.
    """
    if manual_dir and not manual_dir.is_dir():
        raise DataError(
            f"--manual_dir={manual_dir} is no folder: name the one that holds the "
            "archives, or leave it out to download them."
        )
    place = Path(data_dir)
    builder = stock_builder(name, [place], file_format)
    problem = not builder.is_prepared() and (
        _without_tensorflow(builder) or _not_to_be_had(builder, place, manual_dir)
    )
    if problem:
        raise DataError(f"{name!r} cannot be prepared: {problem}.")
    try:
        _prepare(builder, manual_dir)
    except Exception as error:  # a full disk, a changed checksum
        raise DataError(
            f"{name!r} could not be prepared by tfds: {type(error).__name__}: {error}"
        ) from error
    return Path(builder.data_dir)


def _download(name, places, download):
    """Prepares `name` with tfds as array_record in the first of `places`."""
    builder = stock_builder(name, places, "array_record")
    missing = f"{name!r} is missing. It is not prepared in {_listed(places)}"
    elsewhere = (
        f"To prepare it on a machine with a network, run: python prepare.py {name} "
        f"--data_dir=DIR; then copy DIR/{builder.name} to {places[0]}."
    )
    if not download:
        raise DataError(f"{missing}. {elsewhere}")
    problem = _without_tensorflow(builder) or _not_to_be_had(builder, places[0])
    if problem:
        raise DataError(f"{missing}, and cannot be downloaded ({problem}). {elsewhere}")
    try:
        _prepare(builder)
    except Exception as error:  # a manual download, a full disk, a changed checksum
        raise DataError(
            f"{missing}, and could not be prepared there by tfds: "
            f"{type(error).__name__}: {error}\n{elsewhere}"
        ) from error
    return builder


def _listed(places):
    return ", ".join(map(str, places))


def stock_builder(name, places, file_format):
    """Returns tfds' builder that prepares `name` in the first of `places`."""
    import tensorflow_datasets as tfds

    try:
        return tfds.builder(
            name, data_dir=str(places[0]), file_format=file_format, try_gcs=False
        )
    except tfds.core.registered.DatasetNotFoundError:
        # Including community sets would import tensorflow and ask the network.
        known = set(tfds.list_builders(with_community_datasets=False))
        known |= {d.name for p in places if p.is_dir() for d in p.iterdir()}
        near = difflib.get_close_matches(name, known, 3)
        hint = f" Did you mean {' or '.join(near)}?" if near else ""
        raise DataError(
            f"There is no data set {name!r}.{hint} It is not prepared in "
            f"{_listed(places)}."
        ) from None
    except Exception as error:
        raise DataError(f"Data set {name!r}: {error}") from error


def _without_tensorflow(builder):
    """Says that TensorFlow is missing, if it is needed; else returns None."""
    if builder.name in without_tensorflow.SETS or importlib.util.find_spec(
        "tensorflow"
    ):
        return None
    return (
        "tfds needs TensorFlow to prepare it: pip install -r requirements-prepare.txt, "
        "with Python 3.11 to 3.13"
    )


def _not_to_be_had(builder, place, manual_dir=None):
    """Says why the files of a set cannot be downloaded; None if they can.

    Of the files in `manual_dir` one that tfds would download is enough: a config may
    need no more.
    """
    if manual := builder.MANUAL_DOWNLOAD_INSTRUCTIONS:
        if manual_dir or (place / "downloads/manual").is_dir():
            return None
        return f"{place}/downloads/manual is missing; {' '.join(manual.split())}"
    files = type(builder).url_infos or {}
    if manual_dir and files:
        names = [info.filename for info in files.values() if info.filename]
        if any((manual_dir / name).exists() for name in names):
            return None
        print(f"{manual_dir} has none of tfds' files: {shortened(names)}", flush=True)
    return next(filter(None, map(_unreachable, files)), None)


def _prepare(builder, manual_dir=None):
    """Downloads and prepares a set with tfds, with TensorFlow only where it must be."""
    import tensorflow_datasets as tfds

    config = tfds.download.DownloadConfig(manual_dir=manual_dir)
    if builder.name in without_tensorflow.SETS:
        records.allow_many_files()  # tfds shuffles more than 1 GB in a thousand files
        with without_tensorflow.stand_in():
            builder.download_and_prepare(download_config=config)
        return
    import tensorflow as tf

    tf.config.set_visible_devices([], "GPU")
    builder.download_and_prepare(download_config=config)


def _unreachable(url):
    """Returns why the host of `url` (or its proxy) is unreachable; None if it is not.

    tfds itself retries for 204 s. The thread limits the time of the name look-up, which
    has no time-out of its own.
    """
    scheme = urllib.parse.urlsplit(url).scheme
    host = urllib.parse.urlsplit(url).hostname
    if not urllib.request.proxy_bypass(host):
        url = urllib.request.getproxies().get(scheme, url)
        url = url if "://" in url else f"http://{url}"
    parts = urllib.parse.urlsplit(url)
    port = parts.port or (80 if parts.scheme == "http" else 443)
    problem = [f"no answer from {parts.hostname}:{port} in {PROBE_SECONDS} s"]

    def probe():
        try:
            socket.create_connection((parts.hostname, port), PROBE_SECONDS).close()
            problem[0] = None
        except OSError as error:
            problem[0] = f"no connection to {parts.hostname}:{port}: {error}"

    thread = threading.Thread(target=probe, daemon=True)
    thread.start()
    thread.join(PROBE_SECONDS)
    return problem[0]
