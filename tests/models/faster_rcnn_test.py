"""Faster R-CNN: its parameters, shapes and initial values, and both ends' boxes.

The counts add up the layers of py-faster-rcnn's prototxt and of Detectron2's C4 on the
ResNets of torchvision; Detectron2's own networks were counted too.
"""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import traced

import models
from models import boxes, faster_rcnn, resnet, wide_resnet
from models.faster_rcnn import FasterRCNN

SMALL = {"depth": 18, "features": 16, "rpn_channels": 32, "pool_size": 4}
SMALL |= {"anchor_sizes": (16, 32), "min_size": 4}
COCO = {"anchor_sizes": (64, 128, 256, 512)}
DETECTRON2 = {
    "anchor_sizes": (32, 64, 128, 256, 512),
    "rpn_channels": 1024,
    "objectness": "sigmoid",
    "box_outputs": "classes",
}


def flat(tree):
    """{"backbone/conv1/kernel": its size}."""
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    return {"/".join(key.key for key in path): leaf.size for path, leaf in leaves}


@pytest.mark.parametrize(
    ("classes", "fields", "rpn", "head", "total", "without_norm", "trained"),
    [
        (20, {}, 4_746_806, 215_145, 47_462_111, 47_356_767, 47_134_367),
        (80, COCO, 4_756_040, 829_845, 48_086_045, 47_980_701, 47_758_301),
        pytest.param(
            *(20, DETECTRON2, 9_515_083, 206_949, 52_222_192, 52_116_848, 51_894_448),
            marks=pytest.mark.slow,
        ),
        (80, DETECTRON2, 9_515_083, 821_649, 52_836_892, 52_731_548, 52_509_148),
    ],
)
def test_parameters_of_resnet101(
    classes, fields, rpn, head, total, without_norm, trained
):
    model = models.create("faster_rcnn", num_classes=classes, **fields)
    params = traced.variables(model, 32)["params"]
    assert [traced.count(params[part]) for part in ("rpn", "head")] == [rpn, head]
    sizes = flat(params)
    assert sum(sizes.values()) == total
    fixed = {name: n for name, n in sizes.items() if "bn" in name.split("/")[-2]}
    assert total - sum(fixed.values()) == without_norm
    early = ("backbone/conv1/", "backbone/conv2_")
    fixed |= {name: n for name, n in sizes.items() if name.startswith(early)}
    assert total - sum(fixed.values()) == trained


@pytest.mark.parametrize(
    ("depth", "fields", "total"),
    [(18, {}, 12_438_239), (50, {}, 28_469_983), (50, DETECTRON2, 33_230_064)],
)
def test_parameters_of_others(depth, fields, total):
    model = FasterRCNN(20, depth=depth, **fields)
    assert traced.count(traced.variables(model, 32)["params"]) == total


def test_context_doubles_what_the_head_sees():
    """2,048 more numbers for each of 21 classes and of 4 x 21 box codes."""
    model = FasterRCNN(20, context=True)
    more = 2_048 * (21 + 4 * 21)
    params = traced.variables(model, 32)["params"]
    assert traced.count(params) == 47_462_111 + more == 47_677_151
    assert params["head"]["cls"]["kernel"].shape == (4_096, 21)


def test_agnostic_boxes_have_one_code_for_all_classes():
    model = FasterRCNN(20, **SMALL, box_outputs="agnostic")
    head = traced.variables(model, 32)["params"]["head"]
    assert head["reg"]["kernel"].shape == (128, 4)


@pytest.mark.parametrize(
    ("classifier", "fields"),
    [
        (resnet.ResNet(5, depth=18), {"depth": 18}),
        (resnet.ResNet(5, depth=50), {"depth": 50}),
        (wide_resnet.WideResNet(5, 18, 0.5), {"depth": 18, "features": 32}),
    ],
)
def test_the_backbone_is_a_classifier_s(classifier, fields):
    own = traced.variables(FasterRCNN(3, **fields), 32)
    other = traced.variables(classifier, 32)
    for kind in ("params", "batch_stats"):
        assert own[kind]["backbone"] == other[kind]["backbone"]


