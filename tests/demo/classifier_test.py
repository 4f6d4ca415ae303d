"""What the page says of an image is what the network computes."""

import functools

import demo_runs
import jax
import numpy as np
import pytest
import tiny_datasets

import data_source
from analysis import attribution, predict
from demo import drawing, sheets, uploads
from demo.classifier import Classifier
from models import lenet


@pytest.fixture(scope="module")
def shown(tmp_path_factory):
    run = demo_runs.make(tmp_path_factory.mktemp("run") / "lenet5")
    return Classifier(run, "latest", 50)


@pytest.fixture(scope="module")
def digits():
    return data_source.open_split("mnist", "test[:203]").read(np.arange(5))


def test_the_best_answers_and_the_distances_to_the_bitmaps(shown, digits):
    image = shown.image(tiny_datasets.png(digits[0][0]))
    np.testing.assert_array_equal(image, digits[0][0])
    found = shown.answer(image)
    network = shown.network
    inputs = network.inputs(image[None])
    codes = network.model.apply(network.variables, inputs, method="codes")
    distances = np.square(np.asarray(codes) - lenet.prototypes()).sum(1)
    probabilities = np.asarray(jax.nn.softmax(-distances))
    # Sums of 84 squares, in another order.
    expected = np.sort(probabilities)[:-6:-1]
    np.testing.assert_allclose([p for _, p in found["best"]], expected, 1e-3, 1e-6)
    assert found["best"][0][0] == str(distances.argmin())
    loss = network.config.loss.name
    said = f"probabilities are the softmax of the scores of the loss {loss!r}"
    assert found["note"] == said
    rows = found["lenet"]["rows"]
    assert [name for name, *_ in rows] == [str(k) for k in range(10)]
    np.testing.assert_allclose([d for _, d, _ in rows], distances, 1e-4)
    for (_, _, url), bitmap in zip(rows, lenet.prototypes(), strict=True):
        ink = demo_runs.pixels(url)[..., 0] == 0
        np.testing.assert_array_equal(ink, bitmap.reshape(12, 7) == 1)
    code = demo_runs.pixels(found["lenet"]["code"])
    assert code.shape == (12, 7, 1)
    shade = 255 * (1 - np.clip(np.asarray(codes)[0], -1, 1)) / 2
    np.testing.assert_allclose(code.ravel(), shade, atol=1)
    seen = demo_runs.pixels(found["seen"])
    np.testing.assert_array_equal(seen[2:30, 2:30], image)


def test_ink_is_placed_and_other_images_are_cut(shown):
    field = np.zeros((280, 280, 1), np.uint8)
    field[0:200, 10:30] = 255
    placed = shown.image(tiny_datasets.png(field), drawn=True)
    np.testing.assert_array_equal(placed, drawing.by_mass(field))
    cut = shown.image(tiny_datasets.png(field))
    np.testing.assert_array_equal(cut, uploads.cut(field, 28, 28))
    assert cut.shape == (28, 28, 1)


def test_maps_of_every_stage(shown, digits):
    image = digits[0][1]
    for row in shown.describe()["stages"]:
        if row["name"]:
            found = shown.stage(image, row["name"])
            assert found["text"].startswith(f"{row['name']}: ")
            assert demo_runs.pixels(found["picture"]).shape[-1] == 3
    assert shown.stage(image, "C3")["text"] == "C3: 16 maps of 10x10"
    inputs = shown.network.inputs(image[None])
    backbone = shown.network.model.bind(shown.network.variables).backbone
    maps = np.asarray(backbone(inputs, train=False)["S2"][0])
    expected, _ = sheets.maps(maps)
    found = demo_runs.pixels(shown.stage(image, "S2")["picture"]).astype(int)
    assert np.abs(found - expected).max() <= 4  # a step of the colour map
    with pytest.raises(uploads.Refused, match="no such stage"):
        shown.stage(image, "../C1")


