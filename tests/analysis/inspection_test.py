"""The pictures show what the network really does."""

import dataclasses
import functools
import json
import re

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny_datasets
import traced
from PIL import Image

import data_source
import models
from analysis import attribution, gallery, inspection, pictures, retrieval, stages
from configs import default
from experiment import build, checkpoints, image_statistics, workdir
from kernels import ops
from models.layers import max_pool

RNG = np.random.default_rng(0)


def variables_of(model, shape):
    """Random variables, drawn without compiling an initialisation."""

    def draw(path, x):
        name = path[-1].key
        if name in ("scale", "var"):
            return RNG.uniform(0.5, 1.5, x.shape).astype(np.float32)
        size = (2 / np.prod(x.shape[:-1])) ** 0.5 if name == "kernel" else 0.1
        return RNG.normal(0, size, x.shape).astype(np.float32)

    shapes = build.abstract_variables(model, shape)
    return jax.tree_util.tree_map_with_path(draw, shapes)


@pytest.mark.parametrize(
    ("name", "shape", "first", "last", "size", "features"),
    [
        ("lenet5", (32, 32, 1), "C1", "C3", (10, 10, 16), 84),
        ("lenet5_modern", (28, 28, 1), "C1", "C3", (10, 10, 16), 84),
        ("alexnet", (227, 227, 3), "conv1", "conv5", (13, 13, 256), 4096),
        ("zfnet", (224, 224, 1), "conv1", "conv5", (13, 13, 256), 4096),
        ("overfeat_fast", (231, 231, 3), "conv1", "conv5", (12, 12, 1024), 4096),
        ("nin", (32, 32, 3), "conv1", "cccp5", (8, 8, 192), 192),
        ("vgg16", (224, 224, 3), "conv1_1", "conv5_3", (14, 14, 512), 4096),
        ("googlenet", (224, 224, 3), "conv1", "inception_5b", (7, 7, 1024), 1024),
        ("resnet50", (224, 224, 3), "conv1", "conv5_x", (7, 7, 2048), 2048),
        pytest.param(
            *("resnet50", (32, 32, 3), "conv1", "conv4_x", (2, 2, 1024), 2048),
            marks=pytest.mark.slow,
        ),
        ("fractalnet_10", (32, 32, 3), "conv", "block4", (2, 2, 128), 128),
        ("densenet_40_12", (32, 32, 1), "conv1", "block3", (8, 8, 448), 448),
        pytest.param(
            *("dpn68", (224, 224, 3), "conv1", "conv5", (7, 7, 832), 832),
            marks=pytest.mark.slow,
        ),
    ],
)
def test_where_to_look(name, shape, first, last, size, features):
    """The sizes are those of the papers' tables."""
    model = models.create(name, num_classes=10)
    with ops.portable():  # its shapes are traced in a third of the time
        layout = stages.layout(model, shape)
    assert layout.first[-2:] == (first, "kernel")
    assert layout.last == last
    assert layout.stages[last] == size
    variables = traced.variables(model, shape[0], shape[-1])
    result = traced.eval_shape(
        lambda variables, x: stages.forward(model, variables, x),
        variables,
        jax.ShapeDtypeStruct((2, *shape), jnp.float32),
    )
    assert result.features.shape == (2, features)
    assert [x.shape[1:] for x in result.stages] == list(layout.stages.values())


@pytest.fixture(scope="module")
def resnet():
    model = models.create("resnet20", num_classes=3)
    variables = variables_of(model, (16, 16, 3))
    inputs = RNG.normal(size=(2, 16, 16, 3)).astype(np.float32)
    result = jax.jit(lambda v, x: stages.forward(model, v, x))(variables, inputs)
    return model, variables, inputs, result


def test_features_are_what_the_last_layer_is_given(resnet):
    model, variables, inputs, result = resnet
    last = variables["params"]["head"]["fc"]
    again = result.features @ last["kernel"] + last["bias"].reshape(1, -1)
    # Two orders of adding 64 products in float32.
    np.testing.assert_allclose(again, result.logits, rtol=1e-5, atol=1e-5)


