"""The operations and ranges of the policies against torchvision's and timm's."""

import numpy as np
import pytest
from PIL import Image

from transforms import policies
from weights import twins

pytest.importorskip("torch", reason="make parity installs the references")

SIZE = 61, 47  # width and height
METHODS = ("nearest", "bilinear")


def photograph(mode):
    """A smooth image with noise: neither flat nor of all levels."""
    rng = np.random.default_rng(0)
    ramp = np.linspace(20, 200, SIZE[0])[None, :, None] * np.linspace(1, 0.5, 3)
    image = ramp + rng.normal(0, 12, (SIZE[1], SIZE[0], 3))
    return Image.fromarray(image.clip(0, 255).astype(np.uint8)).convert(mode)


def ours(name, value, image, fill, method):
    method = Image.Resampling[method.upper()]
    return np.asarray(policies.OPERATIONS[name](image, value, fill, method))


@pytest.mark.parametrize("mode", ["L", "RGB"])
@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("policy", ["randaugment", "trivialaugment"])
def test_every_operation_is_torchvision_s(policy, method, mode):
    twins.torchvision_models()
    from torchvision.transforms import InterpolationMode, autoaugment

    theirs = {
        "randaugment": autoaugment.RandAugment()._augmentation_space(31, SIZE[::-1]),
        "trivialaugment": autoaugment.TrivialAugmentWide()._augmentation_space(31),
    }[policy]
    image = photograph(mode)
    fill = 90 if mode == "L" else (90, 100, 110)
    table = {name.replace("_", ""): name for name in policies.OPERATIONS}
    assert len(theirs) == 14
    for strength in (0, 1, 9, 20, 30):
        values = getattr(policies, f"{policy}_values")(strength / 30, *SIZE)
        assert len(values) == 14
        for their_name, (magnitudes, signed) in theirs.items():
            name = table[their_name.lower()]
            assert signed == (name in policies.SIGNED)
            # Compared in float32's value: a product may be cut to another level.
            magnitude = float(magnitudes[strength]) if magnitudes.ndim else 0.0
            if name.startswith(("translate", "posterize")):
                assert values[name] == int(magnitude)
            else:
                assert values[name] == pytest.approx(magnitude, rel=1e-6)
            value = type(values[name])(magnitude)
            for sign in (1, -1) if signed else (1,):
                # Theirs go the other way: alike, as both ways are as likely.
                moved = -1 if name.startswith("translate") else 1
                want = autoaugment._apply_op(
                    image,
                    their_name,
                    moved * sign * magnitude,
                    InterpolationMode(method),
                    list(fill) if mode == "RGB" else [fill],
                )
                got = ours(name, sign * value, image, fill, method)
                np.testing.assert_array_equal(got, np.asarray(want), str((name, sign)))


@pytest.mark.parametrize("mode", ["L", "RGB"])
def test_every_operation_is_timm_s(mode, monkeypatch):
    from timm.data import auto_augment

    image = photograph(mode)
    fill = 90 if mode == "L" else (90, 100, 110)
    names = dict(zip(NAMES, auto_augment._RAND_INCREASING_TRANSFORMS, strict=True))
    for magnitude in (0, 1, 5.3, 7, 9.9):
        values = policies.randaugment_timm_values(magnitude / 10, *SIZE)
        assert set(values) == set(names)
        for sign in (1, -1):
            monkeypatch.setattr(
                auto_augment, "_randomly_negate", lambda value, sign=sign: sign * value
            )
            for name, their_name in names.items():
                hparams = {"img_mean": fill, "interpolation": Image.Resampling.BICUBIC}
                operation = auto_augment.AugmentOp(their_name, 1.0, magnitude, hparams)
                value = values[name] * (sign if name in policies.SIGNED else 1)
                got = ours(name, value, image, fill, "bicubic")
                np.testing.assert_array_equal(got, np.asarray(operation(image)), name)


# In the order of timm's list.
NAMES = (
    "autocontrast equalize invert rotate posterize solarize solarize_add color "
    "contrast brightness sharpness shear_x shear_y translate_x translate_y"
).split()
