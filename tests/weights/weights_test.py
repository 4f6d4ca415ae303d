"""Other libraries' weights: names, files, reports, errors. Needs no torch or Keras."""

import contextlib
import functools
import http.server
import pathlib
import pickle
import re
import threading
import zipfile

import flax
import h5py
import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
import safetensors.numpy
import torch_files
import traced

import models
import weights
from comparison import published
from models import vgg
from weights import formats, hub, names


@functools.cache
def shapes(network, num_classes=10, size=None):
    row = published.PUBLISHED[network]
    size = size or row.image
    model = models.create(network, num_classes=num_classes)
    return traced.eval_shape(
        functools.partial(model.init, train=False),
        jax.random.key(0),
        jnp.zeros((1, size, size, row.channels)),
    )


def flat(tree):
    return flax.traverse_util.flatten_dict(tree, sep="/")


def random(tree, seed=0):
    rng = np.random.default_rng(seed)

    def draw(path, x):
        values = rng.standard_normal(x.shape, x.dtype)
        return np.abs(values) if path[-1].key == "var" else values

    return jax.tree_util.tree_map_with_path(draw, tree)


def save(path, arrays, **metadata):
    formats.write_safetensors(path, arrays, metadata or None)
    return path


@pytest.mark.parametrize(
    "network",
    [
        pytest.param(name, marks=pytest.mark.slow if name in traced.DEEPEST else ())
        for name in names.TWINS
    ],
)
def test_every_array_has_a_name_of_its_own(network):
    found = names.foreign("torch", network, flat(shapes(network)))
    assert found.keys() == flat(shapes(network)).keys()
    assert len(set(found.values())) == len(found)


@pytest.mark.parametrize("network", ["vgg16", "resnet50", "densenet121"])
def test_every_array_has_a_name_in_keras(network):
    found = names.foreign("keras", network, flat(shapes(network)))
    assert found.keys() == flat(shapes(network)).keys()
    assert len(set(found.values())) == len(found)


def test_the_layers_of_class_scores_are_those_that_depend_on_the_number_of_classes():
    for network in ("alexnet", "googlenet", "inception_v3", "nin", "lenet5_modern"):
        ten, eleven = flat(shapes(network)), flat(shapes(network, 11))
        depend = {name for name in ten if ten[name].shape != eleven[name].shape}
        assert depend == {name for name in ten if names.is_class_score(name)}


def test_a_state_dict_goes_there_and_back(tmp_path):
    theirs = weights.to_foreign("resnet20", random(shapes("resnet20")))
    assert theirs["layer1.0.conv1.weight"].shape == (16, 16, 3, 3)
    assert theirs["fc.weight"].shape == (10, 64)
    save(tmp_path / "x.safetensors", theirs)
    ours, report = weights.load(
        tmp_path / "x.safetensors", "resnet20", shapes("resnet20")
    )
    assert not report.missing + report.left_over + report.reinitialized
    jax.tree.map(np.testing.assert_array_equal, ours, random(shapes("resnet20")))


def test_fully_connected_layers_on_a_map_take_torchs_order_of_pixels(monkeypatch):
    monkeypatch.setattr(vgg, "UNITS", 8)
    variables = random(shapes.__wrapped__("vgg16", size=64))
    theirs = weights.to_foreign("vgg16", variables)
    ours = variables["params"]["head"]["fc6"]["kernel"]
    assert ours.shape == (2, 2, 512, 8)
    np.testing.assert_array_equal(
        theirs["classifier.0.weight"][7], ours[..., 7].transpose(2, 0, 1).ravel()
    )


def test_another_number_of_classes_leaves_the_head_alone(tmp_path):
    theirs = weights.to_foreign("resnet20", random(shapes("resnet20", 7)))
    save(tmp_path / "x.safetensors", theirs)
    mine = random(shapes("resnet20"), seed=1)
    ours, report = weights.load(tmp_path / "x.safetensors", "resnet20", mine)
    head = ["params/head/fc/bias", "params/head/fc/kernel"]
    assert report.reinitialized == head
    assert len(report.loaded) == len(flat(mine)) - 2
    title = "of another number of classes or boxes, left as initialised: "
    assert title + ", ".join(head) in str(report)
    for name, array in flat(mine).items():
        assert (np.array_equal(flat(ours)[name], array)) == (name in head)