def test_grad_cam_after_global_average_pooling_is_cam(resnet):
    """The gradient is then the class's weights divided by the number of positions
    (Selvaraju et al., Section 3.1)."""
    model, variables, inputs, result = resnet
    classes = np.array([2, 0])
    stage = len(result.stages) - 1
    explain = jax.jit(functools.partial(attribution.grad_cam, model, stage=stage))
    found = explain(variables, inputs, classes)
    weights = variables["params"]["head"]["fc"]["kernel"].T[classes]
    maps = np.asarray(result.stages[stage])
    expected = np.einsum("bhwd,bd->bhw", maps, weights) / np.prod(maps.shape[1:3])
    assert (expected < 0).any() and (expected > 0).any()
    np.testing.assert_allclose(found, np.maximum(expected, 0), rtol=1e-4, atol=1e-6)


def test_grad_cam_of_a_stage_that_no_module_returns():
    """C3 of the modern LeNet-5 ends in a ReLU; what follows is written out here."""
    model = models.create("lenet5_modern", num_classes=5)
    variables = variables_of(model, (28, 28, 1))
    inputs = RNG.normal(size=(2, 28, 28, 1)).astype(np.float32)
    classes = jnp.array([1, 4])
    explain = jax.jit(functools.partial(attribution.grad_cam, model, stage=2))
    found = explain(variables, inputs, classes)

    @jax.jit
    def score(maps):
        params = variables["params"]
        x = max_pool(maps, 2, 2).reshape(2, -1)
        for layer in (*(params["backbone"][n] for n in ("C5", "F6")), params["output"]):
            x = x @ layer["kernel"].reshape(x.shape[1], -1)
            x = x + layer["bias"].reshape(1, -1)
            x = x if layer is params["output"] else nn.relu(x)
        return x[0, 1] + x[1, 4]

    forward = jax.jit(functools.partial(stages.forward, model))
    maps = forward(variables, inputs).stages[2]
    weights = jax.grad(score)(maps).mean((1, 2), keepdims=True)
    expected = nn.relu((weights * maps).sum(-1))
    assert expected.max() > 0
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-6)


def test_occlusion_is_the_answer_without_what_the_square_covers():
    image = RNG.uniform(1, 2, (12, 12, 1)).astype(np.float32)

    def probabilities(images):  # of class 0: what is at row 5, column 8
        return jnp.stack([images[:, 5, 8, 0], images.mean((1, 2, 3))], -1)

    found = attribution.occlusion(
        probabilities,
        jnp.asarray(image),
        size=4,
        stride=2,
        fill=jnp.array([-7.0]),
        batch_size=5,
    )
    assert found.shape == (6, 6, 2)
    for row, centre_y in enumerate(range(1, 12, 2)):
        for column, centre_x in enumerate(range(1, 12, 2)):
            top, left = max(centre_y - 2, 0), max(centre_x - 2, 0)
            covered = image.copy()
            covered[top : centre_y + 2, left : centre_x + 2] = -7
            expected = covered[5, 8, 0], covered.mean()
            np.testing.assert_allclose(found[row, column], expected, rtol=1e-5)
    assert (found[..., 0] == -7).sum() == 4  # a square of 4 pixels in steps of 2


def test_a_map_of_occlusion_covers_the_image_when_the_step_does_not_divide_it():
    image = jnp.zeros((19, 299, 1))
    places = [jnp.arange(n)[:, None] for n in image.shape[:2]]

    def where(images):  # the square of one pixel is
        ones = images[..., 0]
        return jnp.stack(
            [(ones @ places[1]).sum((1, 2)), (ones.mT @ places[0]).sum((1, 2))], -1
        )

    found = attribution.occlusion(where, image, size=1, stride=18, fill=1.0)
    rows, columns = found.shape[:2]
    assert (rows, columns) == (1, 17)
    # Stretched over the image, each cell's middle is in its own pixel.
    middles = (np.arange(columns) + 0.5) * 299 / columns
    np.testing.assert_array_equal(found[0, :, 0], np.floor(middles))
    assert found[0, 0, 1] == 9


