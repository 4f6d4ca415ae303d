"""Random access to the examples of a data set, without TensorFlow.

Reads TFDS directories (array_record; tfrecord through an index) and image files.
"""

from data_source import image_folder, tfds_directory
from data_source.split import DataError, Example, Split, UnreadableFile

__all__ = ["DataError", "Example", "Split", "UnreadableFile", "describe", "open_split"]


def open_split(name, split, *, data_dir=None, download=True, holdout=0.1):
    """Opens a split of the data set `name`.

    The name is a TFDS name ("mnist", "name/config:1.2.3"), or "folder:PATH" or
    "csv:PATH". image_folder.py says what the latter hold and what `holdout` means for
    them; `data_dir` and `download` apply to TFDS alone.

    A given `data_dir` is the only place searched. Otherwise TFDS_DATA_DIR, the home
    folder's tensorflow_datasets and this repository's data/ are searched in this order,
    and tfds downloads and prepares a set found nowhere into the first of them. The
    split "auto" is the one to evaluate on: "validation" if there is one, else "test".

    Raises:
      DataError: the set, split or features do not exist or cannot be had.
    """
    if _is_files(name):
        return image_folder.open_split(name, split, holdout=holdout)
    return tfds_directory.open_split(name, split, data_dir=data_dir, download=download)


def describe(name, *, data_dir=None):
    """(image_shape, num_classes) of a data set, which need not be there if tfds has it.

    Raises:
      DataError: as for open_split.
    """
    if _is_files(name):
        return image_folder.describe(name)
    return tfds_directory.describe(name, data_dir=data_dir)


def _is_files(name):
    return name.startswith(("folder:", "csv:"))