def test_what_is_left_over_is_reported(tmp_path):
    theirs = weights.to_foreign("resnet20", random(shapes("resnet20")))
    theirs["ema.decay"] = np.zeros(3)
    save(tmp_path / "x.safetensors", theirs)
    _, report = weights.load(tmp_path / "x.safetensors", "resnet20", shapes("resnet20"))
    assert report.left_over == ["ema.decay"]
    assert "in the file and not used: ema.decay" in str(report)


def damaged(change):
    """The file of a resnet20 after `change`, read as the library does."""
    theirs = weights.to_foreign("resnet20", random(shapes("resnet20")))
    change(theirs)
    return weights.fit("x.pth", "torch", theirs, "resnet20", shapes("resnet20"))


def spoilt(name, value):
    """Changes one number of an array of a file."""

    def change(theirs):
        theirs[name] = theirs[name].copy()
        theirs[name][3] = value

    return change


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (spoilt("bn1.weight", np.nan), "not finite in bn1.weight"),
        (spoilt("layer1.0.bn1.running_mean", np.inf), "not finite in layer1.0.bn1.run"),
        (
            lambda file: file.update({"fc.bias": np.full(10, 1e300)}),
            "not finite in fc.bias",
        ),
        (spoilt("bn1.running_var", -1), "has negative variances in bn1.running_var"),
        (
            lambda file: file.update({"fc.weight": np.ones((10, 64), np.int8)}),
            "has fc.weight as int8: quantised weights, which mean nothing without",
        ),
        (
            lambda file: file.update(
                {"fc.weight": np.ones((10, 64), ml_dtypes.float8_e5m2)}
            ),
            "has fc.weight as float8_e5m2: quantised",
        ),
    ],
)
def test_numbers_that_are_no_weights_are_refused(change, message):
    with pytest.raises(weights.WeightsError, match=f"x.pth .*{message}"):
        damaged(change)


def drop(pattern):
    def change(theirs):
        for name in [name for name in theirs if re.search(pattern, name)]:
            del theirs[name]

    return change


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (drop("running|num_batches"), "has no batch statistics, such as .*running_"),
        (drop("^bn1.running_mean"), "lacks bn1.running_mean"),
        (drop("running_var"), "lacks .*running_var"),
        (drop("^bn1.bias"), "lacks bn1.bias"),
        (drop("^fc.bias"), "has its head neither as linear, .* nor as fc.bias"),
        (drop("^fc"), r"nor as fc.*; --config.init_layers=\"\('backbone',\)\" starts"),
        (
            lambda file: file.update({"conv1.bias": np.zeros(16)}),
            "another network than resnet20: it also has conv1.bias",
        ),
        (
            lambda file: file.update({"layer2.0.downsample.0.weight": np.zeros(3)}),
            "it also has layer2.0.downsample.0.weight",
        ),
    ],
)
def test_parts_are_there_as_a_whole(change, message):
    with pytest.raises(weights.WeightsError, match=f"x.pth .*{message}"):
        damaged(change)


@pytest.mark.parametrize("layers", [("backbone",), (".",)])
def test_a_backbone_that_is_taken_whole_is_all_of_theirs(layers):
    like = shapes("resnet20")
    deeper = weights.to_foreign("resnet56", random(shapes("resnet56")))
    bias = weights.to_foreign("resnet20", random(like)) | {"conv1.bias": np.zeros(16)}
    ours = flat(random(like)) | {"params/backbone/more/kernel": np.zeros(3)}
    for kind, file, more in (
        ("torch", deeper, "layer1.3"),
        ("torch", bias, "conv1.bias"),
        ("ours", ours, "params/backbone/more"),
    ):
        message = f"another network than resnet20: it also has {more}"
        with pytest.raises(weights.WeightsError, match=message):
            weights.fit("x", kind, file, "resnet20", like, layers)
        _, report = weights.fit("x", kind, file, "resnet20", like, ("conv1/",))
        assert f"in the file and not used: {more}" in str(report)