def test_nearest_by_both_distances_as_computed_one_by_one():
    database = RNG.normal(size=(50, 7)).astype(np.float32)
    queries = RNG.normal(size=(6, 7)).astype(np.float32)
    distances = np.linalg.norm(queries[:, None] - database, axis=-1)
    expected = np.argsort(distances, axis=1)[:, :5]
    np.testing.assert_array_equal(retrieval.nearest(database, queries, 5), expected)

    # 70 bits take two words; ties, which are many, go to the lower index.
    codes, asked = RNG.random((50, 70)) < 0.5, RNG.random((6, 70)) < 0.5
    distances = (asked[:, None] != codes).sum(-1)
    expected = np.argsort(distances, axis=1, kind="stable")[:, :5]
    found = retrieval.nearest_codes(retrieval.pack(codes), retrieval.pack(asked), 5)
    assert retrieval.pack(codes).shape == (50, 2)
    np.testing.assert_array_equal(found, expected)


def test_codes_keep_what_is_near_and_repeat():
    """Eight groups of features, far apart, in eight bits."""
    rng = np.random.default_rng(0)
    labels = np.arange(160) % 8
    centres = 5 * rng.normal(size=(8, 20))
    features = (centres[labels] + rng.normal(size=(160, 20))).astype(np.float32)
    encode, missed = retrieval.train_codes(features, bits=8, steps=600)
    codes = encode(features)
    found = retrieval.nearest_codes(codes, codes, 10)
    assert (labels[found] == labels[:, None]).mean() > 0.9  # by chance: 1/8
    # Four draws of such features: 0.21 to 0.28; with an encoder that is not trained,
    # and so cuts the space at random, 0.40 to 0.54.
    assert missed < 0.33
    again, missed_again = retrieval.train_codes(features, bits=8, steps=600)
    np.testing.assert_array_equal(again(features), codes)
    assert missed_again == missed


def test_comparison_of_two_searches():
    labels, query_labels = np.array([0, 0, 1, 1]), np.array([0, 1])
    result = retrieval.compare(
        lambda: np.array([[0, 1], [2, 3]]),
        lambda: np.array([[1, 2], [3, 2]]),
        labels,
        query_labels,
        k=2,
    )
    assert result["precision"] == [1.0, 0.75]
    assert result["precision_of_classes"] == {0: [1.0, 0.5], 1: [1.0, 1.0]}
    assert result["overlap"] == 0.75


PANEL = RNG.integers(0, 256, (8, 16, 16, 3), np.uint8)
NAMES = [f"tench, Tinca tinca, or another fish {n}" for n in range(8)]
FILES = [f"photographs_of_last_year_{n}.jpeg" for n in range(8)]
SCORES, BEST = np.full((8, 8), 1 / 8), np.tile(np.arange(5), (8, 1))
NEAR = [[(PANEL[1], NAMES[1])] * 6] * 2


@pytest.mark.parametrize(
    "draw",
    [
        lambda: pictures.draw_panel(
            None, PANEL, NAMES, NAMES, SCORES, BEST, np.arange(8)
        ),
        lambda: pictures.draw_panel(None, PANEL, FILES, NAMES, SCORES, BEST),
        lambda: pictures.draw_grad_cam(
            None, PANEL, np.zeros((8, 2, 2)), NAMES, NAMES[::-1], "caption"
        ),
        lambda: pictures.draw_neighbours(None, [(PANEL[0], NAMES[0])] * 2, NEAR, ""),
    ],
)
def test_long_names_do_not_overlap(monkeypatch, draw):
    from matplotlib import pyplot

    drawn = []
    monkeypatch.setattr(pictures, "save", lambda drawing, path: drawn.append(drawing))
    draw()
    drawn[0].canvas.draw()
    texts = [
        text
        for axis in drawn[0].axes
        for text in (axis.title, *(axis.get_yticklabels() if axis.axison else ()))
        if text.get_text()
    ]
    boxes = [text.get_window_extent() for text in texts]
    assert len(boxes) > 10
    for i, box in enumerate(boxes):
        assert not box.count_overlaps(boxes[:i]), texts[i]
    pyplot.close(drawn[0])


