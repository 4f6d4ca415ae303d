"""Opens data sets of annotated objects, as data_source.open_split does of classes.

A name is one of

    digits             MNIST's digits on canvases (digits.py): "train" and "test"
    voc:PATH           a folder of JPEGImages, Annotations and ImageSets/Main, whose
                       lists are the splits
    coco:IMAGES,JSON   a folder and a file of COCO's form. A {split} in either stands
                       for the split's name; without it there is one split, "all"
    NAME               a TFDS set with objects, such as voc/2007, coco/2017 or bccd

or several of these, "A,B". They are joined, with a split for each, "train,trainval",
which is empty where a set is not used. Their classes are numbered as in the first that
is used. A split may be a sum of slices, "train[:80%]+val"; that of files takes them in
the order of a hash of their names. "auto" is the split to evaluate on: "validation" or
"val" if there is one, else "test".
"""

import collections
import concurrent.futures
import dataclasses
import functools
import hashlib
import io
from pathlib import Path

import numpy as np

from data_source import DataError, as_text, tfds_directory
from data_source.classes import compared, numbers
from data_source.image_folder import slice_bounds
from detection import coco_json, digits, records, tfds_features, voc_folder
from detection.split import Split
from errors import shortened

AUTO = ("validation", "val", "test")
THREADS = 16  # read the headers of files; a network drive answers many at once
# Sets of TFDS whose numbers are VOC's.
ONE_BASED = ("voc", "bccd")
# COCO's ids of its 80 classes.
COCO_IDS = tuple(sorted({*range(1, 91)} - {12, 26, 29, 30, 45, 66, 68, 69, 71, 83}))


def open_split(
    name, split, *, data_dir=None, download=True, damaged="drop", unclear="upright"
):
    """Opens a split of the data set `name`.

    All annotations are read, and the beginning of each image, which says its size and
    how EXIF turns it; of a TFDS set these are all records (coco/2017 has 19 GB).

    Args:
      data_dir, download: as for data_source.open_split.
      damaged: what is done with boxes that cannot be right, by `records.Damage`.
      unclear: as for `records.Objects.upright`.

    Raises:
      DataError: the set or split does not exist or cannot be understood; a box is
        damaged and `damaged` is "fail"; an image has another size than its boxes, or is
        named twice.
    """
    names, parts = set_names(name), split.split(",")
    if len(names) != len(parts):
        raise DataError(
            f"{name!r} has {len(names)} sets, and {split!r} has {len(parts)} splits: "
            "name one for each"
        )
    found = []
    for own, part in zip(names, parts, strict=True):
        damage = records.Damage(damaged)
        if not part:
            continue
        if own.startswith(("voc:", "coco:")):
            opened = _open_files(own, part, damage, unclear)
        elif own == "digits":
            part = _auto(own, part, digits.SIZES.__contains__)
            opened = _selected(own, part, digits.open_split)
        else:
            opened = _open_tfds(own, part, data_dir, download, damage, unclear)
        found.append(opened)
    if not found:
        raise DataError(f"{split!r} names no split of {name!r}")
    joined = dataclasses.replace(_joined(found), name=name)
    if twice := _repeated(joined.places()):
        names = shortened(as_text(path) for path, _ in twice)
        raise DataError(
            f"{name}, {split}: images that are named more than once, and would count "
            f"as often: {len(twice):,}, {names}; let each be in one part of the split"
        )
    return joined


def shared_ids(split):
    """The line that says which ids several images of a split have, in a list."""
    shared = _repeated(one.image for one in split.objects)
    if not shared:
        return []
    return [
        f"ids that several images have: {len(shared):,}, {shortened(shared)}; "
        "detections-*.json cannot tell these images apart"
    ]


def _repeated(items):
    """Returns those that occur more than once."""
    return [item for item, times in collections.Counter(items).items() if times > 1]


def dimensions(name, split, *, data_dir=None):
    """Returns (channels, number of classes); a set known to tfds need not be on disk.

    Image files must be, and `split` is one of theirs. The errors are those of
    `open_split`.
    """
    first = set_names(name)[0]
    if first == "digits":
        return 1, len(digits.NAMES)
    if first.startswith(("voc:", "coco:")):
        opened = open_split(name, split)
        return opened.channels, opened.num_classes
    builder = tfds_directory.describing_builder(first, data_dir)
    channels, names = _features(first, builder)
    return channels, len(names)