def test_initial_values(monkeypatch):
    """N(0, 0.01^2), but 0.001 for the boxes of regions, and biases of 0."""
    monkeypatch.setitem(resnet.TABLE_1, 18, (resnet.BasicBlock, (1, 1, 1, 1)))
    model = FasterRCNN(20, **SMALL | {"features": 64})
    init = jax.jit(functools.partial(model.init, train=False))
    params = init(jax.random.key(0), jnp.zeros((1, 32, 32, 3)))["params"]
    for part, layer, std in (
        ("rpn", "conv", 0.01),
        ("rpn", "cls", 0.01),
        ("rpn", "reg", 0.01),
        ("head", "cls", 0.01),
        ("head", "reg", 0.001),
    ):
        found = params[part][layer]
        # 384 numbers or more: five standard deviations of their own.
        np.testing.assert_allclose(found["kernel"].std(), std, 0.18)
        assert not found["bias"].any()


@pytest.mark.parametrize(
    ("size", "shape"), [((600, 1000), (38, 63)), ((800, 1333), (50, 84))]
)
def test_the_sides_of_the_map_and_the_shapes_of_all_outputs(size, shape):
    model = FasterRCNN(20, depth=18, dtype=jnp.bfloat16)
    images = jnp.zeros((2, *size, 3))

    def run(model, images):
        x, *found = model.first_stage(images, train=False)
        sizes = jnp.full((2, 2), 900)
        rois, _ = model.proposals(*found, x.shape[1:3], sizes, train=True)
        second = model.second_stage([(x, sizes)], rois[:, :8], sizes, train=False)
        return x, *found, rois, *second

    call = functools.partial(model.init_with_output, method=run)
    (x, *found), _ = traced.eval_shape(call, jax.random.key(0), images)
    count = shape[0] * shape[1] * 9
    assert (x.shape, x.dtype) == ((2, *shape, 256), jnp.bfloat16)
    expected = (2, count), (2, count, 4), (2, 2000, 4), (2, 8, 21), (2, 8, 21, 4)
    assert tuple(y.shape for y in found) == expected
    assert {y.dtype for y in found} == {jnp.dtype("float32")}


def test_the_scores_of_the_softmax_are_all_backgrounds_first():
    rpn = faster_rcnn.RegionProposalNetwork(2, 8, "softmax", jnp.float32)
    x = jnp.ones((1, 1, 3, 4))
    params = rpn.init(jax.random.key(0), x)["params"]
    params["cls"] = {"kernel": params["cls"]["kernel"] * 0}
    params["cls"]["bias"] = jnp.array([1.0, 2.0, 10.0, 30.0])
    params["reg"] = {"kernel": params["reg"]["kernel"] * 0, "bias": jnp.arange(8.0)}
    logits, deltas = rpn.apply({"params": params}, x)
    np.testing.assert_array_equal(logits, [[9, 28] * 3])
    np.testing.assert_array_equal(deltas[0, :2], np.arange(8).reshape(2, 4))


def plain_nms(found, scores, threshold):
    """Numbers of the boxes that greedy suppression keeps, by falling score."""
    kept = []
    overlaps = np.asarray(boxes.iou(found, found))
    for i in np.argsort(-scores, kind="stable"):
        if not (overlaps[i, kept] > threshold).any():
            kept.append(i)
    return kept


@pytest.mark.parametrize("train", [True, False])
def test_proposals_are_decoded_clipped_filtered_and_suppressed(train):
    """As a loop over the steps of py-faster-rcnn's proposal layer."""
    options = {"pre_nms": (120, 60), "post_nms": (40, 7), "min_size": 12}
    model = FasterRCNN(3, **SMALL | options)
    shape, sizes = (5, 7), np.int32([[80, 112], [61, 70]])
    own, rng = model.anchor_boxes(shape), np.random.default_rng(0)
    logits = np.float32(rng.normal(size=(2, len(own))))
    deltas = np.float32(rng.normal(size=(2, len(own), 4)) / 2)
    run = jax.jit(functools.partial(model.scored_proposals, shape=shape, train=train))
    found, there, scores = run(logits, deltas, sizes=sizes)
    before, after = (120, 40) if train else (60, 7)
    assert found.shape == (2, after, 4)
    starts = np.repeat(np.indices(shape).reshape(2, -1).T * 16, 6, axis=0)
    for i, (height, width) in enumerate(sizes):
        decoded = np.array(boxes.decode(deltas[i], own))
        most = [width, height, width, height]
        decoded = np.clip(decoded, 0, np.float32(most))
        large = (decoded[:, 2:] - decoded[:, :2] >= 12).all(1)
        large &= (starts < sizes[i]).all(1)
        order = np.argsort(-logits[i], kind="stable")
        chosen = [k for k in order if large[k]][:before]
        kept = plain_nms(decoded[chosen], logits[i][chosen], 0.7)[:after]
        assert there[i].sum() == len(kept)
        expected = decoded[chosen][kept]
        np.testing.assert_allclose(found[i][: len(kept)], expected, 1e-5, 1e-4)
        np.testing.assert_array_equal(scores[i][: len(kept)], logits[i][chosen][kept])
        assert not found[i][len(kept) :].any() and not scores[i][len(kept) :].any()


