"""Draws made for an image on the host; tests/parity compares the operations."""

import collections

import numpy as np
import pytest
from PIL import Image

from transforms import policies, resizing
from transforms.policies import HostAugmentation

NAMES = ["randaugment", "randaugment_timm", "trivialaugment"]
VALUES = {name: getattr(policies, f"{name}_values") for name in NAMES}


@pytest.fixture
def image():
    return np.random.default_rng(0).integers(0, 256, (24, 24, 3), np.uint8)


@pytest.fixture
def drawn(monkeypatch):
    """Records [(operation, value)] that a policy applies; the image does not change."""
    found = []
    for name in policies.OPERATIONS:

        def record(image, value, fill, resampling, name=name):
            found.append((name, value))
            return image

        monkeypatch.setitem(policies.OPERATIONS, name, record)
    return found


def run(name, times, **options):
    rng, image = np.random.default_rng(0), Image.new("RGB", (100, 50))
    for _ in range(times):
        policies.POLICIES[name](image, rng, **options)


def near(count, trials, probability):
    """Within five deviations of a binomial count."""
    deviation = (trials * probability * (1 - probability)) ** 0.5
    return abs(count - trials * probability) < 5 * deviation


@pytest.mark.parametrize(
    ("name", "operations", "per_image"),
    [("randaugment", 14, 2), ("randaugment_timm", 15, 1), ("trivialaugment", 14, 1)],
)
def test_operations_are_drawn_alike_and_half_of_them_negated(
    drawn, name, operations, per_image
):
    run(name, 3000)
    if name == "randaugment_timm":  # each of its two is applied to half of the images
        assert near(len(drawn), 6000, per_image / 2)
    else:
        assert len(drawn) == 3000 * per_image
    counts = collections.Counter(operation for operation, _ in drawn)
    assert counts.keys() == VALUES[name](1.0, 100, 50).keys()
    assert len(counts) == operations
    assert all(near(n, len(drawn), 1 / operations) for n in counts.values())
    for operation, count in counts.items():
        negative = sum(value < 0 for o, value in drawn if o == operation)
        expected = 0.5 if operation in policies.SIGNED else 0
        if name == "trivialaugment":
            expected *= 30 / 31  # nothing is negative at strength 0
        assert near(negative, count, expected) or negative == expected == 0


def test_trivialaugment_takes_every_strength(drawn):
    run("trivialaugment", 5000)
    turns = collections.Counter(round(abs(v) / 4.5) for o, v in drawn if o == "rotate")
    assert turns.keys() == set(range(31))
    assert max(abs(v) for o, v in drawn if o == "rotate") == 135


@pytest.mark.parametrize(
    ("name", "limit"), [("randaugment", 30), ("randaugment_timm", 10)]
)
def test_randaugment_s_magnitude_is_normal_within_its_scale(drawn, name, limit):
    run(name, 2000, operations=3, magnitude=0.7 * limit, std=0.05 * limit)
    # 30 degrees times magnitude / limit.
    turns = np.array([abs(value) / 30 for o, value in drawn if o == "rotate"])
    assert turns.mean() == pytest.approx(0.7, abs=5 * 0.05 / len(turns) ** 0.5)
    assert turns.std() == pytest.approx(0.05, rel=0.25)
    drawn.clear()
    run(name, 500, magnitude=limit, std=limit)
    turns = [abs(value) for o, value in drawn if o == "rotate"]
    assert min(turns) == 0 and max(turns) == 30
    drawn.clear()
    run(name, 300, magnitude=float(limit), std=0.0)
    assert {abs(value) for o, value in drawn if o == "rotate"} == {30}


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("channels", [1, 3])
def test_every_operation_changes_an_image_and_keeps_its_form(image, name, channels):
    pil = Image.fromarray(image).convert("L" if channels == 1 else "RGB")
    pil = pil.point([40 + level // 2 for level in range(256)] * channels)
    method = Image.Resampling.BILINEAR
    fill = 128 if channels == 1 else (128,) * 3
    for operation, value in VALUES[name](0.6, 24, 24).items():
        changed = policies.OPERATIONS[operation](pil, value, fill, method)
        assert (changed.mode, changed.size) == (pil.mode, pil.size)
        same = np.array_equal(np.asarray(changed), np.asarray(pil))
        grey = channels == 1 and operation == "color"
        assert same == (operation == "identity" or grey), operation


@pytest.mark.parametrize("name", NAMES)
def test_signed_operations_of_strength_zero_change_nothing(image, name):
    pil = Image.fromarray(image)
    for operation in policies.SIGNED:
        value = VALUES[name](0.0, 24, 24)[operation]
        changed = policies.OPERATIONS[operation](
            pil, value, (128,) * 3, Image.Resampling.BICUBIC
        )
        np.testing.assert_array_equal(np.asarray(changed), image)


@pytest.mark.parametrize("policy", NAMES)
@pytest.mark.parametrize("channels", [1, 3])
def test_an_image_s_randomness_is_its_generator_s(image, policy, channels):
    image = image[..., :channels]
    change = HostAugmentation("rescale_crop", (20, 30), policy=policy, policy_ops=3)
    first, again, other = (
        [change(image, np.random.default_rng((seed, i)), 16) for i in range(8)]
        for seed in (0, 0, 1)
    )
    assert {i.shape for i in first} == {(16, 16, channels)}
    assert {i.dtype for i in first} == {np.dtype(np.uint8)}
    np.testing.assert_array_equal(first, again)
    assert not np.array_equal(first, other)


def test_the_view_comes_first_with_its_options(image, monkeypatch):
    rng = np.random.default_rng(0)
    seen = []

    def record(*arguments):
        seen.append(arguments)
        return image[:8, :8]

    monkeypatch.setattr(resizing, "inception_crop", record)
    monkeypatch.setattr(resizing, "rescale_crop", record)
    change = HostAugmentation(
        "inception_crop", area=(0.2, 1.0), aspect=(0.5, 2.0), interpolation="box"
    )
    np.testing.assert_array_equal(change(image, rng, 8), image[:8, :8])
    assert seen.pop() == (image, rng, 8, (0.2, 1.0), (0.5, 2.0), "box")
    HostAugmentation("rescale_crop", (9, 12))(image, rng, 8)
    assert seen.pop() == (image, rng, 8, (9, 12), "bilinear")
    assert HostAugmentation()(image, rng, 8) is image


@pytest.mark.parametrize(
    ("interpolation", "used"),
    [("nearest", "nearest"), ("bilinear", "bilinear"), ("random", "bicubic")],
)
def test_policies_interpolate_as_the_view_where_pil_can(
    image, monkeypatch, interpolation, used
):
    seen = []
    monkeypatch.setitem(
        policies.POLICIES,
        "trivialaugment",
        lambda image, rng, **options: seen.append(options) or image,
    )
    change = HostAugmentation(policy="trivialaugment", interpolation=interpolation)
    change(image, np.random.default_rng(0), 24)
    assert seen == [{"resampling": used}]


def test_unknown_names_are_refused():
    with pytest.raises(ValueError, match="view 'crop' is none of"):
        HostAugmentation(view="crop")
    with pytest.raises(ValueError, match="policy 'autoaugment' is none of"):
        HostAugmentation(policy="autoaugment")
