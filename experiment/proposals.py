"""What a trained region proposal network proposes, stored beside its run.

Fast R-CNN trains on the proposals of another network in steps 2 and 4 of the four-step
alternation (https://arxiv.org/abs/1506.01497, Section 3.2). They are computed once. The
file's name depends on all that decides them, and its record says it again: the weights,
the network, the images with their files' sizes and times, and how they are shown. So
what belongs to other data or to an earlier training is never read.
"""

import dataclasses
import json
import zlib

import jax
import jax.numpy as jnp
import numpy as np
from absl import logging
from jax.experimental import multihost_utils
from jax.sharding import NamedSharding, PartitionSpec

from detection import evaluator
from errors import ConfigError
from experiment import build, outcomes, trained, workdir
from kernels import ops
from models import faster_rcnn


def make_step(model, preprocessing, *, training=False):
    """Makes the function: (variables, batch) -> proposals as faster_rcnn.Detections.

    There are as many as in testing, or as in training, and all have the label 0.
    """

    def propose(model, images, sizes):
        x, *found = model.first_stage(images, sizes, train=False)
        boxes, there, logits = model.scored_proposals(
            *found, x.shape[1:3], sizes, train=training
        )
        scores = jnp.where(there, jax.nn.sigmoid(logits), 0)
        labels = jnp.zeros_like(there, jnp.int32)
        return faster_rcnn.Detections(boxes, scores, labels, there)

    def step(variables, batch):
        images, sizes, *_ = preprocessing.seen(batch)
        return model.apply(variables, images, sizes, method=propose)

    return step


def check(run):
    """Raises ConfigError unless the training of `run` has ended well."""
    outcome = outcomes.read(run)
    if outcome is None or not outcomes.ended(outcome) or "diverged" in outcome:
        raise ConfigError(
            f"config.detection.proposals = {str(run)!r}: its training has not ended "
            "well, so its proposals would not stay the same"
        )


def added(split, run, opened, mesh, *, training):
    """Returns `split` with the proposals of a trained network in each image.

    Args:
      run: its workdir.Workdir, where they are stored.
      opened: its detectors.Opened for the images of the split.
      training: whether there are as many as in training, or as in testing.
    """
    record = json.dumps(_record(split, opened, training))
    name = f"proposals-{opened.step}-{zlib.crc32(record.encode()):08x}.npz"
    found = _stored(run, name, record)
    if multihost_utils.process_allgather(np.array(found is None)).any():
        trained.say(f"proposals: computed for {split.split} by {run}")
        found = _computed(split, opened, mesh, training) | {"record": record}
        if missing := np.count_nonzero(found["counts"] == 0):
            trained.say(
                f"warning: {missing:,} of {len(split):,} images have no proposals, as "
                "those that cannot be read; so nothing is stored, and all are computed "
                "at each start"
            )
        else:
            _store(run, name, found)
    else:
        trained.say(f"proposals: of {split.split}, from {run.path / name}")
    each = np.split(found["boxes"], np.cumsum(found["counts"])[:-1])
    objects = tuple(
        dataclasses.replace(one, proposals=own)
        for one, own in zip(split.objects, each, strict=True)
    )
    return dataclasses.replace(split, objects=objects)


def _record(split, opened, training):
    """Returns all that decides the proposals, as JSON has it."""
    images = json.dumps([(str(x.image), x.size, x.stamp) for x in split.objects])
    network = 0
    for array in jax.tree.leaves(opened.variables):
        network = zlib.crc32(np.ascontiguousarray(array), network)
    return {
        "dataset": split.name,
        "split": split.split,
        "images": zlib.crc32(images.encode()),
        "step": opened.step,
        "network": network,
        "model": opened.config.model.to_dict(),
        "preprocessing": opened.preprocessing.as_dict(),
        "training": training,
    }


def _stored(run, name, record):
    """Returns the arrays of a file, or None if it is missing, damaged or another's."""
    if not run.has(name):
        return None
    try:
        found = run.read_arrays(name)
    except workdir.WorkdirError as error:
        logging.warning("%s; it is made again", error)
        return None
    return found if str(found.get("record")) == record else None


def _store(run, name, arrays):
    if jax.process_index():
        return
    try:
        run.write_arrays(name, arrays)
    except workdir.WorkdirError as error:
        logging.warning("%s", error)  # a read-only run proposes again at each start


def _computed(split, opened, mesh, training):
    """Returns the proposals of all images as boxes [N, 4], and their counts.

    An image that cannot be read has none.
    """
    config, preprocessing = opened.config, opened.preprocessing
    replicated = NamedSharding(mesh, PartitionSpec())
    step = jax.jit(
        make_step(opened.model, preprocessing, training=training),
        out_shardings=replicated,
        compiler_options=ops.compiler_options(jax.default_backend()),
    )
    finder = evaluator.Detection(
        step,
        split,
        preprocessing.view,
        config.eval.batch_size,
        mesh,
        config.detection.metric,
        {"damaged": "wrong", **build.reading(config.dataset)},
    )
    found = finder.detections(jax.device_put(opened.variables, replicated))
    return {
        "boxes": np.concatenate([one.boxes for one in found]),
        "counts": np.array([len(one.boxes) for one in found]),
    }