def test_only_whole_side_heads_may_be_missing():
    like = shapes("inception_v3")
    arrays = {n: np.zeros(x.shape, x.dtype) for n, x in flat(like).items()}
    side = [n for n in arrays if "/auxiliary_head/" in n]
    missing = side.pop()
    del arrays[missing]
    with pytest.raises(weights.WeightsError, match=f"x lacks {missing};"):
        weights.fit("x", "ours", arrays, "inception_v3", like)
    for name in side:
        del arrays[name]
    _, report = weights.fit("x", "ours", arrays, "inception_v3", like)
    assert sorted(report.missing) == sorted([*side, missing])


@pytest.mark.parametrize("head", names.HEADS)
def test_a_head_is_found_under_its_usual_names(head):
    def rename(theirs):
        for kind in ("weight", "bias"):
            theirs[f"{head}.{kind}"] = theirs.pop(f"fc.{kind}")

    expected = random(shapes("resnet20"))["params"]["head"]["fc"]
    if head in ("linear", "fc"):
        found, report = damaged(rename)
        jax.tree.map(
            np.testing.assert_array_equal,
            found["params"]["head"]["fc"]["bias"],
            expected["bias"],
        )
        assert (f"their head is called {head}" in str(report)) == (head != "fc")
    else:  # its statistics are random
        with pytest.raises(weights.WeightsError, match="name of the head tell"):
            damaged(rename)


def test_wrappers_leave_prefixes():
    for prefix in "module. model. _orig_mod. backbone. net. _orig_mod.module.".split():
        arrays, notes = names.unwrapped("x", {f"{prefix}conv1.weight": 1, "fc.bias": 2})
        assert arrays == {"conv1.weight": 1, "fc.bias": 2}
        assert notes == [f"{prefix} is left off their names"]
    with pytest.raises(
        weights.WeightsError, match="x has a.b under several of the pre"
    ):
        names.unwrapped("x", {"net.a.b": 1, "model.a.b": 2})
    # PyTorch's ImageNet example wraps a part of VGG and AlexNet.
    arrays, notes = names.unwrapped("x", {"features.module.0.weight": 1, "fc.bias": 2})
    assert arrays == {"features.0.weight": 1, "fc.bias": 2}
    assert notes == [".module. is left off their names"]


def test_an_average_among_the_names_is_not_mixed_with_the_weights():
    both = {"model.a.weight": 1, "model_ema.a.weight": 2}
    arrays, _ = names.unwrapped("x", both)
    assert arrays == {"a.weight": 1, "model_ema.a.weight": 2}
    arrays, _ = names.unwrapped("x", {"model_ema.module.a.weight": 2})
    assert arrays == {"a.weight": 2}


def kernels(**shapes):
    """Variables of a backbone that has one kernel in each layer."""
    made = {n: {"kernel": np.zeros(x, np.float32)} for n, x in shapes.items()}
    return {"params": {"backbone": made}}


def test_a_network_that_differs_in_a_field_is_refused(tmp_path):
    """torchvision's bottlenecks have other strides than the paper's."""
    like = kernels(conv1=(7, 7, 3, 64))
    like["params"]["backbone"] |= {"conv2_1": {"conv1": {"kernel": np.zeros((1, 1))}}}
    path = save(tmp_path / "x.safetensors", weights.to_foreign("resnet50", like))
    note = "note: their strides are on the 3x3 convolutions: --config.model.fields.str"

    def load(fields, *layers):
        return str(weights.load(path, "resnet50", like, layers, fields)[1])

    for layers in ((), ("backbone",), (".",)):
        with pytest.raises(
            weights.WeightsError, match="3x3 convolutions; add .*fields.stride_on=3x3"
        ):
            load({}, *layers)
        assert note in load({"stride_on": "1x1"}, *layers)
        assert note not in load({"stride_on": "3x3"}, *layers)
    assert note in load({}, "backbone/conv1/")
    assert note not in load({"stride_on": "3x3"}, "backbone/conv1/")


