"""Reads a folder of JPEGImages, Annotations and ImageSets, as Pascal VOC has it.

An XML counts pixels from 1 and includes the last one, so a box is (x1 - 1, y1 - 1, x2,
y2) here. Fields that are not needed may be missing; where an XML has no size, the image
file says it.
"""

import collections
import xml.etree.ElementTree as ET
from pathlib import Path

from data_source import DataError
from data_source.image_folder import EXTENSIONS
from detection import records
from errors import shortened


def read(root, split, damage=None):
    """Returns the `records.Annotations` of a split.

    The classes are all that occur in Annotations, in order, so that every split has the
    same.

    Args:
      split: the name of a list in ImageSets/Main, such as "trainval".
      damage: a `records.Damage`, which is told of bad boxes; None drops them.

    Raises:
      DataError: a file is missing or cannot be understood; the message names it.
    """
    root, damage = Path(root), damage or records.Damage()
    stems = _split(root, split)
    paths = (root / "Annotations").glob("*.xml")
    classes = records.Classes.among(name for path in paths for name in _names(path))
    files = _files(root / "JPEGImages", stems)
    images = [
        _image(root / "Annotations" / f"{stem}.xml", file, classes, damage)
        for stem, file in zip(stems, files, strict=True)
    ]
    return records.Annotations(tuple(images), classes.names)


def continuous(box):
    """Returns the box of VOC's numbers."""
    x1, y1, x2, y2 = box
    return x1 - 1, y1 - 1, x2, y2


def _split(root, split):
    """Returns the names that a list has, each of which has an XML."""
    path, folder = root / "ImageSets" / "Main" / f"{split}.txt", root / "Annotations"
    if not path.is_file():
        there = sorted(file.stem for file in path.parent.glob("*.txt"))
        raise DataError(f"{path} is missing; splits: {shortened(there, 8) or 'none'}")
    stems = []
    for line in filter(None, map(str.strip, path.read_text("utf-8-sig").splitlines())):
        # The lists of one class have a second column.
        names = [x for x in (line, line.split()[0]) if (folder / f"{x}.xml").is_file()]
        if not names:
            raise DataError(f"{path}: {line!r} has no XML in {folder}")
        stems.append(names[0])
    twice = [name for name, times in collections.Counter(stems).items() if times > 1]
    if twice or not stems:
        what = f"{shortened(twice)} twice" if twice else "no image"
        raise DataError(f"{path} names {what}")
    return stems


def _files(folder, stems):
    """Returns the image file of each name."""
    found = collections.defaultdict(list)
    for path in sorted(folder.glob("*")):
        if path.suffix.lower() in EXTENSIONS:
            found[path.stem].append(path)
    for stem in stems:
        if len(found[stem]) != 1:
            what = shortened(path.name for path in found[stem]) or "no file"
            raise DataError(f"{folder} has {what} for the image {stem!r}")
    return [found[stem][0] for stem in stems]


def _xml(path):
    try:
        return ET.parse(path).getroot()
    except (ET.ParseError, UnicodeError, ValueError) as error:
        raise DataError(f"{path} is no XML: {error}") from error


def _names(path):
    """Lists the names of an XML's objects; one without a name is refused later."""
    names = (item.findtext("name") for item in _xml(path).findall("object"))
    return [name for name in names if name and name.strip()]


def _image(path, file, classes, damage):
    root = _xml(path)
    # An object's parts have names and boxes too, so only children are asked.
    rows = [
        _row(item, f"{path}, object {number}", classes)
        for number, item in enumerate(root.findall("object"), 1)
    ]
    sides = (root.findtext(f"size/{side}") for side in ("height", "width"))
    size = records.image_size(*sides, file)
    return records.objects(str(file), path.stem, size, rows, damage)


def _row(item, where, classes):
    name, box = item.findtext("name"), item.find("bndbox")
    if not name or not name.strip():
        raise DataError(f"{where} has no name")
    if box is None:
        raise DataError(f"{where} has no bndbox")
    raw = tuple(
        records.number(box.findtext(side), f"{where}: {side}")
        for side in ("xmin", "ymin", "xmax", "ymax")
    )
    difficult = (item.findtext("difficult") or "").strip()
    if difficult not in ("", "0", "1"):
        raise DataError(f"{where}: difficult is {difficult!r}, neither 0 nor 1")
    label = classes.label(name, where)
    return records.Row(where, raw, continuous(raw), label, difficult == "1")