def set_names(name):
    """Returns the names of the sets in "A,B"; coco: has one comma of its own."""
    names = []
    for part in name.split(","):
        if names and names[-1].startswith("coco:") and "," not in names[-1]:
            names[-1] += f",{part}"
        else:
            names.append(part)
    return names


def describe(*splits):
    """Describes splits of one data set: classes, images, objects and damaged boxes."""
    first = splits[0]
    lines = [f"data: {first.name}, {first.num_classes:,} classes"]
    lines += {split.split: f"  {_counts(split)}" for split in splits}.values()
    remarks = dict.fromkeys(line for split in splits for line in split.remarks)
    return "\n".join(lines + [f"  {remark}" for remark in remarks])


def _counts(split):
    """Says how many images and objects a split has."""
    counts = split.class_counts()
    order = np.argsort(-counts, kind="stable")
    each = shortened([f"{split.label_names[k]}: {counts[k]:,}" for k in order], 6)
    empty = sum(not len(objects) for objects in split.objects)
    without = f", {empty:,} images without" if empty else ""
    return (
        f"{split.split}: {len(split):,} images, {counts.sum():,} objects ({each}), at "
        f"most {split.most_objects} in an image{without}"
    )


def _joined(splits):
    """Returns one split of several, with the classes of the first."""
    first, *others = splits
    for split in others:
        places = numbers(split.label_names, first.label_names)
        if places is None or split.channels != first.channels:
            raise DataError(
                f"{split.name} cannot be joined with {first.name}: "
                f"{compared(split.label_names, first.label_names)}; images of "
                f"{split.channels} and {first.channels} channels"
            )
        remarks = first.remarks + split.remarks
        if lacking := sorted({*first.label_names} - {*split.label_names}):
            remarks += (
                f"{split.name}, {split.split}, has {split.num_classes} of the "
                f"{first.num_classes} classes; whatever it shows of others counts as "
                f"background: {shortened(lacking)}",
            )
        split = split.renumbered(places, first.label_names)
        first = dataclasses.replace(
            first,
            split=f"{first.split},{split.split}",
            objects=first.objects + split.objects,
            images=first.images + split.images,
            remarks=tuple(dict.fromkeys(remarks)),
        )
    return first


def _selected(name, split, read):
    """Returns a sum of slices; read(base) opens a whole split."""
    read, found = functools.cache(read), []
    for part in map(str.strip, split.split("+")):
        base, bracket, wanted = part.partition("[")
        whole = read(base.strip())
        if bracket:
            try:  # TFDS has no slices of a split "all"
                start, stop = slice_bounds(f"split[{wanted}", len(whole))
            except ValueError as error:
                raise DataError(f"{name!r} has no split {part!r}: {error}") from error
            order = sorted(range(len(whole)), key=lambda i: _hash(whole.objects[i]))
            whole = whole.chosen(sorted(order[start:stop]))
        found.append(whole)
    chosen = dataclasses.replace(_joined(found), split=split)
    if not len(chosen):
        raise DataError(f"Split {split!r} of {name!r} holds no examples.")
    return chosen


def _hash(objects):
    name = str(objects.image).encode(errors="surrogateescape")
    return hashlib.blake2b(name, digest_size=8).digest()


def _auto(name, split, there):
    """Returns the split that "auto" means if `there(split)` says whether one exists."""
    found = [known for known in AUTO if there(known)]
    if split != "auto" or found:
        return found[0] if split == "auto" else split
    raise DataError(
        f"{name!r} has none of the splits {', '.join(AUTO)}: say what to evaluate on, "
        "such as config.dataset.eval_split = 'train[90%:]'"
    )


# Image files.


def _open_files(name, split, damage, unclear):
    kind, _, path = name.partition(":")
    if not path:
        raise DataError(f"{name!r} lacks its path")
    there, read = (_voc if kind == "voc" else _coco)(name, path, damage)
    split = _auto(name, split, there)

    def opened(base):
        found = read(base)
        with concurrent.futures.ThreadPoolExecutor(THREADS) as pool:
            turn = functools.partial(_upright, unclear=unclear)
            objects = tuple(pool.map(turn, found.images))
        images = tuple(functools.partial(_bytes, one.name) for one in objects)
        ids = found.categories
        return Split(name, base, found.classes, objects, images, categories=ids)

    selected = _selected(name, split, opened)
    part = "; of the whole list, not of a slice" if "[" in split else ""
    remarks = (f"{line}{part}" for line in damage.remarks())
    return dataclasses.replace(selected, remarks=(*selected.remarks, *remarks))