@pytest.mark.parametrize(
    ("kernel", "needed"),
    [
        ("layer1.0.conv2", {"pooling": "align"}),  # ResNet-18
        ("layer1.0.conv3", {"stride_on": "3x3", "pooling": "align"}),
    ],
)
def test_a_detector_of_torchvisions_parts_needs_their_fields(tmp_path, kernel, needed):
    arrays = {f"backbone.{kernel}.weight": np.zeros(1, np.float32)}
    arrays["roi_heads.box_predictor.cls_score.weight"] = np.zeros(1, np.float32)
    path = save(tmp_path / "x.safetensors", arrays)
    load = functools.partial(weights.load, path, "faster_rcnn", {"params": {}})
    for name in needed:
        given = {n: value for n, value in needed.items() if n != name}
        with pytest.raises(weights.WeightsError, match="by RoIAlign; add ") as error:
            load(fields=given)
        for field, value in needed.items():  # each by itself, so that others stay
            assert f" --config.model.fields.{field}={value} " in str(error.value)
    load(fields=needed)


def test_the_fields_of_files_are_fields_of_the_networks():
    for kind, networks, _, needed, _ in names.FIELDS:
        found = [n for n in (*names.TWINS, "faster_rcnn") if re.fullmatch(networks, n)]
        assert found, networks
        for network in found:
            assert names.table(kind, network) is not None
            assert needed.keys() <= set(models.fields(network))


def keras_file(path, arrays):
    with h5py.File(path, "w") as file:
        file.attrs["layer_names"] = [name.rsplit("/", 1)[0] for name in arrays]
        for name, array in arrays.items():
            layer = file.create_group(name.rsplit("/", 1)[0])
            layer.attrs["weight_names"] = [f"{name}:0"]
            layer[f"{name}:0"] = array
    return path


@pytest.mark.parametrize(
    ("kind", "network", "layer", "needed"),
    [
        ("keras", "resnet50", "conv1", {"stride_on": "1x1"}),
        ("keras", "inception_v3", "Conv2d_1a_3x3/conv", {"count_include_pad": False}),
        ("torch", "wrn_50_2", "conv1", {"stride_on": "3x3"}),
        ("torch", "preact_resnet200", "conv1", {"stride_on": "3x3"}),
        (
            "torch",
            "se_resnet50",
            "conv2_1/se/fc1",
            {"stride_on": "1x1", "padded_pool": False},
        ),
        ("torch", "se_resnext50_32x4d", "conv2_1/se/fc1", {"padded_pool": False}),
    ],
)
def test_fields_that_differ_from_a_file_s_are_said(
    tmp_path, kind, network, layer, needed
):
    """Those of a new network are theirs, and config.model.fields may change them."""
    shape = (4, 2) if layer.endswith("fc1") else (7, 7, 3, 4)
    named = {f"params/backbone/{layer}/kernel": np.zeros(shape, np.float32)}
    like = flax.traverse_util.unflatten_dict(named, sep="/")
    if kind == "keras":
        theirs = names.foreign("keras", network, named)
        arrays = {theirs[name]: array for name, array in named.items()}
        path = keras_file(tmp_path / "x.h5", arrays)
    else:
        path = save(tmp_path / "x.safetensors", weights.to_foreign(network, like))

    def load(fields):
        return str(weights.load(path, network, like, fields=fields)[1])

    flags = names.flags(needed)
    for fields in ({}, needed):
        assert flags not in load(fields)
    others = {"1x1": "3x3", "3x3": "1x1", True: False, False: True}
    for name, value in needed.items():
        assert flags in load(needed | {name: others[value]})