def test_an_answer_that_is_wrong_is_said_above_its_map(monkeypatch):
    from matplotlib import pyplot

    drawn = []
    monkeypatch.setattr(pictures, "save", lambda drawing, path: drawn.append(drawing))
    maps = np.ones((2, 2, 2))
    pictures.draw_grad_cam(None, PANEL[:2], maps, ["ant", "bee"], ["ant", "cat"], "")
    titles = [axis.get_title() for axis in drawn[0].axes]
    assert titles == ["ant", "", "bee", "answer: cat"]
    pyplot.close(drawn[0])


def test_red_is_the_true_class_of_bars_and_another_class_of_neighbours(monkeypatch):
    from matplotlib import colors, pyplot

    def red(text):
        return colors.same_color(text.get_color(), pictures.RED)

    drawn, names, labels = [], ["ant", "bee", "cat"], np.array([2, 0])
    monkeypatch.setattr(pictures, "save", lambda drawing, path: drawn.append(drawing))
    scores, best = np.full((2, 3), 1 / 3), np.array([[0, 1, 2]] * 2)
    titles = [names[k] for k in labels]
    pictures.draw_panel(None, PANEL[:2], titles, names, scores, best, labels)
    for title, axis in zip(titles, drawn[0].axes[1::2], strict=True):
        texts = axis.get_yticklabels()
        assert [text.get_text() for text in texts if red(text)] == [title]
        bars = [colors.to_hex(bar.get_facecolor()) for bar in axis.patches]
        expected = [pictures.RED if red(text) else pictures.BLUE for text in texts]
        assert bars == expected

    pyplot.close(drawn[0])
    near = [[(PANEL[0], name) for name in names]] * 2
    pictures.draw_neighbours(None, [(PANEL[0], "bee"), (PANEL[0], "")], near, "")
    titles = [axis.title for axis in drawn[1].axes if axis.get_title()]
    assert [title.get_text() for title in titles] == ["bee", *names, *names]
    # The class of the second image is not known.
    assert [red(title) for title in titles] == [0, 1, 0, 1, 0, 0, 0]
    pyplot.close(drawn[1])


@pytest.mark.parametrize("number", [7, 12])
def test_classes_without_a_colour_of_their_own_are_others(monkeypatch, number):
    from matplotlib import pyplot

    drawn = []
    monkeypatch.setattr(pictures, "save", lambda drawing, path: drawn.append(drawing))
    maps, names = [np.eye(number)[None]], [f"class {k}" for k in range(number)]
    pictures.draw_occlusion(None, PANEL[:1], maps, [0], names, 4)
    axis = drawn[0].axes[2]
    legend = axis.get_legend()
    colours = {
        text.get_text(): patch.get_facecolor()[:3]
        for text, patch in zip(legend.get_texts(), legend.get_patches(), strict=True)
    }
    assert [*colours] == [*names[:7], *(["others"] if number > 7 else [])]
    assert len(set(colours.values())) == len(colours)
    (cells,) = axis.images[0].get_array()
    for name, cell in zip(names, cells, strict=True):
        np.testing.assert_allclose(cell, colours.get(name, colours.get("others")))
    pyplot.close(drawn[0])


def test_names_that_are_too_long_are_cut():
    assert pictures.short("a cat", 5) == "a cat"
    assert pictures.short("tabby cat", 5) == "tabb…"
    assert pictures.short("image_001.png", 10, 7) == "im…001.png"


# A run, not trained, on twenty images.


PICTURES = "filters activations predictions grad_cam occlusion neighbours codes".split()


@pytest.fixture
def few(monkeypatch):
    """Pictures of fewer images are drawn more quickly, and codes of few steps found."""
    for name, number in {"SHOWN": 4, "OCCLUDED": 2, "NEIGHBOURS": 2}.items():
        monkeypatch.setattr(inspection, name, number)
    trained = functools.partial(retrieval.train_codes, steps=30)
    monkeypatch.setattr(retrieval, "train_codes", trained)


