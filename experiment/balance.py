"""What training does about imbalanced classes: class weights and balanced draws."""

import numpy as np

import input_pipeline
from errors import ConfigError, shortened
from training import losses

SHOWN = 6  # most classes that a line lists


def find(config, split):
    """Returns the class weights [K], or None, and the input_pipeline.Balance, or None.

    `split` is the training split, whose labels are read only if the config needs them.

    Raises:
      ConfigError: there is not one weight for each class.
      DataError: labels cannot be read.
    """
    weights, power = config.loss.class_weights, config.dataset.balance
    if isinstance(weights, tuple) and len(weights) != split.num_classes:
        raise ConfigError(
            f"config.loss.class_weights has {len(weights)} numbers, and {split.name} "
            f"has {split.num_classes} classes"
        )
    balanced = None
    if weights == "balanced" or power:
        labels = split.labels()
        if weights == "balanced":
            counts = np.bincount(labels, minlength=split.num_classes)
            weights = losses.balanced_weights(counts)
        balanced = input_pipeline.Balance(labels, power) if power else None
    return None if weights is None else np.array(weights, np.float32), balanced


def describe(setup):
    """Says in lines what `find` found for a `build.Setup`, if anything."""
    lines, weights, balanced = [], setup.class_weights, setup.plan.balance
    if weights is not None:
        names = setup.train_split.label_names
        pairs = [f"{n} {w:.4g}" for n, w in zip(names, weights, strict=True)]
        lines.append(f"class weights of the training loss: {shortened(pairs, SHOWN)}")
    if balanced is not None:
        there = balanced.counts > 0
        counts, quotas = balanced.counts[there], balanced.quotas[there]
        lines.append(
            f"the {there.sum():,} classes have {_range(counts)} training images each; "
            f"an epoch draws {_range(quotas)} of each (config.dataset.balance = "
            f"{setup.config.dataset.balance:g})"
        )
    return lines


def _range(numbers):
    least, most = numbers.min(), numbers.max()
    return f"{least:,}" if least == most else f"{least:,} to {most:,}"
