"""The measurements and output of benchmarks/input_pipeline.py, but not its speed."""

import io
import itertools
import json
import re
import sys

import numpy as np
import pytest
from PIL import Image

from benchmarks import input_pipeline as benchmark
from benchmarks import photographs
from transforms.decode import decode


@pytest.fixture
def directory(tmp_path, monkeypatch):
    """A directory with few small photographs, for batches of 4 crops of 24 pixels."""
    monkeypatch.setattr(benchmark, "PHOTOS", {"JPEG 50x40": (50, 40)})
    monkeypatch.setattr(benchmark, "BATCH", 4)
    monkeypatch.setattr(benchmark, "SIZE", 24)
    photographs.make_photographs(tmp_path / "JPEG 50x40", 50, 40, 6, samples())
    return tmp_path


def samples():
    ramp = np.linspace(0, 255, 90, dtype=np.uint8)
    image = np.broadcast_to(ramp[:, None, None], (90, 120, 3))
    return [Image.fromarray(image), Image.fromarray(image[:, :60])]


def test_photographs(directory):
    split = benchmark.open_photographs(directory, "JPEG 50x40")
    images = [decode(e.image, 3) for e in split.examples(range(len(split)))]
    assert len(images) == 6 and {x.shape for x in images} == {(50, 40, 3)}
    # A slope, and noise of deviation 4 whose colour JPEG has at half the resolution.
    for image in images:
        assert 2 < (np.diff(image.astype(int), axis=1) / 2**0.5).std() < 4
        assert image[-5:].mean() > image[:5].mean() + 50
    assert len({x.tobytes() for x in images}) == 6


@pytest.mark.parametrize("name", ["ours", "grain"])
def test_pipelines_give_flipped_crops(directory, name):
    split = benchmark.open_photographs(directory, "JPEG 50x40")
    batches = benchmark.CONTESTANTS[name](split, 2)
    found = np.concatenate([*itertools.islice(batches, 6)])
    assert found.shape == (24, 24, 24, 3) and found.dtype == np.uint8
    # Every photograph gets brighter to one side; the half that does to the left are
    # those that are mirrored once, here or when they were made.
    slopes = np.diff(found.mean((1, 3)), axis=1).mean(1)
    assert 4 < (slopes > 0).sum() < 20
    if name == "ours":
        again = np.concatenate([*itertools.islice(benchmark.ours(split, 1), 6)])
        np.testing.assert_array_equal(found, again)


def test_caches(directory):
    for name, kind in benchmark.CACHES.items():
        split = benchmark.open_photographs(directory, name)
        image = split.examples([0])[0].image
        assert isinstance(image, np.ndarray if kind == "pixels" else bytes)


@pytest.mark.parametrize("name", ["JPEG 50x40", "pixel cache, crops"])
def test_parts_do_their_work(directory, name):
    split = benchmark.open_photographs(directory, name)
    parts = benchmark.Parts(split, benchmark.view_of(name))
    assert [e.name for e in parts.read()] == [e.name for e in parts.examples]
    assert [image.shape for image in parts.images] == parts.decode()
    ends = [top + rows for top, _, rows, _ in parts.boxes]
    assert [rows for rows, _, _ in parts.decode_rows()] == ends
    parts.copy_crops()
    np.testing.assert_array_equal(parts.batch, np.stack(parts.crops))
    parts.copy_batch()
    np.testing.assert_array_equal(parts.batch, parts.other)
    times = benchmark.time_parts(directory, name, rounds=1)
    assert list(times) == benchmark.PARTS and times["whole"] > 0


def test_table_of_parts():
    found = {
        "JPEG": dict.fromkeys(benchmark.PARTS, 1234.56),
        "cache": dict.fromkeys(benchmark.PARTS, 0.24),
    }
    lines = benchmark.table_of_parts(found)
    assert lines[:3] == [
        "| part | JPEG | cache |",
        "|---|---:|---:|",
        "| read | 1,234.6 | 0.2 |",
    ]
    assert len(lines) == 2 + len(benchmark.PARTS)


def test_table():
    found = {
        ("JPEG", "ours"): [
            {"images/s": 1000.0, "CPU second": 600.0},
            {"images/s": 3000.0, "CPU second": 650.0},
            {"images/s": 1200.4, "CPU second": 500.0},
        ],
        ("JPEG", "torch"): [{"missing": "No module named 'torch'"}] * 3,
    }
    assert benchmark.table(found, threads=2)[2:] == [
        "| JPEG | ours | 1,200 | 600 | 600 |",
        "| JPEG | torch |  |  |  |",
    ]


def test_what_is_not_installed_is_missing(directory, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "torch", None)
    monkeypatch.setattr(sys, "stdin", io.StringIO('["JPEG 50x40", 1]\n'))
    benchmark.serve("torch", directory, 1)
    assert "torch" in json.loads(capsys.readouterr().out)["missing"]


def test_the_command(monkeypatch, capsys):
    try:
        photographs.sample_photographs()
    except ImportError as error:
        pytest.skip(str(error))
    monkeypatch.setattr(benchmark, "PHOTOS", {"JPEG 500x375": (375, 500)})
    monkeypatch.setattr(benchmark, "CACHES", {})
    benchmark.main(["--rounds=1", "--images=2", "--batches=1", "--only=ours"])
    printed = capsys.readouterr().out
    assert "JPEG 500x375: 2 files of " in printed
    assert re.search(r"^\| JPEG 500x375 \| ours \| [\d,]+ \| [\d,]+ \| ", printed, re.M)
