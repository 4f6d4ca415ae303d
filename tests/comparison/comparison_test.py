"""The command `python -m comparison`: its options, formats and messages."""

import csv
import io
import os
import pathlib
import subprocess
import sys

import pytest

from comparison import __main__ as command
from comparison import chart, counts
from comparison.counts import Counts
from comparison.published import PUBLISHED, Published

ROOT = pathlib.Path(__file__).parents[2]


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
