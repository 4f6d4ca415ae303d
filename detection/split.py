"""A split of a data set of annotated objects, and its examples."""

import dataclasses
import hashlib

import numpy as np

from data_source import DataError, UnreadableFile, as_text
from detection import records


@dataclasses.dataclass(frozen=True)
class Example:
    """An image as stored, and its objects in the pixels of the upright image."""

    image: bytes | np.ndarray
    objects: records.Objects
    unreadable = None  # the target if the image cannot be read

    @property
    def name(self):
        return self.objects.name

    @property
    def target(self):
        return self.objects


@dataclasses.dataclass(frozen=True)
class Split:
    """One split of a data set of annotated objects, N images.

    Attributes:
      objects: a `records.Objects` for each image, in the pixels of the upright image.
      images: a function for each image that returns it as stored.
      channels: of the images, 1 or 3.
      categories: the ids of the classes in results of COCO's form.
      remarks: lines about damaged boxes and classes, and of a TFDS set's config.
    """

    name: str
    split: str
    label_names: tuple
    objects: tuple
    images: tuple
    channels: int = 3
    categories: tuple = ()
    remarks: tuple = ()

    def __post_init__(self):
        if not self.categories:
            ids = tuple(range(1, self.num_classes + 1))
            object.__setattr__(self, "categories", ids)

    def __len__(self):
        return len(self.objects)

    @property
    def num_classes(self):
        return len(self.label_names)

    @property
    def image_shape(self):
        return None, None, self.channels

    @property
    def most_objects(self):
        """The largest number of objects in an image, at least 1."""
        return max(1, *map(len, self.objects))

    @property
    def most_proposals(self):
        """The largest number of proposals in an image; 0 where no image has any."""
        return max(len(objects.proposals) for objects in self.objects)

    def class_counts(self):
        """Returns the objects per class, int [K]."""
        labels = np.concatenate([objects.labels for objects in self.objects])
        return np.bincount(labels, minlength=self.num_classes)

    def examples(self, indices):
        """Returns the given examples as a list of `Example`.

        Raises:
          UnreadableFile: an image cannot be read.
        """
        return [self._example(int(index)) for index in indices]

    def _example(self, index):
        objects = self.objects[index]
        try:
            return Example(self.images[index](), objects)
        except (DataError, OSError) as error:
            said = getattr(error, "strerror", None) or error
            message = f"{as_text(objects.name)} cannot be read: {said}."
            raise UnreadableFile(message, Example(b"", objects)) from error

    def places(self):
        """Iterates over what tells each image from all others of the data set."""
        return ((one.name, one.stamp) for one in self.objects)

    def digest(self):
        """Returns a hash, 16 hex digits, of the images' ids and objects in their order.

        It is the same in another place, and with the classes renumbered.
        """
        found = hashlib.blake2b(digest_size=8)
        for one in self.objects:
            names = [self.label_names[label] for label in one.labels]
            found.update(repr((one.image, tuple(map(int, one.size)), names)).encode())
            for array in (one.boxes, one.difficult, one.crowd):
                found.update(np.ascontiguousarray(array))
        return found.hexdigest()

    def chosen(self, indices):
        """Returns the split of these images."""
        parts = (tuple(x[i] for i in indices) for x in (self.objects, self.images))
        objects, images = parts
        return dataclasses.replace(self, objects=objects, images=images)

    def renumbered(self, places, names):
        """Returns the split with `names`, whose class k has the number `places[k]`."""
        places = np.asarray(places, np.int32)
        ids = dict(zip(places.tolist(), self.categories, strict=True))
        objects = tuple(
            dataclasses.replace(one, labels=places[one.labels]) for one in self.objects
        )
        return dataclasses.replace(
            self,
            label_names=tuple(names),
            objects=objects,
            categories=tuple(ids.get(k) for k in range(len(names))),
        )
