"""`python -m comparison`: what is counted and published, and how it is shown."""

import csv
import io
import os
import pathlib
import runpy
import subprocess
import sys

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import traced

import evaluate
import models
from comparison import __main__ as command
from comparison import chart, counting, counts
from comparison.counts import Counts
from comparison.published import PUBLISHED, Published
from models.layers import AvgPool, Conv, LocalResponseNorm, MaxPool

ROOT = pathlib.Path(__file__).parents[2]


# What is counted.


class Tiny(nn.Module):
    """4x4x1 images; every kind of layer that is counted, or is not."""

    @nn.compact
    def __call__(self, x, *, train):
        norm = nn.BatchNorm(not train, use_scale=False, use_bias=False, name="norm")
        y = Conv(2, 3, padding=1, name="conv1")(x)  # keeps nothing: an image
        y = nn.relu(norm(y))  # keeps conv1's 4x4x2
        a = Conv(4, 1, padding=0, name="conv2")(y)  # keeps the ReLU's 4x4x2
        b = Conv(4, 1, padding=0, name="conv3")(y)  # the same array
        y = LocalResponseNorm(name="lrn")(a + b)  # keeps the sum's 4x4x4
        y = MaxPool(2, 2, name="max")(y)  # keeps 4x4x4
        y = AvgPool(2, 2, name="mean")(y)  # keeps nothing
        y = nn.Dropout(0.5, deterministic=not train)(y)  # keeps nothing
        return nn.Dense(3, name="fc")(y[:, 0, 0])  # keeps 4


def test_activations_by_hand():
    rows = counting.layers(Tiny(), (4, 4, 1))
    assert {row.name: row.activations for row in rows} == {
        "conv1": 0,
        "norm": 32,
        "conv2": 32,
        "conv3": 0,
        "lrn": 64,
        "max": 64,
        "mean": 0,
        "fc": 4,
    }
    tiny = counting.count(Tiny(), (4, 4, 1))
    assert tiny == Counts(
        parameters=(9 * 2 + 2) + 2 * (2 * 4 + 4) + (4 * 3 + 3),
        auxiliary_parameters=0,
        multiply_adds=16 * 18 + 2 * 16 * 8 + 12,
        activations=196,
    )
    assert counts.activation_bytes(tiny, 32) == 196 * 32 * 4


def test_activations_of_a_network_by_hand():
    """resnet20: the stem, then each block's inputs of two convolutions and norms."""
    maps = [32 * 32 * 16, 16 * 16 * 32, 8 * 8 * 64]
    stem = maps[0]  # the input of its norm
    first = [maps[0] + 3 * maps[0], maps[0] + 3 * maps[1], maps[1] + 3 * maps[2]]
    others = [2 * 4 * size for size in maps]
    assert traced.counts("resnet20").activations == (
        stem + sum(first) + sum(others) + 64  # and the pooled map, the input of fc
    )


@pytest.mark.parametrize("name", ["resnet20", "resnext29_8x64d", "fractalnet_20"])
def test_layers_that_repeat_are_not_traced_again(name, monkeypatch):
    monkeypatch.setattr(counting, "_signature", lambda *_: None)
    assert counting.layers(*traced.create(name)) == traced.layers(name)


@pytest.mark.parametrize("name", ["lenet5", "nin", "resnet20", "googlenet"])
def test_parameters_are_those_of_the_network_as_created(name):
    params = evaluate.abstract_variables(*traced.create(name))["params"]
    count = sum(leaf.size for leaf in jax.tree.leaves(params))
    assert traced.counts(name).parameters == count


def test_auxiliary_heads_count_in_parameters_and_activations_only():
    googlenet = traced.counts("googlenet")
    assert googlenet.parameters == 13_378_280
    assert googlenet.auxiliary_parameters == 3_188_840 + 3_190_888
    assert googlenet.multiply_adds == 1_582_671_872


# What is stored.


def test_every_network_has_stored_counts_in_order_of_publication():
    assert list(counts.stored()) == list(PUBLISHED)