def test_the_weights_of_vgg11_are_not_those_with_lrn(tmp_path):
    like = kernels(conv1_1=(3, 3, 3, 64), conv2_1=(3, 3, 64, 128))
    arrays = weights.to_foreign("vgg11", like)
    path = save(tmp_path / "x.safetensors", arrays)
    for layers in ((), ("backbone",)):
        with pytest.raises(weights.WeightsError, match="no local response .*'vgg11'"):
            weights.load(path, "vgg11_lrn", like, layers)
    weights.load(path, "vgg11_lrn", like, ("conv1_1",))
    weights.load(path, "vgg11", like)
    save(path, arrays, format="pt", network="vgg11_lrn")
    weights.load(path, "vgg11_lrn", like)


@pytest.mark.parametrize(
    ("file", "network"),
    [
        ("resnet56", "resnet20"),
        ("resnet32", "resnet44"),
        ("vgg16_cifar", "vgg13_cifar"),
        pytest.param("vgg16", "vgg13", marks=pytest.mark.slow),
    ],
)
def test_a_deeper_or_shallower_network_is_an_error(tmp_path, file, network):
    save(tmp_path / "x.safetensors", weights.to_foreign(file, random(shapes(file))))
    # VGG's names count, so that another network's fall on other shapes.
    message = "does not fit" if "vgg" in file else f"another network than {network}"
    with pytest.raises(weights.WeightsError, match=message):
        weights.load(tmp_path / "x.safetensors", network, shapes(network))


def test_layers_can_be_chosen_where_names_count(tmp_path):
    variables = random(shapes("vgg16_cifar"))
    save(tmp_path / "x.safetensors", weights.to_foreign("vgg16_cifar", variables))
    found, report = weights.load(
        tmp_path / "x.safetensors", "vgg16_cifar", shapes("vgg16_cifar"), ("conv3",)
    )
    assert len(report.loaded) == 6 and not report.left_over
    assert "6 of 6 arrays" in str(report)
    ours, theirs = (x["params"]["backbone"]["conv3_2"] for x in (found, variables))
    jax.tree.map(np.testing.assert_array_equal, ours, theirs)


@pytest.mark.parametrize(
    ("network", "renamed"),
    [
        (
            "vgg11",
            {
                "classifier.0": "pre_logits.fc1",
                "classifier.3": "pre_logits.fc2",
                "classifier.6": "head.fc",
            },
        ),
        (
            "se_resnet50",
            {"se_module": "se", "layer0.": "", "last_linear": "fc"},
        ),
    ],
)
def test_timms_newer_names(tmp_path, monkeypatch, network, renamed):
    monkeypatch.setattr(vgg, "UNITS", 8)
    like = shapes.__wrapped__(network, size=64)
    theirs = {}
    for name, array in weights.to_foreign(network, random(like)).items():
        for old, new in renamed.items():
            name = name.replace(old, new)
        theirs[name] = array
    save(tmp_path / "x.safetensors", theirs)
    newer = network == "se_resnet50"
    fields = {"stride_on": "3x3", "padded_pool": True} if newer else {}
    _, report = weights.load(tmp_path / "x.safetensors", network, like, fields=fields)
    assert not report.missing and not report.left_over
    assert "padded_pool" not in str(report)
    if newer:
        other = {"stride_on": "3x3", "padded_pool": False}
        _, report = weights.load(
            tmp_path / "x.safetensors", network, like, fields=other
        )
        assert "padded_pool=True" in str(report)
        with pytest.raises(weights.WeightsError, match="padded_pool=True for the"):
            weights.load(tmp_path / "x.safetensors", network, like)


