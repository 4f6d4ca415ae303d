"""Random access to the examples of a data set, without TensorFlow.

Reads TFDS directories (array_record; tfrecord through an index) and image files.
"""

from data_source import image_folder, tfds_directory
from data_source.split import (
    UNREADABLE,
    DataError,
    Example,
    Split,
    UnreadableFile,
    as_text,
)

__all__ = [
    "UNREADABLE",
    "DataError",
    "Example",
    "Split",
    "UnreadableFile",
    "as_text",
    "describe",
    "is_files",
    "open_split",
    "open_splits",
]


def open_split(name, split, **options):
    """Opens one split, as `open_splits` does."""
    (opened,) = open_splits(name, (split,), **options)
    return opened


def open_splits(
    name,
    splits,
    *,
    data_dir=None,
    download=True,
    holdout=0.1,
    holdout_by="class",
    tested=False,
):
    """Opens splits of the data set `name`, as a list of `Split`.

    The name is a TFDS name ("mnist", "name/config:1.2.3"), or "folder:PATH" or
    "csv:PATH". image_folder.py says what the latter hold, and what `holdout`,
    `holdout_by` and `tested`, for data that a trained network looks at, mean for them;
    `data_dir` and `download` apply only to TFDS.

    If `data_dir` is given, no other place is searched. Otherwise TFDS_DATA_DIR, the
    home folder's tensorflow_datasets and this repository's data/ are searched in this
    order; if none holds the set, tfds downloads it and prepares it in the first. The
    split "auto" is the one to evaluate on: "validation" if there is one, else "test".

    Raises:
      DataError: the set, split or features do not exist or cannot be obtained.
    """
    if is_files(name):
        return image_folder.open_splits(
            name, splits, holdout=holdout, by=holdout_by, tested=tested
        )
    return [
        tfds_directory.open_split(name, split, data_dir=data_dir, download=download)
        for split in splits
    ]


def describe(name, *, data_dir=None):
    """Returns (image_shape, num_classes); a set known to tfds need not be on disk.

    Raises:
      DataError: as for open_split.
    """
    if is_files(name):
        return image_folder.describe(name)
    return tfds_directory.describe(name, data_dir=data_dir)


def is_files(name):
    """Returns whether a data set of this name is of image files, not of TFDS."""
    return name.startswith(("folder:", "csv:"))