@pytest.fixture
def copy(tmp_path, monkeypatch):
    """A copy of counts.csv that the command takes for the original."""
    path = tmp_path / "counts.csv"
    path.write_text(counts.FILE.read_text())
    monkeypatch.setattr(counts, "FILE", path)
    return path


def test_trace_stores_the_counts_that_differ(copy, capsys):
    right = copy.read_text()
    lines = right.splitlines(keepends=True)
    copy.write_text("".join(lines).replace(lines[1], "lenet5,1,2,3,4\n"))
    (wrong,) = command.read(["lenet5"])
    assert wrong.counts == Counts(1, 2, 3, 4)
    command.main(["lenet5*", "--trace"])
    out, err = capsys.readouterr()
    assert "60,000" in out
    assert err == "counts.csv: changed lenet5\n"
    assert copy.read_text() == right
    command.main(["lenet5*", "--trace"])
    assert capsys.readouterr().err == "counts.csv: changed 0\n"


def test_a_network_without_stored_counts_names_the_command(copy, capsys):
    right = copy.read_text()
    lines = right.splitlines(keepends=True)
    copy.write_text("".join(line for line in lines if line != lines[2]))
    with pytest.raises(SystemExit) as error:
        command.main([])
    assert error.value.code == 2
    assert capsys.readouterr().err == (
        "error: counts.csv has no counts of lenet5_modern; to store them: "
        "python -m comparison --trace lenet5_modern\n"
    )
    command.main(["lenet5_modern", "--trace"])
    assert copy.read_text() == right


# What was published.


def test_every_network_has_a_row():
    assert set(PUBLISHED) == set(models.MODELS)
    assert all(name == row.name for name, row in PUBLISHED.items())


def test_rows_are_in_order_of_publication():
    years = [row.year for row in PUBLISHED.values()]
    assert years == sorted(years)
    assert (years[0], years[-1]) == (1998, 2017)


@pytest.mark.parametrize("row", PUBLISHED.values(), ids=PUBLISHED)
def test_an_error_has_a_protocol_and_a_source(row):
    has_error = row.top1 is not None or row.top5 is not None
    assert has_error == bool(row.protocol) == bool(row.source)
    assert row.verified or has_error
    if row.top5 is not None:
        assert 2 < row.top5 < (row.top1 or 49) < 50
    if row.classes != 1000:
        assert row.top5 is None
        assert "crop" not in row.protocol


@pytest.mark.parametrize(
    "name",
    (
        "alexnet nin nin_imagenet overfeat_accurate vgg16_cifar googlenet bn_inception "
        "inception_v3 inception_v4 resnet50 resnet110 resnext29_8x64d"
    ).split(),
)
def test_layers_are_those_on_the_longest_path(name):
    assert longest_path(name) == PUBLISHED[name].layers


def test_what_the_longest_path_does_not_say():
    # LeNet-5 counts two sub-samplings, and its last layer is no product.
    assert longest_path("lenet5") == PUBLISHED["lenet5"].layers - 3
    # Three projections beside the path, and not the last layer.
    assert longest_path("wrn_16_4") == PUBLISHED["wrn_16_4"].layers - 3 + 1
    # The convolutions alone.
    assert longest_path("fractalnet_20") == PUBLISHED["fractalnet_20"].layers + 1


def longest_path(name):
    """Convolutions and products that the output depends on one after another."""
    model, shape = traced.create(name)

    def output(key):
        return model.init_with_output(key, jnp.zeros((1, *shape)), train=False)[0]

    return max(depths(jax.make_jaxpr(output)(jax.random.key(0)), [0]))


def depths(jaxpr, inputs):
    """How many convolutions and products are ahead of each output."""
    jaxpr = getattr(jaxpr, "jaxpr", jaxpr)
    known = dict(zip(jaxpr.invars, inputs, strict=True))

    def depth(variable):
        return 0 if hasattr(variable, "val") else known.get(variable, 0)

    for equation in jaxpr.eqns:
        before = [depth(v) for v in equation.invars]
        inner = equation.params.get("jaxpr") or equation.params.get("call_jaxpr")
        if equation.primitive.name in ("conv_general_dilated", "dot_general"):
            after = [max(before) + 1]
        elif equation.primitive.name == "cond":
            branches = [depths(b, before[1:]) for b in equation.params["branches"]]
            after = map(max, zip(*branches, strict=True))
        elif inner:
            after = depths(inner, before)
        else:
            after = [max(before, default=0)] * len(equation.outvars)
        known.update(zip(equation.outvars, after, strict=True))
    return [depth(v) for v in jaxpr.outvars]


