"""Finds and reads the image files that --images names."""

import glob
import os
import pathlib
import re
import sys

from absl import logging

from data_source import DataError
from data_source.image_folder import EXTENSIONS, is_litter
from transforms import decode

# The first bytes of image files that need not have a NUL soon, as no path has.
MAGIC = re.compile(rb"\xff\xd8\xff|\x89PNG|RIFF|GIF8|P[1-6]\s+[\d#]")


def find(images):
    """Yields (name, data) of the images that --images names; data is None for a file.

    A folder stands for the image files in and under it, in the order of their names,
    and a pattern such as "photos/*.jpg" for the files that match. "-" is the standard
    input: an image, or else a list of all these, one a line. Instead of data there may
    be the DataError of a folder.
    """
    for given in images:
        if given != "-":
            yield from _files(given)
            continue
        first = sys.stdin.buffer.peek()
        listed = os.path.exists(first.split(b"\n")[0].rstrip(b"\r"))
        if b"\0" in first or (MAGIC.match(first) and not listed):
            yield "-", sys.stdin.buffer.read()
            continue
        for line in sys.stdin.buffer:
            if line := line.rstrip(b"\r\n"):
                yield from _files(os.fsdecode(line))


def _files(given):
    path = os.path.expanduser(given)
    if os.path.isdir(path):
        yield from _folder(path)
    elif glob.has_magic(path) and not os.path.exists(path):
        found = sorted(glob.iglob(path, recursive=True))
        # A pattern that matches nothing is reported as a missing file.
        for file in [file for file in found if not os.path.isdir(file)] or [path]:
            yield file, None
    else:
        yield path, None


def _folder(path):
    """Yields the image files in and under a folder, but for `is_litter`."""
    errors, images, others = [], 0, 0
    for folder, folders, names in os.walk(path, onerror=errors.append):
        folders[:] = sorted(name for name in folders if not is_litter(name))
        for name in sorted(name for name in names if not is_litter(name)):
            if os.path.splitext(name)[1].lower() in EXTENSIONS:
                images += 1
                yield os.path.join(folder, name), None
            else:
                others += 1
    if others:
        logging.warning("%s: %d files are no images by their names", path, others)
    for error in errors:
        yield (
            error.filename,
            DataError(f"--images: {error.filename} cannot be listed: {error.strerror}"),
        )
    if not images and not errors:
        yield path, DataError(f"--images: {path} holds no image files")


def read(path, channels, data=None):
    """Reads an image file, uint8 [H, W, C]; C, `channels`, is 1 (grey) or 3 (RGB).

    `data` is what `find` gives of it.

    Raises:
      DataError: there is no such file, it is not a readable image, or `data` is one.
    """
    if isinstance(data, DataError):
        raise data
    try:
        if data is None:
            data = pathlib.Path(path).read_bytes()
        return decode.decode(data, channels)
    except FileNotFoundError as error:
        raise DataError(f"--images: there is no file {path}") from error
    except (OSError, decode.DamagedImage) as error:
        raise DataError(f"--images: {path} is no readable image: {error}") from error
