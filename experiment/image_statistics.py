"""Fits, once, the training-image statistics that preprocessing needs; keeps them."""

import dataclasses
import functools

import jax
import numpy as np

import input_pipeline
from errors import ConfigError
from experiment import build
from transforms import preprocessing as preprocessings
from transforms import whitening

FILE = "statistics.npz"


def needed(preprocessing):
    """Tells whether preprocessing needs arrays fitted on the training images."""
    return preprocessing.whiten not in ("", "gcn")


def fit(split, preprocessing, **reading):
    """Runs transforms.whitening.fit on each image of a split once, in its test view.

    `reading` has num_threads, prefetch and damaged for input_pipeline.eval_batches.

    Raises:
      ConfigError: the images have no such statistics.
    """
    view = preprocessing.view(split.image_shape)
    sized = jax.jit(
        functools.partial(preprocessings.fit_size, preprocessing=preprocessing)
    )

    def images():
        for batch in input_pipeline.eval_batches(split, 256, view=view, **reading):
            yield np.asarray(sized(batch["image"]))[batch["mask"] > 0]

    try:
        return whitening.fit(preprocessing.whiten, images())
    except ValueError as error:
        raise ConfigError(f"config.dataset.whiten: {error}") from error


def read(run, preprocessing):
    """Adds the statistics that a run keeps to `preprocessing`, if it needs any.

    Raises:
      ConfigError: the run's network learnt from images that were whitened otherwise.
    """
    if run.has("preprocessing.json"):
        kept = run.read_json("preprocessing.json").get("whiten", preprocessing.whiten)
        if kept != preprocessing.whiten:
            raise ConfigError(
                f"config.dataset.whiten = {preprocessing.whiten!r}: the network of "
                f"{run} learnt from images with {kept!r}, which a test cannot change"
            )
    if not needed(preprocessing):
        return preprocessing
    return dataclasses.replace(preprocessing, statistics=run.read_arrays(FILE))


def find(setup, run):
    """Adds the statistics that `setup` needs: read from the run, or fitted."""
    if run.has(FILE) and needed(setup.eval_preprocessing):
        return setup.with_statistics(run.read_arrays(FILE))
    return fitted(setup)


def fitted(setup):
    """Adds statistics of its training images to `setup`, if it needs any."""
    if not needed(setup.eval_preprocessing):
        return setup
    statistics = fit(
        setup.train_split,
        setup.eval_preprocessing,
        damaged=setup.config.dataset.damaged,
        **build.reading(setup.config.dataset),
    )
    return setup.with_statistics(statistics)


def keep(setup, run):
    """Writes a setup's statistics, if any, into the run directory that lacks them."""
    statistics = setup.eval_preprocessing.statistics
    if statistics is not None and not run.has(FILE):
        run.write_arrays(FILE, statistics)