def test_the_first_kernel_of_keras_is_turned_from_bgr():
    like = shapes("resnet50", size=64)
    named = names.foreign("keras", "resnet50", flat(like))
    arrays = {named[n]: np.ones(x.shape) for n, x in flat(like).items()}
    arrays["conv1_conv/kernel"] *= np.arange(3)[:, None]
    found, report = weights.fit("x.h5", "keras", arrays, "resnet50", like)
    kernel = found["params"]["backbone"]["conv1"]["kernel"]
    np.testing.assert_array_equal(kernel[0, 0, :, 0], [2, 1, 0])
    assert "turned to RGB" in str(report)


def test_the_network_that_a_file_says_it_is_of(tmp_path):
    like = shapes("resnet20")
    for network in ("resnet20", "plain20"):
        metadata = {"format": formats.OURS, "network": network}
        save(tmp_path / "x.safetensors", flat(random(like)), **metadata)
        _, report = weights.load(tmp_path / "x.safetensors", "resnet20", like)
        assert ("the weights of plain20" in str(report)) == (network == "plain20")


def test_another_shape_is_an_error_that_names_both_sides(tmp_path):
    theirs = weights.to_foreign("resnet20", random(shapes("resnet20")))
    theirs["layer1.0.conv1.weight"] = np.zeros((16, 16, 5, 5), np.float32)
    save(tmp_path / "x.safetensors", theirs)
    with pytest.raises(weights.WeightsError) as error:
        weights.load(tmp_path / "x.safetensors", "resnet20", shapes("resnet20"))
    assert "layer1.0.conv1.weight is 16x16x5x5" in str(error.value)
    assert "params/backbone/conv2_1/conv1/kernel of resnet20, 3x3x16x16" in str(
        error.value
    )


def test_another_network_is_one_error(tmp_path):
    theirs = weights.to_foreign("vgg16_cifar", random(shapes("vgg16_cifar")))
    save(tmp_path / "x.safetensors", theirs)
    with pytest.raises(
        weights.WeightsError, match="is of another network: of 97 arrays of resnet"
    ):
        weights.load(tmp_path / "x.safetensors", "resnet20", shapes("resnet20"))
    with pytest.raises(
        weights.WeightsError, match="for which nin has no table; there are"
    ):
        weights.load(tmp_path / "x.safetensors", "nin", shapes("nin"))
    # What was dropped may be why.
    value = {"conv1.weight": np.ones(3, np.float32), "a": torch_files.Global("b", "c")}
    path = torch_files.write(tmp_path / "x.pth", value)
    with pytest.raises(weights.WeightsError, match="is of another.*also names b.c, wh"):
        weights.load(path, "resnet20", shapes("resnet20"))


def test_half_precision_and_wrappers_of_several_devices(tmp_path):
    theirs = weights.to_foreign("resnet20", random(shapes("resnet20")))
    half = {f"module.{n}": v.astype(np.float16) for n, v in theirs.items()}
    save(tmp_path / "x.safetensors", half)
    ours, report = weights.load(
        tmp_path / "x.safetensors", "resnet20", shapes("resnet20")
    )
    assert not report.missing + report.left_over
    fc = ours["params"]["head"]["fc"]["kernel"]
    assert fc.dtype == np.float32
    np.testing.assert_array_equal(fc.T, np.float16(theirs["fc.weight"]))


# Files.


def test_damaged_and_wrong_files_are_one_clear_error(tmp_path):
    good = save(tmp_path / "a.safetensors", {"a": np.zeros(3)}).read_bytes()
    for name, content, message in (
        ("cut.safetensors", good[:-5], "damaged or no safetensors file"),
        ("cut.pth", b"PK\3\4cut", "damaged or no state dict saved by torch"),
        ("old.pth", b"\x80\2cut", "damaged or no state dict saved by torch"),
        ("cut.h5", b"\x89HDF\r\n\x1a\ncut", "cannot be read"),
        ("text.safetensors", b"hello, weights", "no file of weights by its content"),
        ("text.pth", b"hello, weights", "no file of weights by its content"),
        ("empty.h5", b"", "no file of weights by its content"),
    ):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(weights.WeightsError, match=message):
            formats.read(tmp_path / name)
    with pytest.raises(weights.WeightsError, match="there is no file"):
        formats.read(tmp_path / "none.pth")


