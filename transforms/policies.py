"""RandAugment, TrivialAugment and every other random change made on the host.

They apply PIL's operations to uint8 images, grey or RGB; `rng` is the example's own
numpy Generator.
"""

import dataclasses

import numpy as np
from PIL import Image, ImageEnhance, ImageOps

from transforms import resizing

# Operations take (PIL image, value, colour that fills empty corners, PIL's resampling).


def _affine(coefficients):
    """Moves the pixels by the six `coefficients(value)` of an affine map."""

    def move(image, value, fill, resample):
        kind, numbers = Image.Transform.AFFINE, coefficients(value)
        return image.transform(image.size, kind, numbers, resample, fillcolor=fill)

    return move


def _enhance(kind):
    """Enhances by 1 + value: -1 gives black, grey or blurred; 0 keeps the image."""
    return lambda image, value, *_: kind(image).enhance(1 + value)


def rotate(image, value, fill, resample):
    """Rotates by `value` degrees about the centre."""
    return image.rotate(value, resample, fillcolor=fill)


def solarize_add(image, value, fill, resample):
    """Adds `value` to the levels below 128."""
    levels = [min(255, i + value) if i < 128 else i for i in range(256)]
    return image.point(levels * len(image.getbands()))


OPERATIONS = {
    "identity": lambda image, *_: image,
    "autocontrast": lambda image, *_: ImageOps.autocontrast(image),
    "equalize": lambda image, *_: ImageOps.equalize(image),
    "invert": lambda image, *_: ImageOps.invert(image),
    "posterize": lambda image, bits, *_: ImageOps.posterize(image, bits),
    "solarize": lambda image, threshold, *_: ImageOps.solarize(image, threshold),
    "solarize_add": solarize_add,
    "shear_x": _affine(lambda pixels: (1, pixels, 0, 0, 1, 0)),  # per row
    "shear_y": _affine(lambda pixels: (1, 0, 0, pixels, 1, 0)),  # per column
    "translate_x": _affine(lambda pixels: (1, 0, pixels, 0, 1, 0)),
    "translate_y": _affine(lambda pixels: (1, 0, 0, 0, 1, pixels)),
    "rotate": rotate,
    "brightness": _enhance(ImageEnhance.Brightness),
    "contrast": _enhance(ImageEnhance.Contrast),
    "color": _enhance(ImageEnhance.Color),
    "sharpness": _enhance(ImageEnhance.Sharpness),
}

# The functions below turn a policy's magnitude, as a level in 0..1, into
# {operation: value} for an image of width x height; values of these operations are
# negated half of the time.
SIGNED = (
    "shear_x shear_y translate_x translate_y rotate brightness contrast color sharpness"
).split()


def randaugment_values(level, width, height):
    """Gives RandAugment's values (Cubuk et al., 2019) with torchvision's ranges."""
    return {
        "identity": 0,
        "autocontrast": 0,
        "equalize": 0,
        "posterize": 8 - round(4 * level),
        "solarize": 255 * (1 - level),
        "shear_x": 0.3 * level,
        "shear_y": 0.3 * level,
        "translate_x": int(150 / 331 * width * level),
        "translate_y": int(150 / 331 * height * level),
        "rotate": 30 * level,
        "brightness": 0.9 * level,
        "contrast": 0.9 * level,
        "color": 0.9 * level,
        "sharpness": 0.9 * level,
    }


def randaugment_timm_values(level, width, height):
    """Gives timm's "increasing" values, used by "ResNet strikes back" (2021)."""
    return {
        "autocontrast": 0,
        "equalize": 0,
        "invert": 0,
        "posterize": max(1, 4 - int(4 * level)),  # PIL gives black or fails at 0 bits
        "solarize": 256 - int(256 * level),
        "solarize_add": int(110 * level),
        "shear_x": 0.3 * level,
        "shear_y": 0.3 * level,
        "translate_x": 0.45 * width * level,
        "translate_y": 0.45 * height * level,
        "rotate": 30 * level,
        "brightness": 0.9 * level,
        "contrast": 0.9 * level,
        "color": 0.9 * level,
        "sharpness": 0.9 * level,
    }


