"""The benchmark of growing costs runs whole, in miniature."""

import tracemalloc

import pytest

import data_source
from benchmarks import growth
from data_source import image_folder


def test_data_sets_are_made_opened_and_drawn(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(growth, "PART", 5)
    monkeypatch.setattr(growth, "child", lambda **given: growth.measure(**given))
    monkeypatch.setitem(growth.GROWTH, "images", (20, 200))
    growth.main(["--only=images", f"--output={tmp_path}"])
    first, second = capsys.readouterr().out.splitlines()
    assert first.startswith("images 20: folder 0.") and " s, csv 0." in first
    assert second.startswith("images 200: ") and "csv, held " in second
    assert (tmp_path / "growth_images.png").read_bytes().startswith(b"\x89PNG")


def test_a_folder_and_its_index_hold_the_same_images(tmp_path, monkeypatch):
    monkeypatch.setattr(growth, "PART", 5)
    growth.make_images(tmp_path, 40)
    names = (tmp_path / "all.csv").read_text().splitlines()[1:]
    assert len(set(names)) == 40 and names != sorted(names)
    for name in (f"folder:{tmp_path}", f"csv:{tmp_path}/all.csv"):
        found = growth.measure(name)
        assert found["images"] == 40 and found["seconds"] > 0


@pytest.mark.parametrize(
    ("name", "most"), [("folder:{}", 110), ("csv:{}/all.csv", 180)]
)
def test_opening_keeps_no_objects_for_an_image(tmp_path, monkeypatch, name, most):
    """Lines of a CSV as Python objects took 425 bytes an image.

    27 letters, an offset and a number take 39 bytes; the listing, the order and
    the copies of the splits take the rest.
    """
    monkeypatch.setattr(growth, "PART", 500)
    monkeypatch.setattr(image_folder, "TAKEN", 64)
    growth.make_images(tmp_path, 10_000)
    tracemalloc.start()
    splits = data_source.open_splits(name.format(tmp_path), ("train", "auto"))
    held, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert [len(split) for split in splits] == [9_000, 1_000]
    assert held < 50 * 10_000 and peak < most * 10_000


def test_each_step_changes_one_size(tmp_path, monkeypatch, capsys):
    asked = []

    def child(**sizes):
        asked.append(sizes)
        return dict.fromkeys(("step", "first"), 0.5) | {"planned": 2**21, "peak": 2**22}

    monkeypatch.setattr(growth, "child", child)
    growth.main(["--only=batch,depth", f"--output={tmp_path}"])
    assert asked[0] == growth.BASE | {"batch": 8}
    assert asked[-1] == growth.BASE | {"depth": 110}
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == (
        "batch 8: a step 0.5 s, the first step, with compiling 0.5 s, peak 4 MiB, "
        "planned 2 MiB"
    )
    assert {file.name for file in tmp_path.iterdir()} == {
        "growth_batch.png",
        "growth_depth.png",
    }


def test_unknown_sizes_are_refused(capsys):
    with pytest.raises(SystemExit):
        growth.main(["--only=width"])
    assert "unknown: width" in capsys.readouterr().err


@pytest.mark.slow
def test_a_step_is_measured_in_a_process_of_its_own():
    found = growth.child(depth=20, batch=2, side=8)
    assert 0 < found["step"] < found["first"]
    # 272,474 parameters, and the momentum of each.
    assert found["planned"] > 2 * 4 * 272_474
    assert found["peak"] > found["planned"]