def test_torchs_file_is_read_without_torch(tmp_path):
    tensor = torch_files.Tensor(np.arange(6, dtype=np.float32), (2, 3), (1, 2))
    contents = formats.read(torch_files.write(tmp_path / "a.pth", {"a": tensor}))
    assert contents.kind == "torch"
    np.testing.assert_array_equal(contents.arrays["a"], [[0, 2, 4], [1, 3, 5]])


@pytest.mark.parametrize("strides", [(3, 2), (-3, 1)])
def test_a_tensor_must_lie_inside_its_storage(tmp_path, strides):
    tensor = torch_files.Tensor(np.arange(6, dtype=np.float32), (2, 3), strides)
    path = torch_files.write(tmp_path / "a.pth", {"a": tensor})
    with pytest.raises(weights.WeightsError, match="damaged"):
        formats.read(path)


@pytest.mark.parametrize("zipped", [True, False])
def test_code_in_a_pickle_is_not_executed(tmp_path, zipped):
    mark, path = tmp_path / "executed", tmp_path / "evil.pth"
    content = pickle.dumps(
        {"a": torch_files.Call(exec, f"open({str(mark)!r}, 'w').close()")}, protocol=2
    )
    if zipped:
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("x/data.pkl", content)
    else:
        path.write_bytes(content)
    message = "exec, which is not read here" if zipped else "first number is not torch"
    with pytest.raises(weights.WeightsError, match=message):
        formats.read(path)
    assert not mark.exists()
    pickle.loads(content)  # The file would have done it.
    assert mark.exists()


def test_keras_files_old_and_new(tmp_path):
    kernel, mean = np.ones((3, 3, 3, 4)), np.arange(4.0)
    with h5py.File(tmp_path / "new.weights.h5", "w") as file:
        conv = file.create_group("layers/conv2d/vars")
        conv.attrs["name"], conv["0"] = "conv1_conv", kernel
        norm = file.create_group("layers/batch_normalization/vars")
        norm.attrs["name"] = "conv1_bn"
        for i in range(3):  # beta, mean, variance: no scale
            norm[str(i)] = mean + i
    with h5py.File(tmp_path / "old.h5", "w") as file:
        file.attrs["layer_names"] = [b"conv1_conv"]
        layer = file.create_group("conv1_conv")
        layer.attrs["weight_names"] = [b"conv1_conv/kernel:0"]
        layer["conv1_conv/kernel:0"] = kernel
    with zipfile.ZipFile(tmp_path / "a.keras", "w") as archive:
        archive.write(tmp_path / "new.weights.h5", "model.weights.h5")
    for name in ("new.weights.h5", "a.keras"):
        kind, arrays, *_ = formats.read(tmp_path / name)
        assert kind == "keras"
        assert sorted(arrays) == [
            "conv1_bn/beta",
            "conv1_bn/moving_mean",
            "conv1_bn/moving_variance",
            "conv1_conv/kernel",
        ]
        np.testing.assert_array_equal(arrays["conv1_bn/moving_variance"], mean + 2)
    arrays = formats.read(tmp_path / "old.h5").arrays
    np.testing.assert_array_equal(arrays["conv1_conv/kernel"], kernel)


# The hub.