# How it is shown.


def row(name, *, parameters=0, multiply_adds=0, activations=0, auxiliary=0, **more):
    published = Published(name, "ResNet", 2015, 3, 4, 3, 1000, **more)
    return command.Row(
        published, Counts(parameters, auxiliary, multiply_adds, activations)
    )


def test_select():
    names = list(PUBLISHED)
    assert command.select([]) == names
    assert command.select(["resnet18", "lenet5", "lenet*"]) == (
        ["lenet5", "lenet5_modern", "resnet18"]
    )
    assert command.select(["resnet[12]*"]) == [
        n for n in names if n[:7] in ("resnet1", "resnet2")
    ]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["resnet51"], "there is no network 'resnet51'; did you mean resnet5"),
        (["lenet5", "*foo*"], "there is no network '*foo*'"),
        (["--sort=size"], "invalid choice: 'size'"),
        (["--plot=x.bmp"], "must end in .png, .svg or .pdf"),
        (["--plot=/nowhere/x.png"], "there is no directory /nowhere"),
        (["lenet5", "--plot=/tmp/x.png"], "no network chosen has a top-1 error"),
    ],
)
def test_mistakes_are_one_line_and_exit_2(arguments, message, capsys):
    with pytest.raises(SystemExit) as error:
        command.main(arguments)
    assert error.value.code == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: ")
    assert message in line


def test_a_plot_that_cannot_be_written_is_one_line_and_exits_1(tmp_path, capsys):
    path = tmp_path / "taken.png"
    path.mkdir()
    with pytest.raises(SystemExit) as error:
        command.main(["resnet50", f"--plot={path}"])
    assert error.value.code == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: ")
    assert str(path) in line


def test_sort():
    rows = [
        row("a", parameters=3, top1=20.0, protocol="1-crop"),
        row("b", parameters=1),
        row("c", parameters=2, top1=10.0, protocol="1-crop"),
    ]

    def order(column):
        return "".join(r.published.name for r in command.sort(rows, column))

    assert order("parameters") == "bca"
    assert order("top1") == "cab"  # unknown last
    assert order("year") == order("top5") == "abc"  # equal: as they were
    assert set(command.COLUMNS) == set(
        "year name layers parameters multiply_adds memory top1 top5".split()
    )


ROWS = [
    row("a", parameters=1_234_567, multiply_adds=2_500_000_000, activations=2**20),
    row(
        "long_name",
        parameters=50,
        auxiliary=7,
        multiply_adds=123_456,
        top1=20.126,
        top5=5.0,
        protocol="1-crop",
        verified=False,
    ),
]


def test_text_is_aligned():
    lines = command.text(ROWS).splitlines()
    assert lines[:4] == [
        "network    year  layers  image  parameters  multiply-adds     memory   top-1"
        "  top-5  protocol",
        "-" * 93,
        "a          2015       3  4x4x3   1,234,567      2,500.0 M  128.0 MiB",
        "long_name  2015       3  4x4x3          50          0.1 M    0.0 MiB  20.13?"
        "  5.00?  1-crop",
    ]
    text = "\n".join(lines)
    assert "(long_name 7)" in text
    assert "not checked against its source" in text
    assert "not checked" not in command.text(ROWS[:1])


def test_markdown_has_as_many_cells_in_every_line():
    lines = command.markdown(ROWS).splitlines()
    table = [line for line in lines if line.startswith("|")]
    assert len(table) == 4
    assert {line.count("|") for line in table} == {len(command.HEADER) + 1}
    assert table[1].split(" | ")[:2] == ["| ---", "---:"]
    assert table[2].startswith("| a | 2015 | 3 | 4x4x3 | 1,234,567 | 2,500.0 M | 128.0")
    assert all(line.startswith("- **") for line in lines[5:])


