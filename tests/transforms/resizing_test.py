import numpy as np
import pytest
import simplejpeg
from PIL import Image

from transforms import resizing
from transforms.decode import DamagedImage, LazyJpeg, decode, decode_lazily

ALL = list(resizing.INTERPOLATIONS)


@pytest.fixture
def square():
    """An image with grain, edges and a slope, which shows whatever a filter misses.

    It lies in the middle of the range: if a filter overshoots, PIL clips between its
    passes.
    """
    rng = np.random.default_rng(0)
    rows, columns = np.mgrid[0:131, 0:131]
    picture = np.stack([2 * rows, columns, 90 + rows - columns // 2], -1)
    picture[20:50, 30:60] = 255
    return (picture + rng.integers(-30, 31, picture.shape)).clip(0, 255).astype(
        "uint8"
    ) // 3 + 85


@pytest.fixture
def photo(square):
    return square[:90]


def with_pil(image, height, width, interpolation):
    method = Image.Resampling[interpolation.upper()]
    return np.asarray(Image.fromarray(image).resize((width, height), method))


def assert_nearly_equal(found, expected, interpolation):
    """Allows the rounding of two passes, which negative weights enlarge.

    With "nearest", either of two equally near pixels is allowed.
    """
    assert found.dtype == np.uint8 and found.shape == expected.shape
    levels = 2 if interpolation in ("bicubic", "lanczos") else 1
    equal = np.abs(found.astype(int) - expected) <= levels
    assert equal.mean() >= (0.95 if interpolation == "nearest" else 1)


@pytest.mark.parametrize("interpolation", ALL)
@pytest.mark.parametrize("size", [(45, 60), (33, 200), (180, 262), (90, 131), (1, 1)])
def test_fast_resize_is_pils(photo, interpolation, size):
    for image in (photo, photo[..., :1]):
        found = resizing.resize_fast(image, *size, interpolation)
        squeezed = image[..., 0] if image.shape[-1] == 1 else image
        expected = with_pil(squeezed, *size, interpolation).reshape(*size, -1)
        assert_nearly_equal(found, expected, interpolation)
        np.testing.assert_array_equal(
            resizing.resize(image, *size, interpolation), expected
        )


@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic", "lanczos"])
@pytest.mark.parametrize("size", [(16, 20), (90, 100)])
def test_a_filter_reaches_over_the_edge_of_the_box(interpolation, size, monkeypatch):
    noise = np.random.default_rng(0).integers(85, 171, (150, 200, 3), np.uint8)
    box = (40.5, 60.25, 60.0, 80.0)  # PIL keeps it in float32: exactly
    found = resizing.resize_fast(noise, *size, interpolation, box)
    expected = resizing.resize(noise, *size, interpolation, box)
    assert_nearly_equal(found, expected, interpolation)
    # To the bit as if all of the image had been handed over.
    monkeypatch.setattr(resizing, "_reached", lambda *args: (0, args[-1]))
    expected = resizing.resize_fast(noise, *size, interpolation, box)
    np.testing.assert_array_equal(found, expected)


def test_nothing_aliases():
    """Stripes of one pixel are grey at a third of their size, and so is their mean."""
    stripes = np.zeros((90, 90, 3), np.uint8)
    stripes[:, ::2] = 255
    rng = np.random.default_rng(0)
    for found in (
        resizing.center_crop(stripes, 30, 30),
        resizing.rescale_crop(stripes, rng, 30, (30, 30)),
        resizing.inception_crop(stripes, rng, 30, (1.0, 1.0), (1.0, 1.0)),
    ):
        # The weights of a triangle over six pixels: odd ones have 1/2 within 1/18.
        assert np.abs(found[:, 1:-1].astype(int) - 127.5).max() <= 255 / 18 + 1


@pytest.mark.parametrize("interpolation", ALL)
@pytest.mark.parametrize("shape", [(90, 131), (131, 90), (90, 90), (37, 120), (9, 100)])
def test_crops_are_cut_from_the_rescaled_image(square, interpolation, shape):
    image = square[: shape[0], : shape[1]]
    for short_side in (32, 45, 70, 90, 141):
        height, width = resizing.rescaled_size(*shape, short_side)
        assert min(height, width) == short_side
        whole = with_pil(image, height, width, interpolation)
        np.testing.assert_array_equal(
            resizing.rescale(image, short_side, interpolation), whole
        )
        top, left = round((height - 32) / 2), round((width - 32) / 2)
        found = resizing.center_crop(image, 32, short_side, interpolation)
        expected = whole[top : top + 32, left : left + 32]
        np.testing.assert_array_equal(found, expected)

        rng, again = np.random.default_rng(3), np.random.default_rng(3)
        found = resizing.rescale_crop(image, rng, 32, (short_side,) * 2, interpolation)
        again.integers(short_side, short_side + 1)
        top, left = again.integers(height - 31), again.integers(width - 31)
        expected = whole[top : top + 32, left : left + 32]
        assert_nearly_equal(found, expected, interpolation)


@pytest.mark.parametrize("interpolation", ALL)
@pytest.mark.parametrize("shape", [(4, 131), (131, 4), (7, 131), (1, 90)])
def test_parts_of_a_long_image_are_nearly_those_of_the_whole(
    square, interpolation, shape
):
    image = square[: shape[0], : shape[1]]
    for short_side in (3, 5, 32):
        whole = resizing.rescale(image, short_side, interpolation)
        rescaled = resizing.Rescaled(image, short_side, interpolation)
        height, width = whole.shape[:2]
        assert rescaled.shape == whole.shape
        assert max(height, width) > resizing.LONGEST * short_side
        for top, left in ((0, 0), (height - 3, width - 3), (height // 2, width // 3)):
            found = rescaled[top : top + 3, left : left + 3]
            assert_nearly_equal(
                found, whole[top : top + 3, left : left + 3], interpolation
            )


def test_a_view_costs_what_it_keeps(monkeypatch):
    """A strip of 1x20000 pixels would be 4 GB if it were rescaled to 256x5120000."""
    made, resized = [], Image.Image.resize

    def resize(image, size, *arguments, **options):
        made.append((np.prod(image.size), np.prod(size)))
        return resized(image, size, *arguments, **options)

    monkeypatch.setattr(Image.Image, "resize", resize)
    for shape in ((1, 20000, 3), (20000, 1, 1), (2, 65000, 3)):
        image = np.full(shape, 77, np.uint8)
        image[tuple(n // 2 for n in shape)] = 255
        crop = resizing.center_crop(image, 224, 256)
        assert crop.shape == (224, 224, shape[-1])
        assert crop.max() > crop.min() >= 77
        source, target = made.pop()
        assert source < 500 and target == 224**2
        rng = np.random.default_rng(0)
        assert resizing.rescale_crop(image, rng, 224, (256, 512)).shape[0] == 224
        assert resizing.inception_crop(image, rng, 224).shape[1] == 224
        assert resizing.resize(image, 224, 224).shape[:2] == (224, 224)  # keeps all
        assert made.pop() == (shape[0] * shape[1], 224**2)
        with pytest.raises(ValueError, match="would be rescaled to .*: cut it"):
            resizing.Rescaled(image, 256)[:, :]
    assert not made


@pytest.mark.parametrize("interpolation", [*ALL, "random"])
@pytest.mark.parametrize("channels", [1, 3])
def test_an_image_of_the_scale_asked_for_is_cut_and_not_resized(
    interpolation, channels, monkeypatch
):
    image = np.random.default_rng(0).integers(0, 256, (40, 57, channels), np.uint8)
    for seed in range(20):
        cut, drawn = (np.random.default_rng(seed) for _ in range(2))
        found = resizing.rescale_crop(image, cut, 32, (40, 40), interpolation)
        drawn.integers(40, 41)
        box = int(drawn.integers(40 - 31)), int(drawn.integers(57 - 31)), 32, 32
        method = resizing._drawn(drawn, interpolation)
        expected = resizing.resize_fast(image, 32, 32, method, box)
        np.testing.assert_array_equal(found, expected)
        assert cut.bit_generator.state == drawn.bit_generator.state
    monkeypatch.setattr(resizing, "resize_fast", None)
    resizing.rescale_crop(image, cut, 32, (40, 40), interpolation)


def test_rescale_crop_reaches_every_scale_and_place():
    # Each pixel's value is its column: the crop's says where it lies, at what scale.
    image = np.broadcast_to(np.arange(200, dtype=np.uint8)[:, None], (100, 200, 3))
    rng = np.random.default_rng(0)
    crops = [resizing.rescale_crop(image, rng, 50, (50, 100)) for _ in range(400)]
    assert {crop.shape for crop in crops} == {(50, 50, 3)}
    left = np.array([crop[0, 1, 0] for crop in crops], float)
    extent = np.array([int(crop[0, -2, 0]) - int(crop[0, 1, 0]) for crop in crops])
    # 50 pixels of a short side of 50 to 100 are all of 100 columns, or half of them.
    scale = 100 / (extent / 47)  # pixels of the short side
    assert 48 <= scale.min() < 53 and 97 < scale.max() <= 104
    assert np.abs(np.quantile(scale, [0.25, 0.5, 0.75]) - [62, 75, 88]).max() < 6
    assert left.min() < 6 and (left + extent).max() > 194


def test_inception_box_has_the_areas_and_ratios_asked_for():
    height, width, rng = 4000, 5000, np.random.default_rng(0)
    boxes = np.array([resizing.inception_box(height, width, rng) for _ in range(3000)])
    top, left, rows, columns = boxes.T
    assert (top >= 0).all() and (top + rows <= height).all()
    assert (left >= 0).all() and (left + columns <= width).all()
    share, ratio = rows * columns / (height * width), columns / rows
    assert 0.08 - 1e-3 < share.min() < 0.09
    assert 3 / 4 - 1e-3 < ratio.min() < 0.76 and 1.32 < ratio.max() < 4 / 3 + 1e-3
    # Small parts always fit: among them the share is uniform, and so are the logarithm
    # of the ratio and the place. Standard errors of these means are below 0.01.
    small = share < 0.5
    assert share[small].mean() == pytest.approx(0.29, abs=0.02)
    assert np.log(ratio[small]).mean() == pytest.approx(0, abs=0.02)
    assert (np.log(ratio[small]) ** 2).mean() == pytest.approx(
        np.log(4 / 3) ** 2 / 3, rel=0.1
    )
    assert (top / (height - rows + 1))[small].mean() == pytest.approx(0.5, abs=0.03)
    assert (left / (width - columns + 1))[small].mean() == pytest.approx(0.5, abs=0.03)
    # Large ones are turned down where they do not fit, as in torchvision.
    assert 0 < (share > 0.9).mean() < 0.04


@pytest.mark.parametrize(
    ("shape", "expected"),
    [
        ((100, 1000), (0, 433, 100, 133)),  # 133 = 100 * 4/3
        ((1000, 100), (433, 0, 133, 100)),
        ((1, 500), (0, 249, 1, 1)),
        ((500, 1), (249, 0, 1, 1)),
    ],
)
def test_inception_box_of_extreme_images_is_in_their_middle(shape, expected):
    box = resizing.inception_box(*shape, np.random.default_rng(0), area=(0.9, 1.0))
    assert box == expected


def test_inception_boxes_are_those_of_earlier_runs():
    boxes = [
        resizing.inception_box(375, 500, np.random.default_rng(seed))
        for seed in range(5)
    ]
    assert boxes == [
        (35, 302, 171, 129),
        (3, 19, 282, 366),
        (48, 219, 260, 231),
        (34, 273, 186, 160),
        (10, 133, 359, 334),
    ]


def test_inception_crop_is_the_box_resized(photo):
    for seed in range(20):
        box_rng, rng = np.random.default_rng(seed), np.random.default_rng(seed)
        top, left, height, width = resizing.inception_box(90, 131, box_rng)
        part = photo[top : top + height, left : left + width]
        found = resizing.inception_crop(photo, rng, 24)
        expected = with_pil(part, 24, 24, "bilinear")
        assert_nearly_equal(found, expected, "bilinear")


@pytest.mark.parametrize("shape", [(1, 1), (1, 300), (300, 1), (5, 7), (31, 40)])
@pytest.mark.parametrize("channels", [1, 3])
def test_images_smaller_than_the_crop(shape, channels):
    image = np.full((*shape, channels), 77, np.uint8)
    rng = np.random.default_rng(0)
    for interpolation in ALL:
        for found in (
            resizing.center_crop(image, 48, 56, interpolation),
            resizing.rescale_crop(image, rng, 48, (48, 64), interpolation),
            resizing.inception_crop(image, rng, 48, interpolation=interpolation),
        ):
            assert found.shape == (48, 48, channels)
            assert (found == 77).all()


def test_random_interpolation_is_each_of_the_papers(photo):
    def crops(interpolation, number):
        found = []
        for seed in range(number):
            rng = np.random.default_rng(seed)
            crop = resizing.inception_crop(photo, rng, 24, interpolation=interpolation)
            found.append(crop.tobytes())
        return found

    single = [crops(name, 200) for name in ("bilinear", "box", "nearest", "bicubic")]
    counts = np.array([np.equal(crops("random", 200), x).sum() for x in single])
    # 50 of each are expected, with a standard deviation of 6.
    assert counts.sum() >= 200 and counts.min() > 25


def test_the_generator_alone_decides(photo):
    for view in (
        lambda rng: resizing.rescale_crop(photo, rng, 32, (40, 80), "random"),
        lambda rng: resizing.inception_crop(photo, rng, 32, interpolation="random"),
    ):
        first, same, other = (view(np.random.default_rng(s)) for s in (1, 1, 2))
        np.testing.assert_array_equal(first, same)
        assert (first != other).any()


def test_views_of_a_jpeg_that_is_decoded_as_far_as_needed(square):
    data = simplejpeg.encode_jpeg(square, 90, "RGB", "420")
    corrupt = data[: 9 * len(data) // 10] + data[-2:]  # its lowest rows are missing
    outcomes = set()
    for seed in range(20):
        for view in (
            lambda image, rng: resizing.inception_crop(image, rng, 24),
            lambda image, rng: resizing.rescale_crop(
                image, rng, 24, (32, 80), "lanczos"
            ),
        ):
            lazy = decode_lazily(data, 3)
            assert isinstance(lazy, LazyJpeg)
            found = view(lazy, np.random.default_rng(seed))
            expected = view(decode(data, 3), np.random.default_rng(seed))
            np.testing.assert_array_equal(found, expected)
            try:
                rng = np.random.default_rng(seed)
                found = view(decode_lazily(corrupt, 3), rng)
                np.testing.assert_array_equal(found, expected)
                outcomes.add("sound")
            except DamagedImage:
                outcomes.add("damaged")
    assert outcomes == {"sound", "damaged"}


def test_a_crop_that_cannot_fit_is_named(photo):
    with pytest.raises(ValueError, match="no crop of 50 pixels.* 40"):
        resizing.center_crop(photo, 50, 40)
    with pytest.raises(ValueError, match="raise short_side"):
        resizing.rescale_crop(photo, np.random.default_rng(0), 50, (40, 40))