@pytest.mark.slow  # make parity installs the hub's client
def test_without_a_network_the_hub_is_a_quick_error(monkeypatch):
    pytest.importorskip("huggingface_hub", reason="requirements-exchange.txt")

    def refuse(*arguments):
        raise OSError("no route to host")

    for name in ("https_proxy", "HTTPS_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(hub.socket, "create_connection", refuse)
    with pytest.raises(weights.WeightsError, match="does not answer .no route"):
        hub.download("timm/resnet50.a1_in1k")
    with pytest.raises(weights.WeightsError, match="is no OWNER/NAME"):
        hub.download("a/b/c")


@pytest.mark.slow  # make parity installs the hub's client
def test_a_file_of_the_hub_is_fetched_once(tmp_path, monkeypatch):
    """A local server answers as the hub does."""
    pytest.importorskip("huggingface_hub", reason="requirements-exchange.txt")
    from huggingface_hub import constants

    content, asked = safetensors.numpy.save({"a": np.arange(6.0)}), []

    class Hub(http.server.BaseHTTPRequestHandler):
        def do_HEAD(self):
            asked.append(f"{self.command} {self.path}")
            found = self.path == "/timm/tiny/resolve/main/model.safetensors"
            self.send_response(200 if found else 403 if "mine" in self.path else 404)
            if found:
                self.send_header("ETag", '"1234"')
                self.send_header("X-Repo-Commit", 40 * "a")
                self.send_header("Content-Length", str(len(content)))
            elif "mine" not in self.path:
                self.send_header("X-Error-Code", "RepoNotFound")
            self.end_headers()
            return found

        def do_GET(self):
            if self.do_HEAD():
                self.wfile.write(content)

        def log_message(self, *arguments):
            pass

    server = http.server.ThreadingHTTPServer(("localhost", 0), Hub)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    monkeypatch.setenv("HF_ENDPOINT", f"http://localhost:{server.server_port}")
    monkeypatch.setenv("no_proxy", "localhost")
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    cache = str(tmp_path)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", cache)
    with contextlib.closing(server.socket):
        file = pathlib.Path(hub.download("timm/tiny"))
        assert file.read_bytes() == content and asked
        count = len(asked)
        assert pathlib.Path(hub.download("timm/tiny")) == file and len(asked) == count
        with pytest.raises(weights.WeightsError, match="hf:timm/none has no model"):
            hub.download("timm/none")
        with pytest.raises(weights.WeightsError, match="mine was refused.* 403"):
            hub.download("timm/mine")
        server.shutdown()


def test_a_detector_starts_from_a_classifier():
    """Of our names and of torchvision's, without the head."""
    classifier = random(shapes("resnet18", size=64))
    model = models.create("faster_rcnn", num_classes=3, depth=18)
    detector = traced.variables(model, 32)
    for kind, file in (
        ("ours", flat(classifier)),
        ("torch", weights.to_foreign("resnet18", classifier)),
    ):
        found, report = weights.fit(
            "a classifier", kind, file, "faster_rcnn", detector, ("backbone",)
        )
        assert not report.missing + report.reinitialized
        assert "anchor_style" not in str(report)
        for name in ("params", "batch_stats"):
            own, other = found[name]["backbone"], classifier[name]["backbone"]
            jax.tree.map(np.testing.assert_array_equal, own, other)
        with pytest.raises(weights.WeightsError, match=r"init_layers=.*backbone"):
            weights.fit("a classifier", kind, file, "faster_rcnn", detector)


@pytest.mark.parametrize(
    "classes, boxes",
    [(5, "background"), (4, "classes")],  # of three, the second has as many boxes
)
def test_a_detector_for_other_classes_gets_a_new_head(classes, boxes):
    three, others = (
        traced.variables(models.create("faster_rcnn", **small), 32)
        for small in (
            {"depth": 18, "rpn_channels": 32, "num_classes": n, "box_outputs": b}
            for n, b in ((3, "background"), (classes, boxes))
        )
    )
    file = weights.to_foreign("faster_rcnn", random(three))
    assert file["roi_heads.box_predictor.bbox_pred.weight"].shape == (16, 512)
    assert "roi_heads.box_head.layer4.0.conv1.weight" in file
    assert "backbone.layer3.0.conv1.weight" in file
    _, report = weights.fit("a file", "torch", file, "faster_rcnn", others)
    layers = {name.split("/", 1)[1].rsplit("/", 1)[0] for name in report.reinitialized}
    assert layers == {"head/cls", "head/reg"} and not report.missing
    assert not any("head/reg" in name for name in report.loaded)
    assert "note: the file does not tell its anchor_style, " in str(report)