def test_why(shown, digits, monkeypatch):
    """Both pictures are of the answer, which is not class 0."""
    image, network = digits[0][2], shown.network
    name, share = shown.answer(image)["best"][0]
    best, (seen,) = network.names.index(name), network.seen(image[None])
    assert best
    found = shown.grad_cam(image)
    assert found["text"].startswith("Grad-CAM on C3: ")
    assert found["text"].endswith(f"speaks for {name}")
    explain = functools.partial(attribution.grad_cam, network.model, stage=2)
    (heat,) = jax.jit(explain)(
        network.variables, network.inputs(image[None]), np.array([best])
    )
    drawn = demo_runs.pixels(found["picture"]).astype(int)
    expected = sheets.over(seen, heat / heat.max())
    assert np.abs(drawn - expected).max() <= 4  # a step of the colour map

    maps, real = [], attribution.occlusion

    def noted(*arguments, **options):
        maps.append(real(*arguments, **options))
        return maps[0]

    monkeypatch.setattr(attribution, "occlusion", noted)
    found = shown.occlusion(image)
    heat = maps[0][..., best]
    assert f"probability of {name} by" in found["text"]
    assert f"{heat.min():.3f} (dark) to {heat.max():.3f} (bright)" in found["text"]
    assert heat.min() <= share + 1e-3 and np.ptp(heat) > 0.01
    drawn = demo_runs.pixels(found["picture"])
    expected = sheets.over(seen, sheets.scaled(heat, (0, 1)))
    np.testing.assert_array_equal(drawn, expected)


def test_a_training_image_is_nearest_to_itself(shown):
    network = shown.network
    split = network.open_split(network.config.dataset.train_split)
    index = int(np.linspace(0, len(split) - 1, 50).astype(int)[7])
    (image,), (label,) = split.read([index])
    found = shown.neighbours(image)
    assert found["text"] == "of 50 training images, nearest first"
    url, name = found["pictures"][0]
    assert name == str(label)
    np.testing.assert_array_equal(demo_runs.pixels(url), image)
    assert len(found["pictures"]) == 8


def test_samples_are_test_images_with_their_class(shown, digits):
    images, labels = digits
    for index in (0, 4, 203):
        found = shown.sample(index)
        expected = images[index % 203]
        np.testing.assert_array_equal(demo_runs.pixels(found["picture"]), expected)
        truth = f"test image {index % 203} of 203: truly {labels[index % 203]}"
        assert found["text"] == truth


def test_filters_are_those_of_the_first_layer(shown):
    found = shown.filters()
    assert found["text"] == "C1: 6 filters of 5x5x1"
    kernel = shown.network.variables["params"]["backbone"]["C1"]["kernel"]
    expected = sheets.filters(kernel)
    np.testing.assert_array_equal(demo_runs.pixels(found["picture"]), expected)


def test_an_answer_that_is_no_number_is_refused(tmp_path, digits, monkeypatch):
    run = demo_runs.make(tmp_path / "run")
    broken = Classifier(run, "latest", 50)
    nowhere = jax.tree.map(lambda x: np.full_like(x, np.nan), broken._variables)
    monkeypatch.setattr(broken, "_variables", nowhere)
    with pytest.raises(uploads.Refused, match="no number"):
        broken.answer(digits[0][0])


def test_binary_cross_entropy_gives_each_class_its_own_probability(tmp_path, digits):
    """On the page, in the pictures of an inspection, and in predictions."""
    loss = {"loss__name": "binary_cross_entropy"}
    run = demo_runs.make(tmp_path / "run", "lenet5_modern", "modern", **loss)
    shown, image = Classifier(run, "latest", 50), digits[0][0]
    network = shown.network
    inputs = network.inputs(image[None])
    logits = network.model.apply(network.variables, inputs, train=False)
    expected = np.asarray(jax.nn.sigmoid(logits))[0]
    found = shown.answer(image)
    assert found["note"] == ""
    # The same float32 sums, in another program.
    best = np.sort(expected)[:-6:-1]
    np.testing.assert_allclose([p for _, p in found["best"]], best, 1e-4)
    np.testing.assert_allclose(network.outputs(image[None])[0][0], expected, 1e-4)
    file = iter([("a.png", tiny_datasets.png(image))])
    ((_, _, row),) = predict._probabilities(file, network.trained)
    np.testing.assert_allclose(row, expected, 1e-4)


def test_a_network_of_another_family_has_no_bitmaps(tmp_path, digits):
    run = demo_runs.make(tmp_path / "run", "lenet5_modern", "modern")
    shown = Classifier(run, "latest", 50)
    assert shown.describe()["canvas"]
    assert "lenet" not in shown.answer(digits[0][0])