def make_run(path, name, size, channels, dataset=(), statistics=(), **fields):
    """Makes a run directory with random weights and data in <path>/data.

    dataset has changes to config.dataset, statistics the arrays that they need.
    """
    images = RNG.integers(0, 256, (20, size, size, channels), np.uint8)
    tiny_datasets.prepare(path / "data", images, RNG.integers(0, 3, 20))
    config = default.get_config()
    config.dataset.update(name="tiny", data_dir=str(path / "data"), eval_split="train")
    config.dataset.update({"mean": (100.0,), "std": (50.0,)} | dict(dataset))
    config.model.name = name
    config.model.fields.update(fields)
    config.eval.batch_size = 7
    run = workdir.Workdir(path / "run")
    run.create(config)
    run.write_json(
        "dataset.json",
        {
            "name": "tiny",
            "image_shape": [size, size, channels],
            "label_names": tiny_datasets.NAMES,
        },
    )
    if statistics:
        run.write_arrays(image_statistics.FILE, statistics)
    (run.path / "metrics.jsonl").write_text('{"step": 1}\n')
    model = models.create(name, num_classes=3, **fields)
    size = config.dataset.image_size or size
    variables = variables_of(model, (size, size, channels))
    saved = checkpoints.Checkpoints(run.checkpoints)
    saved.save(4, {"ema": None, "batch_stats": {}} | variables)
    saved.wait()
    saved.close()
    return run


@pytest.mark.parametrize(
    ("name", "size", "channels"),
    [
        ("lenet5_modern", 28, 1),
        pytest.param("resnet20", 16, 3, marks=pytest.mark.slow),
        pytest.param("nin", 16, 3, marks=pytest.mark.slow),
    ],
)
def test_every_picture_of_a_run(tmp_path, few, name, size, channels):
    run = make_run(tmp_path, name, size, channels)
    said = str(inspection.inspect_run(run, "latest"))
    directory = run.path / "inspect"
    for picture in PICTURES:
        assert str(directory / f"{picture}.png") in said
        with Image.open(directory / f"{picture}.png") as image:
            image.load()
            assert min(image.size) > 60
    measured = json.loads((directory / "retrieval.json").read_text())
    assert measured["queries"] == measured["database"] == 20
    assert measured["k"] == 10
    assert "after step 4" in said

    # TensorBoard has them too, and the run's own metrics are as they were.
    assert {p.name for p in directory.glob("*.jsonl")} == set()
    (events,) = directory.glob("events*")
    for picture in PICTURES:
        assert f"inspect/{picture}".encode() in events.read_bytes()
    assert (run.path / "metrics.jsonl").read_text() == '{"step": 1}\n'


def test_occlusion_covers_the_image_before_it_is_whitened(tmp_path, monkeypatch):
    """The square is grey of 0..255 at the network's size; the rest is written out."""
    mean = RNG.normal(size=784).astype(np.float32)
    whiten = RNG.normal(0, 784**-0.5, (784, 784)).astype(np.float32)
    dataset = {"whiten": "gcn_zca", "fit": "resize", "image_size": 28}
    dataset |= {"mean": (0.0,), "std": (3.0,)}
    statistics = {"mean": mean, "whiten": whiten}
    run = make_run(tmp_path, "lenet5_modern", 14, 1, dataset, statistics)
    network = inspection.Network(run, "latest")
    panel = network.test_images().rows([0])
    drawn = []
    monkeypatch.setattr(
        pictures, "draw_occlusion", lambda *drawing: drawn.extend(drawing)
    )
    inspection.occlusion(tmp_path / "occlusion.png", network, panel)
    found = drawn[2][0]
    assert found.shape == (28, 28, 3)

    image = panel.images.astype(np.float32)
    image = np.array(jax.image.resize(image, (1, 28, 28, 1), "bilinear"))
    centres = [(0, 0), (5, 9), (14, 14), (27, 3)]
    covered = np.repeat(image, len(centres), 0)
    for one, (y, x) in zip(covered, centres, strict=True):
        one[max(y - 3, 0) : y + 4, max(x - 3, 0) : x + 4] = 127.5
    flat = covered.reshape(len(centres), -1)
    flat = flat - flat.mean(1, keepdims=True)
    flat = 55 * flat / np.linalg.norm(flat, axis=1, keepdims=True)
    inputs = ((flat - mean[None]) @ whiten / 3).reshape(covered.shape)
    apply = jax.jit(functools.partial(network.model.apply, train=False))
    logits = apply(network.variables, inputs)
    at = [found[centre] for centre in centres]
    # float32: a product of 784 terms and five layers.
    np.testing.assert_allclose(at, jax.nn.softmax(logits), rtol=1e-3)
    assert np.ptp(found, (0, 1)).max() > 0.01