def trivialaugment_values(level, width, height):
    """Gives TrivialAugment "Wide" values (Mueller, Hutter, 2021), as torchvision."""
    return {
        "identity": 0,
        "autocontrast": 0,
        "equalize": 0,
        "posterize": 8 - round(6 * level),
        "solarize": 255 * (1 - level),
        "shear_x": 0.99 * level,
        "shear_y": 0.99 * level,
        "translate_x": int(32 * level),
        "translate_y": int(32 * level),
        "rotate": 135 * level,
        "brightness": 0.99 * level,
        "contrast": 0.99 * level,
        "color": 0.99 * level,
        "sharpness": 0.99 * level,
    }


def _draw(image, rng, values, level, fill, resampling):
    """Applies one operation, drawn from `values` at that level, to a PIL image."""
    values = values(level, *image.size)
    name = list(values)[rng.integers(len(values))]
    value = values[name]
    if name in SIGNED and rng.integers(2):
        value = -value
    fill = fill if image.mode == "RGB" else round(sum(fill) / 3)
    return OPERATIONS[name](image, value, fill, Image.Resampling[resampling.upper()])


def randaugment(
    image, rng, operations=2, magnitude=9.0, std=0.0, resampling="bilinear"
):
    """Applies operations drawn from 14, each independently, at a magnitude out of 30.

    This is the policy of Cubuk et al. The magnitude is normal with deviation `std`
    (0 in the paper) and clipped to 0..30. Empty corners become grey, as in the authors'
    code. resampling is "nearest", "bilinear" or "bicubic".
    """
    for _ in range(operations):
        level = min(max(rng.normal(magnitude, std), 0), 30) / 30
        image = _draw(image, rng, randaugment_values, level, (128,) * 3, resampling)
    return image


def randaugment_timm(
    image, rng, operations=2, magnitude=7.0, std=0.5, resampling="bicubic"
):
    """Applies operations drawn from 15, each with probability 1/2, as timm does.

    The magnitude is out of 10. Empty corners become ImageNet's mean colour.
    """
    for _ in range(operations):
        level = min(max(rng.normal(magnitude, std), 0), 10) / 10
        fill = (124, 116, 104)
        if rng.integers(2):
            image = _draw(image, rng, randaugment_timm_values, level, fill, resampling)
    return image


def trivialaugment(image, rng, resampling="bilinear"):
    """Applies one of 14 operations at one of 31 strengths, all equally likely.

    Empty corners become black.
    """
    level = int(rng.integers(31)) / 30
    return _draw(image, rng, trivialaugment_values, level, (0, 0, 0), resampling)


@dataclasses.dataclass(frozen=True)
class HostAugmentation:
    """Changes a training image on the host: a view, then a policy; "" skips either.

    torchvision and timm mirror between the two; here `augment` mirrors after both. The
    distribution is the same except for shear_y, which keeps the left edge in place.
    """

    view: str = ""
    short_side: tuple = (256, 256)
    area: tuple = (0.08, 1.0)
    aspect: tuple = (3 / 4, 4 / 3)
    interpolation: str = "bilinear"
    policy: str = ""
    policy_ops: int = 2
    policy_magnitude: float = 9.0
    policy_std: float = 0.0

    def __post_init__(self):
        for field, known in (("view", VIEWS), ("policy", POLICIES)):
            value = getattr(self, field)
            if value not in known:
                raise ValueError(f"{field} {value!r} is none of {', '.join(known)}")

    def __call__(self, image, rng, size):
        """Returns uint8 [size, size, C] of an image; without a view, [H, W, C]."""
        if self.view == "rescale_crop":
            image = resizing.rescale_crop(
                image, rng, size, self.short_side, self.interpolation
            )
        elif self.view == "inception_crop":
            image = resizing.inception_crop(
                image, rng, size, self.area, self.aspect, self.interpolation
            )
        if not self.policy:
            return image
        known = self.interpolation in MOVES
        options = {"resampling": self.interpolation if known else "bicubic"}
        if self.policy != "trivialaugment":
            options["operations"] = self.policy_ops
            options["magnitude"] = self.policy_magnitude
            options["std"] = self.policy_std
        changed = Image.fromarray(image.squeeze(-1) if image.shape[-1] == 1 else image)
        changed = POLICIES[self.policy](changed, rng, **options)
        return np.asarray(changed).reshape(image.shape)


VIEWS = ("", "rescale_crop", "inception_crop")
MOVES = ("nearest", "bilinear", "bicubic")  # with which PIL can turn and shear
POLICIES = {
    "": None,
    "randaugment": randaugment,
    "randaugment_timm": randaugment_timm,
    "trivialaugment": trivialaugment,
}