def _voc(name, path, damage):
    """Returns (whether a split exists, the reader of its annotations)."""
    del name
    root = Path(path).expanduser()
    lists = root / "ImageSets" / "Main"
    return (
        lambda split: (lists / f"{split}.txt").is_file(),
        functools.partial(voc_folder.read, root, damage=damage),
    )


def _coco(name, path, damage):
    """Works as `_voc`."""
    folder, comma, file = path.partition(",")
    if not comma:
        raise DataError(f"{name!r} lacks its JSON: coco:IMAGES,JSON")

    def place(path, split):
        return Path(path.replace("{split}", split)).expanduser()

    def there(split):
        return "{split}" in file and place(file, split).is_file()

    def read(split):
        if "{split}" not in file and split != "all":
            raise DataError(
                f"{name!r} has one split, 'all', of which there are slices such as "
                f"'all[:90%]', and not {split!r}. Where each split has a JSON, write "
                "its name in the path as {split}."
            )
        where = place(folder, split), place(file, split)
        return coco_json.read(*where, damage=damage)

    return there, read


def _bytes(path):
    with open(path, "rb", buffering=0) as file:
        return file.read()


def _upright(objects, unclear):
    """Returns the objects in the pixels of the upright image, with its file's stamp.

    Raises:
      DataError: there is no such file, or it has another size than its boxes.
    """
    path = Path(objects.name)
    try:
        found = path.stat()
    except FileNotFoundError as error:
        raise DataError(
            f"{path.parent} has no image {path.name}, which the annotations name"
        ) from error
    stamp = f"{found.st_size} {found.st_mtime_ns}"
    objects = dataclasses.replace(objects, stamp=stamp)
    try:
        stored, orientation = records.header(path)
    except Exception:  # whoever reads the image says what is wrong with it
        return objects
    return objects.upright(stored, orientation, unclear)


# TFDS.


def _open_tfds(name, split, data_dir, download, damage, unclear):
    builder = tfds_directory.find_builder(name, data_dir, download)
    channels, names = _features(name, builder)
    split, source = tfds_directory.open_records(builder, name, split)
    one_based = name.partition("/")[0].partition(":")[0] in ONE_BASED
    found = []
    for index, stamp in enumerate(source.stamps().tolist()):
        example = source.features(index)
        try:
            stored, orientation = records.header(io.BytesIO(example["image"]))
        except Exception as error:
            raise DataError(
                f"{name}, {split}, record {index}: {error}; its boxes need its size, "
                "whatever config.dataset.damaged and config.eval.damaged say: prepare "
                "the set again, or leave the record out by slices such as 'train[9:]'"
            ) from error
        one = tfds_features.read(example, stored, damage, one_based)
        one = dataclasses.replace(one, stamp=str(stamp))
        found.append(one.upright(stored, orientation, unclear))
    images = tuple(functools.partial(_record, source, i) for i in range(len(found)))
    ids = COCO_IDS if len(names) == len(COCO_IDS) and name.startswith("coco") else ()
    remarks = (*tfds_directory.chosen_config(name, builder), *damage.remarks())
    return Split(name, split, names, tuple(found), images, channels, ids, remarks)


def _features(name, builder):
    """Returns the channels of a TFDS set's images, and the names of its classes."""
    features = dict(builder.info.features)
    objects = dict(getattr(features.get("objects"), "feature", {}))
    named = not {"image/filename", "image/id"}.isdisjoint(features)
    if "image" not in features or not named or not {"bbox", "label"} <= {*objects}:
        raise DataError(
            f"{name!r} is not a set of annotated objects: it needs an image, its "
            "image/filename or image/id, and objects with bbox and label, and has "
            f"{sorted(features)}"
        )
    channels = features["image"].shape[-1]
    tfds_directory.check_channels(name, channels)
    return channels, tuple(objects["label"].names)


def _record(source, index):
    return source.features(index)["image"]