def test_a_panel_has_images_of_all_places_and_the_hardest():
    probabilities = np.full((20, 3), 0.9)
    labels, hard = np.arange(20) % 3, [14, 3, 12, 8, 5]
    probabilities[hard, labels[hard]] = 0.1, 0.2, 0.3, 0.4, 0.5
    tested = inspection.Panel(np.zeros(20), None, labels, probabilities, None)
    assert inspection.telling(tested) == [0, 6, 12, 19, 14, 3, 8, 5]


def test_pictures_are_of_the_classes_and_of_the_images_found(tmp_path, monkeypatch):
    """Seven of the twenty images are searched, and four of these are asked for."""
    network = inspection.Network(make_run(tmp_path, "lenet5_modern", 28, 1), "latest")
    drawn = []
    for name in ("draw_grad_cam", "draw_neighbours"):
        monkeypatch.setattr(pictures, name, lambda *drawing: drawn.append(drawing))
    search = inspection.Search(network, 7)
    panel = network.test_images().rows(search.indices[:4])
    inspection.neighbours(None, network, search, panel)
    _, queries, found, _ = drawn.pop()
    np.testing.assert_array_equal([image for image, _ in queries], panel.images)
    distances = np.linalg.norm(panel.features[:, None] - search.features, axis=-1)
    nearest = search.indices[np.argsort(distances)[:, :6]]
    assert (nearest[:, 0] == search.indices[:4]).all()
    for row, numbers in zip(found, nearest, strict=True):
        images, labels = network.read(search.split, numbers)
        np.testing.assert_array_equal([image for image, _ in row], images)
        assert [name for _, name in row] == [network.names[k] for k in labels]

    classes, answers = np.array([1, 2, 0, 1]), panel.probabilities.argmax(1)
    inspection.grad_cam(None, network, dataclasses.replace(panel, labels=classes))
    _, images, maps, titles, said, _ = drawn.pop()
    np.testing.assert_array_equal(images, network.seen(panel.images))
    assert titles == [network.names[k] for k in classes]
    assert said == [network.names[k] for k in answers]
    explain = functools.partial(attribution.grad_cam, network.model, stage=2)
    inputs = network.inputs(panel.images)
    expected = jax.jit(explain)(network.variables, inputs, classes)
    # The same program, compiled once more.
    np.testing.assert_allclose(maps, expected, rtol=1e-5, atol=1e-7)
    assert (dataclasses.replace(panel, labels=None).classes == answers).all()


def test_nothing_of_an_earlier_inspection_stays(tmp_path):
    """It may be of another step; files of other names are not ours."""
    own = tmp_path / "inspect" / "mine.png"
    own.parent.mkdir()
    for name in (*(f"{name}.png" for name in PICTURES), "retrieval.json", own.name):
        (own.parent / name).write_text("old")
    found = gallery.Gallery(workdir.Workdir(tmp_path), None)
    assert list(own.parent.iterdir()) == [own] and not found.failed


def test_images_that_some_pictures_leave_out_are_said(tmp_path, capsys):
    run = make_run(tmp_path, "lenet5_modern", 28, 1)
    for number, said in ((4, 0), (5, 1)):
        with pytest.raises(data_source.DataError, match="no file none.png"):
            inspection.inspect_run(run, "latest", ["none.png"] * number)
        assert capsys.readouterr().out.count("note: of the 5 images, ") == said