def test_csv_has_plain_numbers():
    first, second = csv.DictReader(io.StringIO(command.as_csv(ROWS)))
    assert first["parameters"] == "1234567"
    assert first["memory_batch_32"] == str(2**20 * 32 * 4)
    assert first["top1"] == ""
    assert (second["top1"], second["verified"]) == ("20.126", "False")


def test_the_table_of_some_networks(capsys):
    command.main(["resnet20", "lenet5", "--sort=parameters"])
    lines = capsys.readouterr().out.splitlines()
    assert lines[2].split() == (
        "lenet5 1998 7 32x32x1 60,000 0.3 M 1.0 MiB 0.95 MNIST test".split()
    )
    assert lines[3].split() == (
        "resnet20 2015 20 32x32x3 269,722 40.6 M 45.5 MiB 8.75 CIFAR-10+".split()
    )


def test_the_old_name_of_the_command(monkeypatch, capsys):
    command.main(["resnet20"])
    expected = capsys.readouterr().out
    monkeypatch.delitem(sys.modules, "comparison.__main__")
    monkeypatch.setattr(sys, "argv", ["models", "resnet20"])
    runpy.run_module("models", run_name="__main__")
    assert capsys.readouterr().out == expected


PROGRAM = """
import sys
from comparison import __main__ as command
command.main([])
heavy = {"jax", "flax", "numpy", "matplotlib", "models"} & set(sys.modules)
assert not heavy, heavy
"""


def test_the_table_imports_nothing_heavy():
    program = subprocess.run(
        [sys.executable, "-c", PROGRAM],
        cwd=ROOT,
        env=dict(os.environ, XLA_FLAGS=""),
        capture_output=True,
        text=True,
    )
    assert program.returncode == 0, program.stderr
    assert "resnet20" in program.stdout
    assert program.stderr == ""


def test_help_shows_examples_and_columns(capsys):
    with pytest.raises(SystemExit) as error:
        command.main(["--help"])
    assert error.value.code == 0
    text = capsys.readouterr().out
    for word in ("--sort", "--plot=networks.png", "multiply-adds  of convolutions"):
        assert word in text
    assert max(map(len, text.splitlines())) <= 88


@pytest.mark.parametrize("suffix", ["png", "svg"])
def test_plot(suffix, tmp_path, monkeypatch):
    rows = [
        row(name, multiply_adds=m, parameters=10**7, top1=e, protocol=p)
        for name, m, e, p in [
            ("near", 10**9, 30.0, "1-crop"),
            ("nearer", 1.01 * 10**9, 30.1, "dense"),
            ("far", 10**10, 20.0, "1-crop"),
        ]
    ]
    drawn = []
    draw = chart.draw
    monkeypatch.setattr(
        chart,
        "draw",
        lambda bubbles, path: (drawn.extend(bubbles), draw(bubbles, path)),
    )
    path = tmp_path / f"networks.{suffix}"
    command.plot([*rows, row("unknown", multiply_adds=1)], path)
    assert [(b.name, b.single_crop) for b in drawn] == (
        [("near", True), ("nearer", False), ("far", True)]
    )
    head = {"png": b"\x89PNG", "svg": b"<?xml"}[suffix]
    assert path.read_bytes().startswith(head)
    if suffix == "svg":
        assert all(f'id="{r.published.name}"' in path.read_text() for r in rows)


def test_every_family_has_its_colour():
    families = {row.family for row in PUBLISHED.values()}
    assert families == set(chart.COLOURS)
    assert len(set(chart.COLOURS.values())) == len(families)


def test_labels_avoid_each_other_and_the_frame():
    discs = np.array([[50.0, 50.0, 5.0], [50.0, 50.0, 5.0], [95.0, 95.0, 5.0]])
    sizes = [(30, 8)] * 3
    frame = np.array([0, 0, 100, 100])
    boxes = chart.place(sizes, discs, np.array([[0, 0, 1, 1]]), frame, 1.0)
    for i, box in enumerate(boxes):
        assert chart.overlap(box[None], np.delete(boxes, i, 0)) == 0
        assert chart.overlap(box[None], frame[None]) == pytest.approx(30 * 8)
