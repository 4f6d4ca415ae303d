"""What benchmarks/input_pipeline.py measures and prints; not how fast it is."""

import io
import itertools
import json
import re
import sys

import numpy as np
import pytest
from PIL import Image

from benchmarks import input_pipeline as benchmark
from images import views
from images.decode import decode
from input_pipeline import TrainPlan


@pytest.fixture
def photographs(tmp_path, monkeypatch):
    """Few and small ones, and batches of 4 crops of 24 pixels."""
    monkeypatch.setattr(benchmark, "PHOTOS", {"JPEG 50x40": (50, 40)})
    monkeypatch.setattr(benchmark, "BATCH", 4)
    monkeypatch.setattr(benchmark, "SIZE", 24)
    monkeypatch.setattr(benchmark, "sample_photographs", samples)
    benchmark.make_photographs(tmp_path / "JPEG 50x40", 50, 40, 6)
    return tmp_path


def samples():
    ramp = np.linspace(0, 255, 90, dtype=np.uint8)
    image = np.broadcast_to(ramp[:, None, None], (90, 120, 3))
    return [Image.fromarray(image), Image.fromarray(image[:, :60])]


def test_photographs(photographs):
    split = benchmark.open_photographs(photographs, "JPEG 50x40")
    images = [decode(e.image, 3) for e in split.examples(range(len(split)))]
    assert len(images) == 6 and {x.shape for x in images} == {(50, 40, 3)}
    # A slope, and noise of deviation 4 whose colour JPEG has at half the resolution.
    for image in images:
        assert 2 < (np.diff(image.astype(int), axis=1) / 2**0.5).std() < 4
        assert image[-5:].mean() > image[:5].mean() + 50
    assert len({x.tobytes() for x in images}) == 6


@pytest.mark.parametrize("name", ["ours", "grain"])
def test_pipelines_give_flipped_crops(photographs, name):
    split = benchmark.open_photographs(photographs, "JPEG 50x40")
    batches = benchmark.CONTESTANTS[name](split, 2)
    found = [*itertools.islice(batches, 3)]
    batches.close()
    assert all(x.shape == (4, 24, 24, 3) and x.dtype == np.uint8 for x in found)
    # What an example becomes is a function of (epoch, index) alone, flips included.
    plan = TrainPlan(6, 4, seed=0)
    index, epoch = (x.ravel() for x in plan.indices(0, 3))
    flips = 0
    for image, i, e in zip(np.concatenate(found), index, epoch, strict=True):
        rng = np.random.Generator(np.random.Philox(key=[e, i]))
        whole = decode(split.examples([i])[0].image, 3)
        expected = views.inception_crop(whole, rng, 24)
        if flip := rng.random() < 0.5:
            expected = expected[:, ::-1]
        flips += flip
        # PIL rounds otherwise than what ours resizes with.
        assert np.abs(image.astype(int) - expected).max() <= (name == "grain")
    assert 0 < flips < 12


def test_caches(photographs):
    for name, kind in benchmark.CACHES.items():
        split = benchmark.open_photographs(photographs, name)
        image = split.examples([0])[0].image
        assert isinstance(image, np.ndarray if kind == "pixels" else bytes)


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


def test_what_is_not_installed_is_missing(photographs, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "torch", None)
    monkeypatch.setattr(sys, "stdin", io.StringIO('["JPEG 50x40", 1]\n'))
    benchmark.serve("torch", photographs, 1)
    assert "torch" in json.loads(capsys.readouterr().out)["missing"]


def test_the_command(monkeypatch, capsys):
    try:
        benchmark.sample_photographs()
    except ImportError as error:
        pytest.skip(str(error))
    monkeypatch.setattr(benchmark, "PHOTOS", {"JPEG 500x375": (375, 500)})
    monkeypatch.setattr(benchmark, "CACHES", {})
    benchmark.main(["--rounds=1", "--images=2", "--batches=1", "--only=ours"])
    printed = capsys.readouterr().out
    assert "JPEG 500x375: 2 files of " in printed
    assert re.search(r"^\| JPEG 500x375 \| ours \| [\d,]+ \| [\d,]+ \| ", printed, re.M)