def test_data_of_some_classes_is_shown_if_the_run_tests_on_it(tmp_path):
    run = make_run(tmp_path, "lenet5_modern", 28, 1)
    network = inspection.Network(run, "latest")
    record = run.read_json("dataset.json")
    names = *tiny_datasets.NAMES, "dog"
    run.write_json("dataset.json", record | {"label_names": names})
    with pytest.raises(data_source.DataError, match="eval.classes=subset"):
        network.open_split("train")
    network.config.eval.classes = "subset"
    assert network.open_split("train").label_names == names


def test_a_damaged_image_does_not_cost_the_others(tmp_path, caplog):
    network = inspection.Network(make_run(tmp_path, "lenet5_modern", 28, 1), "latest")
    images = RNG.integers(0, 256, (4, 28, 28, 1), np.uint8)
    images = [tiny_datasets.png(image) for image in images]
    images[1] = images[1][:200]
    other = tmp_path / "other"
    tiny_datasets.prepare(other, images, [0, 1, 2, 0], shape=(28, 28, 1))
    split = data_source.open_split("tiny", "train", data_dir=other)
    found, labels = network.read(split, np.arange(4))
    assert labels.tolist() == [0, 2, 2, 0]
    np.testing.assert_array_equal(found[1], found[2])
    assert "the next image takes its place" in caplog.text


@pytest.mark.slow
def test_an_unforeseen_error_costs_one_picture(tmp_path, few, monkeypatch):
    def fail(*args, **kwargs):
        raise ValueError("no such shape")

    run = make_run(tmp_path, "lenet5_modern", 28, 1)
    monkeypatch.setattr(attribution, "grad_cam", fail)
    monkeypatch.setattr(retrieval, "train_codes", fail)
    monkeypatch.setattr(gallery, "to_tensorboard", fail)
    found = inspection.inspect_run(run, "latest")
    for name in ("grad_cam", "codes", "retrieval.json", "pictures for TensorBoard"):
        assert f"no {name}: ValueError('no such shape')" in found.failed
    drawn = {p.stem for p in run.path.glob("inspect/*.png")}
    assert drawn == set(PICTURES) - {"grad_cam", "codes"}
    assert "neighbours.png" in str(found)


@pytest.mark.slow
def test_without_data_the_rest_is_drawn(tmp_path, few, no_other_data):
    run = make_run(tmp_path, "lenet5_modern", 28, 1)
    (tmp_path / "data").rename(tmp_path / "elsewhere")
    found = inspection.inspect_run(run, "latest")
    assert re.search(r"no test images: .*data", found.failed[0])
    assert {p.stem for p in run.path.glob("inspect/*.png")} == {"filters"}
    assert "filters.png" in str(found)

    file = tmp_path / "digit.png"
    Image.fromarray(RNG.integers(0, 256, (28, 28), np.uint8)).save(file)
    found = inspection.inspect_run(run, "latest", [str(file)])
    assert any("no test images" in problem for problem in found.failed)
    drawn = {p.stem for p in run.path.glob("inspect/*.png")}
    assert drawn == set(PICTURES) - {"neighbours", "codes"}


def test_errors_name_what_is_wrong(tmp_path):
    run = make_run(tmp_path, "lenet5_modern", 28, 1)
    text = tmp_path / "text.png"
    text.write_text("no image")
    with pytest.raises(data_source.DataError, match=r"text\.png is no readable image"):
        inspection.inspect_run(run, "latest", [str(text)])
    with pytest.raises(checkpoints.CheckpointError, match="3"):
        inspection.inspect_run(run, "3")
    with pytest.raises(workdir.WorkdirError, match="holds no run"):
        inspection.inspect_run(workdir.Workdir(tmp_path / "none"), "latest")
    config = run.config()
    with config.unlocked():
        config.model.name = "resnet20"
        config.model.fields = {}
    run.write_text("config.json", config.to_json())
    with pytest.raises(checkpoints.IncompatibleCheckpoint):
        inspection.inspect_run(run, "latest")