@pytest.mark.parametrize("outputs", ["background", "classes", "agnostic"])
def test_detections_are_those_of_a_loop_over_the_classes(outputs):
    options = {"min_score": 0.2, "max_detections": 25, "box_outputs": outputs}
    model = FasterRCNN(3, **SMALL | options)
    rng = np.random.default_rng(1)
    low = rng.uniform(0, 70, (2, 30, 2))
    rois = np.float32(np.concatenate([low, low + rng.uniform(10, 40, low.shape)], 2))
    there = np.arange(30)[None] < np.array([[30], [20]])
    logits = np.float32(rng.normal(size=(2, 30, 4)))
    codes = {"background": 4, "classes": 3, "agnostic": 1}[outputs]
    deltas = np.float32(rng.normal(size=(2, 30, codes, 4)))
    sizes = np.int32([[90, 100], [80, 64]])
    found = jax.jit(model.detections)(rois, there, logits, deltas, sizes)
    scores = np.asarray(jax.nn.softmax(logits))
    for i, (height, width) in enumerate(sizes):
        expected = []
        for k in range(3):
            code = deltas[
                i, :, {"background": k + 1, "classes": k, "agnostic": 0}[outputs]
            ]
            decoded = np.array(boxes.decode(code, rois[i], model.box_weights))
            most = [width, height, width, height]
            decoded = np.clip(decoded, 0, np.float32(most))
            good = np.flatnonzero(there[i] & (scores[i, :, k + 1] > 0.2))
            for j in good[plain_nms(decoded[good], scores[i, good, k + 1], 0.3)]:
                expected.append((scores[i, j, k + 1], k, *decoded[j]))
        expected = np.array(sorted(expected, reverse=True)[:25])
        count = len(expected)
        assert found.there[i].tolist() == [True] * count + [False] * (25 - count)
        np.testing.assert_allclose(found.scores[i][:count], expected[:, 0], 1e-5)
        np.testing.assert_array_equal(found.labels[i][:count], expected[:, 1])
        np.testing.assert_allclose(found.boxes[i][:count], expected[:, 2:], 1e-4, 1e-4)
        assert not found.boxes[i][count:].any() and not found.scores[i][count:].any()
    assert found.there.sum(1).tolist()[0] == 25 > found.there[1].sum() > 3


def test_votes_move_a_box_to_the_mean_of_its_class():
    """As a loop: scores weigh the boxes of the class with an IoU of at least 0.6."""
    options = {"min_score": 0.2, "max_detections": 9, "box_outputs": "agnostic"}
    rng = np.random.default_rng(2)
    low = rng.uniform(0, 12, (1, 40, 2))
    rois = np.float32(np.concatenate([low, low + rng.uniform(20, 30, low.shape)], 2))
    logits = np.float32(rng.normal(size=(1, 40, 3)))
    deltas, there = np.zeros((1, 40, 1, 4), np.float32), np.ones((1, 40), bool)
    given = rois, there, logits, deltas, np.int32([[90, 90]])
    plain, voted = (
        jax.jit(FasterRCNN(2, **SMALL, **options, voting=voting).detections)(*given)
        for voting in (0.0, 0.6)
    )
    np.testing.assert_array_equal(plain.scores, voted.scores)
    scores = np.asarray(jax.nn.softmax(logits))[0, :, 1:]
    overlaps = np.asarray(boxes.iou(plain.boxes[0], rois[0]))
    for i in range(int(plain.there.sum())):
        own = scores[:, plain.labels[0, i]]
        votes = np.where((overlaps[i] >= 0.6) & (own > 0.2), own, 0)
        assert np.count_nonzero(votes) > 1
        expected = votes @ rois[0] / votes.sum()
        np.testing.assert_allclose(voted.boxes[0, i], expected, 1e-5)
    assert not voted.boxes[0][~np.asarray(voted.there[0])].any()


