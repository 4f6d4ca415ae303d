"""What does not fit together is refused before anything is trained."""

import numpy as np
import pytest
import runs
import tiny_datasets

from errors import ConfigError
from experiment import build


def test_a_cache_does_not_shrink_the_network_s_input(tmp_path):
    images = np.zeros((6, 40, 36, 1), np.uint8)
    tiny_datasets.prepare(tmp_path / "data", images, [0, 1, 2] * 2)
    dataset = {"name": "tiny", "data_dir": f"{tmp_path}/data", "cache_side": 32}
    dataset |= {"cache": "pixels", "cache_dir": f"{tmp_path}/cache"}
    given = {f"dataset__{name}": value for name, value in dataset.items()}
    dataset = runs.small_config(**given, dataset__image_size=0).dataset
    with pytest.raises(ConfigError, match="cache_side = 32 would .* of tiny are 40x36"):
        build.open_splits(dataset, ["train"])
    assert not (tmp_path / "cache").exists()
    # A run that was trained so can be evaluated.
    assert min(build.open_split(dataset, "train").image_shape[:2]) == 32
    for changes in ({"image_size": 28}, {"image_size": 0, "cache_side": 36}):
        dataset = dataset.copy_and_resolve_references()
        dataset.update(changes)
        (split,) = build.open_splits(dataset, ["train"])
    assert split.image_shape == (40, 36, 1)


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
