"""What does not fit together is refused before anything is trained."""

import pytest
import runs

from errors import ConfigError
from experiment import build


@pytest.mark.parametrize(
    "changes",
    [
        {"dataset__fit": "resize", "dataset__interpolation": "bicubic"},
        {"augment__view": "inception_crop"},
    ],
)
def test_the_curvature_is_that_of_the_training_s_images(changes):
    """It is found on images as they are stored, which the host does not change."""
    size = {"dataset__image_size": 32}
    build.setup(runs.small_config("paper", augment__policy="trivialaugment", **size))
    with pytest.raises(ConfigError, match="'sdlm' finds the curvature on images as"):
        build.setup(runs.small_config("paper", **size, **changes))