@pytest.mark.parametrize("outputs", ["background", "classes", "agnostic"])
def test_regions_are_refined_by_the_box_of_their_best_class(outputs):
    model = FasterRCNN(3, **SMALL, box_outputs=outputs)
    rng = np.random.default_rng(3)
    codes = {"background": 4, "classes": 3, "agnostic": 1}[outputs]
    rois = np.float32([[[10, 10, 40, 30], [50, 40, 90, 80]]])
    logits = np.float32(rng.normal(size=(1, 2, 4)))
    deltas = np.float32(rng.normal(size=(1, 2, codes, 4)))
    found = model.refined(rois, logits, deltas, np.int32([[85, 95]]))
    for i in range(2):
        best = logits[0, i, 1:].argmax() + (outputs == "background")
        code = deltas[0, i, best if codes > 1 else 0]
        expected = np.array(boxes.decode(code, rois[0, i], model.box_weights))
        expected = expected.clip(0, np.float32([95, 85, 95, 85]))
        np.testing.assert_allclose(found[0, i], expected, 1e-5)


@pytest.mark.slow
def test_refined_regions_give_detections_beside_the_first(monkeypatch):
    monkeypatch.setitem(resnet.TABLE_1, 18, (resnet.BasicBlock, (1, 1, 1, 1)))
    options = {"min_score": 0, "post_nms": (30, 20), "voting": 0.8}
    model = FasterRCNN(3, **SMALL | options, refine=True)
    images = jax.random.normal(jax.random.key(1), (1, 64, 80, 3))

    @jax.jit
    def run(key):
        variables = model.init(key, images, train=False)

        def by_hand(model):
            sizes = jnp.array([[64, 80]])
            x, logits, deltas = model.first_stage(images, train=False)
            rois, there = model.proposals(logits, deltas, (4, 5), sizes, train=False)
            maps = [(x, sizes)]
            first = model.second_stage(maps, rois, sizes, train=False)
            again = model.refined(rois, *first, sizes)
            second = model.second_stage(maps, again, sizes, train=False)
            given = zip((rois, there, *first), (again, there, *second), strict=True)
            return model.detections(*(jnp.concatenate(x, 1) for x in given), sizes)

        return (
            model.apply(variables, images, train=False),
            nn.apply(by_hand, model)(variables),
        )

    found, expected = run(jax.random.key(0))
    assert found.there.sum() > 20
    jax.tree.map(np.testing.assert_array_equal, found, expected)


# Context, and tests at several scales.


class Second(FasterRCNN):
    """A second stage that shows what it pooled: conv5_x and the head change nothing."""

    def setup(self):
        self.backbone = lambda x, *, train, first: {first: x}
        self.head = lambda x: (x, x[:, None])


def square_pool(monkeypatch):
    """Pools a region as a product of the map's mean and the region's corners."""

    def pool(x, rois, bins, stride):
        return jnp.broadcast_to(
            x.mean() * rois[:, None, None], (len(rois), bins, bins, 4)
        )

    monkeypatch.setitem(faster_rcnn.POOLINGS, "pool", pool)


def test_context_is_the_whole_image_without_its_padding(monkeypatch):
    square_pool(monkeypatch)
    model = Second(3, pool_size=2, context=True)
    maps = np.stack([np.ones((4, 5, 1)), np.full((4, 5, 1), 2)])
    rois = np.float32([[[1, 2, 3, 4], [5, 6, 7, 8]]] * 2)
    sizes = np.int32([[64, 80], [40, 48]])
    found, _ = model.apply(
        {}, [(maps, sizes)], rois, sizes, train=False, method="second_stage"
    )
    whole = [[0, 0, 80, 64], [0, 0, 2 * 48, 2 * 40]]
    assert found[:, :, 4:].tolist() == [[row] * 2 for row in whole]
    assert found[:, :, :4].tolist() == [rois[0].tolist(), (2 * rois[1]).tolist()]


