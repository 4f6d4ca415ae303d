"""Builds what a config's network is for: a classifier's `Setup`, or a detector's."""

import models
from experiment import build, checks, detectors


def setup(config, num_devices=None):
    """Builds the `build.Setup` of a checked config.

    Args:
      num_devices: defaults to config.num_devices.

    Raises:
      DataError: the data is not available.
      ConfigError: the parts do not fit together; the message names the field.
    """
    checks.check_start(config)
    task = detectors if models.is_detector(config.model.name) else build
    return task.setup(config, num_devices)