def test_a_region_is_seen_at_the_two_scales_nearest_to_224_pixels(monkeypatch):
    """As numpy: the larger of what both maps give, and nothing of the other maps."""
    square_pool(monkeypatch)
    rng = np.random.default_rng(4)
    own = np.int32([[600, 900], [600, 450]])
    sizes = [own * side // 600 for side in (200, 400, 600, 800, 1000)]
    maps = [np.float32(rng.normal(size=(2, 3, 3, 1))) for _ in sizes]
    low = rng.uniform(0, 200, (2, 30, 2))
    side = rng.uniform(60, 500, (2, 30, 2))
    rois = np.float32(np.concatenate([low, low + side], 2))
    found, _ = Second(3).apply(
        {}, [*zip(maps, sizes, strict=True)], rois, own, train=False,
        method="second_stage",
    )  # fmt: skip
    pairs = set()
    for image, region in np.ndindex(2, 30):
        factors = np.array([size[image, 0] / own[image, 0] for size in sizes])
        width, height = rois[image, region, 2:] - rois[image, region, :2]
        apart = np.abs(np.sqrt(width * height) * factors - 224)
        pair = np.argsort(apart)[:2]
        pairs.add(tuple(sorted(pair.tolist())))
        expected = [
            maps[s][image].mean() * factors[s] * rois[image, region] for s in pair
        ]
        np.testing.assert_allclose(found[image, region], np.max(expected, 0), 1e-5)
    assert pairs == {(0, 1), (1, 2), (2, 3), (3, 4)}


@pytest.mark.parametrize("pooling", ["pool", "align"])
def test_the_padding_changes_no_region(pooling):
    """Regions end at the image's edges, where the last samples of a bin lie."""
    maps = np.abs(np.random.default_rng(5).normal(size=(2, 3, 4, 2)))
    maps = np.float32(maps)
    sizes = np.int32([[48, 64], [40, 50]])  # 3x4 positions
    rois = np.float32([[[20, 10, 64, 48]] * 2, [[0, 0, 50, 40], [30, 20, 50, 40]]])
    model = Second(3, pool_size=2, pooling=pooling)

    @jax.jit
    def run(maps):
        stage = functools.partial(model.apply, {}, method="second_stage")
        return stage([(maps, sizes)], rois, sizes, train=False)[0]

    padded = np.pad(maps, ((0, 0), (0, 2), (0, 5), (0, 0)))
    np.testing.assert_allclose(run(padded), run(maps), 1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("pooling", ["pool", "align"])
def test_a_network_finds_boxes_inside_the_images(pooling, monkeypatch):
    """With sizes, nothing is found in the padding, whose map is 0.

    It sees the whole image too.
    """
    monkeypatch.setitem(resnet.TABLE_1, 18, (resnet.BasicBlock, (1, 1, 1, 1)))
    options = {"pooling": pooling, "min_score": 0, "post_nms": (30, 20)}
    options |= {"context": True}
    model = FasterRCNN(3, **SMALL | options)
    images = jax.random.normal(jax.random.key(1), (2, 64, 80, 3))
    sizes = jnp.array([[64, 80], [40, 48]])
    there = faster_rcnn.content((64, 80), sizes)
    images = jnp.where(there[..., None], images, 0)

    @jax.jit
    def run(key):
        variables = model.init(key, images, train=False)
        call = functools.partial(model.apply, variables, images, train=False)
        again = call(sizes, ((images, sizes),))
        return call(sizes), call(), call(sizes, method="first_stage")[0], again

    found, whole, x, again = run(jax.random.key(0))
    jax.tree.map(np.testing.assert_array_equal, again, found)  # the only scale
    assert found.boxes.shape == (2, 100, 4) and found.labels.dtype == jnp.int32
    np.testing.assert_array_equal(found.boxes[0], whole.boxes[0])
    assert found.there.any(1).all() and np.isfinite(found.scores).all()
    assert found.boxes[1][:, 2].max() <= 48 and found.boxes[1][:, 3].max() <= 40
    assert whole.boxes[1][:, 2].max() > 48
    assert not x[1, 3:].any() and not x[1, :, 3:].any() and x[1, :3, :3].any()


def test_content_says_which_positions_are_of_the_image():
    there = faster_rcnn.content((3, 4), np.int32([[33, 32], [48, 64]]), 16)
    assert there[0].tolist() == [[True, True, False, False]] * 3
    assert there[1].all()


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("anchor_sizes", (), r"\(\) is not a list of positive numbers"),
        ("anchor_ratios", (1, 0), r"\(1, 0\) is not a list of positive numbers"),
        ("box_weights", (1, 1, 1), r"\(1, 1, 1\) is not 4 positive numbers"),
        ("pre_nms", (5, 5, 5), r"\(5, 5, 5\) is not two integers from 1 up"),
        ("post_nms", (5, 0.5), r"\(5, 0.5\) is not two integers from 1 up"),
        ("frozen_until", "conv5_x", "'conv5_x' is none of , conv1, .*, conv4_x"),
        ("context", "image", "'image' is neither True nor False"),
        ("pooling", "max", "'max' is none of pool, align"),
    ],
)
def test_lists_are_checked_as_a_whole(field, value, message):
    with pytest.raises(ValueError, match=f"^{field} {message}$"):
        FasterRCNN(3, **{field: value})
    FasterRCNN(3, anchor_sizes=[32, 64], pre_nms=[10, 10])  # a config's lists
